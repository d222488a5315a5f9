"""Promise 22: each key has its own bound, rate and gate, and none of it is felt by another."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomap.errors import CostAboveRate
from aiomap.limits.gate import Gate
from aiomap.limits.limit import Ending
from aiomap.limits.per_key import PerKey
from aiomap.limits.rate import Rate
from tests.limits.driver import Arrival, Clock, exact, late, millisecond, play

pytestmark = pytest.mark.once

many = settings(max_examples=80, deadline=None)

KEYS = st.sampled_from(["a", "b", "c", None])
CLOCKS = st.sampled_from([exact, millisecond, late([0.003, 0.0, 0.1])])
SPELLS = st.sampled_from([0.0, 0.0, 0.001, 0.25, 0.5, 1.0, 1.3, 4.0])
ENDINGS: st.SearchStrategy[tuple[Ending, float | None]] = st.one_of(
    st.sampled_from(["success", "success", "overloaded", "other"]).map(lambda ending: (ending, None)),
    st.tuples(st.just("throttled"), st.sampled_from([None, 0.0, 0.3, 2.0])),
)
RATES = st.sampled_from(
    [
        None,
        Rate(1),
        Rate(3, per=0.5),
        Rate(3, smooth=True),
        Rate(4, per=2, margin=0.5),
        Rate(4, cost=lambda item: item[1]),
    ]
)
ITEMS = st.tuples(KEYS, st.sampled_from([0, 1, 1, 2, 4]))


def key_of(item: Any) -> Any:
    return item[0]


@st.composite
def schedules(draw: st.DrawFn) -> list[Arrival]:
    time, arrivals = draw(st.sampled_from([0.0, 12_345.678])), list[Arrival]()
    for _ in range(draw(st.integers(1, 30))):
        time += draw(SPELLS)
        endings = tuple(draw(st.lists(ENDINGS, min_size=1, max_size=3)))
        patience = draw(st.sampled_from([math.inf, math.inf, 0.5]))
        arrivals.append(Arrival(time, draw(ITEMS), draw(SPELLS), endings, patience))
    return arrivals


class Counted:
    """A `PerKey`, with a count of what runs for each key."""

    def __init__(self, per_key: PerKey) -> None:
        self.per_key = per_key
        self.running: dict[Hashable, int] = {}
        self.most: dict[Hashable, int] = {}

    def claim(self, item: Any) -> Any:
        return item[0], self.per_key.claim(item)

    def next_start(self, claim: Any, now: float) -> float:
        return self.per_key.next_start(claim[1], now)

    def started(self, claim: Any, now: float) -> Any:
        key = claim[0]
        self.running[key] = self.running.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.running[key])
        return key, self.per_key.started(claim[1], now)

    def ended(self, ticket: Any, now: float, ending: Ending, retry_after: float | None) -> None:
        self.running[ticket[0]] -= 1
        self.per_key.ended(ticket[1], now, ending, retry_after)


@many
@given(schedules(), st.integers(1, 3), RATES, CLOCKS)
def test_of_no_key_run_more_than_may_and_its_window_holds(
    arrivals: list[Arrival], most: int, rate: Rate | None, clock: Clock
) -> None:
    counted = Counted(PerKey(key_of, most, rate))
    starts = play(arrivals, [counted], clock, line=key_of)
    assert all(count <= most for key, count in counted.most.items() if key is not None)
    if rate is None:
        return
    for i, first in enumerate(starts):
        window = [start.item for start in starts[i:] if start.time < first.time + (rate.per + rate.margin)]
        held = sum(1 if rate.cost is None else weight for key, weight in window if key == first.item[0])
        assert held <= rate.n or first.item[0] is None


class Alone:
    """What a `PerKey` is to mean: for each key a limit and a count that are kept for ever."""

    def __init__(self, most: int | None, rate: Rate | None) -> None:
        self.limit = Gate() if rate is None else rate.copy()
        self.most = math.inf if most is None else most
        self.running: list[tuple[Any, Any]] = []

    def next_start(self, weight: float, now: float) -> float:
        return math.inf if len(self.running) >= self.most else self.limit.next_start(weight, now)


@many
@given(st.lists(st.tuples(SPELLS, ITEMS, st.booleans(), ENDINGS), max_size=60), st.sampled_from([None, 1, 2]), RATES)
def test_what_happens_to_other_keys_changes_no_answer(events: Any, most: int | None, rate: Rate | None) -> None:
    per_key, now = PerKey(key_of, most, rate), 50.0
    alone = {key: Alone(most, rate) for key in "abc"}
    with patch("random.uniform", lambda low, high: (low + high) / 2):
        for spell, item, ends, (ending, retry_after) in events:
            now += spell
            for key in "abc":
                one, weight = alone[key], 1 if rate is None else rate.claim((key, item[1]))
                assert max(now, per_key.next_start((key, weight), now)) == max(now, one.next_start(weight, now))
                assert max(now, per_key.closed_until((key, weight))) == max(now, one.limit.closed_until(weight))
            claim = per_key.claim(item)
            if claim is None:
                continue
            one = alone[item[0]]
            weight = claim[1]
            if ends and one.running:
                ticket, same = one.running.pop(0)
                per_key.ended(ticket, now, ending, retry_after)
                one.limit.ended(same, now, ending, retry_after)
            elif not ends and one.next_start(weight, now) <= now:
                one.running.append((per_key.started(claim, now), one.limit.started(weight, now)))


def test_a_key_that_is_busy_does_not_hold_up_another() -> None:
    per_key = PerKey(key_of, 1)
    first = per_key.started(("a", 1), 0.0)
    assert per_key.next_start(("a", 1), 0.0) == math.inf
    assert per_key.next_start(("b", 1), 0.0) <= 0.0
    per_key.ended(first, 1.0, "success", None)
    assert per_key.next_start(("a", 1), 1.0) <= 1.0


@pytest.mark.parametrize("ending", ["success", "throttled", "overloaded", "other"])
def test_however_an_attempt_ends_its_place_is_free_again(ending: Ending) -> None:
    per_key = PerKey(key_of, 1)
    for number in range(10):
        per_key.ended(per_key.started(("a", 1), number), number + 0.5, ending, None)
    assert per_key.next_start(("a", 1), 100.0) < math.inf


def test_without_a_bound_any_number_of_one_key_run() -> None:
    per_key = PerKey(key_of)
    for _ in range(1000):
        per_key.started(("a", 1), 0.0)
    assert per_key.next_start(("a", 1), 0.0) <= 0.0


def test_an_item_without_a_key_is_not_limited() -> None:
    per_key = PerKey(key_of, 1, Rate(1, cost=lambda item: item[1]))
    claim = per_key.claim((None, 10**9))
    assert claim is None
    for number in range(5):
        assert per_key.next_start(claim, 0.0) <= 0.0
        ticket = per_key.started(claim, 0.0)
        if number % 2:
            per_key.ended(ticket, 0.0, "throttled", 60.0)
    assert per_key.next_start(claim, 0.0) <= 0.0
    assert per_key.closed_until(claim) <= 0.0
    assert not per_key._keys


@pytest.mark.parametrize("rate", [None, Rate(100)])
def test_a_throttle_closes_its_own_key_only(rate: Rate | None) -> None:
    per_key = PerKey(key_of, rate=rate)
    tickets = [per_key.started((key, 1), 0.0) for key in "ab"]
    per_key.ended(tickets[0], 1.0, "throttled", 5.0)
    assert per_key.next_start(("a", 1), 1.0) == per_key.closed_until(("a", 1)) == 6.0
    for other in "bc":
        assert per_key.next_start((other, 1), 1.0) <= 1.0
        assert per_key.closed_until((other, 1)) <= 1.0


@pytest.mark.parametrize("rate", [None, Rate(100)])
def test_what_started_before_a_key_was_closed_says_nothing_new_of_it(rate: Rate | None) -> None:
    per_key = PerKey(key_of, rate=rate)
    tickets = [per_key.started(("a", 1), 0.0) for _ in range(3)]
    with patch("random.uniform", lambda low, high: (low + high) / 2):
        per_key.ended(tickets[0], 1.0, "throttled", None)
        per_key.ended(tickets[1], 8.0, "throttled", None)
        per_key.ended(tickets[2], 9.0, "success", None)
        assert per_key.next_start(("a", 1), 9.0) <= 9.0
        per_key.ended(per_key.started(("a", 1), 9.0), 10.0, "throttled", None)
    assert per_key.next_start(("a", 1), 10.0) == 10.75


def test_each_key_has_a_rate_of_its_own_and_the_one_that_was_given_is_not_used() -> None:
    rate = Rate(1)
    per_key = PerKey(key_of, rate=rate)
    per_key.started(("a", 1), 0.0)
    assert per_key.next_start(("a", 1), 0.0) == 1.0
    assert per_key.next_start(("b", 1), 0.0) <= 0.0
    assert rate.next_start(1, 0.0) <= 0.0


def test_items_of_a_key_are_weighed_by_its_rate() -> None:
    per_key = PerKey(key_of, rate=Rate(10, cost=lambda item: item[1]))
    assert per_key.claim(("a", 7)) == ("a", 7)
    per_key.started(("a", 7), 0.0)
    assert per_key.next_start(("a", 3), 0.0) <= 0.0
    assert per_key.next_start(("a", 4), 0.0) == 1.0
    with pytest.raises(CostAboveRate, match=r"cost 11 can never start under Rate\(10"):
        per_key.claim(("a", 11))


def test_a_bound_without_a_rate_weighs_nothing() -> None:
    assert PerKey(key_of, 1).claim(("a", 10**9)) == ("a", 1)


def test_equal_keys_are_one_key() -> None:
    per_key = PerKey(key_of, 1)
    per_key.started(per_key.claim((("host", 80), 1)), 0.0)
    assert per_key.next_start(per_key.claim((("host", 80), 1)), 0.0) == math.inf
    assert per_key.next_start(per_key.claim((("host", 443), 1)), 0.0) <= 0.0


@pytest.mark.parametrize("key", ["", 0, False, ()])
def test_only_none_is_no_key(key: Hashable) -> None:
    per_key = PerKey(key_of, 1)
    per_key.started(per_key.claim((key, 1)), 0.0)
    assert per_key.next_start(per_key.claim((key, 1)), 0.0) == math.inf


@pytest.mark.parametrize(("key", "text"), [(["a", 80], r"\['a', 80\] \(list\)"), ({}, r"{} \(dict\)")])
def test_a_key_that_cannot_be_hashed_is_an_error_that_names_the_function_and_the_fix(key: Any, text: str) -> None:
    fix = r"return tuple\(\.\.\.\) of it, or key_of of something simpler"
    with pytest.raises(TypeError, match=f"^key must return something hashable, but key_of returned {text}: {fix}$"):
        PerKey(key_of).claim((key, 1))


def size(per_key: PerKey) -> int:
    """For how many keys something is kept."""
    assert set(per_key._idle) <= set(per_key._keys)
    return len(per_key._keys)


def test_of_a_hundred_thousand_keys_one_after_the_other_nothing_is_kept() -> None:
    per_key = PerKey(key_of, 2)
    for number in range(100_000):
        per_key.ended(per_key.started((number, 1), number * 0.001), number * 0.001, "success", None)
        assert size(per_key) == 0


def test_with_a_rate_a_key_is_kept_for_its_window_and_not_much_longer() -> None:
    per_key, most = PerKey(key_of, 2, Rate(4)), 0
    for number in range(30_000):
        per_key.ended(per_key.started((number, 1), number * 0.001), number * 0.001, "success", None)
        most = max(most, len(per_key._keys))
    assert 1000 <= most <= 2000  # 1,000 keys come in a window


def test_keys_are_dropped_whatever_their_attempts_end_with_as_long_as_it_is_no_throttle() -> None:
    per_key = PerKey(key_of, 2, Rate(4))
    for number in range(3000):
        ending: Ending = random.choice(["success", "other", "overloaded"])
        per_key.ended(per_key.started((number, 1), number), number + 0.1, ending, None)
    assert size(per_key) <= 3


def test_a_key_is_kept_while_any_of_its_attempts_runs() -> None:
    per_key = PerKey(key_of, 2)
    long = [per_key.started(("a", 1), 0.0) for _ in range(2)]
    for number in range(100):
        per_key.ended(per_key.started((number, 1), number), number, "success", None)
    assert per_key.next_start(("a", 1), 100.0) == math.inf
    assert size(per_key) == 1
    per_key.ended(long[0], 100.0, "success", None)
    assert per_key.next_start(("a", 1), 100.0) <= 100.0
    per_key.started(("a", 1), 100.0)
    assert per_key.next_start(("a", 1), 100.0) == math.inf


def test_a_key_that_comes_back_while_it_is_looked_over_is_not_dropped() -> None:
    per_key = PerKey(key_of, 1, Rate(1))
    per_key.ended(per_key.started(("a", 1), 0.0), 0.1, "success", None)
    per_key.started(("a", 1), 1.0)
    for number in range(10):
        per_key.ended(per_key.started((number, 1), 5.0 + number), 5.0 + number, "success", None)
    assert per_key.next_start(("a", 1), 20.0) == math.inf


@pytest.mark.parametrize("rate", [None, Rate(4)])
def test_a_key_that_is_closed_or_has_not_succeeded_since_is_kept(rate: Rate | None) -> None:
    per_key = PerKey(key_of, rate=rate)
    with patch("random.uniform", lambda low, high: (low + high) / 2):
        per_key.ended(per_key.started(("a", 1), 0.0), 0.0, "throttled", 50.0)
        for number in range(100):
            per_key.ended(per_key.started((number, 1), 1.0 + number), 1.0 + number, "success", None)
            assert per_key.closed_until(("a", 1)) == 50.0
        per_key.ended(per_key.started(("a", 1), 200.0), 200.0, "throttled", None)
        assert per_key.closed_until(("a", 1)) == 200.75  # the second in a row
        per_key.ended(per_key.started(("a", 1), 300.0), 300.0, "success", None)
        for number in range(3):
            per_key.ended(per_key.started((number, 1), 400.0 + number), 400.5 + number, "success", None)
    assert "a" not in per_key._keys


def test_keys_that_must_be_kept_do_not_keep_others_from_being_dropped() -> None:
    per_key = PerKey(key_of, rate=Rate(4))
    for key in "abcde":
        per_key.ended(per_key.started((key, 1), 0.0), 0.0, "throttled", 1e9)
    for number in range(1000):
        per_key.ended(per_key.started((number, 1), number), number, "success", None)
    assert 6 <= size(per_key) <= 20


@pytest.mark.parametrize("rate", [None, Rate(4, per=60)])
def test_a_clock_that_goes_back_is_another_one_and_every_key_starts_anew(rate: Rate | None) -> None:
    per_key = PerKey(key_of, 1, rate)
    for key in range(100):
        per_key.ended(per_key.started((key, 1), 1000.0), 1001.0, "throttled", 3600.0)
    assert all(per_key.next_start((key, 1), 5.0) <= 5.0 for key in range(100))
    assert size(per_key) == 0


def test_an_end_tells_the_time_too() -> None:
    per_key = PerKey(key_of)
    per_key.ended(per_key.started(("a", 1), 0.0), 5.0, "throttled", 3600.0)
    assert per_key.next_start(("a", 1), 0.0) <= 0.0


async def key_slowly(item: Any) -> str:
    return "a"


class Keys:
    async def __call__(self, _: Any) -> str:
        return "a"


ANY_PER_KEY: Any = PerKey  # whose arguments no type checker looks at

MOST = r"^max_concurrent_tasks must be None \(no bound\) or an integer of at least 1, got"


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            partial(ANY_PER_KEY, "host"),
            TypeError,
            r"^key must be a function of the item .*got 'host' \(str\): write PerKey\(",
        ),
        (
            partial(ANY_PER_KEY, None),
            TypeError,
            r"^key must be a function of the item .*got None \(NoneType\): write PerKey\(",
        ),
        (
            partial(ANY_PER_KEY, key_slowly),
            TypeError,
            "^key must be a plain function of the item, but key_slowly is an async",
        ),
        (
            partial(ANY_PER_KEY, Keys()),
            TypeError,
            "^key must be a plain function of the item, but <.*Keys.* is an async",
        ),
        (partial(ANY_PER_KEY, key_of, 0), ValueError, f"{MOST} 0: 1 runs one item of each key at a time$"),
        (partial(ANY_PER_KEY, key_of, -1), ValueError, f"{MOST} -1: 1 runs one"),
        (partial(ANY_PER_KEY, key_of, True), TypeError, rf"{MOST} True \(bool\)$"),
        (partial(ANY_PER_KEY, key_of, 2.5), TypeError, rf"{MOST} 2.5 \(float\)$"),
        (partial(ANY_PER_KEY, key_of, 2.0), TypeError, rf"{MOST} 2.0 \(float\): write 2$"),
        (partial(ANY_PER_KEY, key_of, math.inf), TypeError, rf"{MOST} inf \(float\)$"),
        (partial(ANY_PER_KEY, key_of, "2"), TypeError, rf"{MOST} '2' \(str\)$"),
        (
            partial(ANY_PER_KEY, key_of, rate=4),
            TypeError,
            r"^rate must be None or a Rate, got 4 \(int\): write PerKey\(key, rate",
        ),
        (partial(ANY_PER_KEY, key_of, rate=Rate), TypeError, "^rate must be None or a Rate, got <class"),
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

    per_key = PerKey(key_of, Two())  # type: ignore[arg-type]  # numpy's integers are such
    assert per_key.max_concurrent_tasks == 2
    for _ in range(2):
        per_key.started(("a", 1), 0.0)
    assert per_key.next_start(("a", 1), 0.0) == math.inf


@pytest.mark.parametrize(
    ("per_key", "text"),
    [
        (PerKey(key_of), "PerKey(key_of)"),
        (PerKey(key_of, 2), "PerKey(key_of, max_concurrent_tasks=2)"),
        (PerKey(key_of, 2, Rate(4)), "PerKey(key_of, max_concurrent_tasks=2, rate=Rate(4))"),
        (PerKey(key_of, rate=Rate(4)), "PerKey(key_of, rate=Rate(4))"),
    ],
)
def test_its_repr_is_the_call_that_makes_it(per_key: PerKey, text: str) -> None:
    assert repr(per_key) == text
