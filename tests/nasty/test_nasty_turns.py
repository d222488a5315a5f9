"""What cannot be seen in one request: connections used again, hosts that hang among others, addresses that change."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest

from aiomap import PerKey, Rate, Retry, aoutcomes
from aiomap.fetch import Fetcher, FetchFailed, failure, host_of
from tests.loopback import answer
from tests.nasty import NASTY, cases_bodies
from tests.nasty.case import GOOD, MOST_BODY, Case, cuts, link, redirects, says, stalls
from tests.nasty.names import Lookup, Names, at, once_failing
from tests.nasty.play import sites_for
from tests.nasty.server import HOSTS, Exchange, Play, Sites

pytestmark = NASTY

A, B = HOSTS[:2]
PATIENT = Retry(FetchFailed, attempts=100, base=0.001, cap=0.1, budget=None)


def play(main: Callable[[Sites, Fetcher], Awaitable[None]], names: dict[str, Lookup] | None = None) -> None:
    """Runs it with sites and a fetcher that may go to them."""

    async def with_both() -> None:
        async with (
            Sites() as sites,
            Fetcher(max_body=MOST_BODY, allow_private=True, robots=False, resolver=Names(names or {})) as fetcher,
        ):
            await main(sites, fetcher)

    asyncio.run(with_both())


async def kind_of(fetched: Awaitable[object]) -> str:
    with pytest.raises(FetchFailed) as failed:
        await fetched
    return failed.value.kind


async def _junk_later(exchange: Exchange) -> None:
    await exchange.say(answer(b"good", length=4))
    await asyncio.sleep(0.01)
    await exchange.begin(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")


POISON: dict[str, Play] = {
    "24-junk-at-once": says(answer(b"good, and some junk", length=4)),
    "24-junk-later": _junk_later,
    "24-another-answer": says(answer(b"good", length=4) + answer(b"evil")),
    "32-204-with-a-body": says(answer(b"a body", status="204 No Content")),
    "33-head-with-a-body": says(answer(b"a body")),
    "21-too-much": says(answer(bytes(MOST_BODY * 2))),
    "28-truncated-gzip": says(answer(b"\x1f\x8b\x08", "Content-Encoding: gzip")),
    "404-with-a-long-page": says(answer(bytes(200_000), status="404 No")),
    "302-with-a-body": redirects("/elsewhere/", body=b"moved " * 1000),
}


@pytest.mark.parametrize("name", POISON)
def test_no_answer_poisons_the_next_one_of_its_host(name: str) -> None:
    """Whatever else came on a connection must not be taken for the answer to another request."""

    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays.update({name: POISON[name], "good": says(answer(GOOD)), "elsewhere": says(answer(b"elsewhere"))})
        for _ in range(3):
            method = "HEAD" if "head" in name else "GET"
            try:
                page = await fetcher.fetch({"url": sites.url(A, f"/{name}/"), "method": method})
            except FetchFailed:
                pass
            else:
                assert page.body in (b"good", b"", b"elsewhere")
            await sites.all_played()
            await asyncio.sleep(0)  # what came late has been read, too
            await asyncio.sleep(0)
            assert (await fetcher.fetch(sites.url(A, "/good/"))).body == GOOD

    play(main)


def test_24_connections_that_were_spoilt_are_not_used_however_many_there_are() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays.update({"junk": _junk_later, "good": says(answer(GOOD))})
        links = [sites.url(A, f"/junk/{number}") for number in range(5)]
        async with aoutcomes(fetcher.fetch, links, 5) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True] * 5
        await sites.all_played()
        for _ in range(2):
            await asyncio.sleep(0)
        assert (await fetcher.fetch(sites.url(A, "/good/"))).body == GOOD

    play(main)


def test_49_a_kept_connection_that_is_dropped_is_a_failure_and_no_second_request() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays.update({"good": says(answer(GOOD)), "drops": cuts()})
        for _ in range(3):
            await fetcher.fetch(sites.url(A, "/good/"))
            assert await kind_of(fetcher.fetch(sites.url(A, "/drops/"))) == "connect"
        assert [asked.case for asked in sites.log.asked] == ["good", "drops"] * 3
        # Else it would not be the case that is meant here.
        assert len(sites.log.connected) == 3

    play(main)


def test_51_a_server_that_closes_after_every_third_answer_gives_all_its_pages() -> None:
    async def closes_after_three(exchange: Exchange) -> None:
        connection = [asked for asked in exchange.sites.log.asked if asked.connection == exchange.asked.connection]
        await (cuts if len(connection) % 3 == 0 else says)(answer(GOOD))(exchange)

    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["three"] = closes_after_three
        links = [sites.url(A, f"/three/{number}") for number in range(30)]
        async with aoutcomes(fetcher.fetch, links, 2, retry=PATIENT) as outcomes:
            attempts = [outcome.attempts async for outcome in outcomes if outcome.ok]
        assert len(attempts) == 30
        assert 30 <= len(sites.log.asked) <= sum(attempts)

    play(main)


def test_50_connections_are_used_again_and_not_one_opened_for_each_link() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["good"] = says(answer(GOOD))
        links = [sites.url(A, f"/good/{number}") for number in range(100)]
        async with aoutcomes(fetcher.fetch, links, 5) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True] * 100
        assert len(sites.log.connected) <= 10

    play(main)


def test_52_a_host_that_refuses_connections_for_a_while_is_served_when_it_is_back() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["good"] = says(answer(GOOD))
        back = asyncio.create_task(sites.listen_late("127.0.0.70", 0.2))
        await asyncio.sleep(0)
        links = [sites.url("127.0.0.70", f"/good/{number}") for number in range(5)]
        async with aoutcomes(fetcher.fetch, links, 5, retry=PATIENT) as outcomes:
            ended = [(outcome.ok, outcome.attempts) async for outcome in outcomes]
        await back
        assert all(ok for ok, _ in ended)
        assert max(attempts for _, attempts in ended) > 1
        assert len(sites.log.asked) == 5

    play(main)


def test_59_a_name_that_was_not_known_for_a_moment_is_looked_up_again() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["good"] = says(answer(GOOD))
        async with aoutcomes(fetcher.fetch, [sites.url("flaps.test", "/good/")], retry=PATIENT) as outcomes:
            assert [(outcome.ok, outcome.attempts) async for outcome in outcomes] == [(True, 2)]

    play(main, {"flaps.test": once_failing(A)})


def test_9_hosts_that_hang_hold_up_nobody_else() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays.update({"good": says(answer(GOOD)), "hangs": stalls()})
        hanging = [sites.url(A, f"/hangs/{number}") for number in range(50)]
        others = [sites.url(host, "/good/") for host in HOSTS[1:]]
        polite = PerKey(host_of, 2)
        served = 0
        async with aoutcomes(fetcher.fetch, hanging + others, 10, limits=[polite]) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok
                served += 1
                if served == len(others):  # those that hang are still at it
                    break
        assert len(sites.log.of("hangs")) == 2

    play(main)


def test_57_names_that_are_never_found_hold_up_nobody_else() -> None:
    released = asyncio.Event()

    async def held(_: int) -> list[str]:
        await released.wait()
        return [A]

    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["good"] = says(answer(GOOD))
        slow = [sites.url(f"slow-{number}.test", "/good/") for number in range(150)]
        others = [sites.url(f"quick-{number}.test", "/good/") for number in range(50)]
        ended: list[bool] = []
        async with aoutcomes(fetcher.fetch, slow + others, 200) as outcomes:
            async for outcome in outcomes:
                ended.append("slow" in outcome.item)
                if len(ended) == len(others):
                    assert not any(ended)
                    released.set()
        assert len(ended) == 200

    names = {f"slow-{number}.test": held for number in range(150)}
    play(main, names | {f"quick-{number}.test": at(B) for number in range(50)})


def test_45_a_cookie_is_neither_kept_nor_sent() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["sets"] = says(answer(GOOD, "Set-Cookie: id=1; Path=/"))
        for _ in range(3):
            await fetcher.fetch(sites.url(A, "/sets/"))
        assert not [asked for asked in sites.log.asked if "cookie" in asked.headers]

    play(main)


def test_7_a_page_that_takes_for_ever_takes_one_place_and_no_more() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays.update({"good": says(answer(GOOD)), "hangs": stalls()})
        links = [sites.url(A, "/hangs/"), *(sites.url(A, f"/good/{number}") for number in range(99))]
        async with aoutcomes(fetcher.fetch, links, 2, timeout=60) as outcomes:
            served = 0
            async for outcome in outcomes:
                assert outcome.ok
                served += 1
                if served == 99:
                    break

    play(main)


def test_84_equal_links_are_fetched_each() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["good"] = says(answer(GOOD))
        async with aoutcomes(fetcher.fetch, [sites.url(A, "/good/")] * 3) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True] * 3
        assert len(sites.log.asked) == 3

    play(main)


def test_85_links_that_differ_are_different_links() -> None:
    """A slash, a capital, a doubled parameter: what they mean is for the server to say."""
    paths = ["/good/a", "/good/a/", "/good/A", "/good//a", "/good/a?", "/good/a?x=1&x=1", "/good/a;b", "/good/a%2Fb"]

    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["good"] = says(answer(GOOD))
        async with aoutcomes(fetcher.fetch, [sites.url(A, path) for path in paths], 1) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True] * len(paths)
        assert [asked.path.rstrip("?") for asked in sites.log.asked] == [path.rstrip("?") for path in paths]

    play(main)


def test_87_as_many_hosts_as_links() -> None:
    async def main(sites: Sites, fetcher: Fetcher) -> None:
        sites.plays["good"] = says(answer(GOOD))
        links = [sites.url(f"host-{number}.test", f"/good/{number}") for number in range(300)]
        polite = PerKey(host_of, 2, Rate(1, 5))  # which a host of one link never comes to feel
        async with aoutcomes(fetcher.fetch, links, 50, timeout=60, limits=[polite]) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True] * 300
        assert len(sites.log.hosts()) == 300

    play(main, {f"host-{number}.test": at(HOSTS[number % len(HOSTS)]) for number in range(300)})


@pytest.mark.parametrize("link", ["http://{A}:{port}/good/", "http://public.test:{port}/good/"])
def test_17_an_address_that_is_not_public_is_not_even_connected_to(link: str) -> None:
    async def main() -> None:
        async with Sites(HOSTS[:2]) as sites, Fetcher(robots=False, resolver=Names({"public.test": at(A)})) as fetcher:
            item = link.replace("{A}", A).replace("{port}", str(sites.port))
            assert await kind_of(fetcher.fetch(item)) == "refused_address"
            assert sites.log.connected == []

    asyncio.run(main())


def test_17_neither_a_redirect_nor_a_name_that_changes_leads_to_an_address_that_is_not_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One address of loopback stands for the public internet, and the rest for what must not be reached.
    monkeypatch.setattr("aiomap.fetch.addresses.is_public", A.__eq__)

    async def rebound(before: int) -> list[str]:
        return [B] if before else [A]

    async def main() -> None:
        known = Names({"rebound.test": rebound, "both.test": at(B, A)})
        async with Sites(HOSTS[:2]) as sites, Fetcher(robots=False, resolver=known) as fetcher:
            sites.plays.update({"good": says(answer(GOOD)), "leads": redirects(f"http://{B}:{{port}}/good/")})
            sites.plays["leads-by-name"] = redirects("http://private.test:{port}/good/")
            known.known["private.test"] = at(B)
            for path in ("/leads/", "/leads-by-name/"):
                assert await kind_of(fetcher.fetch(sites.url(A, path))) == "refused_address"
            assert (await fetcher.fetch(sites.url("both.test", "/good/"))).body == GOOD
            assert (await fetcher.fetch(sites.url("rebound.test", "/good/"))).body == GOOD
        async with Sites(HOSTS[:2]) as sites, Fetcher(robots=False, resolver=known) as fetcher:
            assert await kind_of(fetcher.fetch(sites.url("rebound.test", "/good/"))) == "refused_address"
            assert B not in sites.log.connected

    asyncio.run(main())


@pytest.mark.parametrize("case", cases_bodies.BOMBS, ids=lambda case: f"{case.number}-{case.name}")
def test_a_bomb_takes_little_memory(case: Case) -> None:
    async def main() -> int:
        async with (
            sites_for([case]) as sites,
            Fetcher(max_body=MOST_BODY, allow_private=True, robots=False) as fetcher,
        ):
            gc.collect()
            tracemalloc.start()
            try:
                assert await kind_of(fetcher.fetch(link(sites, A, case.name))) == "too_large"
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert asyncio.run(main()) < 6 << 20  # of the 30 MB, or the endless, that it stands for


SHORT_OF_FILES = """
import asyncio, resource, sys
from aiomap import aoutcomes
from aiomap.fetch import Fetcher

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    async with Fetcher(allow_private=True, robots=False) as fetcher:
        async with aoutcomes(fetcher.fetch, sys.argv[1:], 100, timeout=60) as outcomes:
            failed = [outcome.error async for outcome in outcomes if outcome.error]
    print(failed)

