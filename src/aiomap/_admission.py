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

    def __init__(
        self,
        run: Run,
        source: Source,
        limits: tuple[Limit, ...],
        *,
        lookahead: int,
        begun: int,
    ) -> None:
        # What closes at a throttle that no limit of the run takes for its own.
        if not any(isinstance(limit, Rate | Adaptive) for limit in limits):
            limits = (*limits, Gate())
        self._run, self._source, self._limits, self._lookahead = run, source, limits, lookahead
        self._keyed = [(number, limit) for number, limit in enumerate(limits) if isinstance(limit, PerKey)]
        self._others = [(number, limit) for number, limit in enumerate(limits) if not isinstance(limit, PerKey)]
        self._spares: list[Callable[[float], int]] = []
        for limit in limits:
            if isinstance(limit, Rate | Adaptive):
                self._spares.append(limit.spare)
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
        """Takes nothing more from the input, and has it closed."""
        self._source.close()

    def leave(self) -> None:
        """The run is over."""
        self._sharing.leave()

    def fill(self) -> None:
        """Has the run start what may start."""
        self._run.fill()

    def available(self, most: int) -> int:
        """How many of the next `most` items may start at this moment, or a few more; 0 only if none may."""
        now = self._run.now()
        self._asker = 0
        try:
            if not self._find(now):
                return 0
            for spare in self._spares:
                most = min(most, max(1, spare(now)))
            ready = self._waiting.ready()
            return min(most, ready + self._source.available(min(max(0, most - ready), max(0, self._room()))))
        except BaseException as error:
            self._run.source_failed(error)
            return 0

    def more(self) -> bool:
        """Whether an item may start at this moment."""
        self._asker = 1
        return self._find(self._run.now())

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self

    def __next__(self) -> tuple[int, Any]:
        self._asker = 1
        now = self._run.now()
        if not self._find(now):
            raise StopIteration
        pending = self.taken = self._waiting.take_first()
        if not self._start(pending, now):
            raise StopIteration
        return pending.index, pending.item

    def _start(self, pending: Pending, now: float) -> bool:
        if not pending.calls:
            pending.first_start = now
        elif pending.throttled_at is not None:
            pending.throttled_for += now - pending.throttled_at
            pending.throttled_at = None
        pending.calls += 1
        pending.started = now
        if pending.refusal is not None:
            return True
        tickets = pending.tickets = []
        for limit, claim in zip(self._limits, pending.claims, strict=True):
            try:
                tickets.append(limit.started(claim, now))
            except Exception as error:
                self._run.stop(_LimitBroke(limit, pending, error).error)
                return False
        for number, _ in self._keyed:
            self._waiting.reopen(self._place(number, pending))
        if self.shared:
            self._sharing.started()
        return True

    def again(self, pending: Pending, when: float) -> None:
        """Another attempt of an item, not before `when`."""
        self._waiting.add(pending, when)

    def adopt(self, index: int, item: Any) -> Pending:
        """The record of an attempt that was started before there was any policy."""
        now = self._run.now()
        pending = Pending(index, item)
        pending.claims = [limit.claim(item) for limit in self._limits]
        pending.tickets = [limit.started(claim, now) for limit, claim in zip(self._limits, pending.claims, strict=True)]
        pending.calls = 1
        pending.started = pending.first_start = now
        return pending

    def ended_attempt(self, pending: Pending, now: float, ending: Ending, retry_after: float | None = None) -> None:
        """Tells the limits that an attempt has ended, and the runs that share them."""
        if pending.refusal is not None:
            return
        endings: list[Ending] = (
            self._heard(pending, retry_after) if ending == "throttled" else [ending] * len(self._limits)
        )
        for limit, ticket, heard in zip(self._limits, pending.tickets, endings, strict=True):
            try:
                limit.ended(ticket, now, heard, retry_after)
            except Exception as error:
                self._run.stop(_LimitBroke(limit, pending, error).error)
        for number, _ in self._keyed:
            self._waiting.reopen(self._place(number, pending))
        if self.shared:
            for number, limit in enumerate(self._limits):
                self._sharing.freed(limit, self._place(number, pending)[1])

    def _heard(self, pending: Pending, retry_after: float | None) -> list[Ending]:
        """What each limit hears of a throttle: it is the business of the one that knows best where it comes from."""
        if any(pending.claims[number] is not None for number, _ in self._keyed):
            return ["throttled" if isinstance(limit, PerKey) else "other" for limit in self._limits]
        if retry_after is None and any(isinstance(limit, Adaptive) for limit in self._limits):
            # It finds out by itself how far to go back; that the others close as well would be too much.
            return ["throttled" if isinstance(limit, Adaptive) else "overloaded" for limit in self._limits]
        return ["throttled" for _ in self._limits]

    def reopen(self, limit: Limit, key: Hashable) -> None:
        """Another run's attempt of that key has ended."""
        for number, mine in self._keyed:
            if mine is limit:
                self._waiting.reopen((number, key))

    def wants(self) -> bool:
        """Whether something waits to start, with a slot free for it."""
        return self.blocked or self._run.unstarted > 0

    def is_running(self) -> bool:
        """Whether an attempt runs, apart from a worker that asks."""
        return len(self._run.workers) - self._run.unstarted > self._asker

    def _find(self, now: float) -> bool:
        """Puts the item that may start now in the first place. If there is none: says why, and when to ask again."""
        self.crowded = self.blocked = False
        self.wake_at = math.inf
        if self.shared and self._sharing.must_wait():
            return self._refuse("limit", math.inf, waits_for_line=True)
        waiting = self._waiting
        waiting.ring(now)
        try:
            while (pending := waiting.first() or self._pull()) is not None:
                if pending.refusal is not None or self._is_first_of_its_keys(pending, now):
                    return pending.refusal is not None or self._is_let_start(pending, now)
        except _LimitBroke as broken:
            self._run.stop(broken.error)
            return False
        return self._refuse(self._why_nothing(), math.inf)

    def _is_first_of_its_keys(self, pending: Pending, now: float) -> bool:
        """Whether no key is in the way of the first item; else it is put aside until one opens."""
        for number, limit in self._keyed:
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
                for other, _ in self._keyed[: self._keyed.index((number, limit))]:
                    self._waiting.reopen(self._place(other, pending))
                return False
        return True

    def _is_let_start(self, pending: Pending, now: float) -> bool:
        """Whether the limits that are for all items allow the first one to start."""
        latest, why = now, ""
        for number, limit in self._others:
            claim = pending.claims[number]
            when = self._when(limit, pending, claim, now)
            if when > latest:
                latest, why = when, self._reason(limit, claim, now)
        return self._refuse(why, latest) if why else True

    def _when(self, limit: Limit, pending: Pending, claim: Any, now: float) -> float:
        try:
            when = limit.next_start(claim, now)
            if when != when:  # noqa: PLR0124  (only NaN is not itself)
                raise ValueError(f"next_start of {limit!r} returned NaN: return seconds, or inf")  # noqa: TRY301
        except Exception as error:
            raise _LimitBroke(limit, pending, error) from error
        return when

    def _reason(self, limit: Limit, claim: Any, now: float) -> str:
        closed_until = getattr(limit, "closed_until", None)
        return "gate" if closed_until is not None and closed_until(claim) > now else "limit"

    def _refuse(self, why: str, when: float, *, waits_for_line: bool = False) -> bool:
        self.why = why
        self.blocked = why in {"limit", "gate"}
        self.wake_at = min(when, self._waiting.next_time())
        idle = self.wake_at == math.inf and not waits_for_line and not self.is_running()
        if self.blocked and idle and not self._sharing.anybody_runs():
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

    def _room(self) -> int:
        """How many more items may be taken from the input."""
        run, waiting = self._run, self._waiting
        room = self._lookahead - waiting.fresh
        if run.outbox is None:
            return room
        running = len(run.workers) - run.unstarted - self._asker
        return min(room, run.capacity - run.outbox.held() - running - waiting.fresh - waiting.retrying)

    def _pull(self) -> Pending | None:
        """Takes the next item from the input, if the window has room."""
        if self._room() <= 0:
            self.crowded = True
            return None
        taken = next(self._source.items, None)
        if taken is None:
            return None
        pending = Pending(*taken)
        self._pulled += 1
        if self._run.outbox is None:
            self._run.results.append(None)  # its place, ready before it starts
        self._waiting.add(pending, -math.inf)
        claims = pending.claims = []
        for limit in self._limits:
            try:
                claims.append(limit.claim(pending.item))
            except CostAboveRate as error:
                pending.refusal = error
            except Exception as error:
                raise _LimitBroke(limit, pending, error) from error
        return pending

    def _place(self, number: int, pending: Pending) -> Place:
        claim = pending.claims[number]
        return number, claim[0] if claim is not None and isinstance(self._limits[number], PerKey) else None
