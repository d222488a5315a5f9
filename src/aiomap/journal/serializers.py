"""How a result is written down, and what cannot be.

Invariant: what `encode` has written, `decode` gives back as it was, types included; anything else is refused before it
is written. The bytes of a value are the same whether msgspec is there or not.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from importlib import import_module
from math import isfinite, isnan
from types import ModuleType
from typing import Any, Final, Never, Protocol, TypeAlias, cast

from aiomap._foreign import printable
from aiomap._verdict import shortened

__all__ = [
    "LongText",
    "Misfit",
    "Serializer",
    "Unencodable",
    "a_kind",
    "first_fault",
    "misfit_of",
    "serializer",
    "text_writer",
    "unusual_by_level",
]

_DEEPEST: Final = 200
_MANY: Final = 1000
_WIDEST: Final = 6  # bytes that one byte of text takes at most, as an escape
_MOST_BYTES: Final = 900_000_000  # SQLite itself takes 1,000,000,000 in a row
_SLICE: Final = 1 << 16  # characters
_LONGEST_PLACE: Final = 200
_LONGEST_STEP: Final = 80

_EASY: Final = frozenset({type(None), bool, int, str})
_STR: Final = frozenset({str})
_ODD: Final = frozenset({float, list, dict})
_JSON: Final = _EASY | _ODD
_CONTAINERS: Final = (dict, list)
# To compare types with: checkers would narrow Any to dicts and lists of what they do not know.
_DICT: Final[Any] = dict
_LIST: Final[Any] = list

# Two surrogates that were apart, and would be read as one character.
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")

# By an attribute of its type.
_INSTEAD: Final = {
    "isoformat": "its .isoformat()",
    "total_seconds": "its .total_seconds()",
    "model_dump": "its .model_dump(mode='json')",
    "__dataclass_fields__": "dataclasses.asdict() of it",
    "tolist": "its .tolist()",
}

# Python writes floats of this size without an exponent.
_LEAST: Final = 1e-4
_MOST: Final = 1e16

_OR_PICKLE: Final = ", or record with Journal(..., serializer='pickle')"

Fault: TypeAlias = Callable[[str, object], "str | None"]
"""What is wrong with a thing at a place, its members apart."""


class Unencodable(Exception):
    """A value cannot be written so that it comes back as it was.

    reason: what is wrong and the fix, to stand behind "the result of item 3 cannot be recorded: ".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Misfit(Exception):
    """A value is not of the kinds that are allowed; where and why is for `first_fault` to find."""


class LongText:
    """The JSON of a long str without surrogates, not written yet: `bytes` does it, in any thread.

    The standard library takes several milliseconds for a megabyte, without a turn for other threads. Slice by slice
    they get their turns.

    >>> text = '"é"' * 50_000
    >>> bytes(LongText(text)) == json.dumps(text, ensure_ascii=False).encode()
    True
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __len__(self) -> int:
        """Bytes at least."""
        return len(self._text)

    def __bytes__(self) -> bytes:
        slices = (self._text[start : start + _SLICE] for start in range(0, len(self._text), _SLICE))
        return b"".join([b'"', *(_standard_text(part)[1:-1].encode() for part in slices), b'"'])


class Serializer(Protocol):
    """Writes a value as bytes, and reads it again."""

    name: str

    def encode(self, value: object) -> bytes | LongText:
        """The value as bytes, or what `bytes` makes them of; Unencodable if it would not come back as it is."""
        ...

    def decode(self, body: bytes) -> Any:
        """The value that was encoded."""
        ...


def serializer(name: str) -> Serializer:
    """The serializer of that name: "json" or "pickle"."""
    return Pickle() if name == "pickle" else Json(_msgspec())


class Json:
    """Strict JSON in UTF-8: what it does not give back as it was is refused.

    fast: the module `msgspec.json`, or `None` to do without.

    >>> Json(None).encode({"name": "Ann", "scores": [1, 2.0, None]})
    b'{"name":"Ann","scores":[1,2.0,null]}'
    >>> Json(None).encode({"pair": (1, 2)})
    Traceback (most recent call last):
        ...
    aiomap.journal.serializers.Unencodable: a tuple at $.pair, which JSON gives back as a list: return a list, \
