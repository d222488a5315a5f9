"""Whether a context is still what it was.

Invariant: no code of the user's runs here, and a changed context is never taken for a clean one. (A clean one may be
taken for a changed one: that costs a new task, and no more.) CPython's contexts refer to their mapping last.
"""

from __future__ import annotations

import gc
from contextvars import Context

__all__ = ["root"]


def root(context: Context) -> object:
    """The identity of the context's mapping. It is immutable, so an equal identity means that no variable was set.

    `==` on contexts will not do: it calls the values' `__eq__`, and takes an equal object for the same one.
    """
    return gc.get_referents(context)[-1]
