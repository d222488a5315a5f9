"""Corners of the command line: what comes at a bad moment, and what users hand in that nobody expects."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from aiomap.cli import job as job_module
from aiomap.cli.function import load_function
from aiomap.cli.job import Job
from aiomap.cli.output import WriteFailed
from aiomap.cli.outputs import StreamedOutput
from aiomap.cli.plan import Stop
from aiomap.cli.sitting import _logged
from aiomap.inputs import Entry
from tests.test_job import (
    FakeOutput,
    Sitting,
    _handlers_as_they_were,  # noqa: F401  (used by every test here)
    entries,
    fail,
    forever,
    more_than,
    press,
    sat,
)
from tests.test_look import Failure, job, running, told

JOB = """
class Client:
    async def __call__(self, item):
        return item

async def pieces(item):
    yield item

def __getattr__(name):
    raise RuntimeError("it is lazy")
"""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of functions; what loading it adds to Python's state is gone afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "corner_job.py"
    file.write_text(JOB)
    yield file
    sys.modules.pop(file.stem, None)


async def with_setup(item: str, _: None) -> str:
    return item


async def some_turns() -> None:
    """The loop does what it has been asked to do meanwhile."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_run_whose_last_items_make_it_hopeless_is_halted() -> None:
    sitting = sat(fail, 3, max_concurrent_tasks=3, halt=more_than(0))
    assert (sitting.job.stop, sitting.output.finished, len(sitting.output.outcomes)) == (Stop.HALTED, [False], 3)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_was_taken_is_written_when_an_item_ends_the_program(kind: type[BaseException]) -> None:
    async def call(item: str) -> str:
        if item == "item 3":
            raise kind
        return item

    sitting = Sitting(call, max_concurrent_tasks=1)
    with pytest.raises(kind):
        sitting.run()
    assert sitting.output.indexes == [0, 1, 2]


def test_what_was_taken_is_written_when_the_input_breaks() -> None:
    async def call(item: str) -> str:
        return item

    def records() -> Iterator[Entry]:
        yield from entries(3)
        raise LookupError

    sitting = Sitting(call, max_concurrent_tasks=1)
    screen: Any = sitting.screen
    with pytest.raises(LookupError):
        Job(replace(sitting.plan, entries=records()), sitting.output, screen).run()
    assert sitting.output.indexes == [0, 1, 2]


def test_a_setup_that_swallows_errors_does_not_hide_that_the_output_broke() -> None:
    @asynccontextmanager
    async def setup() -> AsyncGenerator[None]:
        with suppress(Exception):
            yield

    with pytest.raises(WriteFailed):
        Sitting(with_setup, output=FakeOutput(break_at=0), setup=setup).run()


def test_ctrl_c_while_the_setup_is_entered_starts_nothing() -> None:
    started: list[str] = []

    @asynccontextmanager
    async def setup() -> AsyncGenerator[None]:
        press(signal.SIGINT)
        await some_turns()
        yield

    async def call(item: str, _: None) -> None:
        started.append(item)

    sitting = Sitting(call, setup=setup, max_concurrent_tasks=1)
    sitting.run()
    assert (started, sitting.job.stop) == ([], Stop.INTERRUPTED)


def test_sigusr1_while_the_setup_is_entered_is_no_error() -> None:
    errors: list[dict[str, Any]] = []

    @asynccontextmanager
    async def setup() -> AsyncGenerator[None]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        press(signal.SIGUSR1)
        await some_turns()
        yield

    sitting = Sitting(with_setup, setup=setup).run()
    assert (errors, sitting.output.finished) == ([], [True])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_all_is_written_does_not_unfinish_it(number: signal.Signals) -> None:
    @asynccontextmanager
    async def setup() -> AsyncGenerator[None]:
        yield
        press(number)
        await some_turns()

    sitting = Sitting(with_setup, setup=setup).run()
    assert (sitting.output.finished, sitting.job.stop) == ([True], None)


def test_the_time_is_not_up_any_more_when_all_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def setup() -> AsyncGenerator[None]:
        yield
        loop = asyncio.get_running_loop()
        late = loop.time() + 2e6
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: late)
            await some_turns()

    sitting = Sitting(with_setup, setup=setup, max_time=1e6).run()
    assert (sitting.output.finished, sitting.job.stop) == ([True], None)


