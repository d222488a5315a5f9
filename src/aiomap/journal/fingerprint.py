"""What a function is known by, so that a journal is not used for another function.

Invariant: the same source gives the same digest on every Python that we run on, wherever it stands in its file and
however it is laid out; and no callable makes these functions raise. What the function calls, its globals and its
`self` are not covered.
"""

from __future__ import annotations

import ast
import inspect
import json
import linecache
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from hashlib import blake2b
from types import FunctionType, MethodType
from typing import Any, Final, TypeAlias, cast

from aiomap._foreign import printable, redacted
from aiomap._verdict import shortened
from aiomap.journal.keys import key_of, label_of

__all__ = ["differences", "fingerprint", "has_source"]

# A decorator round a decorator round ...; more is a circle, or an object that makes itself up.
_DEEPEST: Final = 100

# Of a bound argument's JSON. A longer one would be no help in a message, and may be a table of any size.
_LONGEST: Final = 200

_ABSENT: Final = object()

_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# `ctx` follows from where a name stands. `u"a"` is "a". We do not parse comments, so `type_comment` is always empty.
_SAYS_NOTHING: Final = frozenset({"ctx", "kind", "type_comment"})


def fingerprint(function: Callable[..., Any]) -> dict[str, Any]:
    """What the function is known by, as a JSON object.

    function: its module and qualified name, seen through `functools.partial`, bound methods and `functools.wraps`; of a
        callable object, those of its type's `__call__`; of what has no name, its type's.
    code: a digest of its source, blind to comments and layout, decorators and docstring included; `None` without one
        (a builtin, a class, a function from `exec`).
    bound: the arguments in a `partial`, by the parameter's name, or by their place from 0 where that has none. A short
        string, a number, a bool or `None` as it is; other JSON, and what looks like a secret, as {"digest": ...}; of
        anything else only {"type": ...}.

    It costs the parsing of the function's file the first time.

    >>> from functools import partial
    >>> fingerprint(partial(int, "101", base=2))
    {'function': 'builtins.int', 'code': None, 'bound': {'0': '101', 'base': 2}}
    """
    try:
        named, bindings = _unwrapped(function)
        return {"function": _name(named), "code": _code(named), "bound": _bound(bindings)}
    except Exception:  # of a hostile object, which can raise wherever it is looked at
        return {"function": _type_name(function), "code": None, "bound": {}}


def has_source(function: Callable[..., Any]) -> bool:
    """Whether the fingerprint holds a digest of the function's source.

    >>> import json
    >>> has_source(json.dumps), has_source(len)
    (True, False)
    """
    return fingerprint(function)["code"] is not None


def differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Short phrases for a message, none if the two are equal: fingerprints, with the user's `version` beside.

    >>> was = {"function": "a.f", "code": "c0de", "bound": {"lang": "en"}, "version": 1}
    >>> differences(was, was | {"function": "a.g", "bound": {"lang": "de"}, "version": "1"})
    ['the function is `a.g`, not `a.f`', "its argument lang is 'de', not 'en'", "version is '1', not 1"]
    """
    phrases: list[str] = []
    old, new = recorded.get("function"), present.get("function")
    if old != new:
        phrases.append(f"the function is `{printable(str(new))}`, not `{printable(str(old))}`")
    old, new = recorded.get("code"), present.get("code")
    if old != new:
        phrases.append(_of_code(old, new))
    old_bound: dict[str, Any]
    new_bound: dict[str, Any]
    old_bound, new_bound = recorded.get("bound") or {}, present.get("bound") or {}
    for name in sorted({*old_bound, *new_bound}):
        old, new = old_bound.get(name, _ABSENT), new_bound.get(name, _ABSENT)
        if not _are_equal(old, new):
            phrases.append(_of_argument(printable(name), old, new))
    old, new = recorded.get("version"), present.get("version")
    if not _are_equal(old, new):
        phrases.append(f"version is {shortened(new)}, not {shortened(old)}")
    return phrases


def _of_code(old: object, new: object) -> str:
    if new is None:
        return "its source cannot be read, and could be before"
    return "its code changed" if old is not None else "its source can be read, and could not be before"


def _of_argument(name: str, old: object, new: object) -> str:
    if new is _ABSENT:
        return f"its argument {name} is no longer bound"
    if old is _ABSENT:
        return f"its argument {name} is bound, and was not before"
    is_value, was_value = _shown(new), _shown(old)
    if is_value is None or was_value is None:
        return f"its argument {name} changed"
    return f"its argument {name} is {is_value}, not {was_value}"


def _shown(bound: Any) -> str | None:
    if not isinstance(bound, dict):
        return shortened(bound)
    described = cast("dict[str, Any]", bound)
    return f"of type {printable(str(described['type']))}" if "type" in described else None


def _are_equal(one: object, other: object) -> bool:
    """As JSON, where 1, 1.0 and true differ."""
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _unwrapped(function: Any) -> tuple[Any, list[partial[Any]]]:
    """What is called in the end, and the partials on the way to it, the outermost first."""
    bindings: list[partial[Any]] = []
    called: Any = function
    for _ in range(_DEEPEST):
        # Not isinstance: an object may pass itself off as a partial, as a mock does.
        if issubclass(type(called), partial):  # pyright: ignore[reportUnknownArgumentType]  # it is Any
            bindings.append(called)
            called = called.func
        elif type(called) is MethodType:
            called = called.__func__
        # Looked for first without asking the object, which may have a `__getattr__` that has everything.
        elif inspect.getattr_static(called, "__wrapped__", None) is not None and callable(called.__wrapped__):
            called = called.__wrapped__
        else:
            return called, bindings
    return function, []


def _name(named: Any) -> str:
    module, qualname = getattr(named, "__module__", None), getattr(named, "__qualname__", None)
    if type(qualname) is not str:
        return f"{_type_name(named)}.__call__"
    return f"{module}.{qualname}" if type(module) is str else qualname


def _type_name(thing: object) -> str:
    kind = type(thing)
    # Past the metaclass, which may be as hostile.
    module, qualname = vars(type)["__module__"].__get__(kind), vars(type)["__qualname__"].__get__(kind)
    return f"{module}.{qualname}" if type(module) is str else str(qualname)


def _bound(bindings: list[partial[Any]]) -> dict[str, Any]:
    bound: dict[str, Any] = {}
    placed = 0
    for binding in reversed(bindings):
        names = _positional_names(binding.func)
        for position, value in enumerate(binding.args):
            name = names[position] if position < len(names) else str(placed + position)
            bound[name] = _recorded(name, value)
        placed += len(binding.args)
        bound |= {name: _recorded(name, value) for name, value in binding.keywords.items()}
    return bound


def _positional_names(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:
        return []  # many builtins have no signature
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _recorded(name: str, value: object) -> Any:
    try:
        text, digest = label_of(value), key_of(value).hex()
    except Exception:
        return {"type": _type_name(value)}  # its repr may hold an address, and be another in every run
    shown = f"?{name}={text}"
    if text[0] in "[{" or len(text) > _LONGEST or redacted(shown) != shown:
        return {"digest": digest}
    return json.loads(text)  # of a subclass, such as an enum's member, the value alone


def _code(named: object) -> str | None:
    function: Any = named
    kind = type(named)
    if kind is not FunctionType and not issubclass(kind, type):
        function = _unwrapped(getattr(kind, "__call__", None))[0]  # noqa: B004  # it is not asked whether
    if type(function) is not FunctionType:
        return None
    code = function.__code__
    # Not inspect.getsource: it finds other ends of a function on other Pythons, and of a lambda only lines of text.
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    return _digest(text, code.co_name, code.co_firstlineno)


@lru_cache(maxsize=4)
def _digest(text: str, name: str, line: int) -> str | None:
    """Of the function of that name that begins in that line of a module's text; `None` if none does.

    Of lambdas that begin in one line, all: which of them is meant cannot be told for sure.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # they were given when the module was imported
            tree = ast.parse(text)
    except Exception:
        return None  # it is no longer what was imported, or no Python
    found = list(_definitions(tree, name, line))
    if not found:
        return None
    digest = blake2b(digest_size=16)
    for node in found:
        if not isinstance(node, ast.Lambda):
            node.name = ""  # it stands in the fingerprint already: a function that was only renamed has the same code
        for token in _tokens(node):
            digest.update(token)
    return digest.hexdigest()


