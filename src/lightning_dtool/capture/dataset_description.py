"""The description of one dataset: by the metadata of a dtool dataset, or by a fingerprint of other data."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_dtool.capture.datamodule import OwnStage, facts_of_dataset
from lightning_dtool.capture.fingerprint import Fingerprint, fingerprint, holds_data
from lightning_dtool.capture.loaders import describe_setting
from lightning_dtool.capture.named_files import folder_of
from lightning_dtool.capture.unwrapping import Unwrapped, length_of
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.data.selection import selection_digest
from lightning_dtool.record import DatasetReference, DataSource, Gaps, as_text
from lightning_dtool.redaction.record import redact_mapping
from lightning_dtool.redaction.text import redact_text
from lightning_dtool.values.definitions import class_path

_OF_A_DTOOL_DATASET = frozenset({"dataset", "transform", "target_transform", "_samples", "_positions"})

_PACK = "pack it with `lightning-dtool pack` and train with DtoolDataModule"


def dtool_source(
    dataset: Any,
    unwrapped: Unwrapped,
    transforms: dict[str, Any],
    own: OwnStage | None,
    gaps: Gaps,
    beside: Mapping[str, Any],
) -> DataSource:
    """Describe a selection of a dtool dataset by its metadata. No item is read.

    Args:
        dataset: The dataset, with its wrappers.
        unwrapped: The dataset without them.
        transforms: The description of its transforms.
        own: What a DtoolDataModule knows about its stage, if it has made the loader.
        gaps: Receives a gap for everything that could not be observed.
        beside: Other data from which samples are made, by name.
    """
    ours: DtoolDataset = unwrapped.dataset
    if not ours.is_verified:
        if ours.dataset.is_in_place:
            reason, remedy = "with verify=False, items are not compared with their recorded hashes", "leave it out"
        else:
            reason = f"the hash function {ours.dataset.hash_function!r} is unknown, so only sizes of items are compared"
            remedy = "copy the dataset with dtool, which hashes its items again"
        gaps.at("dataset.content_digest").add(reason, remedy)
    holder = next(filter(holds_data, unwrapped.wrappers), None)
    beside = {**_data_of_subclass(ours), **beside}
    own_data: dict[str, Any] = {}
    if holder is not None or beside:
        found = _fingerprint(holder if holder is not None else beside, beside if holder is not None else {}, gaps)
        own_data = {"fingerprint": found.digest, "fingerprint_complete": found.is_complete}
    if own is not None and ours is dataset and own.datamodule.holds(own.stage, ours):
        selection = redact_mapping(own.datamodule.selection(own.stage), gaps.at("selection"))
        return DataSource(**facts_of_dataset(own.facts), selection=selection, transforms=transforms, **own_data)
    frozen = ours.dataset
    chosen = ours if unwrapped.positions is None else ours.subset(unwrapped.positions)
    selection = selection_by_positions(unwrapped, gaps)
    if len(ours) != len(ours._samples.names) or len(set(ours.identifiers)) != len(frozen.items):
        reason = "a DtoolDataset does not keep how its samples were selected; `selection_digest` identifies them"
        gaps.at("selection").add(reason, "select with DtoolDataModule(select=...)")
    elif not selection and unwrapped.is_known:
        selection = {"by": "whole"}
    numbers = ours.class_to_idx
    counts = chosen.class_counts if unwrapped.is_known else None
    keys: Iterable[str] = chosen.identifiers if ours.is_itemwise else chosen.names
    return DataSource(
        dataset=DatasetReference.of(frozen),
        class_path=class_path(type(dataset)),
        count=length_of(dataset),
        selection_digest=selection_digest(keys) if unwrapped.is_known else None,
        targets_digest=chosen.targets_digest if unwrapped.is_known else None,
        classes=None if numbers is None else list(map(str, numbers)),
        class_to_idx=None if numbers is None else {str(name): number for name, number in numbers.items()},
        class_counts=None if counts is None else {str(name): count for name, count in counts.items()},
        selection=selection,
        transforms=transforms,
        **own_data,
    )


def _data_of_subclass(dataset: DtoolDataset) -> dict[str, Any]:
    """Return the data that an object of a user's subclass holds beside the dtool dataset, by name."""
    kept = vars(dataset).items()
    return {as_text(name): value for name, value in kept if name not in _OF_A_DTOOL_DATASET and holds_data(value)}


def selection_by_positions(unwrapped: Unwrapped, gaps: Gaps) -> dict[str, Any]:
    """Describe the selected samples of a dataset by their indices.

    Args:
        unwrapped: The dataset without its wrappers.
        gaps: Receives a gap if the selection is not known.
    """
    if not unwrapped.is_known:
        reason = "a wrapper around the dataset selects samples in an unknown way"
        gaps.at("selection").add(reason, "select with torch's Subset")
    if unwrapped.positions is None:
        return {}
    return {
        "by": "positions",
        "positions": describe_setting(list(unwrapped.positions), gaps.at("selection.positions")),
    }


def foreign_source(
    dataset: Any,
    transforms: dict[str, Any],
    selection: dict[str, Any],
    gaps: Gaps,
    unwrapped: Unwrapped | None = None,
    beside: Mapping[str, Any] | None = None,
) -> DataSource:
    """Describe data that is not a dtool dataset, by a fingerprint.

    Args:
        dataset: The data, with its wrappers.
        transforms: The description of its transforms.
        selection: The description of the selected samples.
        gaps: Receives a gap that it has no URI, and gaps for what the fingerprint leaves out.
        unwrapped: The data without its wrappers. By default it has none.
        beside: Other data from which samples are made, by name.
    """
    innermost = dataset if unwrapped is None else unwrapped.dataset
    content = unwrapped.wrappers[0] if unwrapped is not None and unwrapped.wrappers else innermost
    found = _fingerprint(content, beside or {}, gaps)
    gaps.at("dataset").add(
        f"the data is a {class_path(type(innermost))}, not a dtool dataset: it has no URI, no UUID and no hash;"
        f" the fingerprint covers {found.covers}",
        _PACK,
    )
    return DataSource(
        class_path=class_path(type(dataset)),
        count=length_of(dataset),
        selection=selection,
        transforms=transforms,
        root=_root(innermost),
        fingerprint=found.digest,
        fingerprint_complete=found.is_complete,
        **_classes(innermost),
    )


def _fingerprint(content: Any, beside: Mapping[str, Any], gaps: Gaps) -> Fingerprint:
    """Return the fingerprint of data that is not in a dtool dataset, with a gap for what it leaves out."""
    at_fingerprint = gaps.at("fingerprint")
    nothing = Fingerprint(None, "nothing", ("everything",))
    found = at_fingerprint.observe(lambda: fingerprint(content, beside), nothing)
    if found.omits:
        at_fingerprint.add(f"it leaves out {'; '.join(found.omits)}", _PACK)
    return found


def _root(dataset: Any) -> str | None:
    folder = folder_of(getattr(dataset, "__dict__", {}))
    return None if folder is None else redact_text(as_text(folder))


def _classes(dataset: Any) -> dict[str, Any]:
    """Return class names and indices if a dataset has them as torchvision's datasets do."""
    kept = getattr(dataset, "__dict__", {})
    numbers = kept.get("class_to_idx")
    if not isinstance(numbers, dict) or not all(isinstance(number, int) for number in numbers.values()):
        return {}
    numbers = {as_text(str(name)): int(number) for name, number in itertools.islice(numbers.items(), 100_000)}
    return {"class_to_idx": numbers, "classes": sorted(numbers, key=numbers.__getitem__)}
