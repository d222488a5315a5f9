"""10-20: redirects in circles, without end, to nowhere and to where nothing of ours may go."""

from __future__ import annotations

from collections.abc import Callable

from tests.loopback import answer
from tests.nasty.case import GOOD, MOST_SENT, Case, Ended, cuts, drips, link, redirects, says, steps
from tests.nasty.server import Exchange, Play, Sites

__all__ = ["CASES"]

_OTHER = "http://127.0.0.59:{port}"
_SECRETS = {"Authorization": "Bearer s3cret", "Cookie": "id=s3cret", "Proxy-Authorization": "Basic s3cret"}


async def _to_the_next(exchange: Exchange) -> None:
    """Each page sends to the next."""
    here = int(exchange.step or 0)
    await redirects(f"/{exchange.asked.case}/{here + 1}")(exchange)


async def _ten_times(exchange: Exchange) -> None:
    await (says(answer(GOOD)) if exchange.step == "10" else _to_the_next)(exchange)


async def _with_a_body_without_end(exchange: Exchange) -> None:
    if exchange.step:
        await exchange.say(answer(GOOD))
        return
    await exchange.begin(b"HTTP/1.1 302 Found\r\nLocation: there\r\nTransfer-Encoding: chunked\r\n\r\n")
    await exchange.forever(b"400\r\n" + bytes(1024) + b"\r\n")


def _once(to: str, status: str = "302 Found") -> Play:
    """The beginning of the case sends there, and everything else is a good page."""
    return steps({"": redirects(to, status)})


def _went(*paths: str) -> Callable[[Ended], None]:
    def check(ended: Ended) -> None:
        assert ended.paths == list(paths)

    return check


def _with_secrets(sites: Sites, host: str, name: str) -> object:
    return {"url": link(sites, host, name), "headers": {**_SECRETS, "X-Mine": "kept"}}


def _secrets_stay_here(ended: Ended) -> None:
    first, second = ended.asked
    assert first.host != second.host
    assert first.headers["authorization"] == "Bearer s3cret"
    assert not [name for name, value in second.headers.items() if "s3cret" in value]


def _secrets_go_along(ended: Ended) -> None:
    assert [asked.headers["authorization"] for asked in ended.asked] == ["Bearer s3cret"] * 2


def _posted(sites: Sites, host: str, name: str) -> object:
    return {"url": link(sites, host, name), "method": "POST", "data": "a=1"}


def _methods(*methods: str) -> Callable[[Ended], None]:
    def check(ended: Ended) -> None:
        assert [(asked.method, asked.body) for asked in ended.asked] == [
            (method, b"a=1" if method == "POST" else b"") for method in methods
        ]

    return check


def _was_not_read_on(ended: Ended) -> None:
    assert ended.asked[0].sent < MOST_SENT


def _userinfo_is_not_told(ended: Ended) -> None:
    assert ended.page is not None
    assert "s3cret" not in ended.page.url
    assert not [asked for asked in ended.asked if "authorization" in asked.headers]  # the user has not said so


_TOO_MANY = "too_many_redirects"
_NO_LINK = "bad_content"

