"""`aiomap.testing`: virtual time, seeded orders, runs that can be had again, a look at what is left over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from aiomap.testing import Deadlock, Leaked, Livelock, SimLoop, Unhandled, simulate

DAY = 86_400.0
MANY_SEEDS = range(200)

# What `trace_of_everything(1)` is, on every Python. It changes only if what a seed stands for is changed.
TRACE_OF_EVERYTHING = "18d446c6e01832e2"


async def everything() -> None:
    """A program with tasks, locks, queues, timers, timeouts, threads and cancels."""
    lock = asyncio.Lock()
    queue = asyncio.Queue[int](2)

    async def producer(pause: float) -> None:
        for number in range(5):
            async with lock:
                await asyncio.sleep(pause)
            await queue.put(number)

    async def consumer() -> None:
        while True:
            number = await queue.get()
            await asyncio.to_thread(abs, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await asyncio.sleep(0.1 * number)
            queue.task_done()

    consumers = [asyncio.create_task(consumer(), name=os.urandom(4).hex()) for _ in range(3)]
    await asyncio.gather(*(producer(pause) for pause in (0.25, 0.25, 0.5)))
    await queue.join()
    for task in consumers:
        task.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)


def trace_of_everything(seed: int | None) -> str:
    loop = SimLoop(seed)
    loop.run(everything)
    return loop.trace


def now() -> float:
    return asyncio.get_running_loop().time()


def this_loop() -> SimLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop


async def started(*coroutines: Coroutine[Any, Any, object]) -> list[asyncio.Task[object]]:
    """Tasks that have all made their first step."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for _ in range(2):  # in the first turn this task may come before them
        await asyncio.sleep(0)
    return tasks


async def forever() -> None:
    await asyncio.Event().wait()


async def order_of_tasks(count: int) -> tuple[int, ...]:
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    await asyncio.gather(*map(note, range(count)))
    return tuple(order)


async def order_of_timers(*delays: float) -> tuple[int, ...]:
    """Of plain timer callbacks, without a task between."""
    order: list[int] = []
    for number, delay in enumerate(delays):
        asyncio.get_running_loop().call_later(delay, order.append, number)
    await asyncio.sleep(max(delays) + 1)
    return tuple(order)


def test_a_hundred_sleeps_of_up_to_99_days_end_exactly_at_their_deadlines() -> None:
    delays = [random.Random(5).uniform(0, 99 * DAY) for _ in range(100)]

    async def end_of(delay: float) -> float:
        await asyncio.sleep(delay)
        return now()

    async def main() -> list[float]:
        return await asyncio.gather(*map(end_of, delays))

    assert simulate(main) == delays


def test_time_starts_at_zero_and_stands_still_while_code_runs() -> None:
    async def main() -> list[float]:
        times = [now()]
        for _ in range(100):
            await asyncio.sleep(0)
            times.append(now())
        return times

    assert set(simulate(main)) == {0.0}


def test_a_timeout_fires_exactly_at_its_deadline() -> None:
    async def main() -> float:
        await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await forever()
        return now()

    assert simulate(main) == 0.1 + 0.2


def test_a_timer_that_was_cancelled_takes_no_time() -> None:
    async def main() -> float:
        async with asyncio.timeout(DAY):
            await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        return now()

    assert simulate(main) == 11


def test_timers_that_were_cancelled_do_not_pile_up() -> None:
    async def main() -> int:
        asyncio.get_running_loop().call_later(1, print)  # the first to fire is none of those
        for _ in range(5_000):
            async with asyncio.timeout(DAY):
                await asyncio.sleep(0)
        return sum(isinstance(thing, asyncio.TimerHandle) for thing in gc.get_objects())

    assert simulate(main) < 500


def test_timers_keep_their_order_when_most_of_them_are_cancelled() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        delays = random.Random(5).sample(range(1000), 1000)
        timers = [asyncio.get_running_loop().call_later(delay, order.append, delay) for delay in delays]
        for timer in timers[100:]:
            timer.cancel()
        await asyncio.sleep(DAY)
        assert sorted(order) == sorted(delays[:100])
        return order

    order = simulate(main)
    assert order == sorted(order)


