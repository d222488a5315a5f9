"""The loops that a test runs on.

`play(main)` runs an async function. A test that takes it runs on virtual time, in asyncio's own order and in shuffled
ones, with eager tasks, and in debug mode; one that is marked `any_loop` runs on uvloop, in real time, as well.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import pytest

from aiomap.testing import simulate

T = TypeVar("T")


class Play(Protocol):
    def __call__(self, main: Callable[[], Awaitable[T]]) -> T: ...


def _plain(main: Callable[[], Awaitable[T]]) -> T:
    return simulate(main, seed=None)


def _shuffled(main: Callable[[], Awaitable[T]]) -> T:
    return [simulate(main, seed=seed) for seed in range(5)][-1]


def _eager(main: Callable[[], Awaitable[T]]) -> T:
    return simulate(main, seed=1, task_factory=getattr(asyncio, "eager_task_factory"))  # noqa: B009  # new in 3.12


def _debug(main: Callable[[], Awaitable[T]]) -> T:
    return simulate(main, seed=2, debug=True)


def _uvloop(main: Callable[[], Awaitable[T]]) -> T:
    import uvloop

    async def call() -> T:
        return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(call())


LOOPS: dict[str, Any] = {"plain": _plain, "shuffled": _shuffled, "eager": _eager, "debug": _debug, "uvloop": _uvloop}
if sys.version_info < (3, 12):
    del LOOPS["eager"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "any_loop: does not need virtual time, and so runs on uvloop too")
    config.addinivalue_line("markers", "once: has the same outcome on every Python, and so runs on one of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "play" in metafunc.fixturenames:
        virtual = metafunc.definition.get_closest_marker("any_loop") is None
        names = [name for name in LOOPS if not (virtual and name == "uvloop")]
        metafunc.parametrize("play", [LOOPS[name] for name in names], ids=names)


@pytest.fixture(autouse=True)
def _every_warning_is_an_error() -> None:
    """Also those that asyncio's debug mode and the garbage collector give."""
    warnings.simplefilter("error")
