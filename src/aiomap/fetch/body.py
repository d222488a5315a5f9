"""Reading a body: whole or not at all, decompressed, and never more of it than was allowed.

Invariant: neither what arrives, nor what any step of its decompression makes of it, is more than the limit, and no more
than a few MiB beyond it are ever in memory.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler

from aiomap._foreign import printable
from aiomap.fetch.failures import FetchFailed

__all__ = ["accepted_encodings", "let_go", "read_body"]

# A body is decompressed in steps of this many bytes in, because a gzip of many members is copied once for each of them
# that a step has, and of this many out, because a byte in can be a thousand out.
_WINDOW: Final = 1 << 14
_PIECE: Final = 1 << 20
_GZIP: Final = 0x1F

# Names that stand for no compression: the one that does, and what servers write there by mistake.
_PLAIN: Final = frozenset({"", "identity", "none", "utf-8"})
_MOST_ENCODINGS: Final = 2

# What is read of a body that nobody wants, so that its connection may be used again, and for how many seconds.
_SMALL: Final = 1 << 13
_PATIENCE: Final = 1.0

_NO_BODY: Final = frozenset({204, 304})


class _Decoder(Protocol):
    def feed(self, part: bytes) -> Iterator[bytes]:
        """The bytes that this part of the body stands for, in bounded pieces."""
        ...

    def end(self) -> bytes:
        """What is left; FetchFailed if the compressed data should have gone on."""
        ...


def accepted_encodings() -> str:
    """What goes into `Accept-Encoding`: brotli only if it is installed, and can be bounded."""
    return "gzip, deflate, br" if _brotli() else "gzip, deflate"


async def read_body(response: aiohttp.ClientResponse, most: int, *, whole: bool = True) -> bytes:
    """The body of a response, decompressed.

    most: how many bytes it may have.
    whole: whether a longer one is a failure; else it is its first `most` bytes.

    Raises `FetchFailed` of class `too_large` or `bad_content`, and what aiohttp raises if the connection breaks.
    """
    if response.method == "HEAD" or response.status in _NO_BODY:
        return b""
    announced = response.content_length
    if whole and announced is not None and announced > most:
        raise _too_large(most, f"its server announced {announced:,}")
    _check_transfer(response.headers.get("Transfer-Encoding", "chunked"))
    connection = response.connection and response.connection.protocol
    steps = _Steps(_decoders(response.headers.getall("Content-Encoding", ())), most)
    try:
        async for part in response.content.iter_any():
            steps.feed(part)
        if announced is None and "Transfer-Encoding" not in response.headers:
            _check_end(connection)
        steps.end()
    except _MoreThanAllowedError:
        if whole:
            raise _too_large(most, "the rest was not read") from None
    del steps.body[most:]
    return bytes(steps.body)


async def let_go(response: aiohttp.ClientResponse) -> None:
    """Reads the body if it is small and there soon: then the connection can be used again, else it is closed."""
    if (response.content_length or 0) > _SMALL:
        return
    left = _SMALL
    # Whatever happens to such a body is no failure.
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            async for part in response.content.iter_any():
                left -= len(part)
                if left < 0:
                    return


class _MoreThanAllowedError(Exception):
    """Some step of reading a body had more bytes than a body may have."""


class _Steps:
    """From what arrives, through each decoder, to the body. What goes into a step is counted."""

    def __init__(self, decoders: Sequence[_Decoder], most: int) -> None:
        self.body = bytearray()
        self._decoders = decoders
        self._most = most
        self._counts = [0] * (len(decoders) + 1)

    def feed(self, part: bytes, step: int = 0) -> None:
        """Takes a part of what goes into that step."""
        self._counts[step] += len(part)
        if step == len(self._decoders):
            self.body += part
        if self._counts[step] > self._most:
            raise _MoreThanAllowedError
        if step < len(self._decoders):
            for piece in self._decoders[step].feed(part):
                self.feed(piece, step + 1)

    def end(self) -> None:
        """What arrives has ended."""
        for step, decoder in enumerate(self._decoders, 1):
            self.feed(decoder.end(), step)


def _check_end(connection: ResponseHandler | None) -> None:
    """A body without a length ends with its connection. aiohttp takes it for whole also if that was reset."""
    if connection is not None and isinstance(connection.exception(), aiohttp.ClientOSError):
        raise aiohttp.ClientPayloadError


def _too_large(most: int, why: str) -> FetchFailed:
    return FetchFailed("too_large", f"the body has more than {most:,} bytes ({why})")


def _check_transfer(coding: str) -> None:
    """A body may be compressed for its transfer alone. No server does that unasked, and nobody undoes it here."""
    if coding.strip().lower() not in ("chunked", "identity"):
        raise FetchFailed(
            "bad_content", f"the body is transferred as {printable(coding)[:50]}, which was not asked for"
        )


def _decoders(headers: Sequence[str]) -> list[_Decoder]:
    """What undoes the encodings that these `Content-Encoding` headers list, the last one first."""
    names = [name.strip().lower() for header in headers for name in header.split(",")]
    names = [name for name in names if name not in _PLAIN]
    if len(names) > _MOST_ENCODINGS:
        raise FetchFailed("bad_content", f"the body is compressed {len(names)} times, and at most twice is read")
    return [_decoder(name) for name in reversed(names)]


def _decoder(name: str) -> _Decoder:
    if name in ("gzip", "x-gzip", "deflate"):
        return _Inflater(gzip=name != "deflate")
    if name == "br" and _brotli():
        return _Unbrotli()
    raise FetchFailed("bad_content", f"the body is compressed with {printable(name)[:50]}, which was not asked for")


class _Inflater:
    """Decompresses gzip (several members too) or deflate (with the zlib header or without)."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._stream: Any = None  # a zlib.decompressobj, whose type has no name

    def feed(self, part: bytes) -> Iterator[bytes]:
        for start in range(0, len(part), _WINDOW):
            rest = part[start : start + _WINDOW]
            while rest and (stream := self._stream_for(rest)):
                yield stream.decompress(rest, _PIECE)
                rest = stream.unconsumed_tail or stream.unused_data

    def end(self) -> bytes:
        if self._stream is None:
            return b""
        left: bytes = self._stream.flush()
        if not self._stream.eof:
            raise _ends_too_early()
        return left

    def _stream_for(self, rest: bytes) -> Any:
        """`None` for what stands after the end and is no further member: padding, which browsers ignore too."""
        first = self._stream is None
        if self._stream is not None and not self._stream.eof:
            return self._stream
        if self._gzip and (first or rest[0] == _GZIP):
            self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        elif first:
            has_header = rest[0] & 0x0F == zlib.DEFLATED
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        else:
            return None
        return self._stream


