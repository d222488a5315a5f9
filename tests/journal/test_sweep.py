"""Promise 25 at every moment: the journal as a kill finds it, before any step of a run, and what comes of it.

Each case is made from a seed. At some step the files are copied, as a kill -9 at this moment would leave them; the run
itself goes on, or is cancelled there. A later run goes on from the copy (or from the cancelled run's journal).
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiomap import SKIP, Journal, PerKey, Rate, Retry, Throttled, aimap, amap, aoutcomes
from aiomap.testing import SimLoop

MEMORY = Path("/dev/shm")  # noqa: S108  (the folders in it have names that nobody can guess)


@dataclass
class Case:
    """What is run, made from a seed: the input, what becomes of each item, and by which verb."""

    seed: int
    executed: list[Any] = field(default_factory=list[Any])  # items, as their attempts succeeded
    delivered: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        chance = Random(self.seed)
        self.items = [chance.choice("abcdefghijklmnop") + str(chance.randrange(4)) for _ in range(chance.randrange(25))]
        self.times = {item: chance.choice((0, 0, 0.001, 0.03, 0.2, 2)) for item in sorted(set(self.items))}
        self.kinds = {item: chance.choice("vvvvvsrt") for item in sorted(set(self.items))}
        self.limit = chance.choice((1, 2, 5))
        self.verb = chance.choice(("amap", "ordered", "unordered", "outcomes"))
        self.buffer = chance.choice((None, 0, 2))
        self.durable = chance.random() < 0.3
        self.is_async = chance.random() < 0.3
        self.consumer = chance.choice((0, 0.05))
        self.policies: dict[str, Any] = {"retry": Retry(ConnectionError, attempts=20, base=0.01, budget=None)}
        if chance.random() < 0.3:
            self.policies["limits"] = [Rate(5, 0.1), PerKey(lambda item: item[0], 1)]
        if "r" not in self.kinds.values() and chance.random() < 0.6:
            self.policies = {}
        self.loop_seed = chance.randrange(1000)

    def expected(self) -> list[Any]:
        return [self.value(item) for item in self.items if self.kinds[item] != "s"]

    def value(self, item: str) -> Any:
        return {"item": item, "text": "é" * len(item)}

    def work(self) -> Any:
        tried = Counter[str]()

        async def work(item: str) -> Any:
            tried[item] += 1
            fails = tried[item] % 2 == 1
            if self.times[item]:
                await asyncio.sleep(self.times[item])
            if self.kinds[item] == "r" and fails:
                raise ConnectionError(item)
            if self.kinds[item] == "t" and fails:
                raise Throttled(0.02)
            self.executed.append(item)
            return SKIP if self.kinds[item] == "s" else self.value(item)

        return work

    def data(self, items: list[str]) -> Any:
        async def each() -> AsyncIterator[str]:
            for item in items:
                await asyncio.sleep(0.001)
                yield item

        return each() if self.is_async else iter(items)

    async def run(self, path: Path, items: list[str]) -> list[Any]:
        journal = Journal(path, key=str, durable=self.durable)
        work, data = self.work(), self.data(items)
        if self.verb == "amap":
            results: list[Any] = await amap(work, data, self.limit, journal=journal, **self.policies)
            return results
        stream: Any
        if self.verb == "outcomes":
            stream = aoutcomes(
                work, data, self.limit, ordered=True, buffer=self.buffer, journal=journal, **self.policies
            )
        else:
            ordered = self.verb == "ordered"
            stream = aimap(
                work, data, self.limit, ordered=ordered, buffer=self.buffer, journal=journal, **self.policies
            )
        async with stream:
            async for result in stream:
                self.delivered.append(result.value if self.verb == "outcomes" else result)
                await asyncio.sleep(self.consumer)
        return self.delivered

    def play(self, path: Path, items: list[str], hook: Any = None) -> list[Any] | None:
        """Runs it; `None` if it was cancelled."""
        self.executed, self.delivered = [], []
        random.seed(self.loop_seed)  # for the jitter of the retries
        loop = SimLoop(seed=self.loop_seed)
        if hook is not None:
            loop.before_step = lambda step: hook(loop, step)
        try:
            return loop.run(lambda: self.run(path, items))
        except asyncio.CancelledError:
            return None

    def check(self, results: list[Any] | None, expected: list[Any]) -> None:
        assert results is not None
        key = repr if self.verb == "unordered" else None
        if key:
            results, expected = sorted(results, key=key), sorted(expected, key=key)
        assert results == expected


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


def recorded(path: Path) -> Counter[str]:
    """How often each item is in the journal; the results in it are right."""
    return Counter(record.key[1:-1] for record in Journal.read(path)) if path.exists() else Counter()


def copied(path: Path, to: Path) -> Path:
    """The files as a kill would leave them now. Without -shm: the next one to open the journal makes it anew."""
    for end in ("", "-wal"):
        if path.with_name(path.name + end).exists():
            shutil.copy(path.with_name(path.name + end), to.with_name(to.name + end))
    return to


def go_on(case: Case, path: Path, before: Counter[str]) -> None:
    """A later run of the same, of another order, and with more items, gives what an undisturbed one would give."""
    items = case.items.copy()
    if case.seed % 3 == 0:
        Random(case.seed).shuffle(items)
    if case.seed % 3 == 1:
        items += case.items[:5]
    later = Case(case.seed)
    later.items = items
    later.check(later.play(path, items), later.expected())
    assert not Counter(later.executed) - (Counter(items) - before), "what was recorded ran again"
    assert recorded(path) == Counter(items)


@pytest.mark.parametrize("block", range(8))
def test_what_a_kill_at_any_step_leaves_is_gone_on_with(folder: Path, block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        case, chance = Case(seed), Random(seed)
        steps = 0

        def count(_: SimLoop, step: int) -> None:
            nonlocal steps
            steps = step

        case.check(case.play(folder / f"{seed}.db", case.items, count), case.expected())
        assert recorded(folder / f"{seed}.db") == Counter(case.items)
        for kill in sorted(chance.sample(range(1, steps + 1), min(3, steps))):
            path, copy = folder / f"{seed}-{kill}.db", folder / f"{seed}-{kill}-killed.db"
            seen: list[list[Any]] = []

            def take(_: SimLoop, step: int) -> None:
                if step == kill:  # noqa: B023
                    copied(path, copy)  # noqa: B023
                    seen.extend([case.executed.copy(), case.delivered.copy()])  # noqa: B023

            case.play(path, case.items, take)
            before = recorded(copy)
            executed, delivered = seen
            assert not before - Counter(executed), "a result was recorded that nobody returned"
            if case.durable:
                assert not Counter(result["item"] for result in delivered) - before, "handed out, and not recorded"
            go_on(case, copy, before)


@pytest.mark.parametrize("block", range(8))
def test_a_cancel_at_any_step_loses_nothing_that_was_completed(folder: Path, block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        case, chance = Case(seed), Random(seed)
        for cancel in sorted(chance.sample(range(1, 60), 4)):
            path = folder / f"{seed}-{cancel}.db"

            def stop(loop: SimLoop, step: int) -> None:
                if step == cancel:  # noqa: B023
                    main = next(task for task in asyncio.all_tasks(loop) if "_watch" in repr(task))
                    main.cancel()

            results = case.play(path, case.items, stop)
            before = recorded(path)
            assert before == Counter(case.executed)
            if results is not None:
                case.check(results, case.expected())
            go_on(case, path, before)
