"""The files that hold the items of a dataset on disk."""

import os
import stat
from pathlib import Path

from lightning_dtool.errors import MissingItemError, StoreError, UnsafeDatasetError
from lightning_dtool.store.faults import kind_of
from lightning_dtool.store.item import Item


class LocalItems:
    """The items of a dataset on disk. No link leads out of the dataset.

    Args:
        uri: The dataset, for messages.
        root: The directory that holds the items.
    """

    def __init__(self, uri: str, root: Path) -> None:
        self.root = root
        self._uri = uri
        self._plain_directories: set[str] = set()

    def path(self, item: Item) -> str:
        """Return the path of an item's file.

        Args:
            item: The item.

        Raises:
            MissingItemError: If there is no such file.
            UnsafeDatasetError: If it is a symbolic link that leads outside the dataset, or is not a plain file.
            StoreError: If the directory cannot be read.
        """
        relpath = item.relpath
        path = f"{self.root}/{relpath}"
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode) or self._has_linked_parent(relpath):
                target = os.path.realpath(path)
                if not _is_below(target, os.path.realpath(self.root)):
                    raise UnsafeDatasetError(
                        f"expected item {relpath!r} inside the dataset, found a link to {target}. "
                        "Do not use this dataset; ask its author.",
                        uri=self._uri,
                        item=relpath,
                    )
                status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise missing_item(self._uri, item) from exc
        except OSError as exc:
            raise unreadable_item(self._uri, item, exc) from exc
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeDatasetError(
                f"expected a plain file as item {relpath!r}, found something else at {path}. "
                "Restore the dataset from a copy.",
                uri=self._uri,
                item=relpath,
            )
        return path

    def _has_linked_parent(self, relpath: str) -> bool:
        """Tell whether a directory between the data and an item is a symbolic link."""
        parent = relpath.rpartition("/")[0]
        if not parent or parent in self._plain_directories:
            return False
        if stat.S_ISLNK(os.lstat(f"{self.root}/{parent}").st_mode) or self._has_linked_parent(parent):
            return True
        self._plain_directories.add(parent)
        return False


def check_root(uri: str, root: Path) -> Path:
    """Return the directory that holds the items of a dataset, unless it is a link that leads out of the dataset.

    Args:
        uri: The dataset's normalized URI.
        root: The directory as the storage broker names it.

    Raises:
        UnsafeDatasetError: If it is such a link.
    """
    if not uri.startswith("file://"):
        return Path(os.path.realpath(root))
    if root.is_symlink() and not _is_below(os.path.realpath(root), os.path.realpath(root.parent)):
        raise UnsafeDatasetError(
            f"expected a directory at {root}, found a link to {os.path.realpath(root)}. "
            "Do not use this dataset; ask its author.",
            uri=uri,
        )
    return root


def missing_item(uri: str, item: Item) -> MissingItemError:
    """Return the error for an item that the store does not hold."""
    return MissingItemError(
        f"expected item {item.relpath!r} ({item.size_in_bytes} bytes), found nothing. Restore the dataset from a copy.",
        uri=uri,
        item=item.relpath,
    )


def unreadable_item(uri: str, item: Item, exc: OSError) -> StoreError:
    """Return the error for an item whose file cannot be read."""
    error = StoreError(
        f"cannot read item {item.relpath!r}: {exc}. Check who may read it.",
        uri=uri,
        item=item.relpath,
        kind=kind_of(exc),
    )
    error.errno = exc.errno
    return error


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)
