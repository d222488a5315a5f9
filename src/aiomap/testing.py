"""Virtual time for tests: an event loop on which days pass in milliseconds and every run can be had again.

Invariant: nothing that a simulation does depends on the wall clock, on threads, on addresses in memory or on
hash seeds. The same seed gives the same run, step for step, on every supported Python.

>>> import asyncio
>>> from aiomap.testing import SimLoop, simulate
>>> async def main() -> float:
...     await asyncio.sleep(86_400)
...     return asyncio.get_running_loop().time()
>>> simulate(main)
86400.0

`_run_once` of `asyncio.BaseEventLoop` is replaced as a whole, because there is no public way to choose which
callback runs next, or what time it is then. So this module uses asyncio's private `_ready`, `_scheduled`,
`_stopping` and `_timer_cancelled_count`, and `_run` and `_callback` of its handles: the same in Python 3.11 to
3.14.

Beyond its reach: real threads and I/O; code that iterates a set of tasks, as `TaskGroup` and `asyncio.wait`
do when they cancel, for that order changes from one process to the next; and where asyncio itself takes other
steps in another version (`asyncio.wait_for` makes a task of its own in Python 3.11 alone).
"""

# pyright: reportPrivateUsage=false
# (for the reason given above, and so is each `noqa: SLF001`)

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import heapq
import math
import random
import re
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import Executor
from contextvars import Context
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple, cast
from weakref import WeakKeyDictionary

