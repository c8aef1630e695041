"""The storage broker for datasets on disk."""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dtoolcore.storagebroker import DiskStorageBroker

from lightning_dtool.store.broker import Broker
from lightning_dtool.store.syncing import sync_path, sync_tree


class DiskBroker(DiskStorageBroker, Broker):  # type: ignore[misc]
    """dtool's disk broker, with atomic and durable writes, in UTF-8.

    Attributes:
        durable: Whether each metadata file is synced to the disk when it is written. True by default. Between
            `begin` and `sync` it is False.
    """

    durable = True

    def __init__(self, uri: str, config_path: str | None = None) -> None:
        super().__init__(uri, config_path)
        self.uri = uri

    @classmethod
    def connect(cls, uri: str, *, new: bool = False) -> "DiskBroker":
        """Return a broker for a dataset or a base URI; `new` makes no difference."""
        return cls(uri)

    def data_directory(self) -> Path:
        """Return the directory that holds the items by their paths."""
        return Path(self._data_abspath)

    def begin(self) -> None:
        """Leave files unsynced until `sync`, which syncs all of them at once."""
        self.durable = False

    def _create_structure(self) -> None:
        """Create the directory in one step, so that only one of two writers of the same name succeeds."""
        root = Path(self._abspath)
        root.mkdir()
        try:
            for directory in self._essential_subdirectories:
                Path(directory).mkdir(exist_ok=True)
        except BaseException:
            shutil.rmtree(root)
            raise

    def get_text(self, key: str) -> str:
        """Read a file in UTF-8, independent of the locale."""
        return Path(key).read_text(encoding="utf-8")

    def put_text(self, key: str, text: str) -> None:
        """Write a file atomically."""
        path = Path(key)
        # Only one level, for old datasets without a folder of tags: a removed dataset must not reappear.
        path.parent.mkdir(exist_ok=True)
        # Not in the same folder: every file in `tags/` is a tag.
        temporary = Path(self._abspath) / ".dtool" / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                if self.durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if self.durable:
            sync_path(path.parent)

    def put_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest on one line: Python takes longer to indent JSON than to copy the files.

        The items keep the order in which they are given, so that a reader need not sort them.
        """
        self.put_text(self.get_manifest_key(), json.dumps(manifest))

    def put_overlay(self, overlay_name: str, overlay: dict[str, Any]) -> None:
        """Write an overlay, on one line."""
        self.put_text(self.get_overlay_key(overlay_name), json.dumps(overlay))

    def delete_key(self, key: str) -> None:
        """Remove a file. A missing file is not an error."""
        Path(key).unlink(missing_ok=True)

    def list_overlay_names(self) -> list[str]:
        """Return the names of the overlays, without other files in their folder."""
        return _names_of_json(Path(self._overlays_abspath))

    def list_annotation_names(self) -> list[str]:
        """Return the names of the annotations, without other files in their folder."""
        return _names_of_json(Path(self._annotations_abspath))

    def get_utc_timestamp(self, handle: str) -> float:
        """Return the time of the last change. dtool's own method makes a deprecated call."""
        return Path(self._fpath_from_handle(handle)).stat().st_mtime

    def held_items(self) -> dict[str, tuple[int, str]]:
        """Return the sizes of the files in the data directory. Hashing them would only read the page cache."""
        return {relpath: (status.st_size, "") for relpath, status in files_below(Path(self._data_abspath))}

    def remove(self) -> None:
        """Rename the dataset out of sight, then delete it."""
        root = Path(self._abspath)
        # dtool lists only direct children of a base URI.
        aside = Path(tempfile.mkdtemp(prefix=".removing-", dir=root.parent))
        try:
            root.rename(aside / root.name)
        except BaseException:
            aside.rmdir()
            raise
        shutil.rmtree(aside)

    def check_writable(self) -> None:
        """Create a file and remove it."""
        with tempfile.TemporaryFile(dir=self._abspath):
            pass

    def sync(self) -> None:
        """Sync every file and directory of the dataset, and from then on each file when it is written."""
        sync_tree(Path(self._abspath))
        self.durable = True


def _names_of_json(directory: Path) -> list[str]:
    """Return the names of the JSON files in a directory, without hidden ones. The directory need not exist."""
    if not directory.is_dir():
        return []
    return [path.stem for path in directory.iterdir() if path.suffix == ".json" and not path.name.startswith(".")]


def files_below(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the relative path and the status of every entry below a directory, except directories.

    Args:
        root: The directory. Symbolic links are not followed.
    """
    pending = [(root, "")]
    while pending:
        directory, prefix = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                relpath = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), relpath + "/"))
                else:
                    yield relpath, entry.stat(follow_symlinks=False)
