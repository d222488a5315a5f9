"""Promise 20, the part of one error: whether it says "not so fast", and for how long."""

from __future__ import annotations

import asyncio
import copy
import errno
import math
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import Message
from email.utils import format_datetime
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn
from urllib.error import HTTPError

import aiohttp
import httpx
import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

import aiomap.errors
from aiomap.errors import AiomapError, Throttled
from aiomap.throttling import http_throttle, is_overload, parse_retry_after

LINK = "http://localhost/"
NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the moment of the RFC's own examples


@pytest.mark.parametrize(
    ("given_pause", "seconds"),
    [(None, None), (0, 0.0), (0.0, 0.0), (3, 3.0), (1.5, 1.5), ("7", 7.0), (" 7 ", 7.0), ("soon", None), ("-1", None)],
)
def test_a_pause_is_seconds_or_the_text_of_a_header_or_not_said(given_pause: Any, seconds: float | None) -> None:
    pause = Throttled(given_pause).retry_after
    assert pause == seconds
    assert pause is None or type(pause) is float


def test_a_pause_can_be_a_date() -> None:
    soon = format_datetime(datetime.fromtimestamp(time.time() + 1000, UTC), usegmt=True)
    pause = Throttled(soon).retry_after
    assert pause is not None
    assert 900 < pause <= 1000


@pytest.mark.parametrize("pause", [-1, -0.001, math.nan, math.inf, -math.inf, 10**400])
def test_a_pause_that_no_clock_knows_is_refused(pause: float) -> None:
    with pytest.raises(ValueError, match=r"retry_after must be a finite number of seconds of at least 0.*got"):
        Throttled(pause)


@pytest.mark.parametrize("pause", [True, False, b"5", [5], Fraction(1, 2), object()])
def test_a_pause_of_another_type_is_refused(pause: Any) -> None:
    with pytest.raises(TypeError, match=r"retry_after must be .*Retry-After header, got a " + type(pause).__name__):
        Throttled(pause)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
@pytest.mark.parametrize("given_pause", [None, 5, "8", "Sun, 06 Nov 1994 08:49:37 GMT", "soon"])
def test_a_copy_says_the_same(again: Any, given_pause: Any) -> None:
    error = Throttled(given_pause, "quota")
    error.add_note("seen by the map")
    copied = again(error)
    assert type(copied) is Throttled
    assert (copied.retry_after, copied.message, str(copied)) == (error.retry_after, "quota", str(error))
    assert copied.__notes__ == ["seen by the map"]


def test_a_copy_of_a_date_keeps_the_seconds_that_it_had() -> None:
    error = Throttled(format_datetime(datetime.fromtimestamp(time.time() + 1000, UTC), usegmt=True))
    assert error.args == (error.retry_after, "")


def test_its_text_says_what_the_remote_wants() -> None:
    assert str(Throttled()) == "the remote asked for a pause"
    assert str(Throttled(2.5)) == "the remote asked for a pause of 2.5 seconds"
    assert str(Throttled(3, "HTTP 429")) == "the remote asked for a pause of 3 seconds (HTTP 429)"


def test_what_was_unreadable_is_not_lost() -> None:
    assert "'slow down, please\\n'" in str(Throttled("slow down, please\n"))
    assert len(str(Throttled("x" * 10**6))) < 200
    assert str(Throttled("soon", "HTTP 429")) == "the remote asked for a pause (HTTP 429)"


def test_a_subclass_without_our_init_has_no_pause() -> None:
    class Busy(Throttled):
        def __init__(self) -> None:
            pass

    assert Busy().retry_after is None


def test_it_is_one_of_our_errors() -> None:
    assert issubclass(Throttled, AiomapError)
    assert "Throttled" in aiomap.errors.__all__


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("007", 7.0),
        ("1.5", 1.5),
        (" 5\t", 5.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Sun, 06 Nov 1994 10:49:47 +0200", 10.0),
    ],
)
def test_a_retry_after_is_read_in_every_form_that_servers_send(text: str, seconds: float) -> None:
    assert parse_retry_after(text, now=NOW) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of the process cannot be set here")
