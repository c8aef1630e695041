"""Parsing of source while another thread parses."""

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


def test_interference_by_another_thread_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ast, "parse", failing(5))
    assert ast.dump(parse(b"x = 1")) == ast.dump(parse("x = 1"))


def test_parsing_is_not_retried_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ast, "parse", failing(1000))
    with pytest.raises(SystemError):
        parse("x = 1")


def test_invalid_python_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        parse("x =")
