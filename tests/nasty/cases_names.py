"""15 and 55-68: names that lead nowhere or to dead addresses, and servers that cannot prove who they are."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.loopback import answer
from tests.nasty.case import GOOD, Case, Ended, always, redirects, says, stalls, steps
from tests.nasty.cases_time import FULL_QUEUE
from tests.nasty.names import Lookup, at, fails, never, slowly
from tests.nasty.server import Play, Sites

__all__ = ["ACCEPTING", "CASES", "NAMES", "listen_with_tls", "trusted"]

_GOOD, _OTHER, _DEAD, _DEAD_TOO = "127.0.0.50", "127.0.0.51", "127.0.0.62", "127.0.0.63"
_STALLS, _CLOSES, _PLAIN, _ALERTS = "127.0.0.43", "127.0.0.44", "127.0.0.45", "127.0.0.46"

NAMES: dict[str, Lookup] = {
    "nobody.test": fails(socket.EAI_NONAME),
    "later.test": fails(socket.EAI_AGAIN),
    "silent.test": never,
    "slow.test": slowly(0.3, _GOOD),
    "black-hole.test": at(FULL_QUEUE, _GOOD),
    "half-dead.test": at(_DEAD, _GOOD),
    "dead.test": at(_DEAD, _DEAD_TOO),
    "good.test": at(_GOOD),
    "tls.test": at(_GOOD),
    "m\u00fcnchen.test".encode("idna").decode(): at(_GOOD),
}
"""Where the names lead. At two of the addresses nobody listens, and at one nobody has a place left in the queue."""

# Made once with `openssl ca -startdate 20200101000000Z -enddate 21200101000000Z`, and their key, which opens nothing,
# with `openssl ecparam -name prime256v1 -genkey`. root.pem signed all but self-signed.pem and no-intermediate.pem: that
# one is signed by an authority that root.pem signed. expired.pem ended in 2020; wrong-host.pem is for other.test, and
# the others for tls.test. They have what a strict OpenSSL asks for: basicConstraints, keyUsage, key identifiers.
_CERTIFICATES = Path(__file__).parent / "certificates"
_HANDSHAKE, _TLS_1_0 = b"\x16", "tls-1.0"


async def _stall(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def _close_after_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.read(1) == _HANDSHAKE
    writer.close()


async def _answer_in_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.read(1) == _HANDSHAKE
    writer.write(answer(status="400 Bad Request"))
    await writer.drain()


async def _alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"\x15\x03\x01\x00\x02\x02\x28")  # a fatal alert: handshake failure
    await writer.drain()


ACCEPTING = {_STALLS: _stall, _CLOSES: _close_after_hello, _PLAIN: _answer_in_plain, _ALERTS: _alert}
"""What these addresses do with a connection."""


def trusted() -> ssl.SSLContext:
    """What a client verifies with that trusts whom the certificates of these tests are signed by."""
    context = ssl.create_default_context()
    context.load_verify_locations(_CERTIFICATES / "root.pem")
    return context


async def listen_with_tls(sites: Sites) -> None:
    """Opens a port for each of the certificates, and one that speaks nothing newer than TLS 1.0."""
    for name in ("good", "expired", "self-signed", "wrong-host", "no-intermediate"):
        await sites.listen_tls(name, _context(name), _GOOD)
    await sites.listen_tls(_TLS_1_0, _old_context(), _GOOD)


def _context(name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_CERTIFICATES / f"{name}.pem")
    return context


def _old_context() -> ssl.SSLContext:
    context = _context("good")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point of it
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


def _named(host: str) -> Callable[[Sites, str, str], object]:
    return lambda sites, _, name: sites.url(host, f"/{name}/")


def _tls(certificate: str) -> Callable[[Sites, str, str], object]:
    return lambda sites, _, name: f"https://tls.test:{sites.tls_ports[certificate]}/{name}/"


def _tls_at(host: str) -> Callable[[Sites, str, str], object]:
    return lambda sites, _, name: sites.url(host, f"/{name}/").replace("http:", "https:")


def _tls_with_secrets(sites: Sites, host: str, name: str) -> object:
    return {"url": _tls("good")(sites, host, name), "headers": {"Authorization": "Bearer s3cret"}}


def _with_secrets_in_the_link(sites: Sites, _: str, name: str) -> object:
    return sites.url("me:s3cret@good.test", f"/{name}/?token=s3cret&page=2")


def _no_secret_in_the_page(ended: Ended) -> None:
    assert ended.page is not None
    assert "s3cret" not in repr(ended.page.value())
    assert "page=2" in ended.page.url
    assert "token=s3cret" in ended.asked[0].path  # but it is what was asked for
    assert ended.asked[0].headers["authorization"].startswith("Basic ")


def _nothing_secret_in_plain(ended: Ended) -> None:
    first, second = ended.asked
    assert first.headers["authorization"] == "Bearer s3cret"
    assert "authorization" not in second.headers


_SAYS_GOOD = says(answer(GOOD))
_DOWNGRADES: Play = steps({"": redirects("http://tls.test:{port}/downgrade/there")})

CASES = [
    Case("15", "downgrade", _DOWNGRADES, GOOD, asked=2, item=_tls_with_secrets, check=_nothing_secret_in_plain),
    Case("55", "no-such-name", _SAYS_GOOD, "dns", "not known", asked=0, item=_named("nobody.test")),
    Case("55a", "name-of-two-dots", _SAYS_GOOD, "bad_input", asked=0, item=always("http://two..dots/")),
    Case("55b", "name-too-long", _SAYS_GOOD, "bad_input", asked=0, item=always(f"http://{'a' * 64}.test/")),
    Case("56", "name-server-fails", _SAYS_GOOD, "dns", "Temporary failure", asked=0, item=_named("later.test")),
    Case("56a", "name-server-is-silent", _SAYS_GOOD, "timeout", asked=0, item=_named("silent.test"), hangs=True),
    Case("57", "slow-name", _SAYS_GOOD, GOOD, item=_named("slow.test")),
    Case("58", "black-hole-and-good", _SAYS_GOOD, GOOD, item=_named("black-hole.test")),
    Case("58a", "dead-and-good", _SAYS_GOOD, GOOD, item=_named("half-dead.test")),
    Case("58b", "dead-and-dead", _SAYS_GOOD, "connect", asked=0, item=_named("dead.test")),
    Case("61", "expired", _SAYS_GOOD, "tls", "expired", asked=0, item=_tls("expired")),
    Case("61a", "not-expired", _SAYS_GOOD, GOOD, item=_tls("good")),
    Case("62", "self-signed", _SAYS_GOOD, "tls", "self.signed", asked=0, item=_tls("self-signed")),
    Case("63", "wrong-host", _SAYS_GOOD, "tls", "tls.test", asked=0, item=_tls("wrong-host")),
    Case("64", "no-intermediate", _SAYS_GOOD, "tls", "issuer", asked=0, item=_tls("no-intermediate")),
    Case("65", "tls-1.0", _SAYS_GOOD, "tls", asked=0, item=_tls(_TLS_1_0)),
    Case("66", "plain-at-the-tls-port", _SAYS_GOOD, "tls", asked=0, item=_tls_at(_PLAIN)),
    Case(
        "66a",
        "tls-at-the-plain-port",
        _SAYS_GOOD,
        "connect",
        asked=0,
        item=lambda sites, _, name: f"http://tls.test:{sites.tls_ports['good']}/{name}/",
    ),
    Case("67", "handshake-stalls", stalls(), "timeout", asked=0, item=_tls_at(_STALLS), hangs=True),
    Case("68", "closed-in-the-handshake", _SAYS_GOOD, "tls", asked=0, item=_tls_at(_CLOSES)),
    Case("68a", "handshake-alert", _SAYS_GOOD, "tls", asked=0, item=_tls_at(_ALERTS)),
    Case("89", "name-in-capitals", _SAYS_GOOD, GOOD, item=_named("GOOD.Test")),
    Case("89a", "name-with-a-last-dot", _SAYS_GOOD, GOOD, item=_named("good.test.")),
    Case("89b", "name-in-unicode", _SAYS_GOOD, GOOD, item=_named("m\u00fcnchen.test")),
    Case("89c", "userinfo-in-a-link", _SAYS_GOOD, GOOD, item=_with_secrets_in_the_link, check=_no_secret_in_the_page),
]
