"""Any bytes, read in every way there is, give the same entries: see `tests.fuzz.readers`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap.inputs.record import Format
from tests.fuzz.readers import FORMATS, check
from tests.test_inputs import any_bytes

pytestmark = pytest.mark.once


@given(any_bytes, st.sampled_from(FORMATS), st.lists(st.integers(1, 20), max_size=8))
def test_every_way_to_read_gives_the_same_entries(data: bytes, form: Format, sizes: list[int]) -> None:
    check(data, form, sizes)
