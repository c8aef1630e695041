"""The work of the publishing thread: a dataset for each checkpoint, and what stands at Lightning's paths."""

from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lightning_dtool.errors import LightningDtoolError
from lightning_dtool.items import CHECKPOINT_ITEM, SUPERSEDED_TAG
from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.dataset import Staged, write_dataset
from lightning_dtool.publishing.failures import Failures
from lightning_dtool.publishing.final import has_no_file
from lightning_dtool.publishing.linking import duplicate, free, link, write
from lightning_dtool.publishing.worker import Worker
from lightning_dtool.store import WritingProcess, delete_dataset, local_path

Retention = Literal["mirror", "all"]

_LARGE = 32 * 2**20
"""Bytes of a state above which starting a process for writing pays off."""


class Publisher:
    """Writes checkpoints as datasets, fills the paths that lead to them, and deletes what is no longer kept.

    If publishing fails, the error is added to `failures`, and the checkpoint is kept as a plain file.

    Args:
        base_uri: Where the datasets go.
        account: The account of paths and publications.
        failures: Takes the errors.
        worker: The thread in which datasets are deleted, after what was submitted before.
        retention: `"mirror"` deletes the dataset of a publication that has lost its last path, `"all"` keeps it.
    """

    def __init__(
        self, base_uri: str, account: Account, failures: Failures, worker: Worker, retention: Retention
    ) -> None:
        self._base_uri = base_uri
        self._account = account
        self._failures = failures
        self._worker = worker
        self._retention = retention
        self._process: WritingProcess | None = None

    # -- in the training thread -----------------------------------------------------------------

    def claim(self, path: str, publication: Publication) -> None:
        """Make a path lead to a publication. If another publication thereby loses its last path, retire it.

        Args:
            path: The Trainer's path.
            publication: The publication, whose own task must have been submitted before.
        """
        self._submit_retirement(self._account.claim(path, publication), publication)

    def release(self, path: str) -> None:
        """Detach a path from its publication. If this was the publication's last path, retire the publication.

        Args:
            path: The Trainer's path.
        """
        self._submit_retirement(self._account.release(path), None)

    def _submit_retirement(self, orphan: Publication | None, successor: Publication | None) -> None:
        if orphan is not None and self._retention == "mirror":
            # The worker runs its tasks in order: the successor has been published by then, or has failed.
            self._worker.submit(self._retire, orphan, successor or self._account.publications[-1])

    # -- in the publishing thread ---------------------------------------------------------------

    def publish(self, publication: Publication, staged: Staged, path: str, place: Path | None) -> None:
        """Write a checkpoint as a dataset, and make its path lead there.

        Args:
            publication: The publication; its `dataset`, `file` and `failed` are set.
            staged: The checkpoint and its record.
            path: The Trainer's path.
            place: The same path, if this package fills it. None if another CheckpointIO has written a file there.
        """
        try:
            staged.wait()
            if place is not None and local_path(self._base_uri) is None:
                # A remote store: the user's path holds a file, and this file is uploaded.
                publication.file = _write_file(staged, place)
            process = self.ready_process(staged.nbytes)
            publication.dataset = write_dataset(staged, self._base_uri, publication.name, publication.file, process)
            self.fill(publication, path, place)
            if self._retention == "all":  # other URIs are announced when the run has ended, if their datasets stay
                rank_zero_info(f"Published: {publication.dataset.uri}")
        except Exception as error:  # a store may raise anything, and training continues
            publication.failed = True
            second = _keep_file(publication, staged, place)
            self._failures.add(error, file_kept=None if has_no_file(path) else second is None)
            if second is not None:
                self._failures.add(second, file_kept=False)
        except BaseException:  # Ctrl-C, where training waits for this: no placeholder may stay
            publication.failed = True
            if place is not None and publication.file is None:
                free(place)
            raise

    def fill(self, publication: Publication, path: str, place: Path | None) -> None:
        """Make a path lead to a publication, unless it was released in the meantime.

        Args:
            publication: The publication.
            path: The Trainer's path.
            place: The same path, if this package fills it.
        """
        with self._account.path_held(path, publication) as still_ours:
            if place is None or not still_ours:
                return
            if publication.file is not None:
                if publication.file != place:
                    duplicate(publication.file, place)
            elif publication.dataset is not None:
                item = publication.dataset.item(CHECKPOINT_ITEM)
                link(publication.dataset.path(item.identifier), place)

    def _retire(self, publication: Publication, successor: Publication) -> None:
        """Delete a dataset to which no path leads. If its successor failed, or the store cannot delete, tag it."""
        if publication.dataset is None:
            return
        try:
            if successor is publication or successor.dataset is not None:
                delete_dataset(publication.dataset.uri)
                publication.deleted = True
                return
        except LightningDtoolError:
            pass  # a store that cannot delete
        try:
            publication.dataset.put_tag(SUPERSEDED_TAG)
        except LightningDtoolError as error:
            self._failures.add(error)

    def ready_process(self, nbytes: int) -> WritingProcess | None:
        """Return the process that writes a copy, and start it if necessary.

        Args:
            nbytes: Bytes of the copy.

        Returns:
            The process. None if the copy is small or the store is remote, where threads of this process suffice, or if
            no process can be started or the last one has ended.
        """
        if nbytes < _LARGE or local_path(self._base_uri) is None:
            return None
        if self._process is None:
            try:
                self._process = WritingProcess()
            except OSError:  # a system without shared memory, or without room for one more process
                return None
        # A process that was killed is not started again: the same cause would kill it again.
        return self._process if self._process.usable else None

    def close(self) -> None:
        """End the writing process."""
        if self._process is not None:
            self._process.close()
            self._process = None


def _keep_file(publication: Publication, staged: Staged, place: Path | None) -> Exception | None:
    """Write the plain file that Lightning would have written, as there is no dataset; return the error, if any."""
    if place is None or publication.file is not None:
        return None
    try:
        publication.file = _write_file(staged, place)
    except Exception as error:
        free(place)
        return error
    return None


def _write_file(staged: Staged, place: Path) -> Path:
    write(staged.state, place)
    return place
