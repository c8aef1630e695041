"""The registry of types that have a form of their own in JSON.

A value that is not plain JSON is an object with the key `type` and its content. The registry says for each type what
`type` says, how a value is written and how it is read back. The modules `builtin`, `numbers` and `objects` fill it.
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
"""What is written of a value beside its type."""

Write = Callable[[Any, "Writer", "Gaps"], Content]
"""Takes the value, the walk, and the gaps at the value's place."""

Read = Callable[[Mapping[str, Any], "Reader"], Any]
"""Takes the object, with its type, and the walk."""

ReadFamily = Callable[[Any, Mapping[str, Any], "Reader"], Any]
"""Takes the class, the object, and the walk."""


@dataclass(frozen=True)
class Kind:
    """A type, or several that are written alike, under one name.

    Attributes:
        name: What `type` says: `module:qualname`, the same in every version of Python.
        write: Returns the content of a value.
        read: Returns the value of a content.
    """

    name: str
    write: Write
    read: Read


@dataclass(frozen=True)
class Family:
    """A base class. Its subclasses are written alike, each under the path of its own class.

    Attributes:
        name: The base class, for people.
        includes: Tells whether a class belongs to it.
        write: Returns the content of a value.
        read: Returns the value of a class and a content.
    """

    name: str
    includes: Callable[[type], bool]
    write: Write
    read: ReadFamily


class Registry:
    """Kinds by type, by name and by predicate, and families in order."""

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
            read: Returns the value of a content.
            name: What `type` says. Default: the path of the class.
        """
        kind = Kind(name or f"{cls.__module__}:{cls.__qualname__}", write, read)
        self._by_type[cls] = kind
        self._by_name[kind.name] = kind

    def add_matching(self, name: str, matches: Callable[[Any], bool], write: Write, read: Read) -> None:
        """Register values whose classes are many, such as functions.

        Args:
            name: What `type` says.
            matches: Tells whether a value is of this kind.
            write: Returns the content of a value.
            read: Returns the value of a content.
        """
        kind = Kind(name, write, read)
        self._matching.append((matches, kind))
        self._by_name[name] = kind

    def add_family(self, name: str, includes: Callable[[type], bool], write: Write, read: ReadFamily) -> None:
        """Register a base class. Of several families that include a class, the first one counts.

        Args:
            name: The base class, for people.
            includes: Tells whether a class belongs to it.
            write: Returns the content of a value.
            read: Returns the value of a class and a content.
        """
        self._families.append(Family(name, includes, write, read))

    def kind_of(self, value: Any) -> Kind | None:
        """Return the kind of a value; None if it has none."""
        kind = self._by_type.get(type(value))
        return kind or next((kind for matches, kind in self._matching if matches(value)), None)

    def kind_named(self, name: Any) -> Kind | None:
        """Return the kind of which `type` says this; None if there is none."""
        return self._by_name.get(name) if isinstance(name, str) else None

    def family_of(self, cls: type) -> Family:
        """Return the family of a class. The last one includes every class."""
        return next(family for family in self._families if family.includes(cls))

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all kinds and families."""
        yield from self._by_name
        yield from (family.name for family in self._families)


REGISTRY = Registry()
"""The registry that `encode` and `decode` use."""
