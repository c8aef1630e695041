"""The data that the model was trained, validated and tested on."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    Sampler,
    StackDataset,
    Subset,
    TensorDataset,
)

from lightning_dtool.capture.arguments import capture_arguments
from lightning_dtool.capture.fingerprint import Fingerprint, fingerprint, holds_data
from lightning_dtool.capture.hyperparameters import current_hyperparameters
from lightning_dtool.capture.loaders import capture_loader, describe_setting
from lightning_dtool.capture.own_randomness import own_randomness
from lightning_dtool.capture.preprocessing import capture_hooks, describe_pipeline, transforms_of
from lightning_dtool.capture.reachable import reachable
from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.data.selection import selection_digest
from lightning_dtool.record import Data, DataModule, DatasetReference, DataSource, Gap, Gaps, as_text
from lightning_dtool.redaction.record import redact_mapping
from lightning_dtool.redaction.text import redact_text
from lightning_dtool.store import FrozenDataset
from lightning_dtool.values.definitions import class_path, is_users
from lightning_dtool.values.objects import attributes_of
from lightning_dtool.values.reading import unreadable
from lightning_dtool.values.writing import encode_all

REPEATABLE = "randomness.repeatable_by"
"""The fact that is a gap if training draws random numbers that do not follow from the seed."""

MAX_SOURCES = 100
"""Maximum number of loaders of one stage that are recorded."""

_MAX_WRAPPERS = 20
"""Maximum number of nested wrappers around a dataset."""

_COMBINATIONS = (ConcatDataset, ChainDataset, StackDataset)

_OF_A_LOADER = frozenset(vars(DataLoader[Any](TensorDataset())))
"""The attributes of every DataLoader."""

_OF_A_DTOOL_DATASET = frozenset({"dataset", "transform", "target_transform", "_samples", "_positions"})

_OF_A_KNOWN_SELECTION = ("count", "selection_digest", "targets_digest", "class_counts")
"""Facts about the selected samples of a dataset."""

_PACK = "pack it with `lightning-dtool pack` and train with DtoolDataModule"

_GUIDELINE = (
    "Hartley and Olsson's guidelines for reproducible machine learning (dtoolAI, Patterns 2020) ask for training data"
    " that is annotated with metadata and has a persistent URI"
)


def capture_data(trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Data:
    """Describe the data of each stage for which the Trainer has loaders or a DtoolDataModule holds out data.

    This reads no sample, iterates over no loader and draws no random number. A dtool dataset is described by its
    metadata, which is loaded already. Other data gets a fingerprint of its content in memory or of its file sizes, if
    that is quick.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        gaps: Receives a gap for everything that could not be observed.
    """
    datamodule = getattr(trainer, "datamodule", None)
    ours = datamodule if isinstance(datamodule, DtoolDataModule) else None
    own_stages: dict[str, dict[str, Any]] = {}
    described: DataModule | None = None
    at_arguments = gaps.at("data.datamodule.arguments")
    if ours is not None:
        facts: dict[str, Any] = {"arguments": {}, "stages": {}}
        facts = gaps.at("data.datamodule").observe(ours.description, facts)
        own_stages = facts["stages"]
        described = DataModule(
            class_path=class_path(type(ours)), arguments=_arguments(facts["arguments"], at_arguments)
        )
    elif datamodule is not None:
        described = DataModule(
            class_path=class_path(type(datamodule)), arguments=_hyperparameters(datamodule, at_arguments)
        )
    stages: dict[str, list[DataSource]] = {}
    for stage, loaders in (("train", "train_dataloader"), ("val", "val_dataloaders")):
        at_stage = gaps.at(f"data.stages.{stage}")
        found: list[Any] = at_stage.observe(functools.partial(_flatten, trainer, loaders), [])
        if len(found) > MAX_SOURCES:
            reason = f"only the first {MAX_SOURCES} of its {len(found)} loaders are recorded"
            at_stage.add(reason, "concatenate datasets")
        combined = getattr(getattr(trainer, "fit_loop", None), "_combined_loader", None) if stage == "train" else None
        mode = getattr(combined, "_mode", None)
        for loader in found[:MAX_SOURCES]:
            own = _Own(ours, stage, own_stages[stage]) if ours is not None and stage in own_stages else None
            sources = stages.setdefault(stage, [])
            place = _Place(at_stage, len(sources))
            read: list[DataSource] = place.gaps.observe(functools.partial(_from_loader, loader, own, place), [])
            sources += [_combined(source, mode) for source in read] if len(found) > 1 else read
    for stage in own_stages:
        if ours is not None and not stages.get(stage):
            at_data = gaps.at(f"data.stages.{stage}[0]")
            stages[stage] = at_data.observe(
                functools.partial(_held_out, _Own(ours, stage, own_stages[stage]), at_data), []
            )
    gaps.at(REPEATABLE).observe(functools.partial(_add_own_randomness, trainer, gaps), None)
    if ours is None:
        gaps.at("data.order").add(
            "the order of the samples is known only with a DtoolDataModule", "train with DtoolDataModule"
        )
    elif trainer.world_size > 1:
        gaps.at("data.order").add(
            f"each of the {trainer.world_size} processes has its own order, and only that of the first is recorded",
            "the others follow from the sampler's seed and the number of processes",
        )
    return Data(datamodule=described, stages=stages, hooks=capture_hooks(trainer, module, gaps))


def order_is_known(gaps: Iterable[Gap]) -> bool:
    """Return whether the samples and their order follow from the random numbers of the run, as far as could be seen.

    Args:
        gaps: The gaps that `capture_data` added.
    """
    return all(gap.fact != REPEATABLE for gap in gaps)


def _add_own_randomness(trainer: LightningTrainer, gaps: Gaps) -> None:
    for loader in _flatten(trainer, "train_dataloader")[:MAX_SOURCES]:
        reason = own_randomness(loader)
        if reason is not None:
            for fact in ("data.order", REPEATABLE):
                gaps.at(fact).add(
                    f"{reason}, so samples or their order may differ each time",
                    "seed each generator with a number, or draw from those that seed_everything seeds",
                )


def training_datasets(data: Data) -> list[DatasetReference]:
    """Return the distinct dtool datasets that the model was trained on."""
    found = {source.dataset.uuid: source.dataset for source in data.stages.get("train", []) if source.dataset}
    return list(found.values())


def foreign_training_data(data: Data) -> list[str]:
    """Return the classes of the data that the model was trained on and that is not in dtool datasets."""
    return [source.class_path or "unknown" for source in data.stages.get("train", []) if source.dataset is None]


def warn_about_foreign_data(data: Data) -> str | None:
    """Return one message about all data that is not in dtool datasets. None if there is none.

    Args:
        data: The result of `capture_data`.

    Returns:
        The text for a ProvenanceWarning.
    """
    foreign: dict[str, list[str]] = {}
    for stage, sources in data.stages.items():
        for source in sources:
            if source.dataset is None:
                name = (source.class_path or "unknown").rpartition(":")[2]
                stages = foreign.setdefault(name, [])
                if stage not in stages:
                    stages.append(stage)
    if not foreign:
        return None
    shown = ", ".join(f"{name} ({', '.join(stages)})" for name, stages in itertools.islice(foreign.items(), 10))
    return (
        f"The record cannot name the URI of the data that this model was trained on: {shown} is not a dtool dataset."
        f" {_GUIDELINE}."
        " Pack the data once with `lightning-dtool pack FOLDER BASE_URI` and train with"
        " DtoolDataModule(URI)."
    )


def _combined(source: DataSource, mode: Any) -> DataSource:
    """Add to a loader how Lightning combines it with the others of its stage."""
    if source.loader is None or not isinstance(mode, str):
        return source
    settings = {**source.loader.settings, "combined_by": mode}
    return source.model_copy(update={"loader": source.loader.model_copy(update={"settings": settings})})


def _flatten(trainer: LightningTrainer, name: str) -> list[Any]:
    loaders = getattr(trainer, name)
    if loaders is None:
        return []
    return list((loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)).flattened)


# -- DataModules ----------------------------------------------------------------------------------


def _arguments(arguments: dict[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return the arguments of a DtoolDataModule, with a gap for each that cannot be rebuilt from the record."""
    for name, description in arguments.items():
        reason = unreadable(description)
        if reason is not None:
            remedy = "use functions and classes from the top of a module that keep their arguments as attributes"
            gaps.at(name).add(f"it cannot be rebuilt: {reason}", remedy)
    return redact_mapping(arguments, gaps)


