"""The signals that a sitting reacts to, and for how long.

Invariant: what was set before is set again; what the process was told to ignore stays ignored.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["reacting", "stop_until_continued"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP)


@contextmanager
def reacting(react: Callable[[int, FrameType | None], None]) -> Generator[None]:
    """Reacts to signals, but not to those that are ignored, as in a process that a script has started with `&`."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, react)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def stop_until_continued() -> None:
    """What SIGTSTP would have done, had nobody reacted to it: the process stands still until SIGCONT."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, before)
