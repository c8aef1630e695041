"""The reading of files to be decoded, which are compared with what is recorded unless they are known."""

import io
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from lightning_dtool.errors import VerificationError
from lightning_dtool.store.cache import cache_directory
from lightning_dtool.store.digest import generate_identifier
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.item import Item
from lightning_dtool.store.manifest import Manifest
from lightning_dtool.store.verification import Recorded
from lightning_dtool.store.verified import VerifiedItems, mark, user_number

_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_SMALL = 1024 * 1024
"""The largest size of a file that is always read as a whole."""


class VerifiedReading:
    """The reading of items of a dataset on disk. An item is compared when it is first read, and when it has changed.

    Args:
        uri: The dataset, for messages.
        uuid: Its UUID.
        root: The directory that holds its items.
        manifest: Its manifest.
        recorded: Returns the recorded hashes. It is called when the first item is compared.
    """

    def __init__(self, uri: str, uuid: str, root: Path, manifest: Manifest, recorded: Callable[[], Recorded]) -> None:
        self._uri = uri
        self._manifest = manifest
        self._read_recorded = recorded
        # A copy with the same UUID has a memory of its own.
        place = generate_identifier(os.path.realpath(root))
        path = cache_directory() / f"verified-{user_number()}" / f"{uuid}-{place[:16]}"
        self._verified = VerifiedItems(path, len(manifest.relpaths))
        self._positions = {identifier: position for position, identifier in enumerate(manifest.relpaths)}

    def knows(self, identifier: str, found: tuple[int, int, int, int]) -> bool:
        """Tell whether an item was found to be as recorded and has not changed since.

        Args:
            identifier: The item's identifier.
            found: The mark of its file.
        """
        return self._verified.knows(self._positions[identifier], found, self._manifest.items.hash_of(identifier))

    def remember(self, item: Item, found: tuple[int, int, int, int]) -> None:
        """Remember that an item is as recorded.

        Args:
            item: The item.
            found: The mark of its file, from before it was read.
        """
        self._verified.add(self._positions[item.identifier], found, item.hash)

    def verify(self, identifier: str, path: str) -> None:
        """Compare an item with what is recorded, unless it is known.

        Args:
            identifier: The item's identifier.
            path: Its file.

        Raises:
            VerificationError: If it differs.
            FileNotFoundError: If there is no such file.
            StoreError: If it cannot be read.
        """
        found = mark(path)
        if self.knows(identifier, found):
            return
        item = self._manifest.items[identifier]
        with store_errors(self._uri, f"read item {item.relpath!r}", item=item.relpath):
            difference = self._recorded.difference(Path(path), item)
        self._require_same(item, difference)
        self.remember(item, found)

    def compare(self, identifier: str, content: bytes, found: tuple[int, int, int, int]) -> None:
        """Compare the content of an item with what is recorded.

        Args:
            identifier: The item's identifier.
            content: Its content.
            found: The mark of its file, from before it was read.

        Raises:
            VerificationError: If it differs.
        """
        item = self._manifest.items[identifier]
        self._require_same(item, self._recorded.difference(content, item))
        self.remember(item, found)

    @cached_property
    def _recorded(self) -> Recorded:
        return self._read_recorded()

    def _require_same(self, item: Item, difference: str | None) -> None:
        if difference is not None and self._recorded.hash_of(item) is None:
            raise VerificationError(
                f"item {item.relpath!r} {difference}. Write the overlay 'sha256' from a trusted copy, or read the items"
                " without a comparison: verify=False.",
                uri=self._uri,
                item=item.relpath,
            )
        if difference is not None:
            raise VerificationError(
                f"item {item.relpath!r} is not as recorded: {difference}. Restore the dataset from a copy.",
                uri=self._uri,
                item=item.relpath,
            )


def open_at_once(path: str, reading: VerifiedReading | None = None, identifier: str = "") -> BinaryIO:
    """Open a file to be decoded. A small one is read in one call, which takes less time than the reads of a decoder.

    Args:
        path: The file.
        reading: Compares the file, which is then read as a whole, unless it is known. By default it is not compared.
        identifier: The identifier of the item to compare it with.

    Returns:
        A binary file, which the caller closes: the file, or its bytes.

    Raises:
        VerificationError: If it differs.
        FileNotFoundError: If there is no such file.
    """
    # This is called for each sample: `open` and `mark` would take as long as the rest.
    descriptor = os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        found = status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
        unknown = reading is not None and not reading.knows(identifier, found)
        size = status.st_size
        if size > _SMALL and not unknown:
            file = os.fdopen(descriptor, "rb")
            descriptor = -1
            return file
        content = os.read(descriptor, size + 1)
        while len(content) < size and (more := os.read(descriptor, size - len(content))):
            content += more
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if reading is not None and unknown:
        reading.compare(identifier, content, found)
    return _Content(content, path)


class _Content(io.BytesIO):
    """The bytes of a file, which messages of decoders call by its path."""

    def __init__(self, content: bytes, path: str) -> None:
        super().__init__(content)
        self.path = path

    def __repr__(self) -> str:
        return repr(self.path)
