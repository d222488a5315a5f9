"""21-38: bodies without end, of the wrong length, packed wrongly, and texts in no encoding or in the wrong one."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.loopback import answer
from tests.nasty.case import GOOD, MOST_BODY, MOST_SENT, Case, Ended, cuts, link, says, stalls
from tests.nasty.server import Exchange, Sites

__all__ = ["BOMBS", "CASES"]

brotli: Any = import_module("brotli")  # it has no types

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_NOISE = os.urandom(20_000)
_PACKED = gzip.compress(_NOISE)
_RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
_ZEROS = bytes(30_000_000)
_ODD = 'a\0b\u2028c\u2029d\x85e"\\\r\n\x1b[31m'.encode()


async def _chunks_without_end(exchange: Exchange) -> None:
    await exchange.begin(_CHUNKED)
    await exchange.forever(b"2000\r\n" + bytes(8192) + b"\r\n")


async def _bytes_without_end(exchange: Exchange) -> None:
    await exchange.begin(b"HTTP/1.1 200 OK\r\n\r\n")
    await exchange.forever(bytes(8192))


async def _packed_without_end(exchange: Exchange) -> None:
    await exchange.begin(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    await exchange.forever(gzip.compress(b""))


async def _claims_ten_terabytes(exchange: Exchange) -> None:
    await exchange.begin(answer(length=10**13))
    await exchange.forever(bytes(8192))


def _was_not_read_on(ended: Ended) -> None:
    [asked] = ended.asked
    assert asked.sent < MOST_SENT


def _in(encoding: str, body: bytes) -> bytes:
    return answer(body, f"Content-Encoding: {encoding}")


def _text(expected: str | None) -> Callable[[Ended], None]:
    def check(ended: Ended) -> None:
        assert ended.page is not None
        assert ended.page.text() == expected
        _is_one_line_of_strict_json(ended)

    return check


def _is_one_line_of_strict_json(ended: Ended) -> None:
    assert ended.page is not None
    line = json.dumps(ended.page.value(), allow_nan=False, ensure_ascii=False)
    assert "\n" not in line
    assert json.loads(line.encode()) == ended.page.value()


def _kind(charset: str, body: bytes) -> bytes:
    return answer(body, f"Content-Type: text/html; charset={charset}")


def _head(sites: Sites, host: str, name: str) -> object:
    return {"url": link(sites, host, name), "method": "HEAD"}


BOMBS = [
    Case("27", "gzip-bomb", says(_in("gzip", gzip.compress(_ZEROS))), "too_large"),
    Case("27a", "deflate-bomb", says(_in("deflate", zlib.compress(_ZEROS))), "too_large"),
    Case("27b", "brotli-bomb", says(_in("br", brotli.compress(_ZEROS, quality=3))), "too_large"),
    Case("21", "chunks-without-end", _chunks_without_end, "too_large", check=_was_not_read_on),
    Case("21a", "bytes-without-end", _bytes_without_end, "too_large", check=_was_not_read_on),
    Case("22", "ten-terabytes", _claims_ten_terabytes, "too_large", check=_was_not_read_on),
]
"""They end in time only because somebody stops reading, and in little memory only because of how it is read."""

CASES = [
    *BOMBS,
    Case("21b", "one-byte-too-much", says(answer(bytes(MOST_BODY + 1))), "too_large"),
    Case("21c", "just-as-much-as-may-be", says(answer(bytes(MOST_BODY))), bytes(MOST_BODY)),
    Case("23", "length-too-big", cuts(answer(b"only this", length=100)), "connect"),
    Case("24", "length-too-small", says(answer(b"good, and some junk", length=4)), "bad_content", "no valid HTTP"),
    Case(
        "25",
        "length-and-chunks",
        cuts(answer(b"", "Transfer-Encoding: chunked", length=5) + b"5\r\nhello\r\n0\r\n\r\n"),
        "bad_content",
    ),
    Case("25a", "two-lengths", cuts(answer(b"hello", "Content-Length: 3")), "bad_content"),
    Case("25b", "negative-length", cuts(answer(b"hello", length=-1)), "bad_content"),
    Case("25c", "length-of-words", cuts(b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"), "bad_content"),
    Case("26", "chunk-size-no-number", cuts(_CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n"), "bad_content"),
    Case("26a", "chunk-size-negative", cuts(_CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"), "bad_content"),
    Case("26b", "chunk-size-enormous", cuts(_CHUNKED + b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n"), "bad_content"),
    Case("26c", "chunk-longer-than-it-says", cuts(_CHUNKED + b"3\r\nhello\r\n0\r\n\r\n"), "bad_content"),
    Case("26d", "no-last-chunk", cuts(_CHUNKED + b"5\r\nhello\r\n"), "connect"),
    Case("28", "truncated-gzip", says(_in("gzip", _PACKED[:-200])), "bad_content"),
    Case("28a", "gzip-without-its-sum", says(_in("gzip", _PACKED[:-8])), "bad_content"),
    Case("28b", "gzip-with-a-wrong-sum", says(_in("gzip", _PACKED[:-8] + bytes(8))), "bad_content"),
    Case("28c", "truncated-deflate", says(_in("deflate", zlib.compress(_NOISE)[:-9])), "bad_content"),
    Case("28d", "truncated-brotli", says(_in("br", brotli.compress(_NOISE)[:-100])), "bad_content"),
    Case("28e", "gzip-in-two-members", says(_in("gzip", gzip.compress(GOOD[:4]) + gzip.compress(GOOD[4:]))), GOOD),
    Case(
        "28f",
        "gzip-byte-by-byte",
        says(
            _CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
            + b"".join(b"1\r\n%c\r\n" % byte for byte in gzip.compress(GOOD))
            + b"0\r\n\r\n"
        ),
        GOOD,
    ),
    Case("28g", "deflate-without-its-header", says(_in("deflate", _RAW.compress(GOOD) + _RAW.flush())), GOOD),
    Case("28h", "empty-members-without-end", _packed_without_end, "too_large", check=_was_not_read_on),
    Case("29", "plain-called-brotli", says(_in("br", GOOD)), "bad_content"),
    Case("29a", "plain-called-gzip", says(_in("gzip", GOOD)), "bad_content"),
    Case("29b", "unknown-encoding", says(_in("x-own", GOOD)), "bad_content", "x-own"),
    Case("29c", "identity", says(_in("identity", GOOD)), GOOD),
    Case("29d", "empty-body-called-gzip", says(_in("gzip", b"")), b"", asked=None),
    Case("30", "gzip-in-gzip", says(_in("gzip, gzip", gzip.compress(gzip.compress(GOOD)))), GOOD),
    Case(
        "30a",
        "gzip-in-gzip-said-once",
        says(_in("gzip", gzip.compress(gzip.compress(GOOD, mtime=0), mtime=0))),
        gzip.compress(GOOD, mtime=0),
    ),
    Case("31", "empty", says(answer()), b""),
    Case("31a", "closed-without-a-body", cuts(b"HTTP/1.1 200 OK\r\n\r\n"), b""),
    Case("32", "204-with-a-body", says(answer(b"a body", status="204 No Content")), "bad_content", "no valid HTTP"),
    Case("33", "head-with-a-body", says(answer(b"a body")), "bad_content", "no valid HTTP", item=_head),
    Case("33a", "head-with-a-length", says(answer(length=10**13)), b"", item=_head),
    Case("34", "error-page-with-200", says(answer(b"<h1>Too many requests</h1>")), b"<h1>Too many requests</h1>"),
    Case(
        "35", "html-for-json", says(answer(b"<p>no", "Content-Type: application/json")), b"<p>no", check=_text("<p>no")
    ),
    Case(
        "35a",
        "json-with-nan-and-bom",
        says(answer(b'\xef\xbb\xbf{"a": NaN, "a": ', "Content-Type: application/json")),
        b'\xef\xbb\xbf{"a": NaN, "a": ',
        check=_is_one_line_of_strict_json,
    ),
    Case("36", "charset-missing", says(answer(b"caf\xc3\xa9")), b"caf\xc3\xa9", check=_text("caf\u00e9")),
    Case("36a", "charset-lies", says(_kind("utf-8", b"caf\xe9")), b"caf\xe9", check=_text(None)),
    Case("36b", "charset-unknown", says(_kind("klingon", b"caf\xc3\xa9")), b"caf\xc3\xa9", check=_text("caf\u00e9")),
    Case(
        "36c", "charset-is-a-trap", says(_kind("idna", b"xn--a" * 1000)), b"xn--a" * 1000, check=_text("xn--a" * 1000)
    ),
    Case("36d", "charset-is-no-charset", says(_kind("zip", b"caf\xc3\xa9")), b"caf\xc3\xa9", check=_text("caf\u00e9")),
    Case("37", "control-characters", says(answer(_ODD)), _ODD, check=_text(_ODD.decode())),
    Case("37a", "lone-surrogates", says(_kind("utf-8", b"\xed\xa0\x80")), b"\xed\xa0\x80", check=_text(None)),
    Case(
        "37b",
        "lone-surrogates-in-utf-16",
        says(_kind("utf-16-le", b"a\0\x00\xd8")),
        b"a\0\x00\xd8",
        check=_is_one_line_of_strict_json,
    ),
    Case(
        "37c", "lone-surrogates-in-utf-7", says(_kind("utf-7", b"+2AA-")), b"+2AA-", check=_is_one_line_of_strict_json
    ),
    Case("38", "one-long-line", says(answer(b"x" * 99_999)), b"x" * 99_999),
    Case("38a", "never-the-last-chunk", stalls(_CHUNKED + b"5\r\nhello\r\n"), "timeout", hangs=True),
]
