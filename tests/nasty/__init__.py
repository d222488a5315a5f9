"""Every nasty server there is, on loopback: what becomes of a link to it, and whether we were polite to it."""

from __future__ import annotations

import sys

import pytest

__all__ = ["NASTY"]

NASTY = [
    pytest.mark.once,
    pytest.mark.skipif(
        sys.platform != "linux", reason="many hosts need many addresses: all of 127.0.0.0/8 is loopback"
    ),
]
"""The marks of all tests in here."""
