"""Promise 20, the gate: a burst of throttles closes it once, for as long as the remote asked for or a little longer."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap.limits.gate import Gate
from aiomap.limits.limit import Ending
from tests.limits.driver import Arrival, play

pytestmark = pytest.mark.once

SECONDS = st.floats(0.001, 100)
CLOSINGS = [0.5 * 1.5**number for number in range(10)]


def throttled(gate: Gate, now: float, retry_after: float | None = None) -> float:
    """An attempt starts and is throttled at once; gives for how long that closed the gate."""
    gate.ended(gate.started(None, now), now, "throttled", retry_after)
    return gate.next_start(None, now) - now


def cooled(gate: Gate, count: int, now: float = 100.0) -> float:
    """So many throttles, each after the gate has opened again; gives the time when it opens after the last."""
    for _ in range(count):
        throttled(gate, now)
        now = gate.next_start(None, now)
    return now


@pytest.fixture
def without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)


def test_a_gate_is_open_until_something_is_throttled() -> None:
    gate = Gate()
    assert gate.claim("item") is None  # type: ignore[func-returns-value]
    assert gate.next_start(None, 7.0) <= 7.0
    gate.ended(gate.started(None, 7.0), 8.0, "success", None)
    assert gate.next_start(None, 8.0) <= 8.0
    assert gate.closed_until(None) <= 8.0


@pytest.mark.parametrize("ending", ["overloaded", "other"])
@pytest.mark.parametrize("retry_after", [None, 10.0])
def test_an_end_that_is_no_throttle_changes_nothing(ending: Ending, retry_after: float | None) -> None:
    gate, same = Gate(), Gate()
    for each in (gate, same):
        throttled(each, 0.0, 3.0)
    gate.ended(gate.started(None, 4.0), 5.0, ending, retry_after)
    assert gate.next_start(None, 5.0) == same.next_start(None, 5.0) == 3.0
    assert not gate.is_idle(5.0)  # it has not reset the strike either
    fresh = Gate()
    fresh.ended(fresh.started(None, 4.0), 5.0, ending, retry_after)
    assert fresh.next_start(None, 5.0) <= 5.0
    assert fresh.is_idle(5.0)


def test_it_closes_for_as_long_as_the_remote_asks_from_the_moment_that_it_said_so() -> None:
    gate = Gate()
    gate.ended(gate.started(None, 1.0), 2.0, "throttled", 10.0)
    assert gate.next_start(None, 2.0) == 12.0
    assert gate.closed_until(None) == 12.0


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=10))
def test_of_several_that_ask_for_a_time_the_latest_moment_wins(answers: list[tuple[float, float]]) -> None:
    gate = Gate()
    tickets = [gate.started(None, 0.0) for _ in answers]
    now, latest = 0.0, -math.inf
    for ticket, (pause, retry_after) in zip(tickets, answers, strict=True):
        now += pause
        latest = max(latest, now + retry_after)
        gate.ended(ticket, now, "throttled", retry_after)
        assert gate.next_start(None, now) == latest


def test_one_that_does_not_say_how_long_takes_nothing_back() -> None:
    gate = Gate()
    tickets = [gate.started(None, 0.0) for _ in range(2)]
    gate.ended(tickets[0], 1.0, "throttled", 60.0)
    gate.ended(tickets[1], 1.1, "throttled", None)
    assert gate.next_start(None, 1.1) == 61.0


def test_a_time_that_comes_late_in_a_burst_still_counts() -> None:
    gate = Gate()
    tickets = [gate.started(None, 0.0) for _ in range(2)]
    gate.ended(tickets[0], 1.0, "throttled", None)
    gate.ended(tickets[1], 1.1, "throttled", 60.0)
    assert gate.next_start(None, 1.1) == 61.1


@pytest.mark.usefixtures("without_chance")
def test_without_a_time_it_closes_for_half_a_second_and_half_as_long_again_each_time_up_to_thirty_seconds() -> None:
    gate, now, waits = Gate(), 100.0, list[float]()
    for _ in range(13):
        waits.append(throttled(gate, now))
        now = gate.next_start(None, now)
    assert waits == pytest.approx([min(30.0, 0.5 * 1.5**number) for number in range(13)])
    assert waits[10] == pytest.approx(28.83, abs=0.01)
    assert waits[11:] == pytest.approx([30.0, 30.0])


@pytest.mark.usefixtures("without_chance")
def test_a_remote_that_throttles_for_ever_is_asked_every_thirty_seconds() -> None:
    gate = Gate()
    assert throttled(gate, cooled(gate, 5000)) == pytest.approx(30.0)


def test_chance_moves_the_time_by_a_fifth_and_no_more() -> None:
    firsts = [throttled(Gate(), 0.0) for _ in range(500)]
    assert 0.4 <= min(firsts) < 0.42
    assert 0.58 < max(firsts) <= 0.6
    assert throttled(Gate(), 0.0, 10.0) == 10.0  # but never what the remote said


@pytest.mark.usefixtures("without_chance")
@pytest.mark.parametrize("burst", [1, 2, 50])
def test_a_burst_is_one_strike(burst: int) -> None:
    gate = Gate()
    tickets = [gate.started(None, 0.0) for _ in range(burst)]
    for number, ticket in enumerate(tickets):
        gate.ended(ticket, 1.0 + number * 0.001, "throttled", None)
    assert gate.next_start(None, 1.1) == 1.5
    assert throttled(gate, 1.5) == pytest.approx(0.75)


@pytest.mark.usefixtures("without_chance")
def test_a_burst_that_says_how_long_is_one_strike_too() -> None:
    gate = Gate()
    tickets = [gate.started(None, 0.0) for _ in range(9)]
    for ticket in tickets:
        gate.ended(ticket, 1.0, "throttled", 2.0)
    assert throttled(gate, 3.0) == pytest.approx(0.75)


@pytest.mark.usefixtures("without_chance")
def test_what_started_before_the_closing_and_is_throttled_after_it_opened_again_closes_nothing() -> None:
    gate = Gate()
    early, late = gate.started(None, 0.0), gate.started(None, 0.0)
    gate.ended(early, 1.0, "throttled", None)
    gate.ended(late, 9.0, "throttled", None)
    assert gate.next_start(None, 9.0) <= 9.0
    assert throttled(gate, 9.0) == pytest.approx(0.75)


@pytest.mark.usefixtures("without_chance")
def test_a_latecomer_does_not_make_what_started_since_look_late_as_well() -> None:
    gate = Gate()
    early, late = gate.started(None, 0.0), gate.started(None, 0.0)
    gate.ended(early, 1.0, "throttled", None)
    new = gate.started(None, 1.5)
    gate.ended(late, 1.7, "throttled", None)
    gate.ended(new, 2.5, "throttled", None)
    assert gate.next_start(None, 2.5) == 3.25


@pytest.mark.usefixtures("without_chance")
def test_under_a_remote_that_is_always_too_busy_few_attempts_start_however_long_each_takes() -> None:
    arrivals = [
        Arrival(number * 0.1, lasts=[0.3, 1.7, 1.1][number % 3], endings=(("throttled", None),))
        for number in range(1000)
    ]
    starts = play(arrivals, [Gate()])
    assert len({start.time for start in starts}) < 60


@pytest.mark.usefixtures("without_chance")
def test_a_success_that_started_after_the_closing_puts_it_back_to_the_beginning() -> None:
    gate = Gate()
    now = cooled(gate, 4)
    assert not gate.is_idle(now)
    gate.ended(gate.started(None, now), now + 1, "success", None)
    assert gate.is_idle(now + 1)
    assert throttled(gate, now + 1) == pytest.approx(0.5)


@pytest.mark.usefixtures("without_chance")
def test_a_success_that_started_before_the_closing_resets_nothing() -> None:
    gate = Gate()
    now = cooled(gate, 3)
    before = gate.started(None, now)
    closing = throttled(gate, now)
    gate.ended(before, now + 0.1, "success", None)
    assert not gate.is_idle(now + 100)
    assert gate.next_start(None, now + 0.1) == now + closing
    assert throttled(gate, now + closing) == pytest.approx(CLOSINGS[4])


@pytest.mark.usefixtures("without_chance")
def test_a_success_that_ends_after_it_opened_but_started_before_it_closed_resets_nothing() -> None:
    gate = Gate()
    before = gate.started(None, 0.0)
    throttled(gate, 0.5)
    gate.ended(before, 50.0, "success", None)
    assert throttled(gate, 51.0) == pytest.approx(0.75)


@pytest.mark.usefixtures("without_chance")
def test_to_be_asked_for_no_pause_is_not_to_be_told_how_long() -> None:
    gate = Gate()
    assert throttled(gate, 0.0, 0.0) == 0.5
    assert throttled(gate, 0.5, 0.0) == pytest.approx(0.75)


def test_it_is_idle_when_it_is_open_and_no_throttle_is_remembered() -> None:
    gate = Gate()
    assert gate.is_idle(0.0)
    throttled(gate, 0.0, 2.0)
    assert not gate.is_idle(1.0)
    assert not gate.is_idle(2.0)
    gate.ended(gate.started(None, 2.0), 3.0, "success", None)
    assert gate.is_idle(3.0)


def test_it_is_not_idle_while_it_is_closed_even_if_no_throttle_is_remembered() -> None:
    gate = Gate()
    tickets = [gate.started(None, 0.0) for _ in range(2)]
    gate.ended(tickets[0], 1.0, "throttled", 1.0)
    gate.ended(gate.started(None, 2.0), 2.5, "success", None)
    gate.ended(tickets[1], 3.0, "throttled", 60.0)
    assert not gate.is_idle(62.0)
    assert gate.is_idle(63.0)


def test_nothing_starts_while_it_is_closed() -> None:
    arrivals = [Arrival(0.0, endings=(("throttled", 5.0), ("success", None)), lasts=1.0), *[Arrival(2.0)] * 3]
    assert [start.time for start in play(arrivals, [Gate()])] == [0.0, 6.0, 6.0, 6.0, 6.0]
