"""85 and 89: links that are none, or look like another, and what else stands in a row of the input."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.loopback import answer
from tests.nasty.case import GOOD, Case, Ended, always, link, says
from tests.nasty.server import Sites

__all__ = ["CASES"]

_GOOD = says(answer(GOOD))


def _row(**columns: object) -> Callable[[Sites, str, str], object]:
    return lambda sites, host, name: {"url": link(sites, host, name), **columns}


def _sent(method: str, body: bytes = b"", **headers: str) -> Callable[[Ended], None]:
    def check(ended: Ended) -> None:
        [asked] = ended.asked
        assert (asked.method, asked.body) == (method, body)
        assert {name: asked.headers.get(name.replace("_", "-")) for name in headers} == headers

    return check


def _sent_json(ended: Ended) -> None:
    [asked] = ended.asked
    assert (asked.method, asked.headers["content-type"]) == ("POST", "application/json")
    assert json.loads(asked.body) == {"a": "\u00e9"}


_BAD = "bad_input"


def _bad(number: str, name: str, item: object, tells: str = "") -> Case:
    return Case(number, name, _GOOD, _BAD, tells, asked=0, item=always(item))


CASES = [
    _bad("89d", "mailto", "mailto:me@example.test"),
    _bad("89e", "javascript", "javascript:alert(1)"),
    _bad("89f", "no-scheme-at-all", "example.test/page"),
    _bad("89g", "a-file", "file:///etc/passwd"),
    _bad("89h", "no-host", "http:///page"),
    _bad("89i", "port-too-big", "http://good.test:99999/"),
    _bad("89j", "half-an-address", "http://[::1/"),
    _bad("89k", "control-character", "http://good.test/\x1b[31m"),
    _bad("89l", "line-break-in-a-link", "http://good.test/\r\nX: y"),
    _bad("89m", "a-number", 7),
    _bad("89n", "nothing", ""),
    _bad("89o", "row-without-a-link", {"name": "x"}),
    _bad("89p", "header-with-a-line-break", {"url": "http://good.test/", "headers": {"X": "y\r\nZ: z"}}),
    _bad("89q", "header-that-is-none", {"url": "http://good.test/", "headers": "X: y"}),
    _bad("89r", "method-with-a-space", {"url": "http://good.test/", "method": "GET /"}),
    Case("89s", "port-0", _GOOD, "bad_input", asked=0, item=always("http://127.0.0.2:0/")),
    Case(
        "89t",
        "row-with-everything",
        _GOOD,
        GOOD,
        item=_row(method="PUT", headers={"X-A": "b"}, data="c"),
        check=_sent("PUT", b"c", x_a="b"),
    ),
    Case("89u", "row-with-json", _GOOD, GOOD, item=_row(data={"a": "\u00e9"}), check=_sent_json),
    Case("89v", "row-with-nothing", _GOOD, GOOD, item=_row(method="", headers=None, data=""), check=_sent("GET")),
]
