"""A thread-safe parser of Python source."""

import ast
import sys
from typing import Any

SAFE_IN_THREADS = sys.version_info >= (3, 12, 2)
"""Whether a thread that parses leaves others alone. Before, it could break an `inspect.getsource` of the training's."""

ATTEMPTS = 20
"""How often to parse if another thread interferes."""


def parse(source: str | bytes, filename: str = "<unknown>", mode: str = "exec") -> Any:
    """Return the syntax tree of Python source, as `ast.parse` does, and retry if another thread interfered.

    Before Python 3.12.2, all threads share one counter for the depth of the tree that is being built. A thread that
    finds the counter changed raises a SystemError (https://github.com/python/cpython/issues/106905). Any thread of the
    training may parse.

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
    for _ in range(ATTEMPTS - 1):
        try:
            return ast.parse(source, filename, mode)
        except SystemError:
            continue
    return ast.parse(source, filename, mode)
