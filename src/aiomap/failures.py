"""Of which class a failure is, read from the shape of its exception.

Invariant: nothing here raises, whatever the exception is made of, and no HTTP library is imported. The classes are
those of `aiomap.fetch`, and one more: `http_429` is told apart from `http_4xx`, for it alone of them passes by itself.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final

from aiomap._foreign import printable
from aiomap.throttling import attribute_of, statuses_of

__all__ = ["failure_class", "is_retryable"]

_RETRYABLE: Final = frozenset({"timeout", "dns", "connect", "http_429", "http_5xx", "Throttled"})

_TOO_MANY_REQUESTS: Final = 429
_CONNECT: Final = "connect"
_LONGEST: Final = 100  # characters of a name that somebody else chose
_MOST_LINKS: Final = 32  # a chain of causes can also be a circle

# By the package and the name of the type, or of one that it is derived from.
_TYPES: Final = {
    "builtins.TimeoutError": "timeout",
    "builtins.ConnectionError": _CONNECT,
    "socket.gaierror": "dns",
    "ssl.SSLError": "tls",
    "aiomap.AttemptTimeout": "timeout",
    "aiohttp.ClientConnectorDNSError": "dns",
    "aiohttp.ClientSSLError": "tls",
    "aiohttp.TooManyRedirects": "too_many_redirects",
    "aiohttp.ClientConnectionError": _CONNECT,
    "aiohttp.ClientPayloadError": _CONNECT,
    "httpx.TimeoutException": "timeout",
    "httpx.TooManyRedirects": "too_many_redirects",
    "httpx.NetworkError": _CONNECT,
    "httpx.RemoteProtocolError": _CONNECT,
    "requests.Timeout": "timeout",
    "requests.SSLError": "tls",
    "requests.TooManyRedirects": "too_many_redirects",
    "requests.ConnectionError": _CONNECT,
    "requests.ChunkedEncodingError": _CONNECT,
}

_NETWORK: Final = frozenset(
    {
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET),
        errno.EADDRNOTAVAIL,
    }
)


def failure_class(error: BaseException) -> str:
    """The class of a failure: `timeout`, `dns`, `connect`, `tls`, `http_4xx`, ..., else the name of its type.

    - A str in its attribute `kind` is the class: `FetchFailed` and `RecordedFailure` have one, and yours may.
    - An HTTP status, where aiohttp, httpx, requests and urllib keep it, is `http_4xx` or `http_5xx`; 429, Too Many
      Requests, is `http_429`. It counts in the error itself alone: what a function makes of a 404 is its own word.
    - Timeouts and what the network did are looked for in the errors that it was raised from, too.

    >>> failure_class(ConnectionRefusedError())
    'connect'
    >>> from urllib.error import HTTPError
    >>> failure_class(HTTPError("http://localhost", 404, "Not Found", {}, None))
    'http_4xx'
    >>> failure_class(KeyError("name"))
    'KeyError'
    """
    try:
        found = _kind(error) or _status_class(error) or _network_class(error)
    except Exception:
        found = None
    return found or printable(type(error).__name__)[:_LONGEST]


def is_retryable(failure_class: str) -> bool:
    """Whether a failure of that class may be none the next time, with nothing changed.

    >>> [name for name in ("timeout", "http_429", "http_4xx", "ValueError") if is_retryable(name)]
    ['timeout', 'http_429']
    """
    return failure_class in _RETRYABLE


def _kind(error: BaseException) -> str | None:
    kind = attribute_of(error, "kind")
    if not isinstance(kind, str) or not kind:
        return None
    if kind == "http_4xx" and _TOO_MANY_REQUESTS in statuses_of(error, None):
        return "http_429"
    return printable(kind)[:_LONGEST]


def _status_class(error: BaseException) -> str | None:
    response = attribute_of(error, "response")
    for status in (*statuses_of(error, response), *statuses_of(response, None)):
        if status == _TOO_MANY_REQUESTS:
            return "http_429"
        if status // 100 in {4, 5}:
            return f"http_{status // 100}xx"
    return None


def _network_class(error: BaseException) -> str | None:
    """Of all that fits, what is not just `connect`: without a name, or TLS, there is no connection either."""
    found = [known for link in _chain(error) for known in _classes_of_link(link)]
    return next((known for known in found if known != _CONNECT), _CONNECT if found else None)


def _classes_of_link(error: BaseException) -> Iterator[str]:
    for kind in type(error).__mro__:
        name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        if name in _TYPES:
            yield _TYPES[name]
    if isinstance(error, OSError) and error.errno in _NETWORK:
        yield _CONNECT


def _chain(error: BaseException) -> Iterable[BaseException]:
    link: BaseException | None = error
    for _ in range(_MOST_LINKS):
        if link is None:
            return
        yield link
        # What went wrong while another error was handled is another matter, but requests and urllib raise theirs so.
        link = link.__context__ if link.__cause__ is None and isinstance(link, OSError) else link.__cause__
