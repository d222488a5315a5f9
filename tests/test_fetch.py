"""`aiomap.fetch`: a link becomes a whole page, or a failure that says of which class it is, and tells no secret."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import socket
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap import Outcome, Retry, aoutcomes
from aiomap._foreign import printable, redacted
from aiomap.fetch import Fetcher, FetchFailed, Page, failure, host_of, record
from aiomap.lines import MOST_BYTES, Line
from aiomap.throttling import http_throttle
from tests.loopback import Script, Site, answer

MOST = 100_000

HTML = "<p>caf\u00e9</p>".encode()
NOISE = os.urandom(20_000).hex().encode()
PACKED = gzip.compress(NOISE)
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
BOMB = gzip.compress(bytes(50_000_000))


async def fetched(site: Site, *links: str | bytes, most: int = MOST) -> list[Page | FetchFailed]:
    """What becomes of each link; a path alone stands for one of the site."""
    ended: list[Page | FetchFailed] = []
    async with Fetcher(most) as fetcher:
        for number, link in enumerate(links, 1):
            content = link if isinstance(link, bytes) else (site.url(link) if link.startswith("/") else link).encode()
            try:
                ended.append(await fetcher.fetch(Line(number, content)))
            except FetchFailed as failed:
                ended.append(failed)
    return ended


def fetch(answers: Mapping[str, bytes | Script], *links: str | bytes) -> list[Any]:
    async def main() -> list[Page | FetchFailed]:
        async with Site(answers) as site:
            return await fetched(site, *links)

    return asyncio.run(main())


def outcome(link: str, value: Page | None = None, error: Exception | None = None) -> Outcome[Line, Page]:
    return Outcome(0, Line(1, link.encode()), value, error, 1, 0.25, 0.125)


def test_a_page_comes_with_its_address_status_headers_and_body() -> None:
    kind = "Content-Type: text/html; charset=utf-8"
    [page] = fetch({"/": answer(HTML, kind, "ETag: x", "Set-Cookie: id=1", "X-Other: y")}, "/")
    assert page.url.endswith("/")
    assert page.status == 200
    assert page.headers == {"content-type": kind[14:], "content-length": str(len(HTML)), "etag": "x"}
    assert page.body == HTML
    assert page.text() == HTML.decode()


def test_redirects_are_followed_up_to_ten_times_and_the_page_says_where_it_was() -> None:
    hops = {f"/{n}": answer(b"", f"Location: /{n - 1}", status="302 Found") for n in range(1, 12)}
    ten, eleven = fetch({"/0": answer(b"there"), **hops}, "/10", "/11")
    assert ten.body == b"there"
    assert ten.url.endswith("/0")
    assert eleven.kind == "too_many_redirects"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("http_4xx", answer(b"gone", status="410 Gone")),
        ("http_4xx", answer(status="429 Slow Down")),
        ("http_5xx", answer(status="503 Service Unavailable")),
        ("other", answer(status="999 Request Denied")),
        ("too_large", answer(bytes(MOST + 1))),
        ("too_large", answer(b"a", length=10**13)),
        ("too_large", answer(BOMB, "Content-Encoding: gzip")),
        ("too_many_redirects", answer(b"", "Location: /x", status="301 Moved")),
        ("bad_content", answer(b"", "Location: file:///etc/passwd", status="302 Found")),
        ("bad_content", answer(b"", "Location: javascript:alert(1)", status="302 Found")),
        ("bad_content", answer(b"", "Location: http://[::1/", status="302 Found")),
        ("connect", answer(b"", "Location: http://127.0.0.1:1/", status="302 Found")),
        ("connect", answer(b"only this", length=100)),
        ("connect", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhe"),
        ("connect", b""),
        ("bad_content", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"),
        ("bad_content", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("bad_content", answer(b"", "Set\x1bCookie: a=b")),
        ("bad_content", answer(b"", "X: " + "a" * 100_000)),
        ("bad_content", answer(b"no gzip at all", "Content-Encoding: gzip")),
        ("bad_content", answer(PACKED[:-200], "Content-Encoding: gzip")),
        ("bad_content", answer(PACKED[:500] + b"broken" + PACKED[506:], "Content-Encoding: gzip")),
        ("bad_content", answer(PACKED[:-8] + bytes(8), "Content-Encoding: gzip")),
        ("bad_content", answer(zlib.compress(NOISE)[:-9], "Content-Encoding: deflate")),
        ("bad_content", answer(b"compressed", "Content-Encoding: br")),
    ],
)
def test_what_a_server_does_wrong_is_a_failure_of_a_class(kind: str, said: bytes) -> None:
    [failed] = fetch({"/x": said}, "/x")
    assert failed.kind == kind, failed


def test_a_connection_that_is_refused_is_told_in_a_few_words() -> None:
    [failed] = fetch({}, "http://127.0.0.1:1/?token=1")
    assert str(failed) == "connect: 127.0.0.1:1: Connection refused"


def test_a_status_that_is_a_failure_is_told() -> None:
    missing, broken = fetch({"/broken": answer(status="500 My Own Words")}, "/missing", "/broken")
    assert (missing.status, missing.message) == (404, "404 Not Found")
    assert (broken.status, broken.message) == (500, "500 Internal Server Error")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        ("connect", "http://127.0.0.1:1/"),
        ("dns", "http://two..dots/"),
        ("bad_input", "example.com/page"),
        ("bad_input", "ftp://example.com/"),
        ("bad_input", "file:///etc/passwd"),
        ("bad_input", "https://"),
        ("bad_input", "http:///path"),
        ("bad_input", "http://host:99999/"),
        ("bad_input", "http://[::1/"),
        ("bad_input", "http://a\tb/"),
        ("bad_input", b"http://caf\xe9/"),
        ("bad_input", b"http://a/\0"),
    ],
)
def test_a_link_that_leads_nowhere_is_a_failure_of_a_class(kind: str, link: str | bytes) -> None:
    [failed] = fetch({}, link)
    assert failed.kind == kind, failed


def test_a_host_that_nobody_knows_is_a_failure_of_class_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def know_nobody(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", know_nobody)
    [failed] = fetch({}, "http://nobody.invalid/")
    assert str(failed) == "dns: nobody.invalid: Name or service not known"


def test_a_line_that_is_too_long_is_a_bad_input() -> None:
    async def main() -> None:
        async with Fetcher(MOST) as fetcher:
            with pytest.raises(FetchFailed, match="longer than 16 MiB"):
                await fetcher.fetch(Line(1, b"http://127.0.0.1/", too_long=True))

    asyncio.run(main())
    assert MOST_BYTES == 16 << 20


def test_tls_that_the_server_does_not_speak_is_a_failure_of_class_tls() -> None:
    async def main() -> None:
        async with Site() as site:
            [failed] = await fetched(site, site.url("/", "https"))
            assert isinstance(failed, FetchFailed)
            assert failed.kind == "tls"

    asyncio.run(main())


def test_the_timeout_of_the_map_bounds_everything_from_the_start_to_the_last_byte() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(length=10**4))
        while True:  # each byte comes in time, all of them do not
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with Site({"/drip": drip}) as site, Fetcher(MOST) as fetcher:
            lines = [Line(1, site.url(path).encode()) for path in ("/hold", "/drip")]
            async with aoutcomes(fetcher.fetch, lines, timeout=0.1) as outcomes:
                errors = [record(outcome)["error"] async for outcome in outcomes]
        told = {"class": "timeout", "type": "AttemptTimeout", "message": "not done after 0.1 s"}
        assert errors == [told, told]

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 20


def test_a_connection_that_was_kept_and_is_dropped_is_a_failure_and_no_second_request() -> None:
    """Else requests would go out that no limit has let start: aiohttp sends them again by itself."""
    requests: list[bytes] = []

    async def answer_the_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for said in (answer(b"hello"), b""):
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(said)
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer_the_first, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        lines = [Line(number, b"http://127.0.0.1:%d/%d" % (port, number)) for number in range(6)]
        async with server, Fetcher(MOST) as fetcher:
            async with aoutcomes(fetcher.fetch, lines, 1) as outcomes:
                kinds = [outcome.error and failure(outcome.error).kind async for outcome in outcomes]
            # A connection is kept for the next request, unless the loop was too busy to see in time that it is free.
            assert set(kinds) == {None, "connect"}
            assert len(requests) == 6
            requests.clear()
            # On a busy machine several connections are kept, and one attempt after the other may get such a one.
            retry = Retry(FetchFailed, attempts=20, base=0.001, budget=None)
            async with aoutcomes(fetcher.fetch, lines, 1, retry=retry) as outcomes:
                attempts = [outcome.attempts async for outcome in outcomes if outcome.error is None]
            assert len(attempts) == 6
            assert len(requests) == sum(attempts)

    asyncio.run(main())


@pytest.mark.parametrize("status", ["429 Slow Down", "503 Service Unavailable"])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [("Retry-After: 7", 7.0), ("retry-after: Sun, 06 Nov 1994 08:49:37 GMT", 0.0), ("X: 7", None)],
)
def test_a_server_that_wants_a_pause_is_understood_by_the_limits(
    status: str, header: str, seconds: float | None
) -> None:
    [failed] = fetch({"/": answer(b"", header, status=status)}, "/")
    throttle = http_throttle(failed)
    assert throttle is not None
    assert throttle.retry_after == seconds
    assert http_throttle(fetch({"/": answer(b"", header, status="500 No")}, "/")[0]) is None


@pytest.mark.parametrize(
    ("link", "host"),
    [
        (b"HTTP://Example.com:8080/a?b", "example.com"),
        (b"https://me:pw@example.com./", "example.com"),
        (b"http://[::1]:80/", "::1"),
        ("http://m\u00fcnchen.de/".encode(), "xn--mnchen-3ya.de"),
        (b"example.com/page", None),
        (b"http://\xff/", None),
        (b"http://[::1/", None),
        (b"http:///", None),
    ],
)
def test_a_link_belongs_to_its_host_and_what_is_no_link_to_none(link: bytes, host: str | None) -> None:
    assert host_of(Line(1, link)) == host
    assert host_of(Line(1, link, too_long=True)) is None


@pytest.mark.parametrize(
    "said",
    [
        answer(PACKED, "Content-Encoding: gzip"),
        answer(PACKED, "Content-Encoding: X-GZIP"),
        answer(gzip.compress(NOISE[:99]) + gzip.compress(NOISE[99:]), "Content-Encoding: gzip"),
        answer(PACKED + bytes(20), "Content-Encoding: gzip"),
        answer(zlib.compress(NOISE), "Content-Encoding: deflate"),
        answer(RAW.compress(NOISE) + RAW.flush(), "Content-Encoding: deflate"),
        answer(NOISE, "Content-Encoding: identity"),
        answer(NOISE, "Content-Encoding: utf-8"),
    ],
)
def test_a_body_is_what_it_was_before_it_was_compressed(said: bytes) -> None:
    [page] = fetch({"/": said}, "/")
    assert page.body == NOISE


def test_a_body_that_was_compressed_very_well_is_whole() -> None:
    async def main() -> None:
        large = b"0123456789" * 3_000_000
        async with Site({"/": answer(gzip.compress(large), "Content-Encoding: gzip")}) as site:
            [page] = await fetched(site, "/", most=len(large))
            assert isinstance(page, Page)
            assert page.body == large

    asyncio.run(main())


def test_a_link_waits_while_the_process_may_open_no_more_files() -> None:
    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with Site({"/": answer(b"hello")}) as site, Fetcher(MOST) as fetcher:
            spare = os.dup(0)
            os.close(spare)
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
            try:
                asyncio.get_running_loop().call_later(0.1, resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
                page = await fetcher.fetch(Line(1, site.url("/").encode()))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert page.body == b"hello"

    asyncio.run(main())


def test_an_empty_body_may_claim_to_be_compressed() -> None:
    [page] = fetch({"/": answer(b"", "Content-Encoding: gzip")}, "/")
    assert page.body == b""


def test_a_body_of_just_the_largest_size_is_taken() -> None:
    plain, packed = fetch(
        {"/": answer(bytes(MOST)), "/gzip": answer(gzip.compress(bytes(MOST)), "Content-Encoding: gzip")}, "/", "/gzip"
    )
    assert len(plain.body) == len(packed.body) == MOST


def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    stopped = asyncio.Event()

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
        except ConnectionError:
            stopped.set()

    async def main() -> None:
        async with Site({"/flood": flood}) as site:
            [failed] = await fetched(site, "/flood")
            assert isinstance(failed, FetchFailed)
            assert failed.kind == "too_large"
            await stopped.wait()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/html; charset=utf-8", HTML, HTML.decode()),
        ("text/html", HTML, HTML.decode()),
        ("text/html; charset=ISO-8859-1", b"caf\xe9", "caf\u00e9"),
        ('text/html; charset="shift_jis"', "\u6f22".encode("shift_jis"), "\u6f22"),
        ("text/html; charset=utf-8", b"caf\xe9", None),
        ("text/html; charset=ascii", HTML, HTML.decode()),
        ("text/html; charset=no-such", HTML, HTML.decode()),
        ("text/html; charset=idna", HTML, HTML.decode()),
        ("text/html; charset=unicode_escape", b"\\ud800", "\\ud800"),
        ("text/html; charset=zlib", b"\xff", None),
        ("image/png", b"\x89PNG\r\n\x1a\n", None),
        ("\x1b]0;title\x07", b"\x00", "\x00"),
    ],
)
def test_a_body_is_text_if_it_can_be_read_as_such_and_else_base64(kind: str, body: bytes, text: str | None) -> None:
    page = Page("http://a/", 200, {"content-type": kind}, body)
    assert page.text() == text
    value: Any = record(outcome("http://a/", page))["value"]
    assert value.get("text") == text
    assert ("base64" in value) == (text is None)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_what_a_server_says_in_a_header_cannot_reach_the_terminal_as_a_command() -> None:
    [page] = fetch({"/": answer(b"", "ETag: \x1b[31m\xe9", "Content-Type: a\x9bb")}, "/")
    assert page.headers["etag"] == "\ufffd[31m\ufffd"
    assert page.headers["content-type"] == "a\ufffdb"


def test_links_carry_no_cookies_from_one_to_the_other_and_say_honestly_who_asks() -> None:
    async def main() -> None:
        async with Site({"/set": answer(b"", "Set-Cookie: id=1; Path=/")}) as site:
            # By name, for a client that keeps cookies keeps none of a bare address.
            await fetched(site, f"http://localhost:{site.port}/set", f"http://localhost:{site.port}/then")
            assert b"cookie" not in site.heads[1].lower()
            assert b"\r\nUser-Agent: aiomap/" in site.heads[0]
            assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in site.heads[0]

    asyncio.run(main())


def test_the_long_header_lines_of_some_sites_are_read() -> None:
    [page] = fetch({"/": answer(b"hello", "Content-Security-Policy: " + "a" * 60_000)}, "/")
    assert page.body == b"hello"


SECRET = "s3cr3t"  # noqa: S105  (not of anything)
NAMES = ["key", "api_key", "token", "access_token", "auth", "secret", "password", "pwd", "sig", "signature", "session"]
NAMES += ["code", "X-Amz-Signature"]


def everything_said(ended: Iterable[Page | FetchFailed]) -> str:
    """All that is written down about these, but for the key."""
    said: list[object] = []
    for one in ended:
        fields = record(
            outcome("http://a/", one if isinstance(one, Page) else None, None if isinstance(one, Page) else one)
        )
        said.append({name: value for name, value in fields.items() if name != "key"})
    return json.dumps(said) + "".join(map(str, ended))


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_of_a_link_is_told_whatever_becomes_of_it(name: str) -> None:
    async def main() -> None:
        query = f"?page=2&{name.upper()}={SECRET}"
        places = {
            "/ok": answer(),
            "/elsewhere": answer(b"", f"Location: /ok{query}", status="302 Found"),
            "/file": answer(b"", f"Location: file://me:{SECRET}@host/{query}", status="302 Found"),
            "/bad": answer(b"", f"Location: http://me:{SECRET}@[::1/{query}#{name}={SECRET}", status="302 Found"),
            "/loop": answer(b"", f"Location: /loop{query}", status="302 Found"),
            "/garbage": f"nonsense {SECRET}\r\n".encode(),
            "/cookie": answer(b"", f"Set-Cookie\x01: {SECRET}"),
            "/cut": answer(length=9),
        }
        async with Site(places) as site:
            host = f"me:{SECRET}@127.0.0.1:{site.port}"
            links = [f"http://{host}{path}{query}" for path in [*places, "/missing"]]
            links += [
                f"http://{host}{query}",
                f"http://me:{SECRET}@127.0.0.1:1/{query}",
                f"http://me:{SECRET}@no.invalid/{query}",
            ]
            links += [f"http://me:{SECRET}/x@host/", f"http://me:{SECRET}@[::1", f"gopher://me:{SECRET}@host/{query}"]
            ended = await fetched(site, *links)
            assert SECRET not in everything_said(ended)
            assert all("page=2" in page.url and "@" not in page.url for page in ended if isinstance(page, Page))
            assert any(isinstance(page, Page) for page in ended)

    asyncio.run(main())


@given(st.text(max_size=30))
def test_text_from_outside_cannot_command_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


@given(st.sampled_from(NAMES), st.text("abc%20&#=;/?@:", max_size=12), st.text("xyz/?&=#", max_size=12))
def test_a_masked_secret_is_gone_wherever_the_link_stands(name: str, before: str, after: str) -> None:
    told = redacted(f"went to http://host/{before}?{name}={SECRET}{after} and failed")
    assert SECRET not in told
    assert told.endswith(" and failed")


def test_a_record_has_the_link_its_place_and_what_became_of_it() -> None:
    assert record(outcome("http://a/?token=1", Page("http://a/", 200, {"etag": "x"}, b"hi"))) == {
        "key": "http://a/?token=1",
        "index": 0,
        "line": 1,
        "value": {
            "url": "http://a/",
            "status": 200,
            "headers": {"etag": "x"},
            "bytes": 2,
            "truncated": False,
            "text": "hi",
        },
        "attempts": 1,
        "started": 0.25,
        "elapsed": 0.125,
    }
    assert record(outcome("http://a/", error=FetchFailed("http_4xx", "404 Not Found", 404)))["error"] == {
        "class": "http_4xx",
        "type": "FetchFailed",
        "message": "404 Not Found",
        "status": 404,
    }


def test_an_error_that_nobody_thought_of_is_a_failure_too() -> None:
    failed = failure(RuntimeError("at http://me:pw@host/\x1b[31m\nsecond line"))
    assert (failed.kind, failed.message) == ("other", "at http://***@host/\ufffd[31m second line")
    assert failure(LookupError()).message == "LookupError"


def test_a_key_tells_bytes_that_are_not_utf_8() -> None:
    ended: Outcome[Line, Page] = Outcome(
        0, Line(7, b"http://caf\xe9/"), None, FetchFailed("bad_input", "not UTF-8"), 1, 0.0, 0.0
    )
    assert record(ended)["key"] == "http://caf\\xe9/"
