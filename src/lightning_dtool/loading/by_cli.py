"""Modules that LightningCLI made. Their hyperparameters may name classes and functions to import and call."""

import importlib.util
import inspect
import pathlib
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_dtool.errors import ModuleLoadError, UnsafeCheckpointError
from lightning_dtool.loading.messages import MAX_NAMED, listed

INSTANTIATOR = "_instantiator"
"""The hyperparameter that names the function that made a module."""

CLASS_PATH = "_class_path"
"""The hyperparameter that names the class of a module."""

_INSTANTIATORS = ("lightning.pytorch.cli.instantiate_module",)
"""What LightningCLI saves as the function. A checkpoint could name any other function."""


def instantiated(cls: type[LightningModule], instantiator: Any, arguments: dict[str, Any], uri: str) -> LightningModule:
    """Make a module as LightningCLI does.

    Args:
        cls: The class.
        instantiator: The saved name of the function.
        arguments: The arguments as in a configuration file. What they name is imported and called.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If the function or the class is another one than LightningCLI saves.
    """
    _check_instantiator(instantiator, uri)
    class_path = arguments.get(CLASS_PATH)
    if str(class_path).rpartition(".")[2] == cls.__name__:
        # The class itself. Under the name of the training it may not be here: a script was `__main__` then.
        del arguments[CLASS_PATH]
    elif class_path is not None:
        module_path, _, name = str(class_path).rpartition(".")
        found = getattr(sys.modules.get(module_path), name, None)
        if not isinstance(found, type) or not issubclass(found, cls):
            raise ModuleLoadError(
                f"the checkpoint names the class {class_path!r}, which is not an imported subclass of"
                f" {cls.__qualname__}. Import the module that defines it first.",
                uri=uri,
            )
    from lightning.pytorch.cli import instantiate_module

    return instantiate_module(cls, arguments)


def refuse_names(cls: type[LightningModule], saved: Mapping[Any, Any], given: Mapping[str, Any], uri: str) -> None:
    """Raise an error if saved hyperparameters name what LightningCLI would import and call. Those of torch.nn may.

    Args:
        cls: The class.
        saved: The saved hyperparameters.
        given: The arguments that replace some of them.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If they name other classes or functions.
        ModuleLoadError: If they name another function that makes the module than LightningCLI's.
    """
    if given.get(INSTANTIATOR, saved.get(INSTANTIATOR)) is None:
        return  # all values are passed as they are
    _check_instantiator(given.get(INSTANTIATOR, saved.get(INSTANTIATOR)), uri)
    hints = _hints(cls)
    found = {
        f"{key}{place}": name
        for key, value in saved.items()
        if key not in given and key not in (INSTANTIATOR, CLASS_PATH)
        for place, name in _names(value, is_plain=_is_plain(hints.get(key, object)))
        if not _is_of_torch(name)
    }
    if found:
        named = listed([f"{place} ({name})" for place, name in found.items()])
        arguments = dict.fromkeys(re.split(r"[.\[]", place)[0] for place in found)
        example = ", ".join(f"{name}=..." for name in list(arguments)[:MAX_NAMED])
        raise UnsafeCheckpointError(
            f"its hyperparameters name classes or functions that LightningCLI imports and calls: {named}. Pass the"
            f" objects: load_module({example}). Or, if you trust the origin of the checkpoint:"
            " load_module(trust_source=True).",
            uri=uri,
        )


def _check_instantiator(instantiator: Any, uri: str) -> None:
    if instantiator not in _INSTANTIATORS:
        raise ModuleLoadError(
            f"the checkpoint names {instantiator!r} as the function that makes the module, expected LightningCLI's"
            f" {_INSTANTIATORS[0]}. Pass the arguments of the constructor and _instantiator=None to load_module.",
            uri=uri,
        )


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def _names(value: Any, is_plain: bool) -> Iterator[tuple[str, str]]:
    """Yield the names of classes and functions in a value, with their places in it."""
    seen: set[int] = set()
    pending = [("", value)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, str) and not is_plain and _DOTTED.fullmatch(item) and _exists(item.partition(".")[0]):
            yield place, item
        elif isinstance(item, Mapping) and id(item) not in seen:
            seen.add(id(item))
            if "class_path" in item:
                yield place, str(item["class_path"])
            pending += [(f"{place}.{key}", inner) for key, inner in item.items() if key != "class_path"]
        elif isinstance(item, list | tuple | set) and id(item) not in seen:
            seen.add(id(item))
            pending += [(f"{place}[{index}]", inner) for index, inner in enumerate(item)]


def _exists(package: str) -> bool:
    try:
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _is_of_torch(name: str) -> bool:
    """Return True for a module class of torch.nn, and for a function of torch.nn.functional."""
    place, _, attribute = name.rpartition(".")
    if place not in sys.modules or not f"{place}.".startswith("torch.nn."):
        return False
    found = vars(sys.modules[place]).get(attribute)
    if isinstance(found, type):
        return issubclass(found, torch.nn.Module) and found.__module__.startswith("torch.nn.modules.")
    return place == "torch.nn.functional" and callable(found)


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of the constructor's arguments; `object` for a type that cannot be found out."""
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    try:
        known = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except Exception:  # an annotation may be anything
        return dict.fromkeys(parameters, object)
    return {
        name: known.get(name, Any)
        for name, parameter in parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


_PLAIN = (Any, str, int, float, bool, complex, bytes, type(None), pathlib.Path, dict, list, tuple, set)


def _is_plain(hint: Any) -> bool:
    """Return True if texts for an argument of this type are texts, and not the names of classes or functions."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, dict, list, tuple, set):
        return all(inner is ... or _is_plain(inner) for inner in typing.get_args(hint))
    return any(hint is plain for plain in _PLAIN)
