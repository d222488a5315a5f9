"""What type checkers must infer. Checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Literal, assert_type

from aiomap import (
    SKIP,
    Journal,
    OnError,
    Outcome,
    RecordedFailure,
    Stats,
    Stream,
    Tolerate,
    aimap,
    amap,
    aoutcomes,
    in_process,
    in_thread,
    run,
)


async def fetch(link: str) -> bytes:
    return link.encode()


async def maybe(link: str) -> int:
    return len(link) if link else SKIP


def read(path: str) -> bytes:
    return path.encode()


def note(index: int, link: str) -> None:
    assert index >= 0, link.upper()


async def links() -> AsyncIterator[str]:
    yield "a"


async def lists(policy: OnError) -> None:
    assert_type(await amap(fetch, ["a"]), list[bytes])
    assert_type(await amap(fetch, links(), 10, -1, None), list[bytes])
    assert_type(await amap(fetch, ["a"], max_concurrent_tasks=3, callback=note), list[bytes])
    assert_type(await amap(fetch, ["a"], on_error="raise"), list[bytes])
    assert_type(await amap(fetch, ["a"], on_error="skip"), list[bytes])
    assert_type(await amap(fetch, ["a"], on_error="return"), list[bytes | Exception])
    assert_type(await amap(fetch, ["a"], on_error=Tolerate(0.1)), list[bytes | Exception])
    assert_type(await amap(maybe, ["a"]), list[int])
    assert_type(await amap(in_thread(read), ["a"]), list[bytes])
    assert_type(await amap(in_process(read), ["a"]), list[bytes])
    assert_type(await asyncio.create_task(amap(fetch, ["a"])), list[bytes])
    assert_type(asyncio.run(amap(fetch, ["a"])), list[bytes])
    assert_type(run(fetch, ["a"]), list[bytes])
    assert_type(run(fetch, ["a"], on_error="return"), list[bytes | Exception])
    politely = partial(amap, max_concurrent_tasks=2)
    await politely(fetch, ["a"])


async def streams() -> None:
    assert_type(aimap(fetch, ["a"]), Stream[bytes])
    assert_type(aimap(fetch, links(), ordered=False, buffer=3), Stream[bytes])
    assert_type(aimap(fetch, ["a"], on_error="return"), Stream[bytes | Exception])
    async with aimap(fetch, ["a"]) as pages:
        assert_type(pages, Stream[bytes])
        assert_type(pages.stats, Stats)
        pages.max_concurrent_tasks = 5
        async for page in pages:
            assert_type(page, bytes)
    async with aoutcomes(fetch, ["a"]) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Outcome[str, bytes])
            assert_type(outcome.item, str)
            assert_type(outcome.value, bytes | None)
            assert_type(outcome.error, Exception | None)


async def journals() -> None:
    assert_type(await amap(fetch, ["a"], journal="run.db"), list[bytes])
    assert_type(await amap(fetch, ["a"], journal=Path("run.db"), on_error="return"), list[bytes | Exception])
    assert_type(aimap(fetch, ["a"], journal=Journal("run.db", durable=True)), Stream[bytes])
    for record in Journal.read("run.db"):
        assert_type(record.state, Literal["done", "skipped", "failed"])
        assert_type(record.error, RecordedFailure | None)
    assert_type(Journal("run.db").check().problems, tuple[str, ...])
    assert_type(Journal("run.db").repair(into="new.db").rows, int)
    Journal("run.db", serializer="yaml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Journal("run.db", None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def mistakes() -> None:
    await amap(fetch, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await amap(fetch(""), ["a"])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await amap(["a"], fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await amap(read, ["a"])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await amap(fetch, ["a"], on_error="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await amap(links, ["a"])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
