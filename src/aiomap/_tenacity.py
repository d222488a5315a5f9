"""The policies of tenacity, as they are, as retry policies.

Invariant: tenacity is not imported, and nothing is kept on the user's policy object: its own counters belong to a
thread, not to a task, so two items at once would mix them up. Only its parts are asked, `retry`, `wait` and `stop`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn, final

from aiomap._retry import is_async, no_awaitable
from aiomap._verdict import named, shortened
from aiomap.errors import Throttled
from aiomap.throttling import MAX_RETRY_AFTER, THROTTLE_TIMEOUT, http_throttle

__all__ = ["TenacityPolicy", "is_tenacity"]

_PARTS: Final = ("retry", "stop", "wait")


def is_tenacity(policy: object) -> bool:
    """Whether it has the shape of a `tenacity.Retrying` or `AsyncRetrying` object."""
    return not isinstance(policy, type) and all(callable(getattr(policy, part, None)) for part in _PARTS)


@final
class TenacityPolicy:
    """A `tenacity.Retrying` or `AsyncRetrying` object, asked for its decision and its delay and never left to sleep.

    policy: the object; its `retry`, `wait` and `stop` decide as they do in tenacity, and its `after` and `before_sleep`
        are called. An item that it gives up fails with its last error, as with `reraise=True`.
    function: the function that is mapped, for what the policy's parts are told.

    Throttles are as with a `Retry` and its defaults. There is no budget: tenacity has none.

    Only failures are asked about, so `retry_if_result` never applies; `before` and `sleep` are not called.

    TypeError: a part of the policy is async, or it has a `retry_error_callback`, which would replace the outcome.
    """

    __slots__ = ("_function", "_policy")

    @property
    def budget(self) -> None:
        """There is none."""
        return

    @property
    def max_retry_after(self) -> float:
        """Seconds, as of a `Retry`."""
        return MAX_RETRY_AFTER

    @property
    def throttle_timeout(self) -> float:
        """Seconds, as of a `Retry`."""
        return THROTTLE_TIMEOUT

    def __init__(self, policy: Any, function: Callable[..., Any]) -> None:
        for part in (*_PARTS, "after", "before_sleep"):
            if is_async(getattr(policy, part, None)):
                raise TypeError(
                    f"the {part} of the tenacity policy given as retry is async, but it must answer at once: write it "
                    "with `def` (use the parts in tenacity, not those in tenacity.asyncio)"
                )
        if getattr(policy, "retry_error_callback", None) is not None:
            raise TypeError(
                "the tenacity policy given as retry has a retry_error_callback, whose result a map cannot use: leave "
                'it out, and write on_error="return" or "skip" to go on after a failure'
            )
        self._policy = policy
        self._function = function

    def throttled(self, error: Exception) -> Throttled | None:
        """As the default classifier says."""
        return http_throttle(error)

    def next_delay(self, error: Exception, failures: int, elapsed: float, waited: float, item: Any, /) -> float | None:
        """Seconds until the next attempt, or `None`: no more. In tenacity's own order."""
        policy = self._policy
        if not getattr(policy, "enabled", True):
            return None
        state = RetryState(policy, self._function, item, _Outcome(error, failures), elapsed, waited)
        if not (_is_try_again(error) or self._ask("retry", state)):
            return None
        self._tell("after", state)
        state.upcoming_sleep = self._wait(state)
        if self._ask("stop", state):
            return None
        state.next_action = _Sleep(state.upcoming_sleep)
        state.idle_for += state.upcoming_sleep
        self._tell("before_sleep", state)
        return state.upcoming_sleep

    def _ask(self, part: str, state: RetryState) -> Any:
        asked = getattr(self._policy, part)
        return no_awaitable(asked(state), f"the {part} of a tenacity policy, {named(asked)},")

    def _tell(self, part: str, state: RetryState) -> None:
        if getattr(self._policy, part, None) is not None:
            self._ask(part, state)

    def _wait(self, state: RetryState) -> float:
        seconds = self._ask("wait", state)
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < math.inf:
            return float(seconds)
        raise ValueError(
            f"the wait of a tenacity policy, {named(self._policy.wait)}, must give a finite number of seconds of at "
            f"least 0, gave {shortened(seconds)} after attempt {state.attempt_number}"
        )


def _is_try_again(error: Exception) -> bool:
    """Whether it is a `tenacity.TryAgain`, for which no predicate is asked."""
    return any(kind.__name__ == "TryAgain" and kind.__module__ == "tenacity" for kind in type(error).__mro__)


class RetryState:
    """What a part of a policy may read of an item: by name, the attributes of `tenacity.RetryCallState`.

    A new one for each question, with room for attributes of the parts' own.
    """

    def __init__(
        self, policy: Any, function: Callable[..., Any], item: Any, outcome: _Outcome, elapsed: float, waited: float
    ) -> None:
        self.retry_object = policy
        self.fn = function
        self.args = (item,)
        self.kwargs: dict[str, Any] = {}
        self.attempt_number = outcome.attempt_number
        self.outcome = outcome
        # tenacity's clock, whatever the loop's is; the difference is exact.
        self.outcome_timestamp = time.monotonic()
        self.start_time = self.outcome_timestamp - elapsed
        self.seconds_since_start = elapsed
        self.idle_for = waited
        self.upcoming_sleep = 0.0
        self.next_action: _Sleep | None = None

    def get_fn_name(self) -> str:
        """A name for the mapped function."""
        return named(self.fn)


class _Sleep:
    """What comes next, as `tenacity.RetryAction` says it."""

    name: Final = "retry"

    def __init__(self, seconds: float) -> None:
        self.sleep = seconds


class _Outcome:
    """A failed attempt, as `tenacity.Future` says it."""

    failed: Final = True

    def __init__(self, error: Exception, attempt_number: int) -> None:
        self._error = error
        self.attempt_number = attempt_number

    def exception(self, timeout: float | None = None) -> Exception:  # noqa: ARG002  # as of any future
        return self._error

    def result(self, timeout: float | None = None) -> NoReturn:  # noqa: ARG002
        raise self._error

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return False
