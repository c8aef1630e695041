"""The work of the publishing thread: a dataset for each checkpoint, and what stands at Lightning's paths."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lightning_dtool.errors import PublishError
from lightning_dtool.publishing import unpublished
from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.dataset import Staged, write_dataset
from lightning_dtool.publishing.failures import Failures
from lightning_dtool.publishing.final import has_no_file
from lightning_dtool.publishing.flight import Flight
from lightning_dtool.publishing.linking import Links, duplicate, exchange, link, links_at, write
from lightning_dtool.publishing.retiring import Retirement
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.publishing.worker import Worker
from lightning_dtool.store import FrozenDataset, WritingProcess, local_path
from lightning_dtool.store.places import leave_note, take_note

Retention = Literal["mirror", "all"]

LARGE = 32 * 2**20
"""Bytes of a state from which it may be in flight, and from which starting a process for writing pays off."""

_MAX_QUEUED = 32
_MAX_QUEUED_BYTES = 4 * LARGE
"""Limits of what waits to be published. Training waits when they are reached."""


class Publisher:
    """Writes checkpoints as datasets, fills the paths that lead to them, and has retired what is no longer kept.

    If publishing fails, the error is added to `failures`, and the checkpoint is kept as a plain file.

    Args:
        base_uri: Where the datasets go.
        account: The account of paths and publications.
        flight: What is in flight.
        failures: Takes the errors.
        worker: The thread in which datasets are written and deleted, one after the other.
        retention: `"mirror"` deletes the dataset of a publication that has lost its last path, `"all"` keeps it.
        links: How paths lead to items.
    """

    def __init__(
        self,
        base_uri: str,
        account: Account,
        flight: Flight,
        failures: Failures,
        worker: Worker,
        retention: Retention,
        links: Links,
    ) -> None:
        self._base_uri = base_uri
        self._is_local = local_path(base_uri) is not None
        self._account = account
        self._flight = flight
        self._failures = failures
        self._worker = worker
        self._retention = retention
        self._links: Links = links
        self._process: WritingProcess | None = None
        self._latest: FrozenDataset | None = None
        self._queued: dict[Publication, tuple[Staged, str, Path | None]] = {}
        self._begun: Publication | None = None
        self._lock = threading.Lock()
        self._retirement = Retirement(flight, failures)
        self._unpublished: set[Path] = set()
        self._note: str | None = None

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
            self._worker.submit(self._retirement.retire, orphan, successor or self._account.publications[-1])

    def submit(self, publication: Publication, staged: Staged, path: str, place: Path | None) -> None:
        """Publish in the publishing thread. If that hangs, keep the plain file and do not wait for it.

        Args:
            publication: The publication.
            staged: The checkpoint and its record.
            path: The Trainer's path.
            place: The same path, if this package fills it.
        """
        size = len(staged.content or b"")
        if not self._worker.wait("Publishing checkpoints", until=lambda: self._has_room_for(size)):
            self._give_up(publication, staged, path, place)
            staged.close()
            return
        with self._lock:
            self._queued[publication] = (staged, path, place)
        self._worker.submit(self._publish_queued, publication)

    def _has_room_for(self, size: int) -> bool:
        with self._lock:
            waiting = [len(staged.content or b"") for staged, _, _ in self._queued.values()]
        return not waiting or (len(waiting) < _MAX_QUEUED and sum(waiting) + size <= _MAX_QUEUED_BYTES)

    def give_up(self) -> None:
        """Keep plain files of what is not published yet. The publishing thread does not begin with it any more."""
        with self._lock:
            queued, self._queued, begun = self._queued, {}, self._begun
        for publication, (staged, path, place) in queued.items():
            self._give_up(publication, staged, path, place)
            if publication is not begun:
                staged.close()

    def _give_up(self, publication: Publication, staged: Staged, path: str, place: Path | None) -> None:
        error = PublishError(
            f"the store did not finish within {self._worker.timeout:g} seconds, or waiting for it was interrupted",
            uri=self._base_uri,
        )
        self._fail(publication, staged, path, place, error)

    # -- in the publishing thread ---------------------------------------------------------------

    def _publish_queued(self, publication: Publication) -> None:
        with self._lock:
            queued = self._queued.get(publication)
            if queued is None:  # given up
                return
            self._begun = publication
        try:
            self.publish(publication, *queued, is_wanted=lambda: publication in self._queued)
        finally:
            queued[0].close()
            with self._lock:
                self._begun = None
                self._queued.pop(publication, None)

    def publish(
        self,
        publication: Publication,
        staged: Staged,
        path: str,
        place: Path | None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Write a checkpoint as a dataset, and make its path lead there.

        Args:
            publication: The publication; what becomes of it is noted there.
            staged: The checkpoint and its record.
            path: The Trainer's path.
            place: The same path, if this package fills it. None if another CheckpointIO has written a file there.
            is_wanted: Whether the error of this publication is still to be reported.
        """
        if self._retention == "mirror" and not publication.paths:
            publication.omitted = True
            self._flight.dropped(path, publication)
            return
        try:
            staged.wait()
            if place is not None and not self._is_local and staged.standing is None:
                # A remote store: the user's path holds a file, and this file is uploaded.
                staged = self._stand(publication, staged, place)
            if self._note is None:
                self._note = leave_note(self._base_uri)
            process = self.ready_process(staged.nbytes)
            links = self._links if place is None else links_at(place, self._links)
            dataset = write_dataset(staged, self._base_uri, publication.name, process, links, self._latest)
        except Exception as error:  # a store may raise anything, and training continues
            if is_wanted():
                self._fail(publication, staged, path, place, error)
            return
        except BaseException:  # Ctrl-C, where training waits for this
            publication.failed = True
            self._flight.not_filled(path, publication)
            raise
        self._latest = dataset
        publication.froze(dataset)
        publication.failed = False
        if place is not None:
            unpublished.discard(place)
        self.fill(publication, path, place)
        if self._retention == "all":  # other URIs are announced when the run has ended, if their datasets stay
            rank_zero_info(f"Published: {dataset.uri}")

    def _stand(self, publication: Publication, staged: Staged, place: Path) -> Staged:
        """Write the plain file that Lightning would have written, unless its path was released in the meantime."""
        if not write(staged.put_into, place, self._account.path_held(str(place), publication)):
            self._flight.dropped(str(place), publication)
            return staged
        publication.standing, publication.reached = StandingFile.at(place), True
        self._flight.filled(str(place), publication)
        return replace(staged, standing=publication.standing)

    def _fail(self, publication: Publication, staged: Staged, path: str, place: Path | None, error: Exception) -> None:
        """Note an error, and keep what a later attempt needs: the plain file, and the record beside it."""
        publication.failed = True
        if place is None:
            self._flight.dropped(path, publication)
            self._failures.add(error, file_kept=None if has_no_file(path) else True)
            return
        second: Exception | None = None
        if publication.standing is None and not publication.unfilled:
            try:
                staged = self._stand(publication, staged, place)
            except Exception as found:
                second = found
                self._flight.not_filled(path, publication)
        kept_for_later = False
        if second is None and publication.standing is not None and publication.standing.is_there():
            kept_for_later = unpublished.keep(staged, self._base_uri, publication.name, publication.standing)
            self._unpublished.add(publication.standing.path)
        is_kept = second is None and publication.standing is not None
        self._failures.add(error, file_kept=is_kept, folder=place.parent if kept_for_later else None)
        if second is not None:
            self._failures.add(second, file_kept=False)

    def fill(self, publication: Publication, path: str, place: Path | None) -> None:
        """Make a path lead to a publication, unless it was released in the meantime.

        Args:
            publication: The publication.
            path: The Trainer's path.
            place: The same path, if this package fills it.
        """
        with self._account.path_held(path, publication) as still_ours:
            if place is None:
                publication.reached = True
            elif not still_ours:
                self._flight.dropped(path, publication)
                return
            try:
                if place is not None and self._lead(publication, path, place):
                    publication.reached = True
                    self._flight.filled(path, publication)
            except OSError as error:
                self.cannot_fill(publication, path, error)
        self._retirement.succeed(publication)

    def cannot_fill(self, publication: Publication, path: str, error: OSError) -> None:
        """Note that a path keeps what it had, though its checkpoint is published.

        Args:
            publication: The publication.
            path: The Trainer's path.
            error: Why.
        """
        publication.unfilled = True
        self._flight.not_filled(path, publication)
        self._failures.add_unfilled(path, error)

    def _lead(self, publication: Publication, path: str, place: Path) -> bool:
        """Make a path lead to a publication, and return False if it did so before."""
        standing, item, links = publication.standing, publication.item, links_at(place, self._links)
        if self._flight.awaits(path):
            if standing is not None and standing.is_there():
                duplicate(standing.path, place, links)
            elif item is not None:
                link(item, place, links)
            else:  # the checkpoint that this path shares with another one could be written nowhere
                self._flight.not_filled(path, publication)
                return False
            return True
        holds_it = standing is not None and StandingFile(place, standing.identity).is_there()
        if holds_it and item is not None and links == "auto":
            # If it is not the item itself, the base URI lies on another file system, or the store seemed to hang.
            with contextlib.suppress(OSError):  # without links, two copies stay
                if not item.samefile(place):
                    exchange(item, place)
        return False

    def settle(self) -> None:
        """Tag what a training leaves without a successor. It is deleted once a later checkpoint is published."""
        self._retirement.settle()

    def ready_process(self, nbytes: int) -> WritingProcess | None:
        """Return the process that writes a copy, and start it if necessary.

        Args:
            nbytes: Bytes of the copy.

        Returns:
            The process. None if the copy is small or the store is remote, where threads of this process suffice, or if
            no process can be started or the last one has ended.
        """
        if nbytes < LARGE or not self._is_local:
            return None
        if self._process is None:
            try:
                self._process = WritingProcess()
            except OSError:  # a system without shared memory, or without room for one more process
                return None
        # A process that was killed is not started again: the same cause would kill it again.
        return self._process if self._process.usable else None

    def close(self) -> None:
        """End the writing process, and leave to others what could not be finished."""
        if not self._worker.busy:  # else the thread may still publish it
            for path in self._unpublished:
                unpublished.release(path)
            self._unpublished.clear()
            if self._note:
                take_note(self._base_uri, self._note)
            self._note = None
        if self._process is not None:
            self._process.close()
            self._process = None