@pytest.mark.parametrize("zone", ["UTC0", "EAST-9", "WEST8"])
def test_a_date_means_the_same_on_every_machine(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        seconds = parse_retry_after("Sun Nov  6 08:49:47 1994", NOW)
    time.tzset()
    assert seconds == 10.0


@pytest.mark.parametrize(
    "text",
    [
        *(None, 5, b"5", "", " ", "5 s", "5, 5", "soon", "in 5 minutes"),
        *("-1", "-0", "+5", ".", "1.2.3", "1,5", "1e3", "nan", "inf", "Infinity", "1_000", "0x10", "\u0665", "\u00b2"),
        *("Mon", "12:30", "2030-01-01T00:00:00Z", "Wed, 32 Oct 2026 25:61:61 GMT", "Fri, 31 Dec 99999 23:59:59 GMT"),
        "Sun, 06 Nov 1994 08:49:37 +99999999999",
    ],
)
def test_what_cannot_be_read_says_nothing(text: Any) -> None:
    assert parse_retry_after(text, now=NOW) is None


def test_the_far_future_is_a_finite_number() -> None:
    year_9999 = parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", now=NOW)
    assert year_9999 is not None
    assert 2.5e11 < year_9999 < math.inf
    assert parse_retry_after("9" * 50) == pytest.approx(1e50)


@pytest.mark.parametrize("text", ["9" * 10**5, " " * 10**7, "Sun, " * 10**6, "(" * 10**6, "1" + "0" * 400])
def test_a_huge_header_costs_nothing(text: str) -> None:
    assert parse_retry_after(text) is None


@given(st.text() | st.from_regex(r"[-+0-9., :A-Za-z()]{0,60}", fullmatch=True), st.floats(0, 1e11))
@example("9" * 100, 0.0)
def test_no_header_can_break_the_reader(text: str, now: float) -> None:
    seconds = parse_retry_after(text, now)
    assert seconds is None or 0 <= seconds < math.inf


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1)), st.floats(0, 1e11))  # noqa: DTZ001  # hypothesis wants it so
def test_every_date_is_read_back(moment: datetime, now: float) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert parse_retry_after(format_datetime(moment, usegmt=True), now) == max(0.0, moment.timestamp() - now)


def test_reading_seconds_imports_nothing_of_email() -> None:
    code = "import sys; from aiomap.throttling import *; print(parse_retry_after('5'), 'email' in sys.modules)"
    child = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "5.0 False\n"


def of_aiohttp(status: int, headers: dict[str, str] | None) -> Exception:
    info = aiohttp.RequestInfo(URL(LINK), "GET", CIMultiDictProxy(CIMultiDict()), URL(LINK))
    return aiohttp.ClientResponseError(
        info, (), status=status, headers=None if headers is None else CIMultiDictProxy(CIMultiDict(headers))
    )


def of_httpx(status: int, headers: dict[str, str] | None) -> Exception:
    response = httpx.Response(status, headers=headers, request=httpx.Request("GET", LINK))
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    return caught.value


def of_requests(status: int, headers: dict[str, str] | None) -> Exception:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers or {})
    with pytest.raises(requests.HTTPError) as caught:
        response.raise_for_status()
    return caught.value


def of_urllib(status: int, headers: dict[str, str] | None) -> Exception:
    message = Message()
    for name, value in (headers or {}).items():
        message[name] = value
    return HTTPError(LINK, status, "reason", message, None)


class APIStatusError(Exception):  # as the clients of language models have it
    def __init__(self, status: int, headers: dict[str, str] | None) -> None:
        self.status_code = status
        self.code = "rate_limit_exceeded"
        self.response = httpx.Response(status, headers=headers)


CLIENTS = pytest.mark.parametrize("client", [of_aiohttp, of_httpx, of_requests, of_urllib, APIStatusError])


@CLIENTS
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
def test_429_and_503_are_throttles_with_the_pause_of_their_header(client: Any, status: int, name: str) -> None:
    throttled = http_throttle(client(status, {"Date": "x", name: "7"}))
    assert throttled is not None
    assert throttled.retry_after == 7.0
    assert str(status) in str(throttled)


@CLIENTS
@pytest.mark.parametrize("headers", [None, {}, {"Content-Type": "text/html"}, {"Retry-After": "soon"}])
def test_without_a_readable_header_the_pause_is_not_said(client: Any, headers: dict[str, str] | None) -> None:
    throttled = http_throttle(client(429, headers))
    assert throttled is not None
    assert throttled.retry_after is None


@CLIENTS
@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 428, 500, 502, 504])
def test_another_status_is_no_throttle(client: Any, status: int) -> None:
    assert http_throttle(client(status, {"Retry-After": "7"})) is None


@pytest.mark.parametrize("error", [ValueError("429"), OSError(429, "x"), TimeoutError(), KeyError(503), Exception()])
def test_an_error_without_a_status_is_no_throttle(error: Exception) -> None:
    assert http_throttle(error) is None


def test_a_code_of_ones_own_is_no_http_status() -> None:
    class Fault(Exception):
        code = 503

    assert http_throttle(Fault()) is None


def test_a_code_beside_headers_is_one() -> None:
    class Fault(Exception):
        code = 503
        headers: ClassVar = {"Retry-After": "7"}

    assert getattr(http_throttle(Fault()), "retry_after", None) == 7.0


def test_a_throttled_gives_itself() -> None:
    class Quota(Throttled):
        pass

    error = Quota(5)
    assert http_throttle(error) is error


