"""The values around code: attributes of classes, defaults of arguments, and variables that functions use."""

import argparse
import functools
import inspect
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

from lightning_dtool.values.attributes import attributes_of, is_constant
from lightning_dtool.values.definitions import closure, defaults, is_users, names_used

_MAX_CODE = 200
"""Maximum number of functions and classes that are looked at."""

NOT_CALLED_LATER = frozenset(
    {"__init__", "__new__", "__del__", "__getstate__", "__setstate__", "__reduce__", "__repr__", "__str__"}
)
"""Methods whose effects are in an object's attributes, or that have no part in what it does."""


def values_around(*code: Any, kept: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Return the values that determine what functions and classes of the user do, beside their source, by name.

    These are attributes of a class and of its bases (`Crop.size`), defaults of arguments (`crop.size`), variables of
    modules (`SIZE`), and those of enclosing functions. Functions and classes that the code uses by name are followed.
    Paths of files and folders are left out, as they differ between machines.

    Args:
        code: Functions, methods and classes. Others, and those of libraries, are passed over.
        kept: Whether to return a value; by default, plain values. Of a configuration, its values are returned.

    Returns:
        The values, sorted by name. No code of the user runs.
    """
    wanted = kept or is_constant
    found: dict[str, Any] = {}
    waiting = list(reversed(code))
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_CODE:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        around = _around_class(value) if isinstance(value, type) else _around_function(value)
        for name, entry, module in around:
            if _is_code(entry):
                waiting.append(entry)
                continue
            values = {name: entry}
            if is_setting(entry) and not is_constant(entry):  # a configuration: its values are listed one by one
                values = {f"{name}.{key}": value for key, value in (attributes_of(entry) or {}).items()}
                waiting.append(type(entry))
            for key, value in values.items():
                if wanted(value) and not is_path_here(value):
                    found[key if key not in found or found[key] is value else f"{module}.{key}"] = value
    return dict(sorted(found.items()))


def is_setting(value: Any) -> bool:
    """Return whether a value is plain, or a configuration: a namespace or an object that holds only plain values."""
    if is_constant(value):
        return True
    if isinstance(value, type | types.ModuleType) or callable(value):
        return False
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        return True
    attributes = attributes_of(value) if is_users(type(value)) else None
    return bool(attributes) and all(
        is_constant(entry) or isinstance(entry, os.PathLike) for entry in (attributes or {}).values()
    )


def _is_code(value: Any) -> bool:
    return isinstance(value, type) or inspect.isroutine(value) or isinstance(value, _WRAPPERS)


_WRAPPERS = (property, staticmethod, classmethod, functools.partial, functools.cached_property, types.MethodType)


def _around_class(cls: type) -> Iterator[tuple[str, Any, str]]:
    for each in filter(is_users, cls.__mro__):
        for name, entry in vars(each).items():
            if name in NOT_CALLED_LATER or (name.startswith(("__", "_abc_")) and not _is_code(entry)):
                continue
            if isinstance(entry, type) and entry is not cls:
                continue  # a class inside it is looked at if a function uses it
            yield (name if _is_code(entry) else f"{each.__name__}.{name}"), entry, each.__module__


def _around_function(value: Any) -> Iterator[tuple[str, Any, str]]:
    for function in functions_of(value):
        module = str(function.__module__)
        for name, entry in defaults(function).items():
            yield f"{function.__name__}.{name}", entry, module
        for name, entry in closure(function).items():
            yield name, entry, module
        used = names_used(function.__code__)
        for name in sorted(name for name in used & function.__globals__.keys() if not name.startswith("__")):
            entry = function.__globals__[name]
            if isinstance(entry, types.ModuleType):
                if is_users(types.SimpleNamespace(__module__=entry.__name__)):
                    yield from _of_module(entry, used)
            else:
                yield name, entry, module


def _of_module(module: types.ModuleType, used: set[str]) -> Iterator[tuple[str, Any, str]]:
    for name in sorted(name for name in used & vars(module).keys() if not name.startswith("__")):
        yield f"{module.__name__}.{name}", vars(module)[name], module.__name__


def functions_of(value: Any) -> Iterator[types.FunctionType]:
    """Yield the functions of the user behind a method, a property, a decorated function or a partial function.

    Args:
        value: Any object.
    """
    for _ in range(_MAX_CODE):
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, types.MethodType | staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, functools.partial | functools.cached_property):
            value = value.func
        elif isinstance(value, functools._lru_cache_wrapper):
            value = value.__wrapped__
        else:
            break
    if isinstance(value, types.FunctionType):
        inner = inspect.unwrap(value)
        for function in (value, inner) if inner is not value else (value,):
            if isinstance(function, types.FunctionType) and is_users(function):
                yield function


def is_path_here(value: Any) -> bool:
    """Return whether a text is the absolute path of a file or a folder, which differs between machines and runs."""
    return isinstance(value, str) and len(value) < 1000 and os.path.isabs(value) and os.path.exists(value)
