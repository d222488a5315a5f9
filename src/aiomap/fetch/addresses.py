"""Addresses: to which of them a connection may be made.

Invariant: `is_public` says the same on every version of Python, and says yes only to what the registries of special
addresses (IANA's, for IPv4 and for IPv6) let the public internet reach. It is asked about the very address that is
connected to, when it is: what a name resolved to before, or was called, does not matter.
"""

from __future__ import annotations

import socket
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, final

__all__ = ["RefusedAddress", "is_public", "open_public", "refused"]

# Not the `is_global` of ipaddress: its table grew with 3.12.4 and 3.13, and takes multicast for public.
_SPECIAL_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # behind a provider's NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, where clouds keep their metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # the relays of 6to4, which are no more
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# All that was ever given out for unicast is in here.
_UNICAST_6: Final = IPv6Network("2000::/3")
_SPECIAL_6: Final = (
    IPv6Network("2001::/23"),  # protocol assignments: benchmarks, identifiers, anycast services
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("3fff::/20"),  # documentation
)
# IPv6 addresses that end in an IPv4 address, which is where their packets go: IPv4-compatible, IPv4-mapped, NAT64.
# Not 64:ff9b:1::/48, whose translators are private ones, and have the IPv4 address where they like.
_ENDS_IN_4: Final = (IPv6Network("::/96"), IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
_TEREDO: Final = IPv6Network("2001::/32")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")

# No system call gives this errno. When each of several addresses fails, what is raised is made anew, with the texts of
# all, and with their errno if it is the same one: that is how to know that all were refused.
_REFUSED: Final = 0x7072697


# Family, type, protocol, canonical name, address: as getaddrinfo has them.
_AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


def is_public(address: str) -> bool:
    """Whether it is an IP address, in its usual notation, that the public internet reaches, of one host.

    An IPv6 address that stands for an IPv4 address is what that one is. With a scope id (`%eth0`) it is not public.

    >>> [is_public(address) for address in ("8.8.8.8", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "localhost")]
    [True, False, False, False, False]
    """
    try:
        return _is_public_6(address) if ":" in address else _is_public_4(IPv4Address(address))
    except AddressValueError:
        return False


def _is_public_4(address: IPv4Address) -> bool:
    return not any(address in network for network in _SPECIAL_4)


def _is_public_6(text: str) -> bool:
    address = IPv6Address(text)
    if address.scope_id is not None:
        return False
    if inside := _inside(address):
        return all(_is_public_4(IPv4Address(number & 0xFFFF_FFFF)) for number in inside)
    return address in _UNICAST_6 and not any(address in network for network in _SPECIAL_6)


def _inside(address: IPv6Address) -> tuple[int, ...]:
    """The IPv4 addresses that packets to it go to, in the lowest 32 bits of each number."""
    number = int(address)
    if any(address in network for network in _ENDS_IN_4):
        return (number,)
    if address in _SIX_TO_FOUR:
        return (number >> 80,)
    if address in _TEREDO:  # a server, and a client, which is written inverted
        return (number >> 64, ~number)
    return ()


@final
class RefusedAddress(OSError):
    """There will be no connection to this address, for it is not public.

    address: the IP address, as it was to be connected to.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address
        self.errno = _REFUSED
        self.strerror = f"the address {address} is not public (--allow-private allows it)"

    def __str__(self) -> str:
        return str(self.strerror)


def open_public(addr_info: _AddressInfo) -> socket.socket:
    """The `socket_factory` of a connector: a new socket for a connection to a public address, else `RefusedAddress`."""
    family, kind, protocol, _, destination = addr_info
    address = str(destination[0])
    if not is_public(address):
        raise RefusedAddress(address)
    return socket.socket(family, kind, protocol)


def refused(error: BaseException) -> bool:
    """Whether this, or aiohttp's error that was made of it, means that no address was public.

    Then its `strerror` has the addresses. Of a host with some that are public it tells how the ones fared that came
    last: aiohttp forgets the others.

    >>> refused(RefusedAddress("10.0.0.1")), refused(ConnectionRefusedError(111, "Connection refused"))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno == _REFUSED