def test_all_orders_of_four_ready_tasks_appear() -> None:
    orders = {simulate(order_of_tasks(4), seed) for seed in MANY_SEEDS}
    assert orders == set(itertools.permutations(range(4)))


def test_all_orders_of_four_tasks_that_wait_for_one_event_appear() -> None:
    async def main() -> tuple[int, ...]:
        order: list[int] = []
        event = asyncio.Event()

        async def waiter(number: int) -> None:
            await event.wait()
            order.append(number)

        tasks = [asyncio.create_task(waiter(number)) for number in range(4)]
        await asyncio.sleep(1)
        event.set()
        await asyncio.gather(*tasks)
        return tuple(order)

    assert {simulate(main, seed) for seed in MANY_SEEDS} == set(itertools.permutations(range(4)))


def test_all_orders_of_timers_with_one_deadline_appear() -> None:
    orders = {simulate(order_of_timers(5, 5, 5, 5), seed) for seed in MANY_SEEDS}
    assert orders == set(itertools.permutations(range(4)))


def test_timers_with_different_deadlines_fire_in_the_order_of_these() -> None:
    for seed in MANY_SEEDS:
        assert simulate(order_of_timers(3, 1, 4, 2), seed) == (1, 3, 0, 2)


def test_without_a_seed_nothing_is_shuffled() -> None:
    assert simulate(order_of_tasks(9), seed=None) == tuple(range(9))
    assert simulate(order_of_timers(5, 5), seed=None) == (0, 1)


def test_callbacks_keep_their_order_among_tasks_that_are_shuffled() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        tasks: list[asyncio.Task[None]] = []
        for number in range(5):
            asyncio.get_running_loop().call_soon(order.append, number)
            tasks.append(asyncio.create_task(asyncio.sleep(0)))
        await asyncio.gather(*tasks)
        return order

    for seed in MANY_SEEDS:
        assert simulate(main, seed) == list(range(5))


def test_the_cancel_method_of_a_task_is_a_callback_like_any_other() -> None:
    async def main() -> list[int]:
        tasks = await started(forever(), forever())
        counts: list[int] = []

        def note_cancels_of(task: asyncio.Task[object]) -> None:
            counts.append(task.cancelling())

        steps = this_loop().steps
        for task in tasks:
            asyncio.get_running_loop().call_soon(task.cancel)
            asyncio.get_running_loop().call_soon(note_cancels_of, task)
        this_loop().before_step = lambda number: counts.append(number - steps)
        await asyncio.gather(*tasks, return_exceptions=True)
        return counts

    for seed in MANY_SEEDS:
        assert simulate(main, seed)[:3] == [1, 1, 1]


@pytest.mark.parametrize("seed", [None, 0, 1, 2**70])
def test_the_same_seed_gives_the_same_run(seed: int | None) -> None:
    assert trace_of_everything(seed) == trace_of_everything(seed)


def test_different_seeds_give_different_runs() -> None:
    assert len({trace_of_everything(seed) for seed in range(20)}) == 20


def test_a_trace_tells_the_order_of_tasks_and_the_time() -> None:
    def trace(*delays: float, seed: int | None = None) -> str:
        async def main() -> None:
            await asyncio.gather(*map(asyncio.sleep, delays))

        loop = SimLoop(seed)
        loop.run(main)
        return loop.trace

    assert len({trace(1, 2, 3), trace(2, 1, 3), trace(1, 2, 4), trace(1, 2)}) == 4
    assert len({trace(0, 0, seed=seed) for seed in range(20)}) == 4


def test_a_run_is_the_same_on_every_python() -> None:
    assert trace_of_everything(1) == TRACE_OF_EVERYTHING