def _hyperparameters(datamodule: Any, gaps: Gaps) -> dict[str, Any]:
    """Return the arguments of a user's DataModule: as it was made with, and as it has saved them."""
    made = gaps.observe(lambda: capture_arguments(datamodule, gaps, "the DataModule's class"), None)
    given: dict[Any, Any] = gaps.observe(lambda: current_hyperparameters(datamodule), {})
    return {**(made or {}), **redact_mapping(encode_all(given, gaps), gaps)}


@dataclass(frozen=True)
class _Own:
    """A stage of a DtoolDataModule, and what the DataModule knows about its data."""

    datamodule: DtoolDataModule
    stage: str
    facts: dict[str, Any]


def _held_out(own: _Own, gaps: Gaps) -> list[DataSource]:
    """Describe a held-out stage for which the Trainer has no loader."""
    datamodule = own.datamodule
    places = {
        "transform": datamodule.train_transform if own.stage == "train" else datamodule.eval_transform,
        "target_transform": datamodule.target_transform,
        "decoder": datamodule.decoder,
    }
    return [
        DataSource(
            **_of_facts(own.facts),
            selection=redact_mapping(datamodule.selection(own.stage), gaps.at("selection")),
            transforms=_described(places, gaps.at("transforms")),
        )
    ]


def _of_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dataset": DatasetReference(**{key: facts[key] for key in ("uri", "uuid", "name", "content_digest")}),
        "class_path": class_path(DtoolDataset),
        **{
            key: facts.get(key)
            for key in ("count", "selection_digest", "targets_digest", "classes", "class_to_idx", "class_counts")
        },
    }


