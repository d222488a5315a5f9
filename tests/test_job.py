"""One sitting of `aiomap run`: every outcome reaches the output once, however the sitting ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from aiomap import Adaptive, Journal, Rate, Retry, Throttled
from aiomap._outcome import Outcome
from aiomap.cli import job as job_module
from aiomap.cli.job import Job
from aiomap.cli.output import WriteFailed
from aiomap.cli.outputs import JournalledOutput, StreamedOutput, start_anew
from aiomap.cli.plan import Plan, Stop
from aiomap.cli.view import View
from aiomap.errors import JournalLocked
from aiomap.inputs import BadRecord, Entry
from aiomap.journal.lock import FileLock
from aiomap.journal.reading import reading
from aiomap.journal.serializers import LongText

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP)


class FakeOutput:
    """Holds what it is given; `break_at`: which call of `add` fails, from 0."""

    def __init__(self, break_at: int | None = None) -> None:
        self.kept: list[Outcome[Entry, Any]] = []
        self.batches: list[list[Outcome[Entry, Any]]] = []
        self.finished: list[bool] = []
        self.threads: set[threading.Thread] = set()
        self._break_at = break_at

    def keep(self, outcome: Outcome[Entry, Any]) -> bytes:
        assert threading.current_thread() is threading.main_thread()
        self.kept.append(outcome)
        return bytes(outcome.value) if isinstance(outcome.value, bytes | LongText) else b""

    def add(self, kept: list[bytes]) -> None:
        self.threads.add(threading.current_thread())
        start = sum(map(len, self.batches))
        self.batches.append(self.kept[start : start + len(kept)])
        if self._break_at == len(self.batches) - 1:
            raise WriteFailed("the disk is full")

    def finish(self, *, whole: bool) -> None:
        self.finished.append(whole)

    @property
    def outcomes(self) -> list[Outcome[Entry, Any]]:
        return [outcome for batch in self.batches for outcome in batch]

    @property
    def indexes(self) -> list[int]:
        return [outcome.index for outcome in self.outcomes]


class FakeScreen:
    """Keeps what it is shown and told; whoever waits for a state, or for a word, gets it when it has come."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.said: list[str] = []
        self.abandoned = 0
        self._waiting: list[tuple[str, asyncio.Event]] = []

    def show(self, view: View) -> None:
        self.views.append(view)
        self._tell(view.state)

    def say(self, text: str) -> None:
        self.said.append(text)
        self._tell("said")

    def abandon(self) -> None:
        self.abandoned += 1

    def _tell(self, what: str) -> None:
        for wanted, event in self._waiting:
            if wanted == what:
                event.set()

    async def until(self, what: str) -> None:
        event = asyncio.Event()
        self._waiting.append((what, event))
        await event.wait()


def entries(number: int) -> list[Entry]:
    return [Entry(index, index + 1, f"item {index}", f"key {index}", None) for index in range(number)]


async def echo(item: str) -> str:
    return item


async def fail(item: str) -> str:
    raise ValueError(item)


async def forever(_: str) -> None:
    await asyncio.Event().wait()


def more_than(bound: int) -> Callable[[int, int], bool]:
    return lambda failed, _: failed > bound


class Sitting:
    """A job with its output and its screen; `run` runs it."""

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        number: int = 5,
        output: FakeOutput | None = None,
        **plan: Any,
    ) -> None:
        self.output, self.screen = output or FakeOutput(), FakeScreen()
        self.plan = Plan(function, entries(number), plan.pop("max_concurrent_tasks", 2), **plan)
        screen: Any = self.screen
        self.job = Job(self.plan, self.output, screen)

    def run(self) -> Sitting:
        self.job.run()
        return self


def sat(function: Callable[..., Awaitable[Any]], number: int = 5, **plan: Any) -> Sitting:
    return Sitting(function, number, **plan).run()


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    before = [signal.getsignal(number) for number in _SIGNALS]
    yield
    assert [signal.getsignal(number) for number in _SIGNALS] == before


def test_every_outcome_is_written_once_and_then_the_output_is_finished() -> None:
    sitting = sat(echo, 1000, max_concurrent_tasks=10)
    assert sorted(sitting.output.indexes) == list(range(1000))
    assert [outcome.value for outcome in sitting.output.outcomes if outcome.index == 7] == [b'"item 7"']
    assert (sitting.output.finished, sitting.job.stop, sitting.job.failed) == ([True], None, 0)


def test_an_empty_input_finishes_the_output_too() -> None:
    sitting = sat(echo, 0)
    assert (sitting.output.outcomes, sitting.output.finished) == ([], [True])


