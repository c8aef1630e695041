"""Frozen datasets, to read."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from lightning_dtool import rerun
from lightning_dtool._public import public
from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    LightningDtoolError,
    MissingItemError,
    NotFrozenError,
    StoreError,
    UnsafeDatasetError,
    VerificationError,
)
from lightning_dtool.store import verification
from lightning_dtool.store.brokers import open_broker
from lightning_dtool.store.cache import Advance, Cache
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.item import Item
from lightning_dtool.store.local_items import LocalItems, check_root, missing_item, unreadable_item
from lightning_dtool.store.metadata import DatasetMetadata, read_admin_metadata
from lightning_dtool.store.uris import normalize_uri
from lightning_dtool.store.verification import Recorded
from lightning_dtool.store.verified import Mark, mark
from lightning_dtool.store.verified_reading import VerifiedReading, open_at_once

_SMALL = 64 * 1024
"""The largest size of an item that is opened together with others."""


@public
class FrozenDataset(DatasetMetadata):
    """A frozen dataset. Only its annotations and tags can change.

    The manifest is read once, at first use. Finding an item on disk then takes one look-up. Instances can be pickled,
    for instance for the workers of a DataLoader; the copy opens the dataset again when it is used.

    Example:
        ```python
        dataset = FrozenDataset.from_uri("data/leaves")
        for identifier, item in dataset.items.items():
            print(item.relpath, dataset.path(identifier))
        ```
    """

    def __init__(self, uri: str, admin_metadata: Mapping[str, Any]) -> None:
        super().__init__(uri, admin_metadata)
        self._caches: dict[int, Cache] = {}
        self._paths: dict[str, str] = {}

    @classmethod
    def from_uri(cls, uri: str | os.PathLike[str]) -> "FrozenDataset":
        """Open a dataset; only its administrative metadata is read.

        Args:
            uri: A dtool URI, or a path on disk.

        Returns:
            The dataset.

        Raises:
            InvalidURIError: If the URI is malformed or no installed storage broker reads it.
            DatasetNotFoundError: If there is no dataset.
            NotFrozenError: If the dataset is still being built.
            CorruptDatasetError: If its administrative metadata is damaged.
            StoreError: If the store cannot be read.
        """
        normal = rerun.redirect_uri(normalize_uri(uri))
        broker = open_broker(normal)
        dataset = cls(normal, read_admin_metadata(normal, broker))
        dataset._opened = (os.getpid(), broker)
        kind = dataset._admin_metadata["type"]
        if kind == "protodataset":
            raise NotFrozenError(
                "expected a frozen dataset, found one that is still being built (a proto dataset). "
                "Freeze it, or remove it if its writer was interrupted.",
                uri=normal,
            )
        if kind != "dataset":
            raise CorruptDatasetError(
                f"expected the type 'dataset', found {kind!r}. Restore it from a copy.", uri=normal
            )
        return dataset

    @property
    def is_in_place(self) -> bool:
        """Whether its items are read where they are stored, and not from a cache."""
        return self._local is not None

    # -- items --------------------------------------------------------------------------------

    def path(self, identifier: str) -> Path:
        """Return a local file with an item's content.

        On disk this is the item itself. A remote item is fetched into the cache once, and verified.

        Args:
            identifier: The item's identifier.

        Returns:
            The absolute path. Its suffix is that of the item.

        Raises:
            MissingItemError: If the item is not listed, or the store does not hold it.
            UnsafeDatasetError: If the item is a symbolic link that leads outside the dataset, or is not a plain file.
            VerificationError: If a remote item's content differs from the manifest.
            StoreError: If the store cannot be read.
        """
        return Path(self.abspath(identifier))

    def abspath(self, identifier: str) -> str:
        """Return the path of a local file with an item's content as a string, which is faster; see `path`.

        Args:
            identifier: The item's identifier.
        """
        known = self._paths.get(identifier)
        if known is not None:
            return known
        item = self._item(identifier)
        if self._local is None:
            return str(self._cache.path(item))
        path = self._paths[identifier] = self._local.path(item)
        return path

    def open(self, identifier: str) -> BinaryIO:
        """Open an item's content for reading.

        Args:
            identifier: The item's identifier.

        Returns:
            A binary file, which the caller closes.

        Raises:
            MissingItemError: If the item is not listed, or the store does not hold it.
            StoreError: If it cannot be read.
        """
        path = self.path(identifier)
        try:
            return path.open("rb")
        except FileNotFoundError as exc:
            raise missing_item(self._uri, self._item(identifier)) from exc
        except OSError as exc:
            raise unreadable_item(self._uri, self._item(identifier), exc) from exc

    def read_bytes(self, identifier: str) -> bytes:
        """Return an item's content; see `open`.

        Args:
            identifier: The item's identifier.
        """
        relpath = self._item(identifier).relpath
        with self.open(identifier) as file, store_errors(self._uri, f"read item {relpath!r}", item=relpath):
            return file.read()

    def read_verified(self, identifier: str) -> bytes:
        """Return an item's content, after these very bytes were compared with what is recorded.

        Args:
            identifier: The item's identifier.

        Raises:
            VerificationError: If they differ.
            MissingItemError, StoreError: As for `open`.
        """
        item = self._item(identifier)
        with self.open(identifier) as file, store_errors(self._uri, f"read item {item.relpath!r}", item=item.relpath):
            # At most one byte more than recorded, because a hostile file may not fit into memory.
            content = file.read(item.size_in_bytes + 1)
        # What is in the cache was compared when it arrived, and nobody else can change it.
        difference = None if self._local is None else self._recorded().difference(content, item)
        if difference is not None:
            raise VerificationError(
                f"item {item.relpath!r} is not as recorded: {difference}. Restore the dataset from a copy.",
                uri=self._uri,
                item=item.relpath,
            )
        return content

    def fetch(self, identifiers: Iterable[str] | None = None, *, progress: bool = True, verify: bool = False) -> None:
        """Fetch items to this machine, several at a time, so that `path` returns at once.

        Args:
            identifiers: The items' identifiers. By default all items.
            progress: Whether to show a progress bar on a terminal. True by default.
            verify: Whether to read items on disk and compare them with what is recorded. Remote items are always
                compared when they arrive. False by default.

        Raises:
            MissingItemError: If an item is not listed, or the store does not hold it. On disk nothing else is
                checked unless `verify` is set.
            VerificationError: If an item's content differs from the manifest.
            StoreError: If the store cannot be read.
        """
        items = self._select(identifiers)
        if self._local is None:
            self._cache.fetch(items, progress=progress)
        elif verify:
            self.verify([item.identifier for item in items], progress=progress)
        else:
            for item in items:
                self.path(item.identifier)

    def verify(self, identifiers: Iterable[str] | None = None, *, progress: bool = False) -> None:
        """Read items and compare their sizes and hashes with what is recorded.

        The recorded hash is that in the overlay "sha256" if there is one, else the manifest's. The overlay is trusted:
        an item that was replaced together with it is not found. `verify_once` compares with the manifest. If all items
        of a dataset on disk are verified, files that the manifest does not list are reported as well.

        Args:
            identifiers: The items' identifiers. By default all items.
            progress: Whether to show a progress bar on a terminal. False by default.

        Raises:
            VerificationError: If anything differs. The message names every item that does.
            DatasetNotFoundError: If the dataset was deleted meanwhile.
            StoreError: If the store cannot be read.
        """
        # Not remembered as verified: the overlay can be replaced, and the content digest does not cover it.
        with self._noticing_deletion():
            self._verify(identifiers, self._recorded(), None, progress=progress)

    def verify_once(self, identifiers: Iterable[str] | None = None, *, progress: bool = True) -> None:
        """Verify the items on disk that were not verified before, or have changed since; see `is_verified`.

        They are compared with the hashes of the manifest, which the content digest is made of. If the function of these
        hashes is unknown, they are compared with the overlay "sha256".

        Remote items are verified when they are fetched, and this method does not fetch them.

        Args:
            identifiers: The items' identifiers. By default all items.
            progress: Whether to show a progress bar on a terminal. True by default.

        Raises:
            VerificationError: If anything differs. The message names every item that does.
            DatasetNotFoundError: If the dataset was deleted meanwhile.
            StoreError: If the store cannot be read.
        """
        if self._reading is not None:
            pending = [item.identifier for item in self._select(identifiers) if not self._is_known(item)]
            if not pending:
                return
            with self._noticing_deletion():
                self._verify(pending, self._digested(), self._reading.remember, progress=progress)

    def is_verified(self, identifier: str) -> bool:
        """Tell whether an item's local file was found to be as recorded and has not changed since.

        An item on disk is known in each process of this user once any of them has verified it; for that, a small file
        is kept below dtool's cache directory. A remote item is fetched if it is not on this machine yet, and verified;
        where its hash function is unknown, only its size can be compared, and this returns False.

        Args:
            identifier: The item's identifier.

        Raises:
            FileNotFoundError: If an item on disk was removed after its path was looked up.
            MissingItemError, UnsafeDatasetError, VerificationError, StoreError: As for `path`.
        """
        path = self.abspath(identifier)
        return self.is_hash_known if self._reading is None else self._reading.knows(identifier, mark(path))

    def open_to_decode(self, identifier: str, *, verify: bool) -> BinaryIO:
        """Open an item's content for reading, and compare it unless it was verified before.

        A small file is read in one call, which takes less time than the several reads of a decoder. A file that has to
        be compared is read as a whole as well, so that the bytes that are decoded are those that were compared.

        Args:
            identifier: The item's identifier.
            verify: Whether to compare an item on disk. A remote item is compared when it is fetched.

        Returns:
            A binary file, which the caller closes: the local file, or its bytes.

        Raises:
            VerificationError: If the content differs from what is recorded.
            FileNotFoundError: If an item on disk was removed after its path was looked up.
            MissingItemError, UnsafeDatasetError, StoreError: As for `path`.
        """
        path = self.abspath(identifier)
        if verify and self._reading is not None:
            return self._reading.open(identifier, path)
        return open_at_once(path)

    def open_small(self, identifier: str, *, verify: bool) -> BinaryIO | None:
        """Open an item as `open_to_decode` does if it is small and on disk, and if that works.

        Args:
            identifier: The item's identifier.
            verify: Whether to compare the item.

        Returns:
            A binary file with the bytes of the item; None if `open_to_decode` is needed, or says what is wrong.
        """
        # A store that does not answer is asked once, and not for one item after the other.
        if self._reading is None or self._manifest.items.size_of(identifier) > _SMALL:
            return None
        try:
            return self.open_to_decode(identifier, verify=verify)
        except (LightningDtoolError, OSError):
            return None

    def verified_path(self, identifier: str) -> str:
        """Return the path of a local file with an item's content, which is verified unless it was before.

        Args:
            identifier: The item's identifier.

        Raises:
            FileNotFoundError: If an item on disk was removed after its path was looked up.
            MissingItemError, UnsafeDatasetError, VerificationError, StoreError: As for `path`.
        """
        path = self.abspath(identifier)
        if self._reading is not None:
            self._reading.verify(identifier, path)
        return path

    # -- internals ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _noticing_deletion(self) -> Iterator[None]:
        """Raise an error that says so if what is missing is missing because the dataset was deleted meanwhile."""
        try:
            yield
        except (CorruptDatasetError, MissingItemError, StoreError) as error:
            if self._is_deleted():
                raise DatasetNotFoundError(
                    "was deleted meanwhile: it was there when it was opened, and is there no longer. A training that"
                    " keeps only some of its checkpoints deletes the others.",
                    uri=self._uri,
                ) from error
            raise

    def _is_deleted(self) -> bool:
        # Deleting begins with the administrative metadata, so what is missing while that is there is damage.
        try:
            found = read_admin_metadata(self._uri, open_broker(self._uri))
        except DatasetNotFoundError:
            return True
        except LightningDtoolError:
            return False
        return bool(found["type"] != "dataset" or found["uuid"] != self.uuid)

    @property
    def _cache(self) -> Cache:
        process = os.getpid()
        if process not in self._caches:
            self._caches[process] = Cache(self._uri, self.uuid, self._broker, self.hash_function)
        return self._caches[process]

    @cached_property
    def _local(self) -> LocalItems | None:
        """The items on disk; None if they are remote."""
        root = self._broker.data_directory()
        return None if root is None else LocalItems(self._uri, check_root(self._uri, root))

    @cached_property
    def _reading(self) -> VerifiedReading | None:
        """The reading of items on disk; None if they are remote, because they are verified when they are fetched."""
        if self._local is None:
            return None
        return VerifiedReading(self._uri, self.uuid, self._local.root, self._manifest, self._digested)

    def _digested(self) -> Recorded:
        """Return the hashes that the content digest is made of. If their function is unknown, an overlay has to do."""
        return Recorded({}, self.hash_function) if self.is_hash_known else self._recorded()

    def _recorded(self) -> Recorded:
        sha256 = self._overlay_as_written("sha256") if "sha256" in self.overlay_names() else {}
        return Recorded(sha256, self.hash_function)

    def _verify(
        self,
        identifiers: Iterable[str] | None,
        recorded: Recorded,
        remember: Callable[[Item, Mark], None] | None,
        *,
        progress: bool,
    ) -> None:
        verification.verify(
            self._uri,
            self._select(identifiers),
            self._cache.download if self._local is None else self._local_file,
            recorded=recorded,
            remember=remember,
            progress=progress,
            data_directory=self._local.root if self._local is not None and identifiers is None else None,
            listed=set(self.relpaths.values()),
        )

    def _is_known(self, item: Item) -> bool:
        try:
            return self.is_verified(item.identifier)
        except (FileNotFoundError, UnsafeDatasetError):  # `verify` says what is wrong with all such items
            return False

    def _local_file(self, item: Item, advance: Advance) -> Path:
        path = self.path(item.identifier)
        advance(item.size_in_bytes)
        return path
