"""The part of a checkpoint's dataset that is compared with another's, without its weights."""

from lightning_dtool.items import REQUIREMENTS_ITEM, SOURCE_ITEM
from lightning_dtool.loading.opening import read_record, verified_path
from lightning_dtool.loading.unpacking import read_sources
from lightning_dtool.results.differences import Content
from lightning_dtool.store import FrozenDataset


def read_content(dataset: FrozenDataset) -> Content:
    """Return a checkpoint's record, code and packages, each verified against its hash.

    Args:
        dataset: The checkpoint's dataset.

    Raises:
        VerificationError: If an item differs from its hash.
        CorruptDatasetError: If `source.zip` cannot be read.
        RecordError: If the record cannot be read.
    """
    relpaths = {item.relpath for item in dataset.items.values()}
    sources = requirements = None
    if SOURCE_ITEM in relpaths:
        sources = read_sources(verified_path(dataset, SOURCE_ITEM).read_bytes(), dataset.uri)
    if REQUIREMENTS_ITEM in relpaths:
        requirements = verified_path(dataset, REQUIREMENTS_ITEM).read_text(encoding="utf-8", errors="replace")
    return Content(read_record(dataset), sources, requirements)