def test_the_output_is_written_by_threads_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 0.0)
    entered, released = threading.Event(), threading.Event()

    class Slow(FakeOutput):
        def add(self, kept: list[bytes]) -> None:
            entered.set()
            released.wait()
            super().add(kept)

    async def call(item: str) -> str:
        if item == "item 1":
            while not entered.is_set():
                await sitting.screen.until("running")
        if item == "item 9":
            for _ in range(5):  # looks, at which there is something to write
                await sitting.screen.until("running")
            assert sitting.output.batches == []
            released.set()
        return item

    sitting = Sitting(call, 10, Slow(), max_concurrent_tasks=1)
    sitting.run()
    assert len(sitting.output.batches[0]) == 1
    assert sitting.output.indexes == list(range(10))
    assert threading.main_thread() not in sitting.output.threads


def test_at_most_5000_outcomes_wait_to_be_written_and_those_that_were_on_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 1000.0)
    sitting = sat(echo, 12_000)
    sizes = [len(batch) for batch in sitting.output.batches]
    assert sum(sizes) == 12_000
    assert max(sizes) <= 5000 + 1002  # those that were on their way


def test_at_most_8_mib_wait_to_be_written_whatever_the_values_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 1000.0)

    async def call(item: str) -> str:
        await asyncio.sleep(0)  # as what waits for a remote does
        return item * 150_000

    sitting = sat(call, 100)
    assert sum(map(len, sitting.output.batches)) == 100
    sizes = [sum(len(outcome.value or b"") for outcome in batch) for batch in sitting.output.batches]
    assert max(sizes) < 13 << 20  # with those that were on their way
    assert min(sizes[:-1]) >= 8 << 20


def test_while_a_reader_takes_nothing_no_more_is_started_than_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 0.0)
    started: list[str] = []
    seen: list[int] = []  # how many were started, at each look while nothing is taken
    blocked, released = threading.Event(), threading.Event()

    class Slow(FakeOutput):
        def add(self, kept: list[bytes]) -> None:
            blocked.set()
            released.wait()
            super().add(kept)

    class Watching(FakeScreen):
        def show(self, view: View) -> None:
            super().show(view)
            if blocked.is_set() and not released.is_set():
                seen.append(len(started))
                if seen[-50:] == seen[-1:] * 50:
                    released.set()

    async def call(item: str) -> str:
        started.append(item)
        await asyncio.sleep(0)
        return "x" * (1 << 20)

    sitting = Sitting(call, 200, Slow(), max_concurrent_tasks=4)
    screen: Any = Watching()
    Job(sitting.plan, sitting.output, screen).run()
    assert len(sitting.output.outcomes) == len(started) == 200
    assert 8 <= seen[-1] <= 8 + 8 + 3 * 4  # being written, waiting, and on their way


def test_what_has_piled_up_is_written_at_once_when_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 1000.0)
    piled_up = threading.Event()

    class Slow(FakeOutput):
        def keep(self, outcome: Outcome[Entry, Any]) -> bytes:
            if len(self.kept) == 15:  # eight are being written, and eight wait now: so nothing more is started
                piled_up.set()
            return super().keep(outcome)

        def add(self, kept: list[bytes]) -> None:
            piled_up.wait()
            super().add(kept)

    async def call(_: str) -> str:
        await asyncio.sleep(0)
        return "x" * (1 << 20)

    sitting = Sitting(call, 100, Slow(), max_concurrent_tasks=8)
    sitting.run()
    assert len(sitting.output.outcomes) == 100


def test_outcomes_keep_the_order_of_the_input_if_the_plan_says_so() -> None:
    turns: list[asyncio.Event] = []

    async def backwards(item: str) -> str:
        turns.append(event := asyncio.Event())
        if len(turns) == 5:
            for each in turns:
                each.set()
        if item == "item 0":
            await event.wait()
        return item

    assert sat(backwards, 5, max_concurrent_tasks=5, ordered=True).output.indexes == list(range(5))


def test_a_failure_is_written_and_counted_by_its_class() -> None:
    sitting = sat(fail, 3)
    assert [str(outcome.error) for outcome in sitting.output.outcomes] == ["item 0", "item 1", "item 2"]
    assert (sitting.job.failed, sitting.job.tally.failed) == (3, {"ValueError": 3})
    example = sitting.job.tally.examples["ValueError"]
    assert (example.where, example.message) == ("line 1", "item 0")
    assert sitting.job.stop is None


