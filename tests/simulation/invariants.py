"""What may not happen in a run of a map, judged from the notes that a world took.

Invariant: only promises are judged, never how the engine keeps them. A note is judged with what came before it, so the
first line that `violations` gives is the earliest thing that went wrong.

 I1  never more than `limit` items run; they start in the order of the input, each once, each in a slot of its own
 I2  every item that returned counts: in the list, in the stream, in the calls of `callback`, whatever is cancelled
 I3  when control is given back, nothing runs, and nothing starts any more
 I4  when control is given back, no task of the map is alive; none is left at the end
 I5  the source is asked in one context, by one task, at most one item ahead, never after its end; then it is closed
 I6  results are those of the model, in its order, none beyond a failed item; the first failure is raised, once
 I7  no run hangs; no cancel of the caller is swallowed or invented, and its `cancelling()` is left as it was
 I9  nothing reaches the loop's exception handler
 I10 no item starts after a cancel of the caller, a failure that ends the run, `drain()`, or the end of `async with`
 I11 when the run is stopped every running item gets exactly one CancelledError, one more for each further cancel of
     the caller, and no other: so one cancel is enough for an async cleanup to complete
 I12 no item sees a context variable, and none gets a task with a cancel, that another item or the source left behind
 I13 an item that does no wrong does not fail
 I14 the window of a stream holds; while there is room, a free slot and an item, the item starts before time goes on;
     a result that may be delivered is delivered before time goes on; `stats` tell the truth

I8, the windows of a rate limit, has no number here: there is no rate limit to judge yet.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

from tests.simulation.record import AtReturn, Event, Interrupt, NotAwaitable, Record

__all__ = ["End", "Judge", "Running", "violations"]


def violations(record: Record) -> list[str]:
    """What went wrong, in sentences; nothing if all is well."""
    return Judge(record).judge()


@dataclass(slots=True)
class Running:
    """The CancelledErrors that a running item may have got by now, has got, and whether one is still to come."""

    slot: int
    allowed: int = 0
    got: int = 0
    due: bool = False


@dataclass(slots=True, frozen=True)
class End:
    """How an item ended. cut: by the run's own cancel, so that it has no result and has not failed."""

    value: Any = None
    error: BaseException | None = None
    cut: bool = False


