"""Values read back from JSON: what `writing` wrote, and never by guesswork."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.values.definitions import shortened
from lightning_dtool.values.objects import EXTRAS
from lightning_dtool.values.registry import REGISTRY
from lightning_dtool.values.writing import encode

_SAFE_PACKAGE = "torchvision.transforms"


def unreadable(encoded: Any) -> str | None:
    """Return why a value cannot be read back; None if it can.

    Args:
        encoded: What `encode` returned.

    Example:
        >>> unreadable(encode([1, object()]))
        'builtins:object is known by its repr only'
    """
    if isinstance(encoded, list):
        return next(filter(None, map(unreadable, encoded)), None)
    if not isinstance(encoded, dict):
        return None
    if "type" in encoded and (reason := _lost(encoded)) is not None:
        return reason
    inner = (value for key, value in encoded.items() if "type" not in encoded or key not in EXTRAS)
    return next(filter(None, map(unreadable, inner)), None)


def _lost(content: Mapping[str, Any]) -> str | None:
    """Return what a value's own object lacks."""
    name = str(content.get("name", content["type"]))
    if "repr" in content:
        return f"{content['type']} is known by its repr only"
    if "missing" in content:
        return f"{name} does not keep all of: {', '.join(map(str, content['missing']))}"
    if "length" in content:
        return f"of its {content['length']} entries or characters only the first are recorded"
    if "sha256" in content:
        return f"{content['type']} is known by its hash only"
    if "albumentations" in content:
        return f"{content['type']} is described in the words of its own library"
    if "<" in name:
        return f"{name} has no name by which it can be imported"
    return None


def decode(encoded: Any, *, argument: str, trust_source: bool = False) -> Any:
    """Return the value that was written as JSON.

    Args:
        encoded: What `encode` returned. It may come from a stranger's record: without `trust_source` nothing is
            imported but transforms of torchvision.
        argument: The argument that the value is for. Errors name it.
        trust_source: Whether any function and class that is named may be imported and called.

    Returns:
        A value that `encode` writes in the same way.

    Raises:
        ConfigurationError: If the value cannot be read, may not be, or comes out different.

    Example:
        >>> decode({"size": {"type": "builtins:tuple", "value": [32, 32]}}, argument="x")
        {'size': (32, 32)}
    """
    try:
        value = Reader(trust_source).decode(encoded)
    except _NotTrustedError as error:
        raise ConfigurationError(
            f"{argument} is {error} in the record, which is only imported if you trust its author: pass"
            f" trust_source=True, or pass {argument}=... yourself."
        ) from None
    except Exception as error:
        raise ConfigurationError(
            f"{argument} cannot be built again from its record {shortened(repr(encoded))}: {type(error).__name__}:"
            f" {error}. Pass {argument}=... yourself."
        ) from error
    if (found := encode(value)) != _without_extras(encoded):
        raise ConfigurationError(
            f"{argument} came out as {shortened(repr(found))} and not as recorded, {shortened(repr(encoded))}:"
            f" the library that it is from has changed. Pass {argument}=... yourself."
        )
    return value


class _NotTrustedError(Exception):
    """Names what would have to be imported."""


class Reader:
    """One walk through JSON.

    Args:
        trust: Whether anything that is named may be imported and called.
    """

    def __init__(self, trust: bool) -> None:
        self._trust = trust

    def decode(self, encoded: Any) -> Any:
        """Return the value of JSON.

        Args:
            encoded: What `encode` returned, or a part of it.

        Raises:
            Exception: Of any kind, if it cannot be read.
        """
        if isinstance(encoded, list):
            return [self.decode(entry) for entry in encoded]
        if not isinstance(encoded, dict):
            return encoded
        if "type" not in encoded:
            return {key: self.decode(value) for key, value in encoded.items()}
        if (reason := _lost(encoded)) is not None:
            raise ValueError(reason)
        kind = REGISTRY.kind_named(encoded["type"])
        if kind is not None:
            return kind.read(encoded, self)
        cls = self.imported(encoded["type"])
        if not isinstance(cls, type):
            raise ValueError(f"{encoded['type']} is not a class")
        return REGISTRY.family_of(cls).read(cls, encoded, self)

    def demand_trust(self, name: str) -> None:
        """Refuse to go on with something that must not be called for a stranger.

        Args:
            name: What would be called. Errors name it.

        Raises:
            Exception: If the record is not trusted.
        """
        if not self._trust:
            raise _NotTrustedError(name)

    def imported(self, path: str) -> Any:
        """Return what a path names. Without trust that is a class of torchvision's transforms, or an error.

        Args:
            path: `module:qualname`.
        """
        module, _, qualname = path.partition(":")
        is_torchvision = module == _SAFE_PACKAGE or module.startswith(_SAFE_PACKAGE + ".")
        if not (is_torchvision and qualname.isidentifier()):
            self.demand_trust(path)
        if "<" in qualname:
            raise ValueError(f"{qualname} has no name by which it can be imported")
        found: Any = import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
        # What a module of torchvision itself imports (os, functions of other packages) is not torchvision's.
        if not (isinstance(found, type) and found.__module__.startswith(_SAFE_PACKAGE)):
            self.demand_trust(path)
        return found


def _without_extras(encoded: Any) -> Any:
    """Return what `encode` writes of what `encode_in_detail` wrote."""
    if isinstance(encoded, list):
        return list(map(_without_extras, encoded))
    if not isinstance(encoded, dict):
        return encoded
    return {key: _without_extras(value) for key, value in encoded.items() if "type" not in encoded or key not in EXTRAS}
