"""What a function is known by: any change of it is noticed, and nothing that is no change."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import linecache
import math
import types
import unittest.mock
import warnings
import xmlrpc.client
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiomap import in_thread
from aiomap.journal.fingerprint import differences, fingerprint, has_source

FUNCTION = '''
async def f(page, lang="en", *, tries=3):
    """Summarise the page."""
    text = await fetch(page)
    size = len(text) + 1
    kept = text[:size] if size > 10 else (text, "all")
    return kept, lang
'''

AROUND = """
def traced(function): return function
def fetch(page): ...
"""

CHANGES = {
    "nothing": ("", ""),
    "a constant": ("> 10", "> 11"),
    "the type of a constant": ("+ 1", "+ 1.0"),
    "an operator": ("+ 1", "- 1"),
    "a comparison": ("> 10", ">= 10"),
    "the called name": ("fetch(page)", "fetched(page)"),
    "a default argument": ('"en"', '"de"'),
    "the default of a keyword": ("tries=3", "tries=4"),
    "a keyword without a default": ("tries=3", "tries"),
    "a parameter's kind": ('="en", *,', '="en",'),
    "a parameter's name": ("lang", "language"),
    "an added await": ("len(text)", "await len(text)"),
    "a removed await": ("await fetch", "fetch"),
    "the docstring": ("the page.", "the page!"),
    "no docstring": ('    """Summarise the page."""\n', ""),
    "an annotation": ("page,", "page: str,"),
    "the annotation of what is returned": ("):\n", ") -> str:\n"),
    "a decorator": ("\nasync def", "\n@traced\nasync def"),
    "the order of statements": ("    return kept, lang\n", "    lang\n    return kept\n"),
    "a return of nothing": ("    return kept, lang\n", "    return\n"),
    "a return of None": ("    return kept, lang\n", "    return None\n"),
    "a slice": ("text[:size]", "text[size:]"),
    "a tuple made a list": ("return kept, lang", "return [kept, lang]"),
}

LAYOUTS = {
    "a comment": ("text = await", "# it may take a while\n    text = await"),
    "a comment behind": ("+ 1\n", "+ 1  # the end\n"),
    "blank lines": ("    size", "\n\n    size"),
    "quotes": ('"en"', "'en'"),
    "triple quotes": ('"en"', "'''en'''"),
    "the docstring's quotes": ('"""', '"'),
    "a string in pieces": ('"en"', '"e" "n"'),
    "a prefix": ('"en"', 'u"en"'),
    "parentheses": ("len(text) + 1", "((len(text)) + (1))"),
    "a tuple's parentheses": ("return kept, lang", "return (kept, lang)"),
    "a line break": ("len(text) + 1", "(len(text)\n  + 1)"),
    "a continued line": ("len(text) + 1", "len(text) \\\n  + 1"),
    "trailing commas": ("tries=3)", "tries=3,\n)"),
    "a number's form": ("> 10", "> 0xA"),
    "spaces": ("text = await", "text=await   "),
    "deeper indentation": ("\n    ", "\n        "),
    "two statements in a line": ("\n    size", "; size"),
    "another place in the file": ("\nasync def", "\nimport os\nx = 1\n\n\ndef g(page): ...\n\n\nasync def"),
    "a neighbour of the same name": ("\nasync def", "\ndef f(page): return 1\n\nasync def"),
}

