"""`in_thread` and `in_process`. Real threads and processes: virtual time cannot hold them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool

import pytest

from aiomap import amap, in_process, in_thread

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def test_as_many_calls_block_at_once_as_the_map_allows() -> None:
    """The barrier breaks unless 20 calls are inside at the same time; the default executor has fewer threads here."""
    barrier = threading.Barrier(20, timeout=30)

    def meet(item: int) -> int:
        barrier.wait()
        return item

    assert asyncio.run(amap(in_thread(meet), range(40), 20)) == list(range(40))


def test_the_thread_sees_the_context_of_the_caller() -> None:
    async def main() -> list[str]:
        colour.set("red")
        return await amap(in_thread(lambda _: colour.get()), range(3))

    assert asyncio.run(main()) == ["red"] * 3


def test_an_exception_comes_through_and_stop_iteration_does_not_hang() -> None:
    def fail(item: int) -> None:
        raise (StopIteration if item else ValueError)(item)

    async def main() -> list[Exception | None]:
        return await amap(in_thread(fail), range(2), on_error="return")

    first, second = asyncio.run(main())
    assert isinstance(first, ValueError)
    assert isinstance(second, RuntimeError)


def test_a_cancelled_call_keeps_its_slot_until_the_thread_has_ended() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        entered = asyncio.Event()
        release = threading.Event()
        left: list[int] = []

        def block(item: int) -> None:
            loop.call_soon_threadsafe(entered.set)
            release.wait(30)
            left.append(item)

        task = asyncio.create_task(amap(in_thread(block), range(9), 1))
        await entered.wait()
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        release.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert left == [0]

    asyncio.run(main())


def test_a_second_cancel_does_not_wait_for_the_thread() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        entered = asyncio.Event()
        release = threading.Event()

        def block(_: int) -> None:
            loop.call_soon_threadsafe(entered.set)
            release.wait(30)

        task = asyncio.create_task(amap(in_thread(block), range(9), 1))
        await entered.wait()
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        release.set()

    asyncio.run(main())


def test_the_wrapped_function_keeps_its_name() -> None:
    def read(path: str) -> str:
        """Reads."""
        return path

    assert in_thread(read).__name__ == "read"
    assert in_process(read).__doc__ == "Reads."


def die(item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def process_of(_: int) -> int:
    return os.getpid()


def test_calls_run_in_other_processes() -> None:
    processes = asyncio.run(amap(in_process(process_of, max_workers=2), range(8), 4))
    assert os.getpid() not in processes
    assert len(set(processes)) <= 2


def test_a_process_that_dies_fails_its_call_and_the_next_gets_a_new_one() -> None:
    async def main() -> None:
        function = in_process(die, max_workers=1)
        results = await amap(function, [0, 1, 2, 3], 1, on_error="return")
        assert results[0] == 0
        assert isinstance(results[1], BrokenProcessPool)
        assert results[2:] == [2, 3]

    asyncio.run(main())


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_a_bad_number_of_processes_is_refused_at_the_call(workers: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"max_workers must be None .* or an integer of at least 1"):
        in_process(die, max_workers=workers)  # type: ignore[arg-type]  # the mistake itself


@pytest.mark.parametrize("wrap", [in_thread, in_process])
def test_an_async_function_is_refused_at_the_call(wrap: object) -> None:
    async def fetch(_: int) -> None: ...

    with pytest.raises(TypeError, match="fetch is async already: pass it as it is"):
        wrap(fetch)  # type: ignore[operator]  # both are functions
    with pytest.raises(TypeError, match="must be a function, got 7"):
        wrap(7)  # type: ignore[operator]  # as above
