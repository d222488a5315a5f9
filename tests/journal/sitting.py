"""One sitting of a job that others kill: a map with a journal that logs every call of its function beside it.

Invariant: the log does not pass through the journal, nor through a buffer. What is in it has happened.

`serve` forks a child for each sitting, so that a kill costs no start of an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from zlib import crc32

from aiomap import SKIP, Journal, Outcome, RecordedFailure, Retry, aimap, amap, aoutcomes, current

__all__ = ["VERBS", "Job", "Sitting", "Stop", "answer", "input_of", "kind_of", "serve", "value_of"]

VERBS: Final = ("amap", "aimap ordered", "aimap unordered", "aoutcomes", "durable stream")

Item = dict[str, Any]


Stop: TypeAlias = Literal["Ctrl-C", "a cancel"]


class Job(NamedTuple):
    """What is to be done, in as many sittings as it takes."""

    verb: str
    size: int
    concurrency: int
    seed: int
    keyed: bool
    retry_failed: bool


class Sitting(NamedTuple):
    """One process's work on it. stop: how it stops itself, after so many items; `None`: it does not."""

    job: Job
    number: int
    folder: str
    stop: Stop | None
    after: int


class Flaky(Exception):
    """Is tried again."""


class Broken(Exception):
    """Is final."""


def dice(number: int, what: str, sides: int) -> int:
    """The same on every machine and in every process."""
    return crc32(f"{number} {what}".encode()) % sides


def input_of(job: Job, number: int) -> list[Item]:
    """The input of that sitting: some items are equal, the first two sittings lack some, and each third is shuffled."""
    random = Random(job.seed)
    numbers = list(range(job.size))
    for place in range(1, job.size):
        if random.random() < 0.1:
            numbers[place] = numbers[random.randrange(place)]
    if number < 2:
        del numbers[job.size * 7 // 10 :]
    if number % 3 == 2:
        Random(job.seed + number).shuffle(numbers)
    return [{"n": each, "page": f"page {each} é"} for each in numbers]


def kind_of(number: int) -> str:
    """What becomes of the items with that number."""
    return {0: "skipped", 1: "flaky", 2: "failed"}.get(dice(number, "kind", 20), "done")


def value_of(number: int) -> Item:
    """The result for the items with that number: some of it large."""
    size = dice(number, "size", 300) if dice(number, "large", 40) else dice(number, "size", 50_000)
    return {"n": number, "third": number / 3, "text": f"{'aé漢😀'[dice(number, 'letter', 4)] * size}"}


@dataclass
class Present:
    """The sitting of this process. The mapped function is given nothing but its item."""

    log: int = -1
    number: int = 0
    left: int = 0  # items until it stops itself
    stop: Callable[[], object] | None = None

    def count(self) -> None:
        self.left -= 1
        if self.stop is not None and not self.left:
            asyncio.get_running_loop().call_soon(self.stop)


present: Final = Present()


def log(what: str, number: int = -1) -> None:
    os.write(present.log, f"{what} {present.number} {number} {time.monotonic_ns()}\n".encode())


async def answer(item: Item) -> Any:
    """The mapped function: 0 to 5 ms, a third of the items at once."""
    number: int = item["n"]

    def finished() -> None:
        log("completed", number)
        present.count()

    log("started" if current().attempt == 1 else "again", number)
    milliseconds = max(0, dice(number, "time", 9) - 3)
    if milliseconds:
        await asyncio.sleep(milliseconds / 1000)
    kind = kind_of(number)
    if kind == "flaky" and current().attempt == 1:
        raise Flaky(f"item {number} is not there yet")
    finished()
    if kind == "failed":
        raise Broken(f"item {number} is broken")
    return SKIP if kind == "skipped" else value_of(number)


def number_of(item: Item) -> int:
    number: int = item["n"]
    return number


def shown(value: Any) -> Any:
    """As JSON, a failure by its type and text: one that an earlier sitting recorded looks like a new one."""
    if isinstance(value, Outcome):
        return [value.index, value.item, shown(value.value), shown(value.error), value.attempts]
    if isinstance(value, RecordedFailure):
        return {"kind": value.type_name.rpartition(".")[2], "message": value.message}
    if isinstance(value, Exception):
        return {"kind": type(value).__name__, "message": str(value)}
    return value


def number_in(delivered: Any) -> int:
    if isinstance(delivered, Outcome):
        return number_of(delivered.item)
    return int(shown(delivered)["message"].split()[1]) if isinstance(delivered, Exception) else number_of(delivered)


async def results_of(sitting: Sitting) -> list[Any]:
    """Runs the map, and gives what comes out of it."""
    job = sitting.job
    journal = Journal(
        f"{sitting.folder}/run.db",
        key=number_of if job.keyed else None,
        retry_failed=job.retry_failed,
        durable=job.verb == "durable stream",
    )
    items = input_of(job, sitting.number)
    retry = Retry(Flaky, attempts=2, base=0.002, budget=None)
    if job.verb == "amap":
        return await amap(answer, items, job.concurrency, on_error="return", retry=retry, journal=journal)
    if job.verb == "aoutcomes":
        stream: Any = aoutcomes(answer, items, job.concurrency, retry=retry, journal=journal)
    else:
        ordered = job.verb != "aimap unordered"
        stream = aimap(answer, items, job.concurrency, ordered=ordered, on_error="return", retry=retry, journal=journal)
    results: list[Any] = []
    async with stream:
        async for value in stream:
            log("delivered", number_in(value))
            results.append(value)
    return results


async def hold(sitting: Sitting) -> str:
    task = asyncio.create_task(results_of(sitting))
    ways: dict[Stop | None, Callable[[], object]] = {
        "Ctrl-C": lambda: os.kill(os.getpid(), signal.SIGINT),
        "a cancel": task.cancel,
    }
    present.left, present.stop = sitting.after, ways.get(sitting.stop)
    return json.dumps([shown(result) for result in await task])


def sit(sitting: Sitting) -> None:
    """Runs it to its end, or to a Ctrl-C or cancel."""
    present.log = os.open(f"{sitting.folder}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    present.number = sitting.number
    log("opening")
    try:
        results = asyncio.run(hold(sitting))
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        log(f"stopped_by_{type(stop).__name__}")
        return
    file = Path(f"{sitting.folder}/results.{sitting.number}")
    draft = file.with_suffix(".part")
    draft.write_text(results, encoding="utf-8")
    draft.replace(file)


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def serve() -> None:
    """For each line of standard input a sitting in a child.

    Says the child's pid, then "ended", then, when it was told so by another line, how: until then the pid stays taken.
    """
    for line in sys.stdin:
        job, *rest = json.loads(line)
        child = os.fork()
        if not child:
            sys.stdin.close()
            status = 1
            try:
                sit(Sitting(Job(*job), *rest))
                status = 0
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                sys.stderr.flush()
                os._exit(status)
        say(child)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        say("ended")
        sys.stdin.readline()
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
