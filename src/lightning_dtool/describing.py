"""Callables as structure, so that a record can hold a transform and build it again.

A description is strict JSON: `{"callable": "module:qualname"}` for a function or a class, `{"class":
"module:qualname", "init": {...}}` for an object that can be built from its init parameters. What cannot be
described whole says so (`"unknown"`, `"repr"`) and is never built again by guesswork.
"""

import enum
import inspect
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch

from lightning_dtool.errors import ConfigurationError

_SAFE_PACKAGE = "torchvision.transforms"


def describe(value: Any) -> Any:
    """Describe a value as strict JSON.

    Args:
        value: A plain value, a function, a class, or an object that keeps its init parameters as
            attributes of the same names, as transforms do.

    Returns:
        The value itself if it is plain (tuples and sets become lists, paths become strings), else a dict.

    Example:
        >>> describe(torch.nn.Dropout(0.25))
        {'class': 'torch.nn.modules.dropout:Dropout', 'init': {'p': 0.25, 'inplace': False}}
    """
    if isinstance(value, enum.Enum):
        return {"enum": _path(type(value)), "name": value.name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, (list, tuple)):
        return [describe(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted((describe(entry) for entry in value), key=repr)
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {"dict": {key: describe(entry) for key, entry in value.items()}}
        return {"repr": repr(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, partial):
        init = {"func": value.func, "args": value.args, "keywords": dict(value.keywords)}
        return {"class": "functools:partial", "init": {name: describe(entry) for name, entry in init.items()}}
    if isinstance(value, type) or inspect.isroutine(value):
        # A method belongs to an object, which its name alone does not bring back.
        owner = getattr(value, "__self__", None)
        bound = owner is not None and not inspect.ismodule(owner)
        return {"callable": _path(value), **({"unknown": ["__self__"]} if bound else {})}
    if callable(value):
        return _described_object(value)
    return {"repr": repr(value)}


def rebuild(description: Any, *, argument: str, trust_source: bool = False) -> Any:
    """Build a value from its description.

    Args:
        description: What `describe` returned. It may come from a stranger's record: without
            `trust_source` nothing is imported but transforms of torchvision.
        argument: The argument that the value is for, for messages.
        trust_source: Whether any function and class that the description names may be imported and called.

    Returns:
        A value whose description is the same.

    Raises:
        ConfigurationError: If the value cannot be built, may not be, or comes out different.

    Example:
        >>> rebuild({"dict": {"size": [32, 32]}}, argument="x")
        {'size': [32, 32]}
    """
    try:
        value = _built(description, trust_source)
    except _NotTrustedError as error:
        raise ConfigurationError(
            f"{argument} is {error} in the record, which is only imported if you trust its author: pass"
            f" trust_source=True, or pass {argument}=... yourself."
        ) from None
    except Exception as error:
        raise ConfigurationError(
            f"{argument} cannot be built again from its record {description!r}: {type(error).__name__}: {error}."
            f" Pass {argument}=... yourself."
        ) from error
    if describe(value) != description:
        raise ConfigurationError(
            f"{argument} came out as {describe(value)!r} and not as recorded, {description!r}: the library that it"
            f" is from has changed. Pass {argument}=... yourself."
        )
    return value


class _NotTrustedError(Exception):
    """Names what would have to be imported."""


def _described_object(value: Any) -> dict[str, Any]:
    init: dict[str, Any] = {}
    unknown = []
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        if name == "self":
            continue
        found = next((vars(value)[key] for key in (name, f"_{name}") if key in vars(value)), _ABSENT)
        if found is _ABSENT and isinstance(value, torch.nn.Module):
            found = value._modules.get(name, _ABSENT)
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variadic or found is _ABSENT:
            # object.__init__ has *args and **kwargs, and takes none.
            if type(value).__init__ is not object.__init__:
                unknown.append(name)
        else:
            init[name] = describe(found)
    return {"class": _path(type(value)), "init": init, **({"unknown": unknown} if unknown else {})}


_ABSENT = object()


def _built(description: Any, trust: bool) -> Any:
    if isinstance(description, list):
        return [_built(entry, trust) for entry in description]
    if not isinstance(description, dict):
        return description
    match description:
        case {"repr": text} | {"unknown": text}:
            raise ValueError(f"the record does not say all about it ({text})")
        case {"float": text}:
            return float(text)
        case {"dict": entries}:
            return {key: _built(entry, trust) for key, entry in entries.items()}
        case {"dtype": name} if isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        case {"enum": path, "name": name}:
            return _imported(path, trust)[name]
        case {"class": "functools:partial", "init": {"func": func, "args": args, "keywords": keywords}} if trust:
            return partial(_built(func, trust), *_built(args, trust), **_built(keywords, trust))
        case {"class": path, "init": init}:
            return _imported(path, trust)(**{name: _built(entry, trust) for name, entry in init.items()})
        case {"callable": path}:
            return _imported(path, trust)
    raise ValueError("it is no description that this version understands")


def _imported(path: str, trust: bool) -> Any:
    module, _, qualname = path.partition(":")
    is_torchvision = module == _SAFE_PACKAGE or module.startswith(_SAFE_PACKAGE + ".")
    if not trust and not (is_torchvision and qualname.isidentifier()):
        raise _NotTrustedError(path)
    if "<" in qualname:
        raise ValueError(f"{qualname} has no name by which it can be imported")
    found: Any = import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    # What a module of torchvision itself imports (os, functions of other packages) is not torchvision's.
    if not trust and not (isinstance(found, type) and found.__module__.startswith(_SAFE_PACKAGE)):
        raise _NotTrustedError(path)
    return found


def _path(value: Callable[..., Any]) -> str:
    return f"{getattr(value, '__module__', None) or 'builtins'}:{getattr(value, '__qualname__', repr(value))}"
