"""Looking hosts up, as the system does.

Invariant: a name whose servers do not answer, which takes the system many seconds, holds up neither other names, nor
the event loop's own threads, nor the end of the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any, Final, final

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["Resolver"]

_MOST_THREADS: Final = 100


@final
class Resolver(AbstractResolver):
    """Looks hosts up in threads of its own, up to 100 at once. It is for one event loop.

    Not in an executor, whose threads Python waits for at its end.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_MOST_THREADS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The host's addresses, for aiohttp. Raises `OSError`, and `UnicodeError` for what can be no host's name."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def look_up() -> None:
            try:
                result: list[ResolveResult] | Exception = _look_up(host, port, family)
            except Exception as error:
                result = error
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(self._ended, found, result)

        try:
            threading.Thread(target=look_up, name="aiomap-lookup", daemon=True).start()
        except RuntimeError:  # the system allows no more threads
            self._free.release()
            raise
        return await found

    def _ended(self, found: asyncio.Future[list[ResolveResult]], result: list[ResolveResult] | Exception) -> None:
        self._free.release()
        if found.done():  # whoever asked was cancelled
            return
        if isinstance(result, Exception):
            found.set_exception(result)
        else:
            found.set_result(result)

    async def close(self) -> None:
        """Nothing is waited for: a lookup that is under way ends by itself, or with the process."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    # As aiohttp does it: no IPv6 address for a machine that has no IPv6.
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=_numeric(address),
            port=int(address[1]),
            family=found_family,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for found_family, _, protocol, _, address in found
    ]


def _numeric(address: tuple[Any, ...]) -> str:
    """The address as text. A scope id is a number beside it, and belongs to the text: without it, it is another one."""
    host, _, *flow_and_scope = address
    if flow_and_scope and flow_and_scope[-1]:
        return socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    return str(host)
