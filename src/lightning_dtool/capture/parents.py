"""The datasets from which the weights of a run came."""

import os
from collections.abc import Iterable
from pathlib import Path

from lightning_dtool.errors import LightningDtoolError
from lightning_dtool.items import CHECKPOINT_ITEM, DATASET_KEY, RESUMPTION_SECTION
from lightning_dtool.loading.weights import read_checkpoint
from lightning_dtool.record import DatasetReference, WeightsSource
from lightning_dtool.store import Addresses, FrozenDataset, is_dataset_uri, local_path
from lightning_dtool.store.digest import hash_file
from lightning_dtool.watch import files


def parents(sources: Iterable[WeightsSource], resumed: DatasetReference | None) -> list[DatasetReference]:
    """Return the datasets from which a model's weights came, the most important one first.

    Args:
        sources: The sources of the weights.
        resumed: The checkpoint that training resumed from, if it is a dataset.
    """
    found = {resumed.uuid: resumed} if resumed is not None else {}
    for source in sources:
        if source.dataset is not None:
            found.setdefault(source.dataset.uuid, source.dataset)
    return list(found.values())


def resumed_dataset(path: str | None) -> DatasetReference | None:
    """Return the dataset from which a run resumes. None if it resumes from a plain file, or from nothing.

    Args:
        path: The URI of the dataset, or the path of a file, which may be a link to an item.
    """
    if path is None:
        return None
    if is_dataset_uri(path):
        return reference_to(path)
    found = dataset_of(path)
    return found[0] if found is not None else None


def dataset_of(path: str) -> tuple[DatasetReference, bool] | None:
    """Return the dataset that a local file is an item of, and whether it is the checkpoint of a checkpoint dataset.

    Args:
        path: The file, a link to it, or a copy of a checkpoint, which names its dataset.
    """
    uri = files.uri_of(os.path.abspath(path))
    real = Path(path).resolve()
    for place in [uri] if uri is not None else [str(parent) for parent in real.parents][1:4]:
        reference = reference_to(place)
        if reference is not None:
            return reference, uri is not None or real == Path(place, "data", CHECKPOINT_ITEM)
    named = _named_dataset(real)
    return None if named is None else (named, True)


def _named_dataset(file: Path) -> DatasetReference | None:
    """Return the dataset that a checkpoint file names, if that dataset holds exactly this file."""
    try:
        with files.unobserved():
            named = read_checkpoint(file)[RESUMPTION_SECTION][DATASET_KEY]
            dataset = Addresses(str(file.parent)).open(named["uri"])
            item = dataset.item(CHECKPOINT_ITEM)
            if dataset.uuid != named["uuid"] or item.size_in_bytes != file.stat().st_size:
                return None
            local = local_path(dataset.uri)
            if not (local is not None and dataset.path(item.identifier).samefile(file)):
                recorded = dataset.overlay("sha256")[item.identifier]
                if hash_file(file, "sha256") != recorded:
                    return None
    except Exception:  # a file of something else, or a dataset that was deleted or is out of reach
        return None
    return DatasetReference.of(dataset)


def reference_to(place: str) -> DatasetReference | None:
    """Return a reference to the dataset at a place. None if there is none.

    Args:
        place: A URI, or the path of a folder.
    """
    try:
        return DatasetReference.of(FrozenDataset.from_uri(place))
    except LightningDtoolError:  # a folder of something else, or a dataset that was deleted
        return None


def run_of(uri: str) -> str | None:
    """Return the UUID of the run that saved a checkpoint dataset. None if it cannot be read, or is of something else.

    Args:
        uri: The URI of the dataset.
    """
    try:
        found = FrozenDataset.from_uri(uri).annotations().get("run_uuid")
    except LightningDtoolError:
        return None
    return found if isinstance(found, str) else None