# -- loaders -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """The place of a source among those of its stage."""

    stage: Gaps
    index: int

    @property
    def gaps(self) -> Gaps:
        return self.stage.at(f"[{self.index}]")

    def after(self, sources: Sequence[DataSource]) -> "_Place":
        return _Place(self.stage, self.index + len(sources))


def _from_loader(loader: Any, own: _Own | None, place: _Place) -> list[DataSource]:
    """Describe what a loader reads. A combination of datasets gives several sources."""
    gaps = place.gaps
    described = gaps.at("loader").observe(lambda: capture_loader(loader, gaps.at("loader")), None)
    dataset = _attribute(loader, "dataset")
    if dataset is not None:
        unknown = [DataSource(class_path=class_path(type(dataset)))]
        sources = gaps.observe(lambda: _from_dataset(dataset, own, place, _data_of_loader(loader)), unknown)
    else:  # a loader may be any iterable, such as a list of batches
        sources = _from_parts(loader, {}, place) or [_foreign(loader, {}, {}, gaps)]
    others: list[DataSource] = gaps.observe(lambda: _other_datasets(loader, sources, place), [])
    return [source.model_copy(update={"loader": described}) for source in (*sources, *others)]


def _other_datasets(loader: Any, sources: Sequence[DataSource], place: _Place) -> list[DataSource]:
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
        if name not in _OF_A_LOADER and not isinstance(value, Sampler) and holds_data(value)
    }


# -- datasets -------------------------------------------------------------------------------------


@dataclass
class _Unwrapped:
    """A dataset without its wrappers, and what the wrappers did."""

    dataset: Any
    positions: Sequence[int] | None
    """Indices of the selected samples. None if all are selected, or if the selection is not known."""
    is_known: bool
    """Whether the selection is known."""
    transforms: dict[str, Any]
    wrappers: list[Any]
    """The wrappers other than torch's Subset, the outermost first."""


