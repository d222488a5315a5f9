"""The function of `aiomap run`, by the name that is typed: every way in, and what is said of every wrong way."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import click
import pytest

from aiomap.cli import function as function_module
from aiomap.cli.function import load_function, load_setup

JOB = """
import asyncio
import functools
from contextlib import asynccontextmanager

async def lookup(item):
    return f"looked up {item}"

async def add(item, more=""):
    return f"{item}{more}"

def blocking(item):
    return f"blocked for {item}"

def plain(item):
    return item

async def pieces(item):
    yield item

class Client:
    async def ask(self, item):
        return f"asked {item}"

    @staticmethod
    async def static(item):
        return f"static {item}"

    @classmethod
    async def of_class(cls, item):
        return f"{cls.__name__} {item}"

    async def __call__(self, item):
        return f"called with {item}"

    def blocking(self, item):
        return f"blocked for {item}"

class Blocking:
    def __call__(self, item):
        return f"blocked for {item}"

def wrapped(function):
    @functools.wraps(function)
    def call(item):
        return function(item)
    return call

client = Client()
blocker = Blocking()
with_more = functools.partial(add, more="!")
later = lambda item: item
decorated = wrapped(lookup)
NUMBER = 7
HOSTILE = "\\x1b[31m"
_private = lookup

@asynccontextmanager
async def session():
    yield "a session"
