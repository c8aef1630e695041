"""Checkpoint datasets and their records, opened without torch."""

import os
from pathlib import Path

from lightning_dtool import limits
from lightning_dtool.errors import NotACheckpointError, UnsafeDatasetError
from lightning_dtool.items import (
    CHECKPOINT_ITEM,
    RANDOM_STATES_ITEM,
    RECORD_ITEM,
    REQUIREMENTS_ITEM,
    SOURCE_ITEM,
)
from lightning_dtool.record import Provenance, from_json
from lightning_dtool.store import FrozenDataset, Item


def open_checkpoint(uri: str | os.PathLike[str]) -> FrozenDataset:
    """Open a dataset that holds a checkpoint. Reads only metadata.

    Raises:
        NotACheckpointError: If the dataset holds no checkpoint.
    """
    dataset = FrozenDataset.from_uri(uri)
    require_checkpoint(dataset)
    return dataset


def require_checkpoint(dataset: FrozenDataset) -> None:
    """Check that a dataset holds a checkpoint.

    Raises:
        NotACheckpointError: If the checkpoint file or the record is missing.
        UnsafeDatasetError: If an item that is read into memory is too large.
    """
    items = {item.relpath: item for item in dataset.items.values()}
    relpaths = set(items)
    missing = {CHECKPOINT_ITEM, RECORD_ITEM} - relpaths
    if missing:
        raise NotACheckpointError(
            f"expected a checkpoint with the items {CHECKPOINT_ITEM} and {RECORD_ITEM}, found "
            f"{len(relpaths)} items without {' and '.join(sorted(missing))}. "
            "Is this a data set? DtoolDataset and DtoolDataModule read one.",
            uri=dataset.uri,
        )
    for relpath in _LARGEST.keys() & relpaths:
        _refuse_large(dataset, items[relpath])


_LARGEST = {
    RECORD_ITEM: limits.MAX_RECORD,
    SOURCE_ITEM: limits.MAX_SOURCE_BYTES,
    REQUIREMENTS_ITEM: limits.MAX_REQUIREMENTS,
    RANDOM_STATES_ITEM: limits.MAX_RANDOM_STATES,
}
"""The items that are read into memory, with their largest sizes."""


def _refuse_large(dataset: FrozenDataset, item: Item) -> None:
    most = _LARGEST.get(item.relpath, item.size_in_bytes)
    if item.size_in_bytes > most:
        raise UnsafeDatasetError(
            f"expected at most {most} bytes in {item.relpath}, found {item.size_in_bytes} bytes. Do not use this "
            "dataset; ask its author.",
            uri=dataset.uri,
            item=item.relpath,
        )


def verified_path(dataset: FrozenDataset, relpath: str, progress: bool = False) -> Path:
    """Return the path of an item's local file, verified against the item's hash.

    Raises:
        MissingItemError: If there is no such item.
        VerificationError: If its content differs from the hash.
    """
    item = dataset.item(relpath)
    _refuse_large(dataset, item)
    identifier = item.identifier
    dataset.fetch([identifier], progress=progress, verify=True)
    return dataset.path(identifier)


def read_record(dataset: FrozenDataset) -> Provenance:
    """Return a checkpoint's record, verified against its hash.

    Raises:
        VerificationError: If its content differs from the hash.
        RecordError: If it is not a record that this version can read.
    """
    return from_json(verified_path(dataset, RECORD_ITEM).read_bytes(), dataset.uri)
