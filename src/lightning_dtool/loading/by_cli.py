"""Modules that LightningCLI made. Their hyperparameters may name classes and functions to import and call."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from lightning_dtool.errors import ModuleLoadError, UnsafeCheckpointError
from lightning_dtool.loading.configured import NotPlainError, hints, plain
from lightning_dtool.loading.messages import MAX_NAMED, listed
from lightning_dtool.record import Provenance

INSTANTIATOR = "_instantiator"
"""The hyperparameter that names the function that made a module."""

CLASS_PATH = "_class_path"
"""The hyperparameter that names the class of a module."""

CLI_KEYS = (INSTANTIATOR, CLASS_PATH)
"""What LightningCLI adds to the hyperparameters."""

_INSTANTIATORS = ("lightning.pytorch.cli.instantiate_module",)
"""What LightningCLI saves as the function. A checkpoint could name any other function."""


def is_made_by_cli(record: Provenance) -> bool:
    """Return whether LightningCLI made the module, according to the record of its training.

    Args:
        record: The record.
    """
    return (
        record.trainer is not None
        and record.trainer.config is not None
        and record.trainer.config.kind == "LightningCLI"
    )


def instantiated(cls: type[LightningModule], arguments: dict[str, Any], uri: str) -> LightningModule:
    """Make a module as LightningCLI does. What the arguments name is imported and called.

    Args:
        cls: The class.
        arguments: The arguments as in a configuration file.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If the function or the class is another one than LightningCLI saves.
    """
    _check_instantiator(arguments.pop(INSTANTIATOR, None), uri)
    if named_subclass(cls, arguments.get(CLASS_PATH), uri) is cls:
        # The class itself. Under the name of the training it may not be here: a script was `__main__` then.
        arguments.pop(CLASS_PATH, None)
    from lightning.pytorch.cli import instantiate_module

    return instantiate_module(cls, arguments)


def plain_arguments(
    cls: type[LightningModule], saved: Mapping[Any, Any], given: Mapping[str, Any], uri: str
) -> dict[Any, Any]:
    """Return hyperparameters of LightningCLI as arguments of the constructor. Nothing that they name is imported.

    Args:
        cls: The class.
        saved: The saved hyperparameters, as in a configuration file.
        given: The arguments that replace some of them.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If objects would have to be made, whose classes or functions they name.
        ModuleLoadError: If they name another function that makes the module than LightningCLI's.
    """
    _check_instantiator(saved.get(INSTANTIATOR), uri)
    types = hints(cls)
    arguments = {}
    found: dict[str, str] = {}
    for key, value in saved.items():
        if key in given or key in CLI_KEYS:
            continue
        try:
            arguments[key] = plain(value, types.get(key, object))
        except NotPlainError as error:
            found[f"{key}{error.place}"] = error.name
    if found:
        named = listed([f"{place} ({name})" for place, name in found.items()])
        names = dict.fromkeys(re.split(r"[.\[]", place)[0] for place in found)
        example = ", ".join(f"{name}=..." for name in list(names)[:MAX_NAMED])
        raise UnsafeCheckpointError(
            f"its hyperparameters are those of LightningCLI, which would make objects from what they name: {named}."
            f" Pass the objects: load_module({example}). Or, if you trust the origin of the checkpoint, and its record"
            " says that LightningCLI made the module: load_module(trust_source=True).",
            uri=uri,
        )
    return arguments


def named_subclass(cls: type[LightningModule], class_path: Any, uri: str) -> type[LightningModule]:
    """Return the class that hyperparameters name: the one that is given, or a loaded subclass of it.

    Args:
        cls: The class that is given.
        class_path: What they name; None for nothing.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If it is neither.
    """
    module_path, _, name = str(class_path).rpartition(".")
    if class_path is None or name == cls.__name__:
        return cls
    found = vars(sys.modules[module_path]).get(name) if module_path in sys.modules else None
    if not isinstance(found, type) or not issubclass(found, cls):
        raise ModuleLoadError(
            f"the checkpoint names the class {class_path!r}, which is not an imported subclass of {cls.__qualname__}."
            " Import the module that defines it first.",
            uri=uri,
        )
    return found


def _check_instantiator(instantiator: Any, uri: str) -> None:
    if instantiator not in _INSTANTIATORS:
        raise ModuleLoadError(
            f"the checkpoint names {instantiator!r} as the function that makes the module, expected LightningCLI's"
            f" {_INSTANTIATORS[0]}. Pass the arguments of the constructor and _instantiator=None to load_module.",
            uri=uri,
        )
