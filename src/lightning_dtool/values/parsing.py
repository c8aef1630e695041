"""Python source as a syntax tree, in any thread."""

import ast
from typing import Any

_ATTEMPTS = 20


def parse(source: str | bytes, filename: str = "<unknown>", mode: str = "exec") -> Any:
    """Return the syntax tree of Python source: `ast.parse`, and again where another thread was in its way.

    Until Python 3.12.2 all threads count in one place how deep a tree is that is being built, and one that finds the
    count changed raises a SystemError (https://github.com/python/cpython/issues/106905). Sources are scanned in the
    background, while training may do whatever it likes.

    Args:
        source: The source.
        filename: As in `ast.parse`.
        mode: As in `ast.parse`.

    Raises:
        SyntaxError: If it is no Python.
        ValueError: If it holds null bytes.

    Example:
        >>> type(parse("import os")).__name__
        'Module'
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return ast.parse(source, filename, mode)
        except SystemError:
            continue
    return ast.parse(source, filename, mode)