def test_a_record_that_is_no_item_fails_without_a_call() -> None:
    called: list[str] = []

    async def call(item: str) -> None:
        called.append(item)

    sitting = Sitting(call)
    bad = Entry(0, 1, "{", "k", "bad.jsonl:1: no JSON")
    screen: Any = sitting.screen
    job = Job(replace(sitting.plan, entries=[bad, *entries(3)[1:]]), sitting.output, screen)
    job.run()
    (error,) = [outcome.error for outcome in sitting.output.outcomes if outcome.error]
    assert isinstance(error, BadRecord)
    assert str(error) == "bad.jsonl:1: no JSON"
    assert (called, job.tally.failed) == (["item 1", "item 2"], {"bad_input": 1})


def test_a_fault_says_where_it_is_once_and_other_failures_are_told_by_their_place() -> None:
    sitting = Sitting(fail, 2)
    bad = Entry(0, 7, "{", "key", "line 7 of in.jsonl: not JSON")
    row = Entry(1, 1200, "item", "other", None, "row")
    sitting.job = Job(replace(sitting.plan, entries=[bad, row]), sitting.output, cast("Any", sitting.screen))
    sitting.job.run()
    examples = sitting.job.tally.examples
    assert (examples["bad_input"].where, examples["bad_input"].message) == ("", "line 7 of in.jsonl: not JSON")
    assert examples["ValueError"].where == "row 1,200"


def test_what_cannot_be_saved_is_no_failure_of_the_item() -> None:
    async def call(item: str) -> str:
        if item == "item 1":
            raise OSError(28, "No space left on device", "pages/x")
        return item

    sitting = Sitting(call, 2, max_concurrent_tasks=1, writes=True)
    with pytest.raises(WriteFailed, match="cannot write pages/x: No space left on device"):
        sitting.job.run()
    stats = sitting.screen.views[-1].stats
    assert (stats.done, stats.failed, stats.cancelled) == (1, 0, 1)
    assert (sitting.job.failed, sitting.job.tally.failed) == (0, {})


def test_retries_and_timeouts_of_the_plan_hold() -> None:
    attempts: list[str] = []

    async def second(item: str) -> str:
        attempts.append(item)
        if len(attempts) == 1:
            raise ConnectionError
        return item

    sitting = sat(second, 1, retry=Retry(lambda _: True, attempts=2, cap=0))
    assert ([outcome.attempts for outcome in sitting.output.outcomes], sitting.job.tally.retries) == ([2], 1)
    late = sat(forever, 1, timeout=0.001)
    assert late.job.tally.failed == {"timeout": 1}


def test_a_setup_is_entered_once_and_left_when_all_is_written() -> None:
    told: list[str] = []
    sitting = Sitting(echo)

    @asynccontextmanager
    async def setup() -> AsyncGenerator[str]:
        told.append("entered")
        yield "session"
        told.append(f"left, {sitting.output.finished}")

    async def call(item: str, session: str) -> str:
        return f"{item} with {session}"

    screen: Any = sitting.screen
    Job(replace(sitting.plan, function=call, setup=setup), sitting.output, screen).run()
    assert told == ["entered", "left, [True]"]
    assert {outcome.value for outcome in sitting.output.outcomes} == {b'"item %d with session"' % n for n in range(5)}


@pytest.mark.parametrize("where", ["enter", "exit"])
def test_what_a_setup_raises_leaves_and_nothing_completed_is_lost(where: str) -> None:
    @asynccontextmanager
    async def setup() -> AsyncGenerator[None]:
        if where == "enter":
            raise OSError("no server")
        yield
        raise OSError("no server")

    async def call(item: str, _: None) -> str:
        return item

    sitting = Sitting(call, setup=setup)
    with pytest.raises(OSError, match="no server"):
        sitting.run()
    completed = 0 if where == "enter" else 5
    assert (len(sitting.output.outcomes), sitting.output.finished) == (completed, [True] if completed else [])


def test_a_setup_is_left_when_the_output_cannot_be_written() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def setup() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            told.append("left")

    async def call(item: str, _: None) -> str:
        return item

    with pytest.raises(WriteFailed):
        Sitting(call, output=FakeOutput(break_at=0), setup=setup).run()
    assert told == ["left"]


def test_a_hopeless_run_is_halted_and_what_ended_before_is_written() -> None:
    cancelled: list[str] = []

    async def call(item: str) -> None:
        if item in {"item 0", "item 1"}:
            raise ValueError(item)
        try:
            await forever(item)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    sitting = sat(call, 100, max_concurrent_tasks=4, halt=more_than(1))
    assert (sitting.job.stop, sitting.output.finished) == (Stop.HALTED, [False])
    assert sitting.output.indexes == [0, 1]
    assert 0 < len(cancelled) <= 4
    assert sitting.screen.views[-1].state == "cancelling"


