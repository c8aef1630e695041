"""A thread-safe parser of Python source."""

import ast
import sys
from collections.abc import Callable
from typing import Any, TypeVar

SAFE_IN_THREADS = sys.version_info >= (3, 12, 2)
"""Whether a thread that parses leaves others alone. Before, it could break an `inspect.getsource` of the training's."""

_ATTEMPTS = 20
"""How often to parse if another thread interferes."""

T = TypeVar("T")


def parse(source: str | bytes, filename: str = "<unknown>", mode: str = "exec") -> Any:
    """Return the syntax tree of Python source, as `ast.parse` does, and retry if another thread interfered.

    Args:
        source: The source.
        filename: As in `ast.parse`.
        mode: As in `ast.parse`.

    Raises:
        SyntaxError: If the source is not valid Python.
        ValueError: If the source contains null bytes.

    Example:
        >>> type(parse("import os")).__name__
        'Module'
    """
    return retried(lambda: ast.parse(source, filename, mode))


def retried(function: Callable[[], T]) -> T:
    """Return what a function returns that parses Python source, and retry if another thread interfered.

    Before Python 3.12.2, all threads share one counter for the depth of the tree that is being built. A thread that
    finds the counter changed raises a SystemError (https://github.com/python/cpython/issues/106905). Any thread of the
    training may parse.

    Args:
        function: The function. Calling it several times does no harm.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return function()
        except SystemError:
            continue
    return function()
