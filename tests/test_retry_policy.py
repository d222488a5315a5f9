"""Promise 19, the part of one question: is this failure tried again, and after how long. Ours and tenacity's."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
import math
import pickle
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
import tenacity
import tenacity.asyncio
from hypothesis import given
from hypothesis import strategies as st

from aiomap._retry import Retry, RetryPolicy
from aiomap._tenacity import TenacityPolicy, is_tenacity
from aiomap.errors import Throttled
from aiomap.throttling import http_throttle


class Odd(Exception):  # an exception of a user's
    pass


def is_odd(error: Exception) -> bool:
    return isinstance(error, Odd)


async def is_odd_after_all(_: Exception) -> bool:
    return True


def in_disguise(error: Any) -> Any:
    return is_odd_after_all(error)


async def odd_ones(_: Exception) -> AsyncIterator[bool]:
    yield True


class AsyncPredicate:
    async def __call__(self, _: Exception) -> bool:
        return True


class Predicate:
    def __call__(self, _: Exception) -> bool:
        return True

    def __repr__(self) -> str:
        return "Predicate()"


def bad_gateway(status: int = 429) -> Exception:
    request = httpx.Request("GET", "http://localhost/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, headers={"Retry-After": "7"}))


def next_delay(policy: RetryPolicy, error: Exception, failures: int) -> float | None:
    return policy.next_delay(error, failures, 0.0, 0.0, "item")


def test_on_names_the_errors_that_are_tried_again() -> None:
    assert Retry(on=OSError).retries(TimeoutError())
    assert not Retry(on=OSError).retries(ValueError())
    assert Retry(on=(KeyError, OSError)).retries(TimeoutError())
    assert not Retry(on=(KeyError, OSError)).retries(ValueError())
    assert Retry(on=is_odd).retries(Odd())
    assert not Retry(on=is_odd).retries(ValueError())
    assert Retry(on=Predicate()).retries(ValueError())
    assert Retry(lambda _: 1).retries(ValueError()) is True  # type: ignore[arg-type,return-value]


def test_an_error_of_the_predicate_passes_through() -> None:
    def broken(_: Exception) -> bool:
        raise Odd("broken")

    with pytest.raises(Odd, match="broken"):
        Retry(on=broken).retries(ValueError())
    with pytest.raises(Odd, match="broken"):
        Retry(on=OSError, throttle=broken).throttled(ValueError())  # type: ignore[arg-type]


def test_attempts_counts_all_calls() -> None:
    policy = Retry(on=Odd, attempts=3)
    assert [next_delay(policy, Odd(), failures) is not None for failures in (1, 2, 3, 4)] == [True, True, False, False]
    assert next_delay(Retry(on=Odd, attempts=1), Odd(), 1) is None
    assert next_delay(Retry(on=Odd), Odd(), 3) is not None
    assert next_delay(Retry(on=Odd), Odd(), 4) is None


def test_an_error_that_on_does_not_name_is_final() -> None:
    assert next_delay(Retry(on=Odd), ValueError(), 1) is None


@given(
    st.integers(1, 10**6),
    st.floats(min_value=1e-300, max_value=1e300),
    st.floats(min_value=0, max_value=1e300),
    st.integers(0, 2**32),
)
def test_a_delay_lies_between_nothing_and_the_doubled_base_or_the_cap(
    failures: int, start: float, cap: float, seed: int
) -> None:
    random.seed(seed)
    delay = Retry(on=Odd, base=start, cap=cap).delay(failures)
    assert 0 <= delay <= cap
    assert failures > 1000 or delay <= start * 2.0 ** (failures - 1)


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (10**6, 60.0)])
def test_delays_fill_their_range_evenly(failures: int, longest: float) -> None:
    random.seed(41)
    policy = Retry(on=Odd)
    counts = [0] * 10
    for _ in range(10_000):
        counts[min(9, int(policy.delay(failures) / longest * 10))] += 1
    # 1000 in each, give or take five standard deviations of 30.
    assert all(850 < count < 1150 for count in counts), counts


def test_a_cap_below_the_base_bounds_all_and_none_at_all_means_no_back_off() -> None:
    assert max(Retry(on=Odd, base=9, cap=2).delay(1) for _ in range(100)) <= 2
    assert Retry(on=Odd, cap=0).delay(5) == 0.0


def test_delays_come_from_the_global_generator_so_that_a_test_can_seed_it() -> None:
    random.seed(7)
    first = Retry(on=Odd).delay(3)
    random.seed(7)
    assert Retry(on=Odd).delay(3) == first


RULE_OF_ON = "on must be an exception type, a tuple of them, or a function of the error"


@pytest.mark.parametrize(
    ("on", "kind", "hint"),
    [
        (None, TypeError, "got None: say which errors are worth another attempt, write on=ConnectionError"),
        (BaseException, TypeError, "got BaseException: .* never tried again: write Exception"),
        (KeyboardInterrupt, TypeError, "got KeyboardInterrupt: .* never tried again: write Exception"),
        (SystemExit, TypeError, "got SystemExit: .* never tried again: write Exception"),
        (asyncio.CancelledError, TypeError, "got CancelledError: .* never tried again: write Exception"),
        (GeneratorExit, TypeError, "got GeneratorExit: .* never tried again: write Exception"),
        ((OSError, asyncio.CancelledError), TypeError, "got CancelledError: .* never tried again"),
        (int, TypeError, "got the class int, which is no exception"),
        ((OSError, int), TypeError, "got the class int"),
        ((OSError, is_odd), TypeError, "got <function is_odd.* in the tuple"),
        ((OSError, (KeyError,)), TypeError, r"got \(<class 'KeyError'>,\) in the tuple"),
        ((), ValueError, "got an empty tuple: .* leave out retry="),
        ([OSError, KeyError], TypeError, r"got a list: write a tuple, on=\(OSError, KeyError,\)"),
        ({OSError}, TypeError, r"got a set: write a tuple, on=\(OSError,\)"),
        (OSError("x"), TypeError, "got the exception OSError.*write its type, on=OSError"),
        ("OSError", TypeError, r"got 'OSError' \(str\)"),
        (OSError | KeyError, TypeError, r"\(UnionType\): write .*on=\(ConnectionError, TimeoutError\)"),
        (503, TypeError, r"got 503 \(int\)"),
        (is_odd_after_all, TypeError, "but is_odd_after_all is async, and nobody would await it"),
        (functools.partial(is_odd_after_all), TypeError, "is async"),
        (AsyncPredicate(), TypeError, "is async"),
        (odd_ones, TypeError, "odd_ones is async"),
    ],
)
def test_an_on_that_names_no_errors_is_refused_with_the_fix(on: Any, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=f"{RULE_OF_ON}.*{hint}"):
        Retry(on=on)


def test_on_has_no_default() -> None:
    with pytest.raises(TypeError, match="'on'"):
        Retry()  # type: ignore[call-arg]


def test_a_predicate_that_turns_out_to_be_async_is_an_error_and_no_warning() -> None:
    with pytest.raises(TypeError, match=r"on: .*must answer at once.*without async and await"):
        Retry(on=in_disguise).retries(Odd())


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("attempts", 0, ValueError),
        ("attempts", -1, ValueError),
        ("attempts", True, TypeError),
        ("attempts", 2.0, TypeError),
        ("attempts", math.inf, TypeError),
        ("attempts", None, TypeError),
        ("attempts", "3", TypeError),
        *((name, math.nan, ValueError) for name in ("base", "cap", "budget", "max_retry_after", "throttle_timeout")),
        *((name, -0.1, ValueError) for name in ("base", "cap", "budget", "max_retry_after", "throttle_timeout")),
        *((name, True, TypeError) for name in ("base", "cap", "budget", "max_retry_after", "throttle_timeout")),
        *((name, "1", TypeError) for name in ("base", "cap", "budget", "max_retry_after", "throttle_timeout")),
        *((name, 10**400, ValueError) for name in ("base", "cap", "budget", "max_retry_after", "throttle_timeout")),
        *((name, Decimal(1), TypeError) for name in ("base", "cap", "budget", "max_retry_after", "throttle_timeout")),
        *((name, math.inf, ValueError) for name in ("base", "cap", "budget", "max_retry_after")),
        *((name, None, TypeError) for name in ("base", "cap", "max_retry_after", "throttle_timeout")),
        ("base", 0, ValueError),
        ("max_retry_after", 0, ValueError),
        ("throttle_timeout", -math.inf, ValueError),
        ("throttle", 429, TypeError),
        ("throttle", Throttled, TypeError),
        ("throttle", is_odd_after_all, TypeError),
        ("throttle", AsyncPredicate(), TypeError),
    ],
)
def test_a_bad_number_is_refused_with_its_name_and_rule(name: str, value: Any, kind: type[Exception]) -> None:
    keywords = {name: value}
    with pytest.raises(kind, match=rf"^{name} must be .*(got|but) \S"):
        Retry(on=Odd, **keywords)


def test_the_message_on_attempts_says_what_it_counts() -> None:
    with pytest.raises(ValueError, match="counts all calls for an item, the first one too"):
        Retry(on=Odd, attempts=0)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    policy = Retry(on=Odd, attempts=1, cap=0, budget=0, throttle_timeout=math.inf, throttle=None)
    assert (policy.attempts, policy.cap, policy.budget, policy.throttle_timeout) == (1, 0.0, 0.0, math.inf)
    assert Retry(on=Odd, budget=None, throttle_timeout=0).budget is None


def test_the_defaults_are_those_of_the_contract() -> None:
    policy = Retry(Odd)
    assert (policy.attempts, policy.base, policy.cap, policy.budget) == (4, 0.5, 60.0, 0.2)
    assert (policy.max_retry_after, policy.throttle_timeout, policy.throttle) == (120.0, 300.0, http_throttle)


CHANGES: list[dict[str, Any]] = [
    {"on": ValueError},
    {"attempts": 5},
    {"base": 0.25},
    {"cap": 30.0},
    {"budget": None},
    {"max_retry_after": 60.0},
    {"throttle_timeout": math.inf},
    {"throttle": None},
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_retry_is_an_immutable_value(change: dict[str, Any]) -> None:
    plain, changed = Retry(on=Odd), Retry(**{"on": Odd, **change})
    assert plain == Retry(on=Odd)
    assert hash(plain) == hash(Retry(on=Odd))
    assert changed == Retry(**{"on": Odd, **change})
    assert changed != plain
    assert plain != "Retry(on=Odd)"
    for again in (copy.copy(changed), copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):  # noqa: S301
        assert again == changed
        assert hash(again) == hash(changed)
        assert type(again) is Retry
    (name,) = change
    with pytest.raises(AttributeError, match=rf"cannot be changed \({name} = .*make a new one"):
        setattr(plain, name, change[name])
    with pytest.raises(AttributeError, match="cannot be changed"):
        delattr(plain, name)
    with pytest.raises(AttributeError, match="cannot be changed"):
        plain.attempt = 3
    assert plain == Retry(on=Odd)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Retry(Odd), "Retry(on=Odd)"),
        (Retry((OSError,)), "Retry(on=(OSError,))"),
        (Retry((OSError, Odd), 6, budget=None), "Retry(on=(OSError, Odd), attempts=6, budget=None)"),
        (Retry(is_odd, base=1, throttle=None), "Retry(on=is_odd, base=1.0, throttle=None)"),
        (Retry(Predicate(), attempts=4, cap=60), "Retry(on=Predicate())"),
        (Retry(Odd, throttle_timeout=math.inf), "Retry(on=Odd, throttle_timeout=inf)"),
    ],
)
def test_its_repr_shows_what_was_changed(policy: Retry, text: str) -> None:
    assert repr(policy) == text


def test_a_throttle_is_recognised_by_the_classifier() -> None:
    throttled = Retry(on=Odd).throttled(bad_gateway())
    assert throttled is not None
    assert throttled.retry_after == 7.0
    assert Retry(on=Odd).throttled(bad_gateway(500)) is None


@pytest.mark.parametrize("throttle", [None, http_throttle, lambda _: None])
def test_an_explicit_throttled_counts_whatever_the_classifier_says(throttle: Any) -> None:
    error = Throttled(3)
    assert Retry(on=Odd, throttle=throttle).throttled(error) is error
    assert Retry(on=Odd, throttle=None).throttled(bad_gateway()) is None


def test_a_classifier_of_ones_own_is_asked_instead() -> None:
    policy = Retry(on=OSError, throttle=lambda error: Throttled(9) if is_odd(error) else None)
    assert getattr(policy.throttled(Odd()), "retry_after", None) == 9.0
    assert policy.throttled(bad_gateway()) is None


@pytest.mark.parametrize("answer", [5, True, False, "5", Throttled])
def test_a_classifier_that_answers_something_else_is_told_what_to_write(answer: Any) -> None:
    with pytest.raises(
        TypeError, match=r"throttle: .*must return a Throttled or None, got .*write Throttled\(seconds\)"
    ):
        Retry(on=Odd, throttle=lambda _: answer).throttled(Odd())


def test_a_classifier_that_turns_out_to_be_async_is_an_error_and_no_warning() -> None:
    with pytest.raises(TypeError, match=r"throttle: .*must answer at once"):
        Retry(on=Odd, throttle=in_disguise).throttled(Odd())


async def fetch(link: str) -> str:
    return link


def of_tenacity(**parts: Any) -> TenacityPolicy:
    return TenacityPolicy(tenacity.AsyncRetrying(**parts), fetch)


def step(policy: TenacityPolicy, errors: list[Exception], takes: float) -> list[float]:
    """The delays that an item gets whose attempts take so long and fail so, as the engine asks for them."""
    delays: list[float] = []
    elapsed = waited = 0.0
    for failures, error in enumerate(errors, start=1):
        elapsed += takes
        delay = policy.next_delay(error, failures, elapsed, waited, "link")
        if delay is None:
            break
        delays.append(delay)
        waited += delay
        elapsed += delay
    return delays


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time that tenacity reads, to be moved by hand."""
    now = [1000.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        yield now


def as_tenacity_sleeps(clock: list[float], errors: list[Exception], takes: float, parts: dict[str, Any]) -> list[float]:
    """What tenacity itself sleeps between the same attempts."""
    slept: list[float] = []
    failing = iter(errors)

    class Enough(Exception):
        pass

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds
        if len(slept) == len(errors):
            raise Enough

    def attempt() -> None:
        clock[0] += takes
        raise next(failing)

    with contextlib.suppress(Enough, tenacity.RetryError, Odd, OSError, tenacity.TryAgain):
        tenacity.Retrying(sleep=sleep, **parts)(attempt)
    return slept


WAITS: dict[str, Any] = {
    "none": tenacity.wait_none(),
    "fixed": tenacity.wait_fixed(1.5),
    "exponential": tenacity.wait_exponential(multiplier=0.5, max=5),
    "incrementing": tenacity.wait_incrementing(start=1, increment=2, max=4),
    "chain": tenacity.wait_chain(*(tenacity.wait_fixed(n) for n in (1, 2, 5))),
    "sum": tenacity.wait_fixed(1) + tenacity.wait_exponential(),
    "of the error": tenacity.wait_exception(lambda error: float(len(str(error)))),
    "a function": lambda state: state.attempt_number / 4 + state.seconds_since_start / 8,
}
STOPS: dict[str, Any] = {
    "never": tenacity.stop_never,
    "attempts": tenacity.stop_after_attempt(3),
    "one attempt": tenacity.stop_after_attempt(1),
    "after delay": tenacity.stop_after_delay(timedelta(seconds=4)),
    "before delay": tenacity.stop_before_delay(6),
    "any": tenacity.stop_after_attempt(5) | tenacity.stop_before_delay(9),
    "all": tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(3),
    "a function": lambda state: state.idle_for > 4,
}
RETRIES: dict[str, Any] = {
    "default": tenacity.retry_if_exception_type(),
    "type": tenacity.retry_if_exception_type(OSError),
    "not type": tenacity.retry_if_not_exception_type(Odd),
    "unless": tenacity.retry_unless_exception_type(Odd),
    "predicate": tenacity.retry_if_exception(lambda error: "x" in str(error)),
    "message": tenacity.retry_if_exception_message(match="x"),
    "cause": tenacity.retry_if_exception_cause_type(KeyError),
    "result": tenacity.retry_if_result(lambda _: False),
    "any": tenacity.retry_if_exception_type(KeyError) | tenacity.retry_if_exception_type(OSError),
    "all": tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_not_exception_type(TimeoutError),
    "never": tenacity.retry_never,
    "always": tenacity.retry_always,
}


def failing(letter: str) -> Exception:
    if letter == "o":
        return Odd("x")
    if letter == "a":
        return tenacity.TryAgain()
    error = OSError("x" * 3)
    if letter == "c":
        error.__cause__ = KeyError()
    return error


@pytest.mark.parametrize("retry", RETRIES)
@pytest.mark.parametrize("stop", STOPS)
def test_the_delays_are_those_that_tenacity_itself_would_sleep(clock: list[float], retry: str, stop: str) -> None:
    for name, wait in WAITS.items():
        parts = {"retry": RETRIES[retry], "stop": STOPS[stop], "wait": wait}
        for kinds in ("cccccccc", "cfcfcf", "ccofcc", "accaoc"):
            errors = [failing(letter) for letter in kinds]
            expected = as_tenacity_sleeps(clock, errors, 0.5, parts)
            assert step(of_tenacity(**parts), errors, 0.5) == pytest.approx(expected), (name, kinds)


@given(st.integers(1, 50), st.integers(0, 2**32))
def test_random_waits_are_drawn_as_tenacity_draws_them(failures: int, seed: int) -> None:
    wait = tenacity.wait_random_exponential(multiplier=0.5, max=60) + tenacity.wait_random(0, 2)
    random.seed(seed)
    delay = of_tenacity(wait=wait).next_delay(Odd(), failures, 1.0, 0.0, "item")
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = failures
    random.seed(seed)
    assert delay == wait(state)


def test_nothing_is_kept_on_the_policy_object() -> None:
    policy = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(9), wait=tenacity.wait_exponential())
    before = {name: value for name, value in vars(policy).items() if name != "_local"}
    stepped = TenacityPolicy(policy, fetch)
    # Two items in turn, as they fail.
    assert [stepped.next_delay(Odd(), n, 1.0, 0.0, item) for n in (1, 2, 3) for item in "ab"] == [1, 1, 2, 2, 4, 4]
    assert {name: value for name, value in vars(policy).items() if name != "_local"} == before
    assert policy.statistics == {}


