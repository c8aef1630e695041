"""The objects of a checkpoint file that were not made, because that would import or run code."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_dtool.loading.makers import ATTRIBUTES, MAKERS


class Unread(Mapping[str, Any]):
    """An object that a checkpoint file holds and that was not made; as a mapping, what the file says about it.

    Args:
        name: The class or function, such as `datetime.date`.
        arguments: What it would be called with. None if the object is the class or function itself.

    Attributes:
        name: As given.
        state: The state that the object would be given after it was made.
        items: The elements that would be added to it then.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.items_added: list[Any] = []

    def __getitem__(self, key: str) -> Any:
        """Return one of the facts."""
        return {"name": self.name, "arguments": self.arguments, "state": self.state, "items": self.items_added}[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the facts."""
        return iter(("name", "arguments", "state", "items"))

    def __len__(self) -> int:
        """Return the number of facts."""
        return 4

    def __repr__(self) -> str:
        """Return the name alone, because the rest may be large or contain itself."""
        return f"<unread {self.name}>"

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def unread(value: Any) -> dict[str, str]:
    """Return the names of the objects that were not made, by the places where they stand.

    Args:
        value: The result of `read_checkpoint`, or a part of it.

    Returns:
        For example `{"hyper_parameters.since": "datetime.date"}`. What an object itself contains is left out.
    """
    found: dict[str, str] = {}
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, Unread):
            found[place] = item.name
        elif isinstance(item, _CONTAINERS) and id(item) not in seen:
            seen.add(id(item))
            item = vars(item) if isinstance(item, ATTRIBUTES) else item
            named = item.items() if isinstance(item, Mapping) else enumerate(item)
            for key, inner in named:
                if isinstance(key, Unread):
                    found[f"{place} (a key)"] = key.name
                pending.append((f"{place}.{key}" if place else str(key), inner))
    return found


def names_within(value: Any) -> set[str]:
    """Return the names of all objects that were not made, also of those that others contain.

    Args:
        value: The result of `read_checkpoint`, or a part of it.
    """
    names: set[str] = set()
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen or not isinstance(item, _CONTAINERS):
            continue
        seen.add(id(item))
        if isinstance(item, Unread) and item.name not in MAKERS:
            names.add(item.name)
        if isinstance(item, ATTRIBUTES):
            item = vars(item)
        pending += [*item.keys(), *item.values()] if isinstance(item, Mapping) else item
    return names


_CONTAINERS = (Mapping, list, tuple, set, frozenset, collections.deque, *ATTRIBUTES)
