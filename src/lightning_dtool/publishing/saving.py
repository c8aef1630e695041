"""What training waits for in a save: a file at Lightning's path, or a checkpoint in flight to it."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dtool.publishing import unpublished
from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.asking import asking_policies, forget_names, tell_of_names
from lightning_dtool.publishing.dataset import Staged
from lightning_dtool.publishing.flight import Flight
from lightning_dtool.publishing.latest import Latest
from lightning_dtool.publishing.linking import Links, duplicate, links_at, write, write_and_open
from lightning_dtool.publishing.publisher import LARGE, Publisher
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.publishing.worker import Worker
from lightning_dtool.record import Provenance
from lightning_dtool.snapshot.copy import snapshot_if_possible, storage_sizes
from lightning_dtool.snapshot.staging import Staging


def is_large(checkpoint: Mapping[str, Any]) -> bool:
    """Return True if a checkpoint may be in flight. A smaller one is serialised before anything else happens.

    Args:
        checkpoint: What Lightning's `dump_checkpoint` returns.
    """
    return sum(storage_sizes(checkpoint)) >= LARGE


def serialised(checkpoint: Mapping[str, Any]) -> bytes:
    """Return a checkpoint as the bytes of a file.

    Args:
        checkpoint: What Lightning's `dump_checkpoint` returns.

    Raises:
        Exception: If it cannot be pickled: the error of `torch.save`.
    """
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    return stream.getvalue()


class Saver:
    """Brings checkpoints to Lightning's paths, and hands them to the publisher. Only the training thread uses it.

    Args:
        account: The account of paths and publications.
        flight: What is in flight.
        worker: The publishing thread.
        publisher: The work of that thread.
        staging: Memory for the copy of a large checkpoint.
        links: How two paths lead to one file.
    """

    def __init__(
        self, account: Account, flight: Flight, worker: Worker, publisher: Publisher, staging: Staging, links: Links
    ) -> None:
        self._account = account
        self._flight = flight
        self._worker = worker
        self._publisher = publisher
        self._staging = staging
        self._links: Links = links
        self._latest = Latest()
        self._told: list[ModelCheckpoint] = []

    def prepare(self, state: Any) -> None:
        """Prepare, in the background, the memory for the copy of a large state, and the process that writes it.

        Args:
            state: What a checkpoint will hold, or a part of it, in nested containers.
        """
        sizes = storage_sizes(state)
        if sum(sizes) >= LARGE:
            self._worker.submit(self._staging.reserve, sizes)
            self._worker.submit(self._publisher.ready_process, sum(sizes))

    def close(self) -> None:
        """Release the memory, and let ModelCheckpoints ask only the file system for names again."""
        self._latest.forget()
        self._staging.release()
        forget_names(self._told)
        self._told = []

    # -- a new checkpoint -------------------------------------------------------------------------

    def save(
        self, record: Provenance, name: str, staged: Staged, path: str, place: Path | None, background: bool
    ) -> None:
        """Put a checkpoint at its path, or let it be in flight there, and publish it.

        Args:
            record: Its record.
            name: The dataset's name, from the account.
            staged: The checkpoint: `content` if it is small, otherwise the `state` that Lightning handed out.
            path: The Trainer's path.
            place: The same path, if this package fills it.
            background: Publish while training continues.
        """
        publication = self._account.open(record, name, path)
        self._latest.forget()
        try:
            in_memory = self._send(publication, staged, path, place, background)
        except BaseException:  # Ctrl-C
            publication.failed = True
            self._flight.not_filled(path, publication)
            raise
        self._latest.remember(publication, in_memory)
        self._publisher.claim(path, publication)

    def _send(
        self, publication: Publication, staged: Staged, path: str, place: Path | None, background: bool
    ) -> Staged | None:
        """Return the checkpoint if its state, or a copy of it, is in memory and does not change."""
        if staged.content is not None:
            ready, limit = self._written(publication, staged, place) or staged, self._staging.limit
            may_wait = background and (limit is None or len(staged.content) <= limit)
        else:
            large = self._written_or_copied(publication, staged, place) if background else None
            ready, may_wait = large or staged, large is not None
        if place is not None and ready.standing is None:
            self._flight.expect(path, publication)
        if may_wait:
            self._publisher.submit(publication, ready, path, place)
        else:  # training waits, and cannot change the state while it is read
            self._worker.wait("Publishing the checkpoint before")  # both threads would retire datasets
            self._publisher.publish(publication, ready, path, place)
        return ready if may_wait or ready.content is not None else None

    def _written_or_copied(self, publication: Publication, staged: Staged, place: Path | None) -> Staged | None:
        """Return a large checkpoint as a file at its path, or as a copy in memory if it may be in flight, or None."""
        policies = asking_policies() if place is not None else []
        if place is None or policies:
            # One copy in memory at a time: if saving outruns the store, training waits here.
            copied = self._copied(staged) if self._worker.wait("Publishing the checkpoint before") else None
            if copied is not None:
                self._tell_of_names(policies)
                return copied
            return self._written(publication, staged, place)
        written = self._written(publication, staged, place)
        if written is None and self._worker.wait("Publishing the checkpoint before"):
            return self._copied(staged)
        return written

    def _written(self, publication: Publication, staged: Staged, place: Path | None) -> Staged | None:
        """Write a checkpoint to its path. None if it has none, or if that is impossible."""
        if place is None:
            return None
        stream = None
        try:
            if staged.content is not None:
                write(staged.put_into, place)
            else:
                stream = write_and_open(staged.put_into, place)
            publication.standing, publication.reached = StandingFile.at(place), True
        except (OSError, RuntimeError):  # torch's error for a file that takes no more; another attempt tells the reason
            return None
        self._flight.filled(str(place))
        unpublished.discard(place)
        return replace(staged, state=None, stream=stream, standing=publication.standing)

    def _copied(self, staged: Staged) -> Staged | None:
        assert staged.state is not None  # noqa: S101 - only large states are copied
        copied = snapshot_if_possible(staged.state, self._staging)
        if copied is None:
            return None
        return replace(staged, state=copied, wait=self._staging.wait, nbytes=self._staging.nbytes)

    def _tell_of_names(self, policies: list[ModelCheckpoint]) -> None:
        tell_of_names(policies, self._flight.exists)
        self._told += [policy for policy in policies if policy not in self._told]

    # -- a checkpoint that is the latest one once more --------------------------------------------

    def share(self, checkpoint: Mapping[str, Any], path: str, place: Path | None, background: bool) -> bool:
        """Make a path lead to the latest publication, if that holds the same state.

        Args:
            checkpoint: What Lightning's `dump_checkpoint` returns.
            path: The Trainer's path.
            place: The same path, if this package fills it.
            background: Whether the path may be filled while training continues.

        Returns:
            False if the state is another one, or if the latest publication has no whole file: then save it.
        """
        same = self._latest.same_as(checkpoint, path)
        if same is None:
            return False
        if place is None:
            self._publisher.claim(path, same)
            return True
        if same.local_file is None:  # in flight
            policies = asking_policies()
            if policies and background:
                self._tell_of_names(policies)
                self._account.admit(path, same)
                self._flight.expect(path, same)
                # Before the claim, which may retire the dataset to which the path leads until it is filled.
                self._worker.submit(self._publisher.fill, same, path, place)
                self._publisher.claim(path, same)
                return True
            if not self._worker.wait("Publishing the same checkpoint") or same.failed:
                return False
        source = same.local_file
        if source is None:
            return False
        try:
            duplicate(source, place, links_at(place, self._links))
        except OSError as error:
            if not source.exists():
                return False
            self._publisher.cannot_fill(same, path, error)
        else:
            same.reached = True
            self._account.admit(path, same)
            self._flight.filled(path)
            unpublished.discard(place)
            self._worker.submit(self._publisher.fill, same, path, place)
        self._publisher.claim(path, same)
        return True
