"""The screen of the command line: what is drawn while a sitting runs, and what is said at its end."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shlex
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from aiomap import Stats
from aiomap.cli.screen import Screen
from aiomap.cli.tally import OTHERS, Tally
from aiomap.cli.view import State, View, block, end, line
from aiomap.cli.words import cut, duration, latency

pytestmark = pytest.mark.once

# Thu 26 Nov 2026, 14:26:45 UTC
CLOCK = 1795703205.0

HOSTILE = [
    "\x1b[2J\x1b[H\x1b]0;title\x07",
    "\x9b2J\x90q\x9c",
    "one\ntwo\r\nthree\r\x0b\x0c\x85\u2028\u2029",
    "\u202eright to left\u2066\u2067\u200f",
    "zero\u200b\u200d\ufeffwidth",
    "日本語" * 200,
    "e" + "\u0301" * 500,
    "x" * 10_000,
    "\ud800\udfff\x00\x08\x7f",
    "👩‍👩‍👧" * 100,
    "",
    " ",
]


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def stats(**counts: int) -> Stats:
    none = dict.fromkeys(("pulled", "running", "waiting", "retrying", "done", "failed", "skipped", "cancelled"), 0)
    return Stats(**{**none, "recorded": 0, "buffered": 0, **counts}, slot_seconds={})


def spent(**slot_seconds: float) -> dict[str, float]:
    names = ("function", "source", "limit", "gate", "backoff", "consumer", "idle")
    return {name: slot_seconds.get(name, 0.0) for name in names}


def half_way() -> View:
    """A sitting of five minutes that goes at 200 items a second."""
    tally = Tally()
    for number in range(1, 101):
        tally.add_success(number / 100, attempts=1)
    for kind, count in (("http_4xx", 121), ("timeout", 51), ("dns", 42), ("tls", 1)):
        for _ in range(count):
            tally.add_failure(kind, "line 17", "404 Not Found", 0.5, attempts=2)
    for second in range(0, 301, 10):
        at = replace(stats(done=200 * second), slot_seconds=spent(function=40.0 * second, limit=24.0 * second))
        tally.look(float(second), at)
    now = replace(
        stats(done=59_785, failed=215, recorded=10_000, running=64, retrying=9),
        slot_seconds=spent(function=12_000, limit=7_200),
    )
    return View(now, 64, 100_000, 300.0, tally, "running", CLOCK)


def cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


# The block.


def test_the_block_says_how_far_how_fast_and_what_it_waits_for() -> None:
    first, second, third = block(half_way(), 120)
    assert (
        first.split()
        == (
            "70.0% "
            + first.split()[1]
            + " 70,000/100,000 ok 59,785 failed 215 earlier 10,000 in flight 64/64 retrying 9"
        ).split()
    )
    assert second == "200/s now · 200/s on average · p50 500 ms, p95 850 ms · ETA 2m 30s (14:29)"
    assert third == "waiting for the function · errors: http_4xx ×121 · timeout ×51 · dns ×42"  # noqa: RUF001


def test_the_bar_is_as_long_as_the_part_that_is_done_and_full_only_when_all_is() -> None:
    view = half_way()
    bar = re.search("[━╸]+ *", block(view, 200)[0])
    assert bar is not None
    whole = len(bar[0]) - 2  # two cells of a gap
    assert bar[0].count("━") == int(0.7 * whole)
    assert " 99.9%" in block(replace(view, total=70_001), 120)[0]
    assert "100.0%" in block(replace(view, total=70_000), 120)[0]


def test_nothing_breaks_if_the_input_is_empty_or_has_grown_or_nobody_knows_how_long_it_is() -> None:
    view = half_way()
    assert "100.0%" in block(replace(view, total=0, stats=stats()), 80)[0]
    assert "100.0%" in block(replace(view, total=5), 80)[0]
    first, second, _ = block(replace(view, total=None), 80)
    assert first.startswith("70,000 items")
    assert "%" not in first
    assert "ETA" not in second
    assert "total" not in line(replace(view, total=None))
    assert "eta" not in line(replace(view, total=None))


@pytest.mark.parametrize("state", ["running", "draining", "cancelling"])
def test_the_block_has_three_lines_at_any_width_and_none_is_wider(state: State) -> None:
    view = replace(half_way(), state=state)
    for width in [*range(1, 130), 200, 500]:
        lines = block(view, width)
        assert len(lines) == 3
        assert all(cells(text) <= width for text in lines)


def test_where_there_is_little_room_what_matters_most_stays() -> None:
    narrow = block(half_way(), 22)
    assert narrow == [" 70.0%  70,000/100,000", "200/s now", "waiting for the funct…"]
    assert "failed 215" in block(half_way(), 50)[0]
    assert "━" in block(half_way(), 40)[0]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [1, 2, 20, 80])
def test_foreign_text_moves_no_cursor_and_takes_no_more_than_its_cells(text: str, width: int) -> None:
    view = half_way()
    view.tally.failed.clear()
    for _ in range(9):
        view.tally.add_failure(text, text, text, 1.0, attempts=1)
    drawn = [*block(view, width), cut(text, width)]
    assert all(text.isprintable() and cells(text) <= width for text in drawn)
    assert line(view).isprintable()
    said = end(view, text, [text], text, width=100).split("\n")
    assert all(text.isprintable() for text in said)


def test_a_text_is_cut_to_the_cells_and_not_to_the_characters() -> None:
    assert cut("日本語", 6) == "日本語"
    assert cut("日本語", 5) == "日本…"
    assert cut("abc", 0) == ""


def test_no_secret_is_shown_even_if_it_is_longer_than_what_is_kept_of_it() -> None:
    secret = "https://me:" + "hunter2" * 100 + "@host/?token=" + "hunter2" * 100
    view = half_way()
    view.tally.failed.clear()
    view.tally.add_failure("x", "line 1", f"failed: {secret}", 1.0, attempts=1)
    shown = end(view, secret, [], None) + cut(secret, 40)
    assert "hunter2" not in shown
    assert shown.count("https://***@host/?token=***") == 3


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("function", "waiting for the function"),
        ("limit", "waiting for a limit"),
        ("gate", "waiting: a pause to spare the remote"),
        ("backoff", "waiting for retries"),
        ("source", "waiting for the input"),
        ("consumer", "waiting for the output"),
        ("idle", "waiting for nothing: the last items are running"),
    ],
)
def test_what_it_waits_for_is_where_most_time_of_the_slots_went_lately(why: str, words: str) -> None:
    tally = Tally()
    view = replace(half_way(), tally=tally)
    assert block(view, 80)[2] == "starting"
    long_ago = spent(function=1e6) if why != "function" else spent(limit=1e6)
    tally.look(1000.0, replace(stats(), slot_seconds=long_ago))
    tally.look(1020.0, replace(stats(), slot_seconds={**long_ago, why: 300.0}))
    assert block(view, 80)[2] == words
    assert f" wait={why}" in line(view)


def test_the_end_of_a_pause_to_spare_the_remote_is_shown() -> None:
    tally = Tally()
    tally.look(1.0, replace(stats(), slot_seconds=spent(gate=5.0)))
    view = replace(half_way(), tally=tally, gate_until=CLOCK + 14)
    assert block(view, 80)[2] == "waiting: a pause to spare the remote until 14:26:59"


def test_once_it_stops_the_screen_says_so_and_what_one_more_interrupt_does() -> None:
    draining = block(replace(half_way(), state="draining", ages=[90.0]), 120)
    assert draining[2].startswith("stopping: what is done is safe, 64 in flight will finish; Ctrl-C again cancels")
    assert draining[1].endswith("tail: 1 item runs for more than 60 s")
    assert "ETA" not in draining[1]
    cancelling = block(replace(half_way(), state="cancelling"), 120)
    assert cancelling[2].startswith("cancelling 64 in flight; Ctrl-C again ends the process at once")


def test_the_last_items_have_no_eta_but_the_number_of_slow_ones() -> None:
    view = replace(half_way(), total=70_127, ages=[61.0] * 12 + [1.0] * 50)
    assert block(view, 120)[1].endswith("tail: 12 items run for more than 60 s")
    assert block(replace(view, ages=[3601.0, 61.0]), 120)[1].endswith("tail: 1 item runs for more than an hour")
    assert block(replace(view, ages=[]), 120)[1].endswith("tail: 127 items left")
    assert "ETA" in block(replace(view, total=70_128), 120)[1]
    assert block(replace(view, total=70_000), 120)[1].endswith("p95 850 ms")


def test_the_eta_comes_from_this_sitting_alone_and_from_its_last_minutes() -> None:
    tally = Tally()
    for second in range(0, 3601, 10):  # fast at first, then ten a second
        tally.look(float(second), stats(done=min(second, 3000) * 1000 + max(0, second - 3000) * 10, recorded=500_000))
    view = View(stats(done=3_006_000, recorded=500_000), 10, 3_512_000, 3600.0, tally, "running", CLOCK)
    assert view.eta == pytest.approx(600)
    assert "ETA 10m 00s (14:36)" in block(view, 120)[1]
    assert "10/s now · 835/s on average" in block(view, 120)[1]


def test_an_eta_of_another_day_says_which() -> None:
    view = half_way()
    assert "(Sat 07:20)" in block(replace(view, total=70_000 + 200 * 147_200), 120)[1]
    assert "(2026-12-08)" in block(replace(view, total=70_000 + 200 * 1_000_000), 120)[1]
    assert "(never)" in block(replace(view, total=10**30), 200)[1]
    assert "ETA unknown" in block(replace(view, tally=Tally()), 120)[1]


def test_rates_below_one_a_second_are_told_by_the_minute_or_the_hour() -> None:
    tally = Tally()
    tally.look(100.0, stats(done=5))
    slow = View(stats(done=5), 10, None, 100.0, tally, "running", CLOCK)
    assert block(slow, 80)[1] == "3/min now · 3/min on average"
    assert block(replace(slow, seconds=1000.0, stats=stats(done=2)), 80)[1].endswith("7.2/h on average")
    assert block(replace(slow, seconds=0.001, stats=stats(done=1234)), 80)[1].endswith("1,230,000/s on average")


def test_times_are_told_in_the_unit_that_suits_them() -> None:
    assert [duration(s) for s in (0, 59.9, 60, 3599, 3600, 86_399, 86_400)] == (
        ["0s", "59s", "1m 00s", "59m 59s", "1h 00m", "23h 59m", "1d 0h"]
    )
    assert [latency(s) for s in (0.00002, 0.0042, 0.214, 1.94, 59.4, 60)] == (
        ["0.02 ms", "4.2 ms", "210 ms", "1.9 s", "59 s", "1m 00s"]
    )


# The line.


def test_the_line_can_be_split_by_a_shell_into_keys_and_values() -> None:
    text = line(half_way())
    assert text == (
        "aiomap t=300 state=running done=70000 total=100000 ok=59785 failed=215 skipped=0 recorded=10000 running=64 "
        "limit=64 retrying=9 rate=200.000 average=200.000 p50=0.5000 p95=0.8535 eta=150 wait=function "
        "errors=http_4xx:121,timeout:51,dns:42"
    )


def test_the_line_says_how_it_ended_whatever_it_did_before() -> None:
    assert " state=halted " in line(replace(half_way(), state="cancelling", ended="halted"))


def test_a_value_of_the_line_with_a_space_in_it_is_quoted() -> None:
    view = half_way()
    view.tally.failed.clear()
    view.tally.add_failure('my "own" error=1\n', "line 1", "", 1.0, attempts=1)
    assert shlex.split(line(view))[-1] == 'errors=my "own" error=1�:1'


# The end.


def test_a_total_that_was_concluded_is_marked_as_such() -> None:
    view = replace(half_way(), is_sure=False)
    assert "70,000/~100,000" in block(view, 120)[0]
    assert "total_about=100000" in line(view)
    assert "total=" not in line(view)
    assert "~30,000" in end(view, "stopped", [], None)
    assert " 99.9%" in block(replace(view, total=70_000), 120)[0]


def test_at_the_end_stand_counts_classes_speed_latencies_slots_files_and_the_next_command() -> None:
    view = replace(half_way(), total=70_100)
    view.tally.add_failure("dns", "line 9", "no such host", 3.0, attempts=1)
    view = replace(view, stats=replace(view.stats, skipped=3, cancelled=60))
    files = ["out.jsonl (69,785 lines)", "out.failed.jsonl (215 lines)"]
    text = end(view, "stopped by Ctrl-C", files, "aiomap errors out.jsonl")
    assert text == (
        "aiomap: stopped by Ctrl-C · 60,003 items in 5m 00s, 200/s\n"
        "  ok             59,785\n"
        "  failed            215\n"
        "    http_4xx        121   line 17: 404 Not Found\n"
        "    timeout          51   line 17: 404 Not Found\n"
        "    dns              43   line 17: 404 Not Found\n"
        "    tls               1   line 17: 404 Not Found\n"
        "  skipped             3\n"
        "  cancelled          60\n"
        "  earlier        10,000\n"
        "  not done           37\n"
        "  retries           215\n"
        "  latency   p50 500 ms, p90 700 ms, p99 980 ms, longest 3 s\n"
        "  slots     the function 62 %, limits 38 %\n"
        "  files     out.jsonl (69,785 lines)\n"
        "            out.failed.jsonl (215 lines)\n"
        "  next      aiomap errors out.jsonl"
    )


def test_the_end_of_a_sitting_in_which_nothing_happened_is_short() -> None:
    view = View(stats(), 10, 0, 0.0, Tally(), "running", CLOCK)
    assert end(view, "finished", [], None) == (
        "aiomap: finished · 0 items in 0 ms, 0/s\n  ok                  0\n  failed              0"
    )


def test_failures_of_earlier_sittings_are_told_apart_from_what_is_done() -> None:
    view = replace(half_way(), recorded_failed=1006)
    assert "  earlier        10,000 (1,006 of them failed)\n" in end(view, "finished", [], None)
    assert " recorded=10000 recorded_failed=1006 " in line(view)
    assert "recorded_failed" not in line(half_way())


def test_an_example_whose_message_says_where_it_was_says_it_once() -> None:
    view = half_way()
    view.tally.add_failure("bad_input", "", "line 7 of in.jsonl: not JSON", 0.0, attempts=1)
    assert "\n    bad_input         1   line 7 of in.jsonl: not JSON\n" in end(view, "finished", [], None)


def test_a_line_of_the_end_is_cut_to_the_width_but_the_next_command_is_not() -> None:
    view = half_way()
    view.tally.failed.clear()
    view.tally.add_failure("evil", "line 1", "日本語" * 99, 1.0, attempts=1)
    command = f"aiomap errors {'long/' * 50}out.jsonl"
    said = end(view, "finished", [], command, width=60).split("\n")
    assert all(59 <= cells(text) <= 60 for text in said if "evil" in text)
    assert said[-1] == f"  next      {command}"


# The tally.


def test_percentiles_are_right_to_one_percent_and_memory_does_not_grow() -> None:
    tally = Tally()
    for number in range(100_000):
        tally.add_success((number + 1) / 1000, attempts=1)
    for percent in (1, 50, 90, 99):
        assert tally.percentile(percent / 100) == pytest.approx(percent, rel=0.0101)
    tally.add_success(0.5, attempts=1)
    assert tally.longest == 100.0
    assert len(tally._latencies) < 1000
    pair = Tally()
    pair.add_success(1.0, attempts=1)
    pair.add_success(100.0, attempts=1)
    assert pair.percentile(0.5) == pytest.approx(1.0, rel=0.01), "half of them did not exceed it"
    assert Tally().percentile(0.5) == 0.0
    assert not Tally().timed


def test_an_item_that_was_never_called_for_has_no_latency() -> None:
    tally = Tally()
    tally.add_failure("bad_input", "line 3", "no JSON", 0.0, attempts=1)
    assert not tally.timed
    assert tally.failed["bad_input"] == 1


def test_of_endless_classes_of_failures_only_the_first_hundred_are_kept() -> None:
    tally = Tally()
    for number in range(1000):
        tally.add_failure(f"Error{number}", "line 1", "x" * 10_000, 1.0, attempts=1)
    assert len(tally.failed) == 101
    assert tally.failed[OTHERS] == 900
    assert all(len(example.message) <= 300 for example in tally.examples.values())
    view = View(stats(failed=1000), 10, None, 1.0, tally, "running", CLOCK)
    assert "    and 89 more classes" in end(view, "finished", [], None).split("\n")


def test_the_rate_now_is_that_of_the_last_ten_seconds_however_often_one_looks() -> None:
    tally = Tally()
    for tenth in range(1000):
        tally.look(tenth / 10, stats(done=tenth))
    for tenth in range(1000, 1120):
        tally.look(tenth / 10, stats(done=1000 + 10 * (tenth - 1000)))
    assert tally.rate_now == pytest.approx(100, rel=0.01)
    assert tally.rate_lately < 30
    assert len(tally._now._looks) < 30
    assert Tally().rate_now == 0.0


# The screen.


class Glass:
    """What a terminal shows of what is written to it."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows = [""]
        self.row = self.column = 0
        self.wraps = True

    def feed(self, text: str) -> None:
        for sent in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x00-\x1f]+", text):
            self._take(sent)

    def _take(self, sent: str) -> None:
        if sent == "\r":
            self.column = 0
        elif sent == "\n":
            self.row, self.column = self.row + 1, 0
            self.rows += [""] * (self.row + 1 - len(self.rows))
        elif sent == "\x1b[K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif sent == "\x1b[J":
            assert self.row > self.top(), "tmux would keep the whole page"
            self.rows[self.row :] = [self.rows[self.row][: self.column]]
        elif up := re.fullmatch(r"\x1b\[(\d*)A", sent):
            self.row = max(self.top(), self.row - int(up[1] or 1))
        elif sent in {"\x1b[?7l", "\x1b[?7h"}:
            self.wraps = sent.endswith("h")
        elif not sent.endswith("m"):
            self._write(sent)

    def _write(self, text: str) -> None:
        assert "\x1b" not in text
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + text + row[self.column + len(text) :]
        self.column += len(text)
        assert self.column <= self.width

    def top(self) -> int:
        return max(0, len(self.rows) - self.height)

    def shown(self) -> list[str]:
        """The rows down to the last that is not blank."""
        rows = [row.rstrip() for row in self.rows]
        return rows[: max((number for number, row in enumerate(rows, 1) if row), default=0)]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def __init__(self, glass: Glass) -> None:
        super().__init__()
        self.glass = glass
        self.raw = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.raw += text
        self.glass.feed(text)
        return len(text)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("aiomap.cli.screen.time.monotonic", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Terminal:
    terminal = Terminal(Glass(80, 24))
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((terminal.glass.width, 24)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return terminal


@contextmanager
def screen_on(stream: TextIO | None, *, quiet: bool = False) -> Iterator[Screen]:
    """A screen while stderr is the stream; it must leave stderr as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        try:
            with Screen(quiet=quiet) as screen:
                yield screen
        finally:
            assert sys.stderr is stream


def drawn(width: int = 80) -> list[str]:
    return ["", *(text.rstrip() for text in block(half_way(), width))]


def test_on_a_terminal_the_block_is_drawn_in_place_and_gone_in_the_end(terminal: Terminal, clock: Clock) -> None:
    terminal.write("$ aiomap run\n")
    with screen_on(terminal) as screen:
        for _ in range(5):
            screen.show(half_way())
            clock.now += 1
            assert terminal.glass.shown() == ["$ aiomap run", *drawn()]
            assert (terminal.glass.row, terminal.glass.column) == (1, 0)
    assert terminal.glass.shown() == ["$ aiomap run"]
    assert terminal.glass.row == 1
    assert terminal.glass.wraps


def test_it_draws_at_most_ten_times_a_second_and_at_once_when_the_state_changes(
    terminal: Terminal, clock: Clock
) -> None:
    view = half_way()
    with screen_on(terminal) as screen:
        for _ in range(1000):
            screen.show(view)
            clock.now += 0.01
        assert 90 <= terminal.raw.count("on average") <= 101
        terminal.raw = ""
        states: list[State] = ["draining", "draining", "cancelling", "cancelling"]
        screen.show(half_way())
        terminal.raw = ""
        for state in states:
            screen.show(replace(half_way(), state=state))
        assert terminal.raw.count("again") == 2


def test_what_others_write_stands_above_the_block_whole(terminal: Terminal, clock: Clock) -> None:
    with screen_on(terminal) as screen:
        for step in range(3):
            screen.show(half_way())
            clock.now += 1
            if step == 0:
                sys.stderr.write("careful\n")
            elif step == 1:
                sys.stderr.writelines(["a long text\n", "of two lines, not ended"])
        assert terminal.glass.shown() == ["careful", "a long text", "of two lines, not ended", *drawn()]
        screen.say("aiomap: \x1b[Hone\ntwo")
        assert terminal.glass.shown()[3:] == ["aiomap: �[Hone", "two"]
        sys.stderr.write("unfinished")
    assert terminal.glass.shown()[5:] == ["unfinished"]
    assert (terminal.glass.row, terminal.glass.column) == (6, 0)


def test_what_the_function_prints_stands_above_the_block_if_stdout_is_a_terminal_too(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    for stdout, shown in ((terminal, ["printed"]), (file, ["printed"])):
        monkeypatch.setattr(sys, "stdout", stdout)
        with screen_on(terminal) as screen:
            screen.show(half_way())
            sys.stdout.write("printed\n")
        assert sys.stdout is stdout
        assert terminal.glass.shown() == shown
    assert file.getvalue() == "printed\n"


def test_each_look_at_the_run_counts_for_its_speed_whether_it_is_drawn_or_not(terminal: Terminal) -> None:
    tally = Tally()
    view = replace(half_way(), tally=tally, seconds=20.0)
    with screen_on(terminal, quiet=True) as screen:
        screen.show(view)
    assert tally.rate_now == 3000


def test_a_message_after_the_screen_is_gone_still_comes_out(terminal: Terminal) -> None:
    with screen_on(terminal) as screen:
        kept = sys.stderr
        screen.show(half_way())
    screen.say("done")
    kept.write("late\n")
    assert terminal.glass.shown() == ["done", "late"]


def test_it_survives_a_narrower_and_a_flat_terminal(terminal: Terminal, clock: Clock) -> None:
    with screen_on(terminal) as screen:
        screen.show(half_way())
        for width in (40, 20, 1, 80):
            terminal.glass.width = width
            clock.now += 1
            screen.show(half_way())
            assert terminal.glass.shown() == drawn(width)
            assert screen.width == width


@pytest.mark.parametrize(("rows", "lines"), [(1, 0), (2, 1), (3, 2), (4, 3), (0, 3)])
def test_on_a_terminal_of_few_rows_only_what_fits_is_drawn(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch, rows: int, lines: int
) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, rows)))
    terminal.glass.height = rows or 24
    with screen_on(terminal) as screen:
        for _ in range(9):
            screen.show(half_way())
            clock.now += 1
        assert terminal.glass.shown() == (drawn()[: lines + 1] if lines else [])


def test_colours_are_only_for_those_who_want_them(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with screen_on(terminal) as screen:
        screen.show(half_way())
    assert not re.search(r"\x1b\[\d*m", terminal.raw)
    monkeypatch.delenv("NO_COLOR")
    with screen_on(terminal) as screen:
        screen.show(half_way())
        assert "\x1b[31mfailed 215\x1b[0m" in terminal.raw
        assert terminal.glass.shown() == drawn()


@pytest.mark.parametrize("name", ["dumb", ""])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TERM", name)
    terminal.glass.width = 1000
    with screen_on(terminal) as screen:
        screen.show(half_way())
        assert terminal.raw == ""
        clock.now += 30
        screen.show(half_way())
        assert terminal.raw == line(half_way()) + "\n"
        assert screen.width == 100


def test_elsewhere_a_line_comes_every_30_seconds_and_when_the_state_changes_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    file, view = io.StringIO(), half_way()
    with screen_on(file) as screen:
        for tenth in range(900):
            clock.now = 1000 + tenth / 10
            screen.show(replace(view, seconds=tenth / 10))
        assert [row.split()[1] for row in file.getvalue().splitlines()] == ["t=30", "t=60"]
        screen.show(replace(half_way(), seconds=90.0, state="draining"))
        screen.say("aiomap: stopping")
        screen.show(replace(half_way(), seconds=91.0, state="draining"))
    rows = file.getvalue().splitlines()
    assert [row.split()[1] for row in rows[2:]] == ["t=90", "stopping", "t=91"]
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize(("pulled", "lines"), [(0, 0), (3, 1)])
def test_of_what_broke_before_anything_was_read_there_is_no_line(pulled: int, lines: int) -> None:
    file = io.StringIO()
    with screen_on(file) as screen:
        screen.show(replace(half_way(), stats=replace(stats(), pulled=pulled), ended="broken"))
    assert len(file.getvalue().splitlines()) == lines


def test_a_process_without_stderr_is_quiet_and_quiet_says_only_what_was_asked_for(terminal: Terminal) -> None:
    for quiet, stream in ((True, terminal), (False, None)):
        with screen_on(stream, quiet=quiet) as screen:
            screen.show(half_way())
            screen.say("hello\x1b[2J")
            screen.abandon()
            assert screen.width == 100
    assert terminal.raw.splitlines() == ["hello\N{REPLACEMENT CHARACTER}[2J"]


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError("I/O operation on closed file")])
def test_a_terminal_that_goes_away_ends_the_drawing_and_not_the_run(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with screen_on(terminal) as screen:
        screen.show(half_way())

        def gone(_: str) -> int:
            raise error

        monkeypatch.setattr(terminal, "write", gone)
        for _ in range(3):
            clock.now += 1
            screen.show(half_way())
            screen.say("hello")


def test_an_exception_takes_the_block_off_the_screen_too(terminal: Terminal) -> None:
    with pytest.raises(KeyboardInterrupt), screen_on(terminal) as screen:
        screen.show(half_way())
        raise KeyboardInterrupt
    assert terminal.glass.shown() == []


def test_where_the_encoding_has_no_bars_poorer_signs_do(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    view = half_way()
    view.tally.add_failure("日本", "", "", 1.0, attempts=1)
    with screen_on(terminal) as screen:
        screen.show(view)
        assert terminal.raw.isascii()
        assert "=" in terminal.glass.shown()[1]
        assert "http_4xx x121 | timeout x51" in terminal.glass.shown()[3]


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """A terminal of the kernel's: the end that shows, and the one to write to."""
    far, near = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(near, "w", encoding="utf-8") as stream:
        yield far, stream
    os.close(far)


def test_a_terminal_that_takes_nothing_is_not_waited_for_and_shows_the_block_whole_later(
    real: tuple[int, TextIO], clock: Clock
) -> None:
    far, stream = real
    view = half_way()
    with screen_on(stream) as screen:
        for _ in range(1000):  # nobody reads
            screen.show(view)
            clock.now += 1
        shown = b""
        while select.select([far], [], [], 0)[0]:
            shown += os.read(far, 1 << 16)
            screen.show(view)
        glass = Glass(80, 24)
        glass.feed(shown.decode())
        assert glass.shown() == drawn()


def test_a_real_terminal_that_goes_away_does_not_take_the_run_with_it(real: tuple[int, TextIO], clock: Clock) -> None:
    far, stream = real
    with screen_on(stream) as screen:
        screen.show(half_way())
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), far)  # hangs up; the number itself is still the fixture's
        for _ in range(3):
            clock.now += 1
            screen.show(half_way())
            screen.say("hello")
        screen.abandon()


def test_in_the_background_lines_come_and_the_cursor_is_left_to_the_shell(
    real: tuple[int, TextIO], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    far, stream = real
    with screen_on(stream) as screen:
        for _ in range(31):
            screen.show(half_way())
            clock.now += 1
        assert os.read(far, 1 << 16).decode() == line(half_way()) + "\r\n"


def test_a_signal_handler_can_clear_the_block_at_once(real: tuple[int, TextIO]) -> None:
    far, stream = real
    with screen_on(stream) as screen:
        screen.show(half_way())
        glass = Glass(80, 24)
        glass.feed(os.read(far, 1 << 16).decode())
        assert len(glass.rows) == 4
        screen.abandon()
        glass.feed(os.read(far, 1 << 16).decode())
        assert glass.shown() == []
        assert glass.row == 0
        screen.abandon()  # there is nothing to clear any more
        screen.say("still there")
        glass.feed(os.read(far, 1 << 16).decode())
        assert glass.shown() == ["still there"]
