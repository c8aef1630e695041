"""The account of publications: which checkpoint became which dataset, and which paths lead to it."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.items import CHECKPOINT_ITEM
from lightning_dtool.record import Provenance
from lightning_dtool.store import FrozenDataset, local_path
from lightning_dtool.store.names import fitting_name

_MAX_LINKS = 40
"""As many symbolic links as Linux follows for one path."""


@dataclass(eq=False)
class Publication:
    """One checkpoint that is, or will be, a dataset.

    Attributes:
        record: Its record, as described at the save.
        name: Name of its dataset.
        paths: The Trainer's paths that lead to it, as absolute paths or remote addresses.
        dataset: The dataset, once it is frozen.
        file: A plain file with the checkpoint, written because the store is remote or because publishing failed.
        failed: Whether publishing failed.
        deleted: Whether the dataset has been deleted since then.
    """

    record: Provenance
    name: str
    paths: set[str]
    dataset: FrozenDataset | None = None
    file: Path | None = None
    failed: bool = False
    deleted: bool = False

    @property
    def uri(self) -> str | None:
        """URI of the dataset. None before it is frozen, and after it was deleted."""
        return self.dataset.uri if self.dataset is not None and not self.deleted else None

    @property
    def local_file(self) -> Path | None:
        """A local file with the checkpoint: the plain file, or the item of a dataset that lies on this machine."""
        if self.file is None and self.dataset is not None and local_path(self.dataset.uri) is not None:
            return self.dataset.path(self.dataset.item(CHECKPOINT_ITEM).identifier)
        return self.file

    def stored_state(self, epoch: int | None, global_step: int | None) -> Mapping[str, Any] | None:
        """Return the state, memory-mapped from the local file that holds it.

        Args:
            epoch: The epoch of the state that is looked for.
            global_step: The step of the state that is looked for.

        Returns:
            The state. None if it is of another epoch or step, or if it cannot be read locally and safely.
        """
        if (self.record.checkpoint.epoch, self.record.checkpoint.global_step) != (epoch, global_step):
            return None
        try:
            path = self.local_file
            return None if path is None else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # anything in the state may refuse a safe load
            return None


class Account:
    """A table of which path leads to which publication.

    A path leads to at most one publication. A publication may have many paths.

    The training thread changes the account. The publishing thread reads it, in `path_held`.
    """

    def __init__(self) -> None:
        self._publications: list[Publication] = []
        self._owners: dict[str, Publication] = {}
        self._latest: tuple[Publication, Mapping[str, Any] | None] | None = None
        self._lock = threading.Lock()

    @property
    def publications(self) -> list[Publication]:
        """All publications, oldest first."""
        return list(self._publications)

    # -- publications -----------------------------------------------------------------------------

    def open(self, record: Provenance, name: str, path: str) -> Publication:
        """Enter a new publication.

        The path may be filled from now on, and leads to the publication once it is claimed.

        Args:
            record: Its record.
            name: Beginning of the dataset's name. A number is added if another publication has this name.
            path: The path to which the Trainer saves the checkpoint.
        """
        publication = Publication(record, self._unique(name), {path})
        self._publications.append(publication)
        return publication

    def _unique(self, name: str) -> str:
        taken = sum(publication.name.startswith(name) for publication in self._publications)
        version = f"-v{taken}" if taken else ""
        return fitting_name(name, version)

    def remember_latest(self, publication: Publication, state: Mapping[str, Any] | None) -> None:
        """Note which publication is the latest.

        Args:
            publication: The publication.
            state: The copy of its state in memory, if there is one.
        """
        self._latest = (publication, state)

    def forget_latest(self) -> None:
        """Drop the latest publication's state: its memory is about to be reused or released."""
        self._latest = None

    @property
    def latest(self) -> tuple[Publication, Mapping[str, Any] | None] | None:
        """The latest publication and its state, as remembered. None if its dataset failed or is no longer kept."""
        if self._latest is None:
            return None
        publication, _ = self._latest
        kept = publication.paths and not publication.failed and not publication.deleted
        return self._latest if kept else None

    # -- paths ------------------------------------------------------------------------------------

    def claim(self, path: str, publication: Publication) -> Publication | None:
        """Make a path lead to a publication, and no longer to another one.

        Args:
            path: The path.
            publication: The publication.

        Returns:
            The publication that has thereby lost its last path, if any.
        """
        if self._owners.get(path) is publication:
            return None
        orphan = self.release(path)
        with self._lock:
            publication.paths.add(path)
        self._owners[path] = publication
        return orphan

    def release(self, path: str) -> Publication | None:
        """Detach a path from the publication to which it leads.

        Args:
            path: The path.

        Returns:
            The publication that has thereby lost its last path, if any.
        """
        publication = self._owners.pop(path, None)
        if publication is None:
            return None
        with self._lock:
            publication.paths.discard(path)
        return None if publication.paths else publication

    def has_path(self, path: str) -> bool:
        """Return True if a path leads to a publication."""
        return path in self._owners

    def publication_for(self, path: str | os.PathLike[str]) -> Publication | None:
        """Return the publication to which a path leads, following symbolic links between paths.

        Args:
            path: A local path, absolute or relative, or a remote address.
        """
        address = os.fspath(path)
        if "://" in address:
            return self._owners.get(address)
        place = Path(os.path.abspath(address))
        for _ in range(_MAX_LINKS):
            if str(place) in self._owners or not place.is_symlink():
                break
            place = Path(os.path.normpath(place.parent / place.readlink()))
        return self._owners.get(str(place))

    @contextmanager
    def path_held(self, path: str, publication: Publication) -> Iterator[bool]:
        """Keep a path from being claimed or released while the block fills it.

        Args:
            path: The path.
            publication: The publication that is about to fill it.

        Yields:
            Whether the path is still the publication's. If not, the block must leave the path alone.
        """
        with self._lock:
            yield path in publication.paths
