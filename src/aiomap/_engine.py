"""The engine: workers that pull straight from one shared source.

Invariant: a worker is a task, and it waits for nothing but the item it runs. It ends as soon as it may not go on (the
input is dry, the window is full, the run is paused or stopped, its last item left a trace in it, its turn of the loop
is used up), and `fill` starts workers whenever they may. So between any two steps of the loop

    live workers  =  attempts that run  +  workers before their first step  <=  limit   (lowering it cancels nothing)
    results held  +  live workers  <=  limit + buffer                                   (streams only)

There is no queue, no semaphore, and no parked worker that a lost wake-up could leave asleep. Tasks are made here alone.
What may start is decided by the source, in a run with policies an `Admission`; what an outcome comes to, by `Verdicts`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import Context
from heapq import heappop, heappush
from itertools import islice
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, cast

from aiomap._call import Call, register
from aiomap._context import root
from aiomap._door import Door
from aiomap._outbox import Outbox
from aiomap._outcome import SKIP, Observer, Stats
from aiomap._policies import Policies
from aiomap._source import AsyncSource, Source, SyncSource
from aiomap._tally import Tally
from aiomap._ticker import Ticker
from aiomap._turn import Turn, clock_of
from aiomap._verdict import NOT_CALLED, Halt, Verdicts, as_failure, ends_the_program, judged
from aiomap.errors import Throttled

if TYPE_CHECKING:
    from aiomap._attempts import Attempts
    from aiomap._recorder import Recorder

__all__ = ["Engine"]

_BATCH: Final = 512  # workers started in one turn of the loop: 100,000 would stop it for half a second


@coroutine
def _next_turn() -> Generator[None, None, None]:
    yield


class Engine:
    """One run of a map. Its results go to the list `results`, or to `outbox` if there is one."""

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        function: Callable[[Any], Awaitable[Any]],
        data: Iterable[Any] | AsyncIterable[Any],
        limit: int,
        verdicts: Verdicts,
        context: Context,
        *,
        isolate: bool = False,
        observer: Observer | None = None,
        outbox: Outbox | None = None,
        buffer: Callable[[int], int] = lambda _: sys.maxsize,
        policies: Policies | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.results: list[Any] = []
        self.holes = False  # a SKIP stands in the results
        self.error: BaseException | None = None
        self.started = self.stopped = self.ended = False
        self.now: Callable[[], float] = float  # 0.0, until there is a loop
        self._source: Source = SyncSource[Any]((), context)
        self._function, self._data, self._verdicts, self._context = function, data, verdicts, context
        self._isolate, self._observer, self.outbox, self._buffer = isolate, observer, outbox, buffer
        self.limit, self.capacity = limit, limit + buffer(limit)
        self._paused = self._cancelled = self._starting = False
        self._policies, self._attempts, self._recorder = policies, cast("Attempts | None", None), recorder
        self._tally, self._doors, self._slots = Tally(), list[Door](), list[int]()
        self.workers: dict[asyncio.Task[None], Call] = {}
        self._feeder: asyncio.Task[None] | None = None
        self._ticker: Ticker | None = None
        self._fill_later: asyncio.Handle | None = None
        self.unstarted, self._outside_cancels, self._last = 0, 0, -1

    def start(self) -> None:
        """Opens the source and starts the first workers; what `iter(data)` raises leaves from here."""
        if self.ended:
            return
        self.loop = asyncio.get_running_loop()
        self.now = clock_of(self.loop)
        self.began, self._turn = self.now(), Turn(self.loop, self.now)
        apart = self._context.copy()
        # What is both (tqdm's bars are) may wrap something that only its async side can iterate.
        source: AsyncSource[Any] | SyncSource[Any]
        try:
            if isinstance(self._data, AsyncIterable):
                source = AsyncSource(self._data, self._waited_for, self.fill, self.source_failed)
            else:
                source = SyncSource(self._data, apart)
            self._source = source if self._recorder is None else self._recorder.attach(self, source)
            if self._policies is not None:
                self._engage(self._policies)
            if self._observer is not None:
                self._ticker = Ticker(self.loop, self.now, self._observer, self.stats)
        except BaseException:
            self._end()
            raise
        register(self.loop, self)
        if isinstance(source, AsyncSource):
            self._feeder = source.task = self._task(self._feed(source), apart)
            self._feeder.add_done_callback(self._feeder_gone)
        self.started = True
        self.fill()

    def stats(self) -> Stats:
        """A snapshot; it looks at every running item."""
        recorded = 0 if self._recorder is None else self._recorder.recorded
        return self._tally.stats(self, self._source, begun=self._begun(), recorded=recorded)

    def set_limit(self, limit: int) -> None:
        """Another number of slots; what runs goes on."""
        self.limit, self.capacity = limit, limit + self._buffer(limit)
        self.fill()

    def pause(self, paused: bool) -> None:
        """Whether starts are held back."""
        self._paused = paused
        self.fill()

    def drain(self) -> None:
        """Takes no more input; what was taken is run to its end."""
        if self.started:
            self._source.close()
            self.pause(False)
        else:
            self.stop()

    def halt(self) -> None:
        """Nothing is pulled or started any more."""
        self.stopped = self._source.shut = True
        self._source.stop()

    def stop(self, error: BaseException | None = None) -> None:
        """Nothing starts any more; what runs is cancelled, once. A KeyboardInterrupt outranks other errors."""
        if self.error is None or ends_the_program(error) > ends_the_program(self.error):
            self.error = error
        self.halt()
        if not self.started:
            self.ended = True
        elif self.loop.is_running():  # else the coroutines of a dead loop are being collected
            if not self._cancelled:
                self._cancelled = True
                self._cancel_running()
            self.fill()

    def cancel(self) -> None:
        """A cancel from outside: the first stops the run, each further one is forwarded to what runs."""
        self._outside_cancels += 1
        if self._outside_cancels > 1:
            self._cancel_running()
        self.stop()

    async def finish(self) -> None:
        """Waits until no task of the run is alive. A cancel of the waiting task stops the run first."""
        cancelled = None
        while not self.ended:
            self._doors.append(Door(self.loop, self.halt))
            try:
                await self._doors[-1]
            except asyncio.CancelledError as error:
                cancelled = error
                self.cancel()
        if cancelled is not None and not ends_the_program(self.error):
            raise cancelled

    def _begun(self) -> int:
        """How many items run or have ended. The running ones know: nothing is counted per item."""
        counting = self._recorder if self._attempts is None else self._attempts.source
        if counting is not None:
            return counting.begun
        return 1 + max(self._last, max((call.index for call in self.workers.values()), default=-1))

    def _cancel_running(self) -> None:
        """Each item directly: through a task in between, items would start after the cancel."""
        me = asyncio.current_task()
        told = self._attempts.ending if self._attempts and self._outside_cancels < 2 else ()  # noqa: PLR2004
        for task, call in self.workers.items():
            if call.index >= 0 and task is not me and call not in told:
                task.cancel()
        if self._feeder is not None and self._outside_cancels > 1:
            self._feeder.cancel()
        self._source.close()

    def fill(self) -> None:
        """Starts workers until the slots, the window or the input are used up. Every change of state ends here."""
        if not self.started or self.ended:
            return
        source, live, attempts = self._source, len(self.workers), self._attempts
        free, dry = self.limit - live, source.ended and not source.waiting
        if dry and live and self.outbox is None:  # the long tail of a list: many leave, and none will come
            source.shut = True
            self._tally.slot_time.book(self.now(), live, max(0, free), "idle")
            return
        # How many more workers the window has room for; below 0 after the limit was lowered. Policies see to it when
        # they take an item from the input, so that what they hold back already never waits for room.
        room = sys.maxsize if self.outbox is None or attempts else self.capacity - self.outbox.held() - live
        source.shut = self.stopped or self._paused or dry or free < 0 or room < 0
        if not source.shut and free and room:
            wanted = source.available(min(free, room) + self.unstarted) - self.unstarted
            if self.ended:
                return
            for _ in range(min(wanted, 1 if self._fill_later else _BATCH)):
                self._spawn()
            if wanted > _BATCH and not self._fill_later:
                self._fill_later = self.loop.call_soon(self._go_on)
            free, room = free + live - len(self.workers), room + live - len(self.workers)
            dry = source.ended and not source.waiting  # that question may have come upon the end of the input
            if attempts:
                attempts.wait()
        if self.outbox is not None:
            self.outbox.full = free > 0 and not dry and (attempts.source.crowded if attempts else room <= 0)
            self.outbox.spare = sys.maxsize if attempts else self.capacity - len(self.workers) - self.outbox.reserved
        full = self._paused or (self.outbox is not None and self.outbox.full)
        why_free = "idle" if dry or self.stopped else "consumer" if full else source.why
        over = not self.workers and self._feeder is None and (dry or self.stopped)
        self._tally.slot_time.book(self.now(), len(self.workers), 0 if over else max(0, free), why_free)
        if over and (self._recorder is None or self._recorder.finish()):
            self._end()

    def _go_on(self) -> None:
        self._fill_later = None
        self.fill()

    def _spawn(self) -> None:
        context = self._context.copy()
        # A heap keeps the slots' numbers compact: a new one only when all below are taken.
        call = Call(heappop(self._slots) if self._slots else len(self.workers))
        self.unstarted += 1
        call.task = task = self._task(self._work(call, context), context)
        self.workers[task] = call
        task.add_done_callback(self._gone)

    def _task(self, coroutine: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None]:
        self._starting = True
        try:
            return self.loop.create_task(coroutine, context=context)
        finally:
            self._starting = False

    # All in one frame: a call per item would cost more than the rest of the loop.
    async def _work(self, call: Call, context: Context) -> None:  # noqa: C901, PLR0912
        """Runs one item after the other."""
        turn = self._turn
        while self._starting or turn.is_over(self.now()):  # an eager task factory runs us inside of create_task
            await _next_turn()
        self.unstarted -= 1
        call.task.remove_done_callback(self._gone)
        source, function, listed = self._source, self._function, self.outbox is None
        put: Callable[[int, Any], object] | None = None if self.outbox is None else self.outbox.put
        if self._verdicts.value is not None:
            function, put = judged(self._verdicts.value, call, function, self)
        if self._attempts is not None:
            listed, (function, put) = False, self._attempts.watched(call, function, put or self.results.__setitem__)
        items, results, skip = source.items, self.results, cast("object", SKIP)
        # An empty context is false when clean, which is free to test. An isolated worker never is clean.
        clean = object() if self._isolate else root(context) if context else None
        cancelling, refs_of, more = call.task.cancelling, gc.get_referents, source.more
        awaitable: object = NOT_CALLED
        stride, looked, number = 1, self.now(), turn.number
        try:
            while not source.shut and more():
                for index, item in islice(items, stride):
                    call.index = index
                    if listed:
                        results.append(None)
                    try:
                        awaitable = function(item)
                        value = await awaitable
                    except BaseException as error:
                        self._fail(call, item, error, awaitable)
                        awaitable = NOT_CALLED
                    else:
                        if value is skip:
                            self._tally.skipped += 1
                            self.holes = True
                        if put is None:
                            results[index] = value
                        elif put(index, value):
                            source.shut = True
                    # The next item may only follow in a worker that carries no trace of this one.
                    if source.shut or cancelling() or (context if clean is None else refs_of(context)[-1] is not clean):
                        return
                before, looked = looked, self.now()
                turned, number = number != turn.number, turn.number
                if turn.is_over(looked) and not turned:  # else an item was suspended in between
                    return
                stride = turn.stride(stride, looked - before, turned=turned)
        except BaseException as error:
            self.source_failed(error)
        finally:
            self._leave(call)

    def place(self, index: int, value: Any) -> bool:
        """Puts what the verdict on an item is into the results. True when the window is full now."""
        self.holes = self.holes or value is SKIP
        if self.outbox is not None:
            return self.outbox.put(index, value)
        self.results[index] = value
        return False

    def _fail(self, call: Call, item: Any, error: BaseException, awaitable: object) -> None:
        if self._cancelled and isinstance(error, asyncio.CancelledError):
            self._tally.cut += 1
            if self._attempts is not None:
                self._attempts.cut(call)
            return
        failure = as_failure(self._function, call.index, error, awaitable)
        if self._attempts is None and isinstance(failure, Throttled):
            self._engage(Policies())
        if self._attempts is not None:
            known = self._attempts.failed(call, item, failure)
            if known is None:  # it is tried again
                return
            failure = known
        call.item, call.elapsed = item, self.now() - self.began - call.started
        self.fail(call, failure)

    def fail(self, call: Call, failure: BaseException) -> None:
        """An item has failed for good."""
        self._tally.failed += 1
        if not isinstance(failure, Exception):
            self.stop(failure)
            return
        verdict = self._verdicts.error(call, failure, lambda: 1 + self._begun() - len(self.workers) + self.unstarted)
        if isinstance(verdict, Halt):
            self.stop(verdict.error)
        elif self.place(call.index, verdict):
            self._source.shut = True

    def _engage(self, policies: Policies) -> None:
        """From now on policies decide what starts. A run that was given none comes to this at its first `Throttled`."""
        from aiomap._attempts import Attempts

        self._source.shut = True  # for the workers that take their items straight from it
        self._attempts = Attempts(self, self._source, policies, begun=self._begun())
        self._source = self._attempts.source
        if self._recorder is not None:
            self._recorder.room = self._attempts.source.room

    def source_failed(self, error: BaseException) -> None:
        self._source.stop()
        if self._verdicts.fail_fast or not isinstance(error, Exception):
            self.stop(error)
        elif self.error is None:
            self.error = error

    def _waited_for(self) -> int:
        return self.unstarted if self._recorder is None else max(0, self.unstarted - self._recorder.ahead)

    async def _feed(self, source: AsyncSource[Any]) -> None:
        if self._starting:
            await _next_turn()
        await source.feed()

    def _feeder_gone(self, _: asyncio.Task[None]) -> None:
        self._feeder = None
        self._source.stop()
        self.fill()

    def _leave(self, call: Call) -> None:
        self._last = max(self._last, call.index)
        del self.workers[call.task]
        heappush(self._slots, call.slot)
        try:
            self.fill()
        except BaseException as error:
            self.stop(error)

    def _gone(self, task: asyncio.Task[None]) -> None:
        """For a worker that somebody cancelled before its first step: its own code never runs."""
        self.unstarted -= 1
        self._leave(self.workers[task])

    def _end(self) -> None:
        self.ended = True
        for part in (self._attempts, self._ticker):
            if part is not None:
                part.close()
        for door in self._doors:
            door.open()
        self._doors.clear()
        if self.outbox is not None:
            self.outbox.wake()
