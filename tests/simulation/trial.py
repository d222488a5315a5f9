"""What may not happen in runs with policies: the invariants of plain runs, and those of timeouts, retries and limits.

Invariant: as in `invariants`, only promises are judged. What has no policy is judged there as it always was.

 P1  an attempt that its limits do not allow is never started: judged by `rules`, over all maps that share them
 P2  attempt numbers count up from 1; of one item there is one attempt at a time, and none after it has ended for good
 P3  a failure is final or tried again as the policy says, the budget included, and never before its time
 P4  what is due goes first, retries before new items, lower indexes before higher; in the order of a key in any case
 P5  a timed-out attempt is cancelled once, at its time; if it obeys, it fails with AttemptTimeout
 P6  whoever may start, starts before time goes on; and time never passes the moment from which on one may
 P7  `stats` are true at every step, and no more is held back than the window of the stream allows
 P8  at the end no limit counts anything, and no timer is set
"""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import dataclass, replace
from typing import Any

from tests.simulation.invariants import End, Judge, Running
from tests.simulation.policies import Plan, Second
from tests.simulation.record import Event, Interrupt, NotAwaitable, Quiet, Record
from tests.simulation.rules import Heard, Rules
from tests.simulation.tools import ERRORS, TooManyRequests

__all__ = ["violations"]

_GRACE = 10.0
_RETRIES = 10


def violations(record: Record) -> list[str]:
    """What went wrong, in sentences; nothing if all is well."""
    if record.plan is None or record.crash is not None:
        return Judge(record).judge()
    rules, wrong = Rules(record.plan), list[str]()
    judges = []
    for number, party in enumerate(record.plan.parties):
        events = [event for event in record.events if event.of == number]
        judges.append(_PolicyJudge(replace(record, scenario=party.scenario, events=events), record.plan, number, rules))
    for event in record.events:
        judge = judges[event.of]
        before = len(judge.wrong)
        judge.hear(event)
        wrong += [f"map {event.of}: {each}" for each in judge.wrong[before:]]
    for number, judge in enumerate(judges):
        before = len(judge.wrong)
        judge.after_all()
        wrong += [f"map {number}: {each}" for each in judge.wrong[before:]]
    return wrong + [f"P8: {each}" for each in record.unclean]


@dataclass(slots=True)
class _Attempt(Running):
    """began, due: seconds. timed_out: whether the cancel at its time has arrived; cancels_itself: of its own making."""

    began: float = 0.0
    due: bool = False
    ends: float = math.inf
    timed_out: bool = False
    cancels_itself: bool = False


@dataclass(slots=True)
class _Item:
    """What the policies know of an item."""

    calls: int = 0
    failures: int = 0
    throttled_at: float | None = None
    throttled_for: float = 0.0


