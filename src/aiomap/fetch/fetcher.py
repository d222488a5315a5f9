"""Fetching: from an item to the page that its link leads to, redirect after redirect.

Invariant: each hop is one request, which passed the rules of its origin, the turn of its host and the policy of
addresses; nothing is sent again behind the back of whoever counts. Of what a server sends, no more than its bound is
ever kept.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from importlib.metadata import version
from io import BytesIO
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final
from weakref import WeakSet

import aiohttp

from aiomap._foreign import is_secret, printable, redacted
from aiomap.fetch.addresses import open_public
from aiomap.fetch.body import accepted_encodings, let_go, read_body
from aiomap.fetch.failures import MOST_HEADER_LINE, MOST_HEADERS, FetchFailed, bad_status, failure
from aiomap.fetch.lookups import Resolver
from aiomap.fetch.page import Page
from aiomap.fetch.politeness import HostGate
from aiomap.fetch.redirects import REDIRECTS, redirected
from aiomap.fetch.request import Defaults, Request, host_of_url, request_of
from aiomap.fetch.robots import MOST_BYTES, Robots
from aiomap.fetch.saving import Folder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from aiohttp.abc import AbstractResolver
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from yarl import URL

    from aiomap.limits.per_key import PerKey

    _Send: TypeAlias = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]

__all__ = ["Fetcher"]

_MOST_REDIRECTS: Final = 10
# Bytes of all header lines of an answer, as browsers have it.
_MOST_HEADER: Final = 1 << 18
# What is said of the connection is over with it.
_OF_THE_CONNECTION: Final = frozenset({"connection", "keep-alive", "transfer-encoding"})
# Seconds that an idle connection is kept. With a host of its own for every link, so many seconds' worth are open. Many
# servers close theirs after 5, and a request that meets that has failed.
_KEPT: Final = 4.0
# Seconds between two tries to open a connection when too many files are open.
_FULL: Final = 0.25
_OK: Final = 200
_FAILED: Final = 400
# By which name a robots.txt calls whoever has this User-Agent (RFC 9309, section 2.2.1).
_PRODUCT: Final = re.compile("[A-Za-z_-]+")


@final
class Fetcher:
    """Fetches links over one shared set of connections: `async with Fetcher() as fetcher`.

    max_body: how many bytes a body may have, decompressed; one with more is a failure, and the rest is not read.
    defaults: method, headers and data where an item does not have its own.
    allow_private: whether connections to addresses that are not public may be made, such as 127.0.0.1.
    robots: whether robots.txt is obeyed.
    per_host: what bounds the requests to each host, those that redirects lead to included; `None`: nothing does. Its
        bounds are taken; it may be a limit of a run as well, and should.
    folder: where `value` saves bodies; it is made if it is not there. `None`: nothing is saved.
    resolver: looks hosts up; `None` for the system's resolver, in up to 100 threads.

    Nothing bounds here how many links are fetched at once, or how long one takes: the map does that. Cookies are
    neither kept nor sent, but for those of a header that was given.

    Raises `MissingExtra` if robots.txt is to be obeyed without protego, and on entry `OSError` if there can be no such
    folder.

    >>> async def main() -> None:
    ...     async with Fetcher() as fetcher:
    ...         await fetcher.fetch("example.com")
    >>> asyncio.run(main())
    Traceback (most recent call last):
    aiomap.fetch.FetchFailed: not an http(s) link: it must begin with http:// or https://
    """

    def __init__(
        self,
        *,
        max_body: int = 16 << 20,
        defaults: Defaults = Defaults(),  # noqa: B008  (it is frozen)
        allow_private: bool = False,
        robots: bool = True,
        per_host: PerKey | None = None,
        folder: str | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._max_body = max_body
        self._defaults = defaults
        self._allow_private = allow_private
        self._agent = _agent_of(defaults)
        self._robots = Robots(self._ask_robots, _product_of(self._agent)) if robots else None
        self._gate = None if per_host is None else HostGate(per_host)
        self._path = folder
        self._folder: Folder | None = None
        self._resolver = resolver

    async def __aenter__(self) -> Fetcher:
        async with AsyncExitStack() as opened:
            if self._path is not None:
                self._folder = Folder(self._path)
                opened.callback(self._folder.close)
            resolver = self._resolver
            if resolver is None:
                resolver = Resolver()
                opened.push_async_callback(resolver.close)
            self._session = await opened.enter_async_context(self._connected(resolver))
            self._opened = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def fetch(self, item: object) -> Page:
        """The page that the item's link leads to. Raises `FetchFailed`, and nothing else."""
        return await self._follow(request_of(item, self._defaults))

    async def value(self, item: object) -> dict[str, object]:
        """What is recorded of it: `Page.value()`; with a folder the body is saved, and `file` is its name in there.

        Raises `FetchFailed`, and `OSError` if the body cannot be saved.
        """
        page = await self.fetch(item)
        if self._folder is None:
            return page.value()
        link, key = _names(item)
        kind = page.headers.get("content-type", "")
        return {**page.head(), "file": await asyncio.to_thread(self._folder.save, key, link, kind, page.body)}

    async def _follow(self, request: Request, *, for_robots: bool = False) -> Page:
        """Hop by hop to the page. Raises `FetchFailed`, and nothing else."""
        # What a robots.txt says does not matter to the request for one.
        robots = None if for_robots else self._robots
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                if robots is not None:
                    await robots.check(request.url)
                answered = await self._hop(request, for_robots=for_robots)
                if isinstance(answered, Page):
                    return answered
                request = answered
        except FetchFailed:
            raise
        except Exception as error:
            raise failure(error) from error
        raise FetchFailed("too_many_redirects", f"more than {_MOST_REDIRECTS} redirects")

    async def _hop(self, request: Request, *, for_robots: bool) -> Page | Request:
        """One request, and what came of it: the page, or the request that follows.

        Waits while this process may open no more files: that is no fault of the link, and idle connections end.
        """
        while True:
            try:
                if for_robots:
                    return await self._ask(request, MOST_BYTES, whole=False)
                async with self._turn(request.url):
                    return await self._ask(request, self._max_body)
            except aiohttp.ClientConnectorError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
            await asyncio.sleep(_FULL)

    def _turn(self, url: URL) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._gate is None else self._gate.request(host_of_url(url))

    async def _ask(self, request: Request, most: int, *, whole: bool = True) -> Page | Request:
        # Of bytes aiohttp says, from 1 MiB on, that they might block the loop. So they do from a file in memory.
        data = None if request.data is None else BytesIO(request.data)
        async with self._session.request(
            request.method, request.url, headers=request.headers, data=data, allow_redirects=False
        ) as response:
            _check_size(response)
            if response.status in REDIRECTS:
                following = redirected(request, response.status, response.headers.get("Location"))
                await let_go(response)
                return following
            headers = _told(response.headers)
            if not _OK <= response.status < _FAILED:
                await let_go(response)
                raise bad_status(response.status, headers)
            body = await read_body(response, most, whole=whole)
            return Page(redacted(str(response.url)), response.status, headers, body)

    async def _ask_robots(self, url: URL) -> Page:
        return await self._follow(Request(url, "GET", (), None), for_robots=True)

    def _connected(self, resolver: AbstractResolver) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ttl_dns_cache=300,
                keepalive_timeout=_KEPT,
                resolver=resolver,
                socket_factory=None if self._allow_private else open_public,
            ),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent, "Accept-Encoding": accepted_encodings()},
            # Of what kind the data is, its headers say, or nobody.
            skip_auto_headers=["Content-Type"],
            # aiohttp takes a compressed body that ends too early for a whole one.
            auto_decompress=False,
            max_line_size=MOST_HEADER_LINE,
            max_field_size=MOST_HEADER_LINE,
            max_headers=MOST_HEADERS,
            request_class=_Request,
            middlewares=(_send_once,),
        )


