"""All cases, fetched together by one fetcher in one map, as they would be in a list of links.

Invariant: what is left of it when the fetcher is closed is counted by the server, not asked of the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aiomap import aoutcomes
from aiomap.fetch import Fetcher, failure
from tests.nasty import cases_bodies, cases_connections, cases_links, cases_names, cases_redirects, cases_time
from tests.nasty.case import MOST_BODY, Case, Ended
from tests.nasty.log import Log
from tests.nasty.names import Names
from tests.nasty.server import HOSTS, Sites

__all__ = ["CASES", "Played", "play", "sites_for"]

CASES = [
    *cases_time.CASES,
    *cases_redirects.CASES,
    *cases_bodies.CASES,
    *cases_connections.CASES,
    *cases_names.CASES,
    *cases_links.CASES,
]
# Seconds that an attempt has: those of the cases that end by themselves are never used up.
_HANGING, _ENDING = 0.8, 60.0


@dataclass
class Played:
    """How the cases ended, and what was left of it all."""

    ended: dict[str, Ended] = field(default_factory=dict[str, Ended])
    log: Log = field(default_factory=Log)
    tasks_left: set[str] = field(default_factory=set[str])
    files_left: int = 0


def sites_for(cases: Iterable[Case]) -> Sites:
    """Sites that play these cases."""
    sites = Sites(HOSTS)
    sites.plays.update({case.name: case.play for case in cases})
    sites.accepting.update({**cases_connections.ACCEPTING, **cases_names.ACCEPTING})
    return sites


def play() -> Played:
    """Plays all cases."""
    played = Played()
    before = _open_files()
    with pytest.MonkeyPatch.context() as patch:
        # aiohttp makes one for all sessions when it is imported.
        patch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", cases_names.trusted())
        asyncio.run(_play(played))
    played.files_left = _open_files() - before
    return played


async def _play(played: Played) -> None:
    async with sites_for(CASES) as sites:
        sites.listen_full(cases_time.FULL_QUEUE)
        await cases_names.listen_with_tls(sites)
        before = asyncio.all_tasks()
        fetcher = Fetcher(max_body=MOST_BODY, allow_private=True, robots=False, resolver=Names(cases_names.NAMES))
        async with fetcher:
            ending = _fetch(fetcher, sites, [case for case in CASES if not case.hangs], _ENDING)
            hanging = _fetch(fetcher, sites, [case for case in CASES if case.hangs], _HANGING)
            for ended in await asyncio.gather(ending, hanging):
                played.ended.update(ended)
        await asyncio.wait_for(sites.all_closed(), 10)
        played.log = sites.log
        played.tasks_left = {repr(task) for task in asyncio.all_tasks() - before - sites.serving}


async def _fetch(fetcher: Fetcher, sites: Sites, cases: list[Case], seconds: float) -> dict[str, Ended]:
    items = [case.item(sites, _host(case), case.name) for case in cases]
    ended: dict[str, Ended] = {}
    async with aoutcomes(fetcher.fetch, items, len(items), timeout=seconds) as outcomes:
        async for outcome in outcomes:
            name = cases[outcome.index].name
            failed = None if outcome.error is None else failure(outcome.error)
            ended[name] = Ended(outcome.value, failed, sites.log.of(name))
    return ended


def _host(case: Case) -> str:
    """Spreads the cases over the hosts, the special ones left out."""
    plain = [host for host in HOSTS if host not in sites_for([]).accepting]
    return plain[CASES.index(case) % len(plain)]


def _open_files() -> int:
    """How many files this process has open; always the same where the system does not tell."""
    listed = Path("/proc/self/fd")
    return len(list(listed.iterdir())) if listed.exists() else 0
