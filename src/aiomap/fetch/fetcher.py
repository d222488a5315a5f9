"""HTTP: from a line with a link to the page behind it, or to a failure that says of which class it is.

Invariant: whatever a server sends, at most `max_body` bytes of it are kept, only http and https are spoken, also across
redirects, and a page is whole or it is a failure. No message holds a password or token of a URL. A call asks for each
address once: nothing is sent again behind the back of whoever counts the calls.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import os
import re
import ssl
import zlib
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal, final

from aiomap._foreign import printable, redacted
from aiomap.errors import AiomapError, AttemptTimeout, MissingExtra
from aiomap.lines import MOST_BYTES, Line

try:
    import aiohttp
    from yarl import URL
except ImportError:
    raise MissingExtra("aiomap fetch", "aiohttp", "http") from None

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from types import TracebackType

    from aiomap._outcome import Outcome

__all__ = ["FailureClass", "FetchFailed", "Fetcher", "Page", "failure", "host_of", "record"]

FailureClass = Literal[
    "dns",
    "connect",
    "tls",
    "timeout",
    "too_large",
    "too_many_redirects",
    "http_4xx",
    "http_5xx",
    "bad_input",
    "bad_content",
    "other",
]

_MOST_REDIRECTS: Final = 10
# Bytes of one header line. aiohttp's own limit, 8190, is less than what some sites send.
_MOST_HEADER: Final = 1 << 16
_HEADERS: Final = ("content-type", "content-length", "etag", "last-modified", "retry-after")
# Seconds that an idle connection is kept. With a host of its own for every link, so many seconds' worth are open. Many
# servers close theirs after 5, and a request that meets that has failed.
_KEPT: Final = 4.0
# Seconds between two tries to open a connection when too many files are open.
_FULL: Final = 0.25
_LONGEST_MESSAGE: Final = 500

# A body is decompressed in steps of this many bytes in, because a gzip of many members is copied once for each of them
# that a step has, and of this many out, because a byte in can be a thousand out.
_WINDOW: Final = 1 << 14
_PIECE: Final = 1 << 20
_GZIP: Final = 0x1F

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([\w.:+-]+)""", re.IGNORECASE)
# The encodings that pages are written in. Python knows more, some of them a danger: idna takes quadratic time.
_CHARSETS: Final = ("ascii", "big5", "cp", "euc_", "gb", "hz", "iso2022", "iso8859", "koi8", "mac", "shift_jis", "utf-")


