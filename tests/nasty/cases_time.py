"""1-6: servers that take their time. All end with the time that an attempt has, and their slot is free again."""

from __future__ import annotations

from tests.loopback import answer
from tests.nasty.case import GOOD, Case, drips, link, stalls
from tests.nasty.server import Sites

__all__ = ["CASES", "FULL_QUEUE"]

FULL_QUEUE = "127.0.0.61"
"""An address whose queue of connections is full."""

_HEAD = b"HTTP/1.1 200 OK\r\n"
_NEVER = "not done after"


def _at_the_full_queue(sites: Sites, _: str, name: str) -> object:
    return link(sites, FULL_QUEUE, name)


CASES = [
    Case("1", "never-answers", stalls(), "timeout", _NEVER, hangs=True),
    Case("2", "full-queue", stalls(), "timeout", _NEVER, asked=0, item=_at_the_full_queue, hangs=True),
    Case("3", "drips-its-headers", drips(_HEAD, b"x", 0.05), "timeout", _NEVER, hangs=True),
    Case("3a", "headers-without-end", drips(_HEAD, b"X: y\r\n", 0.05), "timeout", _NEVER, hangs=True),
    Case("3b", "continues-for-ever", drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05), "timeout", hangs=True),
    Case("4", "drips-its-body", drips(answer(length=10_000), b".", 0.05), "timeout", _NEVER, hangs=True),
    Case("4a", "drips-until-it-closes", drips(_HEAD + b"\r\n", b".", 0.05), "timeout", _NEVER, hangs=True),
    Case("5", "stalls-in-its-body", stalls(answer(bytes(500), length=1000)), "timeout", _NEVER, hangs=True),
    Case(
        "5a",
        "stalls-between-chunks",
        stalls(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        "timeout",
        hangs=True,
    ),
    Case("5b", "error-that-stalls", stalls(answer(b"half", status="500 Oh", length=1000)), "http_5xx", "500"),
    Case("5c", "error-that-drips", drips(answer(length=10_000, status="404 No"), b".", 0.05), "http_4xx", "404"),
    Case("6", "keeps-the-last-byte", stalls(answer(GOOD, length=len(GOOD) + 1)), "timeout", _NEVER, hangs=True),
]
