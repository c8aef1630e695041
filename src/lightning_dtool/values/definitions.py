"""Names, sources and other properties that identify functions and classes.

All of them are the same in every process: they contain no memory addresses and do not depend on the order of a hash
table.
"""

import ast
import contextlib
import functools
import hashlib
import inspect
import json
import linecache
import re
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

from lightning_dtool.record import as_text
from lightning_dtool.values.parsing import parse, retried

MAX_REPR = 1000
"""Maximum number of characters of a repr that are recorded."""

_ADDRESS = re.compile(r"(?<=\bat )0x[0-9A-Fa-f]+|\b0x[0-9A-Fa-f]{7,}")


def class_path(obj: object) -> str:
    """Return `module:qualname` of a class or a function, or of the class of any other object.

    >>> import torch
    >>> class_path(torch.nn.Linear)
    'torch.nn.modules.linear:Linear'
    """
    # Not `hasattr(obj, "__qualname__")`: an object with its own `__getattr__` may claim to have any attribute.
    named = obj if isinstance(obj, type) or inspect.isroutine(obj) else type(obj)
    return as_text(
        f"{getattr(named, '__module__', None) or 'builtins'}:{getattr(named, '__qualname__', type(named).__qualname__)}"
    )


def without_addresses(text: str) -> str:
    """Return a repr without memory addresses, which differ between processes.

    >>> without_addresses("<Crop object at 0x7f3a5c1d2e80>")
    '<Crop object at 0x…>'
    """
    return _ADDRESS.sub("0x…", text)


def shortened(text: str) -> str:
    """Return a text, cut after `MAX_REPR` characters. A text that was cut ends with its full length."""
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}… ({len(text)} characters)"


def short_repr(value: Any) -> str:
    """Return the repr of a value without memory addresses, cut after `MAX_REPR` characters.

    >>> short_repr(object())
    '<object object at 0x…>'
    """
    try:
        text = str(repr(value))
    except Exception as error:  # a user's __repr__ may raise anything
        return f"<repr failed: {type(error).__name__}>"
    return shortened(as_text(without_addresses(text)))


def source_of(obj: Any) -> str | None:
    """Return the source code of a function or a class. None if it is built in or was typed at a prompt.

    For a lambda, this is the text of the lambda alone. Before Python 3.11, if its line has several lambdas, it is the
    whole line.
    """
    try:
        if getattr(obj, "__name__", None) == "<lambda>" and (segment := _lambda_source(obj)) is not None:
            return segment
        return textwrap.dedent(_text_of(obj))
    except Exception:  # OSError, TypeError, or any error of the tokenizer if the file has changed since the import
        return None


def source_digest(cls: type) -> str | None:
    """Return the SHA-256 of the source code of a class. None if `source_of` returns None."""
    try:
        return hashlib.sha256(_text_of(cls).encode("utf-8", "surrogatepass")).hexdigest()
    except Exception:  # as in `source_of`
        return None


def _text_of(obj: Any) -> str:
    try:
        return retried(lambda: inspect.getsource(obj))  # for a class, Python parses the file
    except (OSError, TypeError):
        text = _class_of_a_cell(obj) if isinstance(obj, type) else None
        if text is None:
            raise
        return text


def _class_of_a_cell(cls: type) -> str | None:
    """Return the source of a class of a notebook, whose module has no file: Python finds only that of its methods."""
    functions = [inspect.unwrap(value) for value in vars(cls).values() if inspect.isfunction(value)]
    for code in (function.__code__ for function in functions if function.__module__ == cls.__module__):
        text = "".join(linecache.getlines(code.co_filename))
        found = [node for node in _classes(text, cls.__qualname__) if _is_in(code.co_firstlineno, node)]
        if len(found) == 1:
            return _lines_of(text, found[0])
    # Without methods, the latest cell that defines a class of this name has made it.
    for cell in reversed(getattr(sys.modules.get(cls.__module__), "In", [])):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            found = _classes(str(cell), cls.__qualname__)
            if found:
                return _lines_of(str(cell), found[-1])
    return None


def _classes(text: str, qualname: str) -> list[ast.ClassDef]:
    """Return the definitions of a class that is nested in other classes at most."""
    inside: list[ast.AST] = [parse(text)]
    for name in qualname.split("."):
        nodes = [node for outer in inside for node in ast.walk(outer) if isinstance(node, ast.ClassDef)]
        inside = [node for node in nodes if node.name == name]
    return [node for node in inside if isinstance(node, ast.ClassDef)]


def _is_in(line: int, node: ast.ClassDef) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _lines_of(text: str, node: ast.ClassDef) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno]) + "\n"


def is_users(obj: Any) -> bool:
    """Return whether a function or a class belongs to the user, so that no package version identifies its code."""
    module = getattr(obj, "__module__", None)
    if isinstance(obj, types.FunctionType) and module in (None, "builtins"):  # made by `exec`
        return True
    return isinstance(module, str) and not is_library(module)


def is_one_lambda(source: str) -> bool:
    """Return whether a source is exactly one lambda, so that it identifies one function."""
    try:
        return isinstance(parse(source.strip(), mode="eval").body, ast.Lambda)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def digest_of_code(code: types.CodeType) -> str:
    """Return a digest of bytecode, to distinguish lambdas on one line. It depends on the version of Python."""
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
    """Return the values that a function closes over, by name. Variables without a value yet are left out."""
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
    """Return the names that a function and the functions inside it look up."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_used(constant)
    return names


def is_library(module: str) -> bool:
    """Return whether a module belongs to Python, or to an installed package whose version identifies its code."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root in ("lightning_dtool", "torch", "torchvision", "lightning"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return isinstance(file, str) and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _lambda_source(function: Any) -> str | None:
    """Return the text of one lambda. None if it cannot be distinguished from others on its line."""
    code = function.__code__
    text = "".join(inspect.findsource(function)[0])
    found = [node for node in _lambdas(text) if node.lineno == code.co_firstlineno]
    if len(found) > 1 and hasattr(code, "co_positions"):  # Python 3.11
        places = {(line, column) for line, _, column, _ in code.co_positions() if line and column}
        found = [node for node in found if any(_spans(node.body, place) for place in places)]
        # An outer lambda also spans the places of an inner one. Their argument names distinguish them.
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