# Every Python that runs this has to come to the same digests; these are CPython 3.11's.
CORPUS = r'''
import functools

async def plain(item): return await item

def strings(x, w, d):
    return [
        f"a{x}b", f"",
        f"{x:}", f"{x=}", f"{x = }", f"{ x = !r:>{w}}", f"q{x=:>5}z", "a" f"b{x}" "c" f"{x}", f"{{a}}{x}",
        f"{x:{w}.{w}f}", f"{d['k']}", f"{x:%H:%M\n}", f"{f'{x}'}", f"{x!r}" u"k", f"{x:{'a'}b{'c'}}", f"{x:{w}{w}}",
        f"{(lambda q: q)(1)}", f"{x}" "", rf"\d{x}", f"\N{BULLET}{x}\n", f"{x:a\N{BULLET}b}",
        f"{x!s:}", f"{x, w}", f"{x:{{}}}",
        u"k", b"k" b"\xff", "\ud800", """one
    two""", f"""
{
x
}
  t {x=}""",
    ]

def numbers(): return 1, 1.0, True, 1j, 1e400, -0.0, 10**40, 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF, None, ..., 1_000

def parameters(a, b=1, /, c: int = 2, *args: *tuple[int], d, e=3, f, **kwargs) -> None: ...

@functools.lru_cache(maxsize=None)
def decorated(x):
    """A prompt.

        {x}
    """
    return x

async def statements(x, *rest):
    global g
    async with x as a, x as (b, c): ...
    async for i in x: break
    else: continue_ = 1
    try: del x[0], x.y
    except* ValueError as error: raise KeyError from error
    try: pass
    except (TypeError, OSError): assert x, "no"
    finally: yield
    match x:
        case [1, *_, {"k": None, **others}] if others: pass
        case str() | bytes(real=1) | -1 | None | True: pass
        case _: pass
    while (n := len(x)) > 1 and not x[1:2, ...] or x[*rest]: x, *_ = x; n -= 1
    async def inner(y: int = 1): nonlocal n; return [z async for z in y if z for w in z]
    class C(x, metaclass=type): "of C"; a: int = 1; b: str
    return_ = {**x, "a": 1}, {*x}, {k: v for k, v in x}, (i for i in x), x if x else x, x(*rest, k=1, **x)
    return_ @= ~x @ x // 2 ** 3

short = lambda a, *b, c=1, **d: (a, b, c, d)

def outer():
    def nested(x): return x + 1
    return nested

nested = outer()
pair = [lambda a: a, lambda b: -b][1]
'''

DIGESTS: dict[str, str] = {
    "plain": "c92a03d78ed178469001dfb58559541c",
    "strings": "293a7c425d16f612c62b347756c544ea",
    "numbers": "b9596b8f01ab662cf1e0f674839d2c75",
    "parameters": "fd467262cce56a389a72430798304805",
    "decorated": "5f8c5985bbafff4645cf3a9362436e3d",
    "statements": "469cb5276d12a941d96dbd58d20fc58a",
    "short": "ec95ed293dc0f264758761825ca403cb",
    "outer": "159f56c15ebb01ba48327a919e5eeb35",
    "nested": "d3d5b53d9984f9553bdad231f1a41313",
    "pair": "e9a5477b972328b3b77696d7803e93c4",
}


class Load(Protocol):
    def __call__(self, source: str) -> Any: ...


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Imports a text as the module `sample`, each from a file of its own."""
    numbers = itertools.count()

    def load(source: str) -> Any:
        file = tmp_path / f"sample_{next(numbers)}.py"
        file.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("sample", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def code(function: Callable[..., Any]) -> str:
    digest = fingerprint(function)["code"]
    assert isinstance(digest, str)
    assert len(digest) == 32
    return digest


def test_each_real_change_gives_another_digest(load: Load) -> None:
    digests: dict[str, str] = {}
    for change, (old, new) in CHANGES.items():
        assert old in FUNCTION
        digests[code(load(AROUND + FUNCTION.replace(old, new)).f)] = change
    assert list(digests.values()) == list(CHANGES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_new_layout_keeps_the_digest(load: Load, layout: str) -> None:
    old, new = LAYOUTS[layout]
    assert old in FUNCTION
    changed = load(AROUND + FUNCTION.replace(old, new))
    assert fingerprint(changed.f) == fingerprint(load(AROUND + FUNCTION).f)


def test_every_python_comes_to_the_same_digest(load: Load) -> None:
    module = load(CORPUS)
    assert {name: code(getattr(module, name)) for name in DIGESTS} == DIGESTS


def test_a_plain_function_is_known_as_well_as_an_async_one(load: Load) -> None:
    module = load("async def f(x): return x\ndef g(x): return f(x)\ndef h(x): return x\n")
    assert len({code(module.f), code(module.g), code(module.h)}) == 3


def test_constants_of_different_types_differ(load: Load) -> None:
    constants = ["1", "1.0", "True", "1j", "'1'", "b'1'", "None", "...", "''", "b''", "f'1'", "f''", "()", "[]"]
    module = load("\n".join(f"def f{n}(x): return {constant}" for n, constant in enumerate(constants)))
    assert len({code(getattr(module, f"f{n}")) for n in range(len(constants))}) == len(constants)


def test_an_f_string_is_known_by_its_parts_not_by_how_it_is_written(load: Load) -> None:
    same = ["""f"a{x['k']}b{x:>{x}}\"""", """f'a{x["k"]}b{x:>{x}}'""", """"a" f"{x['k']}" 'b' f'''{ x :>{x}}'''"""]
    others = ["""f"a{x['j']}b{x:>{x}}\"""", """f"a{x['k']}b{x:<{x}}\"""", """f"a{x['k']!s}b{x:>{x}}\""""]
    module = load("\n".join(f"def f{n}(x): return {text}" for n, text in enumerate(same + others)))
    digests = [code(getattr(module, f"f{n}")) for n in range(6)]
    assert len(set(digests[:3])) == 1
    assert len(set(digests)) == 4


