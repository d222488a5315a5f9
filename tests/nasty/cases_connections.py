"""40-51: heads that are no HTTP or too much of it, and connections that break at every place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.loopback import answer
from tests.nasty.case import GOOD, Case, Ended, cuts, link, resets, says
from tests.nasty.server import Sites, reset

__all__ = ["ACCEPTING", "CASES"]

CLOSES, RESETS, TALKS_FIRST = "127.0.0.40", "127.0.0.41", "127.0.0.42"


async def _close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.test ESMTP\r\n")
    await reader.read()


ACCEPTING = {CLOSES: _close, RESETS: _reset, TALKS_FIRST: _talk}
"""What these addresses do with a connection."""


def _at(host: str) -> Callable[[Sites, str, str], object]:
    return lambda sites, _, name: link(sites, host, name)


def _has_no_cookies(ended: Ended) -> None:
    assert ended.page is not None
    assert "s3cret" not in repr(ended.page.value())


_HEAD = b"HTTP/1.1 200 OK\r\n"

CASES = [
    Case("40", "header-of-60-kB", says(answer(GOOD, "X: " + "a" * 60_000)), GOOD),
    Case("40a", "header-of-100-kB", says(answer(GOOD, "X: " + "a" * 100_000)), "bad_content"),
    Case("41", "ten-thousand-headers", says(answer(GOOD, *(f"X-{n}: y" for n in range(10_000)))), "bad_content"),
    Case("42", "no-status-line", cuts(b"<html>hello</html>"), "bad_content"),
    Case("42a", "another-protocol", cuts(b"SSH-2.0-OpenSSH_9.2\r\n"), "bad_content"),
    Case("42b", "talks-first", says(b""), "bad_content", asked=0, item=_at(TALKS_FIRST)),
    Case("43", "status-999", says(answer(GOOD, status="999 Request Denied")), "other", "999"),
    Case("43a", "status-without-a-space", cuts(b"HTTP/1.1 200OK\r\n\r\n"), "bad_content"),
    Case("43b", "status-of-two-digits", cuts(answer(GOOD, status="20 OK")), "bad_content"),
    Case("43c", "status-without-a-reason", says(answer(GOOD, status="200 ")), GOOD),
    Case("43d", "http-1.0", cuts(answer(GOOD).replace(b"1.1", b"1.0")), GOOD),
    Case("43e", "http-7.3", cuts(answer(GOOD).replace(b"1.1", b"7.3")), "bad_content"),
    Case("43f", "early-hints", says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(GOOD)), GOOD),
    Case("43g", "304-unasked", says(b"HTTP/1.1 304 Not Modified\r\n\r\n"), b""),
    Case(
        "43h",
        "upgrades-unasked",
        cuts(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
        "other",
        "101",
    ),
    Case("44", "escape-in-a-name", cuts(answer(GOOD, "Set\x1bCookie: a=b")), "bad_content"),
    Case("44a", "nul-in-a-value", cuts(answer(GOOD, "X: a\0b")), "bad_content"),
    Case("44b", "no-colon", cuts(answer(GOOD, "not a header")), "bad_content"),
    Case("44c", "latin-1-in-a-value", says(answer(GOOD, "X: caf\u00e9", "ETag: caf\u00e9")), GOOD),
    Case(
        "45",
        "a-thousand-cookies",
        says(answer(GOOD, *(f"Set-Cookie: c{n}=s3cret" for n in range(100)))),
        GOOD,
        check=_has_no_cookies,
    ),
    Case(
        "45a",
        "ten-thousand-cookies",
        says(answer(GOOD, *(f"Set-Cookie: c{n}=s3cret" for n in range(10_000)))),
        "bad_content",
        "headers",
    ),
    Case("46", "reset-when-accepted", says(b""), "connect", asked=0, item=_at(RESETS)),
    Case("46a", "closed-when-accepted", says(b""), "connect", asked=0, item=_at(CLOSES)),
    Case("47", "reset-when-asked", resets(), "connect"),
    Case("47a", "closed-when-asked", cuts(), "connect"),
    Case("47b", "closed-in-the-headers", cuts(_HEAD + b"Content-Le"), "connect"),
    Case("48", "reset-in-the-body", resets(answer(bytes(500), length=1000)), "connect"),
    Case("48a", "reset-in-a-body-without-length", resets(_HEAD + b"\r\nhello"), "connect"),
    Case("48b", "reset-between-chunks", resets(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), "connect"),
    Case("50", "closes-each-time", cuts(answer(GOOD, "Connection: close")), GOOD),
    Case("50a", "closes-without-a-word", cuts(answer(GOOD)), GOOD),
]
