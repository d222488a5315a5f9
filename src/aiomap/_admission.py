"""What may start next: a source of items that has asked every policy first.

Invariant: an item leaves here only in the step in which its attempt starts, with every limit told; nothing is reserved,
so no cancel can leak a reservation. To the workers this is the input: `more` and `items` are asked by a worker that
has a free slot. What may not start yet waits here and holds no slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from aiomap._pending import Pending
from aiomap._run import Run
from aiomap._sharing import Sharing
from aiomap._source import Source
from aiomap._waiting import Place, Waiting
from aiomap.errors import CallbackError, CostAboveRate
from aiomap.limits.adaptive import Adaptive
from aiomap.limits.gate import Gate
from aiomap.limits.limit import Ending, Limit
from aiomap.limits.per_key import PerKey
from aiomap.limits.rate import Rate

__all__ = ["Admission"]


class _LimitBroke(Exception):
    """A limit, or a function of the user's that it calls, raised."""

    def __init__(self, limit: Limit, pending: Pending, cause: Exception) -> None:
        name = "key" if isinstance(limit, PerKey) else "cost" if isinstance(limit, Rate) else "limits"
        self.error = CallbackError(name, pending.index)
        self.error.__cause__ = cause


class Admission:
    """The items of `source`, in the order in which the limits let them start."""

    def __init__(self, run: Run, source: Source, limits: tuple[Limit, ...], *, lookahead: int, begun: int) -> None:
        self._run, self._source, self._limits, self._lookahead = run, source, limits, lookahead
        self._now = run.now
        self.gate = Gate()  # closes at a throttle that no limit takes for its own
        self._keyed = [(number, limit) for number, limit in enumerate(limits) if isinstance(limit, PerKey)]
        self._others = [(number, limit) for number, limit in enumerate(limits) if not isinstance(limit, PerKey)]
        self._spares: list[Callable[[float], int]] = []
        for limit in limits:
            if isinstance(limit, Rate | Adaptive):
                self._spares.append(limit.spare)
        self._detour = bool(self._keyed) or len(limits) > 1
        self._only = limits[:1]
        self._claims = [limit.claim for limit in limits]
        self._starteds = [limit.started for limit in limits]
        self._waiting = Waiting()
        self._pulled = begun
        self._hindrance = "limit"  # of the items that wait for their keys
        self._asker = 0  # 1 while a worker asks, which is alive and yet runs no attempt
        self.items: Iterator[tuple[int, Any]] = self
        self.shut = self.shared = self.blocked = self.asked = False
        self.crowded = False  # the window has no room for another item
        self.why = "source"
        self.wake_at = math.inf
        self.taken: Pending  # what `__next__` gave out last
        self._sharing = Sharing(self, limits, run.loop)

    @property
    def ended(self) -> bool:
        """Whether nothing more comes from the input, or comes back."""
        return self._source.ended and not self._waiting.retrying

    @property
    def waiting(self) -> int:
        """Items taken from the input and never started."""
        return self._waiting.fresh + self._source.waiting

    @property
    def retrying(self) -> int:
        """Items that wait for another attempt."""
        return self._waiting.retrying

    @property
    def begun(self) -> int:
        """Items that run or have ended."""
        return self._pulled - self._waiting.fresh - self._waiting.retrying

    def stop(self) -> None:
        """Takes nothing more from the input."""
        self._source.stop()

    def close(self) -> None:
        """The same, and has the input closed."""
        self._source.close()

    def leave(self) -> None:
        """The run is over."""
        self._sharing.leave()

    def fill(self) -> None:
        """Has the run start what may start."""
        self._run.fill()

    def wants(self) -> bool:
        """Whether something waits to start, with a slot free for it."""
        return self.blocked or self._run.unstarted > 0

    def is_running(self) -> bool:
        """Whether an attempt runs, apart from a worker that asks."""
        return len(self._run.workers) - self._run.unstarted > self._asker

    def available(self, most: int) -> int:
        """How many of the next `most` items may start at this moment, or a few more; 0 only if none may."""
        now = self._now()
        try:
            if not self._find(now):
                return 0
            for spare in self._spares:
                most = min(most, max(1, spare(now)))
            ready = len(self._waiting.ready)
            return min(most, ready + self._source.available(max(0, min(most - ready, self.room()))))
        except BaseException as error:
            self._run.source_failed(error)
            # What was taken before that may start, or has to be waited for.
            return 0 if self._run.stopped else self.available(most)

    def more(self) -> bool:
        """Whether an item may start at this moment."""
        self._asker = 1
        try:
            return self._find(self._now())
        finally:
            self._asker = 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self

    # What most runs do for most items, in one frame: the calls would cost more than the rest. In any other case, and
    # as soon as anything is in the way, `_next_by_the_book` does the same in small steps.
    def __next__(self) -> tuple[int, Any]:
        run, waiting = self._run, self._waiting
        if waiting.ready or waiting.timed or self._detour or self.shared:
            return self._next_by_the_book()
        outbox = run.outbox
        if outbox is not None and run.capacity - outbox.held() < len(run.workers) - run.unstarted:
            return self._next_by_the_book()
        taken = next(self._source.items, None)
        if taken is None:
            return self._next_by_the_book()
        index, item = taken
        pending = self.taken = Pending(index, item)
        self._pulled += 1
        if outbox is None:
            run.results.append(None)
        if not self._only:
            now = self._now()  # after the input, which may have taken its time
            free = self.gate.opens <= now
        else:
            (limit,) = self._only
            try:
                claim = limit.claim(item)
                pending.claims = (claim,)
                now = self._now()
                free = self.gate.opens <= now and limit.next_start(claim, now) <= now
                if free:
                    pending.tickets = (limit.started(claim, now),)
            except CostAboveRate as error:
                pending.refusal, free, now = error, False, -math.inf
            except Exception as error:
                waiting.add(pending, -math.inf)
                run.stop(_LimitBroke(limit, pending, error).error)
                raise StopIteration from None
        if not free:
            waiting.add(pending, -math.inf)
            return self._next_by_the_book()
        pending.started = pending.first_start = now
        pending.calls = 1
        return taken

    def _next_by_the_book(self) -> tuple[int, Any]:
        self._asker = 1
        try:
            if not self._find(self._now()):
                raise StopIteration
            pending = self._waiting.take_first()
            self._start(pending, self._now())
            return pending.index, pending.item
        finally:
            self._asker = 0

    def _start(self, pending: Pending, now: float) -> None:
        self.taken = pending
        if not pending.calls:
            pending.first_start = now
        elif pending.throttled_at is not None:
            pending.throttled_for += now - pending.throttled_at
            pending.throttled_at = None
        pending.calls += 1
        pending.started = now
        if self._limits and pending.refusal is None:
            self._tell_of_start(pending, now)

    def _tell_of_start(self, pending: Pending, now: float) -> None:
        tickets: list[Any] = []
        pending.tickets = tickets
        try:
            for started, claim in zip(self._starteds, pending.claims):  # noqa: B905  (strict takes its time)
                tickets.append(started(claim, now))
        except Exception as error:
            broken = _LimitBroke(self._limits[len(tickets)], pending, error)
            for limit, ticket in zip(self._limits, tickets, strict=False):
                limit.ended(ticket, now, "other", None)
            self._waiting.add(pending, -math.inf)
            self._run.stop(broken.error)
            raise StopIteration from None
        for number, _ in self._keyed:
            self._waiting.reopen(self._place(number, pending))
        if self.shared:
            self._sharing.started()

    def again(self, pending: Pending, when: float) -> None:
        """Another attempt of an item, not before `when`."""
        self._waiting.add(pending, when)

    def adopt(self, index: int, item: Any) -> Pending:
        """The record of an attempt that was started before there was any policy, and so without any limit."""
        pending = Pending(index, item)
        pending.calls = 1
        pending.started = -math.inf  # before any gate was closed, so that a late throttle closes none anew
        pending.first_start = self._now()
        return pending

    def ended_attempt(self, pending: Pending, ending: Ending, retry_after: float | None = None) -> None:
        """Tells the limits that an attempt has ended, and the runs that share them."""
        if ending == "throttled" or self.gate.strikes:
            mine = self._heard_by_gate(pending) if ending == "throttled" else ending
            self.gate.ended(pending.started, self._now(), mine, retry_after)
        if not pending.tickets:
            return
        now = self._now()
        heard: list[Ending] | None = None
        if ending == "throttled":
            heard = self._heard(pending, retry_after)
        elif ending == "overloaded" and self._has_key(pending):  # one host's trouble says nothing about the others
            heard = ["overloaded" if isinstance(limit, PerKey) else "other" for limit in self._limits]
        number = 0
        for limit in self._limits:
            try:
                limit.ended(pending.tickets[number], now, heard[number] if heard else ending, retry_after)
            except Exception as error:
                self._run.stop(_LimitBroke(limit, pending, error).error)
            number += 1  # noqa: SIM113  (enumerate takes its time)
        for number, _ in self._keyed:
            self._waiting.reopen(self._place(number, pending))
        if self.shared:
            for number, limit in enumerate(self._limits):
                self._sharing.freed(limit, self._place(number, pending)[1])

    def _heard(self, pending: Pending, retry_after: float | None) -> list[Ending]:
        """What each limit hears of a throttle: only who knows best where it comes from closes."""
        if self._has_key(pending):
            return ["throttled" if isinstance(limit, PerKey) else "other" for limit in self._limits]
        if retry_after is None and any(isinstance(limit, Adaptive) for limit in self._limits):
            # It finds out by itself how far to go back; that others close as well would be too much.
            return ["throttled" if isinstance(limit, Adaptive) else "overloaded" for limit in self._limits]
        return ["throttled" for _ in self._limits]

    def _heard_by_gate(self, pending: Pending) -> Ending:
        """What the run's own gate hears of a throttle: it is for those that no limit takes for its own."""
        taken = self._has_key(pending) or any(isinstance(limit, Rate | Adaptive) for limit in self._limits)
        return "other" if taken else "throttled"

    def _has_key(self, pending: Pending) -> bool:
        return any(pending.claims[number] is not None for number, _ in self._keyed)

    def reopen(self, limit: Limit, key: Hashable) -> None:
        """Another run's attempt of that key has ended."""
        for number, mine in self._keyed:
            if mine is limit:
                self._waiting.reopen((number, key))

    def _find(self, now: float) -> bool:
        """Puts the item that may start now in the first place. If there is none: says why, and when to ask again."""
        self.crowded = self.blocked = False
        self.wake_at = math.inf
        if self.shared and self._sharing.must_wait():
            self.why, self.blocked = "limit", True
            return False
        waiting = self._waiting
        waiting.ring(now)
        try:
            while True:
                if not waiting.ready:
                    pulled = self._pull()
                    if pulled is None:
                        return self._refuse(self._why_nothing(), math.inf)
                    waiting.add(pulled, -math.inf)
                pending = waiting.first()
                if pending.refusal is not None:
                    return True
                if self._is_first_of_its_keys(pending, now):
                    return self._is_let_start(pending, now)
        except _LimitBroke as broken:
            self._run.stop(broken.error)
            return False

    def _is_first_of_its_keys(self, pending: Pending, now: float) -> bool:
        """Whether no key is in the way of the first item; else it is put aside until one opens."""
        for position, (number, limit) in enumerate(self._keyed):
            claim = pending.claims[number]
            if claim is None:
                continue
            place = self._place(number, pending)
            behind = self._waiting.is_behind(place)
            when = math.inf if behind else self._when(limit, pending, claim, now)
            if when > now:
                if not behind:
                    self._hindrance = self._reason(limit, claim, now)
                self._waiting.park_first(place, when)
                # It has left the lines of its other keys, where the next one may try now.
                for other, _ in self._keyed[:position]:
                    self._waiting.reopen(self._place(other, pending))
                return False
        return True

    def _is_let_start(self, pending: Pending, now: float) -> bool:
        """Whether what is for all items allows this one to start."""
        latest, why = self.gate.opens, "gate"
        for number, limit in self._others:
            claim = pending.claims[number]
            try:
                when = limit.next_start(claim, now)
                if when <= now:
                    continue
                self._check(limit, when)
            except Exception as error:
                raise _LimitBroke(limit, pending, error) from error
            if when > latest:
                latest, why = when, self._reason(limit, claim, now)
        return latest <= now or self._refuse(why, latest)

    def _when(self, limit: PerKey, pending: Pending, claim: Any, now: float) -> float:
        try:
            return limit.next_start(claim, now)
        except Exception as error:
            raise _LimitBroke(limit, pending, error) from error

    def _check(self, limit: Limit, when: float) -> None:
        if when != when:  # noqa: PLR0124  (only NaN is not itself)
            raise ValueError(f"next_start of {limit!r} returned NaN: return seconds, or inf")

    def _reason(self, limit: Limit, claim: Any, now: float) -> str:
        if isinstance(limit, Rate | PerKey | Adaptive) and limit.closed_until(claim) > now:
            return "gate"
        return "limit"

    def _refuse(self, why: str, when: float) -> bool:
        self.why = why
        self.asked = False  # the turn that it had is over
        self.blocked = why in {"limit", "gate"}
        self.wake_at = min(when, self._waiting.next_time())
        idle = self.blocked and self.wake_at == math.inf and not self.is_running()
        if idle and not self._sharing.anybody_runs():
            self._run.stop(
                RuntimeError(
                    f"nothing runs, and the limits let nothing start: {[*self._limits]}; "
                    "next_start may give inf only while an attempt runs whose end can change that"
                )
            )
        return False

    def _why_nothing(self) -> str:
        if self._waiting.parked:
            return self._hindrance
        if self.crowded:
            return "consumer"
        if not self._source.ended:
            return "source"
        return "backoff" if self._waiting.retrying else "idle"

    def room(self) -> int:
        """How many more items may be taken from the input."""
        run, waiting = self._run, self._waiting
        room = self._lookahead - waiting.fresh
        if run.outbox is None:
            return room
        running = len(run.workers) - run.unstarted - self._asker
        return min(room, run.capacity - run.outbox.held() - running - waiting.fresh - waiting.retrying)

    def _pull(self) -> Pending | None:
        """Takes the next item from the input, if the window has room."""
        if (self._keyed or self._run.outbox is not None) and self.room() <= 0:
            self.crowded = True
            return None
        taken = next(self._source.items, None)
        if taken is None:
            return None
        pending = Pending(*taken)
        self._pulled += 1
        if self._run.outbox is None:
            self._run.results.append(None)  # its place, ready before it starts
        self._claim(pending)
        return pending

    def _claim(self, pending: Pending) -> None:
        claims: list[Any] = []
        item, pending.claims = pending.item, claims
        try:
            for claim in self._claims:
                claims.append(claim(item))  # noqa: PERF401  (the ones before the one that raises are needed)
        except CostAboveRate as error:
            pending.refusal = error
        except Exception as error:
            self._waiting.add(pending, -math.inf)
            raise _LimitBroke(self._limits[len(claims)], pending, error) from error

    def _place(self, number: int, pending: Pending) -> Place:
        claim = pending.claims[number]
        return number, claim[0] if claim is not None and isinstance(self._limits[number], PerKey) else None
