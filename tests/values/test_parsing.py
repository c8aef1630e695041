"""Source is parsed whatever another thread does at the time."""

import ast
from typing import Any

import pytest

from lightning_dtool.values.parsing import parse


def failing(times: int) -> Any:
    original, calls = ast.parse, iter(range(times))

    def parse_once_more(*arguments: Any) -> ast.AST:
        if next(calls, None) is not None:
            raise SystemError("AST constructor recursion depth mismatch (before=42, after=196)")
        return original(*arguments)

    return parse_once_more


def test_another_thread_in_the_way_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ast, "parse", failing(5))
    assert ast.dump(parse(b"x = 1")) == ast.dump(parse("x = 1"))


def test_it_does_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ast, "parse", failing(1000))
    with pytest.raises(SystemError):
        parse("x = 1")


def test_what_is_no_python_stays_an_error() -> None:
    with pytest.raises(SyntaxError):
        parse("x =")
