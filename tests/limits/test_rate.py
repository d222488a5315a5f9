"""Promise 21: no half-open window holds more than `n`, and no start comes later than that asks for."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomap.errors import CostAboveRate
from aiomap.limits.limit import Ending
from aiomap.limits.rate import Rate
from tests.limits.driver import Arrival, Clock, Start, exact, late, millisecond, play

pytestmark = pytest.mark.once

many = settings(max_examples=80, deadline=None)

# What a loop's clock may show at first.
BEGINNINGS = st.sampled_from([0.0, 1.0, 12_345.678, 4_000_000.1])
# Halves and the like, whose sums are exact.
WEIGHTS = st.sampled_from([0, 0.125, 0.5, 1, 1, 1, 1.5, 2, 3])
SPELLS = st.sampled_from([0.0, 0.0, 0.0, 1e-9, 0.1, 0.25, 1 / 3, 0.5, 0.999, 1.0, 1.001, 2.5]) | st.floats(0, 1.5)
ENDINGS: st.SearchStrategy[tuple[Ending, float | None]] = st.sampled_from(
    [("success", None), ("overloaded", None), ("other", None)]
)
CLOCKS = st.one_of(
    st.just(exact),
    st.just(millisecond),
    st.lists(st.sampled_from([0.0, 1e-6, 0.003, 0.1]), min_size=1, max_size=5).map(late),
)


@st.composite
def rates(draw: st.DrawFn, *, smooth: bool | None = None, weighed: bool | None = None) -> Rate:
    per = draw(st.sampled_from([0.05, 0.1, 1 / 3, 1.0, 60.0]) | st.floats(0.02, 100))
    return Rate(
        draw(st.integers(1, 7)),
        per,
        cost=(lambda item: item) if (draw(st.booleans()) if weighed is None else weighed) else None,
        smooth=draw(st.booleans()) if smooth is None else smooth,
        margin=draw(st.sampled_from([0.0, 0.0, 0.1, 0.5])) * per,
    )


@st.composite
def schedules(draw: st.DrawFn, rate: Rate, *, throttles: bool = False) -> list[Arrival]:
    """Arrivals, some at once and some apart, that may be tried again or give up while they wait."""
    per, time = rate.per, draw(BEGINNINGS)
    ending: st.SearchStrategy[tuple[Ending, float | None]] = ENDINGS
    if throttles:
        ending |= SPELLS.map(lambda spell: ("throttled", (spell + 0.01) * per))
    arrivals = []
    for _ in range(draw(st.integers(1, 25))):
        time += draw(SPELLS) * per
        patience = draw(st.sampled_from([math.inf, math.inf, 0.5, 1.0])) * per
        weight = min(draw(WEIGHTS), rate.n)
        endings = tuple(draw(st.lists(ending, min_size=1, max_size=3)))
        arrivals.append(Arrival(time, weight, draw(SPELLS) * per, endings, patience))
    return arrivals


class Watched:
    """A `Rate` whose every answer is compared with what follows from all the starts that there have been."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.starts: list[tuple[float, float]] = []
        self.opens = -math.inf

    def claim(self, item: Any) -> float:
        return self.rate.claim(item)

    def next_start(self, claim: float, now: float) -> float:
        answer = self.rate.next_start(claim, now)
        assert max(answer, now) == self.earliest(claim, now)
        assert self.rate.next_start(claim, now) == answer
        return answer

    def earliest(self, weight: float, now: float) -> float:
        window = self.rate.per + self.rate.margin
        leaves = [(time + window, other) for time, other in self.starts]

        def fits(moment: float) -> bool:
            return weight + sum(other for time, other in leaves if time > moment) <= self.rate.n

        first = next(moment for moment in sorted({now, *(time for time, _ in leaves if time > now)}) if fits(moment))
        if self.rate.smooth and self.starts:
            time, before = self.starts[-1]
            first = max(first, time + min(self.rate.per / self.rate.n * before, self.rate.per))
        return max(first, self.opens)

    def started(self, claim: float, now: float) -> float:
        self.starts.append((now, claim))
        return self.rate.started(claim, now)

    def ended(self, ticket: float, now: float, ending: Ending, retry_after: float | None) -> None:
        if ending == "throttled" and retry_after:
            self.opens = max(self.opens, now + retry_after)
        self.rate.ended(ticket, now, ending, retry_after)