def test_a_run_is_the_same_in_a_new_interpreter_whatever_its_hash_seed() -> None:
    code = "import test_simloop; print(test_simloop.trace_of_everything(1))"
    for hash_seed in ("0", "4242"):
        # sys.path is passed on whole, for whoever runs the tests without installing aiomap.
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert output.stdout.decode().strip() == TRACE_OF_EVERYTHING


def test_a_deadlock_names_the_tasks_and_the_places_where_they_wait() -> None:
    async def outer() -> None:
        await forever()

    async def main() -> None:
        task = asyncio.create_task(forever(), name="second")
        await outer()
        await task

    with pytest.raises(Deadlock) as caught:
        simulate(main)
    first, second = str(caught.value).splitlines()[1:]
    assert first.lstrip().startswith("Task-1: ")
    assert "main (test_simloop.py:" in first
    assert (
        first.index("outer (test_simloop.py:") < first.index("forever (test_simloop.py:") < first.index("Event.wait (")
    )
    assert second.lstrip().startswith("second: forever (test_simloop.py:")


def test_a_deadlock_is_not_hidden_by_what_reached_the_exception_handler() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(divmod, 1, 0)
        await forever()

    with pytest.raises(Deadlock):
        simulate(main)


def test_a_sleep_without_end_is_a_deadlock() -> None:
    with pytest.raises(Deadlock):
        simulate(asyncio.sleep(float("inf")))


def test_a_livelock_names_the_tasks() -> None:
    async def spin() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    loop = SimLoop(max_steps=1000)
    with pytest.raises(Livelock, match=r"max_steps=1000.*\n.*spin \(test_simloop.py:"):
        loop.run(spin)
    assert loop.steps == 1000


def test_a_callback_that_calls_itself_for_ever_is_a_livelock() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(0)
            ended.append("main")

    ended: list[str] = []
    with pytest.raises(Livelock):
        simulate(main, max_steps=1000)
    assert ended == ["main"]


def test_as_many_steps_as_are_allowed_are_no_livelock() -> None:
    async def main() -> None:
        for _ in range(99):
            for _ in range(5):
                asyncio.get_running_loop().call_soon(int)
            await asyncio.sleep(1)

    simulate(main, max_steps=100)
    with pytest.raises(Livelock):
        simulate(main, max_steps=99)


def test_the_hook_is_called_before_every_step_with_its_number() -> None:
    loop = SimLoop()
    seen: list[str | int] = []
    loop.before_step = seen.append

    async def main() -> None:
        seen.append("main")
        await asyncio.sleep(1)
        seen.append("main")
        await asyncio.create_task(child())
        seen.append("main")

    async def child() -> None:
        seen.append("child")

    loop.run(main)
    assert seen == [1, "main", 2, "main", 3, "child", 4, "main"]
    assert loop.steps == 4


def test_the_hook_can_cancel_at_each_step() -> None:
    def got_to(step: int) -> list[int]:
        reached: list[int] = []
        loop = SimLoop()

        async def work() -> None:
            for number in range(3):
                reached.append(number)
                await asyncio.sleep(1)
            reached.append(3)

        async def main() -> None:
            task = asyncio.create_task(work())
            loop.before_step = lambda number: number == step and task.cancel()
            await asyncio.wait([task])

        loop.run(main)
        return reached

    assert [got_to(step) for step in range(2, 7)] == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_what_the_hook_raises_ends_the_run_and_the_tasks_are_cleaned_up() -> None:
    class Injected(BaseException):
        pass

    def inject(step: int) -> None:
        if step == 3:
            raise Injected

    async def main() -> None:
        try:
            await started(forever())
        finally:
            cleaned_up.append("main")
            await asyncio.sleep(1)
            cleaned_up.append("later")

    cleaned_up: list[str] = []
    loop = SimLoop(seed=None)
    loop.before_step = inject
    with pytest.raises(Injected):
        loop.run(main)
    assert cleaned_up == ["main", "later"]
    assert loop.steps == 3
    assert loop.is_closed()


