"""Checks of a dataset's manifest and administrative metadata, which come from untrusted sources."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from lightning_dtool.errors import CorruptDatasetError, UnsafeDatasetError
from lightning_dtool.store.digest import generate_identifier, generate_identifiers
from lightning_dtool.store.item import Item
from lightning_dtool.store.names import relpath_fault

# Matches a part that is empty, `.` or `..`, in paths that are separated by NULs.
_FORBIDDEN_PART = re.compile(r"[\0/]\.{0,2}(?=[\0/])")


class Items(Mapping[str, Item]):
    """Items by identifier, in order of their paths. Each is created when it is looked up.

    Args:
        relpaths: The items' paths by identifier, in order.
        entries: The items' entries in a checked manifest.
    """

    def __init__(self, relpaths: Mapping[str, str], entries: Mapping[str, Mapping[str, Any]]) -> None:
        self._relpaths = relpaths
        self._entries = entries

    def __getitem__(self, identifier: str) -> Item:
        relpath, entry = self._relpaths[identifier], self._entries[identifier]
        return Item(identifier, relpath, entry["size_in_bytes"], entry["hash"])

    def hash_of(self, identifier: str) -> str:
        """Return the recorded hash of an item, without creating the item."""
        recorded: str = self._entries[identifier]["hash"]
        return recorded

    def size_of(self, identifier: str) -> int:
        """Return the recorded size of an item, without creating the item."""
        size: int = self._entries[identifier]["size_in_bytes"]
        return size

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._relpaths

    def __iter__(self) -> Iterator[str]:
        return iter(self._relpaths)

    def __len__(self) -> int:
        return len(self._relpaths)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest.

    Attributes:
        items: The items by identifier, in order of their paths.
        relpaths: Their paths by identifier, in the same order. For many items they are much faster than `items`.
        hash_function: dtool's name of the function that made the hashes.
    """

    items: Items
    relpaths: Mapping[str, str]
    hash_function: str


def parse_manifest(uri: str, content: object) -> Manifest:
    """Check a manifest as a store returned it.

    Args:
        uri: The dataset, for messages.
        content: The parsed JSON.

    Returns:
        The manifest, sorted by path so that the order does not depend on the store.

    Raises:
        CorruptDatasetError: If keys are missing or of a wrong type.
        UnsafeDatasetError: If a path leads outside the dataset or an identifier is not the hash of its path.
    """
    if not isinstance(content, dict) or not isinstance(content.get("items"), dict):
        raise _corrupt(uri, "manifest", "an object with 'items'", content)
    hash_function = content.get("hash_function")
    if not isinstance(hash_function, str):
        raise _corrupt(uri, "manifest", "the name of a 'hash_function'", hash_function)
    entries = content["items"]
    names = _sound_relpaths(entries)
    if names is None:
        # One by one, for a message that names the first faulty entry.
        for identifier, entry in entries.items():
            _check_entry(uri, identifier, entry)
        names = [entry["relpath"] for entry in entries.values()]
    relpaths = dict(zip(entries, names, strict=True))
    # Manifests that this package wrote are already in order. Checking that is much faster than sorting the items.
    if names != sorted(names):
        relpaths = dict(sorted(relpaths.items(), key=itemgetter(1)))
    return Manifest(Items(relpaths, entries), relpaths, hash_function)


def _sound_relpaths(entries: Mapping[str, Any]) -> list[str] | None:
    """Return the paths if `_check_entry` would accept each entry. A call per entry takes longer than parsing."""
    try:
        relpaths, sizes, hashes = (
            list(map(itemgetter(key), entries.values())) for key in ("relpath", "size_in_bytes", "hash")
        )
    except (KeyError, TypeError):
        return None
    types = ({*map(type, relpaths)}, {*map(type, sizes)}, {*map(type, hashes)})
    if not all(found <= {wanted} for found, wanted in zip(types, (str, int, str), strict=True)):
        return None
    joined = "\0".join(["", *relpaths, ""])
    if joined.count("\0") != len(relpaths) + 1 or "\\" in joined or _FORBIDDEN_PART.search(joined):
        return None
    try:
        encoded = joined.encode().split(b"\0")[1:-1]
    except UnicodeEncodeError:
        return None
    sound = min(sizes, default=0) >= 0 and all(hashes) and generate_identifiers(encoded) == list(entries)
    return relpaths if sound else None