def test_what_is_to_finish_is_not_cut_short_by_failures() -> None:
    async def call(item: str) -> str:
        if item == "item 0":
            press(signal.SIGINT)
            await sitting.screen.until("draining")
            raise ValueError(item)
        await sitting.screen.until("draining")
        for _ in range(20):  # turns of the loop, in which the failure is taken
            await asyncio.sleep(0)
        return item

    sitting = Sitting(call, 10, halt=more_than(0))
    sitting.run()
    assert sorted(sitting.output.indexes) == [0, 1]
    assert (sitting.job.failed, sitting.job.stop) == (1, Stop.INTERRUPTED)
    assert sitting.screen.views[-1].state == "draining"


def test_halt_is_asked_with_what_has_failed_and_what_has_ended() -> None:
    asked: list[tuple[int, int]] = []

    async def call(item: str) -> str:
        if item == "item 2":
            raise ValueError(item)
        return item

    def halt(failed: int, ended: int) -> bool:
        asked.append((failed, ended))
        return False

    assert sat(call, 3, max_concurrent_tasks=1, halt=halt).job.stop is None
    assert asked == [(1, 3)]


def test_out_of_time_finishes_what_runs_and_starts_nothing_more() -> None:
    started: list[str] = []

    async def call(item: str) -> str:
        started.append(item)
        await sitting.screen.until("draining")
        return item

    sitting = Sitting(call, 100, max_time=0.0)
    sitting.run()
    assert len(started) <= 2
    assert len(sitting.output.outcomes) == len(started)
    assert (sitting.job.stop, sitting.output.finished) == (Stop.OUT_OF_TIME, [False])


def press(number: signal.Signals) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize(
    ("number", "stop"),
    [(signal.SIGINT, Stop.INTERRUPTED), (signal.SIGTERM, Stop.TERMINATED), (signal.SIGHUP, Stop.HUNG_UP)],
)
def test_a_signal_lets_what_runs_finish_and_starts_nothing_more(number: signal.Signals, stop: Stop) -> None:
    started: list[str] = []

    async def call(item: str) -> str:
        started.append(item)
        if len(started) == 2:
            press(number)
        await sitting.screen.until("draining")
        return item

    sitting = Sitting(call, 100)
    sitting.run()
    assert started == ["item 0", "item 1"]
    assert sorted(sitting.output.indexes) == [0, 1]
    assert (sitting.job.stop, sitting.output.finished) == (stop, [False])


def test_what_is_written_while_it_drains_lets_nothing_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 0.0)
    started: list[str] = []
    draining = threading.Event()

    class Slow(FakeOutput):
        def add(self, kept: list[bytes]) -> None:
            draining.wait()
            super().add(kept)

    async def call(item: str) -> str:
        started.append(item)
        if item == "item 0":
            return item
        await sitting.screen.until("running")  # so that the first one is on its way to the output
        press(signal.SIGINT)
        await sitting.screen.until("draining")
        draining.set()
        while not sitting.output.batches:
            await sitting.screen.until("draining")
        for _ in range(5):
            await sitting.screen.until("draining")
        return item

    sitting = Sitting(call, 100, Slow(), max_concurrent_tasks=1)
    sitting.run()
    assert started == ["item 0", "item 1"]
    assert sitting.output.indexes == [0, 1]


def test_a_failure_while_it_drains_is_written() -> None:
    async def call(item: str) -> str:
        press(signal.SIGINT)
        await sitting.screen.until("draining")
        raise ValueError(item)

    sitting = Sitting(call, max_concurrent_tasks=1)
    sitting.run()
    assert (sitting.output.indexes, sitting.job.failed) == ([0], 1)


def test_what_waits_for_a_retry_is_left_when_it_drains() -> None:
    async def call(_: str) -> str:
        press(signal.SIGINT)
        await sitting.screen.until("draining")
        raise ConnectionError

    sitting = Sitting(call, max_concurrent_tasks=1, retry=Retry(lambda _: True, attempts=5, base=1e9, cap=1e9))
    sitting.run()
    assert (sitting.output.outcomes, sitting.job.stop) == ([], Stop.INTERRUPTED)


def test_ctrl_c_while_everything_waits_for_a_retry_ends_the_sitting() -> None:
    sitting = Sitting(fail, 1, retry=Retry(lambda _: interrupt(), attempts=5, base=1e9, cap=1e9))

    def interrupt() -> bool:
        press(signal.SIGINT)
        return True

    sitting.run()
    assert (sitting.output.outcomes, sitting.job.stop) == ([], Stop.INTERRUPTED)


