"""A web site on loopback for the demonstration: pages that link to each other; some are slow, missing or broken.

    python demo/site.py [PAGES] [SEED]

It prints its address and serves until its standard input is closed. The same seed gives the same pages, however often
and in whatever order they are asked for. `/links.txt` lists them, `/failing` says how many of them fail; `/robots.txt`
forbids some. Who asks for too many at once gets 429 and a `Retry-After`; `/stats` says how often that was, who did not
keep to it, who went where robots.txt forbids it, and who asked again for what had been given.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

Kind = Literal["plain", "gzip", "redirect", "missing", "broken", "private"]

# How many in a thousand pages are of which kind.
KINDS: dict[Kind, int] = {"plain": 860, "gzip": 100, "redirect": 20, "missing": 10, "broken": 5, "private": 5}
FAILING: tuple[Kind, ...] = ("missing", "broken", "private")
# The private pages are not for programs.
ROBOTS = "User-agent: *\nDisallow: /private/\n"
MEDIAN_LATENCY = 0.025  # seconds
SLOW = 0.01  # of all pages; they take one to two seconds

# So many pages may be on their way at once. With these latencies that is some 1,400 a second, about as many as one
# process can fetch.
AT_ONCE = 60
# Who asks for more is answered 429, and is to stay away for so many seconds. Short, so that the demonstration is; but
# longer than ON_ITS_WAY, or nobody could be seen to come too early. (RFC 9110 has whole seconds. Fractions are common.)
RETRY_AFTER = 0.3
# What comes so many seconds after a 429 or sooner may have been sent before the 429 was received.
ON_ITS_WAY = 0.2

TOPICS = "bees rivers clocks bridges maps salt kites lanterns ferries moss orchards tides"
WORDS = "the a slow quiet old map of bees and rivers is kept in every harbour where ferries wait for tides"


@dataclass(frozen=True)
class Page:
    """One page of the site: all there is to know about it follows from its number and the seed."""

    number: int
    kind: Kind
    latency: float
    title: str
    text: str
    links: tuple[int, ...]

    @property
    def path(self) -> str:
        """Where it stands."""
        return f"/{'private' if self.kind == 'private' else 'page'}/{self.number}"

    def html(self) -> str:
        """The page as it is sent."""
        links = "\n".join(f'<li><a href="/page/{number}">page {number}</a>' for number in self.links)
        body = f"<h1>{self.title}</h1>\n<p>{self.text}</p>\n<ul>\n{links}\n</ul>"
        return f"<!doctype html>\n<title>{self.title}</title>\n{body}\n"


class Pressure:
    """How hard the site is pushed: counts the pages that are asked for, and says when it is too much."""

    def __init__(self) -> None:
        self.requests = self.in_flight = self.most_in_flight = self.refused = self.too_early = self.fullest_second = 0
        self._closed = self._opens = -math.inf  # from the first of the latest 429s until all they ask for has passed
        self._last_second: deque[float] = deque()
        self.forbidden = self.again = 0
        self._given: set[int] = set()

    def give(self, number: int) -> None:
        """A page is given out."""
        self.again += number in self._given
        self._given.add(number)

    @contextmanager
    def request(self, now: float) -> Iterator[bool]:
        """One that came at this moment, as long as it is not answered; whether it is one too many."""
        self.requests += 1
        self.too_early += self._closed + ON_ITS_WAY < now < self._opens
        self._last_second.append(now)
        while self._last_second[0] <= now - 1:
            self._last_second.popleft()
        self.fullest_second = max(self.fullest_second, len(self._last_second))
        is_refused = self.in_flight >= AT_ONCE
        if is_refused:
            self.refused += 1
            self._closed = self._closed if now < self._opens else now
            self._opens = now + RETRY_AFTER
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield is_refused
        finally:
            self.in_flight -= 1

    def stats(self) -> dict[str, int]:
        """What is told at `/stats`."""
        return {
            "requests": self.requests,
            "most_in_flight": self.most_in_flight,
            "refused": self.refused,
            "too_early": self.too_early,
            "fullest_second": self.fullest_second,
            "forbidden": self.forbidden,
            "again": self.again,
        }


def make_page(number: int, pages: int, seed: int) -> Page:
    dice = random.Random(f"{seed}/{number}")
    kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
    slow = dice.random() < SLOW
    return Page(
        number=number,
        kind=kind,
        latency=dice.uniform(1, 2) if slow else dice.lognormvariate(math.log(MEDIAN_LATENCY), 0.5),
        title=f"Page {number}: on {dice.choice(TOPICS.split())}",
        text=" ".join(dice.choices(WORDS.split(), k=dice.randint(50, 300))),
        links=tuple(dice.randrange(pages) for _ in range(dice.randint(3, 12))),
    )


async def answer(page: Page) -> web.Response:
    await asyncio.sleep(page.latency)
    match page.kind:
        case "missing":
            raise web.HTTPNotFound
        case "broken":
            raise web.HTTPInternalServerError
        case "redirect":
            raise web.HTTPFound(f"/moved/{page.number}")
        case "gzip":
            packed = gzip.compress(page.html().encode(), 1, mtime=0)
            return web.Response(body=packed, content_type="text/html", headers={"Content-Encoding": "gzip"})
        case "plain" | "private":
            return web.Response(text=page.html(), content_type="text/html")


def make_site(pages: int, seed: int) -> web.Application:
    pressure = Pressure()

    async def answer_page(request: web.Request) -> web.Response:
        with pressure.request(time.monotonic()) as is_refused:
            if is_refused:
                raise web.HTTPTooManyRequests(headers={"Retry-After": str(RETRY_AFTER)})
            page = make_page(int(request.match_info["number"]), pages, seed)
            answered = await answer(page)
            pressure.give(page.number)
            return answered

    async def answer_private(request: web.Request) -> web.Response:
        pressure.forbidden += 1
        return await answer(make_page(int(request.match_info["number"]), pages, seed))

    async def show_robots(_: web.Request) -> web.Response:
        return web.Response(text=ROBOTS)

    async def answer_moved(request: web.Request) -> web.Response:
        page = make_page(int(request.match_info["number"]), pages, seed)
        return web.Response(text=page.html(), content_type="text/html")

    async def list_links(request: web.Request) -> web.Response:
        return web.Response(
            text="".join(f"http://{request.host}{make_page(number, pages, seed).path}\n" for number in range(pages))
        )

    async def count_failing(_: web.Request) -> web.Response:
        kinds = Counter(make_page(number, pages, seed).kind for number in range(pages))
        return web.Response(text=str(sum(kinds[kind] for kind in FAILING)))

    async def tell_stats(_: web.Request) -> web.Response:
        return web.json_response(pressure.stats())

    site = web.Application()
    site.router.add_get(r"/page/{number:\d+}", answer_page)
    site.router.add_get(r"/private/{number:\d+}", answer_private)
    site.router.add_get("/robots.txt", show_robots)
    site.router.add_get(r"/moved/{number:\d+}", answer_moved)
    site.router.add_get("/links.txt", list_links)
    site.router.add_get("/failing", count_failing)
    site.router.add_get("/stats", tell_stats)
    return site


async def serve(pages: int, seed: int) -> None:
    runner = web.AppRunner(make_site(pages, seed), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    print(f"http://{host}:{port}", flush=True)
    closed = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, closed.set)
    await closed.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(*(int(argument) for argument in sys.argv[1:]), *(8_000, 1)[len(sys.argv) - 1 :]))
