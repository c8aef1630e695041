"""Values from their descriptions: what `describing` wrote, built again, and never by guesswork."""

import base64
import json
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.values.definitions import shortened
from lightning_dtool.values.describing import describe

_SAFE_PACKAGE = "torchvision.transforms"


def unbuildable(description: Any) -> str | None:
    """Say why nothing can be built from a description; None if something can.

    Args:
        description: What `describe` returned.

    Example:
        >>> unbuildable(describe([1, object()]))
        'builtins:object is known by its repr only'
    """
    if isinstance(description, list):
        return next(filter(None, map(unbuildable, description)), None)
    if not isinstance(description, dict):
        return None
    name = description.get("class") or description.get("callable") or "a value"
    if "repr" in description:
        return f"{name} is known by its repr only"
    if "unknown" in description:
        return f"{name} does not keep all of: {', '.join(map(str, description['unknown']))}"
    if "<" in str(description.get("callable", "")) or "<locals>" in str(description.get("class", "")):
        return f"{name} has no name by which it can be imported"
    return next(filter(None, map(unbuildable, description.values())), None)


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
            f"{argument} cannot be built again from its record {shortened(repr(description))}: {type(error).__name__}:"
            f" {error}. Pass {argument}=... yourself."
        ) from error
    if (found := describe(value)) != description:
        raise ConfigurationError(
            f"{argument} came out as {shortened(repr(found))} and not as recorded, {shortened(repr(description))}:"
            f" the library that it is from has changed. Pass {argument}=... yourself."
        )
    return value


class _NotTrustedError(Exception):
    """Names what would have to be imported."""


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
        case {"int": text}:
            return int(text, 16)
        case {"str": text} if isinstance(text := json.loads(text), str):
            return text
        case {"bytes": text}:
            return base64.b64decode(text)
        case {"dict": entries}:
            return {key: _built(entry, trust) for key, entry in entries.items()}
        case {"items": pairs}:
            return {_built(key, trust): _built(entry, trust) for key, entry in pairs}
        case {"tensor": values, "dtype": name} if isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return torch.tensor(_built(values, trust), dtype=dtype)
        case {"array": values, "dtype": name} if (dtype := np.dtype(name)).kind in "biuf":
            return np.array(_built(values, trust), dtype=dtype)
        case {"scalar": value, "dtype": name} if (dtype := np.dtype(name)).kind in "biuf":
            return dtype.type(_built(value, trust))
        case {"device": name}:
            return torch.device(name)
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
