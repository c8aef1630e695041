"""Parsing of source while another thread parses."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from lightning_dtool.values.definitions import source_of
from lightning_dtool.values.parsing import parse


def failing(original: Callable[..., Any], times: int) -> Callable[..., Any]:
    calls = iter(range(times))

    def call_once_more(*arguments: Any) -> Any:
        if next(calls, None) is not None:
            raise SystemError("AST constructor recursion depth mismatch (before=42, after=196)")
        return original(*arguments)

    return call_once_more


def test_interference_by_another_thread_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ast, "parse", failing(ast.parse, 5))
    assert ast.dump(parse(b"x = 1")) == ast.dump(parse("x = 1"))


def test_source_is_read_again_if_another_thread_interferes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = inspect.getsource(pytest.Item)
    monkeypatch.setattr(inspect, "getsource", failing(inspect.getsource, 5))
    assert source_of(pytest.Item) == expected


def test_parsing_is_not_retried_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ast, "parse", failing(ast.parse, 1000))
    with pytest.raises(SystemError):
        parse("x = 1")


def test_invalid_python_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        parse("x =")
