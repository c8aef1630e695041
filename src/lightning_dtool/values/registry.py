"""The registry of types that have their own JSON form.

A value that is not plain JSON is written as an object with its content and the key `type`. For each type, the registry
holds the value of `type`, a function that writes the content and one that reads it back. The modules `builtin`,
`numbers` and `objects` fill the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_dtool.record import Gaps
    from lightning_dtool.values.reading import Reader
    from lightning_dtool.values.writing import Writer

Content = dict[str, Any]
"""The JSON object of a value, without `type`."""

Write = Callable[[Any, "Writer", "Gaps"], Content]
"""Returns the content of a value, given the value, the writer and the collector of gaps at the value's place."""

Read = Callable[[Mapping[str, Any], "Reader"], Any]
"""Returns a value, given its JSON object (with `type`) and the reader."""

ReadFamily = Callable[[Any, Mapping[str, Any], "Reader"], Any]
"""Returns a value, given its class, its JSON object (with `type`) and the reader."""


@dataclass(frozen=True)
class Kind:
    """A registered type, or several types that share a name and a form.

    Attributes:
        name: The value of `type`: `module:qualname`, the same in every version of Python.
        write: Returns the content of a value.
        read: Returns the value for a JSON object.
    """

    name: str
    write: Write
    read: Read


@dataclass(frozen=True)
class Family:
    """A base class whose subclasses share a form. In JSON, `type` is the path of the subclass.

    Attributes:
        name: Name of the base class, for display.
        includes: Returns whether a class belongs to the family.
        write: Returns the content of a value.
        read: Returns the value for a class and a JSON object.
    """

    name: str
    includes: Callable[[type], bool]
    write: Write
    read: ReadFamily


class Registry:
    """The registered kinds, found by type, by name or by predicate, and the registered families in order."""

    def __init__(self) -> None:
        self._by_type: dict[type, Kind] = {}
        self._by_name: dict[str, Kind] = {}
        self._matching: list[tuple[Callable[[Any], bool], Kind]] = []
        self._families: list[Family] = []

    def add(self, cls: type, write: Write, read: Read, name: str | None = None) -> None:
        """Register the values whose class is exactly this one.

        Args:
            cls: The class.
            write: Returns the content of a value.
            read: Returns the value for a JSON object.
            name: The value of `type`. Default: the path of the class.
        """
        kind = Kind(name or f"{cls.__module__}:{cls.__qualname__}", write, read)
        self._by_type[cls] = kind
        self._by_name[kind.name] = kind

    def add_matching(self, name: str, matches: Callable[[Any], bool], write: Write, read: Read) -> None:
        """Register values that have several classes, such as functions.

        Args:
            name: The value of `type`.
            matches: Returns whether a value is of this kind.
            write: Returns the content of a value.
            read: Returns the value for a JSON object.
        """
        kind = Kind(name, write, read)
        self._matching.append((matches, kind))
        self._by_name[name] = kind

    def add_family(self, name: str, includes: Callable[[type], bool], write: Write, read: ReadFamily) -> None:
        """Register a base class. If several families include a class, the one registered first is used.

        Args:
            name: Name of the base class, for display.
            includes: Returns whether a class belongs to the family.
            write: Returns the content of a value.
            read: Returns the value for a class and a JSON object.
        """
        self._families.append(Family(name, includes, write, read))

    def kind_of(self, value: Any) -> Kind | None:
        """Return the kind of a value. None if it has none."""
        kind = self._by_type.get(type(value))
        return kind or next((kind for matches, kind in self._matching if matches(value)), None)

    def kind_named(self, name: Any) -> Kind | None:
        """Return the kind with a name. None if there is none."""
        return self._by_name.get(name) if isinstance(name, str) else None

    def family_of(self, cls: type) -> Family:
        """Return the family of a class. The last family includes every class."""
        return next(family for family in self._families if family.includes(cls))

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all kinds and families."""
        yield from self._by_name
        yield from (family.name for family in self._families)


REGISTRY = Registry()
"""The registry that `encode` and `decode` use."""
