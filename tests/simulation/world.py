"""Runs one case with the real engine on virtual time, and writes down what happened.

Invariant: the world only acts and takes notes. Whether something may happen is for `invariants` to judge; only what
could not be told from the notes any more (which object, which task, which context) is noted as "wrong" at once.
"""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import aiomap
from aiomap.testing import Deadlock, Livelock, SimLoop
from tests.simulation.scenario import Consumer, Ending, Item, Scenario, WhenCancelled, draw

__all__ = ["Case", "Event", "Interrupt", "Record", "simulate"]

T = TypeVar("T")

What: TypeAlias = Literal[
    *("call", "cancel", "shutdown", "cancel arrives", "quiet", "wrong"),
    *("source asked", "pull", "source ends", "source fails", "source cancelled", "source closed"),
    *("enter", "cancelled", "cancels itself", "return", "raise", "callback"),
    *("want", "result", "stats", "drain", "pause", "resume", "limit", "leave", "list", "error", "end", "at return"),
]

MISSING: Final = object()
VARIABLE: Final = ContextVar[object]("VARIABLE", default=MISSING)
OTHER: Final = ContextVar[str]("OTHER")
MAX_STEPS: Final = 2_000


class Interrupt(KeyboardInterrupt):
    """One that no keyboard made, so that a real Ctrl-C still ends the tests."""


class NotAwaitable(Exception):
    """Stands for the failure of an item whose function returned something that cannot be awaited."""


class Event(NamedTuple):
    """at: virtual seconds; index: the item, -1 for none."""

    at: float
    what: What
    index: int
    detail: Any


@dataclass(frozen=True)
class Case:
    """Everything that determines a run: two equal cases make the same run, step for step.

    cancels: before these steps of the loop, from 1, the caller of the map is cancelled.
    shutdown: before this step every task is cancelled, the caller too, as `asyncio.run` does at its end.
    collect: the garbage collector runs before every step.
    """

    scenario: int
    schedule: int
    cancels: tuple[int, ...] = ()
    shutdown: int | None = None
    collect: bool = False
    eager: bool = False
    debug: bool = False


@dataclass(frozen=True)
class Record:
    """What there was to see of a run.

    crash: what the loop itself ended with, a `Deadlock` for one; leaked: the tasks alive at the end; unhandled: what
    reached the loop's exception handler.
    """

    case: Case
    scenario: Scenario
    library: types.ModuleType
    log: list[Event]
    crash: BaseException | None
    leaked: list[str]
    unhandled: list[str]
    steps: int
    trace: str


class AtReturn(NamedTuple):
    """How things are in the very step in which the map gives control back for good."""

    alive: list[str]
    cancelling: int
    variable_kept: bool
    source_open: bool


def simulate(case: Case, library: types.ModuleType = aiomap) -> Record:
    """Runs a case, with another copy of aiomap if one is given."""
    world = _World(case, library)
    return Context().run(world.run)


