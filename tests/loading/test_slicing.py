"""Slicing of a script to the statements that a class needs, without those that train."""

import ast
import textwrap
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dtool.loading.slicing import needed_statements


def sliced(source: str, name: str = "A") -> dict[str, Any]:
    tree = ast.parse(textwrap.dedent(source))
    tree.body = needed_statements(tree, name)
    space: dict[str, Any] = {"__name__": "sliced"}
    exec(compile(tree, "<slice>", "exec", dont_inherit=True), space)
    return space


TRAIN = "raise SystemExit('training began')"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("SIZE = 3\nclass A:\n    x = SIZE", 3),
        ("SIZE: int = 3\nSIZE += 1\nclass A:\n    x = SIZE", 4),
        ("class Base:\n    x = 3\nclass A(Base): pass", 3),
        ("def three(cls):\n    cls.x = 3\n    return cls\n@three\nclass A: pass", 3),
        ("def helper():\n    return SIZE\nSIZE = 3\nclass A:\n    x = property(lambda self: helper())", 3),
        ("from math import *\nclass A:\n    x = floor(3.5)", 3),
        ("try:\n    import nowhere as m\nexcept ImportError:\n    import math as m\nclass A:\n    x = m.floor(3.5)", 3),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nowhere\nclass A:\n    y: 'nowhere.T'\n    x = 3", 3),  # noqa: E501
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 3\nclass A:\n    x = P().x", 3),
        ("for SIZE in range(4): pass\nclass A:\n    x = SIZE", 3),
        ("import contextlib\nwith contextlib.nullcontext(3) as SIZE: pass\nclass A:\n    x = SIZE", 3),
        ("if (SIZE := 3): pass\nclass A:\n    x = SIZE", 3),
        ("while True:\n    SIZE = 3\n    break\nclass A:\n    x = SIZE", 3),
        ("SIZE = 3\nclass A:\n    x = SIZE\ndel SIZE", 3),
        ("if 1 > 2:\n    class A: x = 2\nelse:\n    class A: x = 3", 3),
        ("x = 3\nclass A:\n    x = x", 3),
        ("(a, [b, *c]) = 1, (2, 3)\nclass A:\n    x = c[0]", 3),
        ("match 3:\n    case SIZE: pass\nclass A:\n    x = SIZE", 3),
        ("from __future__ import annotations\nclass A:\n    y: nowhere\n    x = 3", 3),
        ("R = {}\nR['x'] = 3\nclass A:\n    x = R['x']", 3),
        ("R = {}\nR.update(x=3)\nclass A:\n    x = R['x']", 3),
        ("class A: pass\nA.x = 3", 3),
        ("class A:\n    x = 2\nclass A(A):\n    x = 3", 3),
        ("def make():\n    global SIZE\n    SIZE = 3\n    return 3\nclass A:\n    x = make()", 3),
        ("import os.path\nclass A:\n    x = len(os.path.join('a', 'b'))", 3),
        ("class A:\n    class B:\n        def f(self): return SIZE\n    x = property(lambda self: self.B().f())\nSIZE = 3", 3),  # noqa: E501
        ("class A:\n    def f(self, model): trainer = model; return trainer\n    x = 3\nmodel = train()\ntrainer = train()", 3),  # noqa: E501
        ("import os\nclass A:\n    x = len(os.path.join('a', 'b'))\ntry:\n    os.environ['X'] = str(train())\nexcept KeyError: pass", 3),  # noqa: E501
        ("history = []\nclass A:\n    x = 3\n    def f(self): history.append(1)\nhistory.append(train())", 3),
    ],
)  # fmt: skip
def test_a_slice_gives_the_class_and_does_not_train(source: str, expected: int) -> None:
    guard = "if __name__ == '__main__':\n    A.x = train()\n"
    space = sliced(f"{source}\nif True:\n    {TRAIN}\n{guard}for _ in range(3):\n    {TRAIN}\n{TRAIN}\n")
    assert space["A"]().x == expected


def test_a_registry_filled_by_decorators_is_kept_in_the_slice() -> None:
    space = sliced(
        """
        class Registry(dict):
            def add(self, f):
                self[f.__name__] = f
                return f
        LAYERS = Registry()
        @LAYERS.add
        def relu(): return 3
        class A:
            x = property(lambda self: LAYERS["relu"]())
        raise SystemExit
        """
    )
    assert space["A"]().x == 3


NAMES = st.sampled_from("abcdefgh")


@st.composite
def modules(draw: st.DrawFn) -> str:
    """Generate modules: definitions that use earlier ones, noise that must not run, and a class A at the end."""
    lines: list[str] = []
    defined: list[str] = ["len"]
    forms = [
        "{n} = (1, {u})", "def {n}(*_):\n    return {u}", "class {n}:\n    y = {u}", "import math as {n}",
        "for {n} in [({u},)]: pass", "if {u}:\n    {n} = [{u}]\nelse:\n    {n} = 1", "({n} := [{u}])",
        "try:\n    {n} = {u}.nothing\nexcept Exception:\n    {n} = (2, {u})", "{n} = {{}}\n{n}['k'] = {u}",
        "{n} = [{u} for {u} in [1]]", "{n} = lambda {u}: {u}",
    ]  # fmt: skip
    for _ in range(draw(st.integers(1, 8))):
        name = draw(NAMES)
        lines.append(draw(st.sampled_from(forms)).format(n=name, u=draw(st.sampled_from(defined))))
        defined.append(name)
        if draw(st.booleans()):
            lines.append("NOISE.append(1)")
    used = draw(st.lists(st.sampled_from(defined), max_size=3))
    return "\n".join([*lines, "class A:", "    def values(self):", f"        return [{', '.join(used)}]"])


def shape(value: Any, depth: int = 4) -> Any:
    if depth == 0:
        return None
    if isinstance(value, list | tuple):
        return [shape(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {key: shape(item, depth - 1) for key, item in value.items()}
    if isinstance(value, type):
        return value.__name__, shape(vars(value).get("y"), depth - 1)
    return getattr(value, "__name__", value)


@given(modules())
@settings(max_examples=150, deadline=None)
def test_the_class_of_a_slice_equals_that_of_the_whole_module(source: str) -> None:
    whole: dict[str, Any] = {"NOISE": []}
    exec(source, whole)
    assert shape(sliced(source)["A"]().values()) == shape(
        whole["A"]().values()
    )  # NOISE is undefined, so running it would raise