or record with Journal(..., serializer='pickle')
    """

    name: str = "json"

    def __init__(self, fast: ModuleType | None) -> None:
        self._fast_write: Callable[[object], bytes] | None = None if fast is None else fast.encode
        self._fast_read: Callable[[bytes], Any] | None = None if fast is None else fast.decode

    def encode(self, value: object) -> bytes | LongText:
        """The value as JSON; Unencodable if JSON would not give it back as it is."""
        try:
            floats = None if type(value) in _EASY else _floats_of(value)
            if self._fast_write is None:
                body = _standard_body(value)
            elif floats and _with_exponents(floats):
                body = _standard_bytes(value)
            else:
                body = self._written_fast(value)
        except (Misfit, TypeError, ValueError, RuntimeError) as error:
            raise Unencodable(_reason(value, error)) from None
        return body if len(body) <= _MOST_BYTES else _refused(len(body))

    def decode(self, body: bytes) -> Any:
        """The value that was encoded; ValueError for what is no JSON."""
        # It refuses the longest integers, and escapes of single surrogates; the latter it is not even asked about,
        # since a reader that replaced them would go unnoticed.
        if self._fast_read is not None and b"\\ud" not in body:
            try:
                return self._fast_read(body)
            except ValueError:
                pass
        return json.loads(body)

    def _written_fast(self, value: object) -> bytes:
        try:
            return cast("Callable[[object], bytes]", self._fast_write)(value)
        except Exception:  # surrogates, long integers: the standard library knows what to do
            return _standard_bytes(value)


class Pickle:
    """Python's own format: nearly any object, read only by who trusts the file, since reading it may run code."""

    name: str = "pickle"

    def __init__(self) -> None:
        self._pickle: Final = import_module("pickle")  # only now: most never ask for it

    def encode(self, value: object) -> bytes:
        """The value pickled with protocol 5; Unencodable if that fails."""
        try:
            body: bytes = self._pickle.dumps(value, 5)
        except Exception as error:
            raise Unencodable(
                f"{a_kind(value)} cannot be pickled ({shortened(error, 200)}): "
                "return what you need of it as a dict, a list or a str"
            ) from None
        return body if len(body) <= _MOST_BYTES else _refused(len(body))

    def decode(self, body: bytes) -> Any:
        """The value that was encoded, or whatever pickle raises."""
        return self._pickle.loads(body)


def _msgspec() -> ModuleType | None:
    """Its JSON module, if it is installed and writes as the standard library does."""
    try:
        fast = import_module("msgspec.json")
        sample = ['\x00\x1f"\\/\b\f\n\r\t\x7f\u00e9\u2028\U0001f600', 0.0001, -0.0, 1e15 / 3, 2**70, {"": [None, True]}]
        return fast if fast.encode(sample) == _standard_bytes(sample) else None
    except Exception:  # not installed, or not built for this Python
        return None


def text_writer(*, ensure_ascii: bool, sort_keys: bool) -> Callable[[Any], str]:
    """What writes a value as compact JSON; ValueError for NaN. Circular structures are for the caller to find."""
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        sort_keys=sort_keys,
        check_circular=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    # An encoder makes what does the work anew for each value, which takes as long as a small value itself.
    quoted = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring
    try:
        make: Any = getattr(json.encoder, "c_make_encoder")  # noqa: B009  (no type checker knows it)
        pieces: Any = make(None, encoder.default, quoted, None, ":", ",", sort_keys, False, False)
        pieces({"a": [1.5]}, 0)
    except Exception:  # another Python, whose own is another
        return encoder.encode
    return lambda value: quoted(value) if type(value) is str else "".join(pieces(value, 0))


_standard_text: Final = text_writer(ensure_ascii=False, sort_keys=False)


def _standard_body(value: object) -> bytes | LongText:
    if type(value) is str and len(value) > _SLICE:
        with suppress(UnicodeEncodeError):
            if len(value.encode()) <= _MOST_BYTES // _WIDEST:
                return LongText(value)
    return _standard_bytes(value)


