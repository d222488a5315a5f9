"""Names that lead to loopback, to nowhere, slowly or each time to somewhere else, with no name server asked.

Invariant: what is not listed does not exist, and no address outside of loopback is ever given.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["Lookup", "Names", "at", "fails", "never", "once_failing", "slowly"]

# Gives the addresses of a name, told how often it was looked up before.
Lookup = Callable[[int], Awaitable[list[str]]]


class Names(AbstractResolver):
    """What the names lead to, and how often each was looked up."""

    def __init__(self, known: dict[str, Lookup]) -> None:
        self.known = known
        self.asked: Counter[str] = Counter()

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002  (IPv4 alone)
    ) -> list[ResolveResult]:
        host = host.removesuffix(".")
        before = self.asked[host]
        self.asked[host] += 1
        addresses = await self.known.get(host, fails(socket.EAI_NONAME))(before)
        assert all(address.startswith("127.") for address in addresses)
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass


def at(*addresses: str) -> Lookup:
    async def lookup(_: int) -> list[str]:
        return list(addresses)

    return lookup


def fails(code: int) -> Lookup:
    async def lookup(_: int) -> list[str]:
        says = {
            socket.EAI_NONAME: "Name or service not known",
            socket.EAI_AGAIN: "Temporary failure in name resolution",
        }
        raise socket.gaierror(code, says[code])

    return lookup


def slowly(seconds: float, *addresses: str) -> Lookup:
    async def lookup(_: int) -> list[str]:
        await asyncio.sleep(seconds)
        return list(addresses)

    return lookup


async def never(_: int) -> list[str]:
    """A name server that does not answer."""
    await asyncio.Event().wait()
    return []


def once_failing(*addresses: str) -> Lookup:
    """A name that is not known the first time."""

    async def lookup(before: int) -> list[str]:
        return await (at(*addresses) if before else fails(socket.EAI_AGAIN))(before)

    return lookup
