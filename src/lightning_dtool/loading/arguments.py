"""The arguments of a module's constructor, from the record of its training."""

import inspect
import warnings
from collections.abc import Collection
from typing import Any, NamedTuple

from lightning_dtool.errors import ConfigurationError, ProvenanceWarning
from lightning_dtool.record import Provenance
from lightning_dtool.values.reading import decode
from lightning_dtool.values.writing import encode

_PLACE = "model.arguments"


class Recorded(NamedTuple):
    """What the record says about the arguments that were not saved as hyperparameters.

    Attributes:
        values: The arguments that can be built from the record, by name.
        missing: The names of those that cannot be built from it, and are not what the constructor makes by default.
    """

    values: dict[str, Any]
    missing: list[str]


def recorded_arguments(
    record: Provenance, cls: type, known: Collection[str] = (), trust_source: bool = False
) -> Recorded:
    """Return the recorded arguments of a class's constructor.

    Args:
        record: The record.
        cls: The class.
        known: The names of the arguments that need no value from the record: those of saved hyperparameters, and those
            that the user passes.
        trust_source: Whether to import and call what the record names. Without it, only plain values are built.

    Example:
        ```python
        values, missing = recorded_arguments(checkpoint.record, LeafNet, known=["lr"])
        ```
    """
    gaps = {gap.fact for gap in record.gaps}
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    values: dict[str, Any] = {}
    missing = []
    for name, value in (record.model.arguments or {}).items():
        if name in known or not (takes_any or name in parameters):
            continue
        place = f"{_PLACE}.{name}"
        is_plain, built = _built(name, value, trust_source=False)
        # A plain value has a gap only if a credential was redacted in it. The gap of an entry is below this place.
        # Values of `*args` have no names by which they could be passed.
        is_variadic = name.startswith("*")
        usable = is_plain and place not in gaps and not is_variadic
        if trust_source and not is_plain:
            usable, built = _built(name, value, trust_source=True)
        if usable and not any(fact.startswith((f"{place}.", f"{place}[")) for fact in gaps):
            values[name] = built
            continue
        # What a base class saved of `*args` is known by other names, and has no gap. The constructor makes its defaults
        # again.
        is_lost = place in gaps if is_variadic else not _is_default(parameters.get(name), value)
        if is_lost:
            missing.append(name)
    return Recorded(values, missing)


def _is_default(parameter: inspect.Parameter | None, value: Any) -> bool:
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return False
    return bool(encode(parameter.default) == value)


def is_namespace(record: Provenance, name: object) -> bool:
    """Return whether an argument of the constructor was an `argparse.Namespace`, of which Lightning saves a mapping.

    Args:
        record: The record.
        name: The name of the argument.
    """
    value = (record.model.arguments or {}).get(name) if isinstance(name, str) else None
    return isinstance(value, dict) and value.get("type") == "argparse:Namespace"


def warn_of_defaults(missing: Collection[str], cls: type, uri: str, stacklevel: int) -> None:
    """Warn of arguments that were passed in the training and now have the defaults of the constructor.

    Args:
        missing: The names from `recorded_arguments`.
        cls: The class.
        uri: The dataset's URI.
        stacklevel: As in `warnings.warn`, for the caller of this function.
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    # Without a required argument, the constructor fails. One of `**kwargs` is never required.
    names = [
        name
        for name in missing
        if not name.startswith("*")
        and (name not in parameters or parameters[name].default is not inspect.Parameter.empty)
    ]
    if names:
        warnings.warn(
            f"{uri}: {cls.__qualname__} is made with its defaults for {', '.join(names)}. The training passed other"
            " objects, which cannot be built from the record. Pass them:"
            f" load_module({', '.join(f'{name}=...' for name in names)}).",
            ProvenanceWarning,
            stacklevel=stacklevel + 1,
        )


def _built(name: str, value: Any, trust_source: bool) -> tuple[bool, Any]:
    try:
        return True, decode(value, argument=name, trust_source=trust_source)
    except ConfigurationError:
        return False, None
