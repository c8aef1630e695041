"""The writer of new datasets, which are visible as frozen only when they are complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from lightning_dtool._public import public
from lightning_dtool.errors import (
    ConfigurationError,
    DatasetExistsError,
    InvalidNameError,
    LightningDtoolError,
    StoreError,
)
from lightning_dtool.store.admin_metadata import new_admin_metadata
from lightning_dtool.store.broker import ParallelBroker
from lightning_dtool.store.brokers import broker_class, open_broker
from lightning_dtool.store.contents import Contents
from lightning_dtool.store.copying import copy_all
from lightning_dtool.store.dataset import FrozenDataset
from lightning_dtool.store.digest import CHUNK, MD5_HEXDIGEST, hash_bytes, hash_file
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.freezing import freeze
from lightning_dtool.store.hashing_file import HashingFile
from lightning_dtool.store.hashing_writer import Digests
from lightning_dtool.store.names import check_name, check_value
from lightning_dtool.store.parallel import run_all
from lightning_dtool.store.places import require_directory
from lightning_dtool.store.small_files import read_small
from lightning_dtool.store.uploading import SMALL, Uploads
from lightning_dtool.store.uris import local_path, normalize_uri, scheme_of
from lightning_dtool.store.waiting import hurrying
from lightning_dtool.store.writing_process import WritingProcess

_KEPT = 2**20
"""The largest size in bytes of an item whose hashes are kept together with its content."""


@public
class DatasetWriter:
    """Builds one dataset.

    Until `commit` ends, the dataset is a proto dataset, which readers refuse. Used as a context manager, the writer
    removes what it wrote unless `commit` has succeeded.

    Args:
        name: The dataset's name: up to 80 letters, digits, `-`, `_` and `.`.
        base_uri: The directory or the store for it, for instance `s3://bucket`.
        creator_username: The creator's name. By default that of the current user, or "unknown".
        process: The process that hashes and writes large items. By default threads do so.
        uuid: The dataset's UUID. By default a new one.

    Raises:
        InvalidNameError: If dtool does not allow the name.
        InvalidURIError: If the base URI is malformed or no installed storage broker reads it.
        DatasetExistsError: If something exists at that place.
        StoreError: If the base URI does not exist or cannot be written.

    Example:
        ```python
        with DatasetWriter("one-oak", "data") as writer:
            writer.put_file("photographs/oak/1.png", "images/oak.png")
            writer.put_overlay("category", {"images/oak.png": "oak"})
            dataset = writer.commit()
        ```
    """

    def __init__(
        self,
        name: str,
        base_uri: str | os.PathLike[str],
        *,
        creator_username: str | None = None,
        process: WritingProcess | None = None,
        uuid: str | None = None,
    ) -> None:
        check_name("dataset", name)
        base = normalize_uri(base_uri)
        require_directory(base)
        self._admin_metadata = new_admin_metadata(name, creator_username, uuid)
        self._state = "open"
        self._process = process
        with store_errors(base, f"name a dataset {name!r}"):
            self._uri = normalize_uri(broker_class(scheme_of(base)).generate_uri(name, self.uuid, base))
        self._contents = Contents(self._uri)
        self._broker = open_broker(self._uri, new=True)
        self._uploads = Uploads(self._uri, self._broker) if isinstance(self._broker, ParallelBroker) else None
        self._create()
        root = self._broker.data_directory()
        self._folders = set() if root is None else {root}

    # -- identity -----------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """The dataset's URI, which does not change when it is frozen."""
        return self._uri

    @property
    def uuid(self) -> str:
        """The dataset's UUID."""
        return str(self._admin_metadata["uuid"])

    @property
    def relpaths(self) -> tuple[str, ...]:
        """The relative paths of the items that have been added."""
        return tuple(self._contents.items)

    # -- content ------------------------------------------------------------------------------

    def put_file(
        self,
        path: str | os.PathLike[str],
        relpath: str,
        *,
        link: bool = False,
        digests: Digests | None = None,
    ) -> None:
        """Add a file.

        Args:
            path: The file.
            relpath: The item's path in the dataset, such as "leaves/oak.png".
            link: Whether the item may be a hard link to the file, which must not change afterwards. Where the file
                system has no hard links, or the store is another file system or remote, it is a copy. False by default:
                the item is a copy.
            digests: The hashes of the content, if they are known. Then a file that is linked or sent is not read to
                hash it, and a copy is compared with them. By default the content is hashed.

        Raises:
            InvalidNameError: If the item's path is not a plain relative one.
            DatasetExistsError: If an item with this path exists.
            StoreError: If the file cannot be read, if a copy does not have the given hashes, or if the store cannot be
                written.
        """
        source = Path(path)
        if self._uploads is not None:
            self._send(source, relpath, digests)
        elif not (link and self._link(source, relpath, digests)):
            self._copy(source, relpath, digests)

    def put_files(
        self, paths: Mapping[str, str | os.PathLike[str]], *, on_file: Callable[[str], object] = lambda relpath: None
    ) -> None:
        """Add copies of several files. On disk this is much faster than one by one.

        Args:
            paths: The files, by the items' paths in the dataset.
            on_file: Called with each item's path after it was added, in the order of `paths`.

        Raises:
            InvalidNameError, DatasetExistsError, StoreError: As `put_file`. Then some of the files may have been added.
        """
        root = self._broker.data_directory()
        if root is None or self._broker.hasher.name != MD5_HEXDIGEST:
            for relpath, path in paths.items():
                self.put_file(path, relpath)
                on_file(relpath)
            return
        self._require_open()
        for relpath in paths:
            self._contents.require_new(relpath)

        def on_copy(relpath: str, size: int, md5: str, sha256: str) -> None:
            self._contents.add(relpath, size, md5, sha256)
            on_file(relpath)

        copy_all(paths, root, on_copy, lambda relpath: store_errors(self._uri, f"add {paths[relpath]}", item=relpath))

    def put_bytes(self, data: bytes, relpath: str, *, like: FrozenDataset | None = None) -> None:
        """Add an item with this content; see `put_file`.

        Args:
            data: The content.
            relpath: The item's path in the dataset.
            like: A dataset that may have an item with the same path and content. On disk, the two items are then hard
                links of one file, where that is possible. By default the content is written.
        """
        if self._uploads is not None:
            self._send(bytes(data), relpath)
        elif like is None or not self._link_equal(like, data, relpath):
            with self.open(relpath) as target:
                target.write(data)

    @contextlib.contextmanager
    def open(self, relpath: str) -> Iterator[BinaryIO]:
        """Add an item by writing to a file object. Content is hashed on the way and not read again.

        Args:
            relpath: The item's path in the dataset.

        Yields:
            A binary file with `write`, `flush` and `tell`. It cannot seek. If the block raises, the item is not added.

        Raises:
            InvalidNameError: If the item's path is not a plain relative one.
            DatasetExistsError: If an item with this path exists.
            StoreError: If the store cannot be written.

        Example:
            ```python
            with DatasetWriter("weights", "data") as writer:
                with writer.open("weights.pt") as file:
                    torch.save(model.state_dict(), file)
                dataset = writer.commit()
            ```
        """
        self._require_open()
        self._contents.require_new(relpath)
        root = self._broker.data_directory()
        if root is not None:
            with self._opened(Path(root, relpath), relpath) as file:
                yield file
            return
        with tempfile.TemporaryDirectory(prefix="lightning-dtool-") as directory:
            # With the suffix, from which some brokers derive the content type.
            path = Path(directory, "item" + Path(relpath).suffix)
            with self._opened(path, relpath) as file:
                yield file
            with store_errors(self._uri, f"write item {relpath!r}", item=relpath):
                if self._uploads is not None:
                    self._uploads.send(path, relpath, self._contents.items[relpath].item.hash)
                else:
                    self._broker.put_item(str(path), relpath)

    def put_readme(self, text: str) -> None:
        """Set the README, which is YAML by dtool's convention.

        Args:
            text: The text.
        """
        self._require_open()
        self._contents.readme = text

    def put_annotation(self, name: str, value: Any) -> None:
        """Add an annotation, or replace it.

        Args:
            name: Up to 80 letters, digits, `-` and `_`; no dots.
            value: Strict JSON: no NaN, no integer beyond 8 bytes.

        Raises:
            InvalidNameError: If dtool does not allow the name.
            MetadataValueError: If the value is not strict JSON.
        """
        self._require_open()
        self._contents.annotations[check_name("annotation", name, dots=False)] = check_value("annotation", name, value)

    def put_tag(self, tag: str) -> None:
        """Add a tag.

        Args:
            tag: Up to 80 letters, digits, `-`, `_` and `.`.

        Raises:
            InvalidNameError: If dtool does not allow the tag.
        """
        self._require_open()
        self._contents.tags.add(check_name("tag", tag))

    def put_overlay(self, name: str, values_by_relpath: Mapping[str, Any]) -> None:
        """Add an overlay: one value per item. Items may be added later, before `commit`.

        Args:
            name: Up to 80 letters, digits, `-` and `_`; no dots, and not "sha256", which `commit` writes.
            values_by_relpath: The value of each item, by its path.

        Raises:
            InvalidNameError: If dtool does not allow the name, or it is "sha256".
            MetadataValueError: If the values are not strict JSON.
        """
        self._require_open()
        check_name("overlay", name, dots=False)
        if name == "sha256":
            raise InvalidNameError("the overlay 'sha256' is written by commit(). Use another name.")
        self._contents.overlays[name] = check_value("overlay", name, dict(values_by_relpath))

    # -- commit and abort ---------------------------------------------------------------------

    def commit(self) -> FrozenDataset:
        """Check that the store holds exactly what was sent, and freeze the dataset.

        The overlay "sha256" with the SHA-256 of every item is added.

        Returns:
            The frozen dataset.

        Raises:
            MetadataKeyError: If an overlay lacks items or names others.
            StoreError: If the store holds anything other than what was sent, or cannot be written. No frozen dataset
                is left behind, unless the store then refuses every write.
        """
        self._require_open()
        overlays = self._contents.complete_overlays()
        self._state = "failed"
        if self._uploads is not None:
            with store_errors(self._uri, "freeze the dataset"):
                self._uploads.finish()
        dataset = freeze(self._broker, self._admin_metadata, self._contents, overlays)
        self._state = "committed"
        return dataset

    def abort(self) -> None:
        """Remove what was written. Does nothing after `commit`.

        Raises:
            StoreError: If it cannot be removed.
        """
        if self._state in {"committed", "aborted"}:
            return
        self._state = "aborted"
        if self._uploads is not None:
            self._uploads.cancel()
        with store_errors(self._uri, "remove the unfinished dataset"):
            self._broker.remove()

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with hurrying(error):
                self.abort()
        except LightningDtoolError:
            # The first error is the one that the caller needs.
            if error is None:
                raise

    # -- internals ----------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._state != "open":
            raise ConfigurationError(f"this writer is {self._state}. Make a new DatasetWriter.", uri=self._uri)

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)

    def _link(self, source: Path, relpath: str, digests: Digests | None) -> bool:
        """Add a file as a hard link, and return whether that was possible."""
        self._require_open()
        self._contents.require_new(relpath)
        root = self._broker.data_directory()
        if root is None or self._broker.hasher.name != MD5_HEXDIGEST:
            return False
        target = root / relpath
        with store_errors(self._uri, f"add {source}", item=relpath):
            self._make_folder(target.parent)
            try:  # of the file, where the path is a symbolic link
                os.link(os.path.realpath(source) if os.path.islink(source) else source, target)
            except OSError:  # another file system, or one without hard links; copying raises what else is wrong
                return False
            if digests is None:
                digests = Digests(hash_file(target, "md5"), hash_file(target, "sha256"))
            size = target.stat().st_size
        self._contents.add(relpath, size, digests.md5, digests.sha256)
        return True

    def _link_equal(self, dataset: FrozenDataset, data: bytes, relpath: str) -> bool:
        """Add an item as a hard link to that of another dataset if it has this content, and return whether it has."""
        self._require_open()
        self._contents.require_new(relpath)
        folder, root = local_path(dataset.uri), self._broker.data_directory()
        if folder is None or root is None or self._broker.hasher.name != MD5_HEXDIGEST:
            return False
        target = root / relpath
        with store_errors(self._uri, f"write item {relpath!r}", item=relpath):
            self._make_folder(target.parent)
            try:
                os.link(folder / root.name / relpath, target, follow_symlinks=False)
            except OSError:  # deleted meanwhile, another file system, or one without hard links
                return False
            # Compared now: what the link leads to cannot be replaced any more.
            if target.is_symlink() or read_small(target) != data:
                target.unlink()
                return False
        digests = _digests_once(data) if len(data) <= _KEPT else _digests(data)
        self._contents.add(relpath, len(data), digests.md5, digests.sha256)
        return True

    def _copy(self, source: Path, relpath: str, digests: Digests | None) -> None:
        with (
            store_errors(self._uri, f"add {source}", item=relpath),
            source.open("rb") as content,
            self.open(relpath) as target,
        ):
            shutil.copyfileobj(content, target, CHUNK)
        found = self._contents.items[relpath].sha256
        if digests is not None and found != digests.sha256:
            raise StoreError(
                f"expected SHA-256 {digests.sha256} in {source}, found {found}. Has the file changed? Try again.",
                uri=self._uri,
                item=relpath,
                kind="altered",
            )

    def _send(self, content: Path | bytes, relpath: str, digests: Digests | None = None) -> None:
        """Hash an item and send it to a store that takes several requests at a time."""
        self._require_open()
        self._contents.require_new(relpath)
        action = f"add {content}" if isinstance(content, Path) else f"write item {relpath!r}"
        with store_errors(self._uri, action, item=relpath):
            if isinstance(content, Path) and content.stat().st_size <= SMALL:
                content = content.read_bytes()
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            if digests is None:
                # Starting threads pays for large content only.
                threads = 2 if size > SMALL else 1
                digest = partial(hash_file, content) if isinstance(content, Path) else partial(hash_bytes, content)
                digests = Digests(*run_all([partial(digest, algorithm) for algorithm in ("md5", "sha256")], threads))
            assert self._uploads is not None  # noqa: S101 - called only with uploads
            self._uploads.send(content, relpath, digests.md5)
        self._contents.add(relpath, size, digests.md5, digests.sha256)

    def _create(self) -> None:
        """Claim the place, and mark it as a dataset that is being built."""
        with store_errors(self._uri, "create the dataset"):
            try:
                self._broker.create_structure()
            except FileExistsError as exc:
                raise DatasetExistsError(
                    "expected nothing here yet, found something. Choose another name.", uri=self._uri
                ) from exc
            try:
                self._broker.put_admin_metadata(self._admin_metadata)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._broker.remove()
                raise

    @contextlib.contextmanager
    def _opened(self, path: Path, relpath: str) -> Iterator[BinaryIO]:
        """Write a file, and note the item when it is complete."""
        action = f"write item {relpath!r}"
        with store_errors(self._uri, action, item=relpath):
            self._make_folder(path.parent)
            raw = path.open("xb", buffering=0)
        # Only errors of the writing itself are translated, not those of the caller's block.
        file = HashingFile(raw, partial(store_errors, self._uri, action, item=relpath), self._process)
        try:
            yield cast("BinaryIO", file)
            digests = file.finish()
        except BaseException as error:
            file.discard()
            raw.close()
            path.unlink(missing_ok=True)
            if file.failure is not None and file.failure is not error and isinstance(error, Exception):
                raise file.failure from file.failure.__cause__
            raise
        with store_errors(self._uri, action, item=relpath):
            raw.close()
            hasher = self._broker.hasher
            md5 = digests.md5 if hasher.name == MD5_HEXDIGEST else str(hasher(str(path)))
        self._contents.add(relpath, file.tell(), md5, digests.sha256)


def _digests(data: bytes) -> Digests:
    return Digests(hash_bytes(data, "md5"), hash_bytes(data, "sha256"))


# For items that do not change in a run. The cache keeps their content in memory.
_digests_once = lru_cache(maxsize=4)(_digests)