def test_the_second_ctrl_c_cancels_what_runs_and_keeps_what_is_done() -> None:
    cancelled: list[str] = []

    async def call(item: str) -> str:
        if item == "item 0":
            return item
        press(signal.SIGINT)
        await sitting.screen.until("draining")
        press(signal.SIGINT)
        try:
            await forever(item)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    sitting = Sitting(call, max_concurrent_tasks=1)
    sitting.run()
    assert (sitting.output.indexes, cancelled) == ([0], ["item 1"])
    assert (sitting.job.stop, sitting.output.finished) == (Stop.INTERRUPTED, [False])


def test_the_third_ctrl_c_ends_the_process_while_the_loop_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    async def call(item: str) -> str:
        for _ in range(3):
            assert ended == []
            press(signal.SIGINT)
        assert ended == [130]
        return item

    sitting = sat(call, 1)
    assert (ended, sitting.screen.abandoned) == ([130], 1)


def test_what_runs_is_cancelled_some_time_after_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_GRACE", 0.0)

    async def call(item: str) -> None:
        press(signal.SIGTERM)
        await forever(item)

    sitting = sat(call)
    assert (sitting.job.stop, sitting.output.finished) == (Stop.TERMINATED, [False])
    assert [view.state for view in sitting.screen.views][-1] == "cancelling"


def test_what_swallows_its_cancel_is_left_behind_some_time_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_GRACE", 0.0)
    monkeypatch.setattr(job_module, "_LAST_GRACE", 0.0)
    ended: list[int] = []
    over = asyncio.Event()

    def leave(code: int) -> None:
        ended.append(code)
        over.set()

    monkeypatch.setattr(os, "_exit", leave)

    async def call(item: str) -> None:
        press(signal.SIGTERM)
        with suppress(asyncio.CancelledError):
            await forever(item)
        await over.wait()

    sitting = sat(call, 1)
    assert (ended[0], sitting.screen.abandoned) == (143, len(ended))


def test_a_setup_that_does_not_end_after_sigterm_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LAST_GRACE", 0.0)
    ended: list[tuple[int, list[bool]]] = []
    over = asyncio.Event()

    def leave(code: int) -> None:
        ended.append((code, sitting.output.finished))
        over.set()

    monkeypatch.setattr(os, "_exit", leave)

    @asynccontextmanager
    async def client() -> AsyncGenerator[None]:
        yield
        await over.wait()

    async def call(item: str, _: None) -> None:
        press(signal.SIGTERM)

    sitting = Sitting(call, 1, setup=client)
    sitting.run()
    assert ended == [(143, [False])]


def test_what_is_written_after_sigterm_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(job_module, "_GRACE", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)

    class Slow(FakeOutput):
        def finish(self, *, whole: bool) -> None:
            sitting.job._leave_behind()  # as its timer would
            super().finish(whole=whole)

    async def call(item: str) -> None:
        press(signal.SIGTERM)
        await forever(item)

    sitting = Sitting(call, 1, Slow())
    sitting.run()
    assert (ended, sitting.output.finished) == ([], [False])


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_third_sigterm_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch, first: signal.Signals) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    async def call(item: str) -> str:
        for number in (first, signal.SIGTERM, signal.SIGTERM):
            assert ended == []
            press(number)
        return item

    sitting = sat(call, 1)
    assert (ended, sitting.job.failed) == ([143], 0)


def test_sigusr1_tells_of_the_ten_items_that_run_longest() -> None:
    started: list[str] = []

    async def call(item: str) -> str:
        started.append(item)
        if len(started) == 12:
            press(signal.SIGUSR1)
        await sitting.screen.until("said")
        return item

    sitting = Sitting(call, 12, max_concurrent_tasks=12)
    sitting.run()
    (said,) = sitting.screen.said
    head, *rows = said.split("\n")
    assert head == "aiomap: 0 done, 0 failed, 12 running"
    assert [row.partition(" s: ")[2] for row in rows] == [f"line {n + 1}, key {n}" for n in range(10)]
    assert (sitting.job.stop, len(sitting.output.outcomes)) == (None, 12)


def test_signals_that_the_process_ignores_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:

        async def call(item: str) -> str:
            press(signal.SIGINT)
            return item

        sitting = sat(call, 3)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (sitting.job.stop, len(sitting.output.outcomes)) == (None, 3)


def test_an_output_that_breaks_ends_the_run_and_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 0.0)
    cancelled: list[str] = []

    async def call(item: str) -> str:
        if item == "item 0":
            return item
        try:
            await forever(item)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    sitting = Sitting(call, 100, FakeOutput(break_at=0))
    with pytest.raises(WriteFailed, match="the disk is full"):
        sitting.run()
    assert (len(sitting.output.batches), sitting.output.finished) == (1, [])
    assert len(cancelled) == 2


