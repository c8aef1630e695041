"""Is a dataset a checkpoint? Asked without torch."""

from lightning_dtool.errors import NotACheckpointError
from lightning_dtool.items import CHECKPOINT_ITEM, RECORD_ITEM
from lightning_dtool.store import FrozenDataset


def require_checkpoint(dataset: FrozenDataset) -> None:
    """Raise an error if a dataset holds no checkpoint.

    Raises:
        NotACheckpointError: If its file or its record is missing.
    """
    relpaths = {item.relpath for item in dataset.items.values()}
    missing = {CHECKPOINT_ITEM, RECORD_ITEM} - relpaths
    if missing:
        raise NotACheckpointError(
            f"{dataset.uri}: expected a checkpoint with the items {CHECKPOINT_ITEM} and {RECORD_ITEM}, found "
            f"{len(relpaths)} items without {' and '.join(sorted(missing))}. "
            "For a data set use DtoolDataset or DtoolDataModule."
        )
