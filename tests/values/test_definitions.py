"""Names, sources and contents of functions and classes."""

import hashlib
import linecache
import sys
from types import ModuleType
from typing import Any

import pytest

from lightning_dtool.record import as_text
from lightning_dtool.values import definitions
from lightning_dtool.values.definitions import (
    MAX_REPR,
    class_path,
    closure,
    defaults,
    digest_of_code,
    is_one_lambda,
    is_users,
    names_used,
    short_repr,
    source_digest,
    source_of,
)


def outer(first: int, second: int = 2, *, third: int = 3) -> object:
    def inner(value: int = first) -> int:
        return value + second + len(sys.path)

    return inner


class Liar:
    """Returns a value for every attribute."""

    def __getattr__(self, name: str) -> str:
        return "anything"


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError


def test_functions_and_objects_have_class_paths() -> None:
    assert class_path(outer) == f"{__name__}:outer"
    assert class_path(Liar()) == f"{__name__}:Liar"
    assert class_path([].append) == "builtins:list.append"
    assert as_text("a\udc80") == "a\\udc80"


def test_a_repr_is_short_and_has_no_addresses() -> None:
    assert short_repr(object()) == "<object object at 0x…>"
    assert short_repr(Rude()) == "<repr failed: RuntimeError>"
    assert short_repr("x" * 5000) == "'" + "x" * (MAX_REPR - 1) + "… (5002 characters)"


def test_the_contents_of_a_function_are_found() -> None:
    inner = outer(1)
    assert defaults(outer) == {"second": 2, "third": 3}
    assert defaults(inner) == {"value": 1}
    assert closure(inner) == {"second": 2}
    assert {"len", "sys", "path"} <= names_used(outer.__code__)


def test_an_unassigned_closure_variable_is_left_out() -> None:
    function = lambda: later  # noqa: E731
    assert closure(function) == {}
    later = 1
    assert closure(function) == {"later": later}


def test_each_lambda_on_a_line_has_its_own_source() -> None:
    one, two = (lambda x: x + 1), (lambda x: x * 2)
    assert digest_of_code(one.__code__) != digest_of_code(two.__code__)
    assert digest_of_code(one.__code__) == digest_of_code((lambda x: x + 1).__code__)
    if sys.version_info >= (3, 11):
        assert (source_of(one), source_of(two)) == ("lambda x: x + 1", "lambda x: x * 2")
    assert is_one_lambda("lambda x: x + 1")
    assert not is_one_lambda("one, two = (lambda x: x + 1), (lambda x: x * 2)")


@pytest.mark.parametrize("made", [len, eval("lambda x: x"), type("Made", (), {})])
def test_objects_without_source_have_none(made: object) -> None:
    assert source_of(made) is None


def test_code_of_the_user_is_distinguished_from_installed_code() -> None:
    assert is_users(outer)
    assert not is_users(pytest.fixture)
    assert not is_users(definitions.source_of)
    assert not is_users(len)


def cell(name: str, text: str) -> dict[str, Any]:
    """Run a cell as IPython does: its lines are in the cache, and its module has no file."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = ModuleType("cells")
    module.In = ["", text]  # type: ignore[attr-defined]
    sys.modules["cells"] = module
    exec(compile(text, name, "exec"), vars(module))
    return vars(module)


CELL = """
class Outer:
    class Net:
        rate = 1

        def forward(self, x):
            return x

@(lambda cls: cls)
class Decorated:
    @property
    def a(self):
        return 1

    def b(self):
        return 2

class Bare:
    width = 3
"""


def test_a_class_of_a_notebook_has_the_source_of_its_cell() -> None:
    found = cell("<cell 1>", CELL)
    try:
        net = source_of(found["Outer"].Net)
        assert net is not None
        assert net.splitlines()[0] == "class Net:"
        assert net.splitlines()[-1] == "        return x"
        decorated = source_of(found["Decorated"])
        assert decorated is not None
        assert decorated.startswith("@(lambda")
        assert decorated.endswith("return 2\n")
        assert source_of(found["Bare"]) == "class Bare:\n    width = 3\n"
        assert source_digest(found["Bare"]) == hashlib.sha256(b"class Bare:\n    width = 3\n").hexdigest()
    finally:
        del sys.modules["cells"], linecache.cache["<cell 1>"]


def test_a_class_that_was_defined_twice_has_the_source_of_its_own_cell() -> None:
    first = cell("<cell 1>", "class Net:\n    def f(self):\n        return 1\n")["Net"]
    second = cell("<cell 2>", "class Net:\n    def f(self):\n        return 2\n")["Net"]
    try:
        assert "return 1" in (source_of(first) or "")
        assert "return 2" in (source_of(second) or "")
    finally:
        del sys.modules["cells"], linecache.cache["<cell 1>"], linecache.cache["<cell 2>"]
