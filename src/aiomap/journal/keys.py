"""What an item is known by: a hash of its canonical JSON.

Invariant: the key of a thing is the same for ever, on every Python and machine; things that are not equal as JSON
have different keys. `1`, `1.0`, `True` and `"1"` are four things, a tuple and a list of the same members are one.
"""

from __future__ import annotations

from hashlib import blake2b
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Final

from aiomap.journal.serializers import (
    Misfit,
    Unencodable,
    a_kind,
    first_fault,
    misfit_of,
    text_writer,
    unusual_by_level,
)

__all__ = ["key_of", "label_of"]

_KEY_BYTES: Final = 16
_LONGEST_LABEL: Final = 1000
_CONTAINERS: Final = (dict, list, tuple)
_FORMS: Final = (str, int, float, type(None), *_CONTAINERS)
_FIX: Final = "give Journal(path, key=...) a function that makes a str of it"

_canonical: Final = text_writer(ensure_ascii=True, sort_keys=True)


def key_of(thing: object) -> bytes:
    """16 bytes that stand for a thing: BLAKE2b of its JSON with sorted keys, no spaces and ASCII escapes.

    Subclasses of str, int, float, dict, list and tuple count as what they are subclasses of. Unencodable for what has
    no JSON form of its own: other types, NaN, keys that are not str, nesting more than 200 deep.

    >>> key_of({"b": 1, "a": [2]}) == key_of({"a": (2,), "b": 1})
    True
    >>> key_of("1") == key_of(1)
    False
    """
    text = _quoted(thing) if type(thing) is str and thing.isascii() else _text(thing)
    return blake2b(text.encode(), digest_size=_KEY_BYTES).digest()


def label_of(thing: object) -> str:
    """The JSON that the key is made of, cut to 1,000 characters; Unencodable as for the key.

    >>> label_of(("en", 7))
    '["en",7]'
    """
    return _text(thing)[:_LONGEST_LABEL]


def _text(thing: object) -> str:
    try:
        return str(thing) if type(thing) is int else _checked_text(thing)
    except Exception as error:  # a subclass of the user may raise anything
        raise Unencodable(_reason(thing, error)) from None


def _checked_text(thing: object) -> str:
    if type(thing) is not str:
        _check(thing)
    text = _canonical(thing)
    # Of two surrogates side by side and of the character that they would make the escapes are the same.
    if "\\ud" in text and first_fault(thing, _CONTAINERS, _fault):
        raise Misfit
    return text


def _check(thing: object) -> None:
    """Misfit for what JSON would write as it writes something else, or would recurse in."""
    if isinstance(thing, _CONTAINERS):
        for keys, _ in unusual_by_level(thing, _CONTAINERS):
            if not all(isinstance(key, str) for key in keys):
                raise Misfit


def _reason(thing: object, error: Exception) -> str:
    reason = first_fault(thing, _CONTAINERS, _fault)
    return f"{reason or f'{a_kind(thing)} has no JSON form ({error})'}: {_FIX}"


def _fault(place: str, thing: object) -> str | None:
    """What is wrong with an item at this place."""
    where = "" if place == "$" else f" at {place}"
    if not issubclass(type(thing), _FORMS):
        return f"{a_kind(thing)}{where} has no JSON form"
    trouble: Any = misfit_of(thing)
    return trouble and f"{trouble[0]}{where}, which JSON {trouble[1]}"
