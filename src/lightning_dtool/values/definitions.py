"""The names and the source of functions and classes, and what else decides what they do.

All of it is the same in every process: no memory address, no order of a hash table.
"""

import ast
import functools
import hashlib
import inspect
import json
import re
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

from lightning_dtool.record import as_text
from lightning_dtool.values.parsing import parse

MAX_REPR = 1000
"""Characters of a repr that are kept."""

_ADDRESS = re.compile(r"(?<=\bat )0x[0-9A-Fa-f]+|\b0x[0-9A-Fa-f]{7,}")


def class_path(obj: object) -> str:
    """Return `module:qualname` of a class, a function, or an object's class.

    >>> import torch
    >>> class_path(torch.nn.Linear)
    'torch.nn.modules.linear:Linear'
    """
    # Not `hasattr(obj, "__qualname__")`: an object with a `__getattr__` of its own may claim to have anything.
    named = obj if isinstance(obj, type) or inspect.isroutine(obj) else type(obj)
    return as_text(
        f"{getattr(named, '__module__', None) or 'builtins'}:{getattr(named, '__qualname__', type(named).__qualname__)}"
    )


def without_addresses(text: str) -> str:
    """Return a repr without the memory addresses in it, which no two processes share.

    >>> without_addresses("<Crop object at 0x7f3a5c1d2e80>")
    '<Crop object at 0x…>'
    """
    return _ADDRESS.sub("0x…", text)


def shortened(text: str) -> str:
    """Return a text. A long one is cut, and says how long it was."""
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}… ({len(text)} characters)"


def short_repr(value: Any) -> str:
    """Return a repr without memory addresses. A long one is cut.

    >>> short_repr(object())
    '<object object at 0x…>'
    """
    try:
        text = str(repr(value))
    except Exception as error:  # somebody else's __repr__ may do anything
        return f"<repr failed: {type(error).__name__}>"
    return shortened(as_text(without_addresses(text)))


def source_of(obj: Any) -> str | None:
    """Return the source code of a function or a class; None where there is none (built-in, or typed at a prompt).

    Of several lambdas on one line it is the one that was asked for, from Python 3.11 on; else the line.
    """
    try:
        if getattr(obj, "__name__", None) == "<lambda>" and (segment := _lambda_source(obj)) is not None:
            return segment
        return textwrap.dedent(inspect.getsource(obj))
    except Exception:  # besides OSError and TypeError: whatever the tokenizer makes of a file that has changed since
        return None


def source_digest(cls: type) -> str | None:
    """Return the SHA-256 of a class's source code; None where there is none, as for `source_of`."""
    try:
        return hashlib.sha256(inspect.getsource(cls).encode("utf-8", "surrogatepass")).hexdigest()
    except Exception:  # whatever the tokenizer makes of a file that has changed since
        return None


def is_users(obj: Any) -> bool:
    """Tell whether a function or a class is the user's own: no version of an installed package identifies its code."""
    module = getattr(obj, "__module__", None)
    return isinstance(module, str) and not _is_library(module)


def is_one_lambda(source: str) -> bool:
    """Tell whether a source is one lambda and nothing else, so that it stands for one function only."""
    try:
        return isinstance(parse(source.strip(), mode="eval").body, ast.Lambda)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def digest_of_code(code: types.CodeType) -> str:
    """Return a digest of bytecode, for functions that share a line of source. It depends on the version of Python."""
    return _hash_of_code(code).hexdigest()


def defaults(function: types.FunctionType) -> dict[str, Any]:
    """Return the default values of a function's parameters, by name."""
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    given = function.__defaults__ or ()
    return {
        **dict(zip(positional[len(positional) - len(given) :], given, strict=True)),
        **(function.__kwdefaults__ or {}),
    }


def closure(function: types.FunctionType) -> dict[str, Any]:
    """Return the values that a function closes over, by name; without those that are not assigned yet."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "__class__":
            continue
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def names_used(code: types.CodeType) -> set[str]:
    """Return the names that a function looks up, with those of the functions inside it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_used(constant)
    return names


def _is_library(module: str) -> bool:
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root in ("lightning_dtool", "torch", "torchvision", "lightning"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return isinstance(file, str) and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _lambda_source(function: Any) -> str | None:
    """Return the text of just one lambda; None if it cannot be told from its neighbours."""
    code = function.__code__
    text = "".join(inspect.findsource(function)[0])
    found = [node for node in _lambdas(text) if node.lineno == code.co_firstlineno]
    if len(found) > 1 and hasattr(code, "co_positions"):  # Python 3.11
        places = {(line, column) for line, _, column, _ in code.co_positions() if line and column}
        found = [node for node in found if any(_spans(node.body, place) for place in places)]
        # Of lambdas within lambdas the outer one spans the inner one's places, but has arguments of its own.
        found = [
            node for node in found if _argument_names(node) == list(code.co_varnames[: len(_argument_names(node))])
        ]
    if len(found) > 1:
        names = {*code.co_names, *code.co_freevars}
        found = [node for node in found if names == _free_names(node)]
    return ast.get_source_segment(text, found[0]) if len({ast.dump(node) for node in found}) == 1 else None


@functools.lru_cache(maxsize=4)
def _lambdas(text: str) -> tuple[ast.Lambda, ...]:
    return tuple(node for node in ast.walk(parse(text)) if isinstance(node, ast.Lambda))


def _spans(node: ast.expr, place: tuple[int, int]) -> bool:
    end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
    return (node.lineno, node.col_offset) <= place < end


def _argument_names(node: ast.Lambda) -> list[str]:
    given = node.args
    variadic = [each for each in (given.vararg, given.kwarg) if each is not None]
    return [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, *variadic)]


def _free_names(node: ast.Lambda) -> set[str]:
    names = {each.id for each in ast.walk(node.body) if isinstance(each, ast.Name)}
    names |= {each.attr for each in ast.walk(node.body) if isinstance(each, ast.Attribute)}
    return names - set(_argument_names(node))


def _hash_of_code(code: types.CodeType) -> "hashlib._Hash":
    plain = [repr(each) for each in code.co_consts if isinstance(each, bool | int | float | str | bytes | None)]
    hasher = hashlib.sha256(json.dumps([code.co_code.hex(), plain, code.co_names, code.co_varnames]).encode())
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            hasher.update(_hash_of_code(each).digest())
    return hasher
