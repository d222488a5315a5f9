"""What the journal promises to whoever is killed, or stopped, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from aiomap import Journal, Retry, amap
from tests.journal.killing import LONGEST, Nursery, Totals, Watch, run_cycles
from tests.journal.sitting import VERBS, Job, Stop

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("verb", VERBS)
def test_after_a_kill_only_what_was_not_recorded_runs_again_and_the_end_is_the_same(
    nursery: Nursery, verb: str, tmp_path: Path
) -> None:
    totals = run_cycles(nursery, verb, 10, tmp_path, size=500, seed=1)
    assert len(totals.lost) >= 10
    assert totals.jobs


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("how", get_args(Stop))
def test_a_run_that_was_stopped_has_recorded_everything_that_was_completed(
    nursery: Nursery, verb: str, how: Stop, tmp_path: Path
) -> None:
    watch = Watch(Job(verb, 300, concurrency=10, seed=5, keyed=True, retry_failed=False), tmp_path, Totals())
    for _ in range(2):
        nursery.start(watch.next(how, after=20))
        end(nursery, watch)
        assert watch.results() is None
        assert len(watch.log.completed) >= 20
    nursery.start(watch.next())
    end(nursery, watch)
    results = watch.results()
    assert results is not None
    assert watch.check_results(results)


def end(nursery: Nursery, watch: Watch) -> None:
    """The sitting comes to an end by itself, and nothing that was completed in it runs again."""
    assert nursery.has_ended(LONGEST)
    assert nursery.outcome() == 0, nursery.errors()
    assert watch.stopped(None) == 0


@pytest.mark.parametrize("retry", [None, Retry(ConnectionError)])
def test_an_item_that_fails_because_the_run_is_stopped_is_not_recorded_as_a_failure(
    retry: Retry | None, tmp_path: Path
) -> None:
    async def main() -> None:
        running = asyncio.Event()

        async def fetch(_: int) -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError("the connection was closed") from None  # as some clients do

        task = asyncio.create_task(amap(fetch, [1], retry=retry, journal=tmp_path / "run.db"))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert list(Journal.read(tmp_path / "run.db")) == []
