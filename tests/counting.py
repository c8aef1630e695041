"""Counts of function calls: a measure of work that does not depend on the load of the machine."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")


def counted(function: Callable[..., Result], *arguments: Any) -> tuple[Result, int]:
    """Call a function and return its result and the number of Python and C functions that it called."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        result = function(*arguments)
    finally:
        sys.setprofile(before)
    return result, calls