def assert_no_window_holds_more(starts: Sequence[Start], rate: Rate) -> None:
    window = rate.per + rate.margin
    for i, first in enumerate(starts):
        held = [1 if rate.cost is None else start.item for start in starts[i:] if start.time < first.time + window]
        assert sum(held) <= rate.n, f"{held} in the window from {first.time}"


@many
@given(st.data(), rates(), CLOCKS)
def test_no_window_holds_more_whatever_comes_is_cancelled_or_comes_again(data: Any, rate: Rate, clock: Clock) -> None:
    assert_no_window_holds_more(play(data.draw(schedules(rate, throttles=True)), [rate], clock), rate)


@many
@given(st.data(), rates(), CLOCKS)
def test_the_answer_is_the_first_moment_that_the_window_the_spacing_and_the_gate_allow(
    data: Any, rate: Rate, clock: Clock
) -> None:
    play(data.draw(schedules(rate, throttles=True)), [Watched(rate)], clock)


@many
@given(st.data(), rates(smooth=False))
def test_with_exact_timers_whoever_waits_starts_when_it_is_first_or_when_something_leaves_the_window(
    data: Any, rate: Rate
) -> None:
    starts = play(data.draw(schedules(rate)), [rate], exact)
    for i, start in enumerate(starts):
        leaving = {before.time + (rate.per + rate.margin) for before in starts[:i]}
        assert start.time == start.first_since or start.time in leaving


@many
@given(rates(smooth=False, weighed=False), BEGINNINGS)
def test_with_a_backlog_each_start_is_exactly_a_window_after_the_one_n_before_it(rate: Rate, begin: float) -> None:
    starts = [start.time for start in play([Arrival(begin)] * 30, [rate])]
    assert starts[: rate.n] == [begin] * rate.n
    assert starts[rate.n :] == [time + (rate.per + rate.margin) for time in starts[: -rate.n]]


@many
@given(rates(smooth=False, weighed=False), BEGINNINGS)
def test_a_clock_of_whole_milliseconds_costs_one_of_them_in_each_window(rate: Rate, begin: float) -> None:
    starts = [start.time for start in play([Arrival(begin)] * 30, [rate], millisecond)]
    for before, after in zip(starts, starts[rate.n :], strict=False):
        allowed = before + (rate.per + rate.margin)
        assert allowed <= after < allowed + 0.001 + 1e-6


@many
@given(st.data(), rates(smooth=True), CLOCKS)
def test_smooth_keeps_starts_apart_by_their_part_of_the_window(data: Any, rate: Rate, clock: Clock) -> None:
    starts = play(data.draw(schedules(rate)), [rate], clock)
    for before, after in pairwise(starts):
        weight = 1 if rate.cost is None else before.item
        assert after.time >= before.time + min(rate.per / rate.n * weight, rate.per)


def test_smooth_starts_of_a_backlog_are_evenly_spaced_from_the_first_on() -> None:
    starts = [start.time for start in play([Arrival(8.0)] * 9, [Rate(4, smooth=True)])]
    assert starts == [8.0, 8.25, 8.5, 8.75, 9.0, 9.25, 9.5, 9.75, 10.0]


def test_smooth_does_not_make_up_for_a_pause() -> None:
    starts = [start.time for start in play([Arrival(8.0), *[Arrival(20.0)] * 3], [Rate(4, smooth=True)])]
    assert starts == [8.0, 20.0, 20.25, 20.5]


