"""What was the model trained, validated and tested on?"""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import ConcatDataset

from lightning_dtool.capture.redaction import redact_mapping, redaction_gap
from lightning_dtool.capture.values import class_path, encode_all
from lightning_dtool.datamodule import DtoolDataModule
from lightning_dtool.dataset import DtoolDataset
from lightning_dtool.record import Data, DataModule, DatasetReference, DataSource, Gap

_MAX_WRAPPERS = 20
"""Datasets around a dataset that are looked through."""


def capture_data(trainer: LightningTrainer, gaps: list[Gap]) -> Data:
    """Describe the data of every stage that the Trainer knows of."""
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, DtoolDataModule):
        description = datamodule.description()
        return Data(
            datamodule=DataModule(
                class_path=class_path(type(datamodule)),
                arguments=_arguments(description["arguments"], gaps),
            ),
            stages={stage: [_from_description(facts)] for stage, facts in description["stages"].items()},
        )
    stages = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    return Data(
        datamodule=DataModule(class_path=class_path(type(datamodule))) if datamodule is not None else None,
        stages={
            stage: [
                source
                for index, loader in enumerate(found)
                for source in _from_loader(loader, f"data.stages.{stage}[{index}]", gaps)
            ]
            for stage, loaders in stages.items()
            if (found := _flatten(loaders))
        },
    )


def _from_description(facts: dict[str, Any]) -> DataSource:
    return DataSource(
        dataset=DatasetReference(**{key: facts[key] for key in ("uri", "uuid", "name", "content_digest")}),
        class_path=class_path(DtoolDataset),
        count=facts.get("count"),
        selection_digest=facts.get("selection_digest"),
        classes=facts.get("classes"),
        class_to_idx=facts.get("class_to_idx"),
        class_counts=facts.get("class_counts"),
    )


def _flatten(loaders: Any) -> list[Any]:
    if loaders is None:
        return []
    return list(loaders.flattened) if isinstance(loaders, CombinedLoader) else _flatten(CombinedLoader(loaders))


def _arguments(arguments: dict[str, Any], gaps: list[Gap]) -> dict[str, Any]:
    found: list[str] = []
    encoded = redact_mapping(
        encode_all(arguments, "data.datamodule.arguments", gaps), "data.datamodule.arguments", found
    )
    gaps.extend(redaction_gap(where) for where in found)
    return encoded


def _from_loader(loader: Any, where: str, gaps: list[Gap]) -> list[DataSource]:
    """Describe what a loader reads; a dataset put together from several gives several sources."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        path = class_path(type(loader))
        gaps.append(_no_dataset(f"{where}.dataset", path))
        return [DataSource(class_path=path)]
    return list(_from_dataset(dataset, where, gaps))


def _from_dataset(dataset: Any, where: str, gaps: list[Gap]) -> Iterator[DataSource]:
    path = class_path(type(dataset))
    wrapped = dataset
    for _ in range(_MAX_WRAPPERS):  # torch's Subset, and others like it
        if isinstance(wrapped, DtoolDataset | ConcatDataset) or getattr(wrapped, "dataset", None) is None:
            break
        wrapped = wrapped.dataset
    if isinstance(wrapped, ConcatDataset):
        if wrapped is not dataset:
            reason = "a selection from several datasets is recorded without the number of samples of each"
            gaps.append(Gap(fact=f"{where}.count", reason=reason, remedy="select first, then concatenate"))
        for part in wrapped.datasets:
            for source in _from_dataset(part, where, gaps):
                yield source if wrapped is dataset else source.model_copy(update={"count": None})
    elif isinstance(wrapped, DtoolDataset):
        frozen = wrapped.dataset
        reference = DatasetReference(
            uri=frozen.uri, uuid=frozen.uuid, name=frozen.name, content_digest=frozen.content_digest
        )
        classes = list(map(str, wrapped.classes)) if wrapped.classes is not None else None
        yield DataSource(
            dataset=reference,
            class_path=path,
            count=_length(dataset),
            classes=classes,
            class_to_idx=wrapped.class_to_idx,
        )
    else:
        gaps.append(_no_dataset(f"{where}.dataset", path))
        yield DataSource(class_path=path, count=_length(dataset))


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # a stream has none, and may say so in many ways
        return None


def _no_dataset(where: str, path: str) -> Gap:
    return Gap(
        fact=where,
        reason=f"the data is a {path}, not a dtool dataset: it has no URI, no UUID and no hash",
        remedy="pack it with `lightning-dtool pack` and train with DtoolDataModule",
    )


def training_datasets(data: Data) -> list[DatasetReference]:
    """Return the distinct dtool datasets that the model was trained on."""
    found = {source.dataset.uuid: source.dataset for source in data.stages.get("train", []) if source.dataset}
    return list(found.values())