class Judge:
    """Hears what happened in the run of a plain map."""

    def __init__(self, record: Record) -> None:
        self.wrong: list[str] = []
        self.at = 0.0
        self.record, self.scenario, self.library = record, record.scenario, record.library
        self.skip: object = record.library.SKIP
        self.streams = self.scenario.verb != "amap"
        self.limit = self.most = self.scenario.limit
        self.running: dict[int, Running] = {}
        self.ended: dict[int, End] = {}  # in the order of completion
        self.started = self.pulled = 0
        self.last = sys.maxsize  # items from here on may not start any more
        self.source = "idle"
        self.source_allowed = 0
        self.called = self.wanted = self.closing = self.given_back = self.paused = self.shut_down = False
        self.stopped = self.drained = ""
        self.error: BaseException | None = None
        self.error_index = -1
        self.callback_error: BaseException | None = None
        self.raised: list[BaseException] = []
        self.delivered: list[Any] = []
        self.called_back: list[int] = []
        self.outside_cancels = self.cancels = 0
        self.cancel_under_way = self.forwarded = False
        self.got_at_cancel: dict[int, int] = {}

    def judge(self) -> list[str]:
        if self.record.crash is not None:
            # What was noted after a deadlock belongs to the loop's own clean-up.
            return [f"I7: the loop ended with {self.record.crash!r}"]
        for event in self.record.events:
            self.hear(event)
        self.after_all()
        return self.wrong

    def hear(self, event: Event) -> None:
        """Judges one event, with all before it."""
        self.at = event.at
        getattr(self, "_" + event.what.replace(" ", "_"))(event)

    def _broken(self, what: str) -> None:
        self.wrong.append(f"at {self.at:g} s: {what}")

    def after_all(self) -> None:
        """Judges what is left at the end."""
        if self.record.leaked:
            self._broken(f"I4: tasks are left at the end: {self.record.leaked}")
        if self.record.unhandled:
            self._broken(f"I9: this reached the loop's exception handler: {self.record.unhandled}")
        if not self.called:
            return
        if not self.given_back:
            self._broken("I7: the call never gave control back")
        elif self.streams and self.record.events[-1].what != "end":
            self._broken("I6: the stream does not come to its end, though it was closed")
        returned = [index for index, end in self.ended.items() if end.error is None and end.value is not self.skip]
        if self.scenario.callback and not self.streams and self.called_back != returned:
            self._broken(f"I2: callback was called for {self.called_back}, while {returned} succeeded in this order")

    def _wrong(self, event: Event) -> None:
        self._broken(event.detail if event.item < 0 else f"{event.detail} (item {event.item})")

    def _call(self, _: Event) -> None:
        self.called = True

    def _shutdown(self, _: Event) -> None:
        self.shut_down = True
        self._allow()

    def _cancel(self, _: Event) -> None:
        self.cancels += 1
        # The consumer of a stream may go on after a cancel: it is none of the run, until the stream is being closed.
        if self.given_back or self.cancel_under_way or (self.streams and not self.closing):
            return
        self.cancel_under_way = True
        self.outside_cancels += 1
        self.got_at_cancel = {index: item.got for index, item in self.running.items()}
        self.forwarded = not self.stopped or self.outside_cancels > 1
        if self.stopped and self.forwarded:
            self._allow()
        self._stop("a cancel of the caller")

    def _cancel_arrives(self, _: Event) -> None:
        self.cancel_under_way = False
        if self.forwarded:
            for index, item in self.running.items():
                item.due = item.got == self.got_at_cancel.get(index)

    def _leave(self, event: Event) -> None:
        self.closing = True
        self.outside_cancels = int(isinstance(event.detail, asyncio.CancelledError))
        self._stop("the consumer left", certain=True)

    def _drain(self, _: Event) -> None:
        self.drained = "drain()"
        self.last = self.pulled if self.scenario.source == "async iterator" else self.started
        self.source_allowed += 1

    def _pause(self, _: Event) -> None:
        self.paused = True

    def _resume(self, _: Event) -> None:
        self.paused = False

    def _limit(self, event: Event) -> None:
        self.limit = event.detail
        self.most = max(self.most, self.limit)

    def _allow(self) -> None:
        self.source_allowed += 1
        for item in self.running.values():
            item.allowed += 1

    def _stop(self, why: str, *, certain: bool = False) -> None:
        """certain: the run knows at once, so that from now on each running item has a cancel to come."""
        if self.stopped:
            return
        self.stopped = why
        self._allow()
        for item in self.running.values():
            item.due = certain

    def _fail(self, error: BaseException, index: int, *, stops: bool) -> None:
        interrupt = isinstance(error, Interrupt)
        if self.error is None or (interrupt and not isinstance(self.error, Interrupt)):
            self.error, self.error_index = error, index
        if interrupt or stops:
            self._stop(f"{error!r} of item {index}" if index >= 0 else f"{error!r} of the source", certain=True)

    def _source_asked(self, _: Event) -> None:
        self.source = "asked"
        if self.stopped or self.drained:
            self._broken(f"I5: the source was asked for another item after {self.stopped or self.drained}")

    def _pull(self, event: Event) -> None:
        self.pulled = event.item + 1
        if self.source == "asked":
            self.source = "idle"
            free = min(self.limit - len(self.running), self._room())
            if self.pulled - self.started > 1 + max(0, free):
                self._broken(f"I5: {self.pulled - self.started} items were fetched ahead, with {free} free slots")
        elif self.stopped or self.drained:
            self._broken(f"I5: item {event.item} was pulled after {self.stopped or self.drained}")

    def _source_ends(self, _: Event) -> None:
        self.source = "over"

    def _source_fails(self, event: Event) -> None:
        self.source = "over"
        self._fail(event.detail, -1, stops=self.scenario.on_error == "raise")

    def _source_cancelled(self, _: Event) -> None:
        self.source_allowed -= 1
        if self.source_allowed < 0:
            self._broken("I11: the source got a CancelledError too many")

    def _enter(self, event: Event) -> None:
        index, slot, limit = event.item, event.detail, self.limit
        if self.given_back:
            self._broken(f"I3: item {index} was entered after control was given back")
        elif self.stopped:
            self._broken(f"I10: item {index} was entered after {self.stopped}")
        elif self.paused:
            self._broken(f"I10: item {index} was entered while the stream is paused")
        elif index >= self.last:
            self._broken(f"I10: item {index} was entered after {self.drained}")
        if index != self.started:
            self._broken(f"I1: item {index} was entered, item {self.started} is the next")
        if len(self.running) >= limit:
            self._broken(f"I1: item {index} was entered while {len(self.running)} run, the limit is {limit}")
        if not 0 <= slot < self.most or slot in {item.slot for item in self.running.values()}:
            self._broken(f"I1: item {index} has slot {slot}, which is taken or beyond the limit {limit}")
        if self._room() <= 0:
            self._broken(f"I14: item {index} was entered while the window was full")
        self.started = index + 1
        self.running[index] = Running(slot)

    def _cancelled(self, event: Event) -> None:
        item = self.running[event.item]
        item.got += 1
        item.due = False
        if item.got > item.allowed and not (self.shut_down and self.streams):
            self._broken(f"I11: item {event.item} got CancelledError number {item.got}, {item.allowed} was called for")

    def _cancels_itself(self, event: Event) -> None:
        self.running[event.item].allowed += 1

    def _return(self, event: Event) -> None:
        self._finish(event.item, End(value=event.detail))

    def _raise(self, event: Event) -> None:
        error: BaseException = event.detail
        cut = isinstance(error, asyncio.CancelledError) and self.stopped != ""
        self._finish(event.item, End(error=error, cut=cut))
        if not cut:
            self._fail_item(error, event.item)

    def _fail_item(self, error: BaseException, index: int) -> None:
        if isinstance(error, Interrupt) or self.scenario.on_error == "raise":
            self._fail(error, index, stops=True)

    def _finish(self, index: int, end: End) -> None:
        if self.running.pop(index).due and not (self.shut_down and self.streams):
            self._broken(f"I11: item {index} ended without the CancelledError that was due to it after {self.stopped}")
        self.ended[index] = end

    def _callback(self, event: Event) -> None:
        item, error = event.detail
        if item != event.item:
            self._broken(f"I2: callback({event.item}, {item})")
        if self.ended[event.item].value is not self.skip:
            self.called_back.append(event.item)
        if error is not None:
            self.callback_error = error
            self._fail(error, event.item, stops=True)

    def _want(self, _: Event) -> None:
        self.called = self.wanted = True

    def _result(self, event: Event) -> None:
        self.wanted = False
        place = len(self.delivered)
        self.delivered.append(event.detail)
        if self.shut_down:
            return
        if any(isinstance(error, Exception) for error in self.raised):
            self._broken(f"I6: {event.detail!r} was delivered after the failure was raised")
        expected = self._deliverable()
        if place >= len(expected) or not self._is_result(event.detail, *expected[place]):
            self._broken(f"I6: result {place} is {event.detail!r}; those that may be delivered are {expected}")

    def _list(self, event: Event) -> None:
        if self.error is not None:
            self._broken(f"I6: a list was returned, {self.error!r} should have been raised")
        if self.started < self.scenario.hands_over() or self.running:
            self._broken(f"I2: a list was returned when {self.started} items were started and {len(self.running)} ran")
        ends = [(index, self.ended[index]) for index in sorted(self.ended)]
        expected = [(index, end) for index, end in ends if self._gives(end)]
        good = (self._is_result(shown, *each) for shown, each in zip(event.detail, expected, strict=False))
        if len(event.detail) != len(expected) or not all(good):
            self._broken(f"I6: the list is {event.detail}, not {expected}")

    def _error(self, event: Event) -> None:
        error: BaseException = event.detail
        self.wanted = False
        if self.streams:
            if not isinstance(error, asyncio.CancelledError):
                self.raised.append(error)
        elif isinstance(self.error, Interrupt) or not self.outside_cancels:
            if self.error is None or not self._is_failure(error, self.error, self.error_index):
                self._broken(f"I6: {error!r} was raised, not {self.error!r}")
        elif not isinstance(error, asyncio.CancelledError):
            self._broken(f"I7: the caller was cancelled, and {error!r} was raised")

    def _end(self, _: Event) -> None:
        self.wanted = False
        if self.running:
            self._broken(f"I3: the stream ended while {list(self.running)} run")
        if self.shut_down:
            return
        if not self.stopped and not self.drained and self.started < self.scenario.hands_over():
            self._broken(f"I2: the stream ended after {self.started} items")
        if len(self.delivered) < len(self._deliverable()):
            self._broken(f"I2: the stream ended without {self._deliverable()[len(self.delivered) :]}")
        expected = [] if self.error is None else [self.error]
        good = (
            self._is_failure(shown, error, self.error_index)
            for shown, error in zip(self.raised, expected, strict=False)
        )
        if len(self.raised) != len(expected) or not all(good):
            self._broken(f"I6: the stream raised {self.raised}, not {expected}")

    def _at_return(self, event: Event) -> None:
        seen: AtReturn = event.detail
        self.given_back = True
        if self.running:
            self._broken(f"I3: control was given back while {list(self.running)} run")
        if seen.alive:
            self._broken(f"I4: control was given back while tasks are alive: {seen.alive}")
        if seen.source_open:
            self._broken("I5: control was given back, and the async source is not closed")
        if seen.cancelling != self.cancels:
            self._broken(f"I7: the caller was cancelled {self.cancels} times, its cancelling() is {seen.cancelling}")
        if not seen.variable_kept:
            self._broken("I12: a context variable of the caller has changed")

    def _stats(self, event: Event) -> None:
        stats = event.detail
        done, skipped, failed = 0, 0, 0
        for end in self.ended.values():
            failed += end.error is not None
            skipped += end.value is self.skip
            done += end.error is None and end.value is not self.skip
        told = (stats.running, stats.done, stats.skipped, stats.failed + stats.cancelled)
        true = (len(self.running), done, skipped, failed)
        if told != true or stats.pulled != sum(true) + stats.waiting + stats.retrying:
            self._broken(f"I14: {stats}, but running, done, skipped, failed are {true}")
        if self.streams and not self.stopped and stats.buffered != self._undelivered() - len(self.running):
            self._broken(f"I14: {stats}, but {self._undelivered()} results are not delivered or not there yet")

    def _quiet(self, _: Event) -> None:
        if self.given_back or self.shut_down or not self.called:
            return
        if self.wanted and len(self._deliverable()) > len(self.delivered):
            self._broken(f"I14: a result is held back: {self._deliverable()[len(self.delivered)]}")
        if self.stopped or self.paused or len(self.running) >= self.limit or self._room() <= 0:
            return
        asynchronous = self.scenario.source == "async iterator"
        there = self.pulled if asynchronous else self.scenario.hands_over()
        if self.started < min(there, self.last):
            self._broken(f"I14: time goes on, and item {self.started} does not start, though a slot is free")
        if asynchronous and self.source == "idle" and not self.drained:
            self._broken("I14: time goes on, and the source is not asked for its next item")

    def _gives(self, end: End) -> bool:
        """Whether it gives a result, be it an error that stands for one."""
        if end.error is None:
            return end.value is not self.skip
        return not end.cut and not isinstance(end.error, Interrupt) and self.scenario.on_error == "return"

    def _is_hole(self, end: End | None) -> bool:
        """Whether nothing after it may be delivered in order."""
        if end is None or end.cut or isinstance(end.error, Interrupt):
            return True
        return end.error is not None and self.scenario.on_error == "raise"

    def _deliverable(self) -> list[tuple[int, End]]:
        """All that may have been delivered by now, in order."""
        order = list(self.ended)
        if self.scenario.ordered:
            holes = (index for index in range(self.started + 1) if self._is_hole(self.ended.get(index)))
            order = list(range(next(holes)))
        return [(index, self.ended[index]) for index in order if self._gives(self.ended[index])]

    def _undelivered(self) -> int:
        """Items that are started and not yet delivered; in order, one left out counts until its turn has come."""
        early = 0
        if self.scenario.ordered:
            head = next(index for index in range(self.started + 1) if index not in self.ended)
            early = sum(index > head for index in self.ended)
        return len(self.running) + len(self._deliverable()) - len(self.delivered) + early

    def _room(self) -> int:
        if not self.streams:
            return sys.maxsize
        buffer = max(1000, 16 * self.limit) if self.scenario.buffer is None else self.scenario.buffer
        return self.limit + buffer - self._undelivered()

    def _is_result(self, shown: Any, index: int, end: End) -> bool:
        if self.scenario.verb == "aoutcomes":
            if (shown.index, shown.item) != (index, index) or (end.error is None) != shown.ok:
                return False
            shown = shown.value if shown.ok else shown.error
        return shown is end.value if end.error is None else self._is_failure(shown, end.error, index)

    def _is_failure(self, shown: Any, error: BaseException, index: int) -> bool:
        """Whether this is how the error of an item (-1: of the source) or of the callback has to be shown."""
        if error is self.callback_error:
            return isinstance(shown, self.library.CallbackError) and shown.__cause__ is error
        if isinstance(error, NotAwaitable):
            return type(shown) is TypeError
        if isinstance(error, asyncio.CancelledError):
            return isinstance(shown, self.library.ItemCancelled) and shown.index == index and shown.__cause__ is error
        if isinstance(error, StopIteration | StopAsyncIteration):
            return isinstance(shown, RuntimeError) and shown.__cause__ is error
        return shown is error