def test_without_smooth_the_first_n_start_at_once() -> None:
    starts = [start.time for start in play([Arrival(8.0)] * 5, [Rate(2, per=10)])]
    assert starts == [8.0, 8.0, 18.0, 18.0, 28.0]


def test_a_margin_makes_the_window_longer() -> None:
    starts = [start.time for start in play([Arrival(8.0)] * 3, [Rate(1, per=1, margin=0.25)])]
    assert starts == [8.0, 9.25, 10.5]


def test_an_item_that_gives_up_while_it_waits_takes_nothing_from_the_others() -> None:
    arrivals = [Arrival(0.0), *[Arrival(0.0, patience=0.5)] * 10, Arrival(0.75)]
    assert [start.time for start in play(arrivals, [Rate(1)])] == [0.0, 1.0]


def test_another_attempt_counts_like_the_first() -> None:
    failing: tuple[tuple[Ending, None], ...] = (("other", None), ("other", None), ("success", None))
    starts = [start.time for start in play([Arrival(0.0, endings=failing)], [Rate(1)])]
    assert starts == [0.0, 1.0, 2.0]


@many
@given(st.data(), CLOCKS)
def test_several_rates_hold_together_and_none_makes_another_start_late(data: Any, clock: Clock) -> None:
    limits = [Rate(10), Rate(15, per=2.0), Rate(40, per=60, margin=1)]
    arrivals = [Arrival(data.draw(BEGINNINGS))] * 20 + data.draw(schedules(limits[0]))
    starts = play(arrivals, [Watched(limit) for limit in limits], clock)
    for limit in limits:
        assert_no_window_holds_more(starts, limit)


def test_ten_a_second_and_fifteen_in_two_give_ten_then_five_then_wait() -> None:
    starts = [start.time for start in play([Arrival(0.0)] * 30, [Rate(10), Rate(15, per=2)])]
    assert starts == [0.0] * 10 + [1.0] * 5 + [2.0] * 10 + [3.0] * 5


def test_a_weight_that_waits_keeps_no_place_for_what_others_give_back_late() -> None:
    arrivals = [Arrival(0.0, 3), Arrival(0.5, 4), Arrival(0.75, 2), Arrival(0.8, 9)]
    starts = play(arrivals, [Rate(9, cost=lambda item: item)])
    assert [(start.item, start.time) for start in starts] == [(3, 0.0), (4, 0.5), (2, 0.75), (9, 1.75)]


# What happened to a rate: after so many windows something of that weight started, if it was allowed, and ended at once.
HISTORY = st.lists(
    st.tuples(
        SPELLS,
        WEIGHTS,
        ENDINGS | st.tuples(st.just("throttled"), st.sampled_from([None, 0.0, 0.7])),
    ),
    max_size=20,
)


def live(rate: Rate, history: Sequence[tuple[float, float, tuple[Ending, float | None]]], now: float) -> float:
    """Plays a history from `now` on; gives the time at its end."""
    for spell, most, (ending, wait) in history:
        now += spell * rate.per
        weight = 1 if rate.cost is None else min(most, rate.n)
        if rate.next_start(weight, now) <= now:
            rate.ended(rate.started(weight, now), now, ending, wait and wait * rate.per)
    return now


def answers(rate: Rate, now: float) -> list[float]:
    """What it says of each weight, at that moment; that it was allowed earlier is nothing that matters."""
    weights = [1] if rate.cost is None else [0, 0.125, 1, rate.n]
    return [max(now, rate.next_start(weight, now)) for weight in weights] + [rate.spare(now)]


def surely() -> Any:
    """Takes the chance out of how long a gate is closed."""
    return patch("random.uniform", lambda low, high: (low + high) / 2)


