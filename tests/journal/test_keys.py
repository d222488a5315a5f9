"""An item's key is the same for ever and everywhere, and differs from the keys of all other items."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import OrderedDict, namedtuple
from enum import IntEnum, StrEnum
from hashlib import blake2b
from json import dumps
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap.journal.keys import key_of, label_of
from aiomap.journal.serializers import Unencodable


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    RED = "red"


Point = namedtuple("Point", "x y")  # noqa: PYI024  (as users write it)

PINNED: list[tuple[Any, str]] = [
    ("https://example.com/a?b=1", "ff2cfceb7398924a115409861f806494"),
    ("", "dd8a9e496bd8c69c5c77db4c77572fb0"),
    ("naïve 😀\n", "23c72271251405d0e60095d5f5aac956"),
    (0, "1240a4684403b160e6597a653a88f56c"),
    (-12345678901234567890, "91fd9d3e4d9bfcc6be8faf6a5e1466dc"),
    (1.5, "af8f4c865eb374cdeeffd25493060e80"),
    (1e22, "997db4f7951be9829e1c01e91eb58e18"),
    (True, "b30ee95ec6cda01eb712d912431fe867"),
    (None, "941dffce4e4308ceb33e87326003257d"),
    ([], "7ebb3c7c2a87b1a2f8a7ed729ecb040d"),
    (("en", 7), "6502e88130353ea8614566df4e668c11"),
    ({"id": 1, "link": "https://example.com/", "tags": ["a", None], "ok": False}, "5bc1edf8c8a74d49ed5c0dbae6fda75c"),
    ({"b": {"y": 1, "x": 2}, "a": -0.0}, "6d48ad4806c7f8a2ceae71dbb56c0fab"),
    ("\ud800\x7f", "c99e3d1d35b41c9eac5cb634a84935bc"),
]

# Few characters, since it is their kinds that matter: all of Unicode would take Hypothesis seconds to prepare.
texts = st.text(st.sampled_from('abz"\\/\n\x00\x7fé中\u2028\uffff\U0001f600'), max_size=10)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
things = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5), max_leaves=20
)


def refusal(thing: object) -> str:
    with pytest.raises(Unencodable) as refused:
        key_of(thing)
    with pytest.raises(Unencodable):
        label_of(thing)
    assert refused.value.reason.endswith(": give Journal(path, key=...) a function that makes a str of it")
    return refused.value.reason


@pytest.mark.parametrize(("thing", "key"), PINNED)
def test_the_keys_of_these_things_never_change(thing: object, key: str) -> None:
    assert key_of(thing).hex() == key


@given(things)
def test_a_key_is_blake2b_of_the_canonical_json(thing: object) -> None:
    text = dumps(thing, sort_keys=True, separators=(",", ":"))
    assert key_of(thing) == blake2b(text.encode("ascii"), digest_size=16).digest()
    assert label_of(thing) == text[:1000]


@given(things, things)
def test_two_things_have_one_key_only_if_their_json_is_one(one: object, other: object) -> None:
    assert (key_of(one) == key_of(other)) == (dumps(one, sort_keys=True) == dumps(other, sort_keys=True))


def test_things_that_look_alike_have_different_keys() -> None:
    alike: list[object] = [
        1,
        1.0,
        True,
        "1",
        "true",
        None,
        "null",
        [1],
        {"1": 1},
        0,
        0.0,
        -0.0,
        False,
        "",
        [],
        {},
        [[]],
    ]
    alike += ["a", "a ", "A", '"a"', "é", "e\u0301", "\\u00e9", "\ud800", "\\ud800", "\U0001f600", 10**30, 1e30]
    assert len({key_of(thing) for thing in alike}) == len(alike)
    assert len({label_of(thing) for thing in alike}) == len(alike)


def test_tuples_count_as_lists_and_subclasses_as_what_they_are_subclasses_of() -> None:
    assert key_of((1, ("a",))) == key_of([1, ["a"]]) == key_of(Point(1, ["a"]))
    assert key_of(Number.ONE) == key_of(1)
    assert key_of(Word.RED) == key_of("red")
    assert key_of([OrderedDict(b=1, a=2)]) == key_of([{"a": 2, "b": 1}])
    assert key_of({Word.RED: 1}) == key_of({"red": 1})


def test_the_order_of_keys_does_not_matter() -> None:
    assert key_of({"a": 1, "b": [{"c": 2, "d": 3}]}) == key_of({"b": [{"d": 3, "c": 2}], "a": 1})


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (PurePosixPath("a"), "a PurePosixPath has no JSON form"),
        ({"at": [1, PurePosixPath("a")]}, "a PurePosixPath at $.at[1] has no JSON form"),
        (b"x", "a bytes has no JSON form"),
        ({1, 2}, "a set has no JSON form"),
        (math.nan, "NaN, which JSON does not have"),
        ((1, math.inf), "Infinity at $[1], which JSON does not have"),
        ({1: "a"}, "a dict with the key 1 (int), which JSON gives back as '1'"),
        ([{"a": {None: "a"}}], "a dict with the key None (NoneType) at $[0].a, which JSON does not have"),
        (10**5000, "an int of more than 4,300 digits, which JSON readers refuse"),
        ([10**5000], "an int of more than 4,300 digits at $[0], which JSON readers refuse"),
        ("\ud83d\ude00", "a str with surrogates side by side, which JSON gives back as one character"),
        (
            {"\ud83d\ude00": 1},
            "a key that is a str with surrogates side by side, which JSON gives back as one character",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_has_no_json_form_of_its_own_is_refused_with_the_way_out(thing: object, reason: str) -> None:
    assert refusal(thing) == f"{reason}: give Journal(path, key=...) a function that makes a str of it"


def test_characters_beyond_ffff_and_single_surrogates_have_keys() -> None:
    assert label_of(["\U0001f600", "\ud83d", "\ude00"]) == r'["\ud83d\ude00","\ud83d","\ude00"]'


def test_200_levels_have_a_key_and_more_or_a_ring_are_refused() -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for level in range(depth):
            value = [value] if level % 2 else (value,)
        return value

    assert label_of(nested(200)) == "[" * 200 + "1" + "]" * 200
    assert "nested more than 200 deep" in refusal(nested(201))
    assert "nested more than 200 deep" in refusal(nested(50_000))
    ring: list[Any] = []
    ring.append((ring,))
    assert "holds itself" in refusal(ring)


def test_a_label_is_the_first_1000_characters_of_the_canonical_json() -> None:
    assert label_of("é") == '"\\u00e9"'
    assert label_of({"b": (1,), "a": "x"}) == '{"a":"x","b":[1]}'
    assert label_of("x" * 998) == '"' + "x" * 998 + '"'
    assert label_of("x" * 5000) == '"' + "x" * 999


def test_a_key_does_not_depend_on_the_process() -> None:
    program = "from aiomap.journal.keys import key_of; print(key_of({'b': 'é', 'a': [1, 2.5, None]}).hex())"
    keys = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout.strip()
        for seed in "12"
    }
    assert keys == {key_of({"b": "é", "a": [1, 2.5, None]}).hex()}