def test_the_hook_can_let_time_pass_in_each_step() -> None:
    loop = SimLoop()
    loop.before_step = lambda _: loop.advance(1)

    async def main() -> float:
        for _ in range(9):
            await asyncio.sleep(0)
        return now()

    assert loop.run(main) == 10


def test_timers_are_late_when_time_passed_while_code_ran() -> None:
    async def end_of(delay: float) -> tuple[float, float]:
        await asyncio.sleep(delay)
        ended.append(delay)
        return delay, now()

    async def main() -> list[tuple[float, float]]:
        tasks = [asyncio.create_task(end_of(delay)) for delay in (2, 1, 9)]
        await asyncio.sleep(0)
        this_loop().advance(5)
        assert now() == 5
        return await asyncio.gather(*tasks)

    ended: list[float] = []
    assert simulate(main, seed=None) == [(2, 5), (1, 5), (9, 9)]
    assert ended == [1, 2, 9]


def test_timers_that_are_late_fire_in_the_order_of_their_deadlines() -> None:
    async def main() -> tuple[int, ...]:
        task = asyncio.create_task(order_of_timers(3, 1, 4, 2))
        await asyncio.sleep(0.5)
        this_loop().advance(DAY)
        return await task

    for seed in MANY_SEEDS:
        assert simulate(main, seed) == (1, 3, 0, 2)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_can_only_be_advanced_by_a_number_that_is_not_negative(seconds: float) -> None:
    async def main() -> None:
        this_loop().advance(seconds)

    with pytest.raises(ValueError, match=f"not {seconds!r}"):
        simulate(main)


def test_with_a_resolution_time_goes_in_ticks_and_timers_fire_early() -> None:
    async def main() -> list[float]:
        times = list[float]()
        for delay in (0.0027, 0.0001, 0.0005, 5):
            await asyncio.sleep(delay)
            times.append(now())
        this_loop().advance(0.0015)
        return [*times, now()]

    assert simulate(main, resolution=0.001) == [0.002, 0.003, 0.004, 5.004, 5.005]


def test_with_a_resolution_a_loop_that_sleeps_until_a_deadline_ends() -> None:
    async def main() -> tuple[int, float]:
        naps = 0
        while now() < 1.2345:
            await asyncio.sleep(1.2345 - now())
            naps += 1
        return naps, now()

    assert simulate(main, resolution=0.001) == (2, 1.235)


def test_with_a_resolution_timers_of_one_tick_fire_in_any_order() -> None:
    orders = {simulate(order_of_timers(0.0055, 0.0051), seed, resolution=0.001) for seed in MANY_SEEDS}
    assert orders == {(0, 1), (1, 0)}


@pytest.mark.parametrize("resolution", [-0.001, float("nan"), float("inf")])
def test_a_resolution_is_a_number_that_is_not_negative(resolution: float) -> None:
    with pytest.raises(ValueError, match="resolution"):
        SimLoop(resolution=resolution)


def test_executors_are_virtual() -> None:
    variable = ContextVar("variable", default="empty")

    def blocking() -> tuple[int, str]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return threading.get_ident(), variable.get()

    async def main() -> tuple[Any, Any, float]:
        variable.set("the caller's")
        raw = await asyncio.get_running_loop().run_in_executor(None, blocking)
        return raw, await asyncio.to_thread(blocking), now()

    here = threading.get_ident()
    threads = threading.active_count()
    raw, with_context, end = simulate(main)
    assert raw == (here, "empty")
    assert with_context == (here, "the caller's")
    assert 0 < end < 0.02
    assert threading.active_count() == threads


def test_functions_in_executors_end_in_any_order() -> None:
    async def main() -> str:
        order: list[str] = []
        await asyncio.gather(*(asyncio.to_thread(order.append, name) for name in "abc"))
        return "".join(order)

    assert {simulate(main, seed) for seed in MANY_SEEDS} == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert simulate(main, seed=None) == "abc"


def test_what_a_function_in_an_executor_raises_comes_out_of_the_await() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)
        with pytest.raises(SystemExit):
            await asyncio.to_thread(sys.exit)
        assert this_loop() is loop

    loop = SimLoop()
    loop.run(main)


