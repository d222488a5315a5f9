"""`aiomap.fetch`: a link becomes a whole page, or a failure that says of which class it is, and tells no secret."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import socket
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from aiomap import PerKey, Retry, aoutcomes
from aiomap._foreign import printable, redacted
from aiomap.fetch import Defaults, Fetcher, FetchFailed, Page, failure, host_of
from aiomap.fetch.body import _brotli, _Inflater, _Unbrotli, accepted_encodings
from aiomap.fetch.fetcher import _Request
from aiomap.fetch.robots import MOST_BYTES
from aiomap.throttling import http_throttle
from tests.loopback import Script, Site, answer

brotli: Any = import_module("brotli")  # it has no types

MOST = 100_000

HTML = "<p>caf\u00e9</p>".encode()
NOISE = os.urandom(20_000).hex().encode()
PACKED = gzip.compress(NOISE)
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
BROTLI = brotli.compress(NOISE, quality=3)
BOMB = gzip.compress(bytes(50_000_000))
BROTLI_BOMB = brotli.compress(bytes(50_000_000), quality=1)


def told(failed: FetchFailed) -> str:
    """Its class, and what it says."""
    return f"{failed.kind}: {failed}"


def fetcher(**options: Any) -> Fetcher:
    """One for sites on loopback."""
    return Fetcher(**{"max_body": MOST, "allow_private": True, "robots": False, **options})


async def fetched(site: Site, *items: object, **options: Any) -> list[Page | FetchFailed]:
    """What becomes of each item; a path stands for a link to it."""
    ended: list[Page | FetchFailed] = []
    async with fetcher(**options) as client:
        for item in items:
            is_path = isinstance(item, str) and item.startswith("/")
            try:
                ended.append(await client.fetch(site.url(str(item)) if is_path else item))
            except FetchFailed as failed:
                ended.append(failed)
    return ended


def fetch(answers: Mapping[str, bytes | Script], *items: object, **options: Any) -> list[Any]:
    async def main() -> list[Page | FetchFailed]:
        async with Site(answers) as site:
            return await fetched(site, *items, **options)

    return asyncio.run(main())


def test_a_page_comes_with_its_address_status_headers_and_body() -> None:
    kind = "Content-Type: text/html; charset=utf-8"
    [page] = fetch({"/": answer(HTML, kind, "ETag: x", "Set-Cookie: id=1", "X-Other: y")}, "/")
    assert page.url.endswith("/")
    assert page.status == 200
    assert page.headers == {"content-type": kind[14:], "content-length": str(len(HTML)), "etag": "x", "x-other": "y"}
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
        ("bad_content", answer(b"", "Location: http://127.0.0.1:0/", status="302 Found")),
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
        ("bad_content", answer(BROTLI[:-9], "Content-Encoding: br")),
        ("bad_content", answer(BROTLI + b"more", "Content-Encoding: br")),
        ("bad_content", answer(b"compressed", "Content-Encoding: zstd")),
        ("bad_content", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + PACKED),
        ("bad_content", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("bad_content", answer(b"compressed", "Content-Encoding: gzip, no-such")),
        ("bad_content", answer(gzip.compress(gzip.compress(PACKED)), "Content-Encoding: gzip, gzip, gzip")),
        ("bad_content", answer(gzip.compress(PACKED), "Content-Encoding: gzip, br")),
        ("too_large", answer(BROTLI_BOMB, "Content-Encoding: br")),
        # What is in between is bounded too: empty members, and nothing in the end.
        ("too_large", answer(gzip.compress(gzip.compress(b"") * 10_000), "Content-Encoding: gzip, gzip")),
        ("too_large", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"") * 10_000),
        ("too_large", answer(b"", *[f"X: {'a' * 60_000}"] * 5)),
        ("bad_content", answer(b"", *["Set-Cookie: a=b"] * 300)),
        ("other", answer(status="101 Switching Protocols")),
        ("other", answer(status="600 Beyond")),
        ("bad_content", answer(b"", status="302 Found")),
    ],
)
def test_what_a_server_does_wrong_is_a_failure_of_a_class(kind: str, said: bytes) -> None:
    [failed] = fetch({"/x": said}, "/x")
    assert failed.kind == kind, failed


def test_a_connection_that_is_refused_is_told_in_a_few_words() -> None:
    [failed] = fetch({}, "http://127.0.0.1:1/?token=1")
    assert told(failed) == "connect: 127.0.0.1:1: Connection refused"


def test_a_status_that_is_a_failure_is_told() -> None:
    missing, broken = fetch({"/broken": answer(status="500 My Own Words")}, "/missing", "/broken")
    assert (missing.status, missing.message) == (404, "404 Not Found")
    assert (broken.status, broken.message) == (500, "500 Internal Server Error")


class NobodyKnown(AbstractResolver):
    async def resolve(self, *_: object, **__: object) -> Any:
        raise OSError(socket.EAI_NONAME, "Name or service not known")

    async def close(self) -> None:
        pass


def test_a_host_that_nobody_knows_is_a_failure_of_class_dns() -> None:
    [failed] = fetch({}, "http://nobody.invalid/", resolver=NobodyKnown())
    assert told(failed) == "dns: nobody.invalid: Name or service not known"


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
        async with Site({"/drip": drip}) as site, fetcher() as client:
            links = [site.url(path) for path in ("/hold", "/drip")]
            async with aoutcomes(client.fetch, links, timeout=0.1) as outcomes:
                errors = [outcome.error async for outcome in outcomes]
        assert [told(failure(error)) for error in errors if error] == ["timeout: not done after 0.1 s"] * 2

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
        links = [f"http://127.0.0.1:{port}/{number}" for number in range(6)]
        async with server, fetcher() as client:
            async with aoutcomes(client.fetch, links, 1) as outcomes:
                kinds = [outcome.error and failure(outcome.error).kind async for outcome in outcomes]
            # A connection is kept for the next request, unless the loop was too busy to see in time that it is free.
            assert set(kinds) == {None, "connect"}
            assert len(requests) == 6
            requests.clear()
            # On a busy machine several connections are kept, and one attempt after the other may get such a one.
            retry = Retry(FetchFailed, attempts=20, base=0.001, budget=None)
            async with aoutcomes(client.fetch, links, 1, retry=retry) as outcomes:
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
    "said",
    [
        answer(PACKED, "Content-Encoding: gzip"),
        answer(PACKED, "Content-Encoding: X-GZIP"),
        answer(gzip.compress(NOISE[:99]) + gzip.compress(NOISE[99:]), "Content-Encoding: gzip"),
        answer(PACKED + bytes(20), "Content-Encoding: gzip"),
        answer(zlib.compress(NOISE), "Content-Encoding: deflate"),
        answer(RAW.compress(NOISE) + RAW.flush(), "Content-Encoding: deflate"),
        answer(BROTLI, "Content-Encoding: br"),
        answer(gzip.compress(PACKED), "Content-Encoding: gzip, gzip"),
        answer(gzip.compress(BROTLI), "Content-Encoding: br", "Content-Encoding: identity, gzip"),
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
        places = {
            "/gzip": answer(gzip.compress(large), "Content-Encoding: gzip"),
            "/br": answer(brotli.compress(large, quality=3), "Content-Encoding: br"),
        }
        async with Site(places) as site:
            for page in await fetched(site, *places, max_body=len(large)):
                assert isinstance(page, Page)
                assert page.body == large

    asyncio.run(main())


def test_a_link_waits_while_the_process_may_open_no_more_files() -> None:
    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with Site({"/": answer(b"hello")}) as site, fetcher() as client:
            spare = os.dup(0)
            os.close(spare)
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
            try:
                asyncio.get_running_loop().call_later(0.1, resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
                page = await client.fetch(site.url("/"))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert page.body == b"hello"

    asyncio.run(main())


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_an_empty_body_may_claim_to_be_compressed(encoding: str) -> None:
    [page] = fetch({"/": answer(b"", f"Content-Encoding: {encoding}")}, "/")
    assert page.body == b""


def test_a_body_is_decompressed_in_pieces_of_a_bounded_size() -> None:
    assert max(map(len, _Inflater(gzip=True).feed(BOMB))) <= 1 << 20
    assert max(map(len, _Unbrotli().feed(BROTLI_BOMB))) <= 1 << 22


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
        ("text/html; charset=utf-7", b"+2AA-", "+2AA-"),
        ("image/png", b"\x89PNG\r\n\x1a\n", None),
        ("\x1b]0;title\x07", b"\x00", "\x00"),
    ],
)
def test_a_body_is_text_if_it_can_be_read_as_such_and_else_base64(kind: str, body: bytes, text: str | None) -> None:
    page = Page("http://a/", 200, {"content-type": kind}, body)
    assert page.text() == text
    value: Any = page.value()
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
            assert b"\r\nAccept-Encoding: gzip, deflate, br\r\n" in site.heads[0]

    asyncio.run(main())


def test_the_long_header_lines_of_some_sites_are_read() -> None:
    [page] = fetch({"/": answer(b"hello", "Content-Security-Policy: " + "a" * 60_000)}, "/")
    assert page.body == b"hello"


SECRET = "s3cr3t"  # noqa: S105  (not of anything)
NAMES = ["key", "api_key", "token", "access_token", "auth", "secret", "password", "pwd", "sig", "signature", "session"]
NAMES += ["code", "X-Amz-Signature"]


def everything_said(ended: Iterable[Page | FetchFailed]) -> str:
    """All that is written down about these."""
    values = [one.value() for one in ended if isinstance(one, Page)]
    return json.dumps(values) + "".join(map(repr, ended)) + "".join(map(str, ended))


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
            assert len(ended) == len(links)
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


def test_an_error_that_nobody_thought_of_is_a_failure_too() -> None:
    failed = failure(RuntimeError("at http://me:pw@host/\x1b[31m\nsecond line"))
    assert (failed.kind, failed.message) == ("other", "at http://***@host/\ufffd[31m second line")
    assert failure(LookupError()).message == "LookupError"


def test_more_headers_are_read_than_sites_send() -> None:
    [page] = fetch({"/": answer(b"hello", *["Set-Cookie: a=b"] * 200)}, "/")
    assert page.body == b"hello"


def test_what_is_too_much_of_a_header_is_told() -> None:
    one, many, together = fetch(
        {
            "/one": answer(b"", f"Set-Cookie: {'s' * 70_000}"),
            "/many": answer(b"", *["Set-Cookie: a=b"] * 300),
            "/together": answer(b"", *[f"Set-Cookie: {'s' * 60_000}"] * 5),
        },
        *("/one", "/many", "/together"),
    )
    assert told(one) == "bad_content: no valid HTTP: a header line has more than 65,536 bytes"
    assert told(many) == "bad_content: no valid HTTP: there are more than 256 headers"
    assert told(together) == "too_large: the headers have more than 262,144 bytes together"


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_where_no_body_can_be_none_is_waited_for(method: str, status: str) -> None:
    said = answer(b"", "Content-Encoding: zstd", "ETag: x", status=status, length=10**12)
    [page] = fetch({"/": said}, "/", defaults=Defaults(method))
    assert (page.status, page.headers["etag"], page.body) == (int(status[:3]), "x", b"")


def test_a_request_is_sent_as_it_was_given() -> None:
    async def main() -> None:
        async with Site({"/": answer()}) as site:
            item = {"url": site.url("/?q=%20x#part"), "method": "put", "data": {"a": 1}}
            item["headers"] = {"User-Agent": "me"}
            await fetched(site, item, "/", defaults=Defaults(headers=(("X", "1"), ("X", "2")), data=b""))
            first, second = (head.decode() for head in site.heads)
            assert first.startswith("PUT /?q=%20x HTTP/1.1\r\n")
            for line in ("X: 1\r\nX: 2", "User-Agent: me", "Content-Type: application/json", "Content-Length: 8"):
                assert f"\r\n{line}\r\n" in first
            assert second.startswith("POST / HTTP/1.1\r\n")
            assert "\r\nContent-Length: 0\r\n" in second
            assert "Content-Type" not in second

    asyncio.run(main())


def test_data_goes_where_a_307_leads_and_is_left_behind_by_a_303() -> None:
    async def main() -> None:
        places = {f"/{status}": answer(b"moved", "Location: /there", status=f"{status} Moved") for status in (303, 307)}
        async with Site({**places, "/there": answer()}) as site:
            await fetched(site, "/307", "/303", defaults=Defaults(data=b"data", headers=(("Content-Type", "x/y"),)))
            asked = [head.decode().split("\r\n", 1) for head in site.heads]
            assert [line.split()[0] for line, _ in asked] == ["POST", "POST", "POST", "GET"]
            assert ["Content-Length: 4" in head for _, head in asked] == [True, True, True, False]
            assert ["Content-Type: x/y" in head for _, head in asked] == [True, True, True, False]

    asyncio.run(main())


def test_large_data_is_sent_whole() -> None:
    async def main() -> None:
        sizes: list[int] = []

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            sizes.append(len(await reader.readexactly(3_000_000)))
            writer.write(answer(b"hello"))
            writer.close()

        server = await asyncio.start_server(count, "127.0.0.1", 0)
        async with server, fetcher(defaults=Defaults(data=bytes(3_000_000))) as client:
            page = await client.fetch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        assert (page.body, sizes) == (b"hello", [3_000_000])

    asyncio.run(main())


def test_no_other_site_hears_a_secret_that_was_meant_for_one() -> None:
    async def main() -> None:
        async with Site() as other, Site({"/": answer(b"", "Location: /here", status="307 Moved")}) as site:
            site.answers["/here"] = answer(b"", f"Location: {other.url('/')}", status="307 Moved")
            given = (("Cookie", f"a={SECRET}"), ("X-Api-Key", SECRET), ("Accept", "x/y"))
            await fetched(site, site.url("/").replace("//", f"//me:{SECRET}@"), defaults=Defaults(headers=given))
            for head in site.heads:
                assert head.count(SECRET.encode()) == 2
                assert b"\r\nAuthorization: Basic bWU6czNjcjN0\r\n" in head
            [head] = other.heads
            assert SECRET.encode() not in head
            assert b"Authorization" not in head
            assert b"\r\nAccept: x/y\r\n" in head

    asyncio.run(main())


def test_a_location_in_any_bytes_is_followed() -> None:
    places = {
        "/utf-8": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /caf\xc3\xa9\r\n\r\n",
        "/latin-1": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /caf\xe9\r\n\r\n",
        "/caf%C3%A9": answer(b"utf-8"),
        "/caf%E9": answer(b"latin-1"),
    }
    assert [page.body for page in fetch(places, "/utf-8", "/latin-1")] == [b"utf-8", b"latin-1"]


@pytest.mark.parametrize("status", ["302 Found", "404 Not Found"])
def test_a_body_that_nobody_wants_is_not_waited_for(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomap.fetch.body._PATIENCE", 0.01)

    async def never_end(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"<p>", "Location: /there", status=status, length=100))
        await asyncio.Event().wait()

    [ended] = fetch({"/": never_end, "/there": answer(b"there")}, "/")
    assert ended.status == (200 if status.startswith("302") else 404)


@pytest.mark.parametrize("length", [None, 10**9])
def test_a_body_that_nobody_wants_is_not_read_to_its_end(length: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomap.fetch.body._PATIENCE", 600)
    stopped = asyncio.Event()

    async def flood(writer: asyncio.StreamWriter) -> None:
        head = b"Location: /there" + (b"" if length is None else b"\r\nContent-Length: %d" % length)
        writer.write(b"HTTP/1.1 302 Found\r\n" + head + b"\r\n\r\n")
        try:
            while length is None:
                writer.write(bytes(1 << 16))
                await writer.drain()
            await asyncio.Event().wait()  # for a client that reads on, there is nothing
        except ConnectionError:
            stopped.set()

    async def main() -> None:
        async with Site({"/flood": flood, "/there": answer(b"there")}) as site:
            [page] = await fetched(site, "/flood")
            assert isinstance(page, Page)
            if length is None:
                await stopped.wait()

    asyncio.run(main())


def test_a_connection_serves_on_after_a_redirect_and_after_a_failure() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        said = {b"/1": answer(b"", "Location: /2", status="302 Found", length=5), b"/2": answer(b"", length=5)}
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1]
                writer.write(said.get(path, answer(b"", status="404 Not Found", length=5)))
                await writer.drain()
                for _ in range(20):  # until the head was read
                    await asyncio.sleep(0)
                writer.write(b"hello")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        link = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, fetcher() as client:
            for path in ("/1", "/none", "/1"):
                with suppress(FetchFailed):
                    await client.fetch(link + path)
        assert connections == 1

    asyncio.run(main())


class Known(AbstractResolver):
    """Knows every name, by the addresses that it is given."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002
    ) -> Any:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in self._addresses]
        return [
            {"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}
            for address, kind in zip(self._addresses, families, strict=True)
        ]

    async def close(self) -> None:
        pass


def test_no_connection_is_made_to_an_address_that_is_not_public() -> None:
    async def main() -> None:
        async with Site({"/": answer()}) as site:
            links = [site.url("/"), f"http://name.invalid:{site.port}/", f"http://[::1]:{site.port}/"]
            for robots in (False, True):
                ended = await fetched(
                    site, *links, allow_private=False, robots=robots, resolver=Known("127.0.0.1", "::1")
                )
                assert [one.kind for one in ended if isinstance(one, FetchFailed)] == ["refused_address"] * 3
                assert not any("Multiple" in str(one) for one in ended)
            assert not site.asked

    asyncio.run(main())


def test_no_redirect_leads_to_an_address_that_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomap.fetch.addresses.is_public", lambda address: address == "127.0.0.1")
    there = "http://127.0.0.2:1/"
    [failed] = fetch({"/": answer(b"", f"Location: {there}", status="302 Found")}, "/", allow_private=False)
    assert told(failed) == "refused_address: the address 127.0.0.2 is not public (--allow-private allows it)"


def test_robots_txt_is_obeyed_at_every_hop_by_the_name_that_the_user_gave() -> None:
    async def main() -> None:
        rules = b"User-agent: testbot\nDisallow: /secret\n" + b"#" * 600_000
        places = {
            "/robots.txt": answer(b"", "Location: /rules", status="302 Found"),
            "/rules": answer(rules),
            "/moved": answer(b"", "Location: /secret", status="302 Found"),
            "/secret": answer(b"secret"),
            "/open": answer(b"open"),
        }
        async with Site(places) as site:
            mine = Defaults(headers=(("user-agent", "TestBot/1.0 (me)"),))
            kinds = [
                one.kind if isinstance(one, FetchFailed) else one.body
                for one in await fetched(site, "/moved", "/open", "/secret", robots=True, defaults=mine)
            ]
            assert kinds == ["robots", b"open", "robots"]
            assert site.asked == ["/robots.txt", "/rules", "/moved", "/open"]
            assert all(b"TestBot/1.0" in head for head in site.heads)

    asyncio.run(main())


def test_of_a_longer_robots_txt_the_beginning_is_read_whatever_a_page_may_have() -> None:
    async def main() -> None:
        async with (
            Site({"/robots.txt": answer(bytes(600_000)), "/": answer(bytes(600_000))}) as site,
            fetcher() as client,
        ):
            page = await client._ask_robots(URL(site.url("/robots.txt")))
            assert len(page.body) == MOST_BYTES
            with pytest.raises(FetchFailed, match="the body has more than"):
                await client.fetch(site.url("/"))

    asyncio.run(main())


def test_a_redirect_waits_for_the_turn_of_the_host_that_it_leads_to() -> None:
    async def main() -> None:
        async with Site({"/hold": answer(b"held"), "/there": answer(b"there")}) as site:
            site.answers["/"] = answer(b"", f"Location: http://b.invalid:{site.port}/there", status="302 Found")
            options: dict[str, Any] = {"per_host": PerKey(host_of, 1), "resolver": Known("127.0.0.1")}
            async with fetcher(**options) as client, asyncio.TaskGroup() as tasks:
                held = tasks.create_task(client.fetch(f"http://b.invalid:{site.port}/hold"))
                await site.was_asked(1)
                # This one is led to the host that is busy.
                led = tasks.create_task(client.fetch(f"http://a.invalid:{site.port}/"))
                await site.was_asked(2)
                # Its own host is free as soon as it is on its way.
                with pytest.raises(FetchFailed, match="404"):
                    await client.fetch(f"http://a.invalid:{site.port}/none")
                assert site.asked == ["/hold", "/", "/none"]
                site.released.set()
                assert (await held).body == b"held"
                assert (await led).body == b"there"

    asyncio.run(main())


def test_a_body_is_saved_in_a_folder_and_its_value_says_where(tmp_path: Path) -> None:
    async def main() -> None:
        kind = "Content-Type: text/html"
        async with Site({"/": answer(HTML, kind)}) as site, fetcher(folder=str(tmp_path / "new")) as client:
            link = site.url("/")
            value: Any = await client.value(link)
            assert (tmp_path / "new" / value.pop("file")).read_bytes() == HTML
            headers = {"content-type": "text/html", "content-length": str(len(HTML))}
            assert value == {"url": link, "status": 200, "headers": headers, "bytes": len(HTML)}
            files = {(await client.value({"url": link, "data": data}))["file"] for data in "ab"}
            assert len(files) == 2

    asyncio.run(main())


def test_without_a_folder_a_value_has_the_body() -> None:
    async def main() -> None:
        async with Site({"/": answer(b"hi")}) as site, fetcher() as client:
            value = await client.value({"link": site.url("/")})
            assert value == {
                "url": site.url("/"),
                "status": 200,
                "headers": {"content-length": "2"},
                "bytes": 2,
                "text": "hi",
            }

    asyncio.run(main())


def test_brotli_is_asked_for_only_where_it_can_be_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class Decompressor:
            def process(self, data: bytes) -> bytes:
                return data

    for module in (Old, None):
        monkeypatch.setitem(sys.modules, "brotli", module)
        _brotli.cache_clear()
        [failed] = fetch({"/": answer(BROTLI, "Content-Encoding: br")}, "/")
        assert told(failed) == "bad_content: the body is compressed with br, which was not asked for"
        assert accepted_encodings() == "gzip, deflate"
    _brotli.cache_clear()


def test_a_body_without_a_length_is_cut_if_its_connection_was_reset() -> None:
    def reset(writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)  # makes of the end of a connection a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def say_and_end(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")

    async def say_and_reset(writer: asyncio.StreamWriter) -> None:
        await say_and_end(writer)
        for _ in range(20):  # until it was read: a reset may overtake it
            await asyncio.sleep(0)
        reset(writer)

    whole, cut = fetch({"/whole": say_and_end, "/cut": say_and_reset}, "/whole", "/cut")
    assert whole.body == b"hello"
    assert told(cut) == "connect: the connection ended before the body did"


def test_a_connection_that_ends_in_the_tls_handshake_is_a_failure_of_class_tls() -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, fetcher() as client:
            with pytest.raises(FetchFailed) as failed:
                await client.fetch(f"https://{address}/")
        assert told(failed.value) == f"tls: {address}: the connection ended in the TLS handshake"

    asyncio.run(main())


def test_what_came_between_two_requests_is_no_answer_to_the_second() -> None:
    async def main() -> None:
        came = asyncio.Event()

        async def say_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while path := (await reader.readuntil(b"\r\n\r\n")).split()[1]:
                    writer.write(answer(path))
                    for _ in range(20):  # until it was read
                        await asyncio.sleep(0)
                    writer.write(answer(b"evil"))
                    for _ in range(20):
                        await asyncio.sleep(0)
                    came.set()
            writer.close()

        server = await asyncio.start_server(say_more, "127.0.0.1", 0)
        link = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, fetcher() as client:
            for number in range(3):
                came.clear()
                assert (await client.fetch(f"{link}/{number}")).body == f"/{number}".encode()
                await came.wait()

    asyncio.run(main())


def test_what_a_fetcher_opened_it_closes_and_a_resolver_that_was_given_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Watched(Known):
        async def close(self) -> None:
            closed.append(*self._addresses)

    monkeypatch.setattr("aiomap.fetch.fetcher.Resolver", lambda: Watched("its own"))

    async def main() -> None:
        async with fetcher(resolver=Watched("given")):
            pass
        assert closed == []
        async with fetcher(folder=str(tmp_path / "new")) as client:
            pass
        assert closed == ["its own"]
        assert client._folder is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            client._folder.save("key", "http://a/", "", b"")
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError):
            await fetcher(folder=str(tmp_path / "file")).__aenter__()

    asyncio.run(main())


def test_a_server_that_speaks_before_it_is_asked_is_bad_content() -> None:
    connection: Any = SimpleNamespace(protocol=SimpleNamespace(should_close=True))
    with pytest.raises(FetchFailed, match=r"^no valid HTTP: the server spoke before it was asked"):
        asyncio.run(_Request.send(_Request.__new__(_Request), connection))
