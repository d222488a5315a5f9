"""`aiomap.fetch.saving`: names from foreign text stay in their folder, and a file that is there is whole."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap.fetch import saving
from aiomap.fetch.saving import Folder, file_name

HASH = "[0-9a-f]{16}"
SAFE = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,59}}/(?:[a-z0-9][a-z0-9._-]{{0,79}})-{HASH}(?:\.[a-z0-9]{{1,8}})")
DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}
DIGEST = "f6fc42039fba3776"  # that of the key "1"


def is_safe(name: str) -> bool:
    parts = name.split("/")
    return (
        SAFE.fullmatch(name) is not None
        and len(parts) == 2
        and ".." not in name
        and not any(part.endswith(".") or part.partition(".")[0] in DEVICES for part in parts)
    )


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(
    ("url", "content_type", "name"),
    [
        ("http://example.com/", "text/html", "example.com/page-#.html"),
        ("http://example.com", "", "example.com/page-#.bin"),
        ("http://example.com/a/b/c.html", "text/html; charset=utf-8", "example.com/a-b-c-#.html"),
        ("http://example.com/a.php?x=/../y#z", "Text/HTML", "example.com/a.php-#.html"),
        ("http://example.com/data.json", "application/json", "example.com/data-#.json"),
        ("http://example.com/photo.JPEG", "image/jpeg", "example.com/photo.jpeg-#.jpg"),
        ("http://example.com/a.tar.gz", "application/octet-stream", "example.com/a.tar-#.gz"),
        ("http://example.com/a.parquet", "", "example.com/a-#.parquet"),
        ("http://example.com/a.PARQUET", "", "example.com/a-#.parquet"),
        ("http://example.com/a.averylongone", "", "example.com/a.averylongone-#.bin"),
        ("http://example.com/a.b%2fc", "x", "example.com/a.b-c-#.bin"),
        ("http://example.com/.bashrc", "x", "example.com/bashrc-#.bin"),
        ("http://example.com/a.", "x", "example.com/a-#.bin"),
        ("http://Example.COM:8080/x", "image/png", "example.com_8080/x-#.png"),
        ("http://example.com:80/x", "image/png", "example.com/x-#.png"),
        ("https://example.com:443/x", "image/png", "example.com/x-#.png"),
        ("https://example.com:80/x", "image/png", "example.com_80/x-#.png"),
        ("http://me:pw@example.com/x", "image/png", "example.com/x-#.png"),
        ("http://xn--bcher-kva.example/x", "image/png", "xn--bcher-kva.example/x-#.png"),
        ("http://bücher.example/x", "image/png", "b-cher.example/x-#.png"),
        ("http://[2001:db8::1]:8080/x", "image/png", "ipv6-2001-db8-1_8080/x-#.png"),
        ("http://[::1]/x", "image/png", "ipv6--1/x-#.png"),
        ("http://example.com./x", "image/png", "example.com/x-#.png"),
        ("http://../x", "image/png", "no-host/x-#.png"),
        ("http://con/x", "image/png", "xcon/x-#.png"),
        ("http://nul.example.com/x", "image/png", "xnul.example.com/x-#.png"),
        ("http://example.com/CON", "image/png", "example.com/xcon-#.png"),
        ("http://example.com/com1.tar.gz", "", "example.com/xcom1.tar-#.gz"),
        ("http://con." + "a" * 300 + "/x", "image/png", f"xcon.{'a' * 55}/x-#.png"),
        ("http://example.com/console", "image/png", "example.com/console-#.png"),
        ("http://example.com/../../etc/passwd", "", "example.com/etc-passwd-#.bin"),
        ("http://example.com/%2e%2e%2F%2e%2e%2fetc%2fpasswd%00.png", "", "example.com/etc-passwd-#.png"),
        ("http://example.com//etc//passwd", "text/plain", "example.com/etc-passwd-#.txt"),
        ("http://example.com/a\x00b\\..\\c", "text/plain", "example.com/a-b-.-c-#.txt"),
        ("http://example.com/a  . .  ", "text/plain", "example.com/a-#.txt"),
        ("http://example.com/....", "text/plain", "example.com/page-#.txt"),
        ("http://example.com/caf%C3%A9/日本", "text/plain", "example.com/caf-#.txt"),
        ("http://example.com/" + "a" * 300, "text/plain", f"example.com/{'a' * 80}-#.txt"),
        ("http://" + "a" * 300 + ":8080/", "text/plain", f"{'a' * 55}_8080/page-#.txt"),
        ("http://example.com/" + "a" * 300 + "/con", "text/plain", f"example.com/{'a' * 76}-con-#.txt"),
        ("http://example.com:99999/x", "text/plain", "no-host/http-example.com-99999-x-#.txt"),
        ("http://[nonsense/x", "text/plain", "no-host/http-nonsense-x-#.txt"),
        ("/etc/passwd", "text/plain", "no-host/etc-passwd-#.txt"),
        ("", "text/plain", "no-host/page-#.txt"),
        ("http://example.com/x", "../../etc/passwd", "example.com/x-#.bin"),
    ],
)
def test_a_link_gives_a_safe_name(url: str, content_type: str, name: str) -> None:
    assert file_name("1", url, content_type) == name.replace("#", DIGEST)
    assert is_safe(file_name("1", url, content_type))


def test_the_longest_name_has_fewer_than_the_255_bytes_that_file_systems_take() -> None:
    host, file = file_name("1", f"http://{'a' * 300}.com/{'b' * 300}.abcdefgh", "").split("/")
    assert len(host) == 60
    assert len(file) == 80 + 1 + 16 + 1 + 8


PIECES = st.sampled_from(
    [
        *"/.\\:?#@[]~-_ \x00\n\u202e\ud800éKİ",
        *("//", "..", "../", "%2e", "%2F", "%00", "con", "NUL", "com1", "html", "http://", "https://", "a" * 90),
    ]
)
FOREIGN = st.one_of(
    st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(lambda parts: "http://" + "".join(parts))
)


@given(key=st.text(st.characters(exclude_categories=())), url=FOREIGN, content_type=FOREIGN)
def test_whatever_the_text_the_name_is_safe_and_the_same_each_time(key: str, url: str, content_type: str) -> None:
    name = file_name(key, url, content_type)
    assert is_safe(name), name
    assert name == file_name(key, url, content_type)


def test_a_key_may_be_any_text_that_a_python_string_can_hold() -> None:
    assert is_safe(file_name("\ud800\x00é", "http://example.com/", "text/html"))


@given(st.lists(st.text(), unique=True, min_size=2, max_size=10))
def test_no_two_items_have_the_same_name(keys: list[str]) -> None:
    assert len({file_name(key, "http://example.com/", "text/html") for key in keys}) == len(keys)


def test_a_body_is_saved_under_the_name_that_is_returned(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "new" / "pages"))
    name = folder.save("1", "http://example.com/a.png", "image/png", b"\x89PNG")
    folder.close()
    assert name == f"example.com/a-{DIGEST}.png"
    assert (tmp_path / "new" / "pages" / name).read_bytes() == b"\x89PNG"
    assert names_in(tmp_path / "new" / "pages") == [name]


def test_the_next_sitting_uses_the_same_folder_and_the_later_body_stays(tmp_path: Path) -> None:
    for body in (b"first, and longer", b"", b"last"):
        folder = Folder(str(tmp_path))
        name = folder.save("1", "http://example.com/", "text/html", body)
        folder.close()
        assert (tmp_path / name).read_bytes() == body
    assert len(names_in(tmp_path)) == 1


def test_files_and_folders_are_as_readable_as_others_are(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    path = tmp_path / folder.save("1", "http://example.com/", "text/html", b"")
    folder.close()
    other = tmp_path / "other"
    other.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_the_folder_is_held_and_not_its_name(tmp_path: Path) -> None:
    """If it is moved, and a link to elsewhere put in its place, nothing is written elsewhere."""
    folder = Folder(str(tmp_path / "pages"))
    (tmp_path / "pages").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pages").symlink_to("elsewhere")
    folder.save("1", "http://example.com/", "text/html", b"")
    folder.close()
    assert names_in(tmp_path / "moved") == [f"example.com/page-{DIGEST}.html"]
    assert names_in(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("target", ["../elsewhere", "nowhere"])
def test_a_hosts_folder_that_is_a_link_is_refused_and_nothing_written_through_it(tmp_path: Path, target: str) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pages" / "example.com").symlink_to(target)
    folder = Folder(str(tmp_path / "pages"))
    with pytest.raises(NotADirectoryError, match=r"example\.com is no folder; links to folders are not followed"):
        folder.save("1", "http://example.com/", "text/html", b"secret")
    folder.close()
    assert names_in(tmp_path / "elsewhere") == []
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["example.com"]


def test_a_link_under_the_name_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "pages" / "example.com").mkdir(parents=True)
    name = f"example.com/page-{DIGEST}.html"
    (tmp_path / "pages" / name).symlink_to(tmp_path / "precious")
    folder = Folder(str(tmp_path / "pages"))
    assert folder.save("1", "http://example.com/", "text/html", b"theirs") == name
    folder.close()
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "pages" / name).is_symlink()
    assert (tmp_path / "pages" / name).read_bytes() == b"theirs"


@pytest.mark.parametrize("broken", ["write", "_sync_data", "rename"])
@pytest.mark.parametrize("before", [None, b"whole"])
def test_of_a_save_that_fails_nothing_is_to_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, before: bytes | None
) -> None:
    folder = Folder(str(tmp_path))
    name = f"example.com/page-{DIGEST}.html"
    if before is not None:
        folder.save("1", "http://example.com/", "text/html", before)
    write = os.write
    written: list[int] = []

    def half(descriptor: int, data: bytes | memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(descriptor, data[: len(data) // 2]))
        return written[0]

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            *((saving, broken) if broken == "_sync_data" else (os, broken)), half if broken == "write" else fail
        )
        with pytest.raises(OSError, match="No space left on device") as caught:
            folder.save("1", "http://example.com/", "text/html", b"new, and not whole")
    folder.close()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / name))
    assert names_in(tmp_path) == ([] if before is None else [name])
    assert before is None or (tmp_path / name).read_bytes() == before


def test_a_write_that_takes_a_part_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    body = os.urandom(10_500)
    folder = Folder(str(tmp_path))
    name = folder.save("1", "http://example.com/", "", body)
    folder.close()
    assert (tmp_path / name).read_bytes() == body


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def of(descriptor: int) -> str:
        held = os.fstat(descriptor)
        [name] = [path.name for path in tmp_path.rglob("*") if os.path.samestat(path.stat(), held)]
        return name

    rename, sync, sync_data = os.rename, os.fsync, os.fdatasync

    def watched_rename(source: str, target: str, **places: int) -> None:
        told.append("rename")
        rename(source, target, **places)

    def watched_sync(descriptor: int) -> None:
        told.append(f"sync {of(descriptor)}")
        sync(descriptor)

    def watched_sync_data(descriptor: int) -> None:
        told.append(f"data of {os.fstat(descriptor).st_size} bytes")
        sync_data(descriptor)

    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(saving, "_sync_data", watched_sync_data)
    folder = Folder(str(tmp_path / "pages"))
    folder.save("1", "http://example.com/", "", b"body")
    folder.save("2", "http://example.com/", "", b"body")
    folder.close()
    assert told == ["sync pages", *["data of 4 bytes", "rename", "sync example.com"] * 2]


def test_a_file_that_is_there_is_never_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of what is being written are drawn at random; if one was guessed, what it is another name of is spared."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    (tmp_path / "pages").mkdir()
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "pages" / ".part-guessed").hardlink_to(tmp_path / "precious")
    folder = Folder(str(tmp_path / "pages"))
    with pytest.raises(FileExistsError):
        folder.save("1", "http://example.com/", "", b"theirs")
    folder.close()
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert names_in(tmp_path / "pages") == [".part-guessed"]


def test_another_thread_may_make_the_hosts_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def late(name: str, **place: int) -> None:
        mkdir(name, **place)
        mkdir(name, **place)

    folder = Folder(str(tmp_path))
    monkeypatch.setattr(os, "mkdir", late)
    assert names_in(tmp_path) == []
    name = folder.save("1", "http://example.com/", "", b"")
    folder.close()
    assert names_in(tmp_path) == [name]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="it is Linux that lists what is open")
def test_nothing_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = count()
    folder = Folder(str(tmp_path))
    for number in range(5):
        folder.save(str(number), "http://example.com/", "", b"")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr(saving, "_sync_data", fail)
        folder.save("1", "http://example.com/", "", b"")
    folder.close()
    assert count() == before


@pytest.mark.once
def test_many_threads_save_at_once_also_the_same_item(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    bodies = [bytes([number]) * 200_000 for number in range(32)]

    def save(number: int) -> str:
        return folder.save(str(number % 4), f"http://host{number % 2}.invalid/", "text/plain", bodies[number])

    with ThreadPoolExecutor(16) as threads:
        names = list(threads.map(save, range(32)))
    folder.close()
    assert names_in(tmp_path) == sorted(set(names))
    assert len(set(names)) == 4
    for number, name in enumerate(names[:4]):
        assert (tmp_path / name).read_bytes() in bodies[number::4]


def test_what_a_killed_sitting_left_is_removed_and_what_another_is_writing_is_not(tmp_path: Path) -> None:
    for name, age in ((".part-0123456789abcdef", 4000), (".part-fedcba9876543210", 10), ("notes.txt", 4000)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / ".part-folder").mkdir()
    os.utime(tmp_path / ".part-folder", (0, 0))
    Folder(str(tmp_path)).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-fedcba9876543210", ".part-folder", "notes.txt"]


def test_a_path_that_is_no_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file"):
        Folder(str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match="below"):
        Folder(str(tmp_path / "file" / "below"))
