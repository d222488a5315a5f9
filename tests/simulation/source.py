"""The input of a simulated map: numbers from 0.

Invariant: its iterators are not fused and not patient. Asked again after the end, from another task or in another
context, they note it as "wrong".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import AsyncGeneratorType
from typing import Any, Final

from tests.simulation.record import Log
from tests.simulation.scenario import Scenario

__all__ = ["MISSING", "VARIABLE", "Source"]

MISSING: Final = object()
VARIABLE: Final = ContextVar[object]("VARIABLE", default=MISSING)


class Source:
    """What all kinds of input have in common."""

    def __init__(self, scenario: Scenario, log: Log, callers_value: object) -> None:
        self._scenario, self._log = scenario, log
        self._variable = callers_value
        self._index = 0
        self._over = False
        self._task: asyncio.Task[Any] | None = None
        self._generator = self._produce()

    def data(self) -> Any:
        """The argument for the map."""
        if self._scenario.source == "list":
            return list(range(len(self._scenario.items)))
        return _Iterator(self) if self._scenario.source == "iterator" else _AsyncIterator(self, self._generator)

    def is_open(self) -> bool:
        """Whether the async generator was begun, and has neither ended nor been closed."""
        assert isinstance(self._generator, AsyncGeneratorType)
        return self._task is not None and self._generator.ag_frame is not None

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Around each question for the next item."""
        if self._over:
            self._log.note("wrong", detail="I5: the source was asked again after its end")
        try:
            yield
        except OSError as error:
            self._log.note("source fails", detail=error)
            raise

    def next_item(self) -> int | None:
        """The next number, `None` at the end."""
        index, scenario = self._index, self._scenario
        if VARIABLE.get() is not self._variable:
            self._log.note("wrong", detail="I5: the source does not find the context variable as it left it")
        if scenario.source_sets_variable:
            self._variable = object()
            VARIABLE.set(self._variable)
        if index == scenario.source_fails_at:
            self._over = True
            raise OSError(index)
        if index == len(scenario.items):
            self._over = True
            self._log.note("source ends")
            return None
        self._index += 1
        self._log.note("pull", index)
        return index

    async def _produce(self) -> AsyncIterator[int]:
        self._task = asyncio.current_task()
        try:
            while True:
                self._log.note("source asked")
                if self._scenario.source_sleeps is not None:
                    await self._log.sleep(self._scenario.source_sleeps, "source cancelled")
                index = self.next_item()
                if index is None:
                    return
                yield index
                self._note_another_task()
        finally:
            self._note_another_task()
            self._over = True
            if self._scenario.source_cleans_up:
                await self._log.sleep(1, "source cancelled")

    def _note_another_task(self) -> None:
        if asyncio.current_task() is not self._task:
            self._log.note("wrong", detail="I5: the async source was entered by a second task")


class _Iterator:
    def __init__(self, source: Source) -> None:
        self._source = source

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._source.asked():
            index = self._source.next_item()
        if index is None:
            raise StopIteration
        return index


class _AsyncIterator:
    def __init__(self, source: Source, generator: Any) -> None:
        self._source, self._generator = source, generator

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        with self._source.asked():
            index: int = await anext(self._generator)
        return index

    async def aclose(self) -> None:
        await self._generator.aclose()
