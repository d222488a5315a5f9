"""Runs one case with the real engine on virtual time, and writes down what happens.

Invariant: the world acts and takes notes; whether something may happen is for `invariants` to judge. Only what could
not be told from the notes any more (which object, which task, which context) is noted as "wrong" at once.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from contextvars import Context, ContextVar
from types import ModuleType, coroutine
from typing import Any, Final, TypeVar

import aiomap
from aiomap.testing import Deadlock, Livelock, SimLoop
from tests.simulation.record import AtReturn, Case, Interrupt, Log, NotAwaitable, Record
from tests.simulation.scenario import Consumer, Ending, Item, WhenCancelled, draw
from tests.simulation.source import MISSING, VARIABLE, Source

__all__ = ["simulate"]

T = TypeVar("T")

OTHER: Final = ContextVar[str]("OTHER")
MAX_STEPS: Final = 2_000


def simulate(case: Case, library: ModuleType = aiomap) -> Record:
    """Runs a case, with another copy of aiomap if one is given."""
    world = _World(case, library)
    return Context().run(world.run)


class _World:
    def __init__(self, case: Case, library: ModuleType) -> None:
        self._case, self._library, self._scenario = case, library, draw(case.scenario)
        self._loop = SimLoop(case.schedule, max_steps=MAX_STEPS)
        self._log = Log(self._loop)
        self._note = self._log.note
        self._callers_value: object = [] if self._scenario.caller_has_variables else MISSING
        self._source = Source(self._scenario, self._log, self._callers_value)
        self._caller: asyncio.Task[None] | None = None
        self._seen = 0.0
        self._caught = 0
        self._names: set[str] = set()
        self._shut_down = False

    def run(self) -> Record:
        crash: BaseException | None = None
        loop = self._loop
        loop.before_step = self._before_step
        loop.set_debug(self._case.debug)
        if self._case.eager:
            loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  (new in 3.12)
        try:
            loop.run(self._main, allow_leaks=True, allow_unhandled=True)
        except (Deadlock, Livelock, Interrupt) as error:
            crash = error
        unhandled = [f"{context.get('message')} {context.get('exception')!r}" for context in loop.unhandled]
        rest = (crash, loop.leaked, unhandled, loop.steps, loop.trace)
        return Record(self._case, self._scenario, self._library, self._log.events, *rest)

    async def _main(self) -> None:
        self._main_task = asyncio.current_task()
        self._caller = self._loop.create_task(self._call())
        await asyncio.wait([self._caller])

    def _before_step(self, step: int) -> None:
        if self._caller is None or self._caller.done():
            return
        if self._loop.time() > self._seen:
            self._seen = self._loop.time()
            self._note("quiet")
        if self._case.collect:
            gc.collect()
        if step in self._case.cancels or step == self._case.shutdown:
            self._note("cancel")
            self._caller.cancel()
        if step == self._case.shutdown:
            self._shut_down = True
            self._note("shutdown")
            for task in sorted(asyncio.all_tasks(self._loop), key=lambda task: int(task.get_name()[5:])):
                if task not in (self._main_task, self._caller):
                    task.cancel()

    async def _call(self) -> None:
        if self._scenario.caller_has_variables:
            VARIABLE.set(self._callers_value)
            OTHER.set("the caller's")
        if self._scenario.verb == "amap":
            await self._call_amap()
        else:
            await self._call_stream()

    async def _call_amap(self) -> None:
        callback = self._callback if self._scenario.callback else None
        keywords = {"on_error": self._scenario.on_error, "isolate": self._scenario.isolate, "callback": callback}
        amap = self._library.amap(self._function, self._source.data(), self._scenario.limit, **keywords)
        self._note("call")
        try:
            self._note("list", detail=await self._watch(amap))
        except BaseException as error:
            self._note("error", detail=error)
        self._look_around()

    async def _call_stream(self) -> None:
        scenario = self._scenario
        keywords: dict[str, Any] = {"ordered": scenario.ordered, "buffer": scenario.buffer, "isolate": scenario.isolate}
        if scenario.verb == "aimap":
            keywords["on_error"] = scenario.on_error
        verb = getattr(self._library, scenario.verb)
        stream = verb(self._function, self._source.data(), scenario.limit, **keywords)
        left_with: BaseException | None = None
        try:
            await self._consume(stream)
        except StopAsyncIteration:
            self._note("end")
        except BaseException as error:
            left_with = error
            self._note("error", detail=error)
        self._note("leave", detail=left_with)
        try:
            # What `async with` does; written out, so that the cancels that arrive in it can be told.
            await self._watch(stream.__aexit__(type(left_with) if left_with else None, left_with, None))
        except BaseException as error:
            self._note("error", detail=error)
        self._look_around()
        await self._take_what_is_left(stream)

    async def _consume(self, stream: Any) -> None:
        scenario, taken = self._scenario, 0
        while True:
            if taken == scenario.acts_at and await self._act(stream):
                return
            try:
                await self._take(stream)
            except asyncio.CancelledError:
                # Never more often than it is cancelled, or the loop could not be cleaned up after a deadlock.
                self._caught += 1
                if scenario.consumer is not Consumer.GOES_ON or self._caught > len(self._case.cancels):
                    raise
                continue
            taken += 1
            if scenario.consumer is Consumer.SLOW:
                await asyncio.sleep(1)

    async def _act(self, stream: Any) -> bool:
        """Whether the consumer leaves."""
        consumer = self._scenario.consumer
        if consumer is Consumer.DRAINS:
            self._note("drain")
            stream.drain()
        if consumer is Consumer.CHANGES_LIMIT:
            self._note("limit", detail=self._scenario.other_limit)
            stream.max_concurrent_tasks = self._scenario.other_limit
        if consumer is Consumer.PAUSES:
            self._note("pause")
            stream.pause()
            await asyncio.sleep(2)
            self._note("resume")
            stream.resume()
        return consumer is Consumer.BREAKS

    async def _take(self, stream: Any) -> None:
        self._note("want")
        self._note("result", detail=await self._watch(anext(stream)))
        self._note("stats", detail=stream.stats)

    async def _take_what_is_left(self, stream: Any) -> None:
        for _ in range(len(self._scenario.items) + 3):
            try:
                await self._take(stream)
            except StopAsyncIteration:
                self._note("stats", detail=stream.stats)
                self._note("end")
                return
            except BaseException as error:
                self._note("error", detail=error)

    @coroutine
    def _watch(self, awaitable: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Awaits it, and notes which cancels reach it and whether they leave it again."""
        steps = awaitable.__await__()
        thrown: BaseException | None = None
        cancelled = False
        try:
            while True:
                future = steps.send(None) if thrown is None else steps.throw(thrown)
                thrown = None
                try:
                    yield future
                except asyncio.CancelledError as error:
                    cancelled, thrown = True, error
                    self._note("cancel arrives")
        except StopIteration as end:
            if cancelled:
                self._note("wrong", detail="I7: a cancel of the caller was swallowed")
            value: T = end.value
            return value
        except asyncio.CancelledError:
            if not cancelled and not self._shut_down:
                self._note("wrong", detail="I7: CancelledError was raised, though nobody cancelled the caller")
            raise
        except Exception as error:
            if cancelled:
                self._note("wrong", detail=f"I7: a cancel of the caller was turned into {error!r}")
            raise

    def _look_around(self) -> None:
        task = _current_task()
        alive = sorted(each.get_name() for each in asyncio.all_tasks(self._loop) - {task, self._main_task})
        variable_kept = VARIABLE.get() is self._callers_value
        self._note("at return", detail=AtReturn(alive, task.cancelling(), variable_kept, self._source.is_open()))

    def _callback(self, index: int, item: int) -> None:
        error = LookupError(index) if index == self._scenario.callback_fails_for else None
        self._note("callback", index, (item, error))
        if error is not None:
            raise error

    def _function(self, index: int) -> Awaitable[object]:
        current = self._library.current()
        self._note("enter", index, current.slot)
        for trace in self._traces(index, current.index):
            self._note("wrong", index, trace)
        ending = self._scenario.items[index].ending
        if ending is Ending.NOT_AWAITABLE:
            self._note("raise", index, NotAwaitable())
            not_awaitable: Any = index
            return not_awaitable  # type: ignore[no-any-return]  # that is the fault it has
        if ending is Ending.STOPS_AT_CALL:
            error = StopIteration(index)
            self._note("raise", index, error)
            raise error
        return self._run_item(index, self._scenario.items[index])

    def _traces(self, index: int, current: int) -> Iterator[str]:
        """What an item could see of another."""
        task = _current_task()
        if VARIABLE.get() is not self._callers_value:
            yield "I12: it sees a context variable that another item or the source has set"
        if task.cancelling():
            yield "I12: its task carries the cancel of an earlier item"
        if self._scenario.isolate and task.get_name() in self._names:
            yield "I12: isolate=True, but its task has run another item"
        if current != index:
            yield f"I12: current().index is {current}"
        self._names.add(task.get_name())

    async def _run_item(self, index: int, item: Item) -> object:
        try:
            value = await self._live(index, item)
        except BaseException as error:
            self._note("raise", index, error)
            raise
        self._note("return", index, value)
        return value

    async def _live(self, index: int, item: Item) -> object:
        sleep = self._log.sleep
        try:
            for seconds in item.sleeps:
                await sleep(seconds, "cancelled", index)
            if item.busy:
                self._loop.advance(item.busy)
                self._seen = self._loop.time()
        except asyncio.CancelledError:
            if item.when_cancelled is WhenCancelled.RAISES:
                raise LookupError(index) from None
            if item.when_cancelled is WhenCancelled.INTERRUPTS:
                raise Interrupt(index) from None
            if item.when_cancelled is not WhenCancelled.SWALLOWS:
                raise
            await sleep(1, "cancelled", index)
        finally:
            if item.when_cancelled is WhenCancelled.CLEANS_UP:
                await sleep(0, "cancelled", index)
                await sleep(1, "cancelled", index)
        return await self._end(index, item.ending)

    async def _end(self, index: int, ending: Ending) -> object:
        if error := _RAISED.get(ending):
            raise error(index)
        if ending in (Ending.CANCELS_ITSELF_AND_SLEEPS, Ending.CANCELS_ITSELF_AND_RETURNS):
            self._note("cancels itself", index)
            _current_task().cancel()
        if ending is Ending.CANCELS_ITSELF_AND_SLEEPS:
            await self._log.sleep(1, "cancelled", index)
        if ending is Ending.SETS_VARIABLE:
            VARIABLE.set(object())
        if ending is Ending.SETS_EQUAL_VALUE:
            VARIABLE.set([])
        skip: object = self._library.SKIP
        return skip if ending is Ending.SKIPS else f"value of {index}"


_RAISED: Final[dict[Ending, type[BaseException]]] = {
    Ending.RAISES: ValueError,
    Ending.RAISES_CANCELLED: asyncio.CancelledError,
    Ending.STOPS_ASYNC: StopAsyncIteration,
    Ending.INTERRUPTS: Interrupt,
}


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