def test_a_function_in_an_executor_goes_on_after_a_cancel() -> None:
    async def main() -> list[int]:
        done: list[int] = []
        tasks = await started(asyncio.to_thread(done.append, 1), asyncio.to_thread(divmod, 1, 0))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert not done
        await asyncio.sleep(1)
        return done

    assert simulate(main) == [1]


def test_call_soon_threadsafe_works() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        loop.call_soon_threadsafe(future.set_result, 5)
        return await future

    assert simulate(main) == 5


@pytest.mark.parametrize(
    "name",
    [
        *("add_reader", "add_signal_handler", "connect_accepted_socket", "connect_read_pipe", "create_connection"),
        *("create_datagram_endpoint", "create_server", "create_unix_server", "getaddrinfo", "getnameinfo"),
        *("remove_writer", "sendfile", "sock_connect", "sock_sendto", "start_tls", "subprocess_exec"),
    ],
)
def test_input_and_output_are_refused_with_a_sentence(name: str) -> None:
    async def main() -> None:
        with pytest.raises(NotImplementedError, match=rf"SimLoop has no {name}\(\)"):
            await getattr(asyncio.get_running_loop(), name)("anything", at="all")

    simulate(main)


def test_what_reaches_the_exception_handler_is_collected_and_fails_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> int:
        asyncio.get_running_loop().call_soon(divmod, 1, 0)
        await asyncio.sleep(1)
        return 5

    loop = SimLoop()
    with pytest.raises(Unhandled, match="ZeroDivisionError") as caught:
        loop.run(main)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [type(context["exception"]) for context in loop.unhandled] == [ZeroDivisionError]
    assert simulate(main, allow_unhandled=True) == 5
    assert not caplog.records


def test_an_exception_that_nobody_retrieved_fails_the_run_at_its_end() -> None:
    async def fail() -> None:
        raise ValueError

    async def main() -> None:
        await started(fail(), asyncio.to_thread(divmod, 1, 0))
        await asyncio.sleep(1)
        futures = [asyncio.get_running_loop().create_future()]
        futures[0].set_exception(KeyError(futures))  # in a cycle

    with pytest.raises(Unhandled) as caught:
        simulate(main)
    assert str(caught.value).count("never retrieved") == 3


def test_an_exception_that_nobody_can_retrieve_any_more_is_noticed_at_once() -> None:
    async def fail() -> None:
        raise ValueError

    async def main() -> None:
        await started(fail())
        futures = [asyncio.get_running_loop().run_in_executor(None, divmod, 1, 0)]
        await asyncio.wait(futures)
        del futures
        assert len(this_loop().unhandled) == 2

    simulate(main, allow_unhandled=True)


def test_the_garbage_collector_comes_only_when_it_is_called() -> None:
    class Node:
        def __init__(self) -> None:
            self.me = self

    before = Node()
    old = weakref.ref(before)
    del before

    async def main() -> tuple[bool, bool, bool]:
        new = weakref.ref(Node())
        garbage = [[number] for number in range(100_000)]
        del garbage
        still_there = new() is not None
        gc.collect()
        return still_there, new() is None, old() is not None

    assert gc.isenabled()
    assert simulate(main) == (True, True, True)
    assert gc.isenabled()
    gc.collect()
    assert old() is None


def test_a_task_that_is_alive_when_main_returns_is_leaked_even_if_it_would_end_at_once() -> None:
    async def brief() -> None:
        pass

    async def main() -> str:
        return asyncio.create_task(brief(), name="stray").get_name()

    loop = SimLoop()
    with pytest.raises(Leaked, match=r"stray: .*brief \(test_simloop.py:"):
        loop.run(main)
    assert len(loop.leaked) == 1
    assert simulate(main, allow_leaks=True) == "stray"