__all__ = ["Deadlock", "Leaked", "Livelock", "SimLoop", "Unhandled", "simulate"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# asyncio.Task is written in C; its twin in Python stands beside it, for task factories that prefer that one.
_TASKS: Final = (asyncio.Task, getattr(asyncio.tasks, "_PyTask", asyncio.Task))

# A function that is given to an executor starts within this many seconds.
_EXECUTOR_DELAY: Final = 0.01


class Deadlock(AssertionError):
    """Nothing can ever run again: no callback is ready and no timer is set, yet the run is not over.

    A real thread or socket that the run waits for is not seen, and counts for nothing.
    """


class Livelock(AssertionError):
    """`max_steps` steps were run, yet the run is not over."""


class Leaked(AssertionError):
    """Tasks were still alive at the moment the main coroutine ended."""


class Unhandled(AssertionError):
    """Something reached the loop's exception handler, where outside of tests it would at most be logged."""


class SimLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time, with a seeded order of tasks and no I/O.

    `time()` starts at 0.0, stands still while code runs, and jumps to the next timer when all else has run.
    In each turn of the loop the tasks that are ready run in an order drawn from the seed, and so do timers of
    equal deadline; all other callbacks keep the order of their `call_soon`. A function that is given to an
    executor (by `asyncio.to_thread` too) runs on the loop, within 10 ms. Networks, pipes, signals and
    subprocesses raise `NotImplementedError`. It serves `asyncio.Runner` as a `loop_factory` too.

    seed: `None` means asyncio's own order: nothing shuffled, no delay in executors.
    max_steps: how many task steps may run, and how many callbacks between two; one more is a `Livelock`.
    resolution: seconds; 0 is exact. With 0.001 the clock is like uvloop's: it goes in ticks of 1 ms, and a
    timer fires on a tick, up to 1 ms too early (but never on the tick on which it was set).

    Attributes:
    steps: the number of task steps so far.
    before_step: if not `None`, it is called before each task step with its number, from 1. It may cancel
    tasks, call `advance()` or `gc.collect()`, or raise: then the run ends with that exception. (A first step
    that an eager task factory runs within `create_task` belongs to the step around it.)
    unhandled: what reached the exception handler: contexts, as `call_exception_handler` of asyncio has them.
    leaked: a line for each task that was alive when the main coroutine ended: its name, and where it waited.

    Cancel a task before each step in turn, to see that no moment is a bad one:

    >>> async def work() -> str:
    ...     try:
    ...         await asyncio.sleep(1)
    ...         return "finished"
    ...     except asyncio.CancelledError:
    ...         return "cancelled"
    >>> def cancel_before(step: int) -> str:
    ...     loop = SimLoop(seed=7)
    ...     async def main() -> str:
    ...         task = asyncio.create_task(work())
    ...         loop.before_step = lambda number: number == step and task.cancel()
    ...         return await task
    ...     return loop.run(main)
    >>> [cancel_before(step) for step in (3, 4)]
    ['cancelled', 'finished']
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(self, seed: int | None = 0, *, max_steps: int = 1_000_000, resolution: float = 0.0) -> None:
        super().__init__()
        if not 0 <= resolution < math.inf:
            self.close()
            raise ValueError(f"resolution must be a number of seconds >= 0, such as 0.001, not {resolution!r}")
        self.steps = 0
        self.before_step: Callable[[int], object] | None = None
        self.unhandled: list[dict[str, Any]] = []
        self.leaked: list[str] = []
        self._max_steps = max_steps
        self._resolution = resolution
        # random() is the one method that is promised to give the same numbers in every version of Python.
        self._random = None if seed is None else random.Random(seed).random  # noqa: S311
        self._now = 0.0
        self._callbacks_since_step = 0
        self._main_ended = False
        self._starts: WeakKeyDictionary[Executor, float] = WeakKeyDictionary()
        self._numbers: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._tasks_seen = 0
        self._history = hashlib.blake2b(digest_size=8)

    @property
    def trace(self) -> str:
        """A hash of which task took each step, and when. Tasks go by the order in which they were created."""
        return self._history.hexdigest()

    def run(
        self,
        main: Callable[[], Awaitable[T]] | Awaitable[T],
        *,
        allow_leaks: bool = False,
        allow_unhandled: bool = False,
    ) -> T:
        """Run `main` to its end, then clean up and close the loop; return its result or raise its exception.

        `leaked`, `steps` and `trace` show the moment at which `main` ended: the clean-up, which cancels what
        is left and closes async generators, is not in them. Garbage is collected only when that is over,
        because the collector comes at another moment in each run. `KeyboardInterrupt` and `SystemExit` leave
        as themselves.

        Errors: `Leaked` if tasks were left over, `Unhandled` if something reached the exception handler, each
        unless it is allowed; `Deadlock`; `Livelock`; `RuntimeError` in a running loop or on a second call.
        """
        if self.is_closed():
            raise RuntimeError("a SimLoop runs once: make a new SimLoop for every run")
        if asyncio._get_running_loop() is not None:  # noqa: SLF001
            self.close()
            raise RuntimeError("an event loop runs here already: simulate in a plain function, not an async one")
        # The error of `main` stands in a list, not in a variable or a future, because its traceback holds the frames
        # that hold these: a cycle, which would keep the whole run in memory.
        errors: list[Exception | asyncio.CancelledError] = []
        with _own_garbage():
            try:
                result = self.run_until_complete(self._watch(main, errors))
            finally:
                self._clean_up()
        self._judge(errors, allow_leaks=allow_leaks, allow_unhandled=allow_unhandled)
        if errors:
            raise errors.pop()
        return cast("T", result)

    def advance(self, seconds: float) -> None:
        """Let time pass while code runs, as a slow step does; timers that are due by then fire late.

        >>> async def main() -> float:
        ...     loop = asyncio.get_running_loop()
        ...     nap = asyncio.create_task(asyncio.sleep(1))
        ...     await asyncio.sleep(0)
        ...     loop.advance(2.5)
        ...     await nap
        ...     return loop.time()
        >>> simulate(main)
        2.5
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be a number >= 0, not {seconds!r}: a loop's time never goes back")
        self._now += seconds

    def time(self) -> float:
        """Virtual time: seconds since the loop was made."""
        return self._tick(self._now) if self._resolution else self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As in asyncio; with a `resolution` the deadline becomes a tick: the last before it, or the next."""
        if self._resolution and when > self._now:
            when = max(self._tick(when), self._tick(self._now + self._resolution))
        return super().call_at(when, callback, *args, context=context)

    def create_task(self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
        """As in asyncio, but a task without a name gets one that is the same in every run, such as Task-2."""
        # No local variable holds the task: tracebacks of eager ones hold this frame, and it would be a cycle.
        coroutine = cast("Coroutine[Any, Any, T]", coro)
        return self._introduce(super().create_task(coroutine, **options), named=options.get("name") is not None)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call the function on the loop a little later, in an empty context; `executor` is only asked who it is.

        As with a thread, a cancel does not stop it. If it blocks until the loop moves, it blocks for ever.
        """
        future: asyncio.Future[T] = self.create_future()
        when = self.time() + (self._random() * _EXECUTOR_DELAY if self._random else 0.0)
        if executor is not None:  # as with a pool of threads, no job starts before one that it was given earlier
            when = self._starts[executor] = max(when, math.nextafter(self._starts.get(executor, 0.0), math.inf))
        self.call_at(when, self._run_as_thread, future, lambda: func(*args), context=Context())
        return future

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Put the context into `unhandled`, instead of logging it."""
        self.unhandled.append(context)

    async def _watch(
        self, main: Callable[[], Awaitable[T]] | Awaitable[T], errors: list[Exception | asyncio.CancelledError]
    ) -> T | None:
        try:
            return await (main() if callable(main) else main)
        except (Exception, asyncio.CancelledError) as error:
            errors.append(error)
            return None
        finally:
            # Here, since a loop that is stopped goes on for a turn or two, in which what leaked may end.
            if not self._main_ended:
                self._main_ended = True
                self.leaked = [_describe(task) for task in self._alive() if task is not asyncio.current_task()]

    def _judge(self, errors: Sequence[BaseException], *, allow_leaks: bool, allow_unhandled: bool) -> None:
        if self.leaked and not allow_leaks:
            report = _report("tasks still alive when main ended (see allow_leaks)", self.leaked)
            raise Leaked(report) from next(iter(errors), None)
        if self.unhandled and not allow_unhandled:
            lines = [f"{context.get('message')}: {context.get('exception')!r}" for context in self.unhandled]
            report = _report("reached the exception handler (see allow_unhandled)", lines)
            raise Unhandled(report) from next(iter(errors), self.unhandled[0].get("exception"))

    def _clean_up(self) -> None:
        if self.is_closed():
            return
        self._main_ended = True
        self._callbacks_since_step = 0
        try:
            while tasks := self._alive():
                self._cancel(tasks)
            self.run_until_complete(self.shutdown_asyncgens())
        except (Deadlock, Livelock) as error:
            self.call_exception_handler({"message": "tasks resisted the clean-up", "exception": error})
        finally:
            self.close()
            gc.collect()  # what was never retrieved is reported when it is deleted

    def _cancel(self, tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        outcomes = self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Exception):
                message = f"{task.get_name()} raised when the clean-up cancelled it"
                self.call_exception_handler({"message": message, "exception": outcome, "task": task})

    def _introduce(self, task: asyncio.Task[T], *, named: bool) -> asyncio.Task[T]:
        number = self._number(task)
        if not named:
            task.set_name(f"Task-{number}")
        return task

    def _number(self, task: asyncio.Task[Any]) -> int:
        number = self._numbers.get(task)
        if number is None:
            self._tasks_seen += 1
            number = self._numbers[task] = self._tasks_seen
        return number

    def _alive(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=self._number)

    def _tick(self, seconds: float) -> float:
        # The margin takes a quotient a hair below a whole number, such as 5.001 / 0.001, for that number.
        return round(math.floor(seconds / self._resolution + 1e-6) * self._resolution, 9)

    def _shuffle(self, handles: list[Any]) -> None:
        if self._random is not None:
            for last in range(len(handles) - 1, 0, -1):
                other = int(self._random() * (last + 1))
                handles[last], handles[other] = handles[other], handles[last]

    def _run_once(self) -> None:
        self._fire_timers()
        self._permute_steps()
        ready = self._ready
        for _ in range(len(ready)):
            # No local variable holds the handle: tracebacks of tasks' exceptions hold this frame. It stays in
            # the queue until it runs: if the hook or the budget ends the run, the clean-up finds it there.
            self._account(ready[0])
            if ready[0].cancelled():
                ready.popleft()
            else:
                ready.popleft()._run()  # noqa: SLF001

    def _fire_timers(self) -> None:
        if self._timer_cancelled_count > 100 + len(self._scheduled) // 2:
            self._scheduled = sorted(timer for timer in self._scheduled if not timer.cancelled())
            self._timer_cancelled_count = 0
        if not self._ready and not self._stopping:
            if not self._scheduled or not self._scheduled[0].when() < math.inf:
                raise Deadlock(_report("tasks wait for what can never happen", map(_describe, self._alive())))
            self._now = max(self._now, self._scheduled[0].when())
        due: list[asyncio.TimerHandle] = []
        while self._scheduled and self._scheduled[0].when() <= self._now:
            due.append(heapq.heappop(self._scheduled))
        self._shuffle(due)
        due.sort(key=asyncio.TimerHandle.when)
        self._ready.extend(due)

    def _permute_steps(self) -> None:
        handles = list(self._ready)
        places = [place for place, handle in enumerate(handles) if _stepping_task(handle)]
        steps = [handles[place] for place in places]
        self._shuffle(steps)
        for place, step in zip(places, steps, strict=True):
            handles[place] = step
        self._ready.clear()
        self._ready.extend(handles)

    def _account(self, handle: asyncio.Handle) -> None:
        task = None if self._main_ended else _stepping_task(handle)
        if (self._callbacks_since_step if task is None else self.steps) >= self._max_steps:
            what = f"tasks still alive after max_steps={self._max_steps}"
            raise Livelock(_report(what, map(_describe, self._alive())))
        if task is None:
            self._callbacks_since_step += 1
            return
        self._callbacks_since_step = 0
        self.steps += 1
        if self.before_step is not None:
            self.before_step(self.steps)
        self._history.update(struct.pack("<qd", self._number(task), self._now))

    def _run_as_thread(self, future: asyncio.Future[T], call: Callable[[], T]) -> None:
        asyncio._set_running_loop(None)  # noqa: SLF001  (in a thread none runs)
        try:
            value = call()
        except BaseException as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(value)
        finally:
            asyncio._set_running_loop(self)  # noqa: SLF001
            del future  # the traceback of the error holds this frame, and the future the error

    def _write_to_self(self) -> None:
        """Wake up a loop that waits for I/O, for `call_soon_threadsafe`. This one never waits."""


def simulate(
    main: Callable[[], Awaitable[T]] | Awaitable[T],
    seed: int | None = 0,
    *,
    max_steps: int = 1_000_000,
    resolution: float = 0.0,
    task_factory: Callable[..., Any] | None = None,
    debug: bool | None = None,
    allow_leaks: bool = False,
    allow_unhandled: bool = False,
) -> T:
    """Run `main`, an async function without parameters or an awaitable, on a new `SimLoop`.

    task_factory: as for `loop.set_task_factory`, for example `asyncio.eager_task_factory`.
    debug: asyncio's debug mode; `None` leaves it as the environment has it.
    The others, and the errors: see `SimLoop` and `SimLoop.run`.

    >>> async def race() -> str:
    ...     order = []
    ...     async def runner(name: str) -> None:
    ...         await asyncio.sleep(1)
    ...         order.append(name)
    ...     await asyncio.gather(runner("a"), runner("b"))
    ...     return "".join(order)
    >>> sorted({simulate(race, seed) for seed in range(20)})
    ['ab', 'ba']
    """
    loop = SimLoop(seed, max_steps=max_steps, resolution=resolution)
    loop.set_task_factory(task_factory)
    if debug is not None:
        loop.set_debug(debug)
    return loop.run(main, allow_leaks=allow_leaks, allow_unhandled=allow_unhandled)


@contextlib.contextmanager
def _own_garbage() -> Generator[None, None, None]:
    """Switch automatic garbage collection off, and let `gc.collect()` see only what is made from here on."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _stepping_task(handle: Any) -> asyncio.Task[Any] | None:
    """The task of which this is a step, or a wake-up, which makes the step at once; `None` for all else."""
    callback = handle._callback  # noqa: SLF001
    task = getattr(callback, "__self__", None)
    if not isinstance(task, _TASKS):
        return None
    # A task's public method, such as its cancel, is a callback like any other. Those of its steps are hidden.
    return None if hasattr(task, getattr(callback, "__name__", "__step")) else task


def _describe(task: asyncio.Task[Any]) -> str:
    awaited: Any = task.get_coro()
    places: list[str] = []
    while frame := getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None):
        code = frame.f_code
        if code.co_filename != __file__:
            places.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return f"{task.get_name()}: {' > '.join(places) or awaited}"


def _report(what: str, lines: Iterable[str]) -> str:
    return "\n  ".join([f"{what}:", *lines])


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(
            f"SimLoop has no {name}(): it simulates time and order, not I/O. "
            "Put a fake that awaits asyncio.sleep() in its place, or test on a real loop."
        )

    return refuse


for _name in dir(asyncio.BaseEventLoop):
    if re.match(r"(add|connect|create(?!_task|_future)|remove|sock|subprocess)_|get\w+info|sendfile|start_tls", _name):
        setattr(SimLoop, _name, _refusal(_name))
