"""What was the model trained, validated and tested on?"""

from typing import Any

from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_dtool.capture.values import class_path
from lightning_dtool.datamodule import DtoolDataModule
from lightning_dtool.dataset import DtoolDataset
from lightning_dtool.record import Data, DataModule, DatasetReference, DataSource, Gap


def capture_data(trainer: LightningTrainer, gaps: list[Gap]) -> Data:
    """Describe the data of every stage that the Trainer knows of."""
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, DtoolDataModule):
        description = datamodule.description()
        return Data(
            datamodule=DataModule(class_path=class_path(type(datamodule)), arguments=description["arguments"]),
            stages={stage: [_from_description(facts)] for stage, facts in description["stages"].items()},
        )
    stages = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
    return Data(
        datamodule=DataModule(class_path=class_path(type(datamodule))) if datamodule is not None else None,
        stages={
            stage: [_from_loader(loader, f"data.stages.{stage}[{index}]", gaps) for index, loader in enumerate(found)]
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


def _from_loader(loader: Any, where: str, gaps: list[Gap]) -> DataSource:
    dataset: Any = getattr(loader, "dataset", None)
    wrapped: Any = dataset
    while not isinstance(wrapped, DtoolDataset) and hasattr(wrapped, "dataset"):  # torch's Subset, and others like it
        wrapped = wrapped.dataset
    count = len(dataset) if hasattr(dataset, "__len__") else None
    path = class_path(type(dataset)) if dataset is not None else class_path(type(loader))
    if isinstance(wrapped, DtoolDataset):
        frozen = wrapped.dataset
        reference = DatasetReference(
            uri=frozen.uri, uuid=frozen.uuid, name=frozen.name, content_digest=frozen.content_digest
        )
        classes = list(map(str, wrapped.classes)) if wrapped.classes is not None else None
        return DataSource(dataset=reference, class_path=path, count=count, classes=classes)
    gaps.append(
        Gap(
            fact=f"{where}.dataset",
            reason=f"the data is a {path}, not a dtool dataset: it has no URI, no UUID and no hash",
            remedy="pack it with `lightning-dtool pack` and train with DtoolDataModule",
        )
    )
    return DataSource(class_path=path, count=count)


def training_datasets(data: Data) -> list[DatasetReference]:
    """Return the distinct dtool datasets that the model was trained on."""
    found = {source.dataset.uuid: source.dataset for source in data.stages.get("train", []) if source.dataset}
    return list(found.values())
