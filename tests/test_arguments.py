"""Promise 30: a bad argument is an error at the call, which names parameter, rule, value and fix."""

from __future__ import annotations

import asyncio
import functools
import math
import warnings
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest

from aiomap import Journal, Tolerate, aimap, amap, aoutcomes, run

ALL_VERBS: list[Any] = [amap, aimap, aoutcomes, run]


async def fetch(link: object) -> object:
    return link


async def generator(_: object) -> AsyncIterator[int]:
    yield 1


async def get_links() -> list[str]:
    return ["a"]


def links() -> Iterator[str]:
    yield "a"


async def async_links() -> AsyncIterator[str]:
    yield "a"


@pytest.mark.parametrize("verb", ALL_VERBS)
@pytest.mark.parametrize(
    ("limit", "kind", "hint"),
    [
        (0, ValueError, "got 0"),
        (-3, ValueError, "got -3"),
        (True, TypeError, "got True"),
        (False, TypeError, "got False"),
        (2.5, TypeError, r"got 2\.5"),
        (10.0, TypeError, "write 10"),
        (math.nan, TypeError, "got nan"),
        (math.inf, TypeError, "got inf"),
        ("10", TypeError, "got '10'"),
        (None, TypeError, "got None"),
        (Decimal(3), TypeError, "got Decimal"),
        ([], TypeError, r"got \[\]"),
    ],
)
def test_a_bad_limit_is_refused_at_the_call(verb: Any, limit: object, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=f"max_concurrent_tasks must be an integer of at least 1.*{hint}"):
        verb(fetch, [], limit)


def test_what_counts_as_an_integer_elsewhere_does_here() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    assert run(fetch, [1], Three()) == [1]  # type: ignore[call-overload]  # numpy's integers are such


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_a_coroutine_in_place_of_the_function_shows_the_right_call_and_no_other_warning(verb: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"fetch\(\.\.\.\) was called already.*write amap\(fetch, data\)"):
            verb(fetch("a"), ["a"])


@pytest.mark.parametrize("verb", ALL_VERBS)
@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (None, "got None"),
        (7, "got 7"),
        ("fetch", "got 'fetch'"),
        (generator, "async generator function"),
        (functools.partial(generator), "async generator function"),
    ],
)
def test_a_function_that_is_none_is_refused(verb: Any, function: object, hint: str) -> None:
    with pytest.raises(TypeError, match=f"coroutine must be an async function.*{hint}"):
        verb(function, ["a"])


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_swapped_arguments_are_recognised(verb: Any) -> None:
    with pytest.raises(TypeError, match=r"swapped.*write amap\(fetch, data\)"):
        verb(["a"], fetch)


@pytest.mark.parametrize("verb", ALL_VERBS)
@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("links", r"got the str 'links'.*write \[data\]"),
        (b"links", r"got the bytes b'links'.*write \[data\]"),
        (bytearray(b"x"), r"got the bytearray"),
        (None, "got None"),
        (7, "got 7"),
        (links, r"call it, links\(\)"),
        (async_links, r"call it, async_links\(\)"),
        (list, "pass an instance"),
        (object(), "got <object"),
    ],
)
def test_data_that_is_no_iterable_of_items_is_refused(verb: Any, data: object, hint: str) -> None:
    with pytest.raises(TypeError, match=f"data must be an iterable.*{hint}"):
        verb(fetch, data)


def test_a_coroutine_as_data_shows_the_missing_await() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"write `await get_links\(\.\.\.\)`"):
            amap(fetch, get_links())  # type: ignore[call-overload]  # the mistake itself


@pytest.mark.parametrize(
    ("size", "hint"), [(True, "got True"), (2.5, r"got 2\.5"), ("1", "got '1'"), (None, "got None")]
)
def test_a_bad_queue_size_is_refused(size: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=f"max_queue_size must be an integer.*{hint}"):
        run(fetch, [], 10, size)


@pytest.mark.parametrize(("size"), [-1, 0, 1, 1000])
def test_any_integer_is_a_queue_size(size: int) -> None:
    assert asyncio.run(amap(fetch, [1, 2], 10, size)) == [1, 2]


async def async_callback(_: int, __: object) -> None:
    pass


@pytest.mark.parametrize(
    ("callback", "hint"), [(7, "got 7"), (async_callback, "async one.*nobody would await it"), ("", "got ''")]
)
def test_a_bad_callback_is_refused(callback: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=f"callback must be .*{hint}"):
        run(fetch, [], callback=callback)


