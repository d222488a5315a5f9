"""The shape of the package: an import only goes down, and only the engine makes tasks, timers and queues."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
FILES = sorted((SOURCE / "aiomap").rglob("*.py"))

LAYERS = {
    "__main__": 12,
    "cli": 11,
    "__init__": 10,
    "_map": 9,
    "fetch": 9,
    "inputs": 9,
    "testing": 9,
    "_stream": 8,
    "_engine": 7,
    "progress": 7,
    "_attempts": 6,
    "_recorder": 6,
    "_recalls": 5,
    "_blocking": 6,
    "_admission": 5,
    "_arguments": 5,
    "journal": 4,
    "_policies": 4,
    "_tally": 5,
    "_ticker": 4,
    "_sharing": 4,
    "_tenacity": 4,
    "_on_error": 3,
    "_outbox": 3,
    "_retry": 3,
    "_source": 3,
    "limits": 3,
    "_deadlines": 2,
    "failures": 2,
    "_verdict": 2,
    "_alarm": 1,
    "_call": 1,
    "_context": 1,
    "_door": 1,
    "_foreign": 1,
    "_outcome": 1,
    "_slot_time": 1,
    "_turn": 1,
    "_waiting": 1,
    "lines": 1,
    "throttling": 1,
    "_pending": 0,
    "_run": 4,
    "errors": 0,
}

SAY_NOTHING = {"utils", "util", "helpers", "common", "misc", "base", "manager", "core"}

TASKS = {
    "create_task",
    "ensure_future",
    "asyncio.Task",
    "asyncio.TaskGroup",
    "asyncio.gather",
    "asyncio.wait_for",
}
TIMERS_AND_QUEUES = {"call_later", "call_at", "asyncio.Queue", "asyncio.Semaphore"}
MAY_CALL = {
    "_engine": TASKS | TIMERS_AND_QUEUES,
    "_alarm": TIMERS_AND_QUEUES,  # the engine's timer for its policies
    "testing": TASKS | TIMERS_AND_QUEUES,  # it is an event loop itself
    "cli": TIMERS_AND_QUEUES,
    "fetch": TIMERS_AND_QUEUES,
}


def module_of(file: Path) -> str:
    """The module's name in `LAYERS`; a sub-package counts as one module."""
    return file.relative_to(SOURCE / "aiomap").parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that are imported: at the top, in functions, or for the type checker alone."""
    for node in ast.walk(tree):
        paths: list[str] = []
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write `from aiomap...`, not a relative import"
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        for path in paths:
            package, *rest = path.split(".")
            if package == "aiomap":
                yield rest[0] if rest and rest[0] in LAYERS else "__init__"


def called_names(tree: ast.AST) -> Iterator[str]:
    """What is called, dotted, and a name that was imported from a module with that module before it."""
    homes = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).partition("[")[0]  # Queue[int]() is a call of Queue
            yield homes.get(name, name)


every_file = pytest.mark.parametrize("file", FILES, ids=module_of)


@every_file
def test_every_module_has_its_place_in_the_layers(file: Path) -> None:
    assert module_of(file) in LAYERS, f"list {module_of(file)!r} in LAYERS above, with its layer"


@every_file
def test_imports_only_go_down(file: Path) -> None:
    module = module_of(file)
    imported = set(imported_modules(ast.parse(file.read_text(encoding="utf-8")))) - {module}
    not_below = {name for name in imported if LAYERS[name] >= LAYERS[module]}
    assert not not_below, f"{module} (layer {LAYERS[module]}) imports {not_below}, which must stand below it"


@every_file
def test_only_the_engine_makes_tasks_timers_and_queues(file: Path) -> None:
    forbidden = (TASKS | TIMERS_AND_QUEUES) - MAY_CALL.get(module_of(file), set())
    calls = set(called_names(ast.parse(file.read_text(encoding="utf-8"))))
    found = {name for name in calls if {name, name.rpartition(".")[2]} & forbidden}
    assert not found, f"{module_of(file)} calls {found}: let the engine do it"


@every_file
def test_every_module_name_says_what_is_in_it(file: Path) -> None:
    names = set(file.relative_to(SOURCE).with_suffix("").parts)
    assert not {name.strip("_") for name in names} & SAY_NOTHING


def test_the_engine_is_read_in_one_sitting() -> None:
    lines = (SOURCE / "aiomap" / "_engine.py").read_text(encoding="utf-8").count("\n")
    assert lines < 400


def test_the_package_needs_the_standard_library_alone() -> None:
    """It and the journal work in an interpreter without site-packages, and load nothing from elsewhere."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import aiomap, aiomap._recorder; print(*sys.modules)"
    child = [sys.executable, "-I", "-S", "-c", code, str(SOURCE)]
    output = subprocess.run(child, capture_output=True, text=True, check=False)
    assert not output.stderr
    loaded = {name.partition(".")[0] for name in output.stdout.split()}
    assert loaded - sys.stdlib_module_names - {"__main__", "__mp_main__"} == {"aiomap"}
