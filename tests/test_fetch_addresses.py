"""`aiomap.fetch.addresses`: which addresses are public, and that no other one is connected to."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
import threading
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from aiomap.fetch.addresses import RefusedAddress, is_public, open_public, refused
from aiomap.fetch.lookups import Resolver
from tests.loopback import Site, answer

# The first and the last address of each network that is not public.
SPECIAL_4 = [
    ("0.0.0.0", "0.255.255.255"),  # noqa: S104  # nothing is bound
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "255.255.255.255"),
]
SPECIAL_6 = [
    ("::2:0:0", "::fffe:ffff:ffff"),
    ("::1:0:0:0", "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("64:ff9b::1:0:0", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:808:808"),
    ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("ff00::", "ff0e::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "192.0.1.0", "192.31.196.1", "192.175.48.1", "223.255.255.255"),
    *("2000::", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "2001:4860:4860::8888", "2620:4f:8000::1", "2A00:1450::1"),
]
METADATA = "169.254.169.254"

# How an IPv4 address is written in an IPv6 one, as a function of its number.
EMBEDDINGS: dict[str, Callable[[int], int]] = {
    "compatible": lambda number: number,
    "mapped": lambda number: 0xFFFF << 32 | number,
    "nat64": lambda number: 0x64FF9B << 96 | number,
    "6to4": lambda number: 0x2002 << 112 | number << 80 | 0x1234,
    "teredo client": lambda number: 0x20010000 << 96 | int(IPv4Address("8.8.8.8")) << 64 | (number ^ 0xFFFFFFFF),
    "teredo server": lambda number: 0x20010000 << 96 | number << 64 | (int(IPv4Address("8.8.8.8")) ^ 0xFFFFFFFF),
}


@pytest.mark.parametrize(("first", "last"), SPECIAL_4 + SPECIAL_6)
def test_a_special_network_is_not_public_from_its_first_address_to_its_last(first: str, last: str) -> None:
    middle = ip_address((int(ip_address(first)) + int(ip_address(last))) // 2)
    assert [is_public(str(address)) for address in (first, middle, last)] == [False] * 3


@pytest.mark.parametrize(("first", "last"), SPECIAL_4)
def test_the_addresses_next_to_a_special_network_are_public(first: str, last: str) -> None:
    ends = {int(IPv4Address(address)) for ends in SPECIAL_4 for address in ends}
    beside = {int(IPv4Address(first)) - 1, int(IPv4Address(last)) + 1} - {-1, 2**32} - ends
    assert all(is_public(str(IPv4Address(number))) for number in beside)


@pytest.mark.parametrize("address", PUBLIC)
def test_other_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["2000:ffff::1", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "3ffe:ffff::1", "3fff:1000::"]
)
def test_the_ipv6_addresses_next_to_a_special_network_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("embed", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_an_ipv6_address_that_stands_for_an_ipv4_address_is_what_that_one_is(embed: Callable[[int], int]) -> None:
    for address in [*PUBLIC[:7], METADATA, *(end for ends in SPECIAL_4 for end in ends)]:
        assert is_public(str(IPv6Address(embed(int(IPv4Address(address)))))) == is_public(address)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "localhost",
            "example.com",
            "8.8.8",
            "8.8",
            "134744072",
            "0x8.8.8.8",
            "08.8.8.8",
            "8.8.8.8.",
            "8.8.8.8/8",
        ),
        *(" 8.8.8.8", "8.8.8.8\n", "8.8.8.8\x00", "٨.8.8.8", "256.1.1.1", "8.8.8.8:80", "-1.8.8.8"),
        *(
            "[2606::1]",
            "2606::1::",
            "2606::1%eth0",
            "2606::1%1",
            "fe80::1%eth0",
            "2606::1/64",
            ":",
            "::ffff:8.8.8",
            "2606:::1",
        ),
    ],
)
def test_what_is_not_an_address_in_its_usual_notation_is_not_public(text: str) -> None:
    assert not is_public(text)


@given(st.ip_addresses())
def test_what_is_public_is_public_for_python_too(address: IPv4Address | IPv6Address) -> None:
    """Not the other way round: the tables of some versions lack some networks, and take multicast for public."""
    embedded = isinstance(address, IPv6Address) and (address.sixtofour or address.teredo or not int(address) >> 104)
    if is_public(str(address)) and not embedded:
        assert address.is_global
        assert not address.is_multicast


def info(address: str, port: int = 80) -> tuple[int, int, int, str, tuple[Any, ...]]:
    six = ":" in address
    where = (address, port, 0, 0) if six else (address, port)
    return (socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)


def test_a_public_address_gets_a_socket() -> None:
    with open_public(info("8.8.8.8")) as made:
        assert (made.family, made.type, made.proto) == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)


@pytest.mark.parametrize("address", ["127.0.0.1", METADATA, "::1", "fe80::1%eth0", "localhost", "2130706433"])
def test_another_address_gets_an_error_that_says_how_to_allow_it(address: str) -> None:
    with pytest.raises(RefusedAddress) as caught:
        open_public(info(address))
    assert str(caught.value) == f"the address {address} is not public (--allow-private allows it)"
    for error in (caught.value, copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):  # noqa: S301
        assert (str(error), error.address, refused(error)) == (str(caught.value), address, True)


class Names(AbstractResolver):
    """A resolver that knows one name, or none."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # noqa: ARG002
        return [
            ResolveResult(hostname=host, host=address, port=port, family=info(address)[0], proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


async def connect(
    addresses: list[str], url: str, factory: Callable[[Any], socket.socket] = open_public
) -> Exception | int:
    connector = aiohttp.TCPConnector(resolver=Names(*addresses), socket_factory=factory)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with session.get(url) as response:
                return response.status
        except aiohttp.ClientError as error:
            return error


def run(main: Callable[[], Awaitable[Exception | int]], *, on_uvloop: bool = False) -> Exception | int:
    async def call() -> Exception | int:
        return await main()

    if not on_uvloop:
        return asyncio.run(call())
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(call())


@pytest.mark.parametrize("on_uvloop", [False, True])
@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["127.0.0.1", "127.0.0.2"],
        ["127.0.0.1", "::1"],
        ["::1", "127.0.0.1", "127.0.0.2", "::ffff:127.0.0.1"],
    ],
    ids=",".join,
)
def test_that_all_addresses_were_refused_is_known_from_the_error_of_aiohttp(
    addresses: list[str], on_uvloop: bool
) -> None:
    error = run(lambda: connect(addresses, "http://a.invalid/"), on_uvloop=on_uvloop)
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert refused(error)
    assert "is not public (--allow-private allows it)" in str(error.strerror)


