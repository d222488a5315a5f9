"""Promise 23: the adaptive limit, fact by fact."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap import Adaptive
from aiomap.limits.limit import Ending
from tests.adaptive.servers import Accepted, Server
from tests.adaptive.simulation import Client, play, seeded

pytestmark = pytest.mark.once


def _fill(limit: Adaptive, now: float, most: float = math.inf) -> list[Any]:
    """Starts what may start."""
    tickets: list[Any] = []
    while limit.next_start(None, now) <= now and len(tickets) < most:
        tickets.append(limit.started(None, now))
    return tickets


def _end(limit: Adaptive, tickets: list[Any], now: float, ending: Ending, retry_after: float | None = None) -> None:
    for ticket in tickets:
        limit.ended(ticket, now, ending, retry_after)


class _Busy:
    """A client that keeps the limit full."""

    def __init__(self, limit: Adaptive) -> None:
        self.limit = limit
        self.now = 0.0
        self._running: list[Any] = []

    def rounds(self, number: int, seconds: float = 1.0) -> None:
        """So many round trips in which all succeeds."""
        for _ in range(number):
            running, self._running = [*self._running, *_fill(self.limit, self.now)], []
            self.now += seconds
            for ticket in running:
                self.limit.ended(ticket, self.now, "success", None)
                self._running += _fill(self.limit, self.now)

    def refused(self, retry_after: float | None = None, served: int = 0) -> None:
        """All that runs, but for so many that succeed first."""
        running, self._running = [*self._running, *_fill(self.limit, self.now)], []
        _end(self.limit, running[:served], self.now, "success")
        _end(self.limit, running[served:], self.now, "throttled", retry_after)
        self.now = max(self.now, self.limit.next_start(None, self.now))


class _Everything(Server):
    """Takes whatever comes."""

    def request(self, now: float) -> Accepted:  # noqa: ARG002
        return Accepted(1.0)

    def ideal(self, until: float) -> float:
        raise NotImplementedError


# Arguments


@pytest.mark.parametrize("name", ["max", "min", "start"])
@pytest.mark.parametrize("value", [True, 2.5, "10", None, math.nan])
def test_its_numbers_are_integers(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be an integer of at least 1, got .*{type(value).__name__}.*: "):
        Adaptive(**{name: value})


@pytest.mark.parametrize("name", ["max", "min", "start"])
def test_its_numbers_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be an integer of at least 1, got 0: "):
        Adaptive(**{name: 0})


def test_a_whole_float_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match="write max=20"):
        Adaptive(max=20.0)  # type: ignore[arg-type]


def test_a_min_above_max_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min must be at most max, got min=5 and max=3: write max=5 or more"):
        Adaptive(max=3, min=5)


def test_a_start_below_min_is_refused() -> None:
    with pytest.raises(ValueError, match=r"start must be at least min, got start=4 and min=10: write start=10"):
        Adaptive(min=10)


def test_a_start_above_max_is_lowered_to_it() -> None:
    assert Adaptive(max=2).limit == 2


@pytest.mark.parametrize(("value", "error"), [(True, TypeError), ("2", TypeError), (1, ValueError), (0.5, ValueError)])
def test_a_latency_tolerance_is_a_number_above_one(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"latency_tolerance must be None .* or a number above 1, got .*: 2 stops"):
        Adaptive(latency_tolerance=value)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_latency_tolerance_is_finite(value: float) -> None:
    with pytest.raises(ValueError, match="latency_tolerance must be"):
        Adaptive(latency_tolerance=value)


def test_it_shows_its_arguments() -> None:
    assert repr(Adaptive(50)) == "Adaptive(max=50, min=1, start=4)"
    assert repr(Adaptive(8, 2, 3, latency_tolerance=2)) == "Adaptive(max=8, min=2, start=3, latency_tolerance=2)"


@pytest.mark.parametrize("name", ["max", "min", "limit", "in_flight"])
def test_what_it_says_of_itself_cannot_be_set(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Adaptive(), name, 3)


def test_it_imports_random_only_when_it_needs_it() -> None:
    code = "import sys, aiomap.limits.adaptive as a; a.Adaptive(); sys.exit('random' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What may start


def test_it_allows_the_limit_and_no_more() -> None:
    limit = Adaptive(start=3)
    assert limit.spare(0.0) == 3
    tickets = _fill(limit, 0.0)
    assert len(tickets) == limit.in_flight == 3
    assert limit.next_start(None, 0.0) == math.inf
    assert limit.spare(0.0) == 0
    limit.ended(tickets[0], 1.0, "other", None)
    assert limit.next_start(None, 1.0) <= 1.0
    assert limit.spare(1.0) == 1


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3),
            st.integers(0, 40),
            st.integers(0, 40),
            st.sampled_from(["success", "success", "success", "throttled", "overloaded", "other"]),
            st.sampled_from([None, None, 0.0, 0.5, 4.0]),
        ),
        max_size=60,
    ),
    st.integers(1, 5),
    st.integers(0, 40),
    st.sampled_from([None, 1.5]),
)
def test_whatever_happens_it_stays_within_its_bounds_and_its_gate(
    steps: list[tuple[float, int, int, Ending, float | None]], least: int, more: int, tolerance: float | None
) -> None:
    limit = Adaptive(least + more, least, min(least + 3, least + more), latency_tolerance=tolerance)
    now, closed_until = 0.0, 0.0
    running: list[Any] = []
    for seconds, starts, ends, ending, retry_after in steps:
        now += seconds
        spare, before = limit.spare(now), len(running)
        running += _fill(limit, now, starts)
        started = len(running) - before
        assert started == min(spare, starts)
        assert not started or now >= closed_until
        assert not started or limit.in_flight <= limit.limit
        ended, running = running[:ends], running[ends:]
        _end(limit, ended, now, ending, retry_after)
        if ended and ending == "throttled" and retry_after:
            closed_until = max(closed_until, now + retry_after)
        assert least <= limit.limit <= least + more
        assert limit.in_flight == len(running)
        assert (limit.spare(now) == 0) == (limit.next_start(None, now) > now)


def test_maps_that_share_it_share_its_attempts() -> None:
    limit = Adaptive(start=4)
    mine, theirs = _fill(limit, 0.0, 3), _fill(limit, 0.0)
    assert (len(mine), len(theirs)) == (3, 1)


def test_another_clock_does_not_keep_it_closed() -> None:
    limit = Adaptive()
    _end(limit, _fill(limit, 1000.0, 1), 1000.0, "throttled", 60)
    assert limit.next_start(None, 1000.0) == 1060.0
    assert limit.next_start(None, 0.0) <= 0.0


# How it grows


def test_at_first_it_nearly_doubles_each_round_trip() -> None:
    client = Client(Adaptive(max=1000))
    play(_Everything(), [client], 5.5)
    assert client.limit.limit > 4 * 1.6**5  # what starts before the limit is full again earns nothing


def test_it_does_not_grow_when_it_was_not_what_kept_attempts_few() -> None:
    limit = Adaptive(start=10)
    for now in range(1000):
        _end(limit, _fill(limit, now, 5), now, "success")
    assert limit.limit == 10


def test_what_started_before_a_decrease_says_nothing_about_the_limit_after_it() -> None:
    limit = Adaptive(start=20)
    first, *others = _fill(limit, 0.0)
    limit.ended(first, 1.0, "throttled", None)
    _end(limit, others, 2.0, "success")
    assert limit.limit == 18


def test_beyond_the_place_where_it_was_refused_it_goes_slowly_then_faster() -> None:
    busy = _Busy(limit := Adaptive(start=20))
    busy.refused()
    limits = []
    for _ in range(12):
        limits.append(limit.limit)
        busy.rounds(1)
    assert limits[:4] == [18, 18, 19, 19]  # a round to fill up, and one of waiting just below
    steps = [after - before for before, after in pairwise(limits[3:]) if after != before]
    assert steps == sorted(steps)
    assert limits[-1] > 28


def test_where_a_probe_was_refused_it_waits_longer_before_the_next() -> None:
    busy = _Busy(limit := Adaptive(start=20))
    busy.refused()
    waits = []
    for _ in range(6):
        rounds = 0
        while limit.limit < 20:
            busy.rounds(1)
            rounds += 1
        waits.append(rounds)
        busy.refused()
    assert [wait - waits[0] for wait in waits] == [0, 1, 3, 7, 7, 7]  # from 1 to 8


def test_where_a_probe_was_taken_it_waits_shortly_again() -> None:
    busy = _Busy(limit := Adaptive(start=20))
    for _ in range(5):
        busy.refused()
        while limit.limit < 20:
            busy.rounds(1)
    while limit.limit < 40:
        busy.rounds(1)
    most, rounds = limit.limit, 0
    busy.refused()
    while limit.limit < most:
        busy.rounds(1)
        rounds += 1
    assert rounds < 12  # 15 if it waited 8 of them


# How it goes down


@pytest.mark.parametrize("ending", ["throttled", "overloaded"])
def test_twenty_refusals_at_once_are_one_decrease(ending: Ending) -> None:
    limit = Adaptive(start=20)
    _end(limit, _fill(limit, 0.0), 1.0, ending)
    assert limit.limit == 18


def test_a_decrease_goes_by_the_most_at_once_and_not_by_what_runs_when_it_is_reported() -> None:
    limit = Adaptive(start=20)
    last, *others = _fill(limit, 0.0)
    _end(limit, others, 1.0, "other")
    limit.ended(last, 1.0, "throttled", None)
    assert limit.limit == 18


def test_a_decrease_goes_by_what_was_used_of_the_limit() -> None:
    limit = Adaptive(start=100)
    _end(limit, _fill(limit, 0.0, 10), 1.0, "throttled")
    assert limit.limit == 9


def test_without_a_clean_round_in_between_the_next_decreases_are_by_half() -> None:
    busy = _Busy(limit := Adaptive(max=200, start=100))
    limits = []
    for _ in range(5):
        busy.refused()
        limits.append(limit.limit)
    assert limits == [90, 45, 22, 11, 5]


def test_a_clean_round_makes_the_next_decrease_a_small_one() -> None:
    busy = _Busy(limit := Adaptive(start=20))
    busy.refused()
    busy.rounds(2)
    before = limit.limit
    busy.refused()
    assert limit.limit == math.floor(0.9 * before)


def test_after_a_time_without_any_success_it_climbs_back_fast() -> None:
    busy = _Busy(limit := Adaptive(start=80))
    for _ in range(8):
        busy.refused()
    assert limit.limit == 1
    busy.rounds(9)  # it doubles, but for the first attempts of each round, which find it not full yet
    assert 72 <= limit.limit < 80


def test_it_does_not_climb_back_fast_to_what_was_refused_after_successes() -> None:
    """The remote serves, but less than before: what it refused first is no place to go back to."""
    busy = _Busy(limit := Adaptive(start=80))
    for _ in range(4):
        busy.refused(served=1)
    assert limit.limit == 9
    busy.rounds(4)
    assert limit.limit < 16


@pytest.mark.parametrize("least", [1, 7])
def test_it_never_goes_below_min(least: int) -> None:
    limit = Adaptive(min=least, start=40)
    for now in range(0, 10000, 100):
        _end(limit, _fill(limit, now), now, "throttled")
    assert limit.limit == least


def test_other_endings_change_nothing() -> None:
    busy = _Busy(limit := Adaptive(start=10, latency_tolerance=2))
    busy.rounds(5)
    busy.refused(3)
    busy.rounds(3)
    ticket = limit.started(None, busy.now)

    def state() -> list[Any]:
        return [getattr(limit, name) for name in limit.__slots__ if name not in {"__weakref__", "_in_flight", "_told"}]

    before, in_flight = state(), limit.in_flight
    limit.ended(ticket, busy.now + 50, "other", 99)
    assert state() == before
    assert limit.in_flight == in_flight - 1


# The gate


def test_nothing_starts_before_a_retry_after_is_over() -> None:
    limit = Adaptive()
    tickets = _fill(limit, 0.0)
    limit.ended(tickets[0], 1.0, "throttled", 10)
    limit.ended(tickets[1], 2.0, "throttled", 3)
    limit.ended(tickets[2], 3.0, "success", None)
    assert limit.next_start(None, 3.0) == limit.closed_until(None) == 11.0
    assert limit.spare(10.999) == 0
    limit.ended(tickets[3], 4.0, "throttled", 20)  # of the same burst, and yet it is asked for
    assert limit.next_start(None, 4.0) == 24.0
    assert limit.spare(24.0) >= 1


@pytest.mark.parametrize("pause", [None, 0, 0.0])
def test_a_single_throttle_that_says_no_time_closes_nothing(pause: float | None) -> None:
    limit = Adaptive()
    _end(limit, _fill(limit, 0.0), 1.0, "throttled", pause)
    assert limit.next_start(None, 1.0) <= 1.0


def test_an_overload_has_no_time_to_say() -> None:
    limit = Adaptive()
    _end(limit, _fill(limit, 0.0), 1.0, "overloaded", 60)
    assert limit.next_start(None, 1.0) <= 1.0


def test_when_the_gate_opens_the_first_round_is_spread_over_a_round_trip() -> None:
    busy = _Busy(limit := Adaptive(start=10))
    busy.rounds(1, seconds=2.0)
    busy.refused(5)
    most, now = limit.limit, 7.0
    starts = []
    for _ in range(most):
        assert limit.spare(now) == 1
        ticket = limit.started(None, now)
        starts.append(now)
        limit.ended(ticket, now, "other", None)  # ends at once, so that only the pace holds the next one back
        now = limit.next_start(None, now)
    assert [after - before for before, after in pairwise([*starts, now])] == pytest.approx([2.0 / most] * most)
    assert limit.spare(9.01) == most


def test_from_the_third_throttle_with_no_success_in_between_it_cools_down() -> None:
    with seeded(1):
        limit, now, pauses = Adaptive(), 0.0, []
        for _ in range(16):
            now += 1
            _end(limit, _fill(limit, now), now, "throttled")
            pauses.append(max(0.0, limit.next_start(None, now) - now))
            now += pauses[-1]
    assert pauses[:2] == [0, 0]
    expected = [min(30, 0.5 * 1.5**number) for number in range(14)]
    ratios = [pause / usual for pause, usual in zip(pauses[2:], expected, strict=True)]
    assert all(0.8 <= ratio <= 1.2 for ratio in ratios)
    assert max(ratios) - min(ratios) > 0.1  # by chance, so that many clients do not come back at once


def test_a_success_in_between_spares_it_the_cool_down() -> None:
    limit = Adaptive(start=50)
    for now in range(20):
        first, *others = _fill(limit, now)
        limit.ended(first, now, "success", None)
        _end(limit, others, now, "throttled")
        assert limit.next_start(None, now) <= now


def test_it_bears_any_number_of_throttles() -> None:
    limit, now = Adaptive(), 0.0
    for _ in range(5000):
        _end(limit, _fill(limit, now), now, "throttled")
        now += 40
    assert limit.limit == 1


# Durations


def test_while_attempts_take_too_long_it_does_not_grow_nor_shrink() -> None:
    busy = _Busy(limit := Adaptive(max=100_000, latency_tolerance=2))
    busy.rounds(6)
    busy.rounds(2, seconds=2.1)
    held = limit.limit
    assert held > 100
    busy.rounds(20, seconds=2.1)
    busy.rounds(20, seconds=100)
    assert limit.limit == held
    busy.rounds(3, seconds=1.9)
    assert limit.limit > held


def test_without_a_latency_tolerance_durations_are_no_matter() -> None:
    busy = _Busy(limit := Adaptive(max=100_000))
    busy.rounds(6)
    before = limit.limit
    busy.rounds(3, seconds=100)
    assert limit.limit > 4 * before