class _PolicyJudge(Judge):
    def __init__(self, record: Record, plan: Plan, number: int, rules: Rules) -> None:
        super().__init__(record)
        self.plan, self.number, self.rules = plan, number, rules
        self.party = plan.parties[number]
        self.limit = self.most = plan.slots(number)
        self.attempts: dict[int, _Attempt] = {}
        self.running = self.attempts  # type: ignore[assignment]
        self.items = {index: _Item() for index in range(len(self.scenario.items))}
        self.retrying: dict[int, float] = {}  # and from when on
        self.fresh = set(self.items)
        self.successes = self.retries = 0
        # A run that was given no policies has some from its first `Throttled` on.
        self.has_policies = plan.timeout is not None or plan.retry is not None or self.party.limits or self.party.adapts

    # starts

    def _enter(self, event: Event) -> None:
        index, (slot, number, capacity) = event.item, event.detail
        item, now = self.items[index], event.at
        item.calls += 1
        self._judge_moment(index, now)
        if self.rules.in_flight >= capacity and self.party.adapts:
            self._broken(f"P1: item {index} was entered while {self.rules.in_flight} run, the capacity is {capacity}")
        if not 0 <= slot < self.most or slot in {attempt.slot for attempt in self.attempts.values()}:
            self._broken(f"I1: item {index} has slot {slot}, which is taken or beyond the limit {self.limit}")
        if number != item.calls:
            self._broken(f"P2: item {index} was entered for the {item.calls}. time, and is told {number}")
        self._judge_order(index, now)
        if wrong := self.rules.started(self.number, index, now):
            self._broken(f"P1: item {index} was entered, {wrong}")
        if item.throttled_at is not None:
            item.throttled_for += now - item.throttled_at
            item.throttled_at = None
        self.fresh.discard(index)
        self.retrying.pop(index, None)
        self.started = len(self.items) - len(self.fresh)
        timeout = math.inf if self.plan.timeout is None else self.plan.timeout
        self.attempts[index] = _Attempt(slot, began=now, ends=now + timeout)

    def _judge_moment(self, index: int, now: float) -> None:
        what = f"item {index} was entered"
        if self.given_back:
            self._broken(f"I3: {what} after control was given back")
        elif self.stopped:
            self._broken(f"I10: {what} after {self.stopped}")
        elif self.paused:
            self._broken(f"I10: {what} while the stream is paused")
        elif index in self.fresh and index >= self.last:
            self._broken(f"I10: {what} after {self.drained}")
        if len(self.attempts) >= self.limit:
            self._broken(f"I1: {what} while {len(self.attempts)} run, the limit is {self.limit}")
        if index in self.attempts or index in self.ended:
            self._broken(f"P2: {what}, and runs or has ended")
        if self.retrying.get(index, now) > now:
            self._broken(f"P3: {what}, and is due only at {self.retrying[index]:g}")

    def _judge_order(self, index: int, now: float) -> None:
        """A key may hold back an item, and then others pass it; but never one of the same single key."""
        mine = self.rules.keys(self.number, index)
        rank = (index in self.fresh, index)
        for other in self._candidates(now, sys.maxsize):
            if (other in self.fresh, other) < rank:
                keys = self.rules.keys(self.number, other)
                alike = bool(mine) and set(keys) <= set(mine)
                if alike or not self.rules.is_keyed(self.number):
                    self._broken(f"P4: item {index} was entered before item {other}, whose turn it was")
                    return

    def _candidates(self, now: float, fresh: int) -> list[int]:
        """The items that wait at that time, in the order of their right to start; only so many new ones."""
        due = sorted(index for index, when in self.retrying.items() if when <= now)
        there = min(self.last, self.pulled if self._is_async() else self.scenario.hands_over())
        new = sorted(index for index in self.fresh if index < there)[:fresh]
        return due + new

    def _is_async(self) -> bool:
        return self.scenario.source == "async iterator"

    def _limit_breaks(self, event: Event) -> None:
        self.callback_error = event.detail
        self._fail(event.detail, event.item, stops=True)

    # cancels and timeouts

    def _cancelled(self, event: Event) -> None:
        attempt = self.attempts[event.item]
        if not self.stopped and not attempt.timed_out and event.at >= attempt.ends:
            attempt.timed_out = True
            attempt.allowed += 1
        super()._cancelled(event)

    def _cancels_itself(self, event: Event) -> None:
        super()._cancels_itself(event)
        self.attempts[event.item].cancels_itself = True

    def _shutdown(self, event: Event) -> None:
        super()._shutdown(event)
        for attempt in self.attempts.values():
            attempt.cancels_itself = True  # at least, it is not its timeout alone that cancels it

    def _stop(self, why: str, *, certain: bool = False) -> None:
        if self.stopped:
            return
        self.stopped = why
        self.source_allowed += 1
        for attempt in self.attempts.values():
            late = self.at - attempt.ends
            if late < 0 or late > _GRACE:
                attempt.allowed += 1
                attempt.due = certain
            elif not attempt.timed_out or late == _GRACE:
                attempt.allowed += 1
                attempt.due = certain and not attempt.timed_out
            else:
                attempt.due = False

    def _cancel_arrives(self, event: Event) -> None:
        super()._cancel_arrives(event)
        if self.outside_cancels < 2:
            for attempt in self.attempts.values():
                if attempt.timed_out and self.at <= attempt.ends + _GRACE:
                    attempt.due = False

    # ends

    def _return(self, event: Event) -> None:
        self.successes += 1
        self._let_go(event, "success", None)
        self._finish(event.item, End(value=event.detail))

    def _raise(self, event: Event) -> None:
        index, error, attempt = event.item, event.detail, self.attempts[event.item]
        if isinstance(error, asyncio.CancelledError) and self.stopped:
            self._let_go(event, "other", None)
            self._finish(index, End(error=error, cut=True))
            return
        failure = self._failure(index, error, attempt)
        if isinstance(error, self.library.Throttled):
            self.has_policies = True
        throttle = self.has_policies and isinstance(error, self.library.Throttled | TooManyRequests)
        retry_after = self._clamped(error.retry_after) if throttle else None
        self._let_go(event, "throttled" if throttle else "other", retry_after)
        when = None if isinstance(error, Interrupt) else self._second_chance(index, failure, throttle=throttle)
        if when is not None:
            self._drop(index)
            self.retrying[index] = when
            return
        self._finish(index, End(error=failure))
        self._fail_item(failure, index)

    def _failure(self, index: int, error: BaseException, attempt: _Attempt) -> BaseException:
        """What the failure is known as, as far as a retry cares; the judge of results goes by the same object."""
        if isinstance(error, asyncio.CancelledError) and attempt.timed_out and not attempt.cancels_itself:
            timed_out: BaseException = self.library.AttemptTimeout(index, self.plan.timeout)
            timed_out.__cause__ = error
            return timed_out
        return error

    def _let_go(self, event: Event, heard: Heard, retry_after: float | None) -> None:
        attempt = self.attempts[event.item]
        self.rules.ended(self.number, event.item, attempt.began, event.at, heard, retry_after)

    def _clamped(self, retry_after: float | None) -> float | None:
        most = 120.0 if self.plan.retry is None else self.plan.retry.max_retry_after
        return min(retry_after, most) if retry_after else None

    def _second_chance(self, index: int, failure: BaseException, *, throttle: bool) -> float | None:
        """When the item may be tried again."""
        item, retry = self.items[index], self.plan.retry
        if self.stopped:
            return None
        if throttle and (retry is not None or isinstance(failure, self.library.Throttled)):
            item.throttled_at = self.at
            most = 300.0 if retry is None else retry.throttle_timeout
            return self.at if item.throttled_for <= most else None
        return None if retry is None else self._next_try(item, failure, retry)

    def _next_try(self, item: _Item, failure: BaseException, retry: Second) -> float | None:
        item.failures += 1
        if item.failures >= retry.attempts or not self._is_named(failure):
            return None
        if retry.budget is not None and self.retries >= retry.budget * self.successes + _RETRIES:
            return None
        self.retries += 1
        return self.at + min(retry.cap, retry.base * 2.0 ** (item.failures - 1)) * self.plan.chance

    def _is_named(self, failure: BaseException) -> bool:
        assert self.plan.retry is not None
        if isinstance(failure, asyncio.CancelledError | StopIteration | StopAsyncIteration | NotAwaitable):
            failure = Exception()  # it comes as one of another type
        return isinstance(failure, ERRORS[self.plan.retry.on])

    def _drop(self, index: int) -> None:
        if self.attempts.pop(index).due and not (self.shut_down and self.streams):
            self._broken(f"I11: item {index} ended without the CancelledError that was due to it after {self.stopped}")

    def _is_failure(self, shown: Any, error: BaseException, index: int) -> bool:
        if isinstance(error, self.library.AttemptTimeout):
            return type(shown) is type(error) and shown.index == index and shown.__cause__ is error.__cause__
        return super()._is_failure(shown, error, index)

    # the input, the window, the order of results

    def _drain(self, event: Event) -> None:
        self.drained = "drain()"
        self.last = event.detail
        self.source_allowed += 1

    def _pull(self, event: Event) -> None:
        self.pulled = event.item + 1
        if self.source != "asked" and (self.stopped or self.drained):
            self._broken(f"I5: item {event.item} was pulled after {self.stopped or self.drained}")
        if self._is_async():
            self.source = "idle"
        # What an async source fetches ahead: one item, and one more for each worker that has not had its first step.
        ahead = self._is_async() * (1 + self.most)
        held = self.pulled - self.started - ahead
        if not self.rules.is_keyed(self.number) and held > 1 + max(0, self.limit - len(self.attempts)):
            self._broken(f"P7: {self.pulled} items are pulled, and {self.started} started")
        gone = self._gone() + self.wanted  # one more item is pulled in the step in which another is delivered
        most = self._capacity() + self.most - self.limit + ahead
        if self.streams and self.pulled - gone > most:
            self._broken(f"P7: {self.pulled} items are pulled and {gone} delivered or left out")

    def _capacity(self) -> int:
        buffer = max(1000, 16 * self.limit) if self.scenario.buffer is None else self.scenario.buffer
        return self.limit + buffer

    def _gone(self) -> int:
        """How many items need no room in the window any more."""
        return self.started - len(self.retrying) - self._undelivered()

    def _room(self) -> int:
        """How many items may wait for their first start, apart from what an async source has fetched ahead."""
        ahead = self.party.ahead
        if not self.streams:
            return ahead if ahead > 0 and self.rules.is_keyed(self.number) else sys.maxsize
        return self._capacity() - self._undelivered() - len(self.retrying)

    def _undelivered(self) -> int:
        early = 0
        if self.scenario.ordered:
            head = next(index for index in range(len(self.items) + 1) if index not in self.ended)
            early = sum(index > head for index in self.ended)
        return len(self.attempts) + len(self._deliverable()) - len(self.delivered) + early

    def _deliverable(self) -> list[tuple[int, End]]:
        order = list(self.ended)
        if self.scenario.ordered:
            holes = (index for index in range(len(self.items) + 1) if self._is_hole(self.ended.get(index)))
            order = list(range(next(holes)))
        return [(index, self.ended[index]) for index in order if self._gives(self.ended[index])]

    def _list(self, event: Event) -> None:
        self._judge_all_ended("a list was returned")
        super()._list(event)

    def _end(self, event: Event) -> None:
        if not self.stopped and not self.drained and not self.shut_down:
            self._judge_all_ended("the stream ended")
        if self.drained and not self.stopped and not self.shut_down and self.retrying:
            self._broken(f"I2: the stream ended while {self.retrying} are to be tried again")
        super()._end(event)

    def _judge_all_ended(self, what: str) -> None:
        if self.error is None and len(self.ended) < self.scenario.hands_over():
            self._broken(f"I2: {what} when {sorted(self.ended)} had ended")

    # what is told

    def _stats(self, event: Event) -> None:
        if self.shut_down:
            return
        super()._stats(event)
        stats = event.detail
        if stats.retrying != len(self.retrying):
            self._broken(f"P7: {stats}, but {sorted(self.retrying)} wait for another attempt")
        ahead = self.party.ahead + self._is_async() * (1 + self.limit)
        if self.party.ahead > 0 and not self.streams and stats.waiting > ahead:
            self._broken(f"P7: {stats}, but max_queue_size is {self.party.ahead}")
        if self.scenario.source != "list" and stats.pulled != self.pulled and self.called and not self.stopped:
            self._broken(f"P7: {stats}, but {self.pulled} items were pulled")

    def _quiet(self, event: Event) -> None:
        seen: Quiet | None = event.detail
        if self.given_back or self.shut_down or not self.called or seen is None:
            return
        if self.wanted and len(self._deliverable()) > len(self.delivered):
            self._broken(f"I14: a result is held back: {self._deliverable()[len(self.delivered)]}")
        for index, attempt in self.attempts.items():
            if attempt.ends <= seen.since and not attempt.timed_out and not self.stopped:
                self._broken(f"P5: item {index} was to be cancelled at {attempt.ends:g}")
        if self.stopped or self.paused or len(self.attempts) >= self.limit:
            return
        times = [*self.rules.times(self.number), *self.retrying.values()]
        if self.party.adapts:
            times.append(seen.capacity)
        for time in sorted({seen.since, *(time for time in times if seen.since < time < event.at)}):
            if (idle := self._startable(time, seen)) is not None:
                self._broken(f"P6: time goes on from {seen.since:g}, and item {idle} does not start at {time:g}")
                return
        self._judge_source(seen)

    def _startable(self, now: float, seen: Quiet) -> int | None:
        """The item that may start at that time."""
        if self.party.adapts and seen.capacity > now:
            return None
        closed = set[tuple[int, str]]()
        for index in self._candidates(now, max(0, self._room())):
            keys = set(self.rules.keys(self.number, index))
            if keys & closed:
                continue
            key = self.rules.closed_key(self.number, index, now)
            if key is None:
                return index if self.rules.all_let(self.number, index, now) else None
            closed.add(key)
        return None

    def _judge_source(self, seen: Quiet) -> None:
        """An async source is asked for its next item unless one waits for its turn, or the window is full.

        Not so where another map has just taken the key of the item whose turn it was: that makes nothing startable.
        """
        if not self._is_async() or self.source != "idle" or self.drained or len(self.plan.parties) > 1:
            return
        waiting = self._candidates(seen.since, sys.maxsize)
        new = sum(index in self.fresh for index in waiting)
        if new < self._room() and all(self.rules.closed_key(self.number, index, seen.since) for index in waiting):
            self._broken("I14: time goes on, and the source is not asked for its next item")

    def after_all(self) -> None:
        if self.attempts:
            self._broken(f"I3: {sorted(self.attempts)} never ended")
        super().after_all()