def _standard_bytes(value: object) -> bytes:
    text = _standard_text(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        if _PAIR.search(text):
            raise Misfit from None
        # All that UTF-8 cannot hold is surrogates, and Python's escape for them is also JSON's.
        return text.encode(errors="backslashreplace")


def _refused(size: int) -> Never:
    raise Unencodable(
        f"it takes {size:,} bytes, and a row of the journal holds {_MOST_BYTES:,}: "
        "write the data to a file and return the file's name"
    )


def _floats_of(value: Any) -> list[float]:
    """All the floats in it, which have to be looked at one by one; Misfit if something in it is not JSON's own."""
    floats: list[float] = []
    unusual: list[Any] = [value]
    for thing in unusual:  # it grows on the way
        if type(thing) is float:
            floats.append(thing)
            continue
        if type(thing) is _DICT:
            if not _STR.issuperset(map(type, thing)):
                raise Misfit
            unusual += [member for member in thing.values() if type(member) not in _EASY]
        elif type(thing) is _LIST:
            unusual += [member for member in thing if type(member) not in _EASY]
        else:
            raise Misfit
        if len(unusual) > _DEEPEST:  # only now it may be too deep, or endless
            return _floats_of_large(value)
    return floats


def _floats_of_large(value: Any) -> list[float]:
    floats: list[float] = []
    for keys, members in unusual_by_level(value, _CONTAINERS):
        if keys or not _ODD.issuperset(map(type, members)):
            raise Misfit
        floats += [member for member in members if type(member) is float]
    return floats


def unusual_by_level(value: Any, containers: tuple[type, ...]) -> Iterator[tuple[list[Any], list[Any]]]:
    """At each depth the keys that are not plain str, and the members that are not None, bool, int or str.

    Not by recursion: a whole level costs little more than one comprehension. Misfit for what is too deep or endless.
    """
    level: list[Any] = [value]
    shared = False
    for _ in range(_DEEPEST):
        keys: list[Any] = []
        members: list[Any] = []
        for holder in level:
            if isinstance(holder, _DICT):
                keys += [key for key in holder if type(key) is not str]
                members += [member for member in holder.values() if type(member) not in _EASY]
            else:
                members += [member for member in holder if type(member) not in _EASY]
        if not members and not keys:
            break
        yield keys, members
        level = [member for member in members if isinstance(member, containers)]
        if len(level) > _MANY:  # lists that hold one another many times would double it at every depth
            count = len(level)
            level = list({id(holder): holder for holder in level}.values())
            shared = shared or len(level) < count
    else:
        if level:
            raise Misfit
    if shared and _least_bytes(value, containers, {}) > _MOST_BYTES:
        raise Misfit("the same objects stand in it over and over, which would take too many bytes")


def _least_bytes(holder: Any, containers: tuple[type, ...], known: dict[int, int]) -> int:
    """How long the JSON is at least; each object is looked at once, however often it is written."""
    size = known.get(id(holder))
    if size is None:
        members: Any = holder.values() if isinstance(holder, _DICT) else holder
        inner = [member for member in members if isinstance(member, containers)]
        size = len(holder) + sum([_least_bytes(member, containers, known) for member in inner])
        known[id(holder)] = size
    return size


def _with_exponents(floats: list[float]) -> list[float]:
    """Those that are written with an exponent, for which msgspec has a format of its own, or are not finite."""
    return [n for n in floats if not (_LEAST <= n < _MOST or -_MOST < n <= -_LEAST or n == 0)]


# What follows runs only for a value that is refused.


def _reason(value: object, error: Exception) -> str:
    reason = first_fault(value, _CONTAINERS, _fault)
    return reason or f"{a_kind(value)} cannot be written as JSON ({printable(str(error))}): return less of it"


def first_fault(value: object, containers: tuple[type, ...], fault: Fault) -> str | None:
    """What is wrong with the first thing in the value that something is wrong with."""
    above: list[int] = []
    seen: set[tuple[int, int]] = set()
    walks: list[Iterator[tuple[str, object]]] = [iter([("$", value)])]
    while walks:
        step = next(walks[-1], None)
        if step is None:
            walks.pop()
            del above[-1:]
            continue
        place, thing = step
        reason = fault(_cut(place), thing)
        if reason is None and isinstance(thing, containers):
            reason = _nesting_fault(_cut(place), thing, above)
            if (id(thing), len(above)) not in seen:
                seen.add((id(thing), len(above)))
                above.append(id(thing))
                walks.append(_with_places(place, thing))
        if reason is not None:
            return reason
    return None


def _nesting_fault(place: str, thing: object, above: list[int]) -> str | None:
    if id(thing) in above:
        return f"{a_kind(thing)} at {place} that holds itself: return each part once{_OR_PICKLE}"
    if len(above) >= _DEEPEST:
        return f"{a_kind(thing)} at {place}, nested more than {_DEEPEST} deep: return something flatter"
    return None


def _with_places(place: str, holder: Any) -> Iterator[tuple[str, object]]:
    if isinstance(holder, _DICT):
        for key, member in holder.items():
            plain = isinstance(key, str) and key.isidentifier() and key.isprintable() and len(key) <= _LONGEST_STEP
            yield f"{place}.{key}" if plain else f"{place}[{shortened(key)}]", member
    else:
        for index, member in enumerate(holder):
            yield f"{place}[{index}]", member


def _cut(place: str) -> str:
    half = _LONGEST_PLACE // 2
    return place if len(place) <= _LONGEST_PLACE else f"{place[:half]}...{place[-half:]}"


def _fault(place: str, thing: object) -> str | None:
    """What is wrong with a result at this place."""
    if type(thing) not in _JSON:
        return _foreign_fault(place, thing)
    trouble = misfit_of(thing)
    return trouble and f"{trouble[0]} at {place}, which JSON {trouble[1]}: return {trouble[2]}{_OR_PICKLE}"


def misfit_of(thing: object) -> tuple[str, str, str] | None:
    """What, what JSON does with it, and what it should be: for a str, a number or a dict that is not as it must be."""
    if isinstance(thing, float) and not isfinite(thing):
        return "NaN" if isnan(thing) else "Infinity" if thing > 0 else "-Infinity", "does not have", "None in its place"
    if isinstance(thing, int) and _is_too_long(thing):
        return f"an int of more than {sys.get_int_max_str_digits():,} digits", "readers refuse", "hex() of it"
    if isinstance(thing, str) and _PAIR.search(thing):
        return "a str with surrogates side by side", "gives back as one character", "the character itself"
    if isinstance(thing, _DICT):
        return _keys_misfit(thing)
    return None


def _keys_misfit(thing: Any) -> tuple[str, str, str] | None:
    for key in thing:
        trouble = misfit_of(key) if isinstance(key, str) else None
        if trouble:
            return f"a key that is {trouble[0]}", trouble[1], trouble[2]
        if type(key) is not str:
            kept = "does not have" if not isinstance(key, str | int | float) else f"gives back as {_as_key(key)}"
            return f"a dict with the key {shortened(key)} ({_name(key)})", kept, "a dict whose keys are str"
    return None


def _as_key(key: float | str) -> str:
    return shortened(str.__str__(key)) if isinstance(key, str) else f"'{shortened(json.dumps(key))[1:-1]}'"


def _is_too_long(number: int) -> bool:
    try:
        int.__repr__(number)
    except ValueError:
        return True
    return False


def _foreign_fault(place: str, thing: object) -> str:
    what = f"{a_kind(thing)} at {place}"
    if type(thing) is tuple:
        return f"{what}, which JSON gives back as a list: return a list{_OR_PICKLE}"
    plain = next((kind for kind in (str, int, float, dict, list, tuple) if issubclass(type(thing), kind)), None)
    if plain is None:
        return f"{what}, which JSON does not have: return {_instead(thing)}{_OR_PICKLE}"
    back = "list" if plain is tuple else plain.__name__
    fix = "its .value" if isinstance(thing, Enum) else f"{back}() of it"
    return f"{what} (a kind of {plain.__name__}), which JSON gives back as a plain {back}: return {fix}{_OR_PICKLE}"


def _instead(thing: object) -> str:
    """What to return in place of something that JSON does not have."""
    if isinstance(thing, bytes | bytearray | memoryview):
        return "a str, such as its .hex()"
    if isinstance(thing, set | frozenset):
        return "a sorted list"
    if isinstance(thing, Enum):
        return "its .value"
    kind = type(thing)
    for attribute, instead in _INSTEAD.items():
        if hasattr(kind, attribute):
            return instead
    return "a dict of what you need of it" if kind.__str__ is object.__str__ else "str() of it"


def a_kind(thing: object) -> str:
    """The name of its type with an article."""
    name = _name(thing)
    return name if name == "NoneType" else f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def _name(thing: object) -> str:
    return printable(type(thing).__name__)
