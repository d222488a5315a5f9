"""What is typed for `aiomap run` and `fetch`, and what becomes of it: a value, or a sentence that says what to type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from aiomap import PerKey, Rate, Retry
from aiomap.cli import flags
from aiomap.cli.keys import key_of_entry
from aiomap.inputs import Entry


def parsed(parse: Callable[..., Any], value: Any, flag: str = "--flag") -> Any:
    return parse(click.Context(click.Command("run")), click.Option([flag]), value)


def refused(parse: Callable[..., Any], value: Any, flag: str = "--flag") -> str:
    with pytest.raises(click.BadParameter) as caught:
        parsed(parse, value, flag)
    return caught.value.message


@pytest.mark.parametrize("parse", [flags.parse_count, flags.parse_shard, flags.parse_duration, flags.parse_failed])
def test_what_is_not_typed_is_nothing(parse: Callable[..., Any]) -> None:
    assert parsed(parse, None) is None


@pytest.mark.parametrize(("typed", "count"), [("1", 1), ("100", 100), ("007", 7), ("999999999", 999_999_999)])
def test_a_count_is_a_whole_number_of_at_least_1(typed: str, count: int) -> None:
    assert parsed(flags.parse_count, typed) == count


@pytest.mark.parametrize(
    "typed", ["", "0", "000", "-1", "+1", "1.5", "1e3", "1_000", "ten", " 1", "\u0663", "9" * 5000]
)
def test_any_other_count_is_refused_with_an_example_of_its_flag(typed: str) -> None:
    assert refused(flags.parse_count, typed, "--limit") == (
        f"{typed!r} is no number of items; write it as in --limit 100"
    )


@pytest.mark.parametrize(("typed", "shard"), [("1/1", (1, 1)), ("1/4", (1, 4)), ("4/4", (4, 4)), ("07/10", (7, 10))])
def test_a_shard_is_one_of_so_many_parts_from_1(typed: str, shard: tuple[int, int]) -> None:
    assert parsed(flags.parse_shard, typed) == shard


@pytest.mark.parametrize(
    "typed", ["", "/", "1", "1/", "/4", "a/b", "1/4/8", "-1/4", "1.0/4", "\u0661/4", f"1/{'9' * 10}"]
)
def test_what_is_no_shard_is_refused_with_an_example(typed: str) -> None:
    assert refused(flags.parse_shard, typed) == (f"{typed!r} is no shard; write which of how many, as in --shard 1/4")


@pytest.mark.parametrize("typed", ["0/4", "5/4"])
def test_a_part_that_there_is_not_is_refused_with_the_first_and_the_last(typed: str) -> None:
    assert refused(flags.parse_shard, typed) == f"{typed} is no shard; of 4 parts the first is 1/4, the last 4/4"


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("90s", 90), ("90", 90), ("15m", 900), ("6h", 21_600), ("0.5h", 1800), ("1e2", 100), ("0.001s", 0.001)],
)
def test_a_duration_is_a_number_of_seconds_minutes_or_hours(typed: str, seconds: float) -> None:
    assert parsed(flags.parse_duration, typed) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "typed", ["", "s", "h", "0", "0s", "-1m", "nan", "inf", "infh", "1e400", "1d", "6 hours", "1h30m"]
)
def test_any_other_duration_is_refused_with_an_example_of_its_flag(typed: str) -> None:
    assert refused(flags.parse_duration, typed, "--max-time") == (
        f"{typed!r} is no time; write it as in --max-time 90s, 15m or 6h"
    )


@pytest.mark.parametrize(
    ("typed", "failed", "ended", "halts"),
    [
        (None, 10**9, 10**9, False),
        ("500", 500, 10**6, False),
        ("500", 501, 501, True),
        ("0", 0, 100, False),
        ("0", 1, 1, True),
        ("10%", 19, 19, False),
        ("10%", 3, 20, True),
        ("10%", 2, 20, False),
        ("10%", 100, 1000, False),
        ("10%", 101, 1000, True),
        ("0.5%", 5, 1000, False),
        ("0.5%", 6, 1000, True),
        ("99.9%", 20, 20, True),
    ],
)
def test_a_run_is_halted_by_more_failures_than_the_number_or_the_share(
    typed: str | None, failed: int, ended: int, halts: bool
) -> None:
    assert parsed(flags.parse_halt, typed)(failed, ended) is halts


@pytest.mark.parametrize(
    "typed", ["", "%", "-1", "1.5", "ten", "0%", "100%", "-5%", "nan%", "inf%", "inf", "10%%", "10 percent"]
)
def test_any_other_bound_is_refused_with_both_examples(typed: str) -> None:
    assert refused(flags.parse_halt, typed) == (
        f"{typed!r} is no bound; write how many items may fail, as in --halt 500 or --halt 10%"
    )


@pytest.mark.parametrize(
    ("typed", "classes"),
    [
        ("all", set[str]()),
        ("timeout", {"timeout"}),
        ("conn", {"dns", "connect"}),
        ("4xx, 5xx", {"http_4xx", "http_5xx"}),
        ("http_429,ValueError", {"http_429", "ValueError"}),
        ("ValueError , conn,ValueError", {"ValueError", "dns", "connect"}),
    ],
)
def test_failures_are_named_by_their_classes_the_short_names_too(typed: str, classes: set[str]) -> None:
    assert parsed(flags.parse_failed, typed) == classes


def test_a_file_that_is_there_is_no_class_of_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed(flags.parse_failed, "ids") == {"ids"}
    for name in ("ids", "timeout"):
        (tmp_path / name).touch()
    assert refused(flags.parse_failed, "ids").startswith("'ids' is no class of failures; write them as in")
    assert parsed(flags.parse_failed, "timeout") == {"timeout"}


def entry(item: Any, key: Any = "key") -> Entry:
    return Entry(0, 1, item, key, None)


def test_without_a_rate_or_a_key_there_are_no_limits() -> None:
    assert flags.limits_of(None, None, 2, Rate(1, 1)) == []


def test_a_rate_is_a_limit_and_a_key_is_another() -> None:
    rate = Rate(3, 60)
    assert flags.limits_of(rate, None, 2, None) == [rate]
    first, second = flags.limits_of(rate, key_of_entry("host"), 2, Rate(1, 2))
    assert first is rate
    assert isinstance(second, PerKey)
    assert (second.max_concurrent_tasks, repr(second.rate)) == (2, repr(Rate(1, 2)))
    assert second.key(entry("http://Example.com:80/x")) == "example.com"


def test_a_key_bounds_by_a_column_of_that_name() -> None:
    (limit,) = flags.limits_of(None, key_of_entry("shop"), None, None)
    assert isinstance(limit, PerKey)
    assert limit.key(entry({"shop": "a"})) == "a"


def test_without_retries_nothing_is_tried_again() -> None:
    assert flags.retry_of(0, frozenset({"timeout"})) is None


class OfClass(Exception):
    def __init__(self, kind: str) -> None:
        self.kind = kind


def test_what_is_tried_again_is_told_by_the_class_of_the_failure() -> None:
    retry = flags.retry_of(4, frozenset({"timeout", "connect", "custom"}))
    assert isinstance(retry, Retry)
    assert retry.attempts == 5
    tried = [TimeoutError(), ConnectionResetError(), OfClass("custom")]
    final = [ValueError(), OfClass("other"), OfClass("http_4xx")]
    assert [retry.retries(error) for error in [*tried, *final]] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("item", "host"),
    [
        ("https://user:pw@Example.COM:8080/path", "example.com"),
        ("http://[::1]/", "::1"),
        ("//example.org/x", "example.org"),
        ({"url": "http://a.example/"}, "a.example"),
        ({"link": "http://b.example/"}, "b.example"),
        ({"url": "http://a.example/", "link": "http://b.example/"}, "a.example"),
        ({"url": None, "link": "http://b.example/"}, "b.example"),
    ],
)
def test_the_host_is_that_of_the_link_that_the_item_is_or_has(item: Any, host: str) -> None:
    assert key_of_entry("host")(entry(item)) == host


@pytest.mark.parametrize(
    "item", ["", "no link", "http://", "http://[::1", "\x1b", 7, None, [], {}, {"url": 7}, {"URL": "http://a/"}, True]
)
def test_an_item_without_a_link_is_not_bounded(item: Any) -> None:
    assert key_of_entry("host")(entry(item)) is None


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ({"shop": "a"}, "a"),
        ({"shop": 7}, 7),
        ({"shop": None}, None),
        ({"shop": False}, False),
        ({"shop": [1, {"a": 2}]}, "[1, {'a': 2}]"),
        ({"shop": {}}, "{}"),
        ({"other": "a"}, None),
        ("shop", None),
        (["shop"], None),
        (None, None),
    ],
)
def test_the_value_of_the_column_is_the_key_and_without_one_nothing_bounds(item: Any, key: Any) -> None:
    found = key_of_entry("shop")(entry(item))
    assert found == key
    hash(found)


def test_headers_are_names_and_values() -> None:
    typed = ("Accept: text/html", "X-Id:7", "x: a: b", "Empty:")
    assert parsed(flags.parse_header, typed) == (
        ("Accept", "text/html"),
        ("X-Id", "7"),
        ("x", "a: b"),
        ("Empty", ""),
    )


@pytest.mark.parametrize("typed", ["", "Accept", ": x", "A b: x", "A: x\r\nB: y", "A\n: x", "A: \x00", "\u00c4: x"])
def test_what_is_no_header_is_refused_and_not_repeated(typed: str) -> None:
    told = refused(flags.parse_header, (typed,))
    assert told == "that is no header; write its name, a colon and its value: -H 'Accept: text/html'"


def test_a_folder_is_one_that_is_there_or_can_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert parsed(flags.parse_folder, None) is None
    assert parsed(flags.parse_folder, str(tmp_path)) == str(tmp_path)
    assert parsed(flags.parse_folder, str(tmp_path / "new")) == str(tmp_path / "new")
    for typed in ("", str(file)):
        assert refused(flags.parse_folder, typed, "--save") == f"{typed!r} is no folder; write it as in --save pages"