@pytest.mark.parametrize("link", ["http://127.0.0.1:1/", "http://[::1]:1/"])
def test_an_address_instead_of_a_name_is_refused_too(link: str) -> None:
    error = run(lambda: connect([], link))
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert refused(error)


def test_a_connection_that_failed_was_not_refused() -> None:
    """Nor if some addresses were, and others, which come last, failed."""

    def only_second(addr_info: Any) -> socket.socket:
        return open_public(addr_info) if addr_info[4][0] == "127.0.0.1" else socket.socket(*addr_info[:3])

    async def main() -> Exception | int:
        with socket.socket() as taken:  # bound, and not listening
            taken.bind(("127.0.0.2", 0))
            return await connect(["127.0.0.1", "127.0.0.2"], f"http://a.invalid:{taken.getsockname()[1]}/", only_second)

    error = run(main)
    assert isinstance(error, aiohttp.ClientConnectorError)
    assert not refused(error)


def test_of_a_hosts_addresses_the_ones_that_are_allowed_are_connected_to() -> None:
    def all_but_ipv6(addr_info: Any) -> socket.socket:
        return socket.socket(*addr_info[:3]) if addr_info[0] == socket.AF_INET else open_public(addr_info)

    async def main() -> Exception | int:
        async with Site({"/": answer(b"hello")}) as site:
            return await connect(["::1", "127.0.0.1"], f"http://a.invalid:{site.port}/", all_but_ipv6)

    assert run(main) == 200


Found = list[tuple[Any, ...]]


def looked_up(monkeypatch: pytest.MonkeyPatch, found: Callable[[str], Found]) -> list[tuple[Any, ...]]:
    """Makes the system find that; returns what it was asked, and in which threads."""
    asked: list[tuple[Any, ...]] = []

    def getaddrinfo(host: str, port: int, family: int, kind: int, flags: int) -> Found:
        asked.append((host, port, family, kind, flags, threading.current_thread().name))
        return found(host)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_what_the_system_finds_is_what_aiohttp_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = socket.if_nametoindex("lo")
    found: Found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 443, 0, 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 443, 0, loopback)),
    ]
    asked = looked_up(monkeypatch, lambda _: found)

    async def main() -> list[ResolveResult]:
        resolver = Resolver()
        try:
            return await resolver.resolve("a.invalid", 443, socket.AF_UNSPEC)
        finally:
            await resolver.close()

    results = asyncio.run(main())
    assert [result["host"] for result in results] == ["192.0.2.1", "2001:db8::1", "fe80::1%lo"]
    assert [result["family"] for result in results] == [socket.AF_INET, socket.AF_INET6, socket.AF_INET6]
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    assert all(result["hostname"] == "a.invalid" and result["port"] == 443 for result in results)
    assert all(result["proto"] == 6 and result["flags"] == flags for result in results)
    [(*question, thread)] = asked
    assert question == ["a.invalid", 443, socket.AF_UNSPEC, socket.SOCK_STREAM, socket.AI_ADDRCONFIG]
    assert thread.startswith("aiomap-lookup")


def test_a_host_that_is_not_found_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(host: str) -> Found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    looked_up(monkeypatch, nothing)

    async def main() -> None:
        resolver = Resolver()
        with pytest.raises(socket.gaierror):
            await resolver.resolve("a.invalid")
        await resolver.close()

    asyncio.run(main())


@pytest.mark.once
def test_a_hundred_names_that_are_stuck_hold_up_neither_the_loops_threads_nor_the_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    stuck = threading.Semaphore(0)

    def wait(host: str) -> Found:
        stuck.release()
        answered.wait()
        return []

    asked = looked_up(monkeypatch, wait)

    async def main() -> None:
        resolver = Resolver()
        lookups = [asyncio.ensure_future(resolver.resolve(f"{number}.invalid")) for number in range(101)]
        for _ in range(100):
            await asyncio.to_thread(stuck.acquire)
        await resolver.close()
        assert len(asked) == 100
        for lookup in lookups[:50]:
            lookup.cancel()  # which makes no room: their threads are stuck still
        await asyncio.sleep(0)
        assert len(asked) == 100
        answered.set()
        assert await asyncio.gather(*lookups[50:]) == [[]] * 51

    try:
        asyncio.run(main())
    finally:
        answered.set()
