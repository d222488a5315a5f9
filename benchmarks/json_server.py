"""A server for requests with a body, which costs next to nothing.

Invariant: every request is read to its end, and answered with the same JSON of about 1,000 bytes, on a connection that
stays open. It is started, and ends, as `http_server` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Generator
from typing import cast

from http_server import END_OF_REQUEST, serve

NUMBERS = [round(number / 97 - 0.5, 6) for number in range(97)]
BODY = json.dumps({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": NUMBERS}]}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answering(asyncio.Protocol):
    """Answer once for every request whose body is there."""

    _transport: asyncio.Transport
    _unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer what is complete, keep the rest."""
        self._unread += data
        while (end := self._end_of_first()) is not None:
            self._unread = self._unread[end:]
            self._transport.write(ANSWER)

    def _end_of_first(self) -> int | None:
        head, ended, body = self._unread.partition(END_OF_REQUEST)
        length = LENGTH.search(head)
        needed = int(length[1]) if length else 0
        return len(head) + len(ended) + needed if ended and len(body) >= needed else None


@contextlib.contextmanager
def started() -> Generator[str]:
    """Have it run in a process of its own; give its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        number = listening.fileno()
        with subprocess.Popen([sys.executable, __file__, str(number)], stdin=subprocess.PIPE, pass_fds=[number]):
            host, port = listening.getsockname()
            yield f"http://{host}:{port}/v1/embeddings"


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), Answering))