class _Unbrotli:
    """Decompresses brotli."""

    def __init__(self) -> None:
        brotli = _brotli()
        self._stream: Any = brotli.Decompressor()
        self._broken: type[Exception] = brotli.error
        self._is_empty = True

    def feed(self, part: bytes) -> Iterator[bytes]:
        self._is_empty = self._is_empty and not part
        for start in range(0, len(part), _WINDOW):
            piece = self._process(part[start : start + _WINDOW])
            yield piece
            # What it says of accepting more data does not mean that it has no more output. Having had none does.
            while piece and not self._stream.is_finished():
                piece = self._process(b"")
                yield piece

    def end(self) -> bytes:
        if not self._is_empty and not self._stream.is_finished():
            raise _ends_too_early()
        return b""

    def _process(self, part: bytes) -> bytes:
        try:
            # The limit is where it stops to double its buffer: a piece may be twice as large.
            piece: bytes = self._stream.process(part, output_buffer_limit=_PIECE)
        except self._broken:
            raise FetchFailed("bad_content", "the compressed body is broken: it is no brotli") from None
        return piece


@cache
def _brotli() -> Any:
    """The module, which has no types; `None` if it is not there, or too old to stop at a limit."""
    try:
        brotli = import_module("brotli")
        brotli.Decompressor().process(b"", output_buffer_limit=_PIECE)
    except (ImportError, AttributeError, TypeError):
        return None
    return brotli


def _ends_too_early() -> FetchFailed:
    return FetchFailed("bad_content", "the compressed body ends too early")
