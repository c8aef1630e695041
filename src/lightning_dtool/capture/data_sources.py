"""The datasets that a data loader reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_dtool.capture.datamodule import OwnStage
from lightning_dtool.capture.dataset_description import dtool_source, foreign_source, selection_by_positions
from lightning_dtool.capture.fingerprint import holds_data
from lightning_dtool.capture.loaders import OF_EVERY_LOADER, capture_loader
from lightning_dtool.capture.preprocessing import described_transforms
from lightning_dtool.capture.reachable import reachable
from lightning_dtool.capture.unwrapping import COMBINATIONS, unwrap
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.record import DatasetReference, DataSource, Gaps, as_text
from lightning_dtool.store import FrozenDataset
from lightning_dtool.values.attributes import attribute, attributes_of
from lightning_dtool.values.definitions import class_path

_OF_A_KNOWN_SELECTION = ("count", "selection_digest", "targets_digest", "class_counts")
"""Facts about the selected samples of a dataset."""


@dataclass(frozen=True)
class Place:
    """The place of a source among those of its stage.

    Attributes:
        stage: The gaps of the stage.
        index: The number of sources before it.
    """

    stage: Gaps
    index: int

    @property
    def gaps(self) -> Gaps:
        """The gaps of the source."""
        return self.stage.at(f"[{self.index}]")

    def after(self, sources: Sequence[DataSource]) -> "Place":
        """Return the place behind other sources."""
        return Place(self.stage, self.index + len(sources))


def sources_of_loader(loader: Any, own: OwnStage | None, place: Place) -> list[DataSource]:
    """Describe what a loader reads. A combination of datasets gives several sources.

    Args:
        loader: The loader, or any iterable.
        own: What a DtoolDataModule knows about the stage, if it has made the loader.
        place: The place of the first source.
    """
    gaps = place.gaps
    described = gaps.at("loader").observe(lambda: capture_loader(loader, gaps.at("loader")), None)
    dataset = attribute(loader, "dataset")
    if dataset is not None:
        unknown = [DataSource(class_path=class_path(type(dataset)))]
        sources = gaps.observe(lambda: _from_dataset(dataset, own, place, _data_of_loader(loader)), unknown)
    else:  # a loader may be any iterable, such as a list of batches
        sources = _from_parts(loader, {}, place) or [foreign_source(loader, {}, {}, gaps)]
    others: list[DataSource] = gaps.observe(lambda: _other_datasets(loader, sources, place), [])
    return [source.model_copy(update={"loader": described}) for source in (*sources, *others)]


def _other_datasets(loader: Any, sources: Sequence[DataSource], place: Place) -> list[DataSource]:
    """Describe the dtool datasets that a loader uses in other ways, such as in a transform, or opened by the user."""
    known = {source.dataset.uuid for source in sources if source.dataset is not None}
    others: list[DataSource] = []
    for _, found in reachable(loader):
        gaps = place.after([*sources, *others]).gaps
        opened = found.dataset if isinstance(found, DtoolDataset) else _opened(found, gaps.at("dataset"))
        if opened is not None and opened.uuid not in known:
            known.add(opened.uuid)
            gaps.at("selection").add("which of its items are used, and how, is not known", "use DtoolDataModule")
            others.append(DataSource(dataset=DatasetReference.of(opened), class_path=class_path(type(found))))
    return others


def _opened(value: Any, gaps: Gaps) -> FrozenDataset | None:
    """Return the dataset that a user opened with this package's or dtool's own classes. None for other objects."""
    if isinstance(value, FrozenDataset):
        return value
    if class_path(type(value)) != "dtoolcore:DataSet":
        return None
    return gaps.observe(lambda: FrozenDataset.from_uri(value.uri), None)


def _data_of_loader(loader: Any) -> dict[str, Any]:
    """Return the data that a loader holds beside its dataset, as loaders of graphs do, by name."""
    if type(loader) is DataLoader or type(loader).__module__.partition(".")[0] == "lightning_dtool":
        return {}
    kept = attributes_of(loader) or {}
    return {
        as_text(name): value
        for name, value in kept.items()
        if name not in OF_EVERY_LOADER and not isinstance(value, Sampler) and holds_data(value)
    }


def _from_dataset(
    dataset: Any, own: OwnStage | None, place: Place, beside: Mapping[str, Any] | None = None
) -> list[DataSource]:
    """Describe a dataset. `beside` is other data from which its samples are made."""
    unwrapped = unwrap(dataset)
    innermost = unwrapped.dataset
    transforms = described_transforms(unwrapped.transforms, place.gaps.at("transforms"))
    if isinstance(innermost, COMBINATIONS):
        return _from_combination(dataset, innermost, transforms, place)
    if isinstance(innermost, DtoolDataset):
        return [dtool_source(dataset, unwrapped, transforms, own, place.gaps, beside or {})]
    several = _from_parts(innermost, transforms, place)
    if several:
        return several
    return [
        foreign_source(
            dataset, transforms, selection_by_positions(unwrapped, place.gaps), place.gaps, unwrapped, beside
        )
    ]


def _from_combination(dataset: Any, innermost: Any, transforms: dict[str, Any], place: Place) -> list[DataSource]:
    """Describe the datasets that torch concatenates, chains or stacks."""
    unsure: dict[str, Any] = {}
    if innermost is not dataset:
        reason = "a selection from several datasets is recorded without the number of samples from each"
        place.gaps.at("count").add(reason, "select first, then concatenate")
        unsure = dict.fromkeys(_OF_A_KNOWN_SELECTION)
    parts = innermost.datasets
    sources: list[DataSource] = []
    named = parts.items() if isinstance(parts, Mapping) else ((None, part) for part in parts)
    for name, part in named:
        for source in _from_dataset(part, None, place.after(sources)):
            merged: dict[str, Any] = {"transforms": {**transforms, **source.transforms}}
            if name is not None:  # its name in a sample
                merged["selection"] = {**source.selection, "stacked_as": as_text(str(name))}
            sources.append(source.model_copy(update={**merged, **unsure}))
    return sources


def _from_parts(whole: Any, transforms: dict[str, Any], place: Place) -> list[DataSource]:
    """Describe the datasets inside an object that combines them in its own way. Empty if none is a dtool dataset."""
    if not any(isinstance(found, DtoolDataset) for _, found in reachable(whole)):
        return []
    sources: list[DataSource] = []
    for part in _parts(whole):
        reason = f"a {class_path(type(whole))} makes its samples from several datasets in a way that is not known"
        for source in _from_dataset(
            attribute(part, "dataset") if isinstance(part, DataLoader) else part, None, place.after(sources)
        ):
            place.after(sources).gaps.at("selection").add(reason, "use ConcatDataset, StackDataset or CombinedLoader")
            merged = {"transforms": {**transforms, **source.transforms}, "selection": {}}
            sources.append(source.model_copy(update={**merged, **dict.fromkeys(_OF_A_KNOWN_SELECTION)}))
    if holds_data(whole):
        sources.append(foreign_source(whole, transforms, {}, place.after(sources).gaps))
    return sources


def _parts(whole: Any) -> Iterator[Any]:
    """Yield the outermost datasets and loaders inside an object."""
    for _, found in reachable(
        whole, beyond=lambda found: found is whole or not isinstance(found, Dataset | DataLoader)
    ):
        if found is not whole and isinstance(found, Dataset | DataLoader):
            yield found
