"""The function to map, found by what was typed: `module:function` or `file.py:function`.

Invariant: the user's folder comes last on the path, and only now, when everything of ours is imported: a file of theirs
that is called like a module of Python's hides nothing. Only names are looked up; nothing that was typed is evaluated.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click

from aiomap._foreign import printable
from aiomap._verdict import shortened

__all__ = ["check_arguments", "load_function", "load_setup"]


def load_function(target: str, *, in_thread: bool) -> Callable[..., Awaitable[Any]]:
    """The async function of that name; with `in_thread` a blocking one, made async.

    Raises `click.BadParameter`, which says what to type instead.
    """
    module, name = _split(target)
    function = _attribute(_module(module), name, target)
    if not callable(function):
        raise click.BadParameter(f"{printable(target)} is {shortened(function)}, and no function")
    # Of its type: a class whose instances are async is no async function itself.
    call = getattr(type(function), "__call__", None)  # noqa: B004  (whether it can be called is known)
    is_async = inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(call)
    if is_async and in_thread:
        raise click.BadParameter(f"{printable(target)} is async already: leave out --in-thread")
    if is_async:
        return cast("Callable[..., Awaitable[Any]]", function)
    if not in_thread:
        raise click.BadParameter(
            f"{printable(target)} is not async: define it with `async def`, or add --in-thread if it blocks"
        )
    if inspect.isasyncgenfunction(inspect.unwrap(function)):
        raise click.BadParameter(
            f"{printable(target)} has a `yield`: define an async function that returns one value, as in a list"
        )
    from aiomap._blocking import in_thread as made_async

    return made_async(function)


def check_arguments(function: Callable[..., object], target: str, *, setup: bool) -> None:
    """`click.BadParameter` if it cannot be called with an item (and, with `setup`, with what `--setup` gives)."""
    given = ("an item", "what --setup gives") if setup else ("an item",)
    try:
        inspect.signature(function).bind(*given)
    except TypeError as error:
        example = "async def f(item, session)" if setup else "async def f(item)"
        raise click.BadParameter(
            f"{printable(target)} cannot be called with {' and '.join(given)} ({error}): "
            f"define it as in  {example}: ..."
        ) from error
    except ValueError:  # it does not say what it takes
        pass


def load_setup(name: str, target: str) -> Callable[[], Any]:
    """The function that gives the async context manager named by `--setup`: in the same module, or `module:name`."""
    module, _ = _split(target)
    if ":" in name:
        module, name = _split(name)
    setup = _attribute(_module(module), name, f"{module}:{name}")
    if not callable(setup):
        raise click.BadParameter(
            f"{printable(name)} is {shortened(setup)}, and no function that gives a context manager"
        )
    given = cast("Callable[[], Any]", setup)

    def entered() -> object:
        manager: object = given()
        if not hasattr(manager, "__aenter__"):
            raise click.UsageError(
                f"--setup {printable(name)} gave {shortened(manager)}, and no async context manager: "
                "put @asynccontextmanager over an `async def` with one `yield`"
            )
        return manager

    return entered


def _split(target: str) -> tuple[str, str]:
    module, colon, name = target.rpartition(":")
    if not (colon and module and name):
        raise click.BadParameter(
            f"{printable(target)!r} names no function: write file.py:function or module:function, as in job.py:lookup"
        )
    return module, name


@cache  # a function and its set-up are of one module, which is run once
def _module(name: str) -> ModuleType:
    is_file = name.endswith(".py") or os.sep in name
    try:
        return _module_of_file(Path(name)) if is_file else _module_of_path(name)
    except click.BadParameter:
        raise
    except (Exception, SystemExit) as error:  # anything may happen in there
        reason = f"{type(error).__name__}: {printable(str(error))}"
        raise click.BadParameter(f"{printable(name)} cannot be imported ({reason})") from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise click.BadParameter(f"there is no file {printable(str(path))}")
    name = path.stem if path.stem not in sys.modules and path.stem not in sys.stdlib_module_names else f"{path.stem}_"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise click.BadParameter(f"{printable(str(path))} is no Python file")
    _add_last(str(path.resolve().parent))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_of_path(name: str) -> ModuleType:
    if not sys.flags.safe_path:
        _add_last(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        fix = f": for a file write {printable(name)}.py" if Path(f"{name}.py").is_file() else ""
        raise click.BadParameter(f"there is no module {printable(error.name)}{fix}") from error


def _add_last(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def _attribute(module: ModuleType, dotted: str, target: str) -> object:
    found: object = module
    for name in dotted.split("."):
        try:
            there = hasattr(found, name)
        except Exception as error:  # a module's own __getattr__, a property
            reason = f"{type(error).__name__}: {printable(str(error))}"
            raise click.BadParameter(f"{printable(target)}: {printable(name)} cannot be had ({reason})") from error
        if not there:
            names = [each for each in dir(found) if not each.startswith("_")]
            close = get_close_matches(name, names, 1)
            fix = f"; did you mean {printable(close[0])}?" if close else ""
            raise click.BadParameter(f"{printable(target)}: there is no {printable(name)!r} in it{fix}")
        found = getattr(found, name)
    return found