CASES = [
    Case("10", "to-itself", redirects("/to-itself/"), _TOO_MANY, "10", asked=11),
    Case("11", "to-and-fro", steps({"": redirects("fro"), "fro": redirects("./")}), _TOO_MANY, asked=11),
    Case("12", "fifty-redirects", _to_the_next, _TOO_MANY, asked=11),
    Case("12a", "ten-redirects", _ten_times, GOOD, asked=11),
    Case("13", "no-location", says(answer(b"moved", status="302 Found")), "bad_content", "[Ll]ocation"),
    Case("14", "relative", _once("there"), GOOD, asked=2, check=_went("", "there")),
    Case("14a", "absolute-path", _once("/absolute-path/a/there"), GOOD, asked=2, check=_went("", "a/there")),
    Case("14b", "no-scheme", _once("//127.0.0.59:{port}/no-scheme/there"), GOOD, asked=2, check=_went("", "there")),
    Case("14c", "query-only", _once("there?a=1&a=2#top"), GOOD, asked=2, check=_went("", "there?a=1&a=2")),
    Case("14d", "fragment-only", redirects("#top"), _TOO_MANY, asked=None),
    Case("14e", "empty-location", redirects(""), "bad_content", asked=None),
    Case("14f", "above-the-root", _once("../../../above-the-root/there"), GOOD, asked=2, check=_went("", "there")),
    Case(
        "16",
        "elsewhere-without-secrets",
        _once(_OTHER + "/elsewhere-without-secrets/there"),
        GOOD,
        asked=2,
        item=_with_secrets,
        check=_secrets_stay_here,
    ),
    Case("16a", "same-host-with-secrets", _once("there"), GOOD, asked=2, item=_with_secrets, check=_secrets_go_along),
    Case(
        "16b",
        "userinfo",
        _once("http://me:s3cret@127.0.0.59:{port}/userinfo/there"),
        GOOD,
        asked=2,
        check=_userinfo_is_not_told,
    ),
    Case("17", "to-a-file", redirects("file:///etc/passwd"), _NO_LINK),
    Case("17a", "to-a-script", redirects("javascript:alert(1)"), _NO_LINK),
    Case("17b", "to-ftp", redirects("ftp://127.0.0.59/"), _NO_LINK),
    Case("17c", "to-data", redirects("data:text/plain,hello"), _NO_LINK),
    Case("17d", "to-no-address", redirects("http://[::1/"), _NO_LINK),
    Case("17e", "to-no-port", redirects("http://127.0.0.59:99999/"), _NO_LINK),
    Case("17f", "to-mail", redirects("mailto:me@example.test"), _NO_LINK),
    Case(
        "18",
        "307-posts-again",
        _once("there", "307 Temporary Redirect"),
        GOOD,
        asked=2,
        item=_posted,
        check=_methods("POST", "POST"),
    ),
    Case(
        "18a",
        "308-posts-again",
        _once("there", "308 Permanent Redirect"),
        GOOD,
        asked=2,
        item=_posted,
        check=_methods("POST", "POST"),
    ),
    Case(
        "18b", "303-gets", _once("there", "303 See Other"), GOOD, asked=2, item=_posted, check=_methods("POST", "GET")
    ),
    Case("18c", "302-gets", _once("there"), GOOD, asked=2, item=_posted, check=_methods("POST", "GET")),
    Case(
        "18d",
        "301-gets",
        _once("there", "301 Moved Permanently"),
        GOOD,
        asked=2,
        item=_posted,
        check=_methods("POST", "GET"),
    ),
    Case(
        "19",
        "location-in-utf-8",
        steps({"": says(answer(b"", "Location: caf\u00c3\u00a9", status="302 Found"))}),
        GOOD,
        asked=2,
        check=_went("", "caf%C3%A9"),
    ),
    Case(
        "19a",
        "location-in-latin-1",
        steps({"": says(answer(b"", "Location: caf\u00e9", status="302 Found"))}),
        GOOD,
        asked=2,
        check=_went("", "caf%E9"),
    ),
    Case("19b", "location-with-spaces", _once("a there"), GOOD, asked=2, check=_went("", "a%20there")),
    Case("20", "cut-after-the-location", cuts(b"HTTP/1.1 302 Found\r\nLocation: there\r\n"), "connect"),
    Case("20a", "redirect-with-endless-body", _with_a_body_without_end, GOOD, asked=2, check=_was_not_read_on),
    Case(
        "20b",
        "redirect-that-never-ends",
        steps({"": drips(answer(b"", "Location: there", status="302 Found", length=10**12), b".", 0.05)}),
        GOOD,
        asked=2,
    ),
    Case(
        "20c",
        "redirect-to-nothing",
        steps({"": redirects("gone"), "gone": says(answer(status="410 Gone"))}),
        "http_4xx",
        "410",
        asked=2,
    ),
]
