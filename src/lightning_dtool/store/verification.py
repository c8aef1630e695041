"""The comparison of a dataset's content with its recorded sizes and hashes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_dtool.errors import MissingItemError, StoreError, UnsafeDatasetError, VerificationError
from lightning_dtool.printing import printable
from lightning_dtool.store.cache import Advance, in_parallel
from lightning_dtool.store.digest import algorithm_of, hash_bytes, hash_file, hash_maker, same_hash
from lightning_dtool.store.disk import files_below
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.item import Item
from lightning_dtool.store.verified import Mark, is_settled, mark

if TYPE_CHECKING:
    from hashlib import _Hash

LocalFile = Callable[[Item, Advance], Path]
"""Returns a local file with an item's content, and reports the number of bytes that have arrived."""


@dataclass(frozen=True)
class Recorded:
    """The recorded hashes of a dataset's items.

    Attributes:
        sha256: SHA-256 by identifier, as far as recorded.
        hash_function: The function that made the items' own hashes, by dtool's name for it.
    """

    sha256: Mapping[str, Any]
    hash_function: str

    def hash_of(self, item: Item) -> tuple[str, str] | None:
        """Return the algorithm and the recorded hash that an item is compared with; None if the algorithm is unknown.

        Args:
            item: The item.
        """
        sha256 = self.sha256.get(item.identifier)
        if isinstance(sha256, str):
            return "sha256", sha256
        return None if self._algorithm is None else (self._algorithm, item.hash)

    def is_same(self, content: bytes, identifier: str, recorded: str) -> bool:
        """Tell whether content is what the manifest records, in less time than `difference`, which to ask if not.

        Args:
            content: The content of an item, of the recorded size.
            identifier: The item's identifier.
            recorded: Its hash in the manifest.
        """
        make = self._make_hash
        return make is not None and identifier not in self.sha256 and make(content).hexdigest() == recorded

    def difference(self, content: Path | bytes, item: Item) -> str | None:
        """Say how content differs from what is recorded, or None.

        Args:
            content: A file, or its content.
            item: The item.

        Raises:
            OSError: If the file cannot be read.
        """
        differs = size_difference(item, len(content) if isinstance(content, bytes) else content.stat().st_size)
        if differs is not None:
            return differs
        expected = self.hash_of(item)
        if expected is None:
            return f"cannot be checked, the hash function {self.hash_function!r} is unknown"
        algorithm, recorded = expected
        found = hash_bytes(content, algorithm) if isinstance(content, bytes) else hash_file(content, algorithm)
        return None if same_hash(found, recorded) else f"expected {algorithm} {recorded}, found {found}"

    @cached_property
    def _algorithm(self) -> str | None:
        return algorithm_of(self.hash_function)

    @cached_property
    def _make_hash(self) -> "Callable[[bytes], _Hash] | None":
        return None if self._algorithm is None else hash_maker(self._algorithm)


def size_difference(item: Item, size: int) -> str | None:
    """Say how a size differs from that of an item, or None."""
    return None if size == item.size_in_bytes else f"expected {item.size_in_bytes} bytes, found {size}"


def verify(
    uri: str,
    items: list[Item],
    local_file: LocalFile,
    *,
    recorded: Recorded,
    remember: Callable[[Item, Mark], None] | None,
    progress: bool,
    data_directory: Path | None = None,
    listed: Collection[str] = (),
) -> None:
    """Read items and compare them with what is recorded.

    Args:
        uri: The dataset, for messages.
        items: The items to read.
        local_file: Returns the file to read; for a remote item a new copy, because an old one says nothing about the
            store.
        recorded: What is recorded.
        remember: Called with each item that is as recorded, and the mark of its file from before it was read, unless
            the file was changed only just now.
        progress: Whether to show a progress bar on a terminal.
        data_directory: A directory in which any file that is not listed is a difference. By default none.
        listed: The relative paths that the manifest lists. Used with `data_directory` only.

    Raises:
        VerificationError: If anything differs; the message names every such item.
    """

    def compared(item: Item, advance: Advance) -> str | None:
        try:
            path = local_file(item, advance)
        except MissingItemError:
            return "missing"
        except (VerificationError, UnsafeDatasetError) as exc:
            return exc.reason
        with store_errors(uri, f"read item {item.relpath!r}", item=item.relpath):
            found = mark(path)
            settled = is_settled(found)
            reason = recorded.difference(path, item)
        if reason is None and settled and remember is not None:
            remember(item, found)
        return reason

    found = in_parallel(compared, items, label="Verifying", progress=progress)
    differences = {item.relpath: reason for item, reason in zip(items, found, strict=True) if reason is not None}
    if data_directory is not None:
        differences |= dict.fromkeys(_unlisted(uri, data_directory, listed), "not listed in the manifest")
    if differences:
        lines = "".join(f"\n  {printable(relpath)}: {reason}" for relpath, reason in differences.items())
        raise VerificationError(
            f"expected {len(items)} items as recorded, found {len(differences)} differences:{lines}\n"
            "Restore the dataset from a copy.",
            uri=uri,
            item=next(iter(differences)) if len(differences) == 1 else None,
        )


def _unlisted(uri: str, data_directory: Path, listed: Collection[str]) -> list[str]:
    try:
        with store_errors(uri, "list the files of the dataset"):
            present = sorted(relpath for relpath, _ in files_below(data_directory))
    except StoreError as exc:
        if exc.kind == "absent":  # the items were reported as missing already
            return []
        raise
    return [relpath for relpath in present if relpath not in listed]
