"""The data on which the model was trained, validated and tested."""

from pydantic import Field

from lightning_dtool.record.dataset_reference import DatasetReference
from lightning_dtool.record.section import Integer, Json, Section


class Loader(Section):
    """The settings of a data loader."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    batch_size: Integer | None = Field(
        default=None, description="Number of samples in a batch of one process. null if it is not known (see `gaps`)."
    )
    num_workers: Integer | None = Field(default=None, description="Number of worker processes.")
    drop_last: bool | None = Field(default=None, description="Whether the last batch is dropped if it is incomplete.")
    sampler: dict[str, Json] = Field(
        default={},
        description=(
            "Class path and settings of the sampler; of more than 100 numbers, only their count and hash. Empty if an"
            " iterable dataset yields the samples in its own order."
        ),
    )
    collate_fn: Json = Field(
        default=None, description="Function that collates samples into a batch, with its source if it is the user's."
    )
    settings: dict[str, Json] = Field(default={}, description="Other settings, such as `pin_memory`.")


class DataSource(Section):
    """The data that a data loader of a stage reads."""

    dataset: DatasetReference | None = Field(default=None, description="The dtool dataset, if the data is one.")
    class_path: str | None = Field(default=None, description="`module:qualified.name` of the torch dataset's class.")
    count: Integer | None = Field(default=None, description="Number of samples.")
    selection_digest: str | None = Field(
        default=None, description="SHA-256 over the sorted identifiers of the selected items."
    )
    targets_digest: str | None = Field(
        default=None,
        description=(
            "`sha256:…` over the identifiers of the selected items and the target of each, before `target_transform`."
        ),
    )
    classes: list[str] | None = Field(default=None, description="Class names, in the order of their indices.")
    class_to_idx: dict[str, Integer] | None = Field(default=None, description="Index of each class.")
    class_counts: dict[str, Integer] | None = Field(default=None, description="Number of samples in each class.")
    selection: dict[str, Json] = Field(
        default={}, description="How the samples were selected: overlay and value, or fractions and seed."
    )
    transforms: dict[str, Json] = Field(
        default={},
        description="By place (`transform`, `target_transform`, `decoder`): class, parameters, structure or source.",
    )
    loader: Loader | None = Field(default=None, description="The data loader.")
    root: str | None = Field(default=None, description="Folder of the data, if it is not a dtool dataset.")
    fingerprint: str | None = Field(
        default=None,
        description="`sha256:…` over content that is quick to read and not in a dtool dataset.",
    )
    fingerprint_complete: bool | None = Field(
        default=None,
        description=(
            "Whether the fingerprint covers everything from which samples are made; if not, `gaps` names what it leaves"
            " out. null if all data is in the dtool dataset."
        ),
    )


class DataModule(Section):
    """The LightningDataModule."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    arguments: dict[str, Json] = Field(default={}, description="Arguments from which the DataModule can be rebuilt.")


class Data(Section):
    """The data on which the model was trained, validated and tested."""

    datamodule: DataModule | None = Field(default=None, description="The LightningDataModule, if any.")
    stages: dict[str, list[DataSource]] = Field(
        default={}, description="The data by stage when the checkpoint was saved: `train`, `val`, `test`, `predict`."
    )
    hooks: dict[str, str] = Field(
        default={},
        description="Source code of the hooks that change a batch, such as `on_after_batch_transfer`, by name.",
    )
    order: dict[str, str] = Field(
        default={}, description="`sha256:…` over the samples in the order in which training used them, by epoch."
    )

    def training_identity(self) -> list[dict[str, Json]]:
        """Return what identifies the data that the model was trained on: digests of its content."""
        return [
            {
                "content_digest": source.dataset.content_digest if source.dataset is not None else None,
                "selection_digest": source.selection_digest,
                "targets_digest": source.targets_digest,
                "fingerprint": source.fingerprint,
                "count": source.count,
            }
            for source in self.stages.get("train", [])
        ]