def test_a_part_is_told_of_the_item() -> None:
    seen: list[Any] = []

    def retry(state: Any) -> bool:
        outcome = state.outcome
        seen.append(
            (state.fn, state.args, state.kwargs, state.attempt_number, state.idle_for, state.seconds_since_start)
        )
        assert state.seconds_since_start == pytest.approx(state.outcome_timestamp - state.start_time)
        assert outcome.failed
        assert outcome.done()
        assert not outcome.cancelled()
        assert isinstance(outcome.exception(), Odd)
        assert outcome.attempt_number == 2
        assert state.retry_object is policy
        with pytest.raises(Odd):
            outcome.result()
        state.own_attribute = True
        return bool(state.get_fn_name() == "fetch")

    policy = tenacity.Retrying(retry=retry, wait=lambda state: 3.0 * state.own_attribute)  # type: ignore[attr-defined]
    assert TenacityPolicy(policy, fetch).next_delay(Odd(), 2, 8.0, 5.0, "link") == 3.0
    assert seen == [(fetch, ("link",), {}, 2, 5.0, 8.0)]


def test_what_is_logged_before_a_sleep_and_after_a_failure_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("of the user")
    policy = of_tenacity(
        wait=tenacity.wait_fixed(2),
        stop=tenacity.stop_after_attempt(2),
        after=tenacity.after_log(logger, logging.WARNING),
        before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
    )
    assert step(policy, [Odd("x"), Odd("y")], 0.5) == [2.0]
    assert caplog.messages == [
        "Finished call to 'fetch' after 0.5(s), this was the 1st time calling it.",
        "Retrying fetch in 2 seconds as it raised Odd: x.",
        "Finished call to 'fetch' after 3(s), this was the 2nd time calling it.",
    ]