class _World:
    def __init__(self, case: Case, library: types.ModuleType) -> None:
        self.case, self.library, self.scenario = case, library, draw(case.scenario)
        self.loop = SimLoop(case.schedule, max_steps=MAX_STEPS)
        self.log: list[Event] = []
        self.callers_value: object = [] if self.scenario.caller_has_variables else MISSING
        self.source = _Source(self)
        self._caller: asyncio.Task[None] | None = None
        self._seen = 0.0
        self._caught = 0
        self._names: set[str] = set()
        self._shut_down = False

    def run(self) -> Record:
        crash: BaseException | None = None
        self.loop.before_step = self._before_step
        self.loop.set_debug(self.case.debug)
        if self.case.eager:
            self.loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # 3.12 has it
        try:
            self.loop.run(self._main, allow_leaks=True, allow_unhandled=True)
        except (Deadlock, Livelock, Interrupt) as error:
            crash = error
        unhandled = [f"{each.get('message')} {each.get('exception')!r}" for each in self.loop.unhandled]
        rest = (crash, self.loop.leaked, unhandled, self.loop.steps, self.loop.trace)
        return Record(self.case, self.scenario, self.library, self.log, *rest)

    def note(self, what: What, index: int = -1, detail: Any = None) -> None:
        self.log.append(Event(self.loop.time(), what, index, detail))

    async def _main(self) -> None:
        self._main_task = asyncio.current_task()
        self._caller = self.loop.create_task(self._call())
        await asyncio.wait([self._caller])

    def _before_step(self, step: int) -> None:
        if self._caller is None or self._caller.done():
            return
        if self.loop.time() > self._seen:
            self._seen = self.loop.time()
            self.note("quiet")
        if self.case.collect:
            gc.collect()
        if step in self.case.cancels or step == self.case.shutdown:
            self.note("cancel")
            self._caller.cancel()
        if step == self.case.shutdown:
            self._shut_down = True
            self.note("shutdown")
            for task in sorted(asyncio.all_tasks(self.loop), key=lambda task: int(task.get_name()[5:])):
                if task not in (self._main_task, self._caller):
                    task.cancel()

    async def _call(self) -> None:
        if self.scenario.caller_has_variables:
            VARIABLE.set(self.callers_value)
            OTHER.set("the caller's")
        if self.scenario.verb == "amap":
            await self._call_amap()
        else:
            await self._call_stream()

    async def _call_amap(self) -> None:
        callback = self._callback if self.scenario.callback else None
        keywords = {"on_error": self.scenario.on_error, "isolate": self.scenario.isolate, "callback": callback}
        amap = self.library.amap(self._function, self.source.data(), self.scenario.limit, **keywords)
        self.note("call")
        try:
            self.note("list", detail=await self._watch(amap))
        except BaseException as error:
            self.note("error", detail=error)
        self._look_around()

    async def _call_stream(self) -> None:
        scenario = self.scenario
        keywords: dict[str, Any] = {"ordered": scenario.ordered, "buffer": scenario.buffer, "isolate": scenario.isolate}
        if scenario.verb == "aimap":
            keywords["on_error"] = scenario.on_error
        verb = getattr(self.library, scenario.verb)
        stream = verb(self._function, self.source.data(), scenario.limit, **keywords)
        try:
            await self._consume(stream)
        except StopAsyncIteration:
            self.note("end")
        except BaseException as error:
            self.note("error", detail=error)
        self.note("leave")
        try:
            await self._watch(stream.aclose())
        except BaseException as error:
            self.note("error", detail=error)
        self._look_around()
        await self._take_what_is_left(stream)

    async def _consume(self, stream: Any) -> None:
        scenario, taken = self.scenario, 0
        while True:
            if taken == scenario.acts_at and await self._act(stream):
                return
            try:
                await self._take(stream)
            except asyncio.CancelledError:
                # Never more often than it is cancelled, or the loop could not be cleaned up after a deadlock.
                self._caught += 1
                if scenario.consumer is not Consumer.GOES_ON or self._caught > len(self.case.cancels):
                    raise
                continue
            taken += 1
            if scenario.consumer is Consumer.SLOW:
                await asyncio.sleep(1)

    async def _act(self, stream: Any) -> bool:
        """Whether the consumer leaves."""
        consumer = self.scenario.consumer
        if consumer is Consumer.DRAINS:
            self.note("drain")
            stream.drain()
        if consumer is Consumer.CHANGES_LIMIT:
            self.note("limit", detail=self.scenario.other_limit)
            stream.max_concurrent_tasks = self.scenario.other_limit
        if consumer is Consumer.PAUSES:
            self.note("pause")
            stream.pause()
            await asyncio.sleep(2)
            self.note("resume")
            stream.resume()
        return consumer is Consumer.BREAKS

    async def _take(self, stream: Any) -> None:
        self.note("want")
        self.note("result", detail=await self._watch(anext(stream)))
        self.note("stats", detail=stream.stats)

    async def _take_what_is_left(self, stream: Any) -> None:
        for _ in range(len(self.scenario.items) + 3):
            try:
                await self._take(stream)
            except StopAsyncIteration:
                self.note("stats", detail=stream.stats)
                self.note("end")
                return
            except BaseException as error:
                self.note("error", detail=error)

    @types.coroutine
    def _watch(self, awaitable: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Awaits it, and notes which cancels reach it and whether each leaves it again."""
        steps = awaitable.__await__()
        thrown: BaseException | None = None
        cancelled = self._shut_down
        try:
            while True:
                future = steps.send(None) if thrown is None else steps.throw(thrown)
                thrown = None
                try:
                    yield future
                except asyncio.CancelledError as error:
                    cancelled, thrown = True, error
                    self.note("cancel arrives")
        except StopIteration as end:
            if thrown is not None or (cancelled and not self._shut_down):
                self.note("wrong", detail="a cancel of the caller was swallowed")
            value: T = end.value
            return value
        except asyncio.CancelledError:
            if not cancelled:
                self.note("wrong", detail="CancelledError was raised, though nobody cancelled the caller")
            raise
        except Exception as error:
            if cancelled and not self._shut_down:
                self.note("wrong", detail=f"a cancel of the caller was turned into {error!r}")
            raise

    def _look_around(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        others = asyncio.all_tasks(self.loop) - {task, self._main_task}
        alive = sorted(other.get_name() for other in others)
        variable_kept = VARIABLE.get() is self.callers_value
        self.note("at return", detail=AtReturn(alive, task.cancelling(), variable_kept, self.source.is_open()))

    def _callback(self, index: int, item: int) -> None:
        self.note("callback", index, item)

    def _function(self, index: int) -> Awaitable[object]:
        current = self.library.current()
        self.note("enter", index, current.slot)
        for wrong in self._traces(index, current.index):
            self.note("wrong", index, wrong)
        ending = self.scenario.items[index].ending
        if ending is Ending.NOT_AWAITABLE:
            self.note("raise", index, NotAwaitable())
            not_awaitable: Any = index
            return not_awaitable
        if ending is Ending.STOPS_AT_CALL:
            error = StopIteration(index)
            self.note("raise", index, error)
            raise error
        return self._run_item(index, self.scenario.items[index])

    def _traces(self, index: int, current: int) -> Iterator[str]:
        task = asyncio.current_task()
        assert task is not None
        if VARIABLE.get() is not self.callers_value:
            yield "it sees a context variable that another item or the source has set"
        if task.cancelling():
            yield "its task carries the cancel of an earlier item"
        if self.scenario.isolate and task.get_name() in self._names:
            yield "isolate=True, but its task has run another item"
        if current != index:
            yield f"current().index is {current}"
        self._names.add(task.get_name())

    async def _run_item(self, index: int, item: Item) -> object:
        try:
            value = await self._live(index, item)
        except BaseException as error:
            self.note("raise", index, error)
            raise
        self.note("return", index, value)
        return value

    async def _live(self, index: int, item: Item) -> object:
        try:
            for seconds in item.sleeps:
                await self.sleep(seconds, "cancelled", index)
            if item.busy:
                self.loop.advance(item.busy)
                self._seen = self.loop.time()
        except asyncio.CancelledError:
            if item.when_cancelled is WhenCancelled.RAISES:
                raise LookupError(index) from None
            if item.when_cancelled is WhenCancelled.INTERRUPTS:
                raise Interrupt(index) from None
            if item.when_cancelled is not WhenCancelled.SWALLOWS:
                raise
            await self.sleep(1, "cancelled", index)
        finally:
            if item.when_cancelled is WhenCancelled.CLEANS_UP:
                await self.sleep(0, "cancelled", index)
                await self.sleep(1, "cancelled", index)
        return await self._end(index, item.ending)

    async def _end(self, index: int, ending: Ending) -> object:
        if ending is Ending.RAISES:
            raise ValueError(index)
        if ending is Ending.RAISES_CANCELLED:
            raise asyncio.CancelledError(index)
        if ending is Ending.STOPS_ASYNC:
            raise StopAsyncIteration(index)
        if ending is Ending.INTERRUPTS:
            raise Interrupt(index)
        if ending in (Ending.CANCELS_ITSELF_AND_SLEEPS, Ending.CANCELS_ITSELF_AND_RETURNS):
            task = asyncio.current_task()
            assert task is not None
            self.note("cancels itself", index)
            task.cancel()
        if ending is Ending.CANCELS_ITSELF_AND_SLEEPS:
            await self.sleep(1, "cancelled", index)
        if ending is Ending.SETS_VARIABLE:
            VARIABLE.set(object())
        if ending is Ending.SETS_EQUAL_VALUE:
            VARIABLE.set([])
        skip: object = self.library.SKIP
        return skip if ending is Ending.SKIPS else f"value of {index}"

    async def sleep(self, seconds: float, noted_if_cancelled: What, index: int = -1) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.note(noted_if_cancelled, index)
            raise


class _Source:
    """The input: numbers from 0. Its iterators are not fused: asked again after the end, they notice."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._index = 0
        self._over = False
        self._variable = world.callers_value
        self._task: asyncio.Task[Any] | None = None
        self._generator: types.AsyncGeneratorType[int, None] | None = None

    def data(self) -> Any:
        if self._world.scenario.source == "list":
            return list(range(len(self._world.scenario.items)))
        return _Iterator(self) if self._world.scenario.source == "iterator" else _AsyncIterator(self)

    def is_open(self) -> bool:
        """Whether it was begun, and neither ended nor closed."""
        return self._task is not None and self._generator is not None and self._generator.ag_frame is not None

    @contextmanager
    def watched(self) -> Iterator[None]:
        if self._over:
            self._world.note("wrong", detail="the source was asked again after its end")
        try:
            yield
        except OSError as error:
            self._world.note("source fails", detail=error)
            raise

    def next_item(self) -> int | None:
        """The next number, `None` at the end."""
        world, scenario, index = self._world, self._world.scenario, self._index
        if VARIABLE.get() is not self._variable:
            world.note("wrong", detail="the source does not find the context variable as it left it")
        if scenario.source_sets_variable:
            self._variable = object()
            VARIABLE.set(self._variable)
        if index == scenario.source_fails_at:
            self._over = True
            raise OSError(index)
        if index == len(scenario.items):
            self._over = True
            world.note("source ends")
            return None
        self._index += 1
        world.note("pull", index)
        return index

    def generator(self) -> AsyncIterator[int]:
        assert self._generator is None, "the source is iterated twice"
        produced = self._produce()
        assert isinstance(produced, types.AsyncGeneratorType)
        self._generator = produced
        return produced

    async def _produce(self) -> AsyncIterator[int]:
        world, scenario = self._world, self._world.scenario
        self._task = asyncio.current_task()
        try:
            while True:
                world.note("source asked")
                if scenario.source_sleeps is not None:
                    await world.sleep(scenario.source_sleeps, "source cancelled")
                index = self.next_item()
                if index is None:
                    return
                yield index
                self._note_other_task()
        finally:
            self._note_other_task()
            if scenario.source_cleans_up:
                await world.sleep(1, "source cancelled")
            self._over = True
            world.note("source closed")

    def _note_other_task(self) -> None:
        if asyncio.current_task() is not self._task:
            self._world.note("wrong", detail="the async source was entered by a second task")


class _Iterator:
    def __init__(self, source: _Source) -> None:
        self._source = source

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._source.watched():
            index = self._source.next_item()
        if index is None:
            raise StopIteration
        return index


class _AsyncIterator:
    def __init__(self, source: _Source) -> None:
        self._source = source
        self._generator: Any = source.generator()

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        with self._source.watched():
            index: int = await anext(self._generator)
        return index

    async def aclose(self) -> None:
        await self._generator.aclose()
