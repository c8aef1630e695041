"""A reader for the JSON that `writing` writes. It raises an error rather than guess a value."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.finding.module_files import NotFoundError, find
from lightning_dtool.finding.origins import is_installed
from lightning_dtool.values.definitions import shortened
from lightning_dtool.values.objects import EXTRAS
from lightning_dtool.values.registry import REGISTRY
from lightning_dtool.values.writing import encode

_SAFE_PACKAGE = "torchvision.transforms"


def unreadable(encoded: Any) -> str | None:
    """Return the reason why a value cannot be read back. None if it can.

    Args:
        encoded: The result of `encode`.

    Example:
        >>> unreadable(encode([1, object()]))
        'only the repr of a builtins:object is recorded'
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
    """Return the reason why an object cannot be read back, apart from the values inside it."""
    name = str(content.get("name", content["type"]))
    if "repr" in content:
        return f"only the repr of a {content['type']} is recorded"
    if "missing" in content:
        return f"{name} is recorded without {', '.join(map(str, content['missing']))}"
    if "length" in content:
        return f"not all of its {content['length']} entries or characters are recorded"
    if "sha256" in content:
        return f"only the hash of a {content['type']} is recorded"
    if "albumentations" in content:
        return f"a {content['type']} is recorded in the format of its own library"
    if "<" in name:
        return f"{name} cannot be imported by name"
    return None


def decode(encoded: Any, *, argument: str, trust_source: bool = False) -> Any:
    """Return the value that was written as JSON.

    Args:
        encoded: The result of `encode`. It may come from an untrusted record: without `trust_source`, only transforms
            of torchvision are imported.
        argument: Name of the argument that the value is for, used in errors.
        trust_source: Whether to import and call any function or class that the JSON names.

    Returns:
        A value that `encode` writes as the same JSON.

    Raises:
        ConfigurationError: If the value cannot be read, if reading it requires trust, or if it differs from the
            recorded one.

    Example:
        >>> decode({"size": {"type": "builtins:tuple", "value": [32, 32]}}, argument="x")
        {'size': (32, 32)}
    """
    try:
        value = Reader(trust_source).decode(encoded)
    except _NotTrustedError as error:
        raise ConfigurationError(
            f"{argument} is recorded as {error}, which is imported only if you trust the author of the record. Pass"
            f" trust_source=True, or pass {argument}=... yourself."
        ) from None
    except Exception as error:
        raise ConfigurationError(
            f"{argument} cannot be rebuilt from the recorded value {shortened(repr(encoded))}: {type(error).__name__}:"
            f" {error}. Pass {argument}=... yourself."
        ) from error
    if (found := encode(value)) != _without_extras(encoded):
        raise ConfigurationError(
            f"{argument} was rebuilt as {shortened(repr(found))}, but recorded as {shortened(repr(encoded))}:"
            f" its library may have changed. Pass {argument}=... yourself."
        )
    return value


class _NotTrustedError(Exception):
    """The record is not trusted. The argument names what it would import."""


class Reader:
    """A reader of recorded JSON.

    Args:
        trust: Whether to import and call any function or class that the JSON names.
    """

    def __init__(self, trust: bool) -> None:
        self._trust = trust

    def decode(self, encoded: Any) -> Any:
        """Return the value that was written as JSON.

        Args:
            encoded: The result of `encode`, or a part of it.

        Raises:
            Exception: Of any kind, if the value cannot be read.
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
        """Raise an error unless the record is trusted.

        Args:
            name: The function or class that would be called, used in the error.

        Raises:
            Exception: If the record is not trusted.
        """
        if not self._trust:
            raise _NotTrustedError(name)

    def imported(self, path: str) -> Any:
        """Return the object that a path names. Without trust, only a class of torchvision's transforms is allowed.

        Args:
            path: `module:qualname`.
        """
        module, _, qualname = path.partition(":")
        is_torchvision = module == _SAFE_PACKAGE or module.startswith(_SAFE_PACKAGE + ".")
        if not (is_torchvision and qualname.isidentifier() and _is_installed(module)):
            self.demand_trust(path)
        if "<" in qualname:
            raise ValueError(f"{qualname} cannot be imported by name")
        found: Any = import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
        # A module of torchvision also contains what it imports, such as os, which is not safe.
        if not (isinstance(found, type) and found.__module__.startswith(_SAFE_PACKAGE)):
            self.demand_trust(path)
        return found


def _is_installed(module: str) -> bool:
    """Return whether a module is loaded, or lies where a distribution has installed it, and not beside a script."""
    if module in sys.modules:
        return True
    try:
        return all(map(is_installed, find(module)))
    except NotFoundError:
        return False


def _without_extras(encoded: Any) -> Any:
    """Return the result of `encode_in_detail` without the keys that are not needed to read it back."""
    if isinstance(encoded, list):
        return list(map(_without_extras, encoded))
    if not isinstance(encoded, dict):
        return encoded
    return {key: _without_extras(value) for key, value in encoded.items() if "type" not in encoded or key not in EXTRAS}
