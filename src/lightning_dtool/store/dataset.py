"""Frozen datasets, to read."""

import io
import os
import stat
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from lightning_dtool import rerun
from lightning_dtool._public import public
from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    MetadataKeyError,
    MissingItemError,
    NotFrozenError,
    StoreError,
    UnsafeDatasetError,
    VerificationError,
)
from lightning_dtool.store import digest, verification
from lightning_dtool.store.broker import Broker
from lightning_dtool.store.brokers import open_broker
from lightning_dtool.store.cache import Advance, Cache, cache_directory
from lightning_dtool.store.faults import kind_of, store_errors
from lightning_dtool.store.item import Item
from lightning_dtool.store.manifest import Manifest, parse_admin_metadata, parse_manifest, parse_timestamp
from lightning_dtool.store.names import check_name, check_value
from lightning_dtool.store.parallel import run_all
from lightning_dtool.store.uris import normalize_uri
from lightning_dtool.store.verified import Mark, VerifiedItems, mark, user_number

_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_SMALL = 1024 * 1024
"""The largest size of a file that is always read as a whole."""


@public
class FrozenDataset:
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
        self._uri = uri
        self._admin_metadata = dict(admin_metadata)
        self._opened: tuple[int, Broker] | None = None
        self._caches: dict[int, Cache] = {}
        self._paths: dict[str, str] = {}
        self._plain_directories: set[str] = set()

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Brokers hold connections, which cannot be pickled. Manifests may be large, so they are read again.
        return {"uri": self._uri, "admin_metadata": self._admin_metadata}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"], state["admin_metadata"])  # type: ignore[misc]

    # -- identity -----------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """Its URI, normalized."""
        return self._uri

    @property
    def uuid(self) -> str:
        """Its UUID, which copies share."""
        return str(self._admin_metadata["uuid"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._admin_metadata["name"])

    @property
    def admin_metadata(self) -> Mapping[str, Any]:
        """Its administrative metadata, unchanged."""
        return MappingProxyType(self._admin_metadata)

    @property
    def created_at(self) -> datetime:
        """When its building began, in UTC (old datasets record only when they were frozen)."""
        key = "created_at" if "created_at" in self._admin_metadata else "frozen_at"
        return parse_timestamp(self._uri, key, self._admin_metadata.get(key))

    @property
    def frozen_at(self) -> datetime:
        """When it was frozen, in UTC."""
        return parse_timestamp(self._uri, "frozen_at", self._admin_metadata.get("frozen_at"))

    @cached_property
    def content_digest(self) -> str:
        """The identity of its data: "sha256:…" over paths, sizes and hashes, independent of URI and UUID."""
        return digest.content_digest(self.items.values())

    @property
    def is_in_place(self) -> bool:
        """Whether its items are read where they are stored, and not from a cache."""
        return self._data_root is not None

    # -- items --------------------------------------------------------------------------------

    @property
    def items(self) -> Mapping[str, Item]:
        """Its items by identifier, in order of their paths.

        Raises:
            CorruptDatasetError: If the manifest is damaged.
            UnsafeDatasetError: If the manifest names paths outside the dataset.
        """
        return self._manifest.items

    @property
    def relpaths(self) -> Mapping[str, str]:
        """The paths of its items by identifier, in order. For many items this is much faster than `items`.

        Raises:
            CorruptDatasetError, UnsafeDatasetError: As for `items`.
        """
        return self._manifest.relpaths

    @property
    def hash_function(self) -> str:
        """The function that made the items' hashes, by dtool's name, such as "md5sum_hexdigest"."""
        return self._manifest.hash_function

    @property
    def is_hash_known(self) -> bool:
        """Whether items can be compared with the manifest's hashes: whether their function is known."""
        return digest.algorithm_of(self.hash_function) is not None

    def item(self, relpath: str) -> Item:
        """Return an item by its path.

        Args:
            relpath: The Unix-like path below the dataset's data.

        Raises:
            MissingItemError: If no such item is listed.
        """
        return self._item(digest.generate_identifier(relpath), shown=relpath)

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
        if self._data_root is None:
            return str(self._cache.path(self._item(identifier)))
        path = self._paths[identifier] = self._checked_path(self._data_root, identifier)
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
            raise self._missing(self._item(identifier)) from exc
        except OSError as exc:
            raise self._unreadable(self._item(identifier).relpath, exc) from exc

    def read_bytes(self, identifier: str) -> bytes:
        """Return an item's content; see `open`.

        Args:
            identifier: The item's identifier.
        """
        relpath = self._item(identifier).relpath
        with self.open(identifier) as file, store_errors(self._uri, f"read item {relpath!r}", item=relpath):
            return file.read()

    def content_digest_of(self, identifiers: Iterable[str]) -> str:
        """Return the identity of some items' data; see `content_digest`.

        Args:
            identifiers: The items' identifiers.
        """
        return digest.content_digest(self._select(identifiers))

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
        if self._data_root is None:
            self._cache.fetch(items, progress=progress)
        elif verify:
            self.verify([item.identifier for item in items], progress=progress)
        else:
            for item in items:
                self.path(item.identifier)

    def verify(self, identifiers: Iterable[str] | None = None, *, progress: bool = False) -> None:
        """Read items and compare their sizes and hashes with what is recorded.

        The recorded hash is that in the overlay "sha256" if there is one, else the manifest's. If all items of a
        dataset on disk are verified, files that the manifest does not list are reported as well.

        Args:
            identifiers: The items' identifiers. By default all items.
            progress: Whether to show a progress bar on a terminal. False by default.

        Raises:
            VerificationError: If anything differs. The message names every item that does.
            StoreError: If the store cannot be read.
        """
        verification.verify(
            self._uri,
            self._select(identifiers),
            self._cache.download if self._data_root is None else self._local_file,
            recorded=self._read_recorded(),
            remember=None if self._data_root is None else self._remember,
            progress=progress,
            data_directory=self._data_root if identifiers is None else None,
            listed=set(self.relpaths.values()),
        )

    def verify_once(self, identifiers: Iterable[str] | None = None, *, progress: bool = True) -> None:
        """Verify the items on disk that were not verified before, or have changed since; see `is_verified`.

        Remote items are verified when they are fetched, and this method does not fetch them.

        Args:
            identifiers: The items' identifiers. By default all items.
            progress: Whether to show a progress bar on a terminal. True by default.

        Raises:
            VerificationError: If anything differs. The message names every item that does.
            StoreError: If the store cannot be read.
        """
        if self._data_root is not None:
            pending = [item.identifier for item in self._select(identifiers) if not self._is_known(item)]
            if pending:
                self.verify(pending, progress=progress)

    def is_verified(self, identifier: str) -> bool:
        """Tell whether an item's local file was found to be as recorded and has not changed since.

        An item on disk is known in each process of this user once any of them has verified it; for that, a small file
        is kept below dtool's cache directory. A remote item is fetched if it is not on this machine yet, and verified.

        Args:
            identifier: The item's identifier.

        Raises:
            FileNotFoundError: If an item on disk was removed after its path was looked up.
            MissingItemError, UnsafeDatasetError, VerificationError, StoreError: As for `path`.
        """
        path = self.abspath(identifier)
        return self._data_root is None or self._knows(identifier, mark(path))

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
        # This is called for each sample: `open` and `mark` would take as long as the rest.
        path = self.abspath(identifier)
        descriptor = os.open(path, _READ)
        try:
            status = os.fstat(descriptor)
            found = status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
            unknown = verify and self._data_root is not None and not self._knows(identifier, found)
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
        if unknown:
            item = self._item(identifier)
            self._require_same(item, self._recorded.difference(content, item))
            self._verified.add(self._positions[identifier], found, item.hash)
        return _Content(content, path)

    def verified_path(self, identifier: str) -> str:
        """Return the path of a local file with an item's content, which is verified unless it was before.

        Args:
            identifier: The item's identifier.

        Raises:
            FileNotFoundError: If an item on disk was removed after its path was looked up.
            MissingItemError, UnsafeDatasetError, VerificationError, StoreError: As for `path`.
        """
        path = self.abspath(identifier)
        if not self.is_verified(identifier):
            item = self._item(identifier)
            found = mark(path)
            with store_errors(self._uri, f"read item {item.relpath!r}", item=item.relpath):
                difference = self._recorded.difference(Path(path), item)
            self._require_same(item, difference)
            self._verified.add(self._positions[identifier], found, item.hash)
        return path

    # -- metadata -----------------------------------------------------------------------------

    def readme(self) -> str:
        """Return the README, YAML by dtool's convention.

        Raises:
            StoreError: If it cannot be read.
        """
        with store_errors(self._uri, "read the README"):
            return self._broker.get_readme_content()

    def annotation_names(self) -> list[str]:
        """Return the names of the annotations, sorted."""
        with store_errors(self._uri, "list the annotations"):
            return sorted(self._broker.list_annotation_names())

    def annotation(self, name: str) -> Any:
        """Return an annotation's value.

        Args:
            name: The annotation's name.

        Raises:
            MetadataKeyError: If there is no annotation of this name.
            CorruptDatasetError: If the annotation is damaged.
        """
        names = self.annotation_names()
        if name not in names:
            raise self._absent("annotation", name, names)
        return self._annotation(name)

    def annotations(self) -> dict[str, Any]:
        """Return all annotations by name."""
        names = self.annotation_names()
        values = run_all([partial(self._annotation, name) for name in names], self._broker.at_once)
        return dict(zip(names, values, strict=True))

    def overlay_names(self) -> list[str]:
        """Return the names of the overlays, sorted."""
        with store_errors(self._uri, "list the overlays"):
            return sorted(self._broker.list_overlay_names())

    def overlay(self, name: str) -> dict[str, Any]:
        """Return an overlay: one value per item.

        Args:
            name: The overlay's name.

        Returns:
            The values by identifier, in order of the items' paths.

        Raises:
            MetadataKeyError: If there is no overlay of this name, or if it lacks items.
            CorruptDatasetError: If the overlay is damaged.
        """
        names = self.overlay_names()
        if name not in names:
            raise self._absent("overlay", name, names)
        values = self._overlay_as_written(name)
        relpaths = self._manifest.relpaths
        if values.keys() == relpaths.keys() and list(values) == list(relpaths):
            return values
        lacking = [relpath for identifier, relpath in relpaths.items() if identifier not in values]
        if lacking:
            raise MetadataKeyError(
                f"expected overlay {name!r} to have a value for each of {len(relpaths)} items, "
                f"found none for {len(lacking)}: {_some(lacking)}. Write the overlay again, for every item.",
                uri=self._uri,
            )
        return {identifier: values[identifier] for identifier in relpaths}

    def tags(self) -> list[str]:
        """Return the tags, sorted."""
        with store_errors(self._uri, "list the tags"):
            return sorted(self._broker.list_tags())

    def put_annotation(self, name: str, value: Any) -> None:
        """Write an annotation, or replace it.

        Args:
            name: Up to 80 letters, digits, `-` and `_`; no dots.
            value: Strict JSON: no NaN, no integer beyond 8 bytes.

        Raises:
            InvalidNameError: If dtool does not allow the name.
            MetadataValueError: If the value is not strict JSON.
            StoreError: If it cannot be written.
        """
        check_name("annotation", name, dots=False)
        check_value("annotation", name, value)
        with store_errors(self._uri, f"write annotation {name!r}"):
            self._broker.put_annotation(name, value)

    def put_tag(self, tag: str) -> None:
        """Tag the dataset. An existing tag is left as it is.

        Args:
            tag: Up to 80 letters, digits, `-`, `_` and `.`.

        Raises:
            InvalidNameError: If dtool does not allow the tag.
            StoreError: If it cannot be written.
        """
        check_name("tag", tag)
        with store_errors(self._uri, f"write tag {tag!r}"):
            self._broker.put_tag(tag)

    def delete_tag(self, tag: str) -> None:
        """Remove a tag. Does nothing if the dataset does not have it.

        Args:
            tag: The tag.

        Raises:
            InvalidNameError: If dtool does not allow the tag.
            StoreError: If it cannot be removed.
        """
        check_name("tag", tag)
        with store_errors(self._uri, f"remove tag {tag!r}"):
            self._broker.delete_tag(tag)

    # -- internals ----------------------------------------------------------------------------

    @property
    def _broker(self) -> Broker:
        # A forked process (a worker of a DataLoader) must not use its parent's connections.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_broker(self._uri))
        return self._opened[1]

    @property
    def _cache(self) -> Cache:
        process = os.getpid()
        if process not in self._caches:
            self._caches[process] = Cache(self._uri, self.uuid, self._broker, self.hash_function)
        return self._caches[process]

    @cached_property
    def _verified(self) -> VerifiedItems:
        """The verified items of a dataset on disk. A copy with the same UUID has a memory of its own."""
        place = digest.generate_identifier(os.path.realpath(str(self._data_root)))
        path = cache_directory() / f"verified-{user_number()}" / f"{self.uuid}-{place[:16]}"
        return VerifiedItems(path, len(self.relpaths))

    @cached_property
    def _positions(self) -> dict[str, int]:
        """The position of each item in the manifest."""
        return {identifier: position for position, identifier in enumerate(self.relpaths)}

    @cached_property
    def _recorded(self) -> verification.Recorded:
        return self._read_recorded()

    def _read_recorded(self) -> verification.Recorded:
        sha256 = self._overlay_as_written("sha256") if "sha256" in self.overlay_names() else {}
        return verification.Recorded(sha256, self.hash_function)

    @cached_property
    def _manifest(self) -> Manifest:
        try:
            with store_errors(self._uri, "read the manifest"):
                content = self._broker.get_manifest()
        except StoreError as exc:
            if exc.kind == "absent":
                raise CorruptDatasetError(
                    "expected a manifest, found none. Restore the dataset from a copy.", uri=self._uri
                ) from exc
            raise
        return parse_manifest(self._uri, content)

    @cached_property
    def _data_root(self) -> Path | None:
        """The local directory that holds the items; None if they are remote."""
        root = self._broker.data_directory()
        if root is None or not self._uri.startswith("file://"):
            return None if root is None else Path(os.path.realpath(root))
        if root.is_symlink() and not _is_below(os.path.realpath(root), os.path.realpath(root.parent)):
            raise UnsafeDatasetError(
                f"expected a directory at {root}, found a link to {os.path.realpath(root)}. "
                "Do not use this dataset; ask its author.",
                uri=self._uri,
            )
        return root

    def _item(self, identifier: str, *, shown: str | None = None) -> Item:
        try:
            return self.items[identifier]
        except KeyError:
            raise MissingItemError(
                f"expected an item {shown or identifier!r}, found none among {len(self.items)} items. "
                "Check the name; `items` lists them all.",
                uri=self._uri,
                item=shown,
            ) from None

    def _is_known(self, item: Item) -> bool:
        try:
            return self.is_verified(item.identifier)
        except (FileNotFoundError, UnsafeDatasetError):  # `verify` says what is wrong with all such items
            return False

    def _knows(self, identifier: str, found: tuple[int, int, int, int]) -> bool:
        return self._verified.knows(self._positions[identifier], found, self._manifest.items.hash_of(identifier))

    def _remember(self, item: Item, found: Mark) -> None:
        self._verified.add(self._positions[item.identifier], found, item.hash)

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

    def _local_file(self, item: Item, advance: Advance) -> Path:
        path = self.path(item.identifier)
        advance(item.size_in_bytes)
        return path

    def _select(self, identifiers: Iterable[str] | None) -> list[Item]:
        if identifiers is None:
            return list(self.items.values())
        return [self._item(identifier) for identifier in identifiers]

    def _checked_path(self, root: Path, identifier: str) -> str:
        """Check that an item on disk is a plain file inside the dataset, and return its path."""
        relpath = self.relpaths.get(identifier) or self._item(identifier).relpath
        path = f"{root}/{relpath}"
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode) or self._has_linked_parent(root, relpath):
                target = os.path.realpath(path)
                if not _is_below(target, os.path.realpath(root)):
                    raise UnsafeDatasetError(
                        f"expected item {relpath!r} inside the dataset, found a link to {target}. "
                        "Do not use this dataset; ask its author.",
                        uri=self._uri,
                        item=relpath,
                    )
                status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise self._missing(self._item(identifier)) from exc
        except OSError as exc:
            raise self._unreadable(relpath, exc) from exc
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeDatasetError(
                f"expected a plain file as item {relpath!r}, found something else at {path}. "
                "Restore the dataset from a copy.",
                uri=self._uri,
                item=relpath,
            )
        return path

    def _has_linked_parent(self, root: Path, relpath: str) -> bool:
        """Tell whether a directory between the data and an item is a symbolic link."""
        parent = relpath.rpartition("/")[0]
        if not parent or parent in self._plain_directories:
            return False
        if stat.S_ISLNK(os.lstat(f"{root}/{parent}").st_mode) or self._has_linked_parent(root, parent):
            return True
        self._plain_directories.add(parent)
        return False

    def _overlay_as_written(self, name: str) -> dict[str, Any]:
        with store_errors(self._uri, f"read overlay {name!r}"):
            values = self._broker.get_overlay(name)
        if not isinstance(values, dict):
            raise CorruptDatasetError(
                f"expected overlay {name!r} to be an object, found {type(values).__name__}. "
                "Restore the dataset from a copy.",
                uri=self._uri,
            )
        return values

    def _annotation(self, name: str) -> Any:
        with store_errors(self._uri, f"read annotation {name!r}"):
            return self._broker.get_annotation(name)

    def _absent(self, kind: str, name: str, names: list[str]) -> MetadataKeyError:
        return MetadataKeyError(
            f"expected the {kind} {name!r}, found {', '.join(names) or 'none'}. Use one of these or write the {kind}.",
            uri=self._uri,
        )

    def _unreadable(self, relpath: str, exc: OSError) -> StoreError:
        error = StoreError(
            f"cannot read item {relpath!r}: {exc}. Check who may read it.",
            uri=self._uri,
            item=relpath,
            kind=kind_of(exc),
        )
        error.errno = exc.errno
        return error

    def _missing(self, item: Item) -> MissingItemError:
        return MissingItemError(
            f"expected item {item.relpath!r} ({item.size_in_bytes} bytes), found nothing. "
            "Restore the dataset from a copy.",
            uri=self._uri,
            item=item.relpath,
        )


class _Content(io.BytesIO):
    """The bytes of a file, which messages of decoders call by its path."""

    def __init__(self, content: bytes, path: str) -> None:
        super().__init__(content)
        self.path = path

    def __repr__(self) -> str:
        return repr(self.path)


def read_admin_metadata(uri: str, broker: Broker) -> dict[str, Any]:
    """Return the administrative metadata of a dataset, frozen or not.

    Args:
        uri: The dataset's normalized URI.
        broker: Its broker.

    Raises:
        DatasetNotFoundError: If there is no dataset.
        CorruptDatasetError: If the metadata is damaged.
        StoreError: If the store cannot be read.
    """
    try:
        with store_errors(uri, "open the dataset"):
            content = broker.get_admin_metadata()
    except StoreError as exc:
        if exc.kind == "absent":
            raise DatasetNotFoundError(
                "expected a dtool dataset, found none. Check the URI; "
                "`dtool ls BASE_URI` lists the datasets below a base URI, `lightning-dtool ls BASE_URI` checkpoints.",
                uri=uri,
            ) from exc
        raise
    return parse_admin_metadata(uri, content)


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _some(names: list[str]) -> str:
    """Show the first few of many names."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
