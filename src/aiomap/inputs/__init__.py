"""Inputs: files of JSON Lines, CSV, text and Parquet, as the items of a job."""

from __future__ import annotations

from aiomap.inputs.arriving import arriving
from aiomap.inputs.entries import Entries, entries
from aiomap.inputs.opening import tells_format
from aiomap.inputs.record import BadInput, BadRecord, Entry, Format

__all__ = ["BadInput", "BadRecord", "Entries", "Entry", "Format", "arriving", "entries", "tells_format"]
