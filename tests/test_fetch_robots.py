"""`aiomap.fetch.robots`: what a robots.txt allows, and how often it is asked for."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest
from yarl import URL

from aiomap.errors import MissingExtra
from aiomap.fetch import robots
from aiomap.fetch.failures import FetchFailed
from aiomap.fetch.page import Page
from aiomap.fetch.robots import MOST_BYTES, Robots
from aiomap.testing import simulate
from aiomap.throttling import http_throttle
from tests.conftest import Play

DAY = 24 * 3600
NO_PRIVATE = b"User-agent: *\nDisallow: /private\n"


class Site:
    """Answers for robots.txt: with a body or a failure, each of which takes a second; the last one for ever."""

    def __init__(self, *answers: bytes | FetchFailed) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.who_asked: list[asyncio.Task[Any]] = []
        self.robots = Robots(self.ask, "aiomap")

    async def ask(self, url: URL) -> Page:
        self.asked.append(str(url))
        task = asyncio.current_task()
        assert task is not None
        self.who_asked.append(task)
        await asyncio.sleep(1)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, FetchFailed):
            raise answer
        return Page(str(url), 200, {}, answer)

    async def allows(self, link: str) -> bool:
        try:
            await self.robots.check(URL(link))
        except FetchFailed as failed:
            if failed.kind != "robots":
                raise
            return False
        return True


def allowed(body: bytes, *paths: str) -> list[bool]:
    site = Site(body)

    async def main() -> list[bool]:
        return [await site.allows(f"http://a.invalid{path}") for path in paths]

    return simulate(main, seed=None)


def failure_of(failed: FetchFailed) -> FetchFailed | None:
    async def main() -> FetchFailed | None:
        try:
            await Site(failed).robots.check(URL("http://a.invalid/page"))
        except FetchFailed as error:
            return error
        return None

    return simulate(main, seed=None)


def test_a_page_that_is_not_allowed_is_refused_and_the_message_says_by_whom() -> None:
    async def main() -> None:
        site = Site(NO_PRIVATE)
        await site.robots.check(URL("https://me:pw@a.invalid:8443/public"))
        with pytest.raises(FetchFailed) as caught:
            await site.robots.check(URL("https://me:pw@a.invalid:8443/private/1?token=x"))
        assert caught.value.kind == "robots"
        assert caught.value.message == (
            "https://a.invalid:8443/robots.txt does not allow aiomap to fetch it (--no-robots asks anyway)"
        )
        assert site.asked == ["https://a.invalid:8443/robots.txt"]

    simulate(main, seed=None)


@pytest.mark.parametrize(
    ("rules", "path", "is_allowed"),
    [
        (b"User-agent: *\nDisallow: /", "/a", False),
        (b"User-agent: *\nDisallow:", "/a", True),
        (b"User-agent: *\nDisallow: /a", "/b", True),
        (b"User-agent: other\nDisallow: /", "/a", True),
        (b"User-agent: aiomap\nDisallow: /\n\nUser-agent: *\nAllow: /", "/a", False),
        (b"User-agent: *\nDisallow: /\nUser-agent: AIOMAP/1.0\nDisallow: /b", "/a", True),
        (b"User-agent: aiomap\n\nUser-agent: x\nDisallow: /", "/a", False),  # named together
        (b"User-agent: aiomap\nAllow: /\nUser-agent: *\nDisallow: /", "/a", True),
        (b"User-agent: aiomap\nDisallow: /a\nUser-agent: x\nAllow: /\nUser-agent: aiomap\nDisallow: /c", "/a", False),
        (b"User-agent: aiomap\nDisallow: /a\nUser-agent: x\nAllow: /\nUser-agent: aiomap\nDisallow: /c", "/c", False),
        (b"User-agent: aiomap\nDisallow: /a\nUser-agent: *\nDisallow: /b", "/b", True),
        (b"User-agent: aiomap\nDisallow:\nUser-agent: *\nDisallow: /", "/a", True),  # a group without rules counts
        (b"User-agent: ai\nDisallow: /", "/a", True),  # the whole token, not its beginning
        (b"User-agent: aiomapper\nDisallow: /", "/a", True),
        (b"User-agent: *bot\nDisallow: /", "/a", True),
        (b"User-agent: *\nSitemap: http://x/\nUser-agent: x\nDisallow: /", "/a", False),  # others do not interfere
        (b"Disallow: /\nUser-agent: *\nDisallow: /b", "/a", True),  # no agent named yet
        (b"\xef\xbb\xbfUser-agent: *\nDisallow: /", "/a", False),
        (b"USER-AGENT:*\r\nDISALLOW:/a # why\r\n", "/a", False),
        (b"User-agent: *\rDisallow: /a\r", "/a", False),
        (b"useragent *\ndissalow /a", "/a", False),
        (b"User-agent: *\nDisallow: /\nAllow: /a$", "/a", True),
        (b"User-agent: *\nDisallow: /\nAllow: /a$", "/ab", False),
        (b"User-agent: *\nDisallow: /a/b\nAllow: /a", "/a/b", False),  # the longest match
        (b"User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),  # and of two, the one that allows
        (b"User-agent: *\nDisallow: /*.php$", "/x/y.php", False),
        (b"User-agent: *\nDisallow: /*?id=", "/x?a=1&id=2", True),
        (b"User-agent: *\nDisallow: /*id=", "/x?a=1&id=2", False),  # the query is part of it
        (b"User-agent: *\nDisallow: /caf\xc3\xa9", "/caf%C3%A9/1", False),
        (b"User-agent: *\nDisallow: /caf%c3%a9", "/café/1", False),
        (b"User-agent: *\nDisallow: /private", "//private", True),
        (b"User-agent: *\nCrawl-delay: 1000", "/a", True),
        (b"User-agent: *\nDisallow: \xff\nDisallow: /a", "/a", False),
        (b"<!doctype html><html><body>Disallow: / what</body></html>", "/a", True),
        (b"\x00\xff" * 1000, "/a", True),
        (b"", "/a", True),
    ],
)
def test_rules_mean_what_rfc_9309_says(rules: bytes, path: str, is_allowed: bool) -> None:
    assert allowed(rules, path) == [is_allowed]


def test_robots_txt_itself_is_always_allowed_and_asked_for_by_nobody() -> None:
    async def main() -> None:
        site = Site(b"User-agent: *\nDisallow: /")
        assert await site.allows("http://a.invalid/robots.txt?x=1")
        assert site.asked == []

    simulate(main, seed=None)


def test_of_a_long_file_the_first_512_kib_count_without_the_line_that_is_cut() -> None:
    start = b"User-agent: *\nDisallow: /first\n"
    filler = b"#" * (MOST_BYTES - len(start) - len(b"\nDisallow: /"))
    long = start + filler + b"\nDisallow: /last\nDisallow: /\n"
    assert len(long[:MOST_BYTES]) == MOST_BYTES
    for body in (long, long[:MOST_BYTES]):  # as it is, or as whoever asks has cut it
        assert allowed(body, "/first", "/last", "/page") == [False, True, True]


def test_of_a_file_that_names_many_agents_nothing_is_kept_more_than_once() -> None:
    """To give a parser all rules for all of these agents would make 200 million rules of 400 KB."""
    agents = b"".join(b"User-agent: %x\n" % number for number in range(14_000))
    rules = b"".join(b"disallow: /%x\n" % number for number in range(14_000))
    body = agents + b"User-agent: *\n" + rules
    assert allowed(body, "/a1", "/page") == [False, True]
    assert robots._rules_for("aiomap", body).encode() + b"\n" == rules


def test_a_rule_of_many_wildcards_takes_no_time_that_grows_with_each_of_them() -> None:
    """With a regular expression for it, this test would not end."""
    rule = b"User-agent: *\nDisallow: /" + b"*a" * 50 + b"b"
    assert allowed(rule, "/" + "a" * 5_000, "/" + "a" * 5_000 + "b") == [True, False]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 451])
def test_a_robots_txt_that_is_not_there_allows_everything_for_a_day(status: int) -> None:
    async def main() -> None:
        site = Site(FetchFailed("http_4xx", "no", status))
        assert await site.allows("http://a.invalid/1")
        assert await site.allows("http://a.invalid/2")
        assert len(site.asked) == 1

    simulate(main, seed=None)


def test_one_redirect_after_another_is_a_robots_txt_that_is_not_there() -> None:
    assert failure_of(FetchFailed("too_many_redirects", "more than 10 redirects")) is None


@pytest.mark.parametrize(
    "failed",
    [
        FetchFailed("http_4xx", "429 Too Many Requests", 429, {"retry-after": "7"}),
        FetchFailed("http_5xx", "503 Service Unavailable", 503, {"retry-after": "7"}),
        FetchFailed("http_5xx", "500 Internal Server Error", 500),
        FetchFailed("dns", "a.invalid: no such host"),
        FetchFailed("connect", "refused"),
        FetchFailed("timeout", "not done after 30 s"),
        FetchFailed("tls", "no certificate"),
        FetchFailed("refused_address", "the address 10.0.0.1 is not public"),
        FetchFailed("too_large", "more than 5 bytes"),
        FetchFailed("bad_content", "no valid HTTP"),
    ],
    ids=lambda failed: failed.message,
)
def test_if_nobody_can_say_what_is_allowed_the_page_fails_as_the_robots_txt_did(failed: FetchFailed) -> None:
    told = failure_of(failed)
    assert told is not None
    assert (told.kind, told.status, told.headers) == (failed.kind, failed.status, failed.headers)
    assert told.message == f"robots.txt: {failed.message}"
    assert repr(http_throttle(told)) == repr(http_throttle(failed))


def test_the_cause_of_a_failure_is_kept() -> None:
    async def ask(url: URL) -> Page:
        raise FetchFailed("timeout", "late") from TimeoutError()

    async def main() -> None:
        with pytest.raises(FetchFailed) as caught:
            await Robots(ask, "aiomap").check(URL("http://a.invalid/"))
        assert isinstance(caught.value.__cause__, TimeoutError)

    simulate(main, seed=None)


def test_all_who_wait_share_one_request_and_what_comes_of_it(play: Play) -> None:
    async def main() -> None:
        site = Site(NO_PRIVATE)
        links = [f"http://a.invalid/{name}{number}" for number in range(20) for name in ("private", "public")]
        assert await asyncio.gather(*map(site.allows, links)) == [False, True] * 20
        assert site.asked == ["http://a.invalid/robots.txt"]
        assert asyncio.get_running_loop().time() == 1
        del links
        gc.collect()
        assert not site.robots._asking  # nothing is left of the waiting

    play(main)


def test_a_failure_is_shared_by_all_who_waited_and_then_forgotten(play: Play) -> None:
    async def main() -> None:
        site = Site(FetchFailed("http_5xx", "busy", 503), NO_PRIVATE)
        checks = [site.robots.check(URL(f"http://a.invalid/{number}")) for number in range(10)]
        ended = await asyncio.gather(*checks, return_exceptions=True)
        assert [str(error) for error in ended] == ["robots.txt: busy"] * 10
        assert len(set(map(id, ended))) == 10  # an exception of its own for everyone
        assert len(site.asked) == 1
        assert not await site.allows("http://a.invalid/private")
        assert len(site.asked) == 2

    play(main)


def test_whoever_comes_while_a_failure_is_told_to_others_asks_anew() -> None:
    async def main() -> None:
        site = Site(FetchFailed("http_5xx", "busy", 503), NO_PRIVATE)

        async def check_twice() -> bool:
            with pytest.raises(FetchFailed, match="busy"):
                await site.allows("http://a.invalid/1")
            return await site.allows("http://a.invalid/1")

        assert await asyncio.gather(*(check_twice() for _ in range(5))) == [True] * 5
        assert len(site.asked) == 2

    simulate(main, seed=None)


def test_if_the_one_who_asks_is_cancelled_the_next_one_asks(play: Play) -> None:
    async def main() -> None:
        site = Site(NO_PRIVATE)
        tasks = [asyncio.create_task(site.allows("http://a.invalid/private")) for _ in range(3)]
        await asyncio.sleep(0.5)
        site.who_asked[0].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(end, asyncio.CancelledError) for end in ended) == 1
        assert ended.count(False) == 2
        assert len(site.asked) == 2
        assert asyncio.get_running_loop().time() == 1.5

    play(main)


def test_every_origin_has_rules_of_its_own() -> None:
    async def main() -> None:
        site = Site(NO_PRIVATE)
        links = ["http://a.invalid/", "https://a.invalid/", "http://a.invalid:81/", "http://b.invalid/"]
        for link in [*links, "http://A.invalid:80/", "https://a.invalid:443/"]:
            await site.allows(link)
        assert site.asked == [f"{link}robots.txt" for link in links]

    simulate(main, seed=None)


def test_rules_are_asked_for_again_after_a_day() -> None:
    async def main() -> None:
        site = Site(NO_PRIVATE, b"")
        assert not await site.allows("http://a.invalid/private")
        await asyncio.sleep(DAY - 1)
        assert not await site.allows("http://a.invalid/private")
        await asyncio.sleep(1)
        assert await site.allows("http://a.invalid/private")
        assert len(site.asked) == 2

    simulate(main, seed=None)


def test_the_origins_that_were_not_used_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "_MOST_ORIGINS", 3)

    async def main() -> None:
        site = Site(NO_PRIVATE)
        for name in "abcadabc":
            await site.allows(f"http://{name}.invalid/")
        assert [link[7] for link in site.asked] == ["a", "b", "c", "d", "b", "c"]

    simulate(main, seed=None)


def test_all_rules_together_have_a_greatest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "_MOST_RULES", 2_500)

    async def main() -> None:
        site = Site(b"User-agent: *\nDisallow: /" + b"a" * 990)  # about 1,000 each
        for name in "abcbca":
            await site.allows(f"http://{name}.invalid/")
        assert [link[7] for link in site.asked] == ["a", "b", "c", "a"]

    simulate(main, seed=None)


def test_rules_that_are_too_old_count_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "_MOST_RULES", 2_500)

    async def main() -> None:
        site = Site(b"User-agent: *\nDisallow: /" + b"a" * 990)
        await site.allows("http://a.invalid/")
        await asyncio.sleep(DAY)
        for name in "aba":
            await site.allows(f"http://{name}.invalid/")
        assert [link[7] for link in site.asked] == ["a", "a", "b"]

    simulate(main, seed=None)


def test_the_agent_may_be_written_in_any_case() -> None:
    async def main() -> None:
        asking = Robots(Site(b"User-agent: aiomap\nDisallow: /").ask, "AioMap")
        with pytest.raises(FetchFailed, match="does not allow aiomap"):
            await asking.check(URL("http://a.invalid/"))

    simulate(main, seed=None)


def test_without_protego_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "protego", None)
    with pytest.raises(MissingExtra, match=r'needs protego.*pip install "aiomap\[http\]"'):
        Robots(Site(b"").ask, "aiomap")
