"""What the journal writes of a result comes back as it was, types included, or is refused with the way out."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiomap.journal import serializers
from aiomap.journal.serializers import Json, LongText, Serializer, Unencodable, serializer

FAST: ModuleType | None = serializers._msgspec()
SLOW_ONLY = Json(None)
BOTH = [SLOW_ONLY] if FAST is None else [SLOW_ONLY, Json(FAST)]
json_ = serializer("json")
pickle_ = serializer("pickle")


def as_bytes(by: Serializer, value: object) -> bytes:
    return bytes(by.encode(value))


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    RED = "red"


class Plain(Enum):
    A = 1


class Text(str):
    __slots__ = ()


class Real(float):
    """As numpy.float64 is."""


class Model:
    def model_dump(self) -> dict[str, object]:
        return {}


class Array:
    def tolist(self) -> list[object]:
        return []


class Opaque:
    pass


@dataclass
class Record:
    a: int


Point = namedtuple("Point", "x y")  # noqa: PYI024  (as users write it)

any_text = st.text(st.characters(codec=None, categories=None), max_size=30) | st.text(
    st.sampled_from(
        'a\\"/\x00\x08\x0c\n\r\t\x1f\x7f\x80\u2028\u2029\ufeff\uffff\U0001f600\U0010ffff\ud83d\ud800\udfffud'
    ),
    max_size=12,
)
any_float = st.floats() | st.floats(1e-7, 1e-2) | st.floats(1e14, 1e18) | st.integers().map(float)
any_int = st.integers() | st.integers(-(1 << 70), 1 << 70) | st.integers(0, 300).map(lambda n: 10**n)
scalars = st.none() | st.booleans() | any_int | any_float | any_text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(any_text, inner, max_size=6), max_leaves=25
)
odd_things = st.sampled_from(
    [
        (),
        (1,),
        b"",
        {1: 2},
        {None: 1},
        {True: 1},
        Number.ONE,
        Word.RED,
        {Word.RED: 1},
        Real(1),
        Text("a"),
        Point(1, 2),
        {1},
    ]
)
wild_values = st.recursive(
    scalars | odd_things,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text | st.integers(), inner, max_size=4),
    max_leaves=12,
)


def is_as_it_was(back: Any, value: Any) -> bool:
    """Whether they are equal in all: types, order of keys, signs of zeros, every bit of a float."""
    if type(back) is not type(value):
        return False
    if isinstance(value, dict):
        return len(back) == len(value) and all(
            is_as_it_was(*keys) and is_as_it_was(back[keys[0]], value[keys[1]])
            for keys in zip(back, value, strict=True)
        )
    if isinstance(value, list):
        return len(back) == len(value) and all(map(is_as_it_was, back, value))
    if isinstance(value, float):
        return struct.pack("d", back) == struct.pack("d", value)
    return bool(back == value)


def written(by: Json, value: object) -> bytes | str:
    try:
        return as_bytes(by, value)
    except Unencodable as refused:
        return refused.reason


def refusal(value: object) -> str:
    reasons = {str(written(by, value)) for by in BOTH}
    with pytest.raises(Unencodable) as refused:
        json_.encode(value)
    assert reasons == {refused.value.reason}
    return refused.value.reason


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


@given(values | wild_values)
@example("\ud83d\ude00")
@example({"\ud83d\ude00": 1})
@example(["\ud83d", "\ude00"])
@example(["\\ud800", "\ud800"])
@example([1e16, 1e-5, 5e-324, -0.0, 0.0001, 9999999999999998.0, 1.7976931348623157e308])
@example([2**63, 2**64, -(2**63) - 1, 10**400])
def test_whatever_is_written_comes_back_as_it_was(value: Any) -> None:
    for by in BOTH:
        body = written(by, value)
        if isinstance(body, bytes):
            body.decode()  # it is UTF-8
            assert all(is_as_it_was(reader.decode(body), value) for reader in BOTH)


@given(values | wild_values)
def test_the_bytes_are_the_same_with_msgspec_and_without(value: Any) -> None:
    assert len({written(by, value) for by in BOTH}) == 1


@given(st.lists(st.integers(0, (1 << 64) - 1).map(lambda bits: struct.unpack("d", bits.to_bytes(8, "little"))[0])))
def test_every_finite_float_comes_back_bit_by_bit(floats: list[float]) -> None:
    finite = [number for number in floats if math.isfinite(number)]
    bodies = {as_bytes(by, finite) for by in BOTH}
    assert bodies == {json.dumps(finite, separators=(",", ":")).encode()}
    assert all(is_as_it_was(by.decode(bodies.copy().pop()), finite) for by in BOTH)


@given(values)
def test_a_value_of_json_is_refused_only_for_a_number_or_surrogates_that_json_cannot_hold(value: Any) -> None:
    body = written(SLOW_ONLY, value)
    if isinstance(body, str):
        assert body.startswith(("NaN at", "Infinity at", "-Infinity at", "a str with", "a dict with", "a key that is"))


def test_the_bytes_are_compact_utf8_with_the_keys_in_their_order() -> None:
    for by in BOTH:
        assert (
            as_bytes(by, {"b": [1, None, True], "a": "é\u2028😀\x7f\x01"})
            == '{"b":[1,null,true],"a":"é\u2028😀\x7f\\u0001"}'.encode()
        )
        assert as_bytes(by, "half \ud83d") == b'"half \\ud83d"'


def test_every_character_but_a_surrogate_is_written_alike() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert len({as_bytes(by, text) for by in BOTH}) == 1
    assert all(by.decode(as_bytes(by, text)) == text for by in BOTH)


@pytest.mark.parametrize(
    "number",
    [1e-4, 9.9e-5, 1e-5, 1e-6, 5e-324, -1e-4, -9.9e-5, 9999999999999998.0, 1e16, -1e16, 1e17, 1e308, 0.0, -0.0],
)
def test_exponents_are_written_alike(number: float) -> None:
    for value in (number, [number], {"a": [number]}):
        assert {as_bytes(by, value) for by in BOTH} == {json.dumps(value, separators=(",", ":")).encode()}


def test_the_longest_integers_come_back() -> None:
    for number in (10**4299 + 7, -(10**4299) - 7):
        assert all(by.decode(as_bytes(by, [number])) == [number] for by in BOTH)


def test_an_escape_of_a_surrogate_is_read_by_the_standard_library_alone() -> None:
    replacing = ModuleType("msgspec.json")
    replacing.encode = lambda _: b""  # type: ignore[attr-defined]
    replacing.decode = lambda _: "\N{REPLACEMENT CHARACTER}"  # type: ignore[attr-defined]
    assert Json(replacing).decode(as_bytes(SLOW_ONLY, "\ud800")) == "\ud800"


def test_surrogates_come_back_one_by_one_and_a_pair_is_refused() -> None:
    for by in BOTH:
        for text in ["\ud83d", "\ude00", "\ude00\ud83d", "\ud83da\ude00", "\ud83d\ud83d", "\ud800\U0001f600\udc00"]:
            assert by.decode(as_bytes(by, [text, {text: text}])) == [text, {text: text}]
    assert refusal({"a": ["x\ud83d\ude00"]}) == (
        "a str with surrogates side by side at $.a[0], which JSON gives back as one character: "
        "return the character itself, or record with Journal(..., serializer='pickle')"
    )
    assert refusal({"\ud83d\ude00": 1}).startswith("a key that is a str with surrogates side by side at $, which JSON")


@pytest.mark.parametrize(
    ("value", "begins", "fix"),
    [
        ({"pair": (1, 2)}, "a tuple at $.pair, which JSON gives back as a list", "return a list"),
        (Point(1, 2), "a Point at $ (a kind of tuple), which JSON gives back as a plain list", "return list() of it"),
        ([math.nan], "NaN at $[0], which JSON does not have", "return None in its place"),
        (math.inf, "Infinity at $, which JSON does not have", "return None in its place"),
        ({"a": -math.inf}, "-Infinity at $.a, which JSON does not have", "return None in its place"),
        ({1: 2}, "a dict with the key 1 (int) at $, which JSON gives back as '1'", "return a dict whose keys are str"),
        ([{None: 2}], "a dict with the key None (NoneType) at $[0], which JSON does not have", "return a dict whose"),
        ({True: 2}, "a dict with the key True (bool) at $, which JSON gives back as 'true'", "return a dict whose"),
        ({1.5: [2]}, "a dict with the key 1.5 (float) at $, which JSON gives back as '1.5'", "return a dict whose"),
        (
            {Word.RED: 1},
            "a dict with the key <Word.RED: 'red'> (Word) at $, which JSON gives back as 'red'",
            "return a",
        ),
        ({(1, 2): 1}, "a dict with the key (1, 2) (tuple) at $, which JSON does not have", "return a dict whose"),
        (Number.ONE, "a Number at $ (a kind of int), which JSON gives back as a plain int", "return its .value"),
        ([Word.RED], "a Word at $[0] (a kind of str), which JSON gives back as a plain str", "return its .value"),
        (Real(1), "a Real at $ (a kind of float), which JSON gives back as a plain float", "return float() of it"),
        (Text("a"), "a Text at $ (a kind of str), which JSON gives back as a plain str", "return str() of it"),
        (
            OrderedDict(a=1),
            "an OrderedDict at $ (a kind of dict), which JSON gives back as a plain dict",
            "return dict()",
        ),
        (b"x", "a bytes at $, which JSON does not have", "return a str, such as its .hex()"),
        ({"a b": {1}}, "a set at $['a b'], which JSON does not have", "return a sorted list"),
        (Plain.A, "a Plain at $, which JSON does not have", "return its .value"),
        (datetime.now(UTC), "a datetime at $, which JSON does not have", "return its .isoformat()"),
        (timedelta(1), "a timedelta at $, which JSON does not have", "return its .total_seconds()"),
        (Record(1), "a Record at $, which JSON does not have", "return dataclasses.asdict() of it"),
        (Model(), "a Model at $, which JSON does not have", "return its .model_dump(mode='json')"),
        (Array(), "an Array at $, which JSON does not have", "return its .tolist()"),
        (Decimal(1), "a Decimal at $, which JSON does not have", "return str() of it"),
        (UUID(int=1), "an UUID at $, which JSON does not have", "return str() of it"),
        (PurePosixPath(), "a PurePosixPath at $, which JSON does not have", "return str() of it"),
        (Opaque(), "an Opaque at $, which JSON does not have", "return a dict of what you need of it"),
        (10**5000, "an int of more than 4,300 digits at $, which JSON readers refuse", "return hex() of it"),
        ([[], {"k": [1, {"z": 2j}]}], "a complex at $[1].k[1].z, which JSON does not have", "return "),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_a_refusal_says_what_where_and_what_to_do(value: object, begins: str, fix: str) -> None:
    reason = refusal(value)
    assert reason.startswith(f"{begins}: {fix}")
    assert reason.endswith(", or record with Journal(..., serializer='pickle')")


def test_200_levels_come_back_and_one_more_is_refused() -> None:
    for by in BOTH:
        assert by.decode(as_bytes(by, nested(200))) == nested(200)
    reason = refusal(nested(201))
    assert "nested more than 200 deep" in reason
    assert len(reason) < 500
    assert "nested more than 200 deep" in refusal(nested(100_000))


def test_a_list_or_dict_that_holds_itself_is_refused() -> None:
    ring: list[Any] = [1]
    ring.append({"again": ring})
    assert refusal([ring]).startswith("a list at $[0][1].again that holds itself: ")
    wide: list[Any] = []
    wide.extend([wide] * 2000)
    assert refusal(wide).startswith("a list at $[0] that holds itself: ")


def test_a_value_whose_json_would_double_at_every_level_is_refused_without_writing_it() -> None:
    value: list[Any] = []
    for _ in range(150):
        value = [value, value]
    assert refusal(value).startswith("a list cannot be written as JSON (the same objects stand in it over and over")


def test_what_stands_in_a_value_more_than_once_is_written_each_time() -> None:
    part = [[1.5], {"a": None}]
    value = [part] * 1500
    assert all(by.decode(as_bytes(by, value)) == value for by in BOTH)


def test_a_long_or_terrible_key_does_not_make_a_long_or_terrible_reason() -> None:
    reason = refusal({"k" * 100_000: {"\x1b[31m": {"ok": {"m" * 10_000: [()]}}}})
    assert len(reason) < 500
    assert reason.isprintable()
    assert refusal({"a\u200c": ()}).isprintable()


@pytest.mark.parametrize("name", ["json", "pickle"])
def test_a_body_that_no_row_holds_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "_MOST_BYTES", 1000)
    by = serializer(name)
    most = 998 if name == "json" else 1000 - len(as_bytes(by, "x" * 300)) + 300
    assert len(as_bytes(by, "x" * most)) == 1000
    with pytest.raises(Unencodable, match="it takes 1,001 bytes, and a row of the journal holds 1,000: write the data"):
        as_bytes(by, "x" * (most + 1))


def test_pickle_gives_back_what_json_does_not() -> None:
    value = [Record(1), (1, 2), {1: b"x"}, Word.RED, Point(1, 2), 10**5000]
    back = pickle_.decode(as_bytes(pickle_, value))
    assert back == value
    assert [type(member) for member in back] == [type(member) for member in value]
    assert as_bytes(pickle_, None)[:2] == b"\x80\x05"


def test_what_cannot_be_pickled_is_refused_with_pickles_own_reason() -> None:
    class Broken:
        def __reduce__(self) -> Any:
            raise KeyError("mine")

    for value, reason in [
        (lambda: None, "a function cannot be pickled ("),
        (Broken(), "a Broken cannot be pickled (KeyError"),
    ]:
        with pytest.raises(Unencodable) as refused:
            as_bytes(pickle_, value)
        assert refused.value.reason.startswith(reason)
        assert refused.value.reason.endswith("return what you need of it as a dict, a list or a str")


def test_a_body_that_is_no_json_is_a_value_error() -> None:
    for by in BOTH:
        for body in [b"", b"[1", b"\xff", b'"\\ud800']:
            with pytest.raises(ValueError):  # noqa: PT011  (of several kinds)
                by.decode(body)


def test_a_msgspec_that_writes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("msgspec.json")
    other.encode = lambda value: json.dumps(value).encode()  # type: ignore[attr-defined]
    other.decode = json.loads  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "msgspec", ModuleType("msgspec"))
    monkeypatch.setitem(sys.modules, "msgspec.json", other)
    assert serializers._msgspec() is None
    assert json_.name == "json"
    assert serializer("json").encode([1, 2]) == b"[1,2]"


def test_msgspec_and_pickle_are_imported_only_when_a_serializer_is_asked_for() -> None:
    program = (
        "import sys; from aiomap.journal import serializers; assert not {'msgspec', 'pickle'} & {*sys.modules}; "
        "sys.modules['msgspec'] = None; assert serializers.serializer('json').encode([1.5]) == b'[1.5]'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_long_text_is_written_later_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("x" * 70_000, '"\\é\n😀' * 20_000, "\x00" * 65_537):
        later = SLOW_ONLY.encode(text)
        assert isinstance(later, LongText)
        assert len(later) <= len(bytes(later))
        assert bytes(later) == json.dumps(text, ensure_ascii=False).encode()
        assert SLOW_ONLY.decode(bytes(later)) == text
    assert isinstance(SLOW_ONLY.encode("x" * 70_000 + "\ud800"), bytes)
    with pytest.raises(Unencodable):
        SLOW_ONLY.encode("x" * 70_000 + "\ud83d\ude00")
    monkeypatch.setattr(serializers, "_MOST_BYTES", 100_000)
    with pytest.raises(Unencodable, match="420,002 bytes"):
        SLOW_ONLY.encode("\x00" * 70_000)