@many
@given(rates(), HISTORY, BEGINNINGS)
def test_spare_is_how_many_starts_of_weight_one_there_can_be(rate: Rate, history: Any, begin: float) -> None:
    now = live(rate, history, begin)
    told = rate.spare(now)
    made = 0
    while rate.next_start(1, now) <= now and made < 100:
        rate.started(1, now)
        made += 1
    assert told == made


def test_spare_counts_whole_starts_only() -> None:
    rate = Rate(5, cost=lambda item: item)
    rate.started(2.5, 0.0)
    assert rate.spare(0.0) == 2
    rate.started(2.5, 0.0)
    assert rate.spare(0.0) == 0
    assert rate.spare(1.0) == 5


@pytest.mark.parametrize("cost", [None, lambda item: item])
def test_spare_is_none_of_smooth_starts_that_are_far_enough_apart_but_still_in_the_window(cost: Any) -> None:
    rate = Rate(1, cost=cost, smooth=True, margin=0.5)
    rate.started(1, 0.0)
    assert [rate.spare(now) for now in (0.0, 0.5, 1.0, 1.4, 1.5, 9.0)] == [0, 0, 0, 0, 1, 1]


@many
@given(rates(), HISTORY, HISTORY, BEGINNINGS)
def test_asking_changes_nothing(rate: Rate, history: Any, future: Any, begin: float) -> None:
    with surely():
        now = live(rate, history, begin)
        asked = copy.deepcopy(rate)
        for part in (0.0, 0.2, 0.2, 0.6, 1.0):
            answers(asked, now + part * rate.per)
            asked.is_idle(now + part * rate.per)
            asked.closed_until(1)
        now += rate.per
        for event in future:
            assert asked.is_idle(now) == rate.is_idle(now)
            assert answers(asked, now) == answers(rate, now)
            assert live(asked, [event], now) == live(rate, [event], now)
            now += event[0] * rate.per


@many
@given(rates(), HISTORY, HISTORY, BEGINNINGS, SPELLS)
def test_an_idle_rate_is_as_good_as_a_new_one_for_ever(
    rate: Rate, history: Any, future: Any, begin: float, pause: float
) -> None:
    with surely():
        now = live(rate, history, begin) + pause * rate.per
        if not rate.is_idle(now):
            return
        new = rate.copy()
        for event in [(0.0, 0, ("success", None)), *future]:
            assert answers(rate, now) == answers(new, now)
            assert live(rate, [event], now) == live(new, [event], now)
            now += event[0] * rate.per


@many
@given(rates(), st.lists(st.tuples(SPELLS, WEIGHTS, ENDINGS), max_size=20), BEGINNINGS)
def test_a_rate_is_idle_a_window_after_its_last_start_if_nothing_was_throttled(
    rate: Rate, history: Any, begin: float
) -> None:
    now = live(rate, history, begin)
    assert rate.is_idle(now + (rate.per + rate.margin))


def test_a_rate_is_not_idle_while_its_last_start_is_in_the_window() -> None:
    rate = Rate(5, margin=0.5)
    rate.started(1, 0.0)
    assert not rate.is_idle(1.4)
    assert rate.is_idle(1.5)


def log_of(rate: Rate) -> Any:
    return rate._log


def test_a_million_starts_leave_no_more_than_n_in_the_log() -> None:
    rate = Rate(10)
    for number in range(1_000_000):
        rate.started(1, number * 0.125)
    assert len(log_of(rate)._times) == 10
    assert rate.spare(999_999 * 0.125) == 2


def test_what_rounding_leaves_is_gone_when_the_window_is_empty() -> None:
    rate = Rate(1, cost=lambda item: item)
    for weight in (0.1, 0.2, 0.3):
        rate.started(weight, 0.0)
    assert rate.next_start(1, 1.0) <= 1.0
    assert log_of(rate)._total == 0.0


