"""The recorded checkpoint that is reproduced, and the present URIs of its data."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath

from lightning_dtool.errors import InvalidURIError, ReproductionError
from lightning_dtool.items import RECORD_ITEM, SOURCE_ITEM
from lightning_dtool.loading.opening import require_checkpoint
from lightning_dtool.record import DatasetReference, Provenance, from_json
from lightning_dtool.store import Addresses, FrozenDataset, local_path, normalize_uri
from lightning_dtool.store.locating import find

MAX_GENERATIONS = 100
"""The largest length of a chain of checkpoints, each of which was resumed from the one before."""


class Original:
    """A recorded checkpoint. All of its dataset is verified when it is opened.

    Args:
        dataset: The checkpoint's dataset.

    Raises:
        NotACheckpointError: If it is not a checkpoint.
        VerificationError: If an item differs from its hashes.
    """

    def __init__(self, dataset: FrozenDataset) -> None:
        require_checkpoint(dataset)
        self.dataset = dataset
        self.items = {item.relpath: identifier for identifier, item in dataset.items.items()}
        if local_path(dataset.uri) is None:
            dataset.fetch()  # verifies what it fetches
        else:
            dataset.verify()

    @classmethod
    def from_uri(cls, uri: str | os.PathLike[str]) -> "Original":
        """Open and verify a checkpoint."""
        return cls(FrozenDataset.from_uri(uri))

    @property
    def uri(self) -> str:
        """Its URI."""
        return self.dataset.uri

    @cached_property
    def record(self) -> Provenance:
        """Its record."""
        return from_json(self.dataset.read_verified(self.items[RECORD_ITEM]), self.uri)

    @property
    def reference(self) -> DatasetReference:
        """The dataset, by address and by content."""
        return DatasetReference.of(self.dataset)

    def path(self, relpath: str) -> Path:
        """Return the local path of an item."""
        return self.dataset.path(self.items[relpath])

    def optional_path(self, relpath: str) -> Path | None:
        """Return the local path of an item; None if there is none."""
        return self.path(relpath) if relpath in self.items else None

    def source(self) -> Path:
        """Return the local path of the recorded source.

        Raises:
            ReproductionError: If there is none.
        """
        found = self.optional_path(SOURCE_ITEM)
        if found is None:
            raise ReproductionError(
                f"expected an item {SOURCE_ITEM} with the code that ran, found none.",
                uri=self.uri,
                item=SOURCE_ITEM,
                kind="no_source",
            )
        return found


@dataclass(frozen=True)
class LocatedData:
    """The present URIs of the recorded data.

    Attributes:
        uris: The present URIs by recorded URI.
        notes: Remarks for the result.
        others: The recorded URIs for which datasets with other content are used.
    """

    uris: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def datasets_of(record: Provenance) -> list[DatasetReference]:
    """Return the datasets that the record names, without duplicates."""
    staged = [source.dataset for sources in record.data.stages.values() for source in sources]
    found = {dataset.uri: dataset for dataset in (*record.lineage.source_datasets, *staged) if dataset is not None}
    return list(found.values())


def locate_data(
    record: Provenance,
    data: Mapping[str, str],
    search: Sequence[str],
    addresses: Addresses,
    skip: Sequence[str] = (),
) -> LocatedData:
    """Find the recorded data, and compare its content with the recorded digests.

    Args:
        record: The record.
        data: Datasets to use in place of recorded ones, by the recorded URI, UUID or name. Their content may differ.
        search: Base URIs to search.
        addresses: Decides which addresses of the record are opened.
        skip: Recorded URIs that are not needed.

    Raises:
        DatasetNotFoundError: If a dataset is not found.
        VerificationError: If the content of a dataset differs from the recorded digest, or an item on this machine from
            its hash, also in a dataset that replaces a recorded one. Items of a remote dataset are verified when they
            are fetched.
    """
    chosen = {normal(name): value for name, value in data.items()}
    found = LocatedData(notes=[])
    for dataset in datasets_of(record):
        recorded = normal(dataset.uri)
        if recorded in skip:
            continue
        new = next((chosen.pop(name) for name in (recorded, dataset.uuid, dataset.name) if name in chosen), None)
        new = new if new is not None else _by_plain_name(chosen, dataset)
        if new is not None:
            given = FrozenDataset.from_uri(new)
            given.verify_once()
            found.uris[recorded] = given.uri
            if given.content_digest != dataset.content_digest:
                found.others.append(recorded)
                found.notes.append(
                    f"trained on other data, as requested: {given.uri} ({given.content_digest}) in place of "
                    f"{dataset.uri} ({dataset.content_digest})"
                )
            continue
        digest = dataset.content_digest
        located = find(dataset.uri, dataset.uuid, content_digest=digest, search=search, addresses=addresses)
        located.verify_once()
        found.uris[recorded] = located.uri
        if located.uri != recorded:
            found.notes.append(f"data {dataset.name} found at {located.uri}, recorded at {dataset.uri}")
    # The rest are datasets that the script opens but the record does not name.
    found.uris.update({name: normalize_uri(value) for name, value in chosen.items()})
    return found


def relocated(uris: Mapping[str, str], places: Sequence[tuple[PurePath, Path]]) -> dict[str, str]:
    """Return the present URIs by recorded URI, and also by each URI that the moved script forms from a relative path.

    Args:
        uris: The present URIs by recorded URI.
        places: Recorded folders, each with the folder that replaces it.
    """
    found = dict(uris)
    for recorded, use in uris.items():
        path = _path_of(recorded)
        if path is None:
            continue
        for before, now in places:
            name = normal(os.path.join(now, os.path.relpath(path, before)))
            found.setdefault(name, use)
    return found


def normal(uri: str) -> str:
    """Return a URI in its canonical form. A URI that no installed broker reads is returned unchanged."""
    try:
        return normalize_uri(uri)
    except InvalidURIError:
        return uri


def _by_plain_name(chosen: dict[str, str], dataset: DatasetReference) -> str | None:
    """Take the dataset that was given for a UUID or a name out of `chosen`, where `normal` made each key a file URI."""
    for name in (dataset.uuid, dataset.name):
        if (key := normal(name)) in chosen:
            return chosen.pop(key)
    return None


def _path_of(uri: str) -> Path | None:
    try:
        return local_path(uri)
    except InvalidURIError:
        return None
