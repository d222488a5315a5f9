"""One run at a time has a journal open, and what the last one had committed is known from outside of it.

Invariant: whoever holds the lock is alive. The kernel takes it back at any end of the process, and a forked child does
not inherit it. The file stays when the lock is released: between its deletion and a new one two runs could each have a
lock of their own.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from contextlib import suppress
from typing import Any, Final, final
from weakref import WeakSet

from aiomap._foreign import printable
from aiomap.errors import JournalError, JournalLocked

__all__ = ["FileLock", "is_held"]

_MARK: Final = 20  # digits, of fixed width, so that a new mark overwrites the old one and nothing else
_LONGEST: Final = 1000  # bytes of the file that are read: an owner's line is far shorter

_held: WeakSet[FileLock] = WeakSet()


@final
class FileLock:
    """The lock on `<path>.lock`, whose text is the mark and, in the next line, who holds it.

    path: the journal's file. Nothing is done before `acquire`.
    """

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._file: Final = path + ".lock"
        self._descriptor = -1

    @property
    def held(self) -> bool:
        """Whether this object has the lock, in this process."""
        return self._descriptor >= 0

    def acquire(self) -> None:
        """Takes the lock. JournalLocked if somebody has it, JournalError if there can be none."""
        try:
            self._descriptor = self._locked()
        except JournalError:
            raise
        except OSError as error:
            raise JournalError(self._path, _refusal(self._file, error)) from error
        _held.add(self)
        try:
            self._sign()
        except OSError as error:
            self.release()
            raise JournalError(self._path, _refusal(self._file, error)) from error

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self.held:
            _held.discard(self)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def mark(self, number: int) -> None:
        """Notes the last committed row; what comes of it is a warning, so a disk that does not take it is no error."""
        with suppress(OSError):
            os.pwrite(self._descriptor, b"%0*d" % (_MARK, number), 0)

    def marked(self) -> int:
        """The last committed row as noted, 0 if none is; with or without the lock."""
        try:
            mark = self._read()[:_MARK]
        except OSError:
            return 0
        return int(mark) if len(mark) == _MARK and mark.isdigit() else 0

    def forget(self) -> None:
        """Closes this process's copy of the lock, and leaves the lock with the process that it was copied from."""
        descriptor, self._descriptor = self._descriptor, -1
        with suppress(OSError):
            os.close(descriptor)

    def _locked(self) -> int:
        try:
            import fcntl
        except ImportError:
            raise JournalError(self._path, "this system has no flock, and without it no journal is safe") from None
        while True:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(self._file, descriptor):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise JournalLocked(self._path, self._owner()) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # somebody deleted it in between, so this lock would keep nobody out

    def _sign(self) -> None:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
        line = b"\n" + json.dumps(owner).encode() + b"\n"
        if not self.marked():
            self.mark(0)
        os.pwrite(self._descriptor, line, _MARK)
        os.ftruncate(self._descriptor, _MARK + len(line))

    def _owner(self) -> str:
        way_out = "wait for that run to end, or give this one a journal of its own"
        try:
            owner: Any = json.loads(self._read().split(b"\n")[1])
            pid, host, since = int(owner["pid"]), str(owner["host"]), time.localtime(owner["since"])
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return f"it is in use by another process: {way_out}"
        here = pid == os.getpid() and host == socket.gethostname()
        who = "this process" if here else f"process {pid} on {printable(host)}"
        return f"it is in use by {who}, since {time.strftime('%Y-%m-%d %H:%M:%S', since)}: {way_out}"

    def _read(self) -> bytes:
        descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.pread(descriptor, _LONGEST, 0)
        finally:
            os.close(descriptor)


def is_held(path: str) -> bool:
    """Whether somebody has the journal open. Nothing is changed; a run that begins in this very instant is refused."""
    import fcntl

    try:
        descriptor = os.open(path + ".lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))  # noqa: PTH116  (paths are text here)
    except FileNotFoundError:
        return False


def _refusal(file: str, error: OSError) -> str:
    if os.path.islink(file):  # noqa: PTH114  (paths are text here)
        return f"{file} is a symbolic link, which is not followed: remove it"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full: free some space and run again"
    return f"{file} cannot be locked ({error.strerror}): put the journal into a folder on a local disk that is writable"


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