@pytest.mark.parametrize(("n", "per"), [(11, 0.1), (35, 0.7), (29, 60.0)])
def test_after_a_window_nothing_is_left_of_the_spacing_even_where_n_parts_are_more_than_the_whole(
    n: int, per: float
) -> None:
    assert per / n * n > per
    rate = Rate(n, per, cost=lambda item: item, smooth=True)
    rate.started(n, 0.0)
    assert rate.is_idle(per)
    assert rate.next_start(1, per) <= per


def test_of_weights_the_log_holds_those_of_one_window() -> None:
    rate = Rate(1000, cost=lambda item: item)
    for number in range(100_000):
        rate.started(10, number * 0.01)
    assert len(log_of(rate)._log) == 100


def test_no_long_run_adds_up_what_rounding_leaves() -> None:
    rate = Rate(1, cost=lambda item: item)
    weights, now, starts = [0.1, 0.7, 0.3, 1e-9, 0.05], 0.0, list[tuple[float, float]]()
    for number in range(20_000):
        weight = weights[number % 5]
        now = max(now, rate.next_start(weight, now))
        rate.started(weight, now)
        starts.append((now, weight))
    for i in range(19_900, 20_000):
        held = math.fsum(weight for time, weight in starts[i:] if time < starts[i][0] + 1)
        assert held <= 1 + 1e-12


def test_a_heavy_item_that_asks_often_does_not_go_through_the_log_each_time() -> None:
    class Log(deque[tuple[float, float]]):
        looks = 0

        def __iter__(self) -> Iterator[tuple[float, float]]:
            self.looks += 1
            return super().__iter__()

    rate = Rate(1000, cost=lambda item: item)
    for number in range(1000):
        rate.started(1, number / 1024)
    log = log_of(rate)._log = Log(log_of(rate)._log)
    for number in range(500):
        assert rate.next_start(1000, 1 + number / 1024) == 1 + 999 / 1024
    assert log.looks == 1
    assert rate.next_start(600, 1.5) == 1 + 599 / 1024
    rate.started(1, 1.5)
    assert rate.next_start(600, 1.5) == 1 + 600 / 1024


@many
@given(rates(), HISTORY)
def test_a_clock_that_goes_back_is_another_one_and_the_rate_starts_anew(rate: Rate, history: Any) -> None:
    with surely():
        rate.ended(rate.started(1, 1000.0), 1000.5, "throttled", 5000.0)
        live(rate, history, 1001.0)
        new = rate.copy()
        assert answers(rate, 2.0) == answers(new, 2.0)
        assert live(rate, history, 2.0) == live(new, history, 2.0)


def test_an_end_tells_the_time_too() -> None:
    rate = Rate(1)
    rate.ended(rate.started(1, 0.0), 5.0, "throttled", 3600.0)
    assert rate.next_start(1, 0.0) <= 0.0


def test_a_throttle_closes_the_rate_for_as_long_as_the_remote_asks() -> None:
    rate = Rate(100)
    rate.ended(rate.started(1, 1.0), 2.0, "throttled", 7.0)
    assert rate.next_start(1, 2.0) == rate.closed_until(1) == 9.0
    assert rate.spare(8.9) == 0
    assert not rate.is_idle(8.9)
    assert rate.spare(9.0) == 100


@pytest.mark.parametrize(("n", "weight", "count"), [(1, 0.1, 10), (3, 0.3, 10), (7, 0.7, 10), (1, 1 / 3, 3), (2, 2, 1)])
def test_parts_of_the_whole_that_make_it_up_fit(n: int, weight: float, count: int) -> None:
    starts = play([Arrival(0.0, weight)] * count * 3, [Rate(n, cost=lambda item: item)])
    assert [start.time for start in starts] == [0.0] * count + [1.0] * count + [2.0] * count


def test_what_costs_nothing_starts_at_once_and_is_kept_nowhere() -> None:
    rate = Rate(1, cost=lambda item: item)
    rate.started(1, 0.0)
    for _ in range(100):
        assert rate.next_start(0, 0.0) <= 0.0
        rate.started(0, 0.0)
    assert len(log_of(rate)._log) == 1
    assert rate.next_start(1, 0.0) == 1.0


