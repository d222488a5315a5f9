"""`current()`: what the function can know of its item."""

from __future__ import annotations

import asyncio

import pytest

from aiomap import Current, amap, current

from .conftest import Play

pytestmark = pytest.mark.any_loop


def test_current_tells_index_attempt_and_a_slot_that_no_other_running_item_has(play: Play) -> None:
    async def main() -> None:
        taken: set[int] = set()

        async def look(item: int) -> Current:
            me = current()
            assert me.slot not in taken
            assert me.slot < 3
            taken.add(me.slot)
            await asyncio.sleep(item % 4 / 1000)
            taken.remove(me.slot)
            assert current() == me
            return me

        for isolate in (False, True):
            seen = await amap(look, range(40), 3, isolate=isolate)
            assert [me.index for me in seen] == list(range(40))
            assert {me.attempt for me in seen} == {1}
            assert {me.slot for me in seen} == {0, 1, 2}

    play(main)


def test_in_a_nested_map_current_is_the_inner_item(play: Play) -> None:
    async def main() -> None:
        async def inner(_: int) -> int:
            return current().index

        async def outer(item: int) -> tuple[int, list[int]]:
            indexes = await amap(inner, range(item))
            return current().index, indexes

        assert await amap(outer, range(3)) == [(0, []), (1, [0]), (2, [0, 1])]

    play(main)


def test_elsewhere_current_is_a_lookup_error(play: Play) -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="outside of a function that aiomap runs"):
            current()

        async def in_a_child_task(_: int) -> None:
            async def look() -> None:
                with pytest.raises(LookupError):
                    current()

            await asyncio.create_task(look())

        await amap(in_a_child_task, [1])

    play(main)


def test_without_a_loop_current_is_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        current()