def test_an_output_that_breaks_while_5000_outcomes_wait_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LOOK", 1000.0)
    sitting = Sitting(echo, 30_000, FakeOutput(break_at=0))
    with pytest.raises(WriteFailed, match="the disk is full"):
        sitting.run()
    assert [len(batch) for batch in sitting.output.batches] == [5000]
    assert sitting.job.view.stats.pulled < 30_000


def test_an_output_that_breaks_at_the_end_is_an_error_too() -> None:
    sitting = Sitting(echo, output=FakeOutput(break_at=0))
    with pytest.raises(WriteFailed, match="the disk is full"):
        sitting.run()
    assert sitting.output.finished == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_item_that_ends_the_program_ends_it(kind: type[BaseException]) -> None:
    async def call(_: str) -> None:
        raise kind(3)

    with pytest.raises(kind):
        sat(call)


def test_what_the_input_raises_leaves() -> None:
    def records() -> Iterator[Entry]:
        yield from entries(2)
        raise LookupError("the file is gone")

    sitting = Sitting(echo)
    screen: Any = sitting.screen
    with pytest.raises(LookupError, match="the file is gone"):
        Job(replace(sitting.plan, entries=records()), sitting.output, screen).run()


def test_the_view_shows_how_it_stands() -> None:
    async def call(item: str) -> str:
        view = sitting.job.view
        assert (view.limit, view.total, view.state, view.stats.running) == (1, None, "running", 1)
        assert len(view.ages) == 1
        assert view.ages[0] >= 0
        return item

    sitting = Sitting(call, 3, max_concurrent_tasks=1)
    sitting.run()
    assert (sitting.job.failed, sitting.job.view.stats.done, sitting.job.view.past) == (0, 3, 3)


@pytest.mark.parametrize(
    ("function", "plan", "ended"),
    [(echo, {}, "finished"), (fail, {"halt": more_than(0)}, "halted"), (forever, {"max_time": 0.0}, "out_of_time")],
)
def test_the_last_view_says_how_it_ended(function: Any, plan: dict[str, Any], ended: str) -> None:
    async def call(item: str) -> Any:
        if ended == "out_of_time":
            await sitting.screen.until("draining")
            return item
        return await function(item)

    sitting = Sitting(call, **plan)
    sitting.run()
    assert [view.ended for view in sitting.screen.views if view.ended is not None] == [ended]
    assert sitting.screen.views[-1].ended == ended


def test_the_last_view_says_if_it_broke() -> None:
    sitting = Sitting(echo, output=FakeOutput(break_at=0))
    with pytest.raises(WriteFailed):
        sitting.run()
    assert sitting.screen.views[-1].ended == "broken"


@pytest.mark.parametrize("where", ["limit", "slots"])
def test_the_view_says_until_when_everything_waits_that_was_throttled(where: str) -> None:
    class Watching(FakeScreen):
        def show(self, view: View) -> None:
            super().show(view)
            if view.gate_until is not None and view.state == "running":
                press(signal.SIGINT)

    async def call(_: str) -> None:
        raise Throttled(retry_after=100)

    given: dict[str, Any] = {"limits": [Rate(1000)]} if where == "limit" else {"max_concurrent_tasks": Adaptive()}
    sitting = Sitting(call, 1, **given)
    screen: Any = Watching()
    before = time.time()
    Job(sitting.plan, sitting.output, screen).run()
    until = [view.gate_until for view in screen.views if view.gate_until is not None]
    assert before + 99 < until[-1] < time.time() + 101


def test_ctrl_z_clears_what_is_drawn_and_its_time_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    stopped: list[Any] = []

    def kill(_: int, number: int) -> None:
        nonlocal now
        stopped.append((number, signal.getsignal(signal.SIGTSTP), sitting.screen.abandoned))
        now = 1000.0

    async def call(item: str) -> str:
        monkeypatch.setattr(os, "kill", kill)
        before = sitting.job.view.seconds
        monkeypatch.setattr(time, "monotonic", lambda: now + real())
        ours = signal.getsignal(signal.SIGTSTP)
        press(signal.SIGTSTP)
        assert signal.getsignal(signal.SIGTSTP) == ours
        assert sitting.job.view.seconds - before < 500
        return item

    real = time.monotonic
    sitting = Sitting(call, 1)
    sitting.run()
    assert stopped == [(signal.SIGTSTP, signal.SIG_DFL, 1)]
    assert sitting.job.failed == 0


