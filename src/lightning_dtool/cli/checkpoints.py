"""What the commands know of a checkpoint without torch, which `DtoolCheckpoint` needs."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_dtool.items import RECORD_ITEM

if TYPE_CHECKING:
    from lightning_dtool.record import Provenance
    from lightning_dtool.store import FrozenDataset


def open_checkpoint(uri: str) -> "FrozenDataset":
    """Open a dataset that holds a checkpoint."""
    from lightning_dtool.opening import require_checkpoint
    from lightning_dtool.store import FrozenDataset

    dataset = FrozenDataset.from_uri(uri)
    require_checkpoint(dataset)
    return dataset


def read_record(dataset: "FrozenDataset") -> "Provenance":
    """Read a checkpoint's record, compared with its hash."""
    from lightning_dtool.record import from_json

    return from_json(verified_path(dataset, RECORD_ITEM).read_bytes(), dataset.uri)


def verified_path(dataset: "FrozenDataset", relpath: str, progress: bool = False) -> Path:
    """Return a local file with an item, compared with its hash."""
    identifier = dataset.item(relpath).identifier
    dataset.fetch([identifier], progress=progress, verify=True)
    return dataset.path(identifier)
