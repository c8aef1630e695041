"""The evidence for the points of the checklist: the record, its dataset and the training data."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_dtool.record import DataSource, Gap, Provenance
from lightning_dtool.results.checklist.findings import RECORD_AGAIN, Result, fails, passes


@dataclass(frozen=True)
class DataDescription:
    """The metadata of a training dataset, as found at its URI.

    Attributes:
        uri: The URI in the record.
        problem: Why the dataset could not be opened; empty if it could be.
        is_offline: Whether it was not even looked at, because only the record names this URI.
        uuid: The UUID of the dataset at that URI.
        content_digest: The content digest of that dataset.
        readme: Its README.yml; None if that is not a YAML mapping.
        overlays: The names of its overlays.
        annotations: The names of its annotations.
    """

    uri: str
    problem: str = ""
    is_offline: bool = False
    uuid: str | None = None
    content_digest: str | None = None
    readme: Mapping[str, Any] | None = None
    overlays: Sequence[str] = ()
    annotations: Sequence[str] = ()


@dataclass(frozen=True)
class Evidence:
    """The evidence for all points.

    Attributes:
        record: The record.
        data: The metadata of the training datasets that were inspected, by URI.
        items: The paths of the items in the dataset of the record; None if they are unknown.
    """

    record: Provenance
    data: Mapping[str, DataDescription]
    items: Collection[str] | None

    def sources(self, *stages: str) -> list[DataSource]:
        """Return the data sources of these stages."""
        return [source for stage in stages for source in self.record.data.stages.get(stage, [])]

    def gaps(self, *facts: str) -> list[Gap]:
        """Return the gaps of these facts of the record, or of parts of them."""
        return [
            gap
            for gap in self.record.gaps
            if any(gap.fact == fact or gap.fact.startswith((f"{fact}.", f"{fact}[")) for fact in facts)
        ]


Judge = Callable[[Evidence], Result]
"""A function that judges one point."""


@dataclass(frozen=True)
class Point:
    """One point of the checklist: its name, group and title, as in a `Finding`, and how it is judged."""

    key: str
    group: str
    title: str
    judge: Judge


def with_item(evidence: Evidence, item: str, found: str) -> Result:
    """Return a failure if the dataset is known to lack an item that the record mentions, or else a pass."""
    if evidence.items is not None and item not in evidence.items:
        return fails(f"the dataset has no {item}", RECORD_AGAIN)
    return passes(found)
