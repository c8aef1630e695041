"""The storage broker for datasets on disk."""

import contextlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dtoolcore.storagebroker import DiskStorageBroker

from lightning_dtool import limits
from lightning_dtool.store import workplaces
from lightning_dtool.store.bounded_metadata import PlainMetadata, parse_json
from lightning_dtool.store.broker import Broker
from lightning_dtool.store.leftovers import Leftover
from lightning_dtool.store.plain_files import read_plain
from lightning_dtool.store.small_files import LinkedFiles, write_small
from lightning_dtool.store.syncing import sync_path, sync_tree
from lightning_dtool.store.workplaces import Workplace

_linked = LinkedFiles()


class DiskBroker(PlainMetadata, DiskStorageBroker, Broker):  # type: ignore[misc]
    """dtool's disk broker, with atomic and durable writes, in UTF-8.

    A new dataset is built in a hidden workplace, and moved to its place when it is complete.
    """

    def __init__(self, uri: str, config_path: str | None = None) -> None:
        super().__init__(uri, config_path)
        self.uri = uri
        self._place = Path(self._abspath)
        self._constant: tuple[str, ...] = ()
        self._workplace: Workplace | None = None

    @classmethod
    def connect(cls, uri: str, *, new: bool = False) -> "DiskBroker":
        """Return a broker for a dataset or a base URI; `new` makes no difference."""
        return cls(uri)

    def data_directory(self) -> Path:
        """Return the directory that holds the items by their paths."""
        return Path(self._data_abspath)

    def _create_structure(self) -> None:
        """Claim the dataset's name, and create the directories in a workplace."""
        self._workplace = workplaces.claim(self._place)
        self._move_to(self._workplace.dataset)
        self._constant = (self.get_structure_key(), self.get_dtool_readme_key())
        try:
            for directory in self._essential_subdirectories:
                os.mkdir(directory)
        except BaseException:
            self.remove()
            raise

    def _move_to(self, root: Path) -> None:
        """Read and write the dataset in this folder from now on."""
        uri = self.uri
        DiskStorageBroker.__init__(self, f"file://{root}")
        self.uri = uri

    def put_text(self, key: str, text: str) -> None:
        """Write a file: atomically and durably in a frozen dataset, where readers may be reading it."""
        if self._workplace is not None:
            # It has all folders, and no reader. Tags are empty, and two texts of dtool are the same in every dataset.
            if not text or key in self._constant:
                place = os.path.join(self._place, os.path.relpath(key, self._abspath))
                _linked.put(key, text.encode(), place)
            else:
                write_small(key, text.encode())
            return
        path = Path(key)
        # Only one level, for old datasets without a folder of tags: a removed dataset must not reappear.
        path.parent.mkdir(exist_ok=True)
        # Not in the same folder: every file in `tags/` is a tag.
        temporary = Path(self._abspath) / ".dtool" / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_path(path.parent)

    def get_admin_metadata(self) -> object:
        """Return the administrative metadata; that of a dataset that is being written says that it is not frozen."""
        try:
            return super().get_admin_metadata()
        except FileNotFoundError:
            found = workplaces.find(self._place)
            if found is None:  # there is nothing, or it was finished meanwhile
                return super().get_admin_metadata()
            relpath = self.relpath_of(self.get_admin_metadata_key())
            unfinished = parse_json(read_plain(self.uri, str(found.dataset), relpath, limits.MAX_ADMIN_METADATA))
            return {**unfinished, "type": "protodataset"} if isinstance(unfinished, dict) else unfinished

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

    def get_utc_timestamp(self, handle: str) -> float:
        """Return the time of the last change. dtool's own method makes a deprecated call."""
        return Path(self._fpath_from_handle(handle)).stat().st_mtime

    def held_items(self) -> dict[str, tuple[int, str]]:
        """Return the sizes of the files in the data directory. Hashing them would only read the page cache."""
        return {relpath: (status.st_size, "") for relpath, status in files_below(Path(self._data_abspath))}

    def remove(self) -> None:
        """Rename the dataset out of sight, then delete it."""
        unfinished = self._workplace or workplaces.find(self._place)
        if unfinished is not None:
            workplaces.give_up(unfinished)
            self._workplace = None
            self._move_to(self._place)
        else:
            workplaces.remove(self._place)

    def check_writable(self) -> None:
        """Create a file and remove it."""
        with tempfile.TemporaryFile(dir=self._abspath):
            pass

    def sync(self) -> None:
        """Sync every file and directory of the dataset."""
        sync_tree(Path(self._abspath))

    def freeze(self, admin_metadata: dict[str, Any]) -> None:
        """Complete the dataset in its workplace, sync it, and move it to its place."""
        assert self._workplace is not None  # noqa: S101 - only a dataset that is being built is frozen
        self.put_admin_metadata(admin_metadata)
        self._seal()
        workplaces.deliver(self._workplace)
        self._workplace = None
        self._move_to(self._place)

    def _seal(self) -> None:
        """Make the items read-only, and everything durable."""
        _make_read_only(Path(self._data_abspath))
        self.sync()

    def unfreeze(self, admin_metadata: dict[str, Any]) -> None:
        """Move the dataset back to a workplace."""
        if self._workplace is None:
            self._workplace = workplaces.take_back(self._place)
            self._move_to(self._workplace.dataset)
        self.put_admin_metadata(admin_metadata)

    @classmethod
    def leftovers(cls, base_uri: str, *, quick: bool = False) -> Iterator[Leftover]:
        """Yield the workplaces below a base URI, the datasets that are being removed, and other proto datasets."""
        return workplaces.leftovers(base_uri, Path(cls(base_uri)._abspath), quick=quick)

    def restore(self, leftover: Leftover) -> None:
        """Move a whole dataset to its place."""
        workplace = workplaces.workplace_of(leftover)
        workplaces.require_free(workplace)
        self._move_to(workplace.dataset)
        try:
            self._seal()
        finally:
            self._move_to(self._place)
        workplaces.deliver(workplace)

    def discard(self, leftover: Leftover) -> None:
        """Remove an unfinished dataset, and the claim of its name."""
        workplaces.give_up(workplaces.workplace_of(leftover))


def _make_read_only(directory: Path) -> None:
    if os.name == "nt":  # there a file that is read-only cannot be removed
        return
    for relpath, status in files_below(directory):
        if not (stat.S_ISREG(status.st_mode) and status.st_mode & 0o222):
            continue
        with contextlib.suppress(OSError):  # a file system without permissions
            (directory / relpath).chmod(stat.S_IMODE(status.st_mode) & ~0o222)


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