def test_outcomes_of_an_earlier_sitting_go_to_the_output_but_not_into_this_ones_counts(tmp_path: Path) -> None:
    async def call(item: str) -> str:
        if item == "item 1":
            raise ValueError(item)
        return item

    journal = Journal(tmp_path / "run", key=lambda entry: entry.key, durable=True, retry_failed=False)
    first, second = (sat(call, 3, journal=journal) for _ in range(2))
    assert (first.job.failed, first.job.tally.failed) == (1, {"ValueError": 1})
    assert sorted(second.output.indexes) == [0, 1, 2]
    assert (second.job.failed, second.job.tally.failed, second.job.view.stats.recorded) == (1, {}, 3)
    assert (second.job.recorded_failed, second.job.view.recorded_failed) == (1, 1)


def of_job(tmp_path: Path) -> tuple[str, str, str]:
    return str(tmp_path / "out.jsonl"), str(tmp_path / "out.jsonl.run"), str(tmp_path / "out.failed.jsonl")


def lines_in(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


async def odd_fails(item: str) -> dict[str, str]:
    if int(item.split()[1]) % 2:
        raise ValueError(item)
    return {"n": item}


def journalled(
    tmp_path: Path,
    function: Any = odd_fails,
    *,
    number: int = 10,
    keep_order: bool = False,
    selects: bool = False,
    **plan: Any,
) -> list[str]:
    """Sits down to a job with files; returns what is told of them."""
    names = of_job(tmp_path)
    journal = Journal(names[1], key=lambda entry: entry.key, durable=True, version=1, on_change="reuse")
    output, screen = JournalledOutput(*names, keep_order=keep_order, selects=selects), FakeScreen()
    shown: Any = screen
    try:
        Job(Plan(function, entries(number), 3, journal=journal, **plan), output, shown).run()
    finally:
        output.close()
    return output.files()


def test_successes_stand_in_out_and_failures_in_the_file_of_failures(tmp_path: Path) -> None:
    files = journalled(tmp_path)
    out, run, failed = of_job(tmp_path)
    assert sorted(line["key"] for line in lines_in(out)) == [f"key {n}" for n in range(0, 10, 2)]
    assert all(line["value"] == {"n": f"item {line['index']}"} for line in lines_in(out))
    assert sorted(line["input"] for line in lines_in(failed)) == [f"item {n}" for n in range(1, 10, 2)]
    assert {line["error"]["class"] for line in lines_in(failed)} == {"ValueError"}
    assert files == [f"{out} (results)", f"{failed} (5 failed items; can be fed back in)", f"{run} (journal)"]


def test_a_second_sitting_ends_with_every_success_and_no_file_of_failures(tmp_path: Path) -> None:
    journalled(tmp_path)
    out, run, failed = of_job(tmp_path)
    assert journalled(tmp_path, echo) == [f"{out} (results)", f"{run} (journal)"]
    assert sorted(line["index"] for line in lines_in(out)) == list(range(10))
    assert not Path(failed).exists()


def test_a_sitting_for_some_records_keeps_the_failures_of_the_others(tmp_path: Path) -> None:
    journalled(tmp_path)
    files = journalled(tmp_path, echo, number=4, selects=True)
    failed = of_job(tmp_path)[2]
    assert sorted(line["index"] for line in lines_in(failed)) == [5, 7, 9]
    assert f"{failed} (3 failed items; can be fed back in)" in files


def test_failures_of_items_that_are_not_in_the_input_any_more_are_dropped(tmp_path: Path) -> None:
    journalled(tmp_path)
    journalled(tmp_path, number=4)
    assert sorted(line["index"] for line in lines_in(of_job(tmp_path)[2])) == [1, 3]


def test_a_sitting_that_was_halted_keeps_the_failures_of_items_that_it_did_not_reach(tmp_path: Path) -> None:
    journalled(tmp_path)

    async def call(item: str) -> None:
        if item == "item 1":
            raise ValueError(item)
        await forever(item)

    journalled(tmp_path, call, halt=more_than(0))
    failed = of_job(tmp_path)[2]
    assert sorted(line["index"] for line in lines_in(failed)) == [1, 3, 5, 7, 9]


def test_out_is_put_into_the_order_of_the_input_on_demand(tmp_path: Path) -> None:
    last = asyncio.Event()

    async def call(item: str) -> str:
        if item == "item 0":
            await last.wait()
        elif item == "item 9":
            last.set()
        return item

    journalled(tmp_path, call, keep_order=True)
    assert [line["index"] for line in lines_in(of_job(tmp_path)[0])] == list(range(10))


def replaced(out: Path) -> None:
    out.unlink()
    out.write_text("mine")


def cut(out: Path) -> None:
    os.truncate(out, 7)


@pytest.mark.parametrize("keep_order", [False, True])
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "removed or replaced"),
        (replaced, "removed or replaced"),
        (cut, "changed by somebody else"),
    ],
)
def test_out_that_somebody_spoils_meanwhile_is_an_error_and_whole_after_the_next_sitting(
    tmp_path: Path, harm: Callable[[Path], object], told: str, *, keep_order: bool
) -> None:
    journalled(tmp_path)
    out, _, failed = of_job(tmp_path)
    output = JournalledOutput(*of_job(tmp_path), keep_order=keep_order, selects=True)
    try:
        output.add([])
        harm(Path(out))
        with pytest.raises(WriteFailed, match=f"{out} was {told} while it was written: .* the same command"):
            output.finish(whole=True)
    finally:
        output.close()
    assert len(lines_in(failed)) == 5
    journalled(tmp_path, echo)
    assert sorted(line["index"] for line in lines_in(out)) == list(range(10))