def test_a_failure_without_a_text_is_just_that_items_failure() -> None:
    async def call(_: str) -> None:
        raise Mute

    sitting = sat(call, 3)
    assert (sitting.job.failed, sitting.output.finished) == (3, [True])


@pytest.mark.parametrize("value", [b"x", float("nan"), {1}, (1,)], ids=["bytes", "nan", "set", "tuple"])
def test_a_value_that_is_no_json_is_that_items_failure_on_standard_output(value: object) -> None:
    async def call(item: str) -> object:
        return value if item == "item 1" else item

    reader, writer = os.pipe()
    output, sitting = StreamedOutput(writer), Sitting(call, 3)
    screen: Any = sitting.screen
    told_of = Job(sitting.plan, output, screen)
    try:
        told_of.run()
    finally:
        output.close()
        with os.fdopen(reader) as file:
            lines = [json.loads(line) for line in file]
    assert (told_of.failed, sorted(line["index"] for line in lines)) == (1, [0, 2])


def test_sigterm_while_it_drains_has_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_GRACE", 0.0)

    async def call(item: str) -> None:
        press(signal.SIGINT)
        await sitting.screen.until("draining")
        press(signal.SIGTERM)
        await forever(item)

    sitting = Sitting(call, max_concurrent_tasks=1)
    sitting.run()
    assert (sitting.screen.views[-1].state, sitting.job.stop) == ("cancelling", Stop.INTERRUPTED)


def test_ctrl_c_cancels_what_the_end_of_the_time_drains() -> None:
    async def call(item: str) -> None:
        await sitting.screen.until("draining")
        press(signal.SIGINT)
        await forever(item)

    sitting = Sitting(call, 1, max_concurrent_tasks=1, max_time=0.0)
    sitting.run()
    assert (sitting.screen.views[-1].state, sitting.job.stop) == ("cancelling", Stop.OUT_OF_TIME)


def test_a_class_whose_instances_are_async_is_no_async_function(module: Path) -> None:
    with pytest.raises(click.BadParameter, match="Client is not async"):
        load_function(f"{module}:Client", in_thread=False)


def test_an_async_generator_is_no_blocking_function(module: Path) -> None:
    with pytest.raises(click.BadParameter, match="pieces has a `yield`"):
        load_function(f"{module}:pieces", in_thread=True)


def test_what_a_module_raises_when_it_is_asked_for_a_name_is_a_sentence(module: Path) -> None:
    with pytest.raises(click.BadParameter, match=r"nothing cannot be had \(RuntimeError: it is lazy\)"):
        load_function(f"{module}:nothing", in_thread=True)


def test_the_command_to_run_them_again_can_be_pasted(tmp_path: Path) -> None:
    output = job(tmp_path, [Failure("x", "$(touch pwned); a")])
    assert told("errors", output).lines[-1].endswith("--retry-failed '$(touch pwned); a'")


def test_the_key_of_a_failure_is_json_and_no_text_of_json(tmp_path: Path) -> None:
    output = job(tmp_path, [ValueError("x")], ["k"])
    assert json.loads(told("errors", output, "--json").out)["key"] == "k"


def test_a_key_that_is_a_link_shows_no_secret(tmp_path: Path) -> None:
    output = job(tmp_path, [ValueError("x")], ["http://me:hush@h/?token=hush"])
    assert "hush" not in told("errors", output).out


def test_check_while_a_run_is_on_takes_an_out_that_is_behind_for_right(tmp_path: Path) -> None:
    output = job(tmp_path, ["a", "b", "c"])
    output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:2]))
    with running(output):
        assert told("check", output).code == 0


def test_what_the_library_warns_of_is_told_once_and_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    screen: Any = SimpleNamespace(say=said.append)
    log = logging.getLogger("aiomap.journal")
    with _logged(screen):
        log.warning("of %s", "http://me:pw@host/")
    assert said == ["aiomap: of http://***@host/"]
    assert caplog.text == ""
    log.warning("after it, as before")
    assert "as before" in caplog.text