def _unwrap(dataset: Any) -> _Unwrapped:
    """Remove torch's Subset and other wrappers from a dataset."""
    positions: Sequence[int] | None = None
    is_known = True
    transforms: dict[str, Any] = {}
    wrappers: list[Any] = []
    for _ in range(_MAX_WRAPPERS):
        for name, value in _places(dataset).items():
            transforms[name if name not in transforms else f"{type(dataset).__name__}.{name}"] = value
        inner = None if isinstance(dataset, (DtoolDataset, *_COMBINATIONS)) else _inner(dataset)
        if inner is None:
            break
        if type(dataset) is not Subset:
            wrappers.append(dataset)
        if isinstance(dataset, Subset):
            chosen = [int(index) for index in dataset.indices]
            positions = chosen if positions is None else [chosen[position] for position in positions]
        elif positions is not None or _length(dataset) != _length(inner):
            is_known = False
        dataset = inner
    return _Unwrapped(dataset, positions if is_known else None, is_known, transforms, wrappers)


def _attribute(obj: Any, name: str) -> Any:
    try:
        return getattr(obj, name, None)
    except Exception:  # a user's `__getattr__` may raise anything
        return None


def _inner(dataset: Any) -> Any:
    """Return the dataset that another one wraps."""
    inner = _attribute(dataset, "dataset")
    if inner is not None:
        return inner
    held = [value for value in getattr(dataset, "__dict__", {}).values() if isinstance(value, Dataset)]
    return held[0] if len(held) == 1 else None


def _places(dataset: Any) -> dict[str, Any]:
    """Return the transforms of a dataset by the attributes that hold them."""
    found = dict(transforms_of(dataset))
    if is_users(type(dataset)):  # its source shows what `__getitem__` does
        found["dataset"] = type(dataset)
    both = found.get("transforms")
    # torchvision keeps `transform` and `target_transform` in `transforms`, too.
    if type(both).__name__ == "StandardTransform" and {"transform", "target_transform"} & set(found):
        del found["transforms"]
    kept = getattr(dataset, "__dict__", {})
    for place, name in (("decoder", "decoder"), ("decoder", "loader")):  # torchvision's folders call it `loader`
        if callable(kept.get(name)):
            found[place] = kept[name]
    if isinstance(dataset, DtoolDataset):
        decoder = getattr(dataset._samples, "decoder", None)
        if decoder is not None:
            found["decoder"] = decoder
    on_the_fly = kept.get("_format_kwargs")  # filled by `set_transform` of Hugging Face's datasets
    if isinstance(on_the_fly, dict) and callable(on_the_fly.get("transform")):
        found["transform"] = on_the_fly["transform"]
    return found


def _described(places: Mapping[str, Any], gaps: Gaps) -> dict[str, Any]:
    return {name: describe_pipeline(value, gaps.at(name)) for name, value in places.items() if value is not None}


def _from_dataset(
    dataset: Any, own: _Own | None, place: _Place, beside: Mapping[str, Any] | None = None
) -> list[DataSource]:
    """Describe a dataset. `beside` is other data from which its samples are made."""
    unwrapped = _unwrap(dataset)
    innermost = unwrapped.dataset
    transforms = _described(unwrapped.transforms, place.gaps.at("transforms"))
    if isinstance(innermost, _COMBINATIONS):
        return _from_combination(dataset, innermost, transforms, place)
    if isinstance(innermost, DtoolDataset):
        return [_ours(dataset, unwrapped, transforms, own, place.gaps, beside or {})]
    several = _from_parts(innermost, transforms, place)
    if several:
        return several
    return [_foreign(dataset, transforms, _subset(unwrapped, place.gaps), place.gaps, unwrapped, beside)]


def _from_combination(dataset: Any, innermost: Any, transforms: dict[str, Any], place: _Place) -> list[DataSource]:
    """Describe the datasets that torch concatenates, chains or stacks."""
    unsure: dict[str, Any] = {}
    if innermost is not dataset:
        reason = "a selection from several datasets is recorded without the number of samples from each"
        place.gaps.at("count").add(reason, "select first, then concatenate")
        unsure = dict.fromkeys(_OF_A_KNOWN_SELECTION)
    parts = innermost.datasets
    sources: list[DataSource] = []
    for part in parts.values() if isinstance(parts, Mapping) else parts:
        for source in _from_dataset(part, None, place.after(sources)):
            merged = {"transforms": {**transforms, **source.transforms}}
            sources.append(source.model_copy(update={**merged, **unsure}))
    return sources


