"""Sites on loopback that answer, stall, drip, cut and lie as a case says, and keep what they saw.

`async with Sites() as sites` listens at many addresses of loopback, all at one port. The first part of a request's path
names the case, the rest of it the step within: `sites.plays` says what is played then.

Invariant: only loopback is ever listened or connected to, and when the context is left, nothing is left open.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeAlias

from tests.nasty.log import Asked, Log

__all__ = ["HOSTS", "Accepting", "Exchange", "Play", "Sites"]

# What is done with a connection before anything was read; and what with a request that was.
Accepting: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Play: TypeAlias = Callable[["Exchange"], Awaitable[None]]

HOSTS = [f"127.0.0.{number}" for number in range(2, 61)]
# Bytes of a head that are read, and connections that may wait to be taken: all of a test at once.
_LISTEN: dict[str, Any] = {"limit": 1 << 17, "backlog": 1000}
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_RETRY_AFTER = re.compile(rb"(?i)\r\nRetry-After: *([^\r]+)\r\n")


class Exchange:
    """A request that has come, and the means to answer it."""

    def __init__(
        self, sites: Sites, asked: Asked, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.sites = sites
        self.asked = asked
        self.number = number  # how many requests of the same path came before
        self.reader = reader
        self.writer = writer
        self.step = asked.path.partition("?")[0].removeprefix(f"/{asked.case}").strip("/")

    async def say(self, said: bytes) -> None:
        """Sends the last that there is to send."""
        self._end(said)
        await self.begin(said)

    async def begin(self, said: bytes) -> None:
        """Sends something that more will follow."""
        self.asked.sent += len(said)
        self.writer.write(said)
        await self.writer.drain()

    async def forever(self, said: bytes, every: float = 0.0) -> None:
        """Sends it again and again, until nobody takes it any more."""
        while not self.writer.is_closing():
            await self.begin(said)
            await asyncio.sleep(every)

    async def stall(self) -> None:
        """Sends nothing, until the client leaves."""
        await self.reader.read()

    async def cut(self, said: bytes = b"") -> None:
        """Sends it and closes the connection."""
        await self.say(said)
        self.writer.close()

    async def reset(self, said: bytes = b"") -> None:
        """Sends it, and breaks the connection off (RST)."""
        await self.say(said)
        # What was sent before must arrive: an RST lets a receiver throw away what it has not read.
        await asyncio.sleep(0.05)
        reset(self.writer)

    def _end(self, said: bytes) -> None:
        now = time.monotonic()
        self.asked.ended = now
        if status := _STATUS.match(said):
            self.asked.status = int(status[1])
        if pause := _RETRY_AFTER.search(said):
            self.asked.opens = now + _seconds(pause[1].decode("latin-1"))


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes the connection with an RST."""
    taken: socket.socket = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _seconds(pause: str) -> float:
    """What a well-formed Retry-After asks for; no pause if it is none that anybody can obey."""
    if pause.isdecimal() and len(pause) < 6:
        return int(pause)
    with suppress(ValueError):
        return parsedate_to_datetime(pause).timestamp() - time.time()
    return 0.0


class Sites:
    """Many sites at one port, and what they saw.

    plays: what each case plays. A request of another path is 404.
    accepting: what an address does with a connection instead of reading a request from it.
    """

    def __init__(self, hosts: Iterable[str] = HOSTS) -> None:
        self.plays: dict[str, Play] = {}
        self.accepting: dict[str, Accepting] = {}
        self.log = Log()
        self.port = 0
        self.tls_ports: dict[str, int] = {}
        self._hosts = list(hosts)
        self._servers: list[asyncio.Server] = []
        self._held: list[socket.socket] = []
        self.serving: set[asyncio.Task[None]] = set()
        self._asked: dict[str, int] = {}
        self._playing = 0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        while not self._servers:
            self._servers = await self._listen()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        serving = [*self.serving, self._watching]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for held in self._held:
            held.close()
        for server in self._servers:
            await server.wait_closed()

    async def _listen(self) -> list[asyncio.Server]:
        first = await asyncio.start_server(self._serve, self._hosts[0], 0, **_LISTEN)
        self.port = first.sockets[0].getsockname()[1]
        try:
            return [first, await asyncio.start_server(self._serve, self._hosts[1:], self.port, **_LISTEN)]
        except OSError:  # somebody has this port at one of the other addresses
            first.close()
            await first.wait_closed()
            return []

    async def listen_tls(self, name: str, context: ssl.SSLContext, host: str) -> None:
        """Listens with TLS at a port of its own, which `tls_ports` then has under this name."""
        server = await asyncio.start_server(self._serve, host, 0, ssl=context, **_LISTEN)
        self._servers.append(server)
        self.tls_ports[name] = server.sockets[0].getsockname()[1]

    async def listen_late(self, host: str, after: float) -> None:
        """Refuses connections at this address, which is none of the sites', and takes them some seconds later."""
        late = self._hold(host)
        await asyncio.sleep(after)
        self._servers.append(await asyncio.start_server(self._serve, sock=late, **_LISTEN))
        self._held.remove(late)

    def listen_full(self, host: str) -> None:
        """Listens at this address, but leaves every connection in a queue that is full."""
        self._hold(host).listen(0)
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect((host, self.port))
            self._held.append(waiting)

    def _hold(self, host: str) -> socket.socket:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, self.port))
        self._held.append(held)
        return held

    def url(self, host: str, path: str) -> str:
        """The link to a path of a site."""
        return f"http://{host}:{self.port}{path}"

    async def all_closed(self) -> None:
        """Waits until no connection is open."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.log.open)

    async def all_played(self) -> None:
        """Waits until every request that came has been dealt with."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._playing)

    async def was_asked(self, times: int) -> None:
        """Waits until so many requests have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.log.asked) >= times)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        self.log.open += 1
        try:
            await self._accept(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
                await writer.wait_closed()
            self.log.open -= 1
            await self._tell()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        self.log.connected.append(host)
        connection = len(self.log.connected)
        if accepting := self.accepting.get(host):
            await accepting(reader, writer)
            return
        while not writer.is_closing():
            asked = await _read(reader, connection, host)
            number = self._asked[asked.path] = self._asked.get(asked.path, -1) + 1
            self.log.asked.append(asked)
            self._playing += 1
            await self._tell()
            try:
                await self.plays.get(asked.case, _missing)(Exchange(self, asked, number, reader, writer))
            finally:
                asked.ended = min(asked.ended, time.monotonic())
                self._playing -= 1
                await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _watch(self) -> None:
        """Measures how late the event loop is."""
        while True:
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            self.log.late = max(self.log.late, time.monotonic() - due)


async def _missing(exchange: Exchange) -> None:
    await exchange.say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def _read(reader: asyncio.StreamReader, connection: int, address: str) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    at = time.monotonic()
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    host = headers.get("host", address).rpartition(":")[0] or address
    return Asked(host, path, method, headers, body, connection, at)