def test_before_a_sleep_a_part_is_told_of_it() -> None:
    told: list[Any] = []
    policy = of_tenacity(
        wait=tenacity.wait_fixed(2),
        before_sleep=lambda state: told.append((state.upcoming_sleep, state.next_action.sleep, state.idle_for)),
    )
    assert step(policy, [Odd(), Odd()], 0.5) == [2.0, 2.0]
    assert told == [(2.0, 2.0, 2.0), (2.0, 2.0, 4.0)]


def test_a_policy_that_is_switched_off_gives_no_second_chance() -> None:
    assert of_tenacity(enabled=False).next_delay(Odd(), 1, 1.0, 0.0, "item") is None


async def later(_: Any) -> Any:
    return 1


@pytest.mark.parametrize("part", ["retry", "stop", "wait", "after", "before_sleep"])
@pytest.mark.parametrize("asked", [later, AsyncPredicate()])
def test_an_async_part_is_refused_at_the_call(part: str, asked: Any) -> None:
    with pytest.raises(TypeError, match=f"the {part} of the tenacity policy given as retry is async.*with `def`"):
        of_tenacity(**{part: asked})


def test_a_predicate_of_tenacity_asyncio_is_refused_at_the_call() -> None:
    async def predicate(_: BaseException) -> bool:
        return True

    for retry in (
        tenacity.asyncio.retry_if_exception(predicate),
        tenacity.asyncio.retry_if_exception(predicate) | tenacity.retry_if_exception_type(Odd),
    ):
        with pytest.raises(TypeError, match=r"not those in tenacity\.asyncio"):
            of_tenacity(retry=retry)