def _definitions(tree: ast.Module, name: str, line: int) -> Iterator[_Definition]:
    """The functions of that name that begin in that line: one, but for lambdas."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt) and not _first_line(node) <= line <= (node.end_lineno or line):
            continue
        if isinstance(node, _Definition) and (_own_name(node), _first_line(node)) == (name, line):
            yield node
        waiting += reversed(list(ast.iter_child_nodes(node)))


def _own_name(node: _Definition) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _first_line(node: ast.stmt | ast.Lambda) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _tokens(root: ast.AST) -> Iterator[bytes]:
    """The tree in a prefix code: each thing says what and how long it is, so that no two trees give the same bytes."""
    waiting: list[Any] = [root]  # a long sum is deeper than Python's stack
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, ast.AST):
            fields = _fields(thing)
            yield f"{type(thing).__name__}:{len(fields)};".encode()
            for name, value in reversed(fields):
                waiting += (value, name)
        elif isinstance(thing, list):
            yield f"list:{len(thing)};".encode()  # pyright: ignore[reportUnknownArgumentType]  # of anything
            waiting += reversed(thing)  # pyright: ignore[reportUnknownArgumentType]  # of anything
        else:
            content = _content(thing)
            yield f"{type(thing).__name__}:{len(content)};".encode() + content


def _content(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    # Python refuses to write a very long integer in decimal.
    return (f"{value:x}" if isinstance(value, int) else repr(value)).encode()


def _fields(node: ast.AST) -> list[tuple[str, Any]]:
    """What the node says: a field that only some Pythons have is empty there, if the source is good for all."""
    fields: list[tuple[str, Any]] = [
        (name, getattr(node, name, None)) for name in node._fields if name not in _SAYS_NOTHING
    ]
    if isinstance(node, ast.JoinedStr):
        fields = [("values", _joined(node.values))]
    elif isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.Constant):
        # Python 3.13 leaves a format with a \N{...} in it so.
        fields = [(name, ast.JoinedStr([value]) if name == "format_spec" else value) for name, value in fields]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        fields = [(name, _with_even_docstring(value) if name == "body" else value) for name, value in fields]
    return [(name, value) for name, value in fields if value is not None and value != []]


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, with its text in as few pieces as it can be: some Pythons cut it, or add empty ones."""
    parts: list[ast.expr] = []
    for value in values:
        last = parts[-1] if parts else None
        if not isinstance(value, ast.Constant):
            parts.append(value)
        elif isinstance(last, ast.Constant):
            parts[-1] = ast.Constant(str(last.value) + str(value.value))
        elif value.value:
            parts.append(value)
    return parts


def _with_even_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """The body, with its docstring as it would be if the function stood at the margin."""
    match body:
        case [ast.Expr(ast.Constant(str(text))), *rest]:
            return [ast.Expr(ast.Constant(_at_margin(text))), *rest]
        case _:
            return body


def _at_margin(docstring: str) -> str:
    # Much as Python 3.13 compiles it. Not inspect.cleandoc, which does otherwise on other Pythons.
    first, *rest = docstring.expandtabs().split("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in rest if line.strip(" ")), default=0)
    return "\n".join([first.lstrip(" "), *(line[margin:].rstrip(" ") for line in rest)]).rstrip("\n")
