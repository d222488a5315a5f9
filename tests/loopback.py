"""A web site on loopback that answers with exactly the bytes it is told to, however wrong, and keeps what it saw."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["Script", "Site", "answer"]

# Answers as it likes, instead of with fixed bytes.
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A response; `length` is what it claims to be the length of the body, if that is not true."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


class Site:
    """`async with Site({"/": answer(b"hello")}) as site`; what is not listed is 404.

    A path that begins with /hold is answered only once `released` is set. One connection serves one request.
    """

    def __init__(self, answers: Mapping[str, bytes | Script] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[str] = []
        self.asked_at: list[float] = []
        self.heads: list[bytes] = []
        self.now = self.most_at_once = 0
        self.released = asyncio.Event()
        self._changed = asyncio.Condition()
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, path: str, scheme: str = "http") -> str:
        """The link to a path of this site."""
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    async def was_asked(self, times: int) -> None:
        """Waits until so many requests have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.asked) >= times)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if first == b"\x16":  # a TLS handshake: say what a server without TLS says
            writer.write(answer(status="400 Bad Request"))
            return
        head = first + await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        if sent := re.search(rb"(?i)\r\ncontent-length: (\d+)", head):
            head += await reader.readexactly(int(sent[1]))
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        async with self._changed:
            self.asked.append(path)
            self.asked_at.append(asyncio.get_running_loop().time())
            self.heads.append(head)
            self._changed.notify_all()
        if path.startswith("/hold"):
            await self.released.wait()
        await asyncio.sleep(0)
        self.now -= 1
        said = self.answers.get(path.partition("?")[0], answer(status="404 Not Found"))
        if not isinstance(said, bytes):
            await said(writer)
            return
        # The client must not take this connection again, for it ends here.
        writer.write(said.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await writer.drain()
