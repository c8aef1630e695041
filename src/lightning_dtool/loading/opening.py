"""Checkpoint datasets and their records, opened without torch."""

import os
from pathlib import Path

from lightning_dtool.errors import NotACheckpointError
from lightning_dtool.items import CHECKPOINT_ITEM, RECORD_ITEM
from lightning_dtool.record import Provenance, from_json
from lightning_dtool.store import FrozenDataset


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
    """
    relpaths = {item.relpath for item in dataset.items.values()}
    missing = {CHECKPOINT_ITEM, RECORD_ITEM} - relpaths
    if missing:
        raise NotACheckpointError(
            f"expected a checkpoint with the items {CHECKPOINT_ITEM} and {RECORD_ITEM}, found "
            f"{len(relpaths)} items without {' and '.join(sorted(missing))}. "
            "Is this a data set? DtoolDataset and DtoolDataModule read one.",
            uri=dataset.uri,
        )


def verified_path(dataset: FrozenDataset, relpath: str, progress: bool = False) -> Path:
    """Return the path of an item's local file, verified against the item's hash.

    Raises:
        MissingItemError: If there is no such item.
        VerificationError: If its content differs from the hash.
    """
    identifier = dataset.item(relpath).identifier
    dataset.fetch([identifier], progress=progress, verify=True)
    return dataset.path(identifier)


def read_record(dataset: FrozenDataset) -> Provenance:
    """Return a checkpoint's record, verified against its hash.

    Raises:
        VerificationError: If its content differs from the hash.
        RecordError: If it is not a record that this version can read.
    """
    return from_json(verified_path(dataset, RECORD_ITEM).read_bytes(), dataset.uri)