def test_a_docstring_counts_without_its_indentation(load: Load) -> None:
    text = 'def f(x):\n    """One.\n\n      - two\n    three\n    """\n'
    indented = "if True:\n" + "".join(
        f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True)
    )
    assert code(load(text).f) == code(load(indented).f)
    assert code(load(text).f) != code(load(text.replace("  - two", "- two")).f)
    assert code(load(text).f) != code(load(text.replace("three", "four")).f)


def test_a_string_that_is_no_docstring_keeps_its_indentation(load: Load) -> None:
    text = 'def f(x):\n    return """\n      a"""\n'
    assert code(load(text).f) != code(load(text.replace("  a", "a")).f)


def test_a_function_that_was_only_renamed_has_the_same_code(load: Load) -> None:
    was, now = fingerprint(load("def f(x): return x").f), fingerprint(load("def g(x): return x").g)
    assert differences(was, now) == ["the function is `sample.g`, not `sample.f`"]


def test_a_lambda_is_known_by_itself_not_by_its_line(load: Load) -> None:
    one = load("f = lambda x: x + 1").f
    other = load("import os\nfs = {'a': 1, 'f': (lambda x:\n      x + 1  # more\n), 'b': [2]}; f = fs['f']").f
    assert code(one) == code(other)
    assert code(one) != code(load("f = lambda x: x + 2").f)


def test_a_lambda_in_the_middle_of_a_call_is_found(load: Load) -> None:
    call = "def call(*fs, **more): return fs\n"
    module = load(call + "f, g = call(\n    lambda x: x + 1,\n    lambda x: (\n        x - 1),\n    k=3,\n)\n")
    assert code(module.f) == code(load("f = lambda x: x + 1").f)
    assert code(module.g) == code(load("f = lambda x: x - 1").f)


def test_of_lambdas_in_one_line_each_counts(load: Load) -> None:
    digests = {code(load(f"f, g = {text}").f) for text in ("lambda x: 1, lambda x: 2", "lambda x: 1, lambda x: 3")}
    assert len(digests) == 2
    module = load("f, g = lambda x: 1, lambda x: 2")
    assert code(module.f) == code(module.g)


def test_nested_functions_and_those_of_one_name_are_told_apart(load: Load) -> None:
    module = load(
        "def outer(n):\n    if n:\n        def f(x): return 1\n    else:\n        def f(x): return 2\n    return f\n"
        "one, two = outer(1), outer(0)"
    )
    assert fingerprint(module.one)["function"] == "sample.outer.<locals>.f"
    assert code(module.one) == code(load("def f(x): return 1").f)
    assert code(module.two) == code(load("def f(x): return 2").f)


def test_a_decorated_function_is_told_from_one_that_its_decorator_holds(load: Load) -> None:
    module = load(AROUND + "held = []\n@(lambda f: held.append(f) or f)\nasync def f(x): return 1\n")
    assert code(module.f) != code(load(AROUND + "@traced\nasync def f(x): return 1\n").f)


METHODS = """
class Base:
    async def plain(self, x): return x
    async def __call__(self, x): return [x]
    @classmethod
    async def of_class(cls, x): return (x,)
    @staticmethod
    async def static(x): return {x}

class Derived(Base): pass
"""


