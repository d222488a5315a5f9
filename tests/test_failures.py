"""Of which class a failure is: known by the exception's shape, whatever library raised it."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError, URLError

import aiohttp
import httpx
import pytest
import requests
import urllib3
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from aiomap.errors import AttemptTimeout, RecordedFailure, Throttled
from aiomap.failures import failure_class, is_retryable
from aiomap.fetch import FetchFailed
from aiomap.journal.record import failure_body

LINK = "http://localhost/"
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def raised(error: BaseException, *, cause: BaseException | None = None, context: BaseException | None = None) -> Any:
    """The error as it is when it was raised from the cause, or while the context was handled."""
    error.__context__ = context or cause
    if cause is not None:
        error.__cause__ = cause
    return error


def of_requests(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("bad", response=response)


def of_aiohttp(status: int) -> aiohttp.ClientResponseError:
    headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
    info = aiohttp.RequestInfo(URL(LINK), "GET", headers, URL(LINK))
    return aiohttp.ClientResponseError(info, (), status=status, headers=headers)


def of_httpx(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", LINK)
    return httpx.HTTPStatusError("bad", request=request, response=httpx.Response(status, request=request))


def of_urllib(status: int) -> HTTPError:
    return HTTPError(LINK, status, "bad", {"x": "y"}, None)  # type: ignore[arg-type]


KEY = ConnectionKey("localhost", 80, False, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), "timeout"),
        (AttemptTimeout(1, 2.0), "timeout"),
        (socket.timeout(), "timeout"),  # noqa: UP041
        (asyncio.TimeoutError(), "timeout"),  # noqa: UP041
        (OSError(errno.ETIMEDOUT, "timed out"), "timeout"),
        (socket.gaierror(-2, "no such name"), "dns"),
        (ssl.SSLError(1, "bad"), "tls"),
        (ssl.SSLCertVerificationError(1, "expired"), "tls"),
        (REFUSED, "connect"),
        (ConnectionResetError(), "connect"),
        (BrokenPipeError(), "connect"),
        (OSError(errno.EHOSTUNREACH, "no route"), "connect"),
        (OSError(errno.ENETUNREACH, "no network"), "connect"),
        (FileNotFoundError(errno.ENOENT, "no file"), "FileNotFoundError"),
        (OSError(errno.ENOSPC, "full"), "OSError"),
        (URLError(REFUSED), "URLError"),
        (raised(URLError(REFUSED), context=REFUSED), "connect"),
        (ValueError("bad"), "ValueError"),
        (Throttled(3), "Throttled"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        # httpx
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.PoolTimeout("full"), "timeout"),
        (httpx.ConnectError("refused"), "connect"),
        (raised(httpx.ConnectError("no name"), cause=socket.gaierror(-2, "no such name")), "dns"),
        (raised(httpx.ConnectError("bad cert"), cause=ssl.SSLError(1, "bad")), "tls"),
        (httpx.RemoteProtocolError("closed"), "connect"),
        (httpx.ReadError("reset"), "connect"),
        (httpx.TooManyRedirects("loop"), "too_many_redirects"),
        (httpx.InvalidURL("bad"), "InvalidURL"),
        # requests
        (requests.ConnectTimeout("slow"), "timeout"),
        (requests.ReadTimeout("slow"), "timeout"),
        (requests.exceptions.SSLError("bad"), "tls"),
        (requests.ConnectionError("refused"), "connect"),
        (
            raised(
                requests.ConnectionError("no name"),
                context=raised(urllib3.exceptions.HTTPError("max retries"), cause=socket.gaierror(-2, "no such name")),
            ),
            "dns",
        ),
        (requests.exceptions.ChunkedEncodingError("cut"), "connect"),
        (requests.TooManyRedirects("loop"), "too_many_redirects"),
        # aiohttp
        (aiohttp.ServerTimeoutError(), "timeout"),
        (aiohttp.ConnectionTimeoutError(), "timeout"),
        (aiohttp.ServerDisconnectedError(), "connect"),
        (aiohttp.ClientPayloadError("cut"), "connect"),
        (aiohttp.ClientConnectorError(KEY, REFUSED), "connect"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(None, "no such name")), "dns"),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "bad")), "tls"),
        (raised(aiohttp.ClientOSError(1, "broken"), cause=ssl.SSLError(1, "bad")), "tls"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__qualname__,
)
def test_a_failure_is_of_the_class_that_its_shape_says(error: BaseException, expected: str) -> None:
    assert failure_class(error) == expected


@pytest.mark.parametrize("make", [of_requests, of_aiohttp, of_httpx, of_urllib])
@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, "http_4xx"), (404, "http_4xx"), (499, "http_4xx"), (429, "http_429"), (500, "http_5xx"), (503, "http_5xx")],
)
def test_an_http_status_is_read_where_each_client_keeps_it(make: Any, status: int, expected: str) -> None:
    assert failure_class(make(status)) == expected


@pytest.mark.parametrize("status", [200, 302, 399, 600, True, -1])
def test_another_status_is_no_class(status: int) -> None:
    error = LookupError()
    error.status = status  # type: ignore[attr-defined]
    assert failure_class(error) == "LookupError"


def test_a_code_without_headers_or_a_response_is_no_http_status() -> None:
    error = LookupError()
    error.code = 404  # type: ignore[attr-defined]
    assert failure_class(error) == "LookupError"
    error.headers = {"a": "b"}  # type: ignore[attr-defined]
    assert failure_class(error) == "http_4xx"


def test_a_status_counts_in_the_error_itself_alone() -> None:
    """What a function makes of a 404 is its own word."""
    assert failure_class(raised(LookupError("no such page"), cause=of_httpx(404))) == "LookupError"


def test_a_timeout_counts_through_the_errors_that_were_raised_from_it() -> None:
    inner = raised(RuntimeError("transport"), cause=TimeoutError())
    assert failure_class(raised(ValueError("no page"), cause=inner)) == "timeout"


def test_what_goes_wrong_while_a_timeout_is_handled_is_another_failure() -> None:
    """A bug in an `except TimeoutError:` must not be tried again for ever."""
    assert failure_class(raised(KeyError("name"), context=TimeoutError())) == "KeyError"


def test_a_kind_is_the_class() -> None:
    assert failure_class(FetchFailed("too_large", "much")) == "too_large"
    assert failure_class(FetchFailed("bad_input", "no link")) == "bad_input"
    assert failure_class(FetchFailed("http_4xx", "404 Not Found", 404)) == "http_4xx"
    assert failure_class(FetchFailed("http_4xx", "429 Too Many Requests", 429)) == "http_429"
    error = TimeoutError()
    error.kind = "quota"  # type: ignore[attr-defined]
    assert failure_class(error) == "quota"


@pytest.mark.parametrize("kind", [None, 3, b"timeout", ""])
def test_a_kind_that_is_no_text_says_nothing(kind: object) -> None:
    error = ValueError()
    error.kind = kind  # type: ignore[attr-defined]
    assert failure_class(error) == "ValueError"


def test_a_kind_can_be_shown() -> None:
    error = ValueError()
    error.kind = "\x1b[31m" + "x" * 1000  # type: ignore[attr-defined]
    assert failure_class(error).isprintable()
    assert len(failure_class(error)) == 100
    assert failure_class(type("Re\x1bd", (Exception,), {})()) == "Re\N{REPLACEMENT CHARACTER}d"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        AttemptTimeout(1, 2.0),
        REFUSED,
        socket.gaierror(-2, "no such name"),
        ssl.SSLError(1, "bad"),
        ValueError("bad"),
        aiohttp.ClientPayloadError("cut"),
        Throttled(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_recorded_failure_is_of_the_class_that_it_had(error: Exception) -> None:
    told = json.loads(failure_body(error))
    assert failure_class(RecordedFailure(told["class"], told["type"], told["message"])) == failure_class(error)


class Hostile(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Strange(Exception):
    response = SimpleNamespace(status_code="404", code=[], headers=3)
    status = 10**400


def test_nothing_that_an_exception_is_made_of_makes_it_raise() -> None:
    circle = ValueError()
    circle.__cause__ = KeyError()
    circle.__cause__.__cause__ = circle
    assert failure_class(circle) == "ValueError"
    assert failure_class(Hostile()) == "Hostile"
    assert failure_class(Strange()) == "Strange"


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    retryable = {"timeout", "dns", "connect", "http_5xx", "http_429", "Throttled"}
    others = {"http_4xx", "tls", "bad_input", "too_large", "too_many_redirects", "bad_content", "other", "ValueError"}
    assert {name for name in retryable | others if is_retryable(name)} == retryable
    assert is_retryable(failure_class(of_httpx(429)))
    assert is_retryable(failure_class(of_httpx(503)))
    assert not is_retryable(failure_class(of_httpx(404)))


def test_no_http_library_is_imported() -> None:
    code = "import sys, aiomap.failures; print(*{'aiohttp', 'httpx', 'requests', 'ssl'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"ssl"}  # asyncio's
