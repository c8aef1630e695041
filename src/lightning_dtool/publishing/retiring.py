"""The datasets that training keeps no longer: deleted once a later checkpoint is whole at its path."""

from lightning_dtool.errors import LightningDtoolError
from lightning_dtool.items import SUPERSEDED_TAG
from lightning_dtool.publishing.account import Publication
from lightning_dtool.publishing.failures import Failures
from lightning_dtool.publishing.flight import Flight
from lightning_dtool.store import FrozenDataset, delete_dataset


class Retirement:
    """Deletes the datasets of orphans. The publishing thread uses it, or the training thread while that has no work.

    Args:
        flight: What is in flight.
        failures: Takes the errors.
    """

    def __init__(self, flight: Flight, failures: Failures) -> None:
        self._flight = flight
        self._failures = failures
        self._not_succeeded: list[Publication] = []

    def retire(self, orphan: Publication, successor: Publication) -> None:
        """Delete a dataset to which no path leads, once its successor is whole at its path.

        If the successor failed, or the store cannot delete, tag the dataset.

        Args:
            orphan: The publication that has lost its last path.
            successor: The one that took the path, or the latest one.
        """
        if orphan.dataset_uri is None:
            return
        # A path that was never filled for the successor may still lead here, or one whose removal waits.
        is_whole = successor.reached and not successor.unfilled and not self._flight.holds_back
        may_lead_here = orphan.reached and not is_whole
        if successor is orphan or (successor.dataset_uri is not None and not may_lead_here):
            self._delete(orphan)
        elif successor.omitted or successor.dataset_uri is not None:
            self._not_succeeded.append(orphan)
        else:
            self._supersede(orphan)

    def succeed(self, publication: Publication) -> None:
        """Delete the orphans that had no successor until now.

        Args:
            publication: A publication whose path was filled, or could not be.
        """
        if publication.dataset_uri is None:
            return
        is_whole = publication.reached and not self._flight.holds_back
        kept = [orphan for orphan in self._not_succeeded if orphan.reached and not is_whole]
        for orphan in self._not_succeeded:
            if orphan not in kept:
                self._delete(orphan)
        self._not_succeeded = kept

    def settle(self) -> None:
        """Tag what a training leaves without a successor. It is deleted once a later checkpoint is published."""
        for orphan in self._not_succeeded:
            self._supersede(orphan)

    def _delete(self, orphan: Publication) -> None:
        try:
            delete_dataset(str(orphan.dataset_uri))
            orphan.deleted = True
        except LightningDtoolError:  # a store that cannot delete
            self._supersede(orphan)

    def _supersede(self, orphan: Publication) -> None:
        try:
            FrozenDataset.from_uri(str(orphan.dataset_uri)).put_tag(SUPERSEDED_TAG)
        except LightningDtoolError as error:
            self._failures.add(error)