def test_methods_are_known_by_their_function_whatever_self_is(load: Load) -> None:
    base = load(METHODS).Base
    assert fingerprint(base().plain) == fingerprint(base().plain) == fingerprint(base.plain)
    assert fingerprint(base.of_class)["function"] == "sample.Base.of_class"
    assert fingerprint(base.static) == fingerprint(base().static)
    digests = {code(base().plain), code(base()), code(base.of_class), code(base.static)}
    assert len(digests) == 4


def test_a_callable_object_is_known_by_its_type_and_the_code_of_its_call(load: Load) -> None:
    module = load(METHODS)
    assert fingerprint(module.Base())["function"] == "sample.Base.__call__"
    assert fingerprint(module.Derived())["function"] == "sample.Derived.__call__"
    assert code(module.Derived()) == code(module.Base()) == code(module.Base.__call__)


def test_wrappers_that_say_what_they_wrap_are_seen_through(load: Load) -> None:
    f = load(AROUND + FUNCTION).f

    @functools.wraps(f)
    async def wrapper(*args: Any) -> Any: ...

    wrappers: list[Any] = [wrapper, functools.lru_cache(f), functools.wraps(wrapper)(Unnamed())]
    for wrapped in wrappers:
        assert fingerprint(wrapped) == fingerprint(f)


def test_a_blocking_function_is_known_by_itself_in_a_thread_too(load: Load) -> None:
    f = load("def f(x): return x").f
    assert fingerprint(in_thread(f)) == fingerprint(f)


def test_a_wrapper_that_wraps_itself_is_known_by_itself(load: Load) -> None:
    f = load(FUNCTION).f
    before = fingerprint(f)
    f.__wrapped__ = f
    assert fingerprint(f) == before


def test_wrappers_in_a_circle_are_known_by_the_one_that_is_called(load: Load) -> None:
    module = load("def f(x): return 1\ndef g(x): return 2\ndef h(x): return 3\n")
    before = fingerprint(module.f)
    module.f.__wrapped__, module.g.__wrapped__, module.h.__wrapped__ = module.g, module.h, module.f
    assert fingerprint(module.f) == before


def test_bound_arguments_are_kept_by_the_parameter_s_name(load: Load) -> None:
    f = load("async def f(a, b, /, lang, *rest, n=1, **more): ...").f
    partial = functools.partial(f, "x", 2, "en", 4.5, None, n=True, k="v")
    assert fingerprint(partial) == {
        "function": "sample.f",
        "code": code(f),
        "bound": {"a": "x", "b": 2, "lang": "en", "3": 4.5, "4": None, "n": True, "k": "v"},
    }


class Unnamed:
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def test_partials_in_partials_bind_as_a_call_would(load: Load) -> None:
    f = load("async def f(a, b, c, d=1): ...").f
    inner = functools.partial(f, 1, d=2)
    between = functools.update_wrapper(Unnamed(), inner)
    assert fingerprint(functools.partial(inner, 3, d=4))["bound"] == {"a": 1, "b": 3, "d": 4}
    assert fingerprint(functools.partial(between, 3, d=4)) == fingerprint(functools.partial(inner, 3, d=4))


def test_places_of_partials_in_partials_go_on(load: Load) -> None:
    f = load("async def f(*rest): ...").f
    inner = functools.partial(f, 1)
    between = functools.update_wrapper(Unnamed(), inner)
    assert fingerprint(functools.partial(between, 2))["bound"] == {"0": 1, "1": 2}


def test_a_bound_method_s_arguments_do_not_begin_with_self(load: Load) -> None:
    base = load(METHODS).Base
    for function in (base().plain, base.of_class, base.static, base()):
        assert fingerprint(functools.partial(function, 7))["bound"] == {"x": 7}


def bound(value: object, name: str = "value") -> Any:
    return fingerprint(functools.partial(Unnamed(), **{name: value}))["bound"][name]


class Colour(IntEnum):
    RED = 1


def test_what_has_no_json_is_known_by_its_type_alone() -> None:
    assert bound(object()) == {"type": "builtins.object"}
    assert bound([object()]) == {"type": "builtins.list"}
    assert bound(math.nan) == {"type": "builtins.float"}
    assert bound({1: "a"}) == {"type": "builtins.dict"}
    assert bound(b"a") == {"type": "builtins.bytes"}
    assert bound(xmlrpc.client.ServerProxy("http://localhost:1")) == {"type": "xmlrpc.client.ServerProxy"}
    assert bound(Colour.RED) == 1


