"""Known ways to break the engine: replacements in its source.

Invariant: a mutant changes what a user can see, and nothing else, so the sweep must notice it. One whose old text is
not found, or stands there twice, must be adapted: it is tried against the source as it is, or not at all.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiomap

__all__ = ["MUTANTS", "Mutant", "imported", "load"]


@dataclass(frozen=True)
class Mutant:
    """Where `old` stands in a module, once, `new` shall stand. policies: it takes policies to notice."""

    name: str
    module: str
    old: str
    new: str
    policies: bool = False


def load(mutant: Mutant, folder: Path) -> types.ModuleType:
    """A second copy of aiomap, with the mutant in it, beside the one that is imported already."""
    shutil.copytree(Path(aiomap.__file__).parent, folder / "aiomap", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "aiomap" / f"{mutant.module}.py"
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise LookupError(
            f"the mutant {mutant.name!r} must be adapted to {mutant.module}.py: "
            f"{mutant.old!r} is found there {text.count(mutant.old)} times, not once"
        )
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    kept = _taken_out()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("aiomap")
    finally:
        sys.path.remove(str(folder))
        _MODULES[folder] = _taken_out()
        sys.modules.update(kept)


@contextmanager
def imported(library: types.ModuleType) -> Iterator[None]:
    """While that copy of aiomap is at work, it is the one that an import finds: some of its own come late."""
    if library is aiomap:
        yield
        return
    folder = Path(str(library.__file__)).parent.parent
    kept = _taken_out()
    sys.modules.update(_MODULES[folder])
    try:
        yield
    finally:
        _MODULES[folder] = _taken_out()
        sys.modules.update(kept)


_MODULES: Final[dict[Path, dict[str, types.ModuleType]]] = {}


def _taken_out() -> dict[str, types.ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "aiomap"}


PLAIN_MUTANTS = [
    Mutant(
        "one item too many runs",
        "_engine",
        "free, dry = self.limit - live,",
        "free, dry = self.limit + 1 - live,",
    ),
    Mutant(
        "one worker fewer is started than there are slots",
        "_engine",
        "if not source.shut and free and room:",
        "if not source.shut and free > (live > 0) and room:",
    ),
    Mutant(
        "starts go on after a failure or a cancel",
        "_engine",
        "self.stopped = self._source.shut = True\n        self._source.stop()",
        "self.stopped = True",
    ),
    Mutant(
        "the cancel of the caller arrives a turn late",
        "_door",
        "        self._knocked()\n",
        "",
    ),
    Mutant(
        "a cancelled caller does not wait for the workers",
        "_engine",
        "                self.cancel()\n        if cancelled",
        "                self.cancel()\n                break\n        if cancelled",
    ),
    Mutant(
        "running items are not cancelled on a failure",
        "_engine",
        "                self._cancelled = True\n                self._cancel_running()",
        "                self._cancelled = True\n                error or self._cancel_running()",
    ),
    Mutant(
        "running items are cancelled once more by every stop",
        "_engine",
        "            if not self._cancelled:\n                self._cancelled",
        "            if True:\n                self._cancelled",
    ),
    Mutant(
        "a first cancel of the caller that follows a failure is forwarded",
        "_engine",
        "if self._outside_cancels > 1:\n            self",
        "if self._outside_cancels > 0:\n            self",
    ),
    Mutant(
        "a second cancel of the caller is not forwarded",
        "_engine",
        "if self._outside_cancels > 1:\n            self",
        "if self._outside_cancels > 9:\n            self",
    ),
    Mutant(
        "a cancel of the caller is swallowed",
        "_engine",
        "            raise cancelled\n",
        "            pass\n",
    ),
    Mutant(
        "a failure outranks a cancel of the caller",
        "_engine",
        "if cancelled is not None and not ends_the_program(self.error):",
        "if cancelled is not None and self.error is None:",
    ),
    Mutant(
        "a failure outranks a KeyboardInterrupt that follows it",
        "_engine",
        "self.error is None or ends_the_program(error) > ends_the_program(self.error)",
        "self.error is None",
    ),
    Mutant(
        "a CancelledError that an item made is taken for a cancel of the run",
        "_engine",
        "if self._cancelled and isinstance(error, asyncio.CancelledError):",
        "if isinstance(error, asyncio.CancelledError):",
    ),
    Mutant(
        "a StopAsyncIteration of an item is not wrapped",
        "_verdict",
        "isinstance(error, StopIteration | StopAsyncIteration)",
        "isinstance(error, StopIteration)",
    ),
    Mutant(
        "a callback that raises does not stop the run",
        "_verdict",
        "            run.stop(broken)\n",
        "            pass\n",
    ),
    Mutant(
        "a changed context is told by ==",
        "_engine",
        "refs_of(context)[-1] is not clean",
        "refs_of(context)[-1] != clean",
    ),
    Mutant(
        "a changed context is not noticed",
        "_engine",
        "or (context if clean is None else refs_of(context)[-1] is not clean)",
        "or (clean is not None and self._isolate)",
    ),
    Mutant(
        "a cancel that an item left in its task is not noticed",
        "_engine",
        "if source.shut or cancelling() or (context",
        "if source.shut or (context",
    ),
    Mutant(
        "isolate=True does nothing",
        "_engine",
        "clean = object() if self._isolate else root(context) if context else None",
        "clean = root(context) if context else None",
    ),
    Mutant(
        "a worker cancelled before its first step stays in the books",
        "_engine",
        "        task.add_done_callback(self._gone)\n",
        "",
    ),
    Mutant(
        "two running items have the same slot",
        "_engine",
        "Call(heappop(self._slots) if self._slots else len(self.workers))",
        "Call(len(self.workers))",
    ),
    Mutant(
        "the window of a stream is not kept",
        "_engine",
        "room = sys.maxsize if self.outbox is None or attempts else self.capacity - self.outbox.held() - live",
        "room = sys.maxsize",
    ),
    Mutant(
        "a full window never opens again",
        "_engine",
        "full = free > 0 and not dry and (attempts.source.crowded if attempts else room <= 0)",
        "full = False",
    ),
    Mutant(
        "items that are left out make room, and nobody is told",
        "_outbox",
        "        if skipped and self.full:\n            self.made_room()",
        "",
    ),
    Mutant(
        "pause() is ignored",
        "_engine",
        "source.shut = self.stopped or self._paused or dry",
        "source.shut = self.stopped or dry",
    ),
    Mutant(
        "drain() goes on with the input",
        "_engine",
        "            self._source.close()\n            self.pause(False)",
        "            self.pause(False)",
    ),
    Mutant(
        "a failure of the source is lost unless it stops the run",
        "_engine",
        "        elif self.error is None:\n            self.error = error\n\n    def _waited_for",
        "\n    def _waited_for",
    ),
    Mutant(
        "a failure of the source never stops the run",
        "_engine",
        "if self._verdicts.fail_fast or not isinstance(error, Exception):",
        "if not isinstance(error, Exception):",
    ),
    Mutant(
        "a plain source is entered in the contexts of the workers",
        "_source",
        "        if self._plain is None:\n            pulled",
        "        if False:\n            pulled",
    ),
    Mutant(
        "a plain source is asked again after its end",
        "_source",
        "chain(enumerate(pulled), self._end())",
        "chain(enumerate(pulled), enumerate(pulled), self._end())",
    ),
    Mutant(
        "an async source is asked again after its end",
        "_source",
        "except StopAsyncIteration:\n                return",
        "except StopAsyncIteration:\n                await anext(iterator, None)\n                return",
    ),
    Mutant(
        "an async source is not closed",
        "_source",
        "await close()",
        "pass",
    ),
    Mutant(
        "an async source is read far ahead",
        "_source",
        "while not self.ended and len(self._ahead) > min(self._free(), _BURST):",
        "while not self.ended and len(self._ahead) > 3:",
    ),
    Mutant(
        "an async source is not asked again when its item was taken",
        "_source",
        "self._wanted.set_result(None)",
        "pass",
    ),
    Mutant(
        "results in order are given out as they come",
        "_outbox",
        "if index != self._next:",
        "if False:",
    ),
    Mutant(
        "a SKIP leaves a hole in the order",
        "_outbox",
        "        elif self._early:\n            self._release(index, value)",
        "        elif self._early and value is not SKIP:\n            self._release(index, value)",
    ),
    Mutant(
        "a waiting consumer is not woken by what was held for the order",
        "_outbox",
        "        if self.ready:\n            self.wake()",
        "",
    ),
    Mutant(
        "the failure of a stream is raised again and again",
        "_stream",
        "        self._raised = True\n        raise self._engine.error\n\n    async def __aenter__",
        "        raise self._engine.error\n\n    async def __aenter__",
    ),
    Mutant(
        "a closed stream has lost the results that were there",
        "_stream",
        "            engine.stop()\n            await engine.finish()",
        "            engine.stop()\n            await engine.finish()\n            self._ready.clear()",
    ),
    Mutant(
        "the cancel with which a stream is left does not count",
        "_stream",
        "self._engine.cancel()",
        "pass",
    ),
]

POLICY_MUTANTS = [
    Mutant(name, module, old, new, policies=True)
    for name, module, old, new in [
        (
            "a run with policies does not notice that its input has ended",
            "_engine",
            "dry = source.ended and not source.waiting  # that question",
            "pass  # that question",
        ),
        (
            "a timed-out attempt is cancelled once more when the run stops",
            "_engine",
            "told = self._attempts.ending if self._attempts and self._outside_cancels < 2 else ()",
            "told = ()",
        ),
        (
            "the first Throttled of a run is an error like any other",
            "_engine",
            "if self._attempts is None and isinstance(failure, Throttled):",
            "if False:",
        ),
        (
            "the limits do not hear that an attempt was cut short",
            "_attempts",
            'because the run was cancelled."""\n        self._end(call, "other")',
            'because the run was cancelled."""',
        ),
        (
            "the limits do not hear of a throttled attempt",
            "_attempts",
            """            self._end(call, "throttled", self._clamped(throttle.retry_after))""",
            "            pass",
        ),
        (
            "a Retry-After counts in full, however long",
            "_attempts",
            "return min(retry_after, most) if retry_after else None",
            "return retry_after or None",
        ),
        (
            "an item may be throttled for ever",
            "_attempts",
            "return now if pending.throttled_for <= most else None",
            "return now",
        ),
        (
            "a throttle uses up an attempt",
            "_attempts",
            "            pending.throttled_at = now\n",
            "            pending.throttled_at = now\n            pending.failures += 1\n",
        ),
        (
            "the budget of retries is ignored",
            "_attempts",
            "if budget is not None and self._retries >=",
            "if budget is not None and self._retries >= 99 +",
        ),
        (
            "a retry comes at once",
            "_attempts",
            "        return now + delay\n",
            "        return now\n",
        ),
        (
            "nobody wakes up when a limit opens",
            "_attempts",
            "        self._alarm.set(self.source.wake_at)\n",
            "        pass\n",
        ),
        (
            "a start does not look for another one",
            "_attempts",
            "            if len(run.workers) < run.limit:\n",
            "            if False:\n",
        ),
        (
            "the time of an attempt runs from the first start of its item",
            "_attempts",
            "when = due[call] = pending.started + deadlines.seconds",
            "when = due[call] = pending.first_start + deadlines.seconds",
        ),
        (
            "only the first attempt is timed",
            "_attempts",
            "        self._timer.set(self._deadlines.next_time())\n",
            "        pass\n",
        ),
        (
            "a timeout is the item's own cancel",
            "_attempts",
            "if late and isinstance(failure, ItemCancelled)",
            "if False and isinstance(failure, ItemCancelled)",
        ),
        (
            "a timeout takes the cancel of a run that stops for itself",
            "_attempts",
            "if self._run.stopped:  # what runs is cancelled with all others",
            "if False:  # what runs is cancelled with all others",
        ),
        (
            "timers are left at the end",
            "_attempts",
            "            timer.off()\n",
            "            pass\n",
        ),
        (
            "what is to be tried again needs no room in the window",
            "_admission",
            "- waiting.fresh - waiting.retrying)",
            "- waiting.fresh)",
        ),
        (
            "items that wait for their key are taken without end",
            "_admission",
            "room = self._lookahead - waiting.fresh",
            "room = self._lookahead",
        ),
        (
            "the limits hear of no second attempt",
            "_admission",
            "if self._limits and pending.refusal is None:",
            "if self._limits and pending.calls == 1:",
        ),
        (
            "a key that is free again is not given to the next item",
            "_admission",
            "(enumerate takes its time)\n        for number, _ in self._keyed:\n",
            "\n        for number, _ in []:\n",
        ),
        (
            "a throttle closes no gate of the run",
            "_admission",
            """        return "other" if taken else "throttled"\n""",
            """        return "other"\n""",
        ),
        (
            "the throttle of one key closes what is for all",
            "_admission",
            """return ["throttled" if isinstance(limit, PerKey) else "other" for limit in self._limits]""",
            """return ["throttled" for _ in self._limits]""",
        ),
        (
            "a late throttle of a run without policies closes its gate anew",
            "_admission",
            "pending.started = -math.inf  # before",
            "pending.started = self._now()  # before",
        ),
        (
            "others pass by an item that its key holds back",
            "_waiting",
            "return queue is not None and queue[0][:2] < self.ready[0][:2]",
            "return False",
        ),
        (
            "of the retries that are due the last goes first",
            "_waiting",
            "heappush(self.ready, (not waited.calls, waited.index, waited))",
            "heappush(self.ready, (not waited.calls, -waited.index, waited))",
        ),
        (
            "another map's end of an attempt is not told",
            "_sharing",
            "                if run.blocked:\n",
            "                if False:\n",
        ),
        (
            "another map's end of an attempt does not free the key",
            "_sharing",
            "                run.reopen(limit, key)\n",
            "",
        ),
        (
            "a run that has ended is still in the lines of its limits",
            "_sharing",
            "                del _lines[id(line.limit)]\n",
            "                pass\n",
        ),
        (
            "an attempt that took too long is cancelled for each time that the timer rings",
            "_deadlines",
            "    for call in calls:\n        del times[call]\n",
            "",
        ),
    ]
]

MUTANTS = PLAIN_MUTANTS + POLICY_MUTANTS