def test_tasks_that_ended_and_main_itself_are_not_leaked() -> None:
    async def main() -> None:
        await started(asyncio.sleep(0), asyncio.sleep(1))
        await asyncio.sleep(2)

    loop = SimLoop()
    loop.run(main)
    assert loop.leaked == []


def test_leaks_are_listed_in_the_order_in_which_the_tasks_were_made() -> None:
    async def main() -> list[asyncio.Task[None]]:
        return [asyncio.create_task(forever(), name=f"stray {number}") for number in range(30)]

    loop = SimLoop()
    loop.run(main, allow_leaks=True)
    assert [line.split(":")[0] for line in loop.leaked] == [f"stray {number}" for number in range(30)]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_a_leak_fails_the_run_when_main_raises_too(error: type[BaseException]) -> None:
    async def main() -> None:
        await started(forever())
        raise error

    with pytest.raises(Leaked) as caught:
        simulate(main)
    assert isinstance(caught.value.__cause__, error)
    with pytest.raises(error):
        simulate(main, allow_leaks=True)


def test_tasks_that_are_left_over_are_cancelled_and_awaited_outside_of_the_record() -> None:
    async def work() -> None:
        try:
            await forever()
        finally:
            strays.append(asyncio.create_task(last_will()))
            await asyncio.sleep(DAY)
            ended.append("work")

    async def last_will() -> None:
        try:
            await asyncio.sleep(99 * DAY)
        finally:
            ended.append("last will")

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            ended.append("numbers")

    async def main() -> tuple[int, str]:
        await anext(generator)
        await started(work())
        return loop.steps, loop.trace

    ended: list[str] = []
    strays: list[asyncio.Task[None]] = []
    generator = numbers()
    loop = SimLoop()
    loop.before_step = print
    steps, trace = loop.run(main, allow_leaks=True)
    assert ended == ["work", "last will", "numbers"]
    assert (loop.steps, loop.trace) == (steps, trace)
    assert loop.is_closed()


def test_a_left_over_task_that_raises_when_it_is_cancelled_is_reported() -> None:
    async def work() -> None:
        try:
            await forever()
        finally:
            raise ValueError

    async def main() -> None:
        await started(work())

    with pytest.raises(Unhandled, match="ValueError"):
        simulate(main, allow_leaks=True)


def test_a_left_over_task_that_cannot_be_cancelled_is_reported() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await forever()

    async def main() -> None:
        await started(stubborn())

    with pytest.raises(Unhandled, match="Deadlock"):
        simulate(main, allow_leaks=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_any_task_leaves_as_itself_and_the_rest_is_cleaned_up(
    error: type[BaseException],
) -> None:
    async def interrupt() -> None:
        await asyncio.sleep(1)
        raise error

    async def main() -> None:
        try:
            await asyncio.gather(interrupt(), forever())
        finally:
            await asyncio.sleep(1)
            ended.append("main")

    ended: list[str] = []
    loop = SimLoop()
    with pytest.raises(error):
        loop.run(main)
    assert ended == ["main"]
    assert loop.is_closed()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_raised_by_main_is_not_hidden_by_a_leak(error: type[BaseException]) -> None:
    async def main() -> None:
        await started(forever())
        raise error

    loop = SimLoop()
    with pytest.raises(error):
        loop.run(main)
    assert len(loop.leaked) == 1


@pytest.mark.parametrize("end", [Deadlock, Livelock, Leaked, KeyboardInterrupt])
def test_nothing_is_warned_of_later(end: type[BaseException], recwarn: pytest.WarningsRecorder) -> None:
    async def main() -> None:
        await started(forever(), asyncio.sleep(0))
        if end is Deadlock:
            await forever()
        for _ in itertools.count() if end is Livelock else ():
            await asyncio.sleep(0)
        if end is KeyboardInterrupt:
            raise KeyboardInterrupt

    with pytest.raises(end):
        simulate(main, max_steps=100)
    gc.collect()
    assert not recwarn.list


def test_a_run_leaves_no_garbage_behind() -> None:
    async def main() -> None:
        await started(asyncio.sleep(1), asyncio.to_thread(abs, 5))
        await asyncio.sleep(2)

    async def fail() -> None:
        await main()
        raise ValueError

    gc.collect()
    gc.disable()  # or else it may find some in between
    try:
        for seed in range(10):
            simulate(main, seed)
            with contextlib.suppress(ValueError):
                simulate(fail, seed)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_the_result_of_main_is_returned_and_what_it_raises_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    assert simulate(lambda: asyncio.sleep(1, "function")) == "function"
    assert simulate(asyncio.sleep(1, "coroutine")) == "coroutine"
    with pytest.raises(ValueError, match="mine"):
        simulate(fail)


def test_a_loop_runs_once() -> None:
    loop = SimLoop()
    loop.run(order_of_tasks(1))
    with pytest.raises(RuntimeError, match="make a new SimLoop"):
        loop.run(everything)


def test_a_simulation_inside_of_a_running_loop_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="plain function"):
            simulate(everything)

    simulate(main)


