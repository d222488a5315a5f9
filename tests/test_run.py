"""`run`: the map for code without an event loop, and for notebooks."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from aiomap import run

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def look(_: object) -> str:
    return colour.get()


def test_run_gives_the_list_where_no_loop_runs() -> None:
    assert run(double, range(5), 2) == [0, 2, 4, 6, 8]
    with pytest.raises(ZeroDivisionError):
        run(invert, [1, 0])


async def invert(number: int) -> float:
    return 1 / number


def test_run_works_inside_a_running_loop_as_in_a_notebook() -> None:
    async def cell() -> None:
        colour.set("red")
        assert run(double, range(5), 2) == [0, 2, 4, 6, 8]
        assert run(look, range(2)) == ["red", "red"]
        with pytest.raises(ZeroDivisionError):
            run(invert, [1, 0])
        assert [thread.name for thread in threading.enumerate() if thread.name == "aiomap.run"] == []

    asyncio.run(cell())


@pytest.mark.parametrize("inside", ["no loop", "a running loop"])
def test_ctrl_c_cancels_the_items_and_leaves_as_keyboard_interrupt(inside: str) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, sys, time
        from aiomap import run

        async def work(item):
            print("started", item, flush=True)
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                print("cleaned", item, flush=True)

        async def cell():
            run(work, range(9), 2)

        try:
            {"run(work, range(9), 2)" if inside == "no loop" else "asyncio.run(cell())"}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = [child.stdout.readline(), child.stdout.readline()]
    os.kill(child.pid, signal.SIGINT)
    rest, _ = child.communicate(timeout=30)
    lines += rest.splitlines(keepends=True)
    assert sorted(lines[:4]) == ["cleaned 0\n", "cleaned 1\n", "started 0\n", "started 1\n"]
    assert lines[4:] == ["interrupted\n"]
