"""Limits: pure state machines that say when the next attempt may start."""

from __future__ import annotations

from aiomap.limits.limit import Ending, Limit
from aiomap.limits.per_key import PerKey
from aiomap.limits.rate import Rate

__all__ = ["Ending", "Limit", "PerKey", "Rate"]
