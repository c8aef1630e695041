"""The local cache of remote items, which several processes share."""

import io
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar, cast

from lightning_dtool.errors import MissingItemError, StoreError, VerificationError
from lightning_dtool.store.broker import Broker
from lightning_dtool.store.digest import algorithm_of, hash_open_file, new_hash, same_hash
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.item import Item
from lightning_dtool.store.parallel import THREADS, run_all
from lightning_dtool.store.private import cache_directory, is_trusted, make_private, new_file_mode, open_private
from lightning_dtool.store.progress import progress_bar
from lightning_dtool.store.verified import VerifiedFiles, is_settled, mark, mark_of

_ATTEMPTS = 3

Advance = Callable[[int], None]
"""Called with the number of bytes processed since the last call. It is negative if a download failed and the progress
that it reported is taken back."""
Result = TypeVar("Result")


class Cache:
    """The cached items of one remote dataset.

    An item is downloaded to a temporary file, verified by size and hash as it arrives, and only then renamed to
    its final path. Processes that need it at the same time each fetch it. The last one to finish replaces the
    file with the same content.

    Nobody else can exchange a file between its verification and its use: neither the folders nor the files are used if
    others may change them; see `private`.

    Args:
        uri: The dataset, for messages.
        uuid: The dataset's UUID, which names the folder in the cache.
        broker: The dataset's broker.
        hash_function: The function that made the items' hashes, by dtool's name for it.
    """

    def __init__(self, uri: str, uuid: str, broker: Broker, hash_function: str) -> None:
        self._uri = uri
        self._broker = broker
        self._algorithm = algorithm_of(hash_function)
        self._directory = cache_directory() / uuid
        self._verified = VerifiedFiles(self._directory)
        self._is_private = False

    def path(self, item: Item, advance: Advance | None = None) -> Path:
        """Return a verified local copy of an item, fetched if it is not there yet.

        Args:
            item: The item.
            advance: Called with the number of bytes that have arrived since the last call, or were there already.

        Raises:
            MissingItemError: If the store does not hold the item.
            VerificationError: If its content differs from the manifest.
            StoreError: If the store or the cache cannot be used.
        """
        path = self._path(item)
        if not self._is_private:
            self._make_private()
        if not self._holds(path, item):
            return self.download(item, advance)
        if advance is not None:
            advance(item.size_in_bytes)
        return path

    def fetch(self, items: Iterable[Item], *, progress: bool) -> None:
        """Fetch items, several at a time.

        Args:
            items: The items.
            progress: Whether to show a progress bar on a terminal.
        """
        in_parallel(self.path, list(items), label="Fetching", progress=progress)

    def download(self, item: Item, advance: Advance | None = None) -> Path:
        """Fetch an item from the store, even if a copy is there.

        Args:
            item: The item.
            advance: Called with the number of bytes that have arrived since the last call.

        Returns:
            The verified copy.
        """
        path = self._path(item)
        self._make_private()
        for remaining in reversed(range(_ATTEMPTS)):
            # No other process or thread writes to the same file.
            temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
            try:
                self._download_once(item, temporary, advance)
                with store_errors(self._uri, f"keep item {item.relpath!r} in {self._directory}", item=item.relpath):
                    self._keep(temporary, path, item)
                    return path
            except VerificationError:
                # The content may have been altered on the way, or dtool's own cache may be wrong.
                with store_errors(self._uri, f"drop a wrong copy of item {item.relpath!r}", item=item.relpath):
                    self._broker.forget(item)
                if not remaining:
                    raise
            except StoreError as exc:
                if not (remaining and exc.kind == "cut_off"):
                    raise
            finally:
                temporary.unlink(missing_ok=True)
        raise AssertionError("unreachable")

    def _make_private(self) -> None:
        """Make the folder, unless it is there, and check who may change it. Only the user can change that."""
        with store_errors(self._uri, f"make the cache directory {self._directory}"):
            make_private(self._directory)
        self._is_private = True

    def _path(self, item: Item) -> Path:
        return self._directory / (item.identifier + PurePosixPath(item.relpath).suffix)

    def _download_once(self, item: Item, temporary: Path, advance: Advance | None) -> None:
        arriving: _Arriving | None = None
        try:
            with (
                store_errors(self._uri, f"fetch item {item.relpath!r} into {self._directory}", item=item.relpath),
                open(temporary, "xb", buffering=0, opener=_private) as raw,
            ):
                arriving = _Arriving(raw, self._algorithm, partial(self._check_size, item), advance)
                self._broker.download(item, cast("BinaryIO", arriving))
            self._compare(item, arriving.size, arriving.hexdigest())
        except BaseException as exc:
            if advance is not None and arriving is not None:
                advance(-arriving.size)
            if isinstance(exc, StoreError) and exc.kind == "absent":
                raise MissingItemError(
                    f"expected item {item.relpath!r} ({item.size_in_bytes} bytes), found nothing. "
                    "Restore the dataset from a copy.",
                    uri=self._uri,
                    item=item.relpath,
                ) from exc
            raise

    def _keep(self, temporary: Path, path: Path, item: Item) -> None:
        """Rename a verified file to its final path."""
        inode = temporary.stat().st_ino
        temporary.replace(path)
        kept = mark(path)
        # Another process may have replaced it since.
        if kept.inode == inode:
            self._verified.add(path.name, kept, item.hash)

    def _holds(self, path: Path, item: Item) -> bool:
        """Tell whether a verified copy is at a path. A file is hashed again only if it has changed."""
        try:
            # The folder is private, so this is the file that is opened afterwards.
            status = os.lstat(path)
            found = mark_of(status)
            if found.size != item.size_in_bytes or not stat.S_ISREG(status.st_mode) or not is_trusted(status):
                return False
            if self._verified.knows(path.name, found, item.hash):
                return True
            settled = is_settled(found)
            with open(open_private(path), "rb", buffering=0) as file:
                self._compare(item, found.size, hash_open_file(file, self._algorithm) if self._algorithm else None)
        except (VerificationError, OSError):
            return False
        if settled:
            self._verified.add(path.name, found, item.hash)
        return True

    def _check_size(self, item: Item, size: int) -> None:
        """Raise as soon as an item has more bytes than recorded. Otherwise a hostile dataset could fill the disk."""
        if size > item.size_in_bytes:
            self._compare(item, size, None)

    def _compare(self, item: Item, size: int, found: str | None) -> None:
        """Raise unless an item has its recorded size and, where its hash function is known, hash."""
        same = size == item.size_in_bytes
        if not same or (found is not None and not same_hash(found, item.hash)):
            raise VerificationError(
                f"expected item {item.relpath!r} with {item.size_in_bytes} bytes and hash {item.hash}, "
                f"found {size} bytes{f' and hash {found}' if same else ''}. Restore the dataset from a copy.",
                uri=self._uri,
                item=item.relpath,
            )


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    if (mode := new_file_mode()) != 0o600:
        os.fchmod(descriptor, mode)
    return descriptor


