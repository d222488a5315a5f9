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
from tests.simulation.mutants import imported
from tests.simulation.policies import Attempt, draw_plan
from tests.simulation.record import AtReturn, Case, Entered, Event, Interrupt, Log, NotAwaitable, Quiet, Record
from tests.simulation.scenario import Consumer, Ending, Item, Scenario, WhenCancelled, draw
from tests.simulation.source import MISSING, VARIABLE, Source
from tests.simulation.tools import Tools, TooManyRequests, no_chance, timers_of

__all__ = ["simulate"]

T = TypeVar("T")

OTHER: Final = ContextVar[str]("OTHER")
MAX_STEPS: Final = 2_000


def simulate(case: Case, library: ModuleType = aiomap) -> Record:
    """Runs a case, with another copy of aiomap if one is given."""
    world = _World(case, library)
    with imported(library):
        return Context().run(world.run)


class _World:
    """The loop, its clock and its tasks: all that the maps of a run have in common."""

    def __init__(self, case: Case, library: ModuleType) -> None:
        self.case, self.library = case, library
        self.plan = draw_plan(case.scenario) if case.policies else None
        self.loop = SimLoop(case.schedule, max_steps=MAX_STEPS)
        self.events: list[Event] = []
        self.main_task: asyncio.Task[Any] | None = None
        self.seen = 0.0
        self.shut_down = False
        self._timers: list[str] = []
        scenarios = [draw(case.scenario)] if self.plan is None else [party.scenario for party in self.plan.parties]
        self.maps = [_Map(self, number, scenario) for number, scenario in enumerate(scenarios)]
        self.tools = None if self.plan is None else Tools(self.plan, library, self.maps[0].note_broken)

    def run(self) -> Record:
        crash: BaseException | None = None
        case, loop = self.case, self.loop
        loop.before_step = self._before_step
        loop.set_debug(case.debug)
        if case.eager:
            loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  (new in 3.12)
        try:
            with no_chance(self.plan):
                loop.run(self._main, allow_leaks=True, allow_unhandled=True)
        except (Deadlock, Livelock, Interrupt) as error:
            crash = error
        unhandled = [f"{context.get('message')} {context.get('exception')!r}" for context in loop.unhandled]
        unclean = () if self.tools is None else (*self.tools.unclean(), *self._timers)
        rest = (crash, loop.leaked, unhandled, loop.steps, loop.trace, self.plan, unclean)
        return Record(case, self.maps[0].scenario, self.library, self.events, *rest)

    async def _main(self) -> None:
        self.main_task = asyncio.current_task()
        for each in self.maps:
            each.caller = self.loop.create_task(each.call())
        await asyncio.wait([each.caller for each in self.maps if each.caller is not None])
        self._timers = [f"the timer {timer!r}" for timer in timers_of(self.library, self.loop)]

    def _before_step(self, step: int) -> None:
        maps = [each for each in self.maps if each.caller is not None and not each.caller.done()]
        if not maps:
            return
        if self.loop.time() > self.seen:
            since, self.seen = self.seen, self.loop.time()
            for each in maps:
                each.note_quiet(since)
        if self.case.collect:
            gc.collect()
        shut_down = step == self.case.shutdown
        victim = self.maps[0 if self.plan is None else self.plan.victim]
        for each in maps:
            if shut_down or (step in self.case.cancels and each is victim):
                each.cancel()
        if shut_down:
            self._shut_down(maps)
        for each in maps:
            each.note_stats()

    def _shut_down(self, maps: list[_Map]) -> None:
        self.shut_down = True
        for each in maps:
            each.note("shutdown")
        spared = [self.main_task, *(each.caller for each in self.maps)]
        for task in sorted(asyncio.all_tasks(self.loop), key=lambda task: int(task.get_name()[5:])):
            if task not in spared:
                task.cancel()