class _SpoiltConnectionError(Exception):
    """Something has come on a connection since the answer to the last request."""


# The connections that have carried a request, by their protocols.
_USED: Final[WeakSet[ResponseHandler]] = WeakSet()


class _Request(aiohttp.ClientRequest):
    """Is not sent on a connection on which there is something already, for that would be taken for the answer to it.

    A server may send more than one answer to a request, by mistake or not, when the connection is idle again.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if conn.protocol is not None:
            if conn.protocol.should_close:
                raise _SpoiltConnectionError if conn.protocol in _USED else _spoke_first()
            _USED.add(conn.protocol)
        return await super().send(conn)


async def _send_once(request: aiohttp.ClientRequest, send: _Send) -> aiohttp.ClientResponse:
    """Ends a request with the connection that it broke on, where aiohttp would send it a second time on another one.

    That would be an attempt that no limit knows of. What aiohttp takes for a broken connection, it does not find here.
    """
    try:
        return await _send_on_a_clean_connection(request, send)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, and nothing will be
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise failure(error) from error


async def _send_on_a_clean_connection(request: aiohttp.ClientRequest, send: _Send) -> aiohttp.ClientResponse:
    while True:
        try:
            return await send(request)
        except _SpoiltConnectionError:
            pass  # nothing was sent, and aiohttp has closed it: there is one less that was kept


def _spoke_first() -> FetchFailed:
    return FetchFailed("bad_content", "no valid HTTP: the server spoke before it was asked")


def _told(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of the page, by lower-case name; those that are there twice as one; none that is a secret."""
    told: dict[str, str] = {}
    for raw_name, value in headers.items():
        name = printable(raw_name.lower())
        if name not in _OF_THE_CONNECTION and not is_secret(name):
            told[name] = f"{told[name]}, {printable(value)}" if name in told else printable(value)
    return told


def _check_size(response: aiohttp.ClientResponse) -> None:
    size = sum(len(name) + len(value) for name, value in response.raw_headers)
    if size > _MOST_HEADER:
        raise FetchFailed("too_large", f"the headers have more than {_MOST_HEADER:,} bytes together")


def _agent_of(defaults: Defaults) -> str:
    given = (value for name, value in defaults.headers if name.lower() == "user-agent")
    return next(given, f"aiomap/{version('aiomap')}")


def _product_of(agent: str) -> str:
    found = _PRODUCT.match(agent)
    return found[0] if found else "aiomap"


def _names(item: object) -> tuple[str, str]:
    """The item's link, and a text that it has alone: what a file is named after."""
    if isinstance(item, str):
        return item, item
    row = cast("Mapping[str, object]", item)
    return str(row.get("url") or row.get("link")), json.dumps(row, sort_keys=True, default=str)