@given(st.lists(st.floats(0, 1), max_size=50))
def test_what_costs_nothing_is_never_held_up_by_rounding(weights: list[float]) -> None:
    rate = Rate(1, cost=lambda item: item)
    now = 0.0
    for weight in weights:
        now = max(now, rate.next_start(weight, now))
        rate.started(weight, now)
        assert rate.next_start(0, now) <= now


def test_without_a_cost_every_item_weighs_one() -> None:
    assert [Rate(1).claim(item) for item in (None, 17, "x")] == [1, 1, 1]


def test_an_item_that_weighs_more_than_n_can_never_start_and_says_so() -> None:
    rate = Rate(10, per=60, cost=len)
    assert rate.claim("x" * 10) == 10
    with pytest.raises(
        CostAboveRate, match=r"cost 11 can never start under Rate\(10, per=60, cost=len\): split the item, or raise n"
    ):
        rate.claim("x" * 11)


def weigh(item: Any) -> Any:
    return item


@pytest.mark.parametrize(
    ("weight", "kind", "rule"),
    [
        (None, TypeError, r"an int or a float, but weigh returned None \(NoneType\)"),
        ("7", TypeError, r"an int or a float, but weigh returned '7' \(str\)"),
        (True, TypeError, r"an int or a float, but weigh returned True \(bool\)"),
        (Decimal(7), TypeError, r"an int or a float, but weigh returned Decimal\('7'\) \(Decimal\)"),
        (-1, ValueError, "a finite weight of at least 0, but weigh returned -1"),
        (-1e-9, ValueError, "a finite weight of at least 0, but weigh returned -1e-09"),
        (math.nan, ValueError, "a finite weight of at least 0, but weigh returned nan"),
        (math.inf, ValueError, "a finite weight of at least 0, but weigh returned inf"),
    ],
)
def test_what_is_no_weight_is_refused_with_the_name_of_the_function(weight: Any, kind: Any, rule: str) -> None:
    with pytest.raises(kind, match=f"^cost must return .*{rule}"):
        Rate(10, cost=weigh).claim(weight)


async def weigh_slowly(item: Any) -> int:
    return 1


class Scales:
    async def __call__(self, _: Any) -> int:
        return 1


ANY_RATE: Any = Rate  # whose arguments no type checker looks at