"""


def forget() -> None:
    """Modules that were loaded are loaded anew."""
    vars(function_module)["_module"].cache_clear()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the user, who is in it; modules and path are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path, modules = list(sys.path), dict(sys.modules)
    forget()
    (tmp_path / "my_job.py").write_text(JOB)
    package = tmp_path / "my_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("async def top(item):\n    return f'top {item}'\n")
    (package / "inner" / "__init__.py").touch()
    (package / "inner" / "deep.py").write_text(
        "from .. import top\nasync def f(item):\n    return f'deep {await top(item)}'\n"
    )
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    forget()
    importlib.invalidate_caches()


def called(target: str, *, in_thread: bool = False) -> object:
    """What the function gives for the item `x`."""

    async def call() -> object:
        return await load_function(target, in_thread=in_thread)("x")

    return asyncio.run(call())


def refused(target: str, *, in_thread: bool = False) -> str:
    """The sentence that is said instead."""
    with pytest.raises(click.BadParameter) as caught:
        load_function(target, in_thread=in_thread)
    return caught.value.message


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("my_job.py:lookup", "looked up x"),
        ("./my_job.py:lookup", "looked up x"),
        ("my_job:lookup", "looked up x"),
        ("my_package:top", "top x"),
        ("my_package.inner.deep:f", "deep top x"),
        ("my_job.py:Client.static", "static x"),
        ("my_job.py:Client.of_class", "Client x"),
        ("my_job.py:client.ask", "asked x"),
        ("my_job.py:client", "called with x"),
        ("my_job.py:with_more", "x!"),
        ("my_job.py:decorated", "looked up x"),
        ("my_job.py:_private", "looked up x"),
        ("my_job:client.ask", "asked x"),
    ],
)
def test_a_function_is_found_by_file_module_package_and_dotted_name(target: str, value: str) -> None:
    assert called(target) == value


def test_a_file_is_found_by_its_whole_path_and_from_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert called(f"{folder}/my_job.py:lookup") == "looked up x"
    assert called("../my_job.py:client.ask") == "asked x"


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("my_job.py:blocking", "blocked for x"),
        ("my_job.py:client.blocking", "blocked for x"),
        ("my_job.py:blocker", "blocked for x"),
        ("my_job.py:later", "x"),
        ("builtins:len", 1),
        ("builtins:str.upper", "X"),
    ],
)
def test_a_blocking_function_is_made_async_on_demand(target: str, value: object) -> None:
    assert inspect.iscoroutinefunction(load_function(target, in_thread=True))
    assert called(target, in_thread=True) == value


@pytest.mark.parametrize("name", ["blocking", "client.blocking", "blocker", "later", "Blocking", "pieces"])
def test_what_is_not_async_is_refused_with_the_two_ways_out(name: str) -> None:
    assert refused(f"my_job.py:{name}") == (
        f"my_job.py:{name} is not async: define it with `async def`, or add --in-thread if it blocks"
    )


@pytest.mark.parametrize("name", ["lookup", "client.ask", "client", "with_more", "decorated"])
def test_what_is_async_is_refused_for_threads(name: str) -> None:
    assert refused(f"my_job.py:{name}", in_thread=True) == (f"my_job.py:{name} is async already: leave out --in-thread")


@pytest.mark.parametrize("target", ["my_job.py", "my_job.lookup", "my_job.py:", ":lookup", ":", "", "a.py::"])
def test_a_target_without_both_parts_is_refused_with_an_example(target: str) -> None:
    assert "write file.py:function or module:function, as in job.py:lookup" in refused(target) or target == "a.py::"
    if target == "a.py::":
        assert "names no function" in refused(target)


def test_what_is_no_function_is_shown() -> None:
    assert refused("my_job.py:NUMBER") == "my_job.py:NUMBER is 7, and no function"
    assert "\x1b" not in refused("my_job.py:HOSTILE")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("my_job.py:lokup", "my_job.py:lokup: there is no 'lokup' in it; did you mean lookup?"),
        ("my_job:lokup", "my_job:lokup: there is no 'lokup' in it; did you mean lookup?"),
        ("my_job.py:Client.asc", "my_job.py:Client.asc: there is no 'asc' in it; did you mean ask?"),
        ("my_job.py:client.ask.more", "my_job.py:client.ask.more: there is no 'more' in it"),
        ("my_job.py:xyzzy", "my_job.py:xyzzy: there is no 'xyzzy' in it"),
        ("my_job.py:lookup()", "my_job.py:lookup(): there is no 'lookup()' in it; did you mean lookup?"),
        ("my_job.py:a..b", "my_job.py:a..b: there is no 'a' in it"),
    ],
)
def test_a_name_with_a_typo_gets_the_one_that_is_meant(target: str, said: str) -> None:
    assert refused(target) == said


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nothing.py:f", "there is no file nothing.py"),
        ("./nothing:f", "there is no file nothing"),
        ("my_package/:f", "there is no file my_package"),
        ("no_such_module:f", "there is no module no_such_module"),
        ("my_package.nothing:f", "there is no module my_package.nothing"),
        ("my_package.inner.nothing.at_all:f", "there is no module my_package.inner.nothing"),
        ("no\x1b[31m.py:f", "there is no file no\ufffd[31m.py"),
    ],
)
def test_what_is_not_there_is_named(target: str, said: str) -> None:
    assert refused(target) == said


def test_a_file_that_is_no_python_is_refused(folder: Path) -> None:
    (folder / "data.csv").write_text("a,b\n")
    assert refused("./data.csv:f") == "data.csv is no Python file"


def test_a_file_that_is_typed_as_a_module_is_told_how_to_type_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "my-job.v2.py").write_text(JOB)
    assert refused("my-job.v2:lookup") == "there is no module my-job: for a file write my-job.v2.py"
    assert called("my-job.v2.py:lookup") == "looked up x"


@pytest.mark.parametrize("target", ["broken.py:f", "broken:f"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError: "),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("from json import nothing", "ImportError: cannot import name 'nothing' from 'json'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('\\x1b[31m')", "ValueError: \ufffd[31m"),
    ],
)
def test_what_goes_wrong_while_it_is_imported_is_a_sentence(folder: Path, target: str, code: str, said: str) -> None:
    (folder / "broken.py").write_text(code)
    name = target.partition(":")[0]
    assert refused(target).startswith(f"{name} cannot be imported ({said}")
    assert "broken" not in sys.modules


def test_a_file_that_could_not_be_imported_can_be_repaired(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    refused("broken.py:f")
    (folder / "broken.py").write_text("async def f(item):\n    return item\n")
    assert called("broken.py:f") == "x"


def test_ctrl_c_while_it_is_imported_is_not_taken_for_an_error_of_the_file(folder: Path) -> None:
    (folder / "broken.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_function("broken.py:f", in_thread=False)
    assert "broken" not in sys.modules


@pytest.mark.parametrize("name", ["json", "asyncio", "click", "aiomap", "secrets"])
def test_a_file_named_like_another_module_is_found_and_hides_nothing(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(f"import {name}\nmodule = {name}\nasync def f(item):\n    return 'mine'\n")
    before = sys.modules.get(name)
    function = load_function(f"{name}.py:f", in_thread=False)
    assert asyncio.run(awaited(function)) == "mine"
    assert sys.modules[f"{name}_"].module is sys.modules[name]
    assert before is None or sys.modules[name] is before
    assert sys.modules[name].__file__ != str(folder / f"{name}.py")
    assert importlib.import_module("json") is json


async def awaited(function: Callable[..., Awaitable[object]]) -> object:
    return await function("x")


def test_a_module_of_pythons_is_not_hidden_by_a_file_of_that_name(folder: Path) -> None:
    (folder / "json.py").write_text("async def f(item):\n    return item\n")
    assert refused("json:f") == "json:f: there is no 'f' in it"


def test_the_users_folder_comes_last_on_the_path(folder: Path) -> None:
    before = list(sys.path)
    load_function("my_job.py:lookup", in_thread=False)
    load_function("my_job.py:client.ask", in_thread=False)
    load_function("my_job:lookup", in_thread=False)
    assert sys.path == [*before, str(folder)]


def test_the_folder_of_the_file_is_the_one_that_its_imports_are_found_in(folder: Path) -> None:
    inner = folder / "jobs"
    inner.mkdir()
    (inner / "beside.py").write_text("VALUE = 'from beside'\n")
    (inner / "main_job.py").write_text("from beside import VALUE\nasync def f(item):\n    return VALUE\n")
    assert called("jobs/main_job.py:f") == "from beside"
    assert str(folder) not in sys.path


def test_the_current_folder_is_left_out_where_python_is_told_to_be_safe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flags:
        safe_path = True

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    real = sys.flags
    monkeypatch.setattr(sys, "flags", Flags())
    before = list(sys.path)
    assert refused("my_job:lookup") == "there is no module my_job: for a file write my_job.py"
    assert sys.path == before


def test_the_module_is_run_once_for_a_function_and_its_setup(folder: Path) -> None:
    (folder / "counted.py").write_text(
        "from pathlib import Path\nwith Path('runs').open('a') as file:\n    file.write('x')\n"
        "async def f(item):\n    return item\ndef setup():\n    return None\n"
    )
    load_function("counted.py:f", in_thread=False)
    load_setup("setup", "counted.py:f")
    assert (folder / "runs").read_text() == "x"


def test_the_function_knows_its_module_and_its_file(folder: Path) -> None:
    function = load_function("my_job.py:lookup", in_thread=False)
    assert function.__module__ == "my_job"
    assert sys.modules["my_job"].__file__ == str(folder / "my_job.py")
    assert inspect.getsource(function).startswith("async def lookup(item):")


def test_nothing_that_is_typed_is_evaluated(folder: Path) -> None:
    assert "there is no" in refused("my_job.py:__import__('os').mkdir('made')")
    assert not (folder / "made").exists()


def entered(name: str, target: str) -> object:
    async def call() -> object:
        async with load_setup(name, target)() as value:
            return value

    return asyncio.run(call())


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("session", "my_job.py:lookup"),
        ("session", "my_job:lookup"),
        ("my_job.py:session", "my_package:top"),
        ("my_job:session", "my_package.inner.deep:f"),
    ],
)
def test_a_setup_is_found_in_the_module_of_the_function_or_in_its_own(name: str, target: str) -> None:
    assert entered(name, target) == "a session"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sesion", "my_job.py:sesion: there is no 'sesion' in it; did you mean session?"),
        ("NUMBER", "NUMBER is 7, and no function that gives a context manager"),
        ("nothing.py:session", "there is no file nothing.py"),
        (":session", "':session' names no function: write file.py:function or module:function, as in job.py:lookup"),
    ],
)
def test_a_setup_that_is_not_there_is_a_sentence(name: str, said: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        load_setup(name, "my_job.py:lookup")
    assert caught.value.message == said
