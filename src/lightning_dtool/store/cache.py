"""The local cache of remote items: verified, and shared by several processes."""

import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from lightning_dtool.errors import MissingItemError, StoreError, VerificationError
from lightning_dtool.store.brokers import Broker, dtool_cache_directory
from lightning_dtool.store.digest import algorithm_of, hash_file, same_hash
from lightning_dtool.store.faults import is_absent, store_errors
from lightning_dtool.store.manifest import Item
from lightning_dtool.store.progress import progress_bar

# dtool's own entries, which nobody verifies, lie beside this one.
_SUBDIRECTORY = "lightning-dtool"
_THREADS = 8
_ATTEMPTS = 3

# Files that this process has hashed: (inode, time of change, size) by path.
_verified: dict[str, tuple[int, int, int]] = {}

Result = TypeVar("Result")


def cache_directory() -> Path:
    """Return where remote items are kept: below dtool's own cache (`DTOOL_CACHE_DIRECTORY`)."""
    return dtool_cache_directory() / _SUBDIRECTORY


class Cache:
    """The cached items of one remote dataset.

    An item is downloaded under a name of its own, verified by size and hash, and only then moved to where
    others find it. Processes that need it at the same time each fetch it; the last one to finish wins, with
    the same content.
    """

    def __init__(self, uri: str, uuid: str, broker: Broker, hash_function: str) -> None:
        self._uri = uri
        self._broker = broker
        self._algorithm = algorithm_of(hash_function)
        self._directory = cache_directory() / uuid

    def path(self, item: Item) -> Path:
        """Return a verified local copy of an item, fetched if it is not there yet.

        Args:
            item: The item.

        Raises:
            MissingItemError: If the store does not hold it.
            VerificationError: If its content is not what the manifest says.
            StoreError: If the store or the cache cannot be used.
        """
        path = self._path(item)
        return path if self._holds(path, item) else self.download(item)

    def fetch(self, items: Iterable[Item], *, progress: bool) -> None:
        """Fetch items, several at a time.

        Args:
            items: The items.
            progress: Whether to show a progress bar on a terminal.
        """
        in_parallel(self.path, list(items), label="Fetching", progress=progress)

    def download(self, item: Item) -> Path:
        """Fetch an item from the store, even if a copy is there.

        Args:
            item: The item.

        Returns:
            The verified copy.
        """
        path = self._path(item)
        with store_errors(self._uri, f"make the cache directory {self._directory}"):
            self._directory.mkdir(parents=True, exist_ok=True)
        for remaining in reversed(range(_ATTEMPTS)):
            # A name of its own, so that no other process or thread writes to the same file.
            temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
            try:
                self._download_once(item, temporary)
                with store_errors(self._uri, f"keep item {item.relpath!r} in {self._directory}"):
                    _verified[str(path)] = _mark(temporary)
                    temporary.replace(path)
                    return path
            except VerificationError:
                # It may have been wrong on the way, or in dtool's own cache.
                with store_errors(self._uri, f"drop a wrong copy of item {item.relpath!r}"):
                    self._broker.forget(item)
                if not remaining:
                    raise
            finally:
                temporary.unlink(missing_ok=True)
        raise AssertionError("unreachable")

    def _path(self, item: Item) -> Path:
        return self._directory / (item.identifier + PurePosixPath(item.relpath).suffix)

    def _download_once(self, item: Item, temporary: Path) -> None:
        try:
            with store_errors(self._uri, f"fetch item {item.relpath!r} into {self._directory}"):
                self._broker.download(item, temporary)
                self._check(temporary, item)
        except StoreError as exc:
            if exc.__cause__ is not None and is_absent(exc.__cause__):
                raise MissingItemError(
                    f"{self._uri}: expected item {item.relpath!r} ({item.size_in_bytes} bytes), found nothing. "
                    "Restore the dataset from a copy."
                ) from exc
            raise

    def _holds(self, path: Path, item: Item) -> bool:
        """Tell whether a verified copy lies at a path; it is hashed once per process and version."""
        try:
            mark = _mark(path)
        except OSError:
            return False
        if mark[2] != item.size_in_bytes:
            return False
        if _verified.get(str(path)) == mark:
            return True
        try:
            self._check(path, item)
        except (VerificationError, OSError):
            return False
        _verified[str(path)] = mark
        return True

    def _check(self, path: Path, item: Item) -> None:
        size = path.stat().st_size
        found = hash_file(path, self._algorithm) if self._algorithm and size == item.size_in_bytes else ""
        if size != item.size_in_bytes or (self._algorithm and not same_hash(found, item.hash)):
            raise VerificationError(
                f"{self._uri}: expected item {item.relpath!r} with {item.size_in_bytes} bytes and hash {item.hash}, "
                f"found {size} bytes{f' and hash {found}' if found else ''}. Restore the dataset from a copy."
            )


def in_parallel(work: Callable[[Item], Result], items: list[Item], *, label: str, progress: bool) -> list[Result]:
    """Do something with each item in a few threads; the first error stops the rest.

    Args:
        work: What to do.
        items: The items.
        label: What goes on, for the progress bar.
        progress: Whether to show one on a terminal.

    Returns:
        The results, in the order of the items.
    """
    if not items:
        return []
    with (
        progress_bar(label, sum(item.size_in_bytes for item in items), enabled=progress) as advance,
        ThreadPoolExecutor(min(_THREADS, len(items))) as pool,
    ):

        def step(item: Item) -> Result:
            result = work(item)
            advance(item.size_in_bytes)
            return result

        futures = [pool.submit(step, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _mark(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
