"""What the journal keeps of an item that has ended: one row.

Invariant: a row is a plain tuple, since one is made for every item; it is never changed after it was made.
"""

from __future__ import annotations

from typing import Final, TypeAlias

__all__ = ["DONE", "FAILED", "SKIPPED", "Row"]

DONE: Final = 1
SKIPPED: Final = 2
FAILED: Final = 3

Row: TypeAlias = tuple[bytes, int, int, int, int, float, float, str | None, bytes]
"""(key, occurrence, state, position, attempts, started, elapsed, label, body).

key: 16 bytes; what the item is known by.
occurrence: which of the items with this key in the input, from 0.
state: DONE, SKIPPED or FAILED.
position: where it stood in the input, from 0.
attempts: how often the function was called.
started, elapsed: the last attempt's start in seconds since 1970, and how many seconds it took.
label: the user's own key as JSON text; `None` if the item itself is the key.
body: the encoded result; a failure's type and message as a JSON object; empty if the function returned SKIP.
"""