@pytest.mark.parametrize("part", ["retry", "stop", "wait", "after", "before_sleep"])
def test_a_part_that_turns_out_to_be_async_is_an_error_and_no_warning(part: str) -> None:
    policy = of_tenacity(**{part: in_disguise})
    with pytest.raises(TypeError, match=f"the {part} of a tenacity policy, .*must answer at once.*without async"):
        policy.next_delay(Odd(), 1, 1.0, 0.0, "item")


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, math.inf, None, "2", True, timedelta(seconds=1)])
def test_a_wait_that_is_no_time_to_wait_is_named(seconds: Any) -> None:
    def odd_wait(_: Any) -> Any:
        return seconds

    with pytest.raises(ValueError, match=r"the wait of a tenacity policy, .*odd_wait, must give .*after attempt 3"):
        of_tenacity(wait=odd_wait).next_delay(Odd(), 3, 1.0, 0.0, "item")


def test_a_callback_that_would_replace_the_outcome_is_refused() -> None:
    with pytest.raises(TypeError, match=r'retry_error_callback.*on_error="return"'):
        of_tenacity(retry_error_callback=lambda _: None)


def test_an_error_of_a_part_passes_through() -> None:
    def broken(_: Any) -> bool:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        of_tenacity(stop=broken).next_delay(Odd(), 1, 1.0, 0.0, "item")


