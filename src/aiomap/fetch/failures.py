"""What can go wrong with a link, and of which class it is.

Invariant: whatever is raised while a link is fetched has a class, and no message holds a password or token of a URL.
"""

from __future__ import annotations

import os
import ssl
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, final

import aiohttp

from aiomap._foreign import printable, redacted
from aiomap.errors import AiomapError, AttemptTimeout
from aiomap.fetch.addresses import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MOST_HEADERS", "MOST_HEADER_LINE", "FailureClass", "FetchFailed", "bad_status", "failure", "shown"]

FailureClass = Literal[
    "dns",
    "connect",
    "tls",
    "timeout",
    "too_large",
    "too_many_redirects",
    "refused_address",
    "robots",
    "http_4xx",
    "http_5xx",
    "bad_input",
    "bad_content",
    "other",
]

MOST_HEADER_LINE: Final = 1 << 16
"""Bytes of one header line of an answer. aiohttp's own limit, 8190, is less than what some sites send."""
MOST_HEADERS: Final = 256
"""Header lines of an answer: twice what aiohttp takes. All of them together are at most as large as a usual body."""

_LONGEST_MESSAGE: Final = 500


@final
class FetchFailed(AiomapError):
    """A link could not be fetched.

    kind: of which class the failure is.
    message: what happened, in a form that may be shown.
    status: the HTTP status, if it was what made it a failure, else `None`.
    headers: those that came with the status, as in `Page`.
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
        return self.message


def bad_status(status: int, headers: Mapping[str, str]) -> FetchFailed:
    """The failure that a status stands for: one of a class of its own if it is 4xx or 5xx.

    >>> bad_status(404, {}).message
    '404 Not Found'
    """
    try:
        message = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        message = str(status)
    kinds: dict[int, FailureClass] = {4: "http_4xx", 5: "http_5xx"}
    return FetchFailed(kinds.get(status // 100, "other"), message, status, headers)


def failure(error: Exception) -> FetchFailed:
    """The class of an exception, and what may be told of it."""
    if isinstance(error, FetchFailed):
        return error
    if refused(error) and isinstance(error, OSError):
        return FetchFailed("refused_address", shown(str(error.strerror).removeprefix("Multiple exceptions: ")))
    # TLS may also fail after the handshake, and then comes as a broken connection.
    known = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    if isinstance(known, aiohttp.ClientConnectorError) and _is_of_handshake(known.os_error):
        return FetchFailed("tls", f"{known.host}:{known.port}: the connection ended in the TLS handshake")
    for fitting, kind, tell in _CLASSES:
        if isinstance(known, fitting):
            return FetchFailed(kind, shown(tell(known)))
    return FetchFailed("other", shown(str(error) or type(error).__name__))


def shown(text: str) -> str:
    """The text on one line, without secrets, at most 500 characters."""
    return printable(" ".join(redacted(text).split()))[:_LONGEST_MESSAGE]


def _is_of_handshake(error: OSError) -> bool:
    # asyncio makes it itself; the system's have an errno.
    return isinstance(error, ConnectionError) and error.errno is None


def _reason(error: OSError) -> str:
    # asyncio's own text has the address in it once more.
    return str(error) if error.errno is None else os.strerror(error.errno)


def _broken(error: aiohttp.ClientResponseError) -> str:
    """What is wrong with the head of an answer. aiohttp tells it in its message alone."""
    if error.message.startswith("Got more than"):
        return f"no valid HTTP: a header line has more than {MOST_HEADER_LINE:,} bytes"
    if error.message.startswith("Too many headers"):
        return f"no valid HTTP: there are more than {MOST_HEADERS} headers"
    # What follows the colon is a line of the server's, which may be a Set-Cookie.
    return f"no valid HTTP: {error.message.partition(':')[0]}"


# The first row that an exception fits says its class and what is told of it.
_CLASSES: Final[tuple[tuple[type[Exception], FailureClass, Callable[[Any], str]], ...]] = (
    (AttemptTimeout, "timeout", lambda error: f"not done after {error.seconds:g} s"),
    (aiohttp.ClientConnectorDNSError, "dns", lambda error: f"{error.host}: {error.strerror}"),
    (UnicodeError, "dns", lambda _: "no valid host name: a part of it is empty, or longer than 63 characters"),
    (aiohttp.ClientSSLError, "tls", str),
    (ssl.SSLError, "tls", str),
    (aiohttp.ClientConnectorError, "connect", lambda error: f"{error.host}:{error.port}: {_reason(error.os_error)}"),
    (aiohttp.ClientConnectionError, "connect", str),
    (aiohttp.ClientPayloadError, "connect", lambda _: "the connection ended before the body did"),
    (aiohttp.ClientResponseError, "bad_content", _broken),
    (zlib.error, "bad_content", lambda error: f"the compressed body is broken: {error}"),
)
