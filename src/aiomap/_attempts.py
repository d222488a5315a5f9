"""What becomes of an attempt in a run that has policies: timed, told to the limits, tried again.

Invariant: every attempt that starts is ended here exactly once, and every limit hears of it. An item that fails is
either handed back to wait for another attempt, or failed for good; it holds no slot meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Final

from aiomap._admission import Admission
from aiomap._alarm import Alarm
from aiomap._call import Call
from aiomap._deadlines import GRACE, Deadlines
from aiomap._pending import Pending
from aiomap._policies import Policies
from aiomap._run import Run
from aiomap._source import Source
from aiomap.errors import AttemptTimeout, CallbackError, ItemCancelled, Throttled
from aiomap.limits.limit import Ending
from aiomap.throttling import MAX_RETRY_AFTER, THROTTLE_TIMEOUT, http_throttle, is_overload

__all__ = ["Attempts"]

# Retries that a run may make however few of its items have succeeded.
_RETRIES: Final = 10


class Attempts:
    """The attempts of one run."""

    def __init__(self, run: Run, source: Source, policies: Policies, *, begun: int) -> None:
        self._run, self._retry = run, policies.retry
        self.source: Final = Admission(run, source, policies.limits, lookahead=policies.lookahead, begun=begun)
        self._alarm = Alarm(run.loop, run.now, run.fill)
        self._timer = Alarm(run.loop, run.now, self._look)
        self._deadlines = Deadlines(math.inf if policies.timeout is None else policies.timeout)
        self._refill: asyncio.Handle | None = None
        self._successes = self._retries = 0

    def watched(
        self, call: Call, function: Callable[[Any], Awaitable[Any]], put: Callable[[int, Any], object]
    ) -> tuple[Callable[[Any], Awaitable[Any]], Callable[[int, Any], object]]:
        """A worker's function and place for results, which tell of starts and successes."""
        run, source, deadlines, timer = self._run, self.source, self._deadlines, self._timer
        due, is_timed = deadlines.due, deadlines.seconds < math.inf

        def attempt(item: Any) -> Awaitable[Any]:
            pending = call.pending = source.taken
            call.started = pending.started - run.began
            if len(run.workers) < run.limit:
                self._refill_soon()
            if pending.refusal is not None:
                raise pending.refusal
            if is_timed:
                when = due[call] = pending.started + deadlines.seconds
                if when < timer.time:
                    timer.set(when)
            return function(item)

        def succeeded(index: int, value: Any) -> object:
            self._successes += 1
            if is_timed and due.pop(call, None) is None:
                deadlines.end(call)
            pending = call.pending
            if pending is not None and (pending.tickets or source.gate.strikes):
                source.ended_attempt(pending, "success")
            full = put(index, value)
            if source.blocked:
                run.fill()
            return full

        return attempt, succeeded

    def failed(self, call: Call, item: Any, failure: BaseException) -> BaseException | None:
        """The failure by which the item is known now; `None` if it is tried again."""
        if call.pending is None:
            call.pending = self.source.adopt(call.index, item)
        pending = call.pending
        late = self._deadlines.end(call)
        # A count of two is a cancel from somewhere else as well, and that one wins.
        if late and isinstance(failure, ItemCancelled) and call.task.cancelling() <= 1:
            cause, failure = failure.__cause__, AttemptTimeout(call.index, self._deadlines.seconds)
            failure.__cause__ = cause
        if not isinstance(failure, Exception) or pending.refusal is not None:
            self._end(call, "other")
            return failure
        try:
            throttle = self._throttle(failure)
        except Exception as error:
            self._end(call, "other")
            self._broken("throttle", pending, error)
            return failure
        if throttle is None:
            self._end(call, "overloaded" if is_overload(failure) else "other")
        else:
            self._end(call, "throttled", self._clamped(throttle.retry_after))
        when = self._second_chance(pending, failure, throttle)
        if when is not None:
            self.source.again(pending, when)
            self._use_what_was_freed()
        return failure if when is None else None

    def cut(self, call: Call) -> None:
        """The attempt ended because the run was cancelled."""
        self._end(call, "other")

    @property
    def ending(self) -> Collection[Call]:
        """The attempts that were cancelled a short while ago, because they took too long."""
        return self._deadlines.ending

    def wait(self) -> None:
        """Nothing more may start now: sees to it that the run is filled when that changes by itself."""
        self._alarm.set(self.source.wake_at)

    def close(self) -> None:
        """The run is over."""
        self.source.leave()
        for timer in (self._alarm, self._timer):
            timer.off()
        if self._refill is not None:
            self._refill.cancel()

    def _end(self, call: Call, ending: Ending, retry_after: float | None = None) -> None:
        self._deadlines.end(call)
        if call.pending is not None:
            self.source.ended_attempt(call.pending, ending, retry_after)

    def _use_what_was_freed(self) -> None:
        """An end may allow more than the one start that its own worker makes."""
        if self.source.blocked:
            self._run.fill()

    def _refill_soon(self) -> None:
        """Other slots are free: looks, once the workers that were started have taken theirs, what they wait for."""
        if self._refill is None:
            self._refill = self._run.loop.call_soon(self._fill)

    def _fill(self) -> None:
        self._refill = None
        self._run.fill()

    def _throttle(self, failure: Exception) -> Throttled | None:
        if isinstance(failure, Throttled):
            return failure
        return http_throttle(failure) if self._retry is None else self._retry.throttled(failure)

    def _clamped(self, retry_after: float | None) -> float | None:
        most = MAX_RETRY_AFTER if self._retry is None else self._retry.max_retry_after
        return min(retry_after, most) if retry_after else None

    def _second_chance(self, pending: Pending, failure: Exception, throttle: Throttled | None) -> float | None:
        """When the item may be tried again; `None` if it may not."""
        retry, now = self._retry, self._run.now()
        if self._run.stopped:
            return None
        if throttle is not None and (retry is not None or isinstance(failure, Throttled)):
            pending.throttled_at = now
            most = THROTTLE_TIMEOUT if retry is None else retry.throttle_timeout
            return now if pending.throttled_for <= most else None
        if retry is None:
            return None
        pending.failures += 1
        try:
            elapsed = now - pending.first_start
            delay = retry.next_delay(failure, pending.failures, elapsed, pending.waited, pending.item)
        except Exception as error:
            self._broken("retry", pending, error)
            return None
        if delay is None or not self._can_afford(retry.budget, failure):
            return None
        pending.waited += delay
        return now + delay

    def _can_afford(self, budget: float | None, failure: Exception) -> bool:
        if budget is not None and self._retries >= budget * self._successes + _RETRIES:
            with suppress(Exception):  # an exception may forbid new attributes
                failure.add_note(
                    f"aiomap: not tried again: the run has made {self._retries} retries, all that its budget allows "
                    f"({budget:g} x {self._successes} successes + {_RETRIES})"
                )
            return False
        self._retries += 1
        return True

    def _broken(self, name: str, pending: Pending, error: Exception) -> None:
        broken = CallbackError(name, pending.index)
        broken.__cause__ = error
        self._run.stop(broken)

    def _look(self) -> None:
        """Cancels the attempts whose time is over; names those that do not care."""
        if self._run.stopped:  # what runs is cancelled with all others, now or in the next turn
            return
        now = self._run.now()
        for call in self._deadlines.expired(now):
            call.task.cancel()
        for call in self._deadlines.ignoring(now):
            self._warn(call, self._deadlines.seconds)
        self._timer.set(self._deadlines.next_time())

    def _warn(self, call: Call, seconds: float) -> None:
        try:
            warnings.warn(
                f"item {call.index} goes on although it was cancelled {GRACE:g} seconds ago, at the end of its timeout "
                f"of {seconds:g} seconds; it keeps its slot until it ends. The function must let CancelledError "
                "through, and a blocking call in a thread cannot be stopped",
                RuntimeWarning,
                stacklevel=2,
            )
        except RuntimeWarning as error:  # somebody made it one
            self._run.stop(error)