def test_long_values_and_those_with_parts_are_known_by_a_digest() -> None:
    values: list[Any] = ["a" * 300, "a" * 299 + "b", "a" * 2000, "a" * 1999 + "b", [1], ["1"], {}, []]
    kept = [bound(value) for value in values]
    assert all(list(value) == ["digest"] for value in kept)
    assert len({value["digest"] for value in kept}) == len(kept)
    assert bound({"a": 1, "b": 2}) == bound({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("api_key", "canary"), ("token", "canary"), ("url", "https://me:canary@host/"), ("headers", {"Auth": "canary"})],
)
def test_no_secret_is_kept_in_clear(name: str, value: object) -> None:
    known = fingerprint(functools.partial(Unnamed(), **{name: value}))
    assert "canary" not in json.dumps(known)
    assert differences(known, known | {"bound": {name: "other"}}) == [f"its argument {name} changed"]


def test_without_source_there_is_no_code(load: Load) -> None:
    made: dict[str, Any] = {"__name__": "made"}
    exec("async def f(x): return x\ng = lambda x: x", made)  # noqa: S102  # that is what has no source
    names: list[str] = []
    functions: list[Any] = [made["f"], made["g"], len, str.upper, names.append, dict, functools.partial(len)]
    for function in (*functions, load(METHODS).Base):
        assert fingerprint(function)["code"] is None
        assert not has_source(function)
    assert fingerprint(made["f"])["function"] == "made.f"
    assert fingerprint(str.upper)["function"] == "str.upper"
    assert fingerprint(load(METHODS).Base)["function"] == "sample.Base"


def test_a_class_is_not_known_by_the_source_of_its_metaclass() -> None:
    assert fingerprint(Colour) == {"function": f"{__name__}.Colour", "code": None, "bound": {}}


def test_has_source_says_whether_there_is_code(load: Load) -> None:
    module = load(FUNCTION + METHODS + "g = lambda x: x\n")
    for function in (module.f, module.g, module.Base(), module.Base().plain, functools.partial(module.f, 1)):
        assert has_source(function)


def test_the_source_of_a_notebook_s_cell_is_found(request: pytest.FixtureRequest) -> None:
    cell = "import os\ndef f(x): return x\n"
    name = "<cell of a test>"
    lines: list[str] = [*cell.splitlines(keepends=True)]
    linecache.cache[name] = (len(cell), None, lines, name)
    request.addfinalizer(lambda: linecache.cache.pop(name))
    made: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cell, name, "exec"), made)  # noqa: S102  # as a notebook does
    assert has_source(made["f"])


OTHER_TEXTS = {
    "nothing": "",
    "no function": "x = 1\n",
    "no Python": "def f(x: return\n",
    "a null byte": "\0",
    "more than the parser can take": "x = " + "-" * 100_000 + "1\n",
    "another name": "def g(x): return 1\n",
    "another line": "\n\ndef f(x): ...\n",
}


@pytest.mark.parametrize("text", OTHER_TEXTS.values(), ids=OTHER_TEXTS)
def test_a_file_that_does_not_hold_the_function_any_more_is_not_its_source(load: Load, text: str) -> None:
    f = load("def f(x): return 1").f
    Path(f.__code__.co_filename).write_text(text, encoding="utf-8")
    assert fingerprint(f) == {"function": "sample.f", "code": None, "bound": {}}


def test_an_edited_file_is_read_again(load: Load) -> None:
    f = load("def f(x): return 1").f
    before = code(f)
    Path(f.__code__.co_filename).write_text("def f(x): return 100", encoding="utf-8")
    assert code(f) == code(load("def f(x): return 100").f) != before


def test_a_source_that_python_warns_of_is_read_without_a_warning(load: Load) -> None:
    with warnings.catch_warnings(action="ignore"):
        f = load("def f(x): return '\\d'").f
    assert has_source(f)


def test_a_very_long_sum_is_read(load: Load) -> None:
    terms = " + ".join(["x"] * 900)
    assert code(load(f"def f(x): return {terms}").f) != code(load(f"def f(x): return {terms} + x").f)


class RaisesEverywhere:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self, item: Any) -> None: ...