def test_a_reader_that_is_at_it_when_the_journal_is_closed_leaves_nothing_beside_it(tmp_path: Path) -> None:
    out, run, failed = of_job(tmp_path)
    output, screen = JournalledOutput(out, run, failed, keep_order=False), FakeScreen()
    shown: Any = screen
    with ExitStack() as stack:

        async def call(item: str) -> str:
            if item == "item 9":
                stack.enter_context(reading(run))
            return item

        Job(Plan(call, entries(10), 1, journal=Journal(run, key=lambda entry: entry.key)), output, shown).run()
    assert Path(run + "-wal").exists()
    output.close()
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.jsonl.run", "out.jsonl.run.lock"}
    assert Journal(run).check().ok
    assert len(lines_in(out)) == 10


def test_an_output_in_a_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    names = (str(tmp_path / "gone" / "out"), str(tmp_path / "run"), str(tmp_path / "failed"))
    journal = Journal(names[1], key=lambda entry: entry.key, durable=True)
    output, shown = JournalledOutput(*names, keep_order=False), FakeScreen()
    screen: Any = shown
    with pytest.raises(WriteFailed, match="cannot be written: No such file or directory"):
        Job(Plan(echo, entries(1), 1, journal=journal), output, screen).run()
    output.close()


def test_starting_anew_deletes_what_an_earlier_sitting_left(tmp_path: Path) -> None:
    journalled(tmp_path)
    start_anew(*of_job(tmp_path))
    assert not any(Path(name).exists() for name in of_job(tmp_path))
    start_anew(*of_job(tmp_path))  # there is nothing left to delete
    journalled(tmp_path, echo)
    assert len(lines_in(of_job(tmp_path)[0])) == 10


def test_starting_anew_leaves_a_job_alone_that_a_run_is_at(tmp_path: Path) -> None:
    journalled(tmp_path)
    out, run, failed = of_job(tmp_path)
    before = Path(out).read_bytes()

    async def call(_: str) -> None:
        with pytest.raises(JournalLocked):
            start_anew(out, run, failed)

    lock = FileLock(run)
    lock.acquire()
    try:
        asyncio.run(call("item"))
    finally:
        lock.release()
    assert Path(out).read_bytes() == before
    assert Path(run).exists()


def test_standard_output_gets_a_line_for_each_success() -> None:
    reader, writer = os.pipe()
    output = StreamedOutput(writer)
    ok = Outcome(3, Entry(3, 4, "item", {"id": "\x1b"}, None), '{"é":[1]}'.encode(), None, 2, 0.5, 0.123_456_789)
    kept = [output.keep(outcome) for outcome in (ok, replace(ok, index=4, value=None, error=ValueError("no")))]
    output.add(kept)
    output.finish(whole=True)
    output.close()
    with os.fdopen(reader, "rb") as file:
        (line,) = file.read().splitlines(keepends=True)
    head, _, tail = line.partition(b'"started":')
    assert head == b'{"key":{"id":"\\u001b"},"index":3,"value":{"\xc3\xa9":[1]},"attempts":2,'
    assert tail.endswith(b',"elapsed":0.123457}\n')
    assert output.files() == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)


def test_a_reader_of_standard_output_who_went_away_is_told_apart() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = StreamedOutput(writer)
    sitting = Sitting(echo)
    screen: Any = sitting.screen
    with pytest.raises(WriteFailed) as caught:
        Job(sitting.plan, output, screen).run()
    assert isinstance(caught.value.__cause__, BrokenPipeError)
    output.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_a_sentence() -> None:
    output = StreamedOutput(os.open("/dev/full", os.O_WRONLY))
    sitting = Sitting(echo)
    screen: Any = sitting.screen
    with pytest.raises(WriteFailed, match="standard output cannot be written: the disk is full"):
        Job(sitting.plan, output, screen).run()
    output.close()
