"""The `aiomap` command as a process, started fast, and looked at while it runs."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

__all__ = ["PATIENCE", "Command", "Ended", "Folder", "serving", "waited"]

# Long enough for any machine: what is waited for comes, or the process has ended.
PATIENCE = 60.0

# Has everything imported that the command needs, and forks a process for each command, which is ten times as fast as to
# start Python for it. Says its process id and then its exit code, from a process between the two.
FORKING = """
import fcntl, json, os, socket, sys, termios
import aiomap.fetch.robots, aiomap.cli.commands, aiomap.cli.export
import aiomap.cli.job, aiomap.cli.outputs, aiomap.fetch, aiomap.journal
import aiomap._attempts, aiomap._recorder, aiomap._retry, aiomap.cli.function, aiomap.inputs.entries
import aiomap.journal.file, aiomap.journal.fingerprint, aiomap.journal.opening, aiomap.journal.writer
import aiomap.limits.per_key
from contextlib import suppress
from aiomap.cli import main

with suppress(ImportError):
    import msgspec.json

server = socket.socket(fileno=int(sys.argv[1]))
while True:
    asked, descriptors, _, _ = socket.recv_fds(server, 65536, 4)
    if not asked:
        sys.exit()
    between = os.fork()
    if not between:
        answer = descriptors.pop()
        child = os.fork()
        if child:
            os.write(answer, f"{child}\\n".encode())
            for descriptor in (server.fileno(), *descriptors):
                os.close(descriptor)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.write(answer, f"{code}\\n".encode())
            os._exit(0)
        break
    for descriptor in descriptors:
        os.close(descriptor)
server.close()
os.close(answer)
for target, descriptor in enumerate(descriptors):
    os.dup2(descriptor, target)
    os.close(descriptor)
folder, sys.argv[1:] = json.loads(asked)
os.chdir(folder)
os.environ["TERM"] = "xterm"
if os.isatty(0):  # as a shell would have it: the terminal is the one that controls the process
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
main()
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote."""

    code: int
    out: str
    err: str


class Command:
    """A process that was asked for; its streams are descriptors, which stay the caller's."""

    def __init__(self, server: socket.socket, folder: Path, arguments: Sequence[str], streams: Sequence[int]) -> None:
        self._answer, answered = socket.socketpair()
        with answered:
            asked = json.dumps([str(folder), arguments]).encode()
            socket.send_fds(server, [asked], [*streams, answered.fileno()])
        self._told = b""
        self._answer.settimeout(PATIENCE)
        while b"\n" not in self._told:
            self._hear()
        self.pid = int(self._told.split()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        self._answer.close()

    def poll(self) -> int | None:
        """Its exit code, if it has ended; less than 0 for a signal."""
        while self._told.count(b"\n") < 2 and select.select([self._answer], [], [], 0)[0]:
            self._hear()
        return int(self._told.split()[1]) if self._told.count(b"\n") == 2 else None

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        while self._told.count(b"\n") < 2:
            self._hear()
        return int(self._told.split()[1])

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _hear(self) -> None:
        heard = self._answer.recv(100)
        assert heard, "nobody is there to say how it ended"
        self._told += heard


@dataclass(frozen=True)
class Folder:
    """A folder of a user's, in which commands are typed."""

    path: Path
    server: socket.socket

    def run(self, *arguments: str, text: str = "") -> Ended:
        """The command, to its end."""
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(text.encode())
            given.seek(0)
            with self.command(arguments, given.fileno(), out.fileno(), err.fileno()) as command:
                code = command.wait()
            out.seek(0)
            err.seek(0)
            return Ended(code, out.read().decode(), err.read().decode())

    @contextmanager
    def started(self, *arguments: str, out: int | None = None) -> Generator[Command]:
        """The command, while it runs; what it says goes into the file err."""
        with Path(os.devnull).open("r+b") as null, (self.path / "err").open("wb") as err:
            stdout = null.fileno() if out is None else out
            with self.command(arguments, null.fileno(), stdout, err.fileno()) as command:
                yield command

    def command(self, arguments: Sequence[str], *streams: int) -> Command:
        return Command(self.server, self.path, arguments, streams)

    def numbers(self, count: int, name: str = "in.jsonl") -> None:
        self.write(name, "".join(f"{number}\n" for number in range(count)))

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def read(self, name: str) -> str:
        file = self.path / name
        return file.read_text() if file.exists() else ""

    def names(self) -> set[str]:
        return {file.name for file in self.path.iterdir()}

    def records(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read(name).splitlines()]

    def values(self, name: str = "out.jsonl") -> list[Any]:
        return [record["value"] for record in self.records(name)]

    def noted(self) -> Counter[str]:
        """How often what was noted by the function."""
        return Counter(line.strip() for line in self.read("log").splitlines())

    def change(self, old: str, new: str) -> None:
        text = self.read("job.py")
        assert old in text
        self.write("job.py", text.replace(old, new))

    def until(self, process: Command, name: str, text: str, count: int = 1) -> None:
        """Returns once the text is in the file, so often."""
        waited(process, lambda: self.read(name).count(text) >= count, f"{text!r} in {name}")


def waited(process: Command, is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert process.poll() is None or is_so(), f"ended with {process.poll()} before there was {what}"
        assert time.monotonic() < end, f"there was never {what}"
        select.select([], [], [], 0.005)


@contextmanager
def serving() -> Generator[socket.socket]:
    """A process that starts commands, for `Command` and `Folder` to ask."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        descriptor = theirs.fileno()
        with subprocess.Popen([sys.executable, "-c", FORKING, str(descriptor)], pass_fds=[descriptor]) as process:
            theirs.close()
            yield ours
            ours.close()
            assert process.wait(PATIENCE) == 0
