"""A line of output, and the error of one that cannot be written."""

from __future__ import annotations

import json

from aiomap.errors import AiomapError

__all__ = ["WriteFailed", "encoded"]


class WriteFailed(AiomapError):
    """The output cannot be written; the cause is the `OSError` that says why."""


def encoded(value: object) -> bytes:
    r"""The value as one line of strict JSON in ASCII.

    >>> encoded({"key": "caf\xe9"})
    b'{"key":"caf\\u00e9"}\n'
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