class _Arriving:
    """A writable file that hashes and counts what is written to it.

    Args:
        raw: The unbuffered file to write to.
        algorithm: The hash algorithm. None for no hash.
        check_size: Called with the total number of bytes so far. It raises if they are too many.
        advance: Called with the number of bytes that each write adds.
    """

    def __init__(
        self, raw: io.FileIO, algorithm: str | None, check_size: Callable[[int], None], advance: Advance | None
    ) -> None:
        self._raw = raw
        self._hasher = new_hash(algorithm) if algorithm else None
        self._check_size = check_size
        self._advance = advance
        self.size = 0

    def write(self, data: bytes) -> int:
        """Write all of the data."""
        self.size += len(data)
        if self._advance is not None:
            self._advance(len(data))
        self._check_size(self.size)
        view = memoryview(data)
        while view:
            view = view[self._raw.write(view) :]
        if self._hasher is not None:
            self._hasher.update(data)
        return len(data)

    def hexdigest(self) -> str | None:
        """Return the hash of what was written so far."""
        return None if self._hasher is None else self._hasher.hexdigest()


def in_parallel(
    work: Callable[[Item, Advance], Result], items: list[Item], *, label: str, progress: bool
) -> list[Result]:
    """Call a function with each item, in several threads. The first error stops the rest.

    Args:
        work: The function. It calls its second argument with the number of bytes processed since the last call.
        items: The items.
        label: The text of the progress bar.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The results, in the order of the items.
    """
    if not items:
        return []
    with progress_bar(label, sum(item.size_in_bytes for item in items), enabled=progress) as advance:
        return run_all([partial(work, item, advance) for item in items], THREADS)