def test_tasks_keep_the_names_that_they_are_given_and_others_are_numbered_in_each_run() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(asyncio.sleep(1), name="own"), asyncio.create_task(asyncio.sleep(1), name="mine")]
        tasks += [asyncio.create_task(asyncio.sleep(1)), loop.create_task(asyncio.sleep(1))]
        await asyncio.wait(tasks)
        return [task.get_name() for task in tasks]

    assert simulate(main) == simulate(main) == ["own", "mine", "Task-4", "Task-5"]


def test_a_loop_that_is_stopped_before_it_runs_makes_one_turn() -> None:
    loop = SimLoop()
    loop.stop()
    loop.run_forever()
    assert loop.time() == 0
    loop.close()


def test_runner_takes_the_loop() -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(asyncio.sleep(DAY))
        assert runner.get_loop().time() == DAY


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_work() -> None:
    async def main() -> list[tuple[int, ...]]:
        orders = [await order_of_tasks(4)]
        task = asyncio.create_task(asyncio.sleep(DAY))
        await task
        return [*orders, (int(now()),)]

    # What runs eagerly runs in the order of creation, inside of the step that creates it.
    factory = getattr(asyncio, "eager_task_factory")  # noqa: B009  (unknown to the type checker's Python 3.11)
    for seed in range(20):
        assert simulate(main, seed, task_factory=factory) == [(0, 1, 2, 3), (DAY,)]


def test_tasks_written_in_python_are_shuffled_and_counted_like_those_in_c() -> None:
    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        return asyncio.tasks._PyTask(coroutine, loop=loop, **options)  # type: ignore[attr-defined]  # the point

    def run(seed: int, factory: Any) -> tuple[int, str]:
        loop = SimLoop(seed)
        loop.set_task_factory(factory)
        loop.run(everything)
        return loop.steps, loop.trace

    for seed in range(9):
        assert run(seed, factory) == run(seed, None)


def test_a_task_factory_that_knows_no_names_works() -> None:
    made: list[asyncio.Task[Any]] = []

    def factory(loop: Any, coroutine: Any, context: Any = None) -> asyncio.Task[Any]:
        made.append(asyncio.Task(coroutine, loop=loop, context=context))
        return made[-1]

    assert len(simulate(order_of_tasks(4), task_factory=factory)) == 4
    assert [task.get_name() for task in made[:5]] == ["Task-1", "Task-2", "Task-3", "Task-4", "Task-5"]


@pytest.mark.parametrize("seed", [None, 1])
def test_debug_mode_works_and_changes_no_order(seed: int | None) -> None:
    def run(*, debug: bool) -> tuple[bool, str]:
        loop = SimLoop(seed)
        loop.set_debug(debug)
        loop.run(everything)
        return loop.get_debug(), loop.trace

    assert run(debug=True)[1] == run(debug=False)[1]

    async def main() -> bool:
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            asyncio.get_running_loop().call_soon(forever)
        return asyncio.get_running_loop().get_debug()

    assert simulate(main, seed, debug=True)