def _from_parts(whole: Any, transforms: dict[str, Any], place: _Place) -> list[DataSource]:
    """Describe the datasets inside an object that combines them in its own way. Empty if none is a dtool dataset."""
    if not any(isinstance(found, DtoolDataset) for _, found in reachable(whole)):
        return []
    sources: list[DataSource] = []
    for part in _parts(whole):
        reason = f"a {class_path(type(whole))} makes its samples from several datasets in a way that is not known"
        for source in _from_dataset(
            _attribute(part, "dataset") if isinstance(part, DataLoader) else part, None, place.after(sources)
        ):
            place.after(sources).gaps.at("selection").add(reason, "use ConcatDataset, StackDataset or CombinedLoader")
            merged = {"transforms": {**transforms, **source.transforms}, "selection": {}}
            sources.append(source.model_copy(update={**merged, **dict.fromkeys(_OF_A_KNOWN_SELECTION)}))
    if holds_data(whole):
        sources.append(_foreign(whole, transforms, {}, place.after(sources).gaps))
    return sources


def _parts(whole: Any) -> Iterator[Any]:
    """Yield the outermost datasets and loaders inside an object."""
    for _, found in reachable(
        whole, beyond=lambda found: found is whole or not isinstance(found, Dataset | DataLoader)
    ):
        if found is not whole and isinstance(found, Dataset | DataLoader):
            yield found


def _ours(
    dataset: Any,
    unwrapped: _Unwrapped,
    transforms: dict[str, Any],
    own: _Own | None,
    gaps: Gaps,
    beside: Mapping[str, Any],
) -> DataSource:
    """Describe a selection of a dtool dataset by its metadata. No item is read."""
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
        return DataSource(**_of_facts(own.facts), selection=selection, transforms=transforms, **own_data)
    frozen = ours.dataset
    chosen = ours if unwrapped.positions is None else ours.subset(unwrapped.positions)
    selection = _subset(unwrapped, gaps)
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
        count=_length(dataset),
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


def _subset(unwrapped: _Unwrapped, gaps: Gaps) -> dict[str, Any]:
    """Describe the selected samples of a dataset by their indices."""
    if not unwrapped.is_known:
        reason = "a wrapper around the dataset selects samples in an unknown way"
        gaps.at("selection").add(reason, "select with torch's Subset")
    if unwrapped.positions is None:
        return {}
    return {
        "by": "positions",
        "positions": describe_setting(list(unwrapped.positions), gaps.at("selection.positions")),
    }


# -- data that is not a dtool dataset -------------------------------------------------------------


def _foreign(
    dataset: Any,
    transforms: dict[str, Any],
    selection: dict[str, Any],
    gaps: Gaps,
    unwrapped: _Unwrapped | None = None,
    beside: Mapping[str, Any] | None = None,
) -> DataSource:
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
        count=_length(dataset),
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


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # a stream has no length and may raise anything
        return None


def _root(dataset: Any) -> str | None:
    kept = getattr(dataset, "__dict__", {})
    for name in ("root", "root_dir", "data_dir"):
        value = kept.get(name)
        if isinstance(value, str | os.PathLike):
            return redact_text(as_text(os.fsdecode(os.fspath(value))))
    return None


def _classes(dataset: Any) -> dict[str, Any]:
    """Return class names and indices if a dataset has them as torchvision's datasets do."""
    kept = getattr(dataset, "__dict__", {})
    numbers = kept.get("class_to_idx")
    if not isinstance(numbers, dict) or not all(isinstance(number, int) for number in numbers.values()):
        return {}
    numbers = {as_text(str(name)): int(number) for name, number in itertools.islice(numbers.items(), 100_000)}
    return {"class_to_idx": numbers, "classes": sorted(numbers, key=numbers.__getitem__)}
