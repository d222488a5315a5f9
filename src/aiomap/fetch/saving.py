"""`--save DIR`: each body in a file of its own, under a name that is made of foreign text.

Invariant: whatever the names and links are, nothing is written outside of the folder; a file that is there is whole,
also after a kill or a power cut; and the same item has the same name in every attempt and every sitting.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from contextlib import suppress
from hashlib import blake2b
from typing import Final, final
from urllib.parse import urlsplit

__all__ = ["Folder", "file_name"]

_LONGEST_HOST: Final = 60
_LONGEST_SLUG: Final = 80

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# By content type. What is not here has the extension of its link, or else `.bin`.
_EXTENSIONS: Final = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/json": ".json",
    "application/ld+json": ".json",
    "application/geo+json": ".json",
    "text/json": ".json",
    "application/x-ndjson": ".jsonl",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "text/xml": ".xml",
    "application/xml": ".xml",
    "application/rss+xml": ".xml",
    "application/atom+xml": ".xml",
    "text/css": ".css",
    "text/javascript": ".js",
    "application/javascript": ".js",
    "application/pdf": ".pdf",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/svg+xml": ".svg",
    "audio/mpeg": ".mp3",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "font/woff2": ".woff2",
    "application/zip": ".zip",
    "application/gzip": ".gz",
    "application/x-gzip": ".gz",
}

# An escape stands for one character or for a part of one: none of them is decoded, for a name shows only plain ones.
_UNSAFE: Final = re.compile(r"(?:%[0-9a-f]{2}|[^a-z0-9._-])+")
# Names that Windows takes for a device, whatever stands behind the first dot.
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)")
_PATH_EXTENSION: Final = re.compile(r"[^/]\.([a-z0-9]{1,8})$")

_BEGUN: Final = ".part-"
# Seconds after which a file that was begun has surely been left behind: one takes a second or two.
_LEFT: Final = 3600.0

# macOS has none.
_sync_data: Final = getattr(os, "fdatasync", os.fsync)


def file_name(key: str, url: str, content_type: str) -> str:
    """Where the body of an item is saved: `host/slug-hash.extension`, of lower-case `a-z`, `0-9`, `.`, `_` and `-`.

    key: what the item is known by; the hash is of it alone. url: the item's link; any text. content_type: as its server
    gave it, parameters and all; `""` if it gave none.

    >>> file_name("1", "https://Example.com:8443/docs/The%20Guide.php?page=2", "text/html; charset=utf-8")
    'example.com_8443/docs-the-guide.php-f6fc42039fba3776.html'
    """
    # urlsplit refuses some hosts, and a name is needed for whatever there is.
    link, host = url, ""
    with suppress(ValueError):
        parts = urlsplit(url)
        link, host = parts.path, _host(parts.scheme, parts.hostname or "", parts.port)
    link = link.lower()
    extension = _extension(content_type, link)
    path = link.removesuffix(extension)
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{host or 'no-host'}/{_plain(path, -_LONGEST_SLUG) or 'page'}-{digest}{extension}"


def _host(scheme: str, host: str, port: int | None) -> str:
    if ":" in host:
        host = f"ipv6-{host}"
    end = "" if port is None or _DEFAULT_PORTS.get(scheme) == port else f"_{port}"
    plain = _plain(host, _LONGEST_HOST - len(end))
    return plain and plain + end


def _plain(text: str, longest: int) -> str:
    """The text with nothing in it that means anything to a file system; its end if `longest` is negative."""
    text = re.sub(r"\.{2,}", ".", _UNSAFE.sub("-", text.lower()))
    text = text[:longest] if longest > 0 else text[longest:]
    text = text.strip("-._")
    return f"x{text[: abs(longest) - 1]}" if _DEVICE.match(text) else text


def _extension(content_type: str, path: str) -> str:
    known = _EXTENSIONS.get(content_type.partition(";")[0].strip().lower())
    own = _PATH_EXTENSION.search(path)
    return known or (f".{own[1]}" if own else ".bin")


@final
class Folder:
    """A folder to save bodies in, made if it is not there, with the folders above it.

    path: where it is. A link to a folder is one too; but within it, none is followed.

    What the system refuses is raised as `OSError`: a full disk, a path that is a file's, missing permission.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        os.makedirs(path, exist_ok=True)  # noqa: PTH103  # paths are text here
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._remove_what_was_left()

    def close(self) -> None:
        """Lets go of it: nothing more can be saved."""
        os.close(self._descriptor)

    def save(self, key: str, url: str, content_type: str, body: bytes) -> str:
        """Saves the body, as `file_name` names it, and returns that name. It is on the disk then. It blocks.

        From any thread, also for the same item at once: one of them is what stays, whole. Raises `OSError`; no part of
        the body is under that name then.
        """
        name = file_name(key, url, content_type)
        host, _, file = name.partition("/")
        try:
            folder = self._open_host(host)
            try:
                self._write(folder, file, body)
            finally:
                os.close(folder)
        except OSError as error:
            # Names are relative here, and a reader would not know to what.
            raise OSError(error.errno, error.strerror, os.path.join(self._path, name)) from error  # noqa: PTH118
        return name

    def _open_host(self, host: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with suppress(FileNotFoundError):
                return os.open(host, flags, dir_fd=self._descriptor)
            with suppress(FileExistsError):  # another thread made it
                os.mkdir(host, dir_fd=self._descriptor)
            os.fsync(self._descriptor)
            return os.open(host, flags, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise NotADirectoryError(
                    errno.ENOTDIR, f"{host} is no folder; links to folders are not followed"
                ) from error
            raise

    def _write(self, folder: int, file: str, body: bytes) -> None:
        # No two have the same name, so that nobody's file is another's, in this process or not; and all are in one
        # place, where the next sitting finds those that were left.
        begun = f"{_BEGUN}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(begun, flags, 0o666, dir_fd=self._descriptor)
        try:
            try:
                _write_all(descriptor, body)
                _sync_data(descriptor)
            finally:
                os.close(descriptor)
            os.rename(begun, file, src_dir_fd=self._descriptor, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(begun, dir_fd=self._descriptor)
            raise
        os.fsync(folder)

    def _remove_what_was_left(self) -> None:
        """Removes what sittings that were killed had begun. Another that is at work now keeps its own."""
        with os.scandir(self._descriptor) as entries:
            for entry in entries:
                if entry.name.startswith(_BEGUN):
                    with suppress(OSError):
                        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFT:
                            os.unlink(entry.name, dir_fd=self._descriptor)


def _write_all(descriptor: int, body: bytes) -> None:
    rest = memoryview(body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
