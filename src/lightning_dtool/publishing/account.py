"""The account of publications: which checkpoint became which dataset, and which paths lead to it."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lightning_dtool.items import CHECKPOINT_ITEM
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.record import Provenance
from lightning_dtool.store import FrozenDataset, local_path
from lightning_dtool.store.names import fitting_name

_MAX_LINKS = 40
"""As many symbolic links as Linux follows for one path."""


@dataclass(eq=False)
class Publication:
    """One checkpoint that is, or will be, a dataset.

    A run may save many thousands, so it holds no more than what is asked of it later.

    Attributes:
        name: Name of its dataset.
        paths: The Trainer's paths that lead to it, as absolute paths or remote addresses.
        run_uuid: UUID of the run that saved it.
        epoch: Its epoch.
        global_step: Its step.
        saved_at: When it was saved.
        dataset_uri: URI of the dataset, once it is frozen.
        item: The local file of the dataset's checkpoint, if the dataset lies on this machine.
        standing: The plain file that was saved at a path.
        failed: Whether publishing failed.
        unfilled: Whether one of its paths could not be filled.
        reached: Whether one of its paths has led to it.
        omitted: Whether no dataset was made, because no path led to it any more when its turn came.
        deleted: Whether the dataset has been deleted since then.
    """

    name: str
    paths: set[str]
    run_uuid: str
    epoch: int
    global_step: int
    saved_at: datetime
    dataset_uri: str | None = None
    item: Path | None = None
    standing: StandingFile | None = None
    failed: bool = False
    unfilled: bool = False
    reached: bool = False
    omitted: bool = False
    deleted: bool = False

    @property
    def uri(self) -> str | None:
        """URI of the dataset. None before it is frozen, and after it was deleted."""
        return None if self.deleted else self.dataset_uri

    @property
    def local_file(self) -> Path | None:
        """A local file with the whole checkpoint: the plain file, or the item of a dataset on this machine."""
        if self.standing is not None and self.standing.is_there():
            return self.standing.path
        return self.item if not self.deleted else None

    def froze(self, dataset: FrozenDataset) -> None:
        """Note the dataset.

        Args:
            dataset: The dataset.
        """
        if local_path(dataset.uri) is not None:
            self.item = dataset.path(dataset.item(CHECKPOINT_ITEM).identifier)
        self.dataset_uri = dataset.uri


class Account:
    """A table of which path leads to which publication.

    A path leads to at most one publication. A publication may have many paths.

    The training thread changes the account. The publishing thread reads it, in `path_held`.
    """

    def __init__(self) -> None:
        self._publications: list[Publication] = []
        self._names: Counter[str] = Counter()
        self._owners: dict[str, Publication] = {}
        self._lock = threading.Lock()

    @property
    def publications(self) -> list[Publication]:
        """All publications, oldest first."""
        return list(self._publications)

    # -- publications -----------------------------------------------------------------------------

    def new_name(self, name: str) -> str:
        """Return a name that no other publication has.

        Args:
            name: Beginning of the name. A number is added if it was asked for before.
        """
        number = self._names[name]
        self._names[name] += 1
        return fitting_name(name, f"-v{number}" if number else "")

    def open(self, record: Provenance, name: str, path: str) -> Publication:
        """Enter a new publication.

        The path may be filled from now on, and leads to the publication once it is claimed.

        Args:
            record: Its record.
            name: The dataset's name, from `new_name`.
            path: The path to which the Trainer saves the checkpoint.
        """
        of = record.checkpoint
        publication = Publication(name, {path}, record.run.uuid, of.epoch, of.global_step, of.saved_at)
        self._publications.append(publication)
        return publication

    # -- paths ------------------------------------------------------------------------------------

    def admit(self, path: str, publication: Publication) -> None:
        """Let a path be filled for a publication before it is claimed, as `open` does for the first path.

        Args:
            path: The path.
            publication: The publication.
        """
        with self._lock:
            publication.paths.add(path)

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
        self.admit(path, publication)
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
