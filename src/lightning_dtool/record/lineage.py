"""The datasets and checkpoints that a checkpoint was made from."""

from pydantic import Field

from lightning_dtool.record.dataset_reference import DatasetReference
from lightning_dtool.record.section import Section


class Lineage(Section):
    """The datasets and checkpoints that this checkpoint was made from."""

    source_datasets: list[DatasetReference] = Field(
        default=[],
        description="The datasets that the model was trained on so far, also those that are no longer in use.",
    )
    parent_checkpoint: DatasetReference | None = Field(
        default=None,
        description="The checkpoint from which training resumed, or from which most of the initial weights came.",
    )
    other_parents: list[DatasetReference] = Field(
        default=[],
        description=(
            "Other datasets from which some of the initial weights came, or weights that were put into the model after "
            "training began. Without the checkpoints of this run."
        ),
    )
    resumed: bool = Field(
        default=False,
        description="Whether training resumed from a checkpoint (`ckpt_path`), with its optimizers and its progress.",
    )
    reproduces: DatasetReference | None = Field(
        default=None, description="The checkpoint whose training `lightning-dtool reproduce` ran again."
    )
    replicates: DatasetReference | None = Field(
        default=None,
        description="The checkpoint whose training `lightning-dtool replicate` ran again, with other data.",
    )

    @property
    def parents(self) -> list[DatasetReference]:
        """All datasets from which weights came, the most important one first."""
        first = [self.parent_checkpoint] if self.parent_checkpoint is not None else []
        return [*first, *self.other_parents]
