"""The reading of files to be decoded, which are compared with what is recorded unless they are known."""

import io
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from lightning_dtool.errors import VerificationError
from lightning_dtool.store.digest import generate_identifier
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.item import Item
from lightning_dtool.store.manifest import Manifest
from lightning_dtool.store.private import cache_directory, user_number
from lightning_dtool.store.verification import Recorded, size_difference
from lightning_dtool.store.verified import VerifiedItems, is_settled, mark

# A named pipe that was put in the place of an item since it was looked up does not answer.
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
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
            found: The mark of its file, which was settled before it was read.
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
        items = self._manifest.items
        size, settled = items.size_of(identifier), is_settled(found)
        relpath = self._manifest.relpaths[identifier]
        with store_errors(self._uri, f"read item {relpath!r}", item=relpath):
            content = _read(os.open(path, _READ), min(size, found.size)) if found.size <= _SMALL else Path(path)
            self._require_same(identifier, content, found.size)
        if settled:
            self._verified.add(self._positions[identifier], found, items.hash_of(identifier))

    def open(self, identifier: str, path: str) -> BinaryIO:
        """Open an item, and compare it with what is recorded, unless it is known.

        An item that has to be compared is read as a whole, so that the bytes that are decoded are those that were
        compared.

        Args:
            identifier: The item's identifier.
            path: Its file.

        Returns:
            A binary file, which the caller closes: the file, or its bytes.

        Raises:
            VerificationError: If it differs.
            FileNotFoundError: If there is no such file.
        """
        # This is called for each sample: `mark` would take as long as the rest.
        descriptor = os.open(path, _READ)
        status = os.fstat(descriptor)
        found = status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
        if self.knows(identifier, found):
            return _opened(descriptor, status.st_size, path)
        settled = is_settled(found)
        items = self._manifest.items
        # At most one byte more than recorded, because a hostile file may not fit into memory. Nor may a recorded size.
        content = _read(descriptor, min(status.st_size, items.size_of(identifier)))
        self._require_same(identifier, content, status.st_size)
        if settled:
            self._verified.add(self._positions[identifier], found, items.hash_of(identifier))
        return _Content(content, path)

    @cached_property
    def _recorded(self) -> Recorded:
        return self._read_recorded()

    def _require_same(self, identifier: str, content: Path | bytes, size: int) -> None:
        """Raise an error if the content of an item, or the size of its file, is not as recorded."""
        items = self._manifest.items
        # No `Item` yet: this is called for each sample of a first epoch, and creating one takes as long as the rest.
        if (
            isinstance(content, bytes)
            and size == len(content) == items.size_of(identifier)
            and self._recorded.is_same(content, identifier, items.hash_of(identifier))
        ):
            return
        item = items[identifier]
        difference = size_difference(item, size) or self._recorded.difference(content, item)
        if difference is None:
            return
        if self._recorded.hash_of(item) is None:
            raise VerificationError(
                f"item {item.relpath!r} {difference}. Write the overlay 'sha256' from a trusted copy, or read the items"
                " without a comparison: verify=False.",
                uri=self._uri,
                item=item.relpath,
            )
        raise VerificationError(
            f"item {item.relpath!r} is not as recorded: {difference}. Restore the dataset from a copy.",
            uri=self._uri,
            item=item.relpath,
        )


def open_at_once(path: str) -> BinaryIO:
    """Open a file to be decoded. A small one is read in one call, which takes less time than the reads of a decoder.

    Args:
        path: The file.

    Returns:
        A binary file, which the caller closes: the file, or its bytes.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    descriptor = os.open(path, _READ)
    return _opened(descriptor, os.fstat(descriptor).st_size, path)


def _opened(descriptor: int, size: int, path: str) -> BinaryIO:
    return os.fdopen(descriptor, "rb") if size > _SMALL else _Content(_read(descriptor, size), path)


def _read(descriptor: int, size: int) -> bytes:
    """Return the content of a file, or one byte more than a size if there is more, and close the file."""
    try:
        content = os.read(descriptor, size + 1)
        while len(content) < size and (more := os.read(descriptor, size - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


class _Content(io.BytesIO):
    """The bytes of a file, which messages of decoders call by its path."""

    def __init__(self, content: bytes, path: str) -> None:
        super().__init__(content)
        self.path = path

    def __repr__(self) -> str:
        return repr(self.path)