def _check_entry(uri: str, identifier: str, entry: object) -> None:
    """Raise unless an entry of a manifest has what an item needs, and stays inside the dataset."""
    if not isinstance(entry, dict):
        raise _corrupt(uri, f"manifest's item {identifier!r}", "an object", entry)
    relpath, size, digest = entry.get("relpath"), entry.get("size_in_bytes"), entry.get("hash")
    if not isinstance(relpath, str):
        raise _corrupt(uri, f"relpath of item {identifier!r}", "a string", relpath)
    fault = relpath_fault(relpath)
    if fault is not None:
        raise UnsafeDatasetError(
            f"expected item paths below the dataset's data, found {relpath!r}: {fault}. "
            "Do not use this dataset; ask its author.",
            uri=uri,
            item=relpath,
        )
    if identifier != generate_identifier(relpath):
        raise UnsafeDatasetError(
            f"expected the identifier {generate_identifier(relpath)} of item {relpath!r}, "
            f"found {identifier!r}. Do not use this dataset; ask its author.",
            uri=uri,
            item=relpath,
        )
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _corrupt(uri, f"size of item {relpath!r}", "a number of bytes", size, item=relpath)
    if not isinstance(digest, str) or not digest:
        raise _corrupt(uri, f"hash of item {relpath!r}", "a string", digest, item=relpath)


def parse_admin_metadata(uri: str, content: object) -> dict[str, Any]:
    """Check administrative metadata as a store returned it.

    Args:
        uri: The dataset, for messages.
        content: The parsed JSON.

    Returns:
        The metadata, with at least "uuid", "name" and "type".

    Raises:
        CorruptDatasetError: If keys are missing or of a wrong type.
        UnsafeDatasetError: If the name leads outside the directory that holds the dataset.
    """
    if not isinstance(content, dict):
        raise _corrupt(uri, "administrative metadata", "an object", content)
    for key in ("uuid", "name", "type"):
        if not isinstance(content.get(key), str):
            raise _corrupt(uri, "administrative metadata", f"a string as {key!r}", content.get(key))
    try:
        uuid.UUID(content["uuid"])
    except ValueError:
        raise _corrupt(uri, "administrative metadata", "a UUID", content["uuid"]) from None
    name = content["name"]
    if relpath_fault(name) is not None or "/" in name:
        raise UnsafeDatasetError(
            f"expected a plain name, found {name!r}, which leads elsewhere when the dataset is copied. "
            "Do not use this dataset; ask its author.",
            uri=uri,
        )
    return content


def parse_timestamp(uri: str, key: str, value: object) -> datetime:
    """Return a dtool timestamp (seconds since 1970, as a number or a string) as a time in UTC.

    Args:
        uri: The dataset, for messages.
        key: The timestamp's name, for messages.
        value: The timestamp.

    Raises:
        CorruptDatasetError: If the value is not a timestamp.
    """
    try:
        return datetime.fromtimestamp(float(value), timezone.utc)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        raise _corrupt(uri, f"timestamp {key!r}", "seconds since 1970", value) from None


def _corrupt(uri: str, what: str, expected: str, found: object, item: str | None = None) -> CorruptDatasetError:
    shown = "nothing" if found is None else json.dumps(found, default=repr)[:80]
    return CorruptDatasetError(
        f"the {what} is damaged: expected {expected}, found {shown}. Restore the dataset from a copy.",
        uri=uri,
        item=item,
    )
