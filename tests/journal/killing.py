"""Kills sittings with SIGKILL at random moments, and holds the journal against a log that does not pass through it.

    python -m tests.journal.killing --cycles 1000

Invariant: every check is against what happened (the log) or what must come out (the function's own definition), never
against the journal's word alone.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, Final, Self

from aiomap import Journal
from aiomap.journal import Record
from tests.journal.sitting import VERBS, Item, Job, Sitting, Stop, input_of, kind_of, value_of

__all__ = ["Nursery", "Totals", "Watch", "follow_until", "run_cycles"]

# At most so many results wait for the disk at any time.
MOST_LOST: Final = 10_000
LONGEST: Final = 60.0  # seconds for one sitting: it hangs
MOST_KILLS: Final = 12  # for one job


class Nursery:
    """A process with everything imported that forks a child for each sitting."""

    def __init__(self) -> None:
        here = Path(__file__).parents[2]
        path = [str(here / "src"), str(here)]
        program = f"import sys; sys.path[:0] = {path}; from tests.journal.sitting import serve; serve()"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # it is closed with this
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._errors.close()

    def start(self, sitting: Sitting) -> int:
        """The pid of the child that works on it; it is valid until `outcome`."""
        self._tell(json.dumps(sitting))
        return int(self._answer())

    def has_ended(self, wait: float) -> bool:
        """Whether the child is over, within so many seconds; once True it must not be asked again."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], wait)[0]:
            return False
        assert self._answer() == "ended"
        return True

    def outcome(self) -> int:
        """The exit code of a child that has ended, minus the signal if one killed it."""
        self._tell("")
        return int(self._answer())

    def errors(self) -> str:
        """What was written to standard error so far."""
        # Not read(): the children write where this handle stands.
        return os.pread(self._errors.fileno(), 100_000, 0).decode()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        assert line, self.errors()
        return line