@pytest.mark.parametrize(
    ("on_error", "kind", "hint"),
    [
        ("ignore", ValueError, "got 'ignore'"),
        (None, TypeError, "got None"),
        (3, TypeError, r"write Tolerate\(n\)"),
        (ValueError, TypeError, "got <class 'ValueError'>"),
    ],
)
def test_a_bad_on_error_is_refused(on_error: Any, kind: type[Exception], hint: str) -> None:
    for verb in (amap, aimap, run):
        with pytest.raises(kind, match=rf'on_error must be "raise", "return", "skip" or a Tolerate.*{hint}'):
            verb(fetch, [], on_error=on_error)


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        (-1, ValueError),
        (1.5, ValueError),
        (0.0, ValueError),
        (1.0, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("10%", TypeError),
        (None, TypeError),
    ],
)
def test_a_bad_tolerance_is_refused(failures: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"Tolerate takes a count .* or a share"):
        Tolerate(failures)


@pytest.mark.parametrize(("buffer", "kind"), [(-1, ValueError), (True, TypeError), (1.5, TypeError), ("", TypeError)])
def test_a_bad_buffer_is_refused(buffer: Any, kind: type[Exception]) -> None:
    for verb in (aimap, aoutcomes):
        with pytest.raises(kind, match="buffer must be None"):
            verb(fetch, [], buffer=buffer)


@pytest.mark.parametrize("name", ["ordered", "progress", "isolate"])
@pytest.mark.parametrize("value", [1, None, "yes"])
def test_a_switch_takes_true_or_false_alone(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        aimap(fetch, [], **{name: value})


@pytest.mark.parametrize("verb", ALL_VERBS)
@pytest.mark.parametrize(
    ("journal", "kind", "hint"),
    [
        (True, TypeError, "got True .*: write journal='run.db'"),
        (5, TypeError, "journal must be None, the path of a file, or a Journal, got 5"),
        (b"run.db", TypeError, "journal must be None, the path of a file, or a Journal, got b'run.db'"),
        ("", ValueError, "path of a journal must be .* to a file, got ''"),
        (":memory:", ValueError, "got ':memory:': write journal='run.db'"),
    ],
)
def test_a_bad_journal_is_refused_at_the_call(verb: Any, journal: object, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=hint):
        verb(fetch, [], journal=journal)


@pytest.mark.parametrize(
    ("options", "kind", "hint"),
    [
        ({"path": None}, TypeError, "the path of a journal must be a str or a Path, got None"),
        ({"path": b"run.db"}, TypeError, "must be a str or a Path, got b'run.db'"),
        ({"key": "id"}, TypeError, r"key must be None or a function of an item, got 'id': write key=lambda item"),
        ({"key": fetch}, TypeError, "key must be a plain function of an item, but fetch is an async one"),
        ({"version": 1.5}, TypeError, "version must be a str, an int or None, got 1.5"),
        ({"version": True}, TypeError, "version must be a str, an int or None, got True"),
        ({"serializer": "yaml"}, ValueError, 'serializer must be "json" or "pickle", got \'yaml\''),
        ({"serializer": None}, TypeError, 'serializer must be "json" or "pickle", got None'),
        ({"on_change": "ignore"}, ValueError, 'on_change must be "refuse", "reuse" or "rerun", got \'ignore\''),
        ({"retry_failed": 1}, TypeError, "retry_failed must be True, False or a function of a RecordedFailure, got 1"),
        ({"durable": "yes"}, TypeError, "durable must be True or False, got 'yes'"),
    ],
)
def test_a_journal_checks_its_own_arguments(options: dict[str, Any], kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=hint):
        Journal(**{"path": "run.db", **options})


def test_a_function_without_source_needs_a_version_for_a_journal() -> None:
    blocking: Any = abs
    with pytest.raises(ValueError, match=r"the source of .* cannot be found.*write Journal\('run.db', version=1\)"):
        aimap(blocking, [1], journal="run.db")
    aimap(blocking, [1], journal=Journal("run.db", version=1))


def test_bad_arguments_are_refused_for_empty_input_too_and_pull_nothing() -> None:
    asked = False

    def source() -> Iterator[int]:
        nonlocal asked
        asked = True
        yield 1

    with pytest.raises(ValueError, match="max_concurrent_tasks"):
        run(fetch, source(), 0)
    assert not asked


def test_an_unknown_keyword_is_refused_by_python_itself() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'concurrency'"):
        amap(fetch, [], concurrency=3)  # type: ignore[call-overload]  # the mistake itself