@final
class FetchFailed(AiomapError):
    """A link could not be fetched.

    kind: of which class the failure is.
    message: what happened, in a form that may be shown.
    status: the HTTP status, if it was what made it a failure, else `None`.
    headers: those of interest that came with the status, by lower-case name.
    """

    __module__ = "aiomap.fetch"  # where people import it from, and as which it is recorded

    def __init__(
        self, kind: FailureClass, message: str, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(kind, message, status, headers)
        self.kind: Final[FailureClass] = kind
        self.message = message
        self.status = status
        self.headers = headers or {}

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@final
@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered.

    url: where it came from in the end, after all redirects, without secrets.
    status: the HTTP status, below 400.
    headers: those of interest that were there, by lower-case name.
    body: the bytes, decompressed.
    """

    url: str
    status: int
    headers: dict[str, str]
    body: bytes

    def text(self) -> str | None:
        r"""The body as text: in the charset of its content type, else in UTF-8; `None` if it is neither.

        >>> Page("", 200, {"content-type": "text/html; charset=latin-1"}, b"caf\xe9").text()
        'caf\xe9'
        """
        named = _CHARSET.search(self.headers.get("content-type", ""))
        for charset in ([named[1]] if named else []) + ["utf-8"]:
            try:
                if codecs.lookup(charset).name.startswith(_CHARSETS):
                    return self.body.decode(charset)
            except (LookupError, ValueError):
                pass
        return None


@final
class Fetcher:
    """Fetches links over one shared set of connections: `async with Fetcher(16 << 20) as fetcher`.

    max_body: how many bytes a body may have, decompressed; one with more is a failure, and the rest is not read.

    Nothing bounds here how many links are fetched at once, or how long one takes: the map does that.
    """

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body

    async def __aenter__(self) -> Fetcher:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_KEPT),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"aiomap/{version('aiomap')}", "Accept-Encoding": "gzip, deflate"},
            # aiohttp takes a compressed body that ends too early for a whole one.
            auto_decompress=False,
            max_line_size=_MOST_HEADER,
            max_field_size=_MOST_HEADER,
            middlewares=(_send_once,),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def fetch(self, line: Line) -> Page:
        """The page that the line links to. Raises `FetchFailed`, and nothing else."""
        url = _link(line)
        try:
            return await self._get_when_there_is_room(url)
        except FetchFailed:
            raise
        except Exception as error:
            raise failure(error) from error

    async def _get_when_there_is_room(self, url: URL) -> Page:
        """Waits while this process may open no more files: that is no fault of the link, and idle connections end."""
        while True:
            try:
                return await self._get(url)
            except aiohttp.ClientConnectorError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
            await asyncio.sleep(_FULL)

    async def _get(self, url: URL) -> Page:
        # aiohttp counts the answer that is one too many.
        async with self._session.get(url, max_redirects=_MOST_REDIRECTS + 1) as response:
            headers = {name: printable(response.headers[name]) for name in _HEADERS if name in response.headers}
            if not response.ok:
                raise _bad_status(response.status, headers)
            body = await self._body(response)
            return Page(redacted(str(response.url)), response.status, headers, body)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        announced = response.content_length
        if announced is not None and announced > self._max_body:
            raise self._too_large(f"its server announced {announced:,}")
        decoder = _decoder(response.headers.get("Content-Encoding", "").strip().lower())
        body = bytearray()
        async for part in response.content.iter_any():
            for piece in [part] if decoder is None else decoder.feed(part):
                body += piece
                if len(body) > self._max_body:
                    raise self._too_large("the rest was not read")
        return bytes(body if decoder is None else body + decoder.end())

    def _too_large(self, why: str) -> FetchFailed:
        return FetchFailed("too_large", f"the body has more than {self._max_body:,} bytes ({why})")


async def _send_once(
    request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Ends a request with the connection that it broke on, where aiohttp would send it a second time on another one.

    That would be an attempt that no limit knows of. What aiohttp takes for a broken connection, it does not find here.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, and nothing will be
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise failure(error) from error


def host_of(line: Line) -> str | None:
    """The host that the line links to; `None` if it is no link.

    >>> host_of(Line(1, b"HTTPS://Example.COM:8443/page"))
    'example.com'
    """
    try:
        host = _link(line).raw_host
    except FetchFailed:
        return None
    return host and host.rstrip(".")


def record(outcome: Outcome[Line, Page]) -> dict[str, object]:
    """What is to be written about a link that was fetched or failed, in values that strict JSON has."""
    line = outcome.item
    ended: dict[str, object] = {}
    if outcome.error is not None:
        ended["error"] = _error(outcome.error)
    elif outcome.value is not None:
        ended["value"] = _value(outcome.value)
    return {
        "key": line.content.decode("utf-8", "backslashreplace"),
        "index": outcome.index,
        "line": line.number,
        **ended,
        "attempts": outcome.attempts,
        "started": round(outcome.started, 6),
        "elapsed": round(outcome.elapsed, 6),
    }


def _value(page: Page) -> dict[str, object]:
    text = page.text()
    return {
        "url": page.url,
        "status": page.status,
        "headers": page.headers,
        "bytes": len(page.body),
        "truncated": False,
        **({"base64": b64encode(page.body).decode("ascii")} if text is None else {"text": text}),
    }


def _error(error: Exception) -> dict[str, object]:
    failed = failure(error)
    return {
        "class": failed.kind,
        "type": type(failed.__cause__ or error).__name__,
        "message": failed.message,
        **({} if failed.status is None else {"status": failed.status}),
    }


def _link(line: Line) -> URL:
    """The link in a line. No message repeats it, for there may be a password in it, and it is in `key` anyway."""
    if line.too_long:
        raise FetchFailed("bad_input", f"the line is longer than {MOST_BYTES >> 20} MiB")
    try:
        text = line.content.decode().strip()
    except UnicodeDecodeError as error:
        wrong = line.content[error.start]
        raise FetchFailed("bad_input", f"not UTF-8: byte 0x{wrong:02x} at position {error.start + 1}") from None
    if not text.lower().startswith(("http://", "https://")):
        raise FetchFailed("bad_input", "not an http(s) link: it must begin with http:// or https://")
    if control := _CONTROL.search(text):
        raise FetchFailed("bad_input", f"the link has a control character, U+{ord(control[0]):04X}")
    try:
        url = URL(text)
    except ValueError:
        raise FetchFailed("bad_input", "the link is no valid URL: its host or port is malformed") from None
    if not url.host:
        raise FetchFailed("bad_input", "the link names no host")
    return url


def _bad_status(status: int, headers: Mapping[str, str]) -> FetchFailed:
    try:
        message = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        message = str(status)
    kinds: dict[int, FailureClass] = {4: "http_4xx", 5: "http_5xx"}
    return FetchFailed(kinds.get(status // 100, "other"), message, status, headers)


def _reason(error: OSError) -> str:
    # asyncio's own text has the address in it once more.
    return str(error) if error.errno is None else os.strerror(error.errno)


# The first row that an exception fits says its class and what is told of it.
_CLASSES: Final[tuple[tuple[type[Exception], FailureClass, Callable[[Any], str]], ...]] = (
    (AttemptTimeout, "timeout", lambda error: f"not done after {error.seconds:g} s"),
    (aiohttp.ClientConnectorDNSError, "dns", lambda error: f"{error.host}: {error.strerror}"),
    (UnicodeError, "dns", lambda _: "no valid host name: a part of it is empty, or longer than 63 characters"),
    (aiohttp.ClientSSLError, "tls", str),
    (ssl.SSLError, "tls", str),
    (aiohttp.TooManyRedirects, "too_many_redirects", lambda _: f"more than {_MOST_REDIRECTS} redirects"),
    (aiohttp.RedirectClientError, "bad_content", lambda error: f"redirected to no http(s) link: {error}"),
    (aiohttp.ClientConnectorError, "connect", lambda error: f"{error.host}:{error.port}: {_reason(error.os_error)}"),
    (aiohttp.ClientConnectionError, "connect", str),
    (aiohttp.ClientPayloadError, "connect", lambda _: "the connection ended before the body did"),
    # What follows the colon is a line of the server's, which may be a Set-Cookie.
    (aiohttp.ClientResponseError, "bad_content", lambda error: f"no valid HTTP: {error.message.partition(':')[0]}"),
    (zlib.error, "bad_content", lambda error: f"the compressed body is broken: {error}"),
)


def failure(error: Exception) -> FetchFailed:
    """The class of an exception, and what may be told of it."""
    if isinstance(error, FetchFailed):
        return error
    # TLS may also fail after the handshake, and then comes as a broken connection.
    known = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    for fitting, kind, tell in _CLASSES:
        if isinstance(known, fitting):
            return FetchFailed(kind, _shown(tell(known)))
    return FetchFailed("other", _shown(str(error) or type(error).__name__))


def _shown(text: str) -> str:
    """The text on one short line."""
    return printable(" ".join(redacted(text).split()))[:_LONGEST_MESSAGE]


def _decoder(encoding: str) -> _Inflater | None:
    """What decompresses a body with this `Content-Encoding`; `None` for one that is as it is."""
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Inflater(gzip=encoding != "deflate")
    if encoding in ("br", "zstd", "compress", "x-compress"):
        raise FetchFailed("bad_content", f"the body is compressed with {encoding}, which was not asked for")
    return None


class _Inflater:
    """Decompresses gzip (several members too) or deflate (with the zlib header or without), in bounded pieces."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._stream: Any = None  # a zlib.decompressobj, whose type has no name

    def feed(self, part: bytes) -> Iterator[bytes]:
        """The bytes that this part of the body stands for."""
        for start in range(0, len(part), _WINDOW):
            rest = part[start : start + _WINDOW]
            while rest and (stream := self._stream_for(rest)):
                yield stream.decompress(rest, _PIECE)
                rest = stream.unconsumed_tail or stream.unused_data

    def end(self) -> bytes:
        """What is left; FetchFailed if the compressed data should have gone on."""
        if self._stream is None:
            return b""
        left: bytes = self._stream.flush()
        if not self._stream.eof:
            raise FetchFailed("bad_content", "the compressed body ends too early")
        return left

    def _stream_for(self, rest: bytes) -> Any:
        """`None` for what stands after the end and is no further member: padding, which browsers ignore too."""
        first = self._stream is None
        if self._stream is not None and not self._stream.eof:
            return self._stream
        if self._gzip and (first or rest[0] == _GZIP):
            self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        elif first:
            has_header = rest[0] & 0x0F == zlib.DEFLATED
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        else:
            return None
        return self._stream