@dataclass
class Log:
    """What a sitting's own log says, line by line as it grows."""

    path: Path
    read: int = 0
    rest: bytes = b""
    opened: bool = False
    completed: list[tuple[int, int]] = field(default_factory=list)  # number and time, in order
    started: Counter[int] = field(default_factory=Counter)
    delivered: Counter[int] = field(default_factory=Counter)

    def follow(self) -> None:
        """Takes in what was added."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.read)
                added = file.read()
        except FileNotFoundError:
            return
        self.read += len(added)
        *lines, self.rest = (self.rest + added).split(b"\n")
        for line in lines:
            what, _, number, moment = line.decode().split()
            if what == "opening":
                self.opened = True
            elif what == "started":
                self.started[int(number)] += 1
            elif what == "completed":
                self.completed.append((int(number), int(moment)))
            elif what == "delivered":
                self.delivered[int(number)] += 1

    def next_sitting(self) -> Log:
        """The same file, from here on."""
        return Log(self.path, self.read, self.rest)


@dataclass
class Totals:
    """What the kills of one verb came to. lost: completed and not in the journal afterwards, for each kill."""

    jobs: int = 0
    sittings: int = 0
    rows: int = 0
    lost: list[int] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)  # milliseconds, of the oldest that was lost
    running: list[int] = field(default_factory=list)
    moments: Counter[str] = field(default_factory=Counter)

    def add(self, other: Totals) -> None:
        """Takes those of another verb in."""
        self.jobs += other.jobs
        self.sittings += other.sittings
        self.rows += other.rows
        self.lost += other.lost
        self.ages += other.ages
        self.running += other.running
        self.moments += other.moments


class Watch:
    """One job: its sittings, and what is known of it so far."""

    def __init__(self, job: Job, folder: Path, totals: Totals) -> None:
        self.job, self.folder, self.totals = job, folder, totals
        self.path = folder / "run.db"
        self.sitting = -1
        self.rows = 0  # in the journal, after the last sitting
        self.records: list[Record] = []
        self.log = Log(folder / "log")
        self._names = dict(self._all_names())

    def next(self, stop: Stop | None = None, after: int = 0) -> Sitting:
        """The next sitting, to be started now; it stops itself after so many items."""
        self.sitting += 1
        self.input = [item["n"] for item in input_of(self.job, self.sitting)]
        self.log = self.log.next_sitting()
        asked = Counter(self.input)
        settled = Counter(number for number, record in self._settled() if record.occurrence < asked[number])
        self.missing = asked - settled
        return Sitting(self.job, self.sitting, str(self.folder), stop, after)

    def stopped(self, moment: int | None) -> int:
        """Everything that must hold after a sitting, however it ended; gives how many completed items were lost.

        moment: when it was killed, by the monotonic clock in nanoseconds; `None` if it was not.
        """
        self.log.follow()
        assert self.log.started <= self.missing, "something ran that the journal had already"
        before, old = self.rows, {(self._number(record), record.occurrence): record for record in self.records}
        if self.path.exists():
            report = Journal(self.path).check()
            assert report.ok, report.problems
            self.rows = report.rows
            self.records = list(Journal.read(self.path)) if self.rows else []
        new = self.records[len(self.records) - (self.rows - before) :]
        for record in new:
            self._check(record)
        self._check_old(old, new)
        recorded, completed = [self._number(record) for record in new], self.log.completed
        if moment is None:  # a failure that was caused by the stop says nothing about the item, and may be left out
            recorded = [number for number in recorded if kind_of(number) != "failed"]
            completed = [(number, when) for number, when in completed if kind_of(number) != "failed"]
        assert recorded == [number for number, _ in completed[: len(recorded)]], (
            "the journal does not hold what was completed first, in that order"
        )
        lost = completed[len(recorded) :]
        assert len(lost) <= MOST_LOST
        if moment is not None:
            self.totals.lost.append(len(lost))
            self.totals.ages.append((moment - lost[0][1]) / 1e6 if lost else 0.0)
            self.totals.running.append(self.log.started.total() - len(self.log.completed))
            self.totals.moments[self._moment()] += 1
        if self.job.verb == "durable stream":
            held = Counter(self._number(record) for record in self.records)
            assert self.log.delivered <= held, "something was delivered that is not on the disk"
        self.totals.sittings += 1
        return len(lost)

    def results(self) -> list[Any] | None:
        """What the last sitting gave, if it came so far."""
        try:
            results: list[Any] = json.loads((self.folder / f"results.{self.sitting}").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return results

    def check_results(self, results: list[Any]) -> bool:
        """The last sitting gave what an undisturbed run gives; whether it was one with the whole input."""
        assert self.log.started == self.missing, "not all that was missing ran, or not once"
        expected = list(self._expected())
        if self.job.verb in {"aimap unordered", "aoutcomes"}:
            expected, results = sorted(expected, key=json.dumps), sorted(results, key=json.dumps)
        assert results == expected
        return len(self.input) == self.job.size

    def _expected(self) -> Iterator[Any]:
        for index, item in enumerate(input_of(self.job, self.sitting)):
            number: int = item["n"]
            kind = kind_of(number)
            failure = {"kind": "Broken", "message": f"item {number} is broken"} if kind == "failed" else None
            value = value_of(number) if failure is None else None
            if kind == "skipped":
                continue
            if self.job.verb == "aoutcomes":
                yield [index, item, value, failure, 2 if kind == "flaky" else 1]
            else:
                yield failure or value

    def _check(self, record: Record) -> None:
        """A record of this sitting says what is true."""
        number = self._number(record)
        kind = kind_of(number)
        state = {"flaky": "done"}.get(kind, kind)
        assert record.state == state
        assert record.value == (value_of(number) if state == "done" else None)
        assert str(record.error).endswith(f"Broken: item {number} is broken") == (state == "failed")
        assert record.attempts == (2 if kind == "flaky" else 1)
        assert self.input[record.index] == number
        assert record.occurrence < self.input.count(number)

    def _check_old(self, old: dict[tuple[int, int], Record], new: list[Record]) -> None:
        """What was recorded stands there as it did, but for failures that ran again."""
        fresh = {(self._number(record), record.occurrence) for record in new}
        assert len(fresh) == len(new)
        for name in fresh & old.keys():
            assert self.job.retry_failed
            assert old[name].state == "failed"
        kept = {(self._number(record), record.occurrence): record for record in self.records}
        assert fresh | old.keys() == kept.keys()
        assert all(comparable(kept[name]) == comparable(old[name]) for name in old.keys() - fresh)

    def _settled(self) -> Iterator[tuple[int, Record]]:
        for record in self.records:
            if record.state != "failed" or not self.job.retry_failed:
                yield self._number(record), record

    def _moment(self) -> str:
        if not self.log.started:
            return "opening" if self.missing else "closing"
        return "running" if len(self.log.completed) < self.missing.total() else "closing"

    def _number(self, record: Record) -> int:
        return self._names[record.key]

    def _all_names(self) -> Iterator[tuple[str, int]]:
        """How the journal calls each item, by the definition of a key and not by our code for it."""
        for number in range(self.job.size):
            item: Item = {"n": number, "page": f"page {number} é"}
            text = json.dumps(item, sort_keys=True, separators=(",", ":"))
            yield (str(number) if self.job.keyed else blake2b(text.encode(), digest_size=16).hexdigest()), number


def comparable(record: Record) -> tuple[Any, ...]:
    """Two exceptions are never equal, but their texts may be."""
    times = record.attempts, record.started, record.elapsed
    return record.key, record.index, record.state, record.value, str(record.error), times


def follow_until(nursery: Nursery, log: Log, reached: Callable[[], bool]) -> bool:
    """Reads the log until then, or until the sitting is over; whether it is."""
    deadline = time.monotonic() + LONGEST
    while not reached():
        if nursery.has_ended(0.001):
            return True
        assert time.monotonic() < deadline, "the sitting hangs"
        log.follow()
    return False


def kill_while(nursery: Nursery, watch: Watch, random: Random) -> bool:
    """One sitting, killed at a random moment unless it is quicker; whether the job is done."""
    child = nursery.start(watch.next())
    log, missing = watch.log, watch.missing.total()
    # While it opens, after some of the items, or after the last of them; and then at any moment of a short while.
    moments = [(-1, 0.006), (0, 0.015), (0, 0.015), *[(random.randint(1, max(1, missing)), 0.02)] * 5, (missing, 0.006)]
    wanted, wait = random.choice(moments) if watch.sitting < MOST_KILLS else (missing + 1, 0.0)
    ended = wanted >= 0 and follow_until(nursery, log, lambda: log.opened and len(log.completed) >= wanted)
    ended = ended or nursery.has_ended(random.random() * wait)
    moment = time.monotonic_ns()
    if not ended:
        os.kill(child, signal.SIGKILL)
        assert nursery.has_ended(LONGEST)
    code = nursery.outcome()
    assert code in {0, -signal.SIGKILL}, f"the sitting failed with {code}: {nursery.errors()}"
    watch.stopped(moment if code else None)
    results = watch.results()
    return results is not None and watch.check_results(results)


def kill_until_done(nursery: Nursery, job: Job, folder: Path, totals: Totals, random: Random) -> None:
    """Sitting after sitting, until one with the whole input came to its end."""
    watch = Watch(job, folder, totals)
    while not kill_while(nursery, watch, random):
        pass
    totals.jobs += 1
    totals.rows += watch.rows


def run_cycles(nursery: Nursery, verb: str, kills: int, folder: Path, *, size: int, seed: int) -> Totals:
    """Jobs with that verb, one after the other, until there were so many kills."""
    totals, random = Totals(), Random(f"{verb} {seed}")
    for number in count():
        place = folder / f"{verb.replace(' ', '-')}-{number}"
        place.mkdir()
        job = Job(
            verb,
            size,
            concurrency=random.randint(10, 50),
            seed=random.randrange(10**9),
            keyed=bool(number % 2),
            retry_failed=bool(number // 2 % 2),
        )
        try:
            kill_until_done(nursery, job, place, totals, random)
        except BaseException as error:
            error.add_note(f"the job was {job}, in {place}")
            raise
        shutil.rmtree(place)
        if len(totals.lost) >= kills:
            return totals
    raise AssertionError


_COLUMNS: Final = "{:<16}{:>6}{:>6}{:>10}{:>9}{:>9}{:>9}{:>8}{:>8}{:>9}{:>8}{:>8}"


def main() -> None:
    """Prints a table. lost: completed and not recorded, at each kill; oldest: how long ago the first of them was."""
    parser = argparse.ArgumentParser(description="kill -9, again and again")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--size", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tell(f"Python {sys.version.split()[0]}, {options.size} items a job, seed {options.seed}")
    tell(_COLUMNS.format("", "", "", "", "killed", "when", "", "lost", "lost", "in", "oldest", "ms"))
    heads = ("verb", "kills", "jobs", "sittings", "opening", "running", "closing", "mean", "most", "flight")
    tell(_COLUMNS.format(*heads, "mean", "most"))
    everything = Totals()
    with tempfile.TemporaryDirectory() as folder, Nursery() as nursery:
        for verb in VERBS:
            kills = max(1, options.cycles // len(VERBS))
            totals = run_cycles(nursery, verb, kills, Path(folder), size=options.size, seed=options.seed)
            tell(line_of(verb, totals))
            everything.add(totals)
    tell(line_of("all", everything))
    late = sum(age > 200 for age in everything.ages)
    tell(f"{late} kills lost something that had been completed more than 200 ms before")
    tell(f"{everything.rows} rows in the journals at the end: none of them lost, wrong, or made twice")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def line_of(verb: str, totals: Totals) -> str:
    moments = totals.moments
    return _COLUMNS.format(
        *(verb, len(totals.lost), totals.jobs, totals.sittings),
        *(moments["opening"], moments["running"], moments["closing"]),
        *(f"{mean(totals.lost):.1f}", max(totals.lost), f"{mean(totals.running):.1f}"),
        *(f"{mean(totals.ages):.0f}", f"{max(totals.ages):.0f}"),
    )


if __name__ == "__main__":
    main()
