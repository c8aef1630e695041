"""The arguments with which the LightningModule and the LightningDataModule were made."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_dtool.capture.hyperparameters import current_hyperparameters
from lightning_dtool.errors import ConfigurationError
from lightning_dtool.record import Gaps
from lightning_dtool.redaction.record import redact_value
from lightning_dtool.values.reading import decode, unreadable
from lightning_dtool.values.writing import encode
from lightning_dtool.watch.construction import POSITIONAL, arguments_of

SAVE = "call save_hyperparameters() in __init__"
"""The remedy for arguments that are not recorded."""

_BUILD = f"pass plain values and build the object in __init__, or {SAVE}"

_MAX_NAMED = 10
"""Maximum number of arguments that a gap names."""


def capture_arguments(module: Any, gaps: Gaps, rebuild: str) -> dict[str, Any] | None:
    """Return the arguments of `__init__`, as they were when the module was made.

    An argument that is a saved hyperparameter needs no gap: the checkpoint contains its value.

    Args:
        module: A LightningModule or LightningDataModule.
        gaps: Collector at the place of the arguments in the record. Receives a gap for each argument from which the
            module cannot be built again, or one gap if the arguments are not known.
        rebuild: The name of the function that builds the module again, for the gaps.

    Returns:
        The arguments by name as strict JSON, without credentials. None if they are not known.
    """
    saved = saved_names(module)
    found = arguments_of(module)
    if found is None:
        unsaved = [name for name in _parameters(type(module), bool(saved)) if name not in saved]
        if unsaved:
            shown = ", ".join(unsaved[:_MAX_NAMED])
            gaps.add(
                f"the values of {shown} are not known: the {type(module).__name__} was made before"
                " DtoolProvenanceCallback was imported or was unpickled, or its class has a __new__ of its own",
                f"import DtoolProvenanceCallback before the module is made, or {SAVE}",
            )
        return None
    arguments = {}
    for name, value in found.encoded.items():
        known = name in saved or (name == POSITIONAL and _are_saved(module, value))
        at_argument = Gaps() if known else gaps.at(name)
        if not known and name in found.given:
            _foretell(name, value, rebuild, at_argument)
        arguments[name] = redact_value(value, at_argument, name)
    return arguments


def saved_names(module: Any) -> set[str]:
    """Return the names of the arguments that a module has saved as hyperparameters.

    Args:
        module: A LightningModule or LightningDataModule.
    """
    # A class that saves one mapping, as in `save_hyperparameters(config)`, gets it back as this argument.
    whole = getattr(module, "_hparams_name", None)
    return {*current_hyperparameters(module), *([] if whole in (None, "kwargs") else [whole])}


def _foretell(name: str, value: Any, rebuild: str, gaps: Gaps) -> None:
    """Add a gap if a module cannot be built again from the recorded value of an argument."""
    if name == POSITIONAL:
        reason = f"{rebuild} passes arguments by name, and __init__ takes {len(value)} values as *args"
        gaps.add(reason, f"name these arguments in __init__, or {SAVE}")
    elif reason := _obstacle(name, value):
        gaps.add(f"{rebuild} needs {name}=…: {reason}", _BUILD)


def _obstacle(name: str, value: Any) -> str:
    """Return the reason why a value cannot be built from a record that is not trusted. Empty if it can."""
    described = value.get("name", value.get("type")) if isinstance(value, Mapping) else None
    reason = unreadable(value)
    if reason is not None:
        return f"only the structure of a {described} is recorded" if described else reason
    try:
        decode(value, argument=name)
    except ConfigurationError:
        return f"only plain values are built from a record, and this is {described or 'an object'}"
    return ""


def _are_saved(module: Any, values: list[Any]) -> bool:
    """Return whether values passed as `*args` are hyperparameters that a base class saved under its own names."""
    for base in type(module).__mro__[1:]:
        if "__init__" in vars(base):
            names = [parameter.name for parameter in _own_parameters(base) if parameter.kind in _BY_POSITION]
            saved = module.hparams_initial
            return len(names) >= len(values) and all(
                name in saved and encode(saved[name]) == value for name, value in zip(names, values, strict=False)
            )
    return False


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(cls: type, is_saved: bool) -> Iterator[str]:
    """Yield the names of the parameters of a class.

    Those of `*args` and `**kwargs` are not known; if the class saves hyperparameters, it saves these, too.
    """
    for parameter in _own_parameters(cls):
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            if not is_saved:
                yield f"{'*' if parameter.kind is parameter.VAR_POSITIONAL else '**'}{parameter.name}"
        else:
            yield parameter.name


def _own_parameters(cls: Any) -> list[inspect.Parameter]:
    """Return the parameters of a class's `__init__` without `self`. Lightning's own uses none."""
    if getattr(cls.__init__, "__module__", "").startswith(("lightning.", "pytorch_lightning.")):
        return []
    return list(inspect.signature(cls.__init__).parameters.values())[1:]