class _Map:
    """One map of a run: its caller, its input, its items."""

    def __init__(self, world: _World, number: int, scenario: Scenario) -> None:
        self._world, self._number, self.scenario = world, number, scenario
        self._case, self._library, self._scenario, self._loop = world.case, world.library, scenario, world.loop
        self._log = Log(self._loop, world.events, number)
        self.note = self._note = self._log.note
        self._callers_value: object = [] if scenario.caller_has_variables else MISSING
        self._source = Source(scenario, self._log, self._callers_value)
        self.caller: asyncio.Task[None] | None = None
        self._engine: Any = None
        self._attempts = dict.fromkeys(range(len(scenario.items)), 0)
        self._caught = 0
        self._names: set[str] = set()

    def cancel(self) -> None:
        """Cancels the caller."""
        assert self.caller is not None
        self._note("cancel")
        self.caller.cancel()

    def note_quiet(self, since: float) -> None:
        """Time has gone on."""
        tools, detail = self._world.tools, None
        if tools is not None and self._engine is not None:
            detail = Quiet(since, self._engine.stats().pulled, tools.capacity_opens(since))
        self._note("quiet", detail=detail)

    def note_stats(self) -> None:
        """What the map tells of itself, at every step if it has policies."""
        if self._world.tools is not None and self._engine is not None:
            self._note("stats", detail=self._engine.stats())

    def note_broken(self, item: int, error: Exception) -> None:
        """What the user's part of a limit raises for an item."""
        self._note("limit breaks", item, error)

    def own_tasks(self) -> set[asyncio.Task[Any]]:
        """Those of its engine, and its caller."""
        feeder = None if self._engine is None else self._engine._feeder
        tasks = set() if self._engine is None else set(self._engine.workers)
        return tasks | {task for task in (self.caller, feeder) if task is not None}

    async def call(self) -> None:
        """What the caller of the map does."""
        if self._scenario.caller_has_variables:
            VARIABLE.set(self._callers_value)
            OTHER.set("the caller's")
        if self._scenario.verb == "amap":
            await self._call_amap()
        else:
            await self._call_stream()

    async def _call_amap(self) -> None:
        callback = self._callback if self._scenario.callback else None
        keywords: dict[str, Any] = {"on_error": self._scenario.on_error, "isolate": self._scenario.isolate}
        keywords["callback"] = callback
        if self._world.plan is not None:
            keywords["max_queue_size"] = self._world.plan.parties[self._number].ahead
        keywords |= self._policies()
        amap = self._library.amap(self._function, self._source.data(), self._slots(), **keywords)
        self._engine = amap.cr_frame.f_locals["engine"]
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
        stream = verb(self._function, self._source.data(), self._slots(), **keywords, **self._policies())
        self._engine = stream._engine
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
            self._note("drain", detail=stream.stats.pulled)
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
            if not cancelled and not self._world.shut_down:
                self._note("wrong", detail="I7: CancelledError was raised, though nobody cancelled the caller")
            raise
        except Exception as error:
            if cancelled:
                self._note("wrong", detail=f"I7: a cancel of the caller was turned into {error!r}")
            raise

    def _look_around(self) -> None:
        task = _current_task()
        foreign = {task, self._world.main_task}.union(
            *(each.own_tasks() for each in self._world.maps if each is not self)
        )
        alive = sorted(each.get_name() for each in asyncio.all_tasks(self._loop) - foreign)
        variable_kept = VARIABLE.get() is self._callers_value
        self._note("at return", detail=AtReturn(alive, task.cancelling(), variable_kept, self._source.is_open()))

    def _callback(self, index: int, item: int) -> None:
        error = LookupError(index) if index == self._scenario.callback_fails_for else None
        self._note("callback", index, (item, error))
        if error is not None:
            raise error

    def _function(self, index: int) -> Awaitable[object]:
        current = self._library.current()
        tools = self._world.tools
        capacity = None if tools is None else Entered(current.slot, current.attempt, tools.capacity_limit())
        self._note("enter", index, capacity or current.slot)
        for trace in self._traces(index, current.index):
            self._note("wrong", index, trace)
        item = self._script(index)
        ending = item.ending
        if ending is Ending.NOT_AWAITABLE:
            self._note("raise", index, NotAwaitable())
            not_awaitable: Any = index
            return not_awaitable  # type: ignore[no-any-return]  # that is the fault it has
        if ending is Ending.STOPS_AT_CALL:
            error = StopIteration(index)
            self._note("raise", index, error)
            raise error
        return self._run_item(index, item)

    def _script(self, index: int) -> Item:
        """What the item does this time."""
        if self._world.plan is None:
            return self._scenario.items[index]
        script = self._world.plan.parties[self._number].scripts[index]
        self._attempts[index] += 1
        return script[min(self._attempts[index], len(script)) - 1]

    def _slots(self) -> Any:
        tools = self._world.tools
        return self._scenario.limit if tools is None else tools.slots(self._number)

    def _policies(self) -> dict[str, Any]:
        tools = self._world.tools
        return {} if tools is None else tools.policies(self._number)

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
                self._world.seen = self._loop.time()
        except asyncio.CancelledError:
            if item.when_cancelled is WhenCancelled.RAISES:
                raise LookupError(index) from None
            if item.when_cancelled is WhenCancelled.INTERRUPTS:
                raise Interrupt(index) from None
            if item.when_cancelled not in _SWALLOWING:
                raise
            await sleep(_SWALLOWING[item.when_cancelled], "cancelled", index)
        finally:
            if item.when_cancelled is WhenCancelled.CLEANS_UP:
                await sleep(0, "cancelled", index)
                await sleep(1, "cancelled", index)
        return await self._end(index, item)

    async def _end(self, index: int, item: Item) -> object:
        ending = item.ending
        if error := _RAISED.get(ending):
            raise error(index)
        if isinstance(item, Attempt) and ending is Ending.IS_THROTTLED:
            raise self._library.Throttled(item.retry_after)
        if isinstance(item, Attempt) and ending is Ending.ANSWERS_429:
            raise TooManyRequests(item.retry_after)
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
    Ending.FAILS: ConnectionResetError,
    Ending.IS_REFUSED: ConnectionRefusedError,
}

# For how many seconds it then sleeps.
_SWALLOWING: Final = {WhenCancelled.SWALLOWS: 1, WhenCancelled.IGNORES: 12}


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
