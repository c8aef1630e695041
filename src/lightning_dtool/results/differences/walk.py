"""The walk through two records, as plain values, that finds the places where they differ."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_dtool.results.differences.difference import Difference, Kind
from lightning_dtool.results.differences.matching import Key, element_labels, identity_of, matched_pairs
from lightning_dtool.results.differences.patches import patch

MAX_DEPTH = 40
"""The largest number of nested levels that are walked through. Deeper values are compared as a whole."""

ABSENT: Any = object()
"""The marker for a value that one of two records lacks."""

_IS_REFERENCE = {"uri", "uuid", "name", "content_digest"}


def walk(path: str, a: Any, b: Any, depth: int = 0) -> Iterator[Difference]:
    """Yield the differences between two values at the same place of two records.

    Args:
        path: The place in the record.
        a: The first value, as in JSON; `ABSENT` if there is none.
        b: The second value.
        depth: The number of levels above these values.
    """
    if _same(a, b):
        return
    if a is ABSENT or b is ABSENT:
        yield _one_sided(path, a, b)
    elif depth >= MAX_DEPTH or type(a) is not type(b):
        yield Difference(path, "changed", a, b)
    elif isinstance(a, dict) and a.keys() == _IS_REFERENCE == b.keys():
        yield _references(path, a, b)
    elif isinstance(a, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from walk(join(path, key), a.get(key, ABSENT), b.get(key, ABSENT), depth + 1)
    elif isinstance(a, list):
        yield from _lists(path, a, b, depth)
    elif isinstance(a, str) and max(a.count("\n"), b.count("\n")) > 1:
        yield Difference(path, "changed", a, b, patch=patch(path, a, b))
    else:
        yield Difference(path, "changed", a, b)


def _same(a: Any, b: Any) -> bool:
    """Compare values with their types: 1, 1.0 and true are equal in Python, but Lightning distinguishes them."""
    if a is ABSENT or b is ABSENT:
        return a is b
    if isinstance(a, dict | list) or isinstance(b, dict | list):
        return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    return type(a) is type(b) and bool(a == b)


def _one_sided(path: str, a: Any, b: Any) -> Difference:
    kind: Kind = "added" if a is ABSENT else "removed"
    return Difference(path, kind, None if a is ABSENT else a, None if b is ABSENT else b)


def join(path: str, key: str) -> str:
    """Return the path of an entry of a dictionary. A key that is a name becomes an attribute."""
    if re.fullmatch(r"\w+", key, re.ASCII):
        return f"{path}.{key}" if path else key
    return f"{path}[{key}]"


def _references(path: str, a: Mapping[str, str], b: Mapping[str, str]) -> Difference:
    """Return the difference of two dataset references, with a note on whether UUID and content are equal."""
    same_uuid, same_content = a["uuid"] == b["uuid"], a["content_digest"] == b["content_digest"]
    if same_content:
        note = "the same dataset at another URI" if same_uuid else "the same content under another UUID"
        return Difference(path, "changed", dict(a), dict(b), note, "same content")
    note = (
        "the same UUID, but different content: one of them was changed after it was frozen, or is damaged"
        if same_uuid
        else "another dataset"
    )
    return Difference(path, "changed", dict(a), dict(b), note)


def _lists(path: str, a: list[Any], b: list[Any], depth: int) -> Iterator[Difference]:
    identity = identity_of(path)
    if identity is not None:
        yield from _matched(path, a, b, *identity, depth)
    elif all(isinstance(part, str) for part in [*a, *b]) and len(set(a)) == len(a) and len(set(b)) == len(b):
        if sorted(a) == sorted(b):
            yield Difference(path, "changed", a, b, "the same elements in another order")
        elif path != "code.argv" and set(a) & set(b):
            # Element by element: in two whole long lists, the equal elements would hide the few that differ.
            yield from (Difference(f"{path}[{part}]", "removed", before=part) for part in a if part not in set(b))
            yield from (Difference(f"{path}[{part}]", "added", after=part) for part in b if part not in set(a))
        else:
            yield Difference(path, "changed", a, b)
    elif any(isinstance(part, dict | list) for part in [*a, *b]):
        for index in range(max(len(a), len(b))):
            one = a[index] if index < len(a) else ABSENT
            two = b[index] if index < len(b) else ABSENT
            yield from walk(f"{path}[{index}]", one, two, depth + 1)
    else:
        yield Difference(path, "changed", a, b)


def _matched(path: str, a: list[Any], b: list[Any], keys: Sequence[Key], name: Key, depth: int) -> Iterator[Difference]:
    """Compare the elements of two lists, matched by identity."""
    pairs = matched_pairs(a, b, keys)
    labels = element_labels([a[one] if one is not None else b[two] for one, two in pairs], name)  # type: ignore[index]
    for (one, two), label in zip(pairs, labels, strict=True):
        yield from walk(
            f"{path}[{label}]",
            a[one] if one is not None else ABSENT,
            b[two] if two is not None else ABSENT,
            depth + 1,
        )
    order = [two for one, two in pairs if one is not None and two is not None]
    if order != sorted(order):
        shared = [(label, two) for (one, two), label in zip(pairs, labels, strict=True) if None not in (one, two)]
        before = [label for label, _ in shared]
        after = [label for label, _ in sorted(shared, key=lambda pair: pair[1] or 0)]
        yield Difference(path, "changed", before, after, "the same elements in another order")
