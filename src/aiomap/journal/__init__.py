"""The journal: what was completed is on the disk, and the next run goes on from there."""

from __future__ import annotations

from aiomap.journal.journal import Journal
from aiomap.journal.record import Record

__all__ = ["Journal", "Record"]
