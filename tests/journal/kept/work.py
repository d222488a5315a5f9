"""The function whose results are in the kept journals. It must stay as it is: they are refused for another one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from aiomap import SKIP, Journal, Retry, current

__all__ = ["MIXED", "RETRY", "VERSION", "World", "fetch_en", "keyed", "plain", "world"]

VERSION: Final = "v1 é"
RETRY: Final = Retry(TimeoutError, attempts=3, base=0.25)

# The items of both sittings: results of many kinds, and two that are equal to others.
MIXED: Final = ["a", "b", "a", "empty", "broken", "ill", "slow", "long", "é ☃ 😀", "a", "null", "numbers", "empty"]


class World:
    """What the function sees that may be another at the next call. ran: its items, in the order of their starts."""

    ill = True

    def __init__(self) -> None:
        self.ran: list[str] = []


world: Final = World()


async def fetch(page: str, lang: str) -> Any:
    """Gives what stands on the page."""

    def title() -> str:
        return f"{page!r:>{len(page) + 4}} in {lang.upper():{'<'}4}|"

    world.ran.append(page)
    await asyncio.sleep(len(page) / 8)
    if page == "empty":
        return SKIP
    if page == "broken" or (page == "ill" and world.ill):
        raise LookupError(f"there is no page {page!r} ☃")
    if page == "slow" and current().attempt < 3:
        raise TimeoutError
    if page == "null":
        return None
    if page == "numbers":
        return [0, -1, 2**70, 0.1, -0.0, 1e300, True, [], {}]
    return {"title": title(), "text": page * (5000 if page == "long" else 1), "lang": {"code": lang, "sure": None}}


fetch_en: Final = partial(fetch, lang="en")


def keyed(path: object) -> Journal:
    """The journal as the first sitting uses it: its items are known by a key, as the label says."""
    return Journal(str(path), key=lambda page: {"page": page, "in": ["en", 1]}, version=VERSION)


def plain(path: object) -> Journal:
    """The journal as the second sitting uses it: its items are known by themselves."""
    return Journal(str(path), version=VERSION)
