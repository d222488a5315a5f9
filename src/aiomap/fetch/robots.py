"""robots.txt: what a site's owner allows robots to fetch (RFC 9309).

Invariant: no page is allowed before the rules of its origin are known, and they are asked for once, however many pages
wait for them. What a foreign robots.txt can cost is bounded: in time by its length, in memory for all of them together.
`Crawl-delay` is not obeyed: it is in no standard, and how fast a host is asked is for its limits to say.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections import OrderedDict
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, final
from weakref import WeakValueDictionary

from aiomap.errors import MissingExtra
from aiomap.fetch.failures import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from protego import Protego
    from yarl import URL

    from aiomap.fetch.page import Page

__all__ = ["MOST_BYTES", "Robots"]

MOST_BYTES: Final = 512 << 10
"""How many bytes of a robots.txt are read: RFC 9309 (2.5) asks for at least 500 KiB."""

# Seconds. RFC 9309 (2.4): rules should not be used for longer.
_KEPT_FOR: Final = 24 * 3600.0
_MOST_ORIGINS: Final = 10_000
# Characters of rules, of all origins together. A rule takes up to 60 times its length when it is parsed.
_MOST_RULES: Final = 8 << 20

# A line that counts: people also write "useragent" and "dissalow", and leave out the colon.
_LINE: Final = re.compile(r"\s*(user[- ]?agent|(?:dis+)?al+ow)\s*[:\s]\s*([^#]*)", re.IGNORECASE)
_TOKEN: Final = re.compile(r"\*(?=\s|$)|[a-z_-]+", re.IGNORECASE)

_Origin = tuple[str, str | None, int | None]


class _Kept(NamedTuple):
    """The rules of an origin, `None` if all is allowed; until when they may be used, and how long they are."""

    rules: Protego | None
    until: float
    length: int


class _Asking:
    """One request for a robots.txt, and all who wait for it: in turn, so that if one is cancelled the next one asks."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.failed: FetchFailed | None = None


@final
class Robots:
    """The rules of all origins (scheme, host and port) that were asked for: `Robots(ask, "aiomap")`.

    ask: fetches one link, following redirects, and raises `FetchFailed` if there is no page. Of a longer body it should
        give the first `MOST_BYTES` bytes.
    agent: the product token that a robots.txt calls this robot by, without a version.

    Rules are kept for 24 hours, those of the 10,000 origins that were used last. Raises `MissingExtra` without protego.
    """

    def __init__(self, ask: Callable[[URL], Awaitable[Page]], agent: str) -> None:
        try:
            from protego import Protego
        except ImportError:
            raise MissingExtra("aiomap fetch", "protego", "http") from None
        self._parse = Protego.parse
        self._ask = ask
        self._agent = agent.lower()
        self._kept: OrderedDict[_Origin, _Kept] = OrderedDict()
        self._length = 0
        # Weak: it is there for as long as somebody waits.
        self._asking: WeakValueDictionary[_Origin, _Asking] = WeakValueDictionary()

    async def check(self, url: URL) -> None:
        """Returns if the robots.txt of the link's origin allows it to be fetched. An http(s) link with a host.

        Raises `FetchFailed`: of class `robots` if it does not; or, if nobody can say what it allows, that which came of
        asking, with its class, status and headers: those of a 429 are the host's word for the page too. A robots.txt
        that is not there (another 4xx, or one redirect after another) allows everything, as RFC 9309 has it.
        """
        if url.raw_path == "/robots.txt":
            return
        rules = (await self._rules(url)).rules
        # The host is no part of a rule. What matters is what is sent.
        if rules is not None and not rules.can_fetch(f"http://host{url.raw_path_qs}", self._agent):
            raise FetchFailed(
                "robots",
                f"{url.origin()}/robots.txt does not allow {self._agent} to fetch it (--no-robots asks anyway)",
            )

    async def _rules(self, url: URL) -> _Kept:
        origin = (url.scheme, url.raw_host, url.port)
        if kept := self._known(origin):
            return kept
        asking = self._asking.setdefault(origin, _Asking())
        async with asking.turn:
            if kept := self._known(origin):
                return kept
            if asking.failed is None:
                try:
                    return self._remember(origin, await self._body(url))
                except FetchFailed as failed:
                    asking.failed = failed
                    # All who have waited share it; whoever comes from now on asks anew.
                    del self._asking[origin]
            raise _told(asking.failed) from asking.failed.__cause__

    async def _body(self, url: URL) -> bytes:
        try:
            page = await self._ask(url.origin().with_path("/robots.txt"))
        except FetchFailed as failed:
            if _is_absent(failed):
                return b""
            raise
        return page.body

    def _known(self, origin: _Origin) -> _Kept | None:
        kept = self._kept.get(origin)
        if kept is not None and kept.until <= _now():
            self._length -= self._kept.pop(origin).length
            return None
        if kept is not None:
            self._kept.move_to_end(origin)
        return kept

    def _remember(self, origin: _Origin, body: bytes) -> _Kept:
        rules = _rules_for(self._agent, body)
        parsed = self._parse(f"User-agent: *\n{rules}") if rules else None
        kept = self._kept[origin] = _Kept(parsed, _now() + _KEPT_FOR, len(rules))
        self._length += kept.length
        while len(self._kept) > _MOST_ORIGINS or self._length > _MOST_RULES:
            _, oldest = self._kept.popitem(last=False)
            self._length -= oldest.length
        return kept


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_absent(failed: FetchFailed) -> bool:
    """Whether the answer means that there is no robots.txt."""
    if failed.kind == "http_4xx":
        return failed.status != HTTPStatus.TOO_MANY_REQUESTS
    return failed.kind == "too_many_redirects"


def _told(failed: FetchFailed) -> FetchFailed:
    """The same failure, saying what was asked for. An exception of its own for everyone, as each gets a traceback."""
    return FetchFailed(failed.kind, f"robots.txt: {failed.message}", failed.status, failed.headers)


def _rules_for(agent: str, body: bytes) -> str:
    r"""The rules of the groups that name the agent; if none does, those of the groups for all.

    A parser that is given it all keeps the rules once for every agent that a group names, and a file of some 100 KiB
    can name so many that they take minutes and gigabytes. This one reads it once, and keeps two groups.

    >>> _rules_for("aiomap", b"User-agent: *\nDisallow: /\nUser-agent: AioMap/2\nUser-agent: other\nAllow: /a # !")
    'allow: /a'
    """
    if len(body) >= MOST_BYTES:  # its last line may be cut, and half a path is another path
        body = body[:MOST_BYTES].rpartition(b"\n")[0]
    groups: dict[str, list[str]] = {}
    named: set[str] = set()
    are_being_named = False
    for line in body.removeprefix(codecs.BOM_UTF8).splitlines():
        found = _LINE.match(line.decode("utf-8", "replace"))
        if found is None:
            continue
        field, value = found[1].lower(), found[2].strip()
        if field.startswith("user"):
            named = named if are_being_named else set()
            are_being_named = True
            token = _TOKEN.match(value)
            if token and token[0].lower() in (agent, "*"):
                named.add(token[0].lower())
                groups.setdefault(token[0].lower(), [])
            continue
        are_being_named = False
        if value:
            for name in named:
                groups[name].append(f"{'allow' if field.startswith('a') else 'disallow'}: {value}")
    return "\n".join(groups.get(agent, groups.get("*", [])))