def test_a_function_that_turned_a_429_into_another_error_has_the_last_word() -> None:
    class QuotaUsedUp(Exception):
        pass

    error = QuotaUsedUp()
    error.__cause__ = error.__context__ = of_httpx(429, {"Retry-After": "7"})
    assert http_throttle(error) is None


@pytest.mark.parametrize(
    "headers",
    [
        {b"Retry-After": b"7"},
        [("date", "x"), ("Retry-After", "7")],
        ((b"retry-after", b"7"),),
        [("Retry-After", "soon"), ("Retry-After", "7")],
        {1: 2, None: (), "retry-after": "7"},
    ],
)
def test_headers_of_any_shape_are_read(headers: object) -> None:
    class Answered(Exception):
        status = 429

    error = Answered()
    error.headers = headers  # type: ignore[attr-defined]
    throttled = http_throttle(error)
    assert throttled is not None
    assert throttled.retry_after == 7.0


class Hostile:
    """Whatever is asked of it raises."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


class HostileError(Exception):
    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


class Mixed(Exception):
    status = 429

    @property
    def headers(self) -> NoReturn:
        raise OSError

    @property
    def response(self) -> NoReturn:
        raise LookupError


def test_an_error_whose_attributes_raise_is_read_as_far_as_it_goes() -> None:
    assert http_throttle(HostileError()) is None
    assert not is_overload(HostileError())
    throttled = http_throttle(Mixed())
    assert throttled is not None
    assert throttled.retry_after is None


def test_an_iterator_in_place_of_headers_is_left_alone() -> None:
    class Answered(Exception):
        status = 429
        headers = iter([("Retry-After", "7")])

    assert http_throttle(Answered()) is not None
    assert list(Answered.headers) == [("Retry-After", "7")]


odd = st.one_of(
    st.sampled_from([429, 503, 404, True, None, 429.0, "429", b"429", Hostile, object(), math.nan]),
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=3) | st.just("Retry-After"), st.text(max_size=5) | st.binary(max_size=5)),
    st.lists(st.tuples(st.just(b"Retry-After"), st.binary(max_size=5)) | st.text(max_size=3) | st.none(), max_size=3),
)


def tuple_of_items(attributes: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(attributes.items())


names = st.sampled_from(["status", "status_code", "code", "headers"])


@given(st.dictionaries(names, odd), st.none() | odd | st.dictionaries(names, odd).map(tuple_of_items))
def test_no_error_can_break_the_classifier(attributes: dict[str, Any], response: Any) -> None:
    error: Any = Exception()
    for name, value in attributes.items():
        setattr(error, name, value() if value is Hostile else value)
    error.response = SimpleNamespace(**dict(response)) if isinstance(response, tuple) else response
    throttled = http_throttle(error)
    assert throttled is None or throttled.retry_after is None or 0 <= throttled.retry_after < math.inf
    assert not is_overload(error)


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a port at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a port at which somebody listens and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


async def with_aiohttp(link: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=0.01)) as session:
        await session.get(link)


async def with_httpx(link: str) -> None:
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=0.01), trust_env=False, verify=False) as client:  # noqa: S501
        await client.get(link)


async def with_requests(link: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        await asyncio.to_thread(session.get, link, timeout=(5, 0.01))


async def error_of(fetch: Any, link: str) -> Exception:
    try:
        await fetch(link)
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("fetch", [with_aiohttp, with_httpx, with_requests])
def test_a_refused_connection_is_a_sign_of_overload(fetch: Any, refusing: str) -> None:
    assert is_overload(asyncio.run(error_of(fetch, refusing)))


@pytest.mark.parametrize("fetch", [with_aiohttp, with_httpx, with_requests])
def test_a_timeout_of_the_client_is_a_sign_of_overload(fetch: Any, silent: str) -> None:
    assert is_overload(asyncio.run(error_of(fetch, silent)))


def test_a_timeout_of_asyncio_is_a_sign_of_overload() -> None:
    async def stall() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    assert is_overload(asyncio.run(error_of(lambda _: stall(), "")))


class RefusedByTheClient(OSError):  # as aiohttp's ClientConnectorError, which is no ConnectionRefusedError
    pass


@pytest.mark.parametrize(
    "error", [TimeoutError(), ConnectionRefusedError(), RefusedByTheClient(errno.ECONNREFUSED, "")]
)
def test_the_signs_of_overload(error: Exception) -> None:
    assert is_overload(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        RefusedByTheClient(errno.ENOENT, "x"),
        socket.gaierror(-2, "x"),
        ValueError(),
        of_httpx(404, None),
    ],
)
def test_other_errors_are_no_sign_of_overload(error: Exception) -> None:
    assert not is_overload(error)


def test_from_none_hides_no_timeout() -> None:
    error = ValueError()
    error.__context__ = TimeoutError()
    error.__suppress_context__ = True
    assert is_overload(error)


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert not is_overload(first)
