"""A server that costs next to nothing, so that a client of it measures itself.

Invariant: every request is answered with the same 1,024 bytes, on a connection that stays open. It is given
the number of a listening socket, and ends when its standard input does, so it cannot outlive whoever started
it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import cast

BODY = b"x" * 1024
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
END_OF_REQUEST = b"\r\n\r\n"


class Answering(asyncio.Protocol):
    """Answer once for every blank line; good enough for requests without a body."""

    _transport: asyncio.Transport
    _unfinished = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer what is complete, keep the rest."""
        *complete, self._unfinished = (self._unfinished + data).split(END_OF_REQUEST)
        if complete:
            self._transport.write(ANSWER * len(complete))


async def serve(listening: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Answer in this way until standard input ends."""
    loop = asyncio.get_running_loop()
    await loop.create_server(protocol, sock=listening)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), Answering))