@pytest.mark.parametrize("policy", [tenacity.Retrying(), tenacity.AsyncRetrying(wait=tenacity.wait_fixed(1))])
def test_a_policy_of_tenacity_is_known_by_its_shape(policy: object) -> None:
    assert is_tenacity(policy)


class NotYetAPolicy:
    retry = stop = wait = is_odd


@pytest.mark.parametrize(
    "thing",
    [
        None,
        3,
        Retry(on=Odd),
        Retry,
        tenacity,
        tenacity.Retrying,
        tenacity.retry(fetch),
        tenacity.stop_never,
        NotYetAPolicy,
    ],
)
def test_what_is_no_policy_of_tenacity_is_not_taken_for_one(thing: object) -> None:
    assert not is_tenacity(thing)


@pytest.mark.parametrize("policy", [Retry(on=Odd), of_tenacity()])
def test_both_kinds_answer_the_same_questions(policy: RetryPolicy) -> None:
    assert getattr(policy.throttled(bad_gateway()), "retry_after", None) == 7.0
    assert policy.throttled(Odd()) is None
    assert (policy.max_retry_after, policy.throttle_timeout) == (120.0, 300.0)
    assert next_delay(policy, Odd(), 1) is not None


def test_tenacity_has_no_budget() -> None:
    assert of_tenacity().budget is None


def test_tenacity_is_not_imported_and_random_only_when_a_delay_is_drawn() -> None:
    import subprocess

    code = (
        "import sys; from aiomap._retry import Retry; from aiomap._tenacity import TenacityPolicy\n"
        "policy = Retry(on=OSError); print('random' in sys.modules, end=' '); policy.delay(1)\n"
        "print('random' in sys.modules, 'tenacity' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "False True False\n"
