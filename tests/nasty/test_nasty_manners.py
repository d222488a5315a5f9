"""However a host answers, we are polite to it: seen from its side, with many hosts asked at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest

from aiomap import Outcome, PerKey, Rate, Retry, aoutcomes
from aiomap.fetch import Fetcher, Page, failure, host_of
from tests.loopback import answer
from tests.nasty import NASTY
from tests.nasty.case import GOOD, MOST_BODY, says
from tests.nasty.cases_throttling import CROWDED, GAP, HOSTS, Host
from tests.nasty.log import Asked, Log
from tests.nasty.names import Names, at
from tests.nasty.server import HOSTS as ADDRESSES
from tests.nasty.server import Exchange, Sites

pytestmark = NASTY

# Hosts whose links all lead to the one that is crowded by it.
LEADERS = [f"leader-{number}" for number in range(8)]
RETRIES = 3
WORTH_IT = {"connect", "dns", "http_5xx"}


@dataclass
class Visit:
    """How the links ended, and what the hosts saw of it."""

    outcomes: dict[str, list[Outcome[str, Page]]] = field(default_factory=dict[str, list[Outcome[str, Page]]])
    log: Log = field(default_factory=Log)


@pytest.fixture(scope="module")
def visit() -> Visit:
    return asyncio.run(_visit())


async def _visit() -> Visit:
    visit = Visit()
    names = [host.name for host in HOSTS] + [CROWDED, *LEADERS]
    known = Names({f"{name}.test": at(address) for name, address in zip(names, ADDRESSES, strict=False)})
    async with Sites() as sites:
        sites.plays.update({host.name: host.play for host in HOSTS})
        sites.plays.update(dict.fromkeys(LEADERS, _leads))
        sites.plays.update({CROWDED: _slow, "robots.txt": _robots})
        polite = PerKey(host_of, 2, Rate(1, GAP))
        fetcher = Fetcher(max_body=MOST_BODY, allow_private=True, per_host=polite, resolver=known)
        links = [sites.url(f"{host.name}.test", f"/{host.name}/{n}") for host in HOSTS for n in range(host.links)]
        links += [sites.url(f"{name}.test", f"/{name}/{name}") for name in LEADERS]
        links += [sites.url("calm.test", "/private/page")]
        retry = Retry(_worth_it, RETRIES + 1, base=0.01, cap=0.05, budget=None, throttle_timeout=1.8)
        async with (
            fetcher,
            aoutcomes(fetcher.fetch, links, 100, timeout=60, retry=retry, limits=[polite]) as outcomes,
        ):
            async for outcome in outcomes:
                visit.outcomes.setdefault(outcome.item.split("/")[3], []).append(outcome)
        visit.log = sites.log
    return visit


async def _leads(exchange: Exchange) -> None:
    to = exchange.sites.url(f"{CROWDED}.test", f"/{CROWDED}/{exchange.step}")
    await exchange.say(answer(b"", f"Location: {to}", status="302 Found"))


async def _slow(exchange: Exchange) -> None:
    """Takes longer than the gap: without a bound there would be more of them at once."""
    await asyncio.sleep(3 * GAP)
    await exchange.say(answer(GOOD))


async def _robots(exchange: Exchange) -> None:
    rules = b"User-agent: *\nDisallow: /private/\n"
    await exchange.say(answer(rules) if exchange.asked.host == "calm.test" else answer(status="404 Not Found"))


def _worth_it(error: Exception) -> bool:
    return failure(error).kind in WORTH_IT


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: f"{host.number}-{host.name}")
def test_every_link_of_a_host_ends_as_it_should(host: Host, visit: Visit) -> None:
    outcomes = visit.outcomes[host.name]
    assert len(outcomes) == host.links
    for outcome in outcomes:
        if isinstance(host.ends, bytes):
            assert outcome.value is not None, outcome.error
            assert outcome.value.body == host.ends
        else:
            assert outcome.error is not None
            assert failure(outcome.error).kind == host.ends, outcome.error
    asked = visit.log.of(host.name)
    if host.each is not None:
        assert set(Counter(one.path for one in asked).values()) == {host.each}
    if host.check is not None:
        host.check(asked)


def test_no_host_is_asked_for_more_than_two_things_at_once(visit: Visit) -> None:
    assert max(visit.log.most_at_once().values()) <= 2


def test_the_requests_of_a_host_are_spaced(visit: Visit) -> None:
    for host, gap in visit.log.smallest_gap().items():
        assert gap >= GAP - visit.log.on_its_way, host
    for host, asked in visit.log.hosts().items():
        # A small tolerance for all of them together: a loop that is late now and then hides nothing here.
        assert asked[-1].at - asked[0].at >= (len(asked) - 1) * GAP - visit.log.on_its_way, host


def test_a_host_that_others_redirect_to_is_asked_no_faster_for_it(visit: Visit) -> None:
    crowded = visit.log.hosts()[f"{CROWDED}.test"]
    assert len(crowded) == len(LEADERS) + 1
    assert crowded[-1].at - crowded[0].at >= len(LEADERS) * GAP - visit.log.on_its_way
    assert all(outcome.ok for name in LEADERS for outcome in visit.outcomes[name])


def test_nothing_is_sent_before_the_pause_that_a_host_asked_for_is_over(visit: Visit) -> None:
    assert any(asked.opens > asked.ended for asked in visit.log.asked)
    assert visit.log.too_early() == []


def test_the_pause_of_one_host_is_none_of_the_others(visit: Visit) -> None:
    first, *_ = visit.log.of("pauses")
    assert [asked for asked in visit.log.of("calm") if first.ended < asked.at < first.opens]


def test_nothing_is_asked_for_again_that_had_been_answered(visit: Visit) -> None:
    assert [asked.path for asked in visit.log.repeats()] == []


def test_no_link_is_asked_for_more_often_than_its_attempts(visit: Visit) -> None:
    for name, outcomes in visit.outcomes.items():
        paths = Counter(asked.path for asked in visit.log.of(name))
        for outcome in outcomes:
            assert paths["/" + outcome.item.split("/", 3)[3]] <= outcome.attempts


def test_robots_txt_is_asked_for_once_a_host_and_obeyed(visit: Visit) -> None:
    asked = Counter(one.host for one in visit.log.asked if one.path == "/robots.txt")
    assert set(asked.values()) == {1}
    assert set(asked) == set(visit.log.hosts())
    [refused] = visit.outcomes["private"]
    assert refused.error is not None
    assert failure(refused.error).kind == "robots"
    assert refused.attempts == 1
    assert visit.log.of("private") == []


def test_robots_txt_comes_before_the_first_page(visit: Visit) -> None:
    first: dict[str, Asked] = {}
    for asked in visit.log.asked:
        first.setdefault(asked.host, asked)
    assert {asked.path for asked in first.values()} == {"/robots.txt"}


def test_a_host_with_most_of_the_list_holds_up_nobody_else(visit: Visit) -> None:
    last = max(asked.at for asked in visit.log.of("most-of-the-list"))
    assert max(asked.at for asked in visit.log.of("calm")) < last


def test_74_a_pause_of_hours_is_cut_to_the_longest_that_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an item that it holds up for too long fails, with what the host said."""
    monkeypatch.setattr("aiomap.fetch.politeness.MAX_RETRY_AFTER", 0.2)

    async def main() -> None:
        async with Sites(ADDRESSES[:2]) as sites:
            hour = answer(b"", "Retry-After: 3600", status="429 Too Many Requests")
            year = answer(b"", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", status="429 Too Many Requests")
            sites.plays.update({"hour": says(hour), "year": says(year)})
            links = [sites.url(address, path) for address, path in zip(ADDRESSES, ("/hour/", "/year/"), strict=False)]
            polite = PerKey(host_of, 2, Rate(1, GAP))
            retry = Retry(_worth_it, max_retry_after=0.2, throttle_timeout=0.3)
            fetcher = Fetcher(allow_private=True, robots=False, per_host=polite)
            async with (
                fetcher,
                aoutcomes(fetcher.fetch, links, timeout=5, retry=retry, limits=[polite]) as outcomes,
            ):
                failed = [failure(outcome.error) async for outcome in outcomes if outcome.error]
            assert [one.status for one in failed] == [429, 429], failed
            assert len(sites.log.asked) > 2

    asyncio.run(main())


def test_robots_txt_is_not_counted_by_the_limit_of_its_host() -> None:
    async def main() -> None:
        async with Sites(ADDRESSES[:2]) as sites:
            sites.plays["good"] = says(answer(GOOD))
            polite = PerKey(host_of, 1, Rate(1, 3600))  # the page would have to wait for the next hour
            async with Fetcher(allow_private=True, per_host=polite) as fetcher:
                page = await asyncio.wait_for(fetcher.fetch(sites.url(ADDRESSES[0], "/good/")), 30)
            assert page.body == GOOD
            assert [asked.path for asked in sites.log.asked] == ["/robots.txt", "/good/"]

    asyncio.run(main())
