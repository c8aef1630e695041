"""The identities by which the elements of two lists of a record are matched."""

import re
from collections.abc import Callable, Sequence
from typing import Any

Key = Callable[[Any], Any]


def _field(*names: str) -> Key:
    return lambda part: tuple(part.get(name) for name in names)


def _dataset(name: str) -> Key:
    return lambda source: (source.get("dataset") or {}).get(name)


_IDENTITIES: tuple[tuple[str, tuple[Key, ...], Key], ...] = (
    # The path of a list, the keys by which its elements are matched (in order of precedence), and the key of their
    # label.
    (r"checkpoint\.monitors", (_field("name"),), _field("name")),
    (r"model\.children", (_field("name"),), _field("name")),
    (r"loss\.calls", (_field("name", "attribute"), _field("name")), _field("name")),
    (r"trainer\.(callbacks|loggers)", (_field("class_path", "state_key"), _field("class_path")), _field("class_path")),
    (r"metrics\.history", (_field("epoch"),), _field("epoch")),
    (r"metrics\.objects", (_field("attribute"),), _field("attribute")),
    (r"lineage\.source_datasets", (_field("uuid"), _field("content_digest")), _field("name")),
    (
        r"data\.stages\.\w+",
        (_dataset("uuid"), _dataset("content_digest"), _dataset("name"), _field("class_path", "root")),
        lambda source: ((source.get("dataset") or {}).get("name") or source.get("class_path"),),
    ),
    (r"changes", (_field("fact", "global_step"), _field("fact")), _field("fact")),
    (r"gaps", (_field("fact"),), _field("fact")),
)


def identity_of(path: str) -> tuple[tuple[Key, ...], Key] | None:
    """Return the keys by which the elements of a list are matched, and that of their label; None if there are none."""
    return next(((keys, name) for pattern, keys, name in _IDENTITIES if re.fullmatch(pattern, path)), None)


def matched_pairs(a: list[Any], b: list[Any], keys: Sequence[Key]) -> list[tuple[int | None, int | None]]:
    """Return pairs of indices of matching elements. Earlier keys take precedence."""
    partner: dict[int, int] = {}
    free = dict.fromkeys(range(len(b)))
    for key in keys:
        likes: dict[Any, list[int]] = {}
        for two in reversed(free):
            likes.setdefault(key(b[two]), []).append(two)
        for one in range(len(a)):
            value = key(a[one])
            if one not in partner and value is not None and likes.get(value):
                partner[one] = likes[value].pop()
                del free[partner[one]]
    return [*((one, partner.get(one)) for one in range(len(a))), *((None, two) for two in free)]


def element_labels(parts: Sequence[Any], name: Key) -> list[str]:
    """Return a label for each element. Elements of the same name are numbered."""
    names = ["/".join(map(str, name(part))) for part in parts]
    seen: dict[str, int] = {}
    labels = []
    for label in names:
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return labels