asyncio.run(main())
"""


def test_53_too_few_files_for_all_connections_slow_it_down_and_fail_nothing() -> None:
    async def main() -> None:
        async with Sites() as sites:

            async def slow(exchange: Exchange) -> None:
                await asyncio.sleep(0.05)
                await exchange.cut(answer(GOOD, "Connection: close"))

            sites.plays["slow"] = slow
            links = [sites.url(host, "/slow/") for host in HOSTS]
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", SHORT_OF_FILES, *links, stdout=subprocess.PIPE
            )
            out, _ = await client.communicate()
            assert out == b"[]\n"
            assert len(sites.log.asked) == len(HOSTS)

    asyncio.run(main())


def test_16_a_redirect_to_a_host_whose_gate_is_closed_waits_for_it() -> None:
    async def main() -> None:
        polite = PerKey(host_of, 2, Rate(1, 0.01))
        async with Sites(HOSTS[:3]) as sites, Fetcher(allow_private=True, robots=False, per_host=polite) as fetcher:
            pauses = answer(b"", "Retry-After: 1", status="429 No")

            async def once(exchange: Exchange) -> None:
                await exchange.say(answer(GOOD) if exchange.asked.path.endswith("there") else pauses)

            sites.plays.update({"pauses": once, "leads": redirects(f"http://{B}:{{port}}/pauses/there")})
            assert failure(await error_of(fetcher.fetch(sites.url(B, "/pauses/")))).status == 429
            assert (await fetcher.fetch(sites.url(A, "/leads/"))).body == GOOD
            first, last = sites.log.of("pauses")
            assert last.at >= first.opens  # nothing was on its way

    asyncio.run(main())


async def error_of(fetched: Awaitable[object]) -> Exception:
    with pytest.raises(FetchFailed) as failed:
        await fetched
    return failed.value
