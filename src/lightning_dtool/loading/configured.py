"""Values of a configuration file as plain arguments of a constructor, by its annotations. No object is made."""

import collections.abc
import enum
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_MAX_DEPTH = 100


class NotPlainError(Exception):
    """A value that stands for an object.

    Args:
        place: Where it is in the argument, such as `.layers[0]`.
        name: The class or function that it names, or what it is.
    """

    def __init__(self, place: str, name: str) -> None:
        super().__init__(place, name)
        self.place, self.name = place, name


def hints(cls: type) -> dict[str, Any]:
    """Return the annotations of the constructor's arguments, also of those that it passes on to a base class.

    Args:
        cls: The class.

    Returns:
        The annotations by name: `Any` for an argument without one, `object` for one that cannot be found out.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        function = vars(base).get("__init__")
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        try:
            known = typing.get_type_hints(function)
            missing: Any = Any
        except Exception:  # an annotation may be anything
            known, missing = {}, object
        named = [each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        found.update({name: known.get(name, missing) for name in named})
    return found


def plain(value: Any, hint: Any, place: str = "") -> Any:
    """Return a value of a configuration file as its annotation wants it.

    Args:
        value: The value.
        hint: The annotation; `object` for an unknown one.
        place: Where the value is in the argument, for errors.

    Raises:
        NotPlainError: If it stands for an object, which would have to be made.
    """
    if isinstance(value, Mapping) and "class_path" in value:
        raise NotPlainError(place, str(value["class_path"]))
    if place.count(".") + place.count("[") > _MAX_DEPTH:
        raise NotPlainError(place, "nested too deeply")
    if value is None:  # a default, whatever the annotation says
        return None
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return plain(value, inner[0], place)
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, inner, place)
    if origin is typing.Literal:
        return _if(value in inner, value, place)
    if isinstance(value, list | tuple | set | frozenset):
        return _sequence(value, origin or hint, inner, place)
    if isinstance(value, Mapping):
        return _mapping(value, origin or hint, inner, place)
    return _single(value, hint, place)


def _if(condition: bool, value: Any, place: str) -> Any:
    if not condition:
        name = value if isinstance(value, str) else f"a {type(value).__name__}"
        raise NotPlainError(place, name)
    return value


def _one_of(value: Any, choices: tuple[Any, ...], place: str) -> Any:
    exact = next((hint for hint in choices if hint is type(value)), None)
    others = [hint for hint in choices if hint is not type(value) and hint is not type(None)]
    # A text that is also the name of a function or class stands for that, if one is possible.
    if exact is not None and not (isinstance(value, str) and _is_path(value) and not all(map(_is_plain, others))):
        return value
    errors = [NotPlainError(place, f"a {type(value).__name__}")]
    for hint in others:
        try:
            return plain(value, hint, place)
        except NotPlainError as error:
            errors.append(error)
    raise max(reversed(errors), key=lambda error: len(error.place))


def _is_plain(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(map(_is_plain, typing.get_args(hint)))
    return hint is Any or (origin or hint) in (*_SCALARS, *_SEQUENCES, *_MAPPINGS, type(None), pathlib.Path)


_SCALARS = (str, int, float, bool, complex, bytes)
_SEQUENCES = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.MutableSequence: list,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _sequence(value: Any, kind: Any, inner: tuple[Any, ...], place: str) -> Any:
    if kind not in (Any, object) and kind not in _SEQUENCES:
        raise NotPlainError(place, f"a {type(value).__name__}")
    if kind is tuple and inner and inner[-1] is not ...:
        hints = [*inner, *[object] * len(value)]
    else:
        hints = [inner[0] if inner else kind if kind is object else Any] * len(value)
    entries = [plain(entry, hints[index], f"{place}[{index}]") for index, entry in enumerate(value)]
    return value if kind in (Any, object) else _SEQUENCES[kind](entries)


def _mapping(value: Mapping[Any, Any], kind: Any, inner: tuple[Any, ...], place: str) -> Any:
    if kind not in (Any, object) and kind not in _MAPPINGS:
        return _if(isinstance(kind, type) and type(value) is kind, value, place)
    of_key, of_value = inner if len(inner) == 2 else (Any, kind if kind is object else Any)
    entries = {plain(key, of_key, place): plain(entry, of_value, f"{place}.{key}") for key, entry in value.items()}
    return value if kind in (Any, object) else entries


def _single(value: Any, hint: Any, place: str) -> Any:
    if hint is Any:
        return value
    if not isinstance(hint, type):
        raise NotPlainError(place, str(value) if isinstance(value, str) else f"a {type(value).__name__}")
    if hint is object:
        return _if(not (isinstance(value, str) and _is_path(value)), value, place)
    if issubclass(hint, enum.Enum) and isinstance(value, str) and value in hint.__members__:
        return hint[value]
    if hint in (pathlib.Path, pathlib.PurePath, os.PathLike) and isinstance(value, str):
        return pathlib.Path(value)
    if hint in (float, complex) and type(value) is int:
        return hint(value)
    return _if(isinstance(value, hint) or issubclass(hint, type(value)), value, place)


def _is_path(text: str) -> bool:
    """Return whether a text may be the name of a function or a class here."""
    if not _DOTTED.fullmatch(text):
        return False
    top = text.partition(".")[0]
    return top in sys.modules or _exists(top)


def _exists(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
