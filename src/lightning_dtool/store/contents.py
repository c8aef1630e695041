"""What a new dataset will hold: the items as they were sent to the store, and the metadata about them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from lightning_dtool.errors import DatasetExistsError, MetadataKeyError, StoreError
from lightning_dtool.store.digest import generate_identifier
from lightning_dtool.store.item import Item
from lightning_dtool.store.names import check_relpath


@dataclass(frozen=True, slots=True)
class SentItem:
    """An item as it was sent to the store."""

    item: Item
    sha256: str
    sent_at: float


@dataclass
class Contents:
    """What a new dataset will hold.

    Attributes:
        uri: The dataset's URI, for messages.
        readme: The README.
        annotations: The annotations, by name.
        tags: The tags.
        overlays: The overlays, by name; each is by the items' paths.
        items: The items that have been sent, by path.
    """

    uri: str
    readme: str = ""
    annotations: dict[str, Any] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    overlays: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    items: dict[str, SentItem] = field(default_factory=dict)

    def require_new(self, relpath: str) -> None:
        """Raise unless an item with this path can be added.

        Args:
            relpath: The item's path.

        Raises:
            InvalidNameError: If the path is not a plain relative one.
            DatasetExistsError: If an item with this path exists.
        """
        check_relpath(relpath)
        if relpath in self.items:
            raise DatasetExistsError(
                f"there is an item {relpath!r} already. Use another path.", uri=self.uri, item=relpath
            )

    def add(self, relpath: str, size: int, md5: str, sha256: str) -> None:
        """Note an item that has been sent.

        Args:
            relpath: The item's path.
            size: Its size, in bytes.
            md5: Its hash, by the broker's hash function.
            sha256: Its SHA-256, in hexadecimal digits.
        """
        item = Item(generate_identifier(relpath), relpath, size, md5)
        self.items[relpath] = SentItem(item, sha256, time.time())

    def complete_overlays(self) -> dict[str, dict[str, Any]]:
        """Return the overlays by the items' identifiers, with the overlay "sha256".

        Raises:
            MetadataKeyError: If an overlay lacks items or names others.
        """
        overlays = {**self.overlays, "sha256": {relpath: sent.sha256 for relpath, sent in self.items.items()}}
        for name, values in overlays.items():
            differing = sorted(self.items.keys() ^ values.keys())
            if differing:
                raise MetadataKeyError(
                    f"expected overlay {name!r} to have a value for exactly the {len(self.items)} items, "
                    f"found {len(differing)} items in only one of both: {', '.join(differing[:5])}. Complete it.",
                    uri=self.uri,
                )
        return {
            name: {self.items[relpath].item.identifier: values[relpath] for relpath in sorted(self.items)}
            for name, values in overlays.items()
        }

    def manifest(self, dtoolcore_version: str, hash_function: str) -> dict[str, Any]:
        """Return the manifest.

        Args:
            dtoolcore_version: The version of dtoolcore.
            hash_function: dtool's name of the broker's hash function.
        """
        return {
            "dtoolcore_version": dtoolcore_version,
            "hash_function": hash_function,
            "items": {
                sent.item.identifier: {
                    "relpath": relpath,
                    "size_in_bytes": sent.item.size_in_bytes,
                    "hash": sent.item.hash,
                    "utc_timestamp": sent.sent_at,
                }
                for relpath, sent in sorted(self.items.items(), key=itemgetter(0))
            },
        }

    def require_held(self, held: Mapping[str, tuple[int, str]]) -> None:
        """Raise unless the store holds exactly the items that were sent.

        Args:
            held: The size and the hash of each item that the store holds, by path. An empty hash is not compared.

        Raises:
            StoreError: If something is missing, differs or is there in addition.
        """
        faults = [f"{relpath}: not sent" for relpath in held.keys() - self.items.keys()]
        for relpath, sent in self.items.items():
            if relpath not in held:
                faults.append(f"{relpath}: missing")
                continue
            size, found = held[relpath]
            if size != sent.item.size_in_bytes:
                faults.append(f"{relpath}: sent {sent.item.size_in_bytes} bytes, found {size}")
            elif found and found != sent.item.hash:
                faults.append(f"{relpath}: sent hash {sent.item.hash}, found {found}")
        if faults:
            raise StoreError(
                f"expected the store to hold the {len(self.items)} items that were sent, found "
                f"{len(faults)} differences: {'; '.join(sorted(faults)[:5])}. Nothing was frozen; try again.",
                uri=self.uri,
                kind="altered",
            )
