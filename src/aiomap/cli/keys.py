"""What an item is bounded by: the host of a link, or the value of a column.

Invariant: an item that has no such thing is not bounded, and is no error: that is for the function to say.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from aiomap.inputs import Entry

__all__ = ["key_of_entry"]


def key_of_entry(name: str) -> Callable[[Entry], Hashable | None]:
    """The key of an entry: `host`, or the name of a column."""
    return _host if name == "host" else lambda entry: _column(entry.item, name)


def _column(item: object, name: str) -> Hashable | None:
    value = _field(item, name)
    return value if isinstance(value, Hashable) else repr(value)


def _host(entry: Entry) -> str | None:
    item: object = entry.item
    links = [item] if isinstance(item, str) else [_field(item, name) for name in ("url", "link")]
    link = next((link for link in links if isinstance(link, str)), "")
    try:
        return urlsplit(link).hostname
    except ValueError:
        return None


def _field(item: object, name: str) -> object:
    return cast("dict[str, object]", item).get(name) if isinstance(item, dict) else None
