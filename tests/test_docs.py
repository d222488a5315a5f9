"""Every example in a docstring of the package runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import aiomap

PACKAGE = Path(aiomap.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={}, optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("name", ["_map", "_on_error", "_stream", "_call", "_outcome", "_blocking", "testing"])
def test_what_is_public_has_an_example(name: str) -> None:
    module = importlib.import_module(f"aiomap.{name}")
    assert doctest.testmod(module).attempted > 0