class HasEverything:
    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, item: Any) -> None: ...


class HasLen:
    def __getattr__(self, name: str) -> Any:
        return len

    def __call__(self, item: Any) -> None: ...


class Unnameable(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class OfUnnameable(metaclass=Unnameable):
    def __call__(self, item: Any) -> None: ...


class WrapsForEver:
    @property
    def __wrapped__(self) -> WrapsForEver:
        return WrapsForEver()

    def __call__(self, item: Any) -> None: ...


class CallsItself: ...


setattr(CallsItself, "__call__", CallsItself())  # noqa: B010  # a type checker has good reasons against it


HOSTILE: dict[str, Callable[[], Any]] = {
    "raises everywhere": RaisesEverywhere,
    "has everything": HasEverything,
    "a class that raises": lambda: OfUnnameable,
    "an object of a class that raises": OfUnnameable,
    "wraps for ever": WrapsForEver,
    "is its own call": CallsItself,
    "a mock": unittest.mock.Mock,
    "an async mock": unittest.mock.AsyncMock,
    "a mock of a partial": lambda: unittest.mock.MagicMock(spec=functools.partial),
    "the call of a mock": lambda: unittest.mock.call,
    "a remote method": lambda: xmlrpc.client.ServerProxy("http://localhost:1").method,
    "a metaclass": lambda: type,
    "no callable": lambda: None,
    "a partial of a hostile object": lambda: functools.partial(RaisesEverywhere(), RaisesEverywhere()),
    "a method of a hostile object": lambda: types.MethodType(RaisesEverywhere(), 1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_callable_makes_it_raise(kind: str) -> None:
    function = HOSTILE[kind]()
    known = fingerprint(function)
    assert json.loads(json.dumps(known)) == known
    assert known["function"]
    assert has_source(function) == (known["code"] is not None)


def test_an_object_that_has_every_attribute_is_known_by_its_type() -> None:
    assert fingerprint(HasEverything())["function"] == f"{__name__}.HasEverything.__call__"
    assert fingerprint(HasLen())["function"] == f"{__name__}.HasLen.__call__"
    assert fingerprint(unittest.mock.Mock(spec=functools.partial))["function"] == "unittest.mock.Mock.__call__"
    assert fingerprint(RaisesEverywhere())["function"] == f"{__name__}.RaisesEverywhere"


KNOWN: dict[str, Any] = {"function": "a.f", "code": "c0de", "bound": {"lang": "en", "n": 1}, "version": 1}


def test_equal_fingerprints_have_no_differences() -> None:
    assert differences(KNOWN, json.loads(json.dumps(KNOWN))) == []


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"function": "a.g"}, "the function is `a.g`, not `a.f`"),
        ({"code": "c0ffee"}, "its code changed"),
        ({"code": None}, "its source cannot be read, and could be before"),
        ({"version": "1"}, "version is '1', not 1"),
        ({"version": True}, "version is True, not 1"),
        ({"version": 1.0}, "version is 1.0, not 1"),
        ({"version": None}, "version is None, not 1"),
        ({"bound": {"lang": "de", "n": 1}}, "its argument lang is 'de', not 'en'"),
        ({"bound": {"lang": "en", "n": True}}, "its argument n is True, not 1"),
        ({"bound": {"lang": "en"}}, "its argument n is no longer bound"),
        ({"bound": {"lang": "en", "n": 1, "k": None}}, "its argument k is bound, and was not before"),
        ({"bound": {"lang": {"type": "a.B"}, "n": 1}}, "its argument lang is of type a.B, not 'en'"),
        ({"bound": {"lang": {"digest": "00"}, "n": 1}}, "its argument lang changed"),
    ],
)
def test_each_difference_is_named(changed: dict[str, Any], phrase: str) -> None:
    assert differences(KNOWN, KNOWN | changed) == [phrase]


def test_all_differences_are_named() -> None:
    other: dict[str, Any] = {"function": "b\x1b.g", "code": None, "bound": {}, "version": 2}
    assert differences(other, KNOWN) == [
        "the function is `a.f`, not `b\N{REPLACEMENT CHARACTER}.g`",
        "its source can be read, and could not be before",
        "its argument lang is bound, and was not before",
        "its argument n is bound, and was not before",
        "version is 1, not 2",
    ]
