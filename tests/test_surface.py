"""The public surface is an artefact of its own: names, signatures, docstrings, what is exported."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import aiomap
from aiomap import aimap, amap, aoutcomes, errors, run


def test_all_is_sorted_and_complete() -> None:
    public = {name for name, value in vars(aiomap).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert sorted(aiomap.__all__, key=lambda name: (not name.isupper(), name)) == aiomap.__all__
    assert public - {"annotations"} <= set(aiomap.__all__) <= set(dir(aiomap))
    assert all(hasattr(aiomap, name) for name in aiomap.__all__)


def test_a_name_that_aiomap_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Bucket'"):
        aiomap.Bucket  # noqa: B018


def test_policies_are_imported_on_first_use() -> None:
    program = "import sys, aiomap; print(*(name for name in sys.modules if name.startswith('aiomap.limits')))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_exception_of_ours_can_be_imported_from_aiomap_too() -> None:
    assert set(errors.__all__) <= set(aiomap.__all__)


@pytest.mark.parametrize("name", [name for name in aiomap.__all__ if name not in ("SKIP", "OnError")])
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert len(getattr(aiomap, name).__doc__) > 40


def test_the_first_five_parameters_of_amap_keep_their_names_order_and_defaults() -> None:
    parameters = list(inspect.signature(amap).parameters.values())[:5]
    assert [(parameter.name, parameter.default) for parameter in parameters[2:]] == [
        ("max_concurrent_tasks", 10),
        ("max_queue_size", -1),
        ("callback", None),
    ]
    assert [parameter.name for parameter in parameters[:2]] == ["coroutine", "data"]
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)


def test_the_verbs_share_their_keywords_and_defaults() -> None:
    def keywords(verb: object) -> dict[str, object]:
        assert callable(verb)
        parameters = inspect.signature(verb).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    assert keywords(run) == keywords(amap)
    streams = {"ordered": True, "buffer": None}
    assert keywords(aimap) == {**keywords(amap), **streams}
    expected = {**keywords(aimap), "ordered": False}
    del expected["on_error"]
    assert keywords(aoutcomes) == expected


def test_importing_aiomap_loads_no_extra_and_nothing_heavy() -> None:
    program = (
        "import asyncio, sys; before = set(sys.modules); import aiomap; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    heavy = {"tqdm", "click", "aiohttp", "uvloop", "multiprocessing", "sqlite3", "json", "email", "http"}
    assert not heavy & set(loaded.stdout.split())