N = r"^n must be an integer of at least 1, how many starts in `per` seconds, got"
PER = "^per must be a number of seconds above 0, got"
MARGIN = "^margin must be a number of seconds, at least 0, got"


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (partial(ANY_RATE, 0), ValueError, rf"{N} 0: for fewer, make per longer, as in Rate\(1, per=60\)$"),
        (partial(ANY_RATE, -2), ValueError, rf"{N} -2: for fewer"),
        (partial(ANY_RATE, True), TypeError, rf"{N} True \(bool\)$"),
        (partial(ANY_RATE, None), TypeError, rf"{N} None \(NoneType\)$"),
        (partial(ANY_RATE, "10"), TypeError, rf"{N} '10' \(str\)$"),
        (partial(ANY_RATE, 10.0), TypeError, rf"{N} 10.0 \(float\): write 10$"),
        (partial(ANY_RATE, 0.5), TypeError, rf"{N} 0.5 \(float\): write Rate\(1, per=2\) for 0.5 in 1 seconds$"),
        (partial(ANY_RATE, 2.5, 60), TypeError, rf"{N} 2.5 \(float\): write Rate\(1, per=24\) for 2.5 in 60 seconds$"),
        (partial(ANY_RATE, math.nan), TypeError, rf"{N} nan \(float\)$"),
        (partial(ANY_RATE, math.inf), TypeError, rf"{N} inf \(float\)$"),
        (partial(ANY_RATE, -1.0), TypeError, rf"{N} -1.0 \(float\)$"),
        (partial(ANY_RATE, 1, 0), ValueError, rf"{PER} 0: Rate\(100, per=60\) is 100 a minute$"),
        (partial(ANY_RATE, 1, -1), ValueError, rf"{PER} -1: Rate"),
        (partial(ANY_RATE, 1, math.nan), ValueError, rf"{PER} nan: Rate"),
        (partial(ANY_RATE, 1, math.inf), ValueError, rf"{PER} inf: Rate"),
        (partial(ANY_RATE, 1, 10**400), ValueError, rf"{PER} 10+\.\.\.: Rate"),
        (partial(ANY_RATE, 1, True), TypeError, rf"{PER} True \(bool\): Rate"),
        (partial(ANY_RATE, 1, "60"), TypeError, rf"{PER} '60' \(str\): Rate"),
        (partial(ANY_RATE, 1, None), TypeError, rf"{PER} None \(NoneType\): Rate"),
        (partial(ANY_RATE, 1, margin=-0.1), ValueError, rf"{MARGIN} -0.1: 0 adds nothing$"),
        (partial(ANY_RATE, 1, margin=math.nan), ValueError, rf"{MARGIN} nan: 0"),
        (partial(ANY_RATE, 1, margin=math.inf), ValueError, rf"{MARGIN} inf: 0"),
        (partial(ANY_RATE, 1, margin=True), TypeError, rf"{MARGIN} True \(bool\): 0"),
        (partial(ANY_RATE, 1, margin=None), TypeError, rf"{MARGIN} None \(NoneType\): 0"),
        (
            partial(ANY_RATE, 1, cost=5),
            TypeError,
            r"^cost must be None or a function of the item.*got 5 \(int\): write Rate",
        ),
        (
            partial(ANY_RATE, 1, cost=weigh_slowly),
            TypeError,
            "^cost must be a plain function of the item, but weigh_slowly ",
        ),
        (
            partial(ANY_RATE, 1, cost=Scales()),
            TypeError,
            "^cost must be a plain function of the item, but <.*Scales.* async",
        ),
        (partial(ANY_RATE, 1, smooth=1), TypeError, r"^smooth must be True or False, got 1 \(int\)$"),
        (partial(ANY_RATE, 1, smooth=None), TypeError, r"^smooth must be True or False, got None \(NoneType\)$"),
    ],
)
def test_a_bad_argument_is_an_error_that_names_it_the_rule_the_value_and_the_fix(
    make: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_what_counts_as_an_integer_elsewhere_does_here() -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    rate = Rate(Two())  # type: ignore[arg-type]  # numpy's integers are such
    assert repr(rate) == "Rate(2)"
    assert rate.spare(0.0) == 2


def test_a_copy_has_the_same_rules_and_no_starts() -> None:
    rate = Rate(2, per=3, cost=weigh, smooth=True, margin=0.5)
    rate.ended(rate.started(2, 1.0), 1.0, "throttled", 60.0)
    twin = rate.copy()
    assert (twin.n, twin.per, twin.cost, twin.smooth, twin.margin) == (2, 3.0, weigh, True, 0.5)
    assert twin.next_start(2, 1.0) <= 1.0
    twin.started(2, 1.0)
    assert rate.next_start(2, 1.0) == 61.0
    assert twin.next_start(2, 1.0) == 4.5


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (Rate(10), "Rate(10)"),
        (Rate(10, 1.0), "Rate(10)"),
        (Rate(10, per=60), "Rate(10, per=60)"),
        (Rate(10, per=0.25, smooth=True, margin=0.1), "Rate(10, per=0.25, smooth=True, margin=0.1)"),
        (Rate(10, cost=weigh), "Rate(10, cost=weigh)"),
    ],
)
def test_its_repr_is_the_call_that_makes_it(rate: Rate, text: str) -> None:
    assert repr(rate) == text
