"""The metrics, time and memory of the run."""

from pydantic import Field

from lightning_dtool.record.section import Integer, Json, Section


class Epoch(Section):
    """The metrics and learning rates of one epoch."""

    epoch: Integer = Field(description="Epoch, from 0.")
    global_step: Integer = Field(description="Number of optimizer steps at the end of the epoch.")
    seconds: float = Field(description="Wall time since fitting began, in seconds.")
    metrics: dict[str, Json] = Field(default={}, description="Latest value of each logged metric.")
    learning_rates: list[list[Json]] = Field(
        default=[], description="Learning rates of the epoch's last step, for each parameter group of each optimizer."
    )


class MetricObject(Section):
    """A torchmetrics object of the LightningModule."""

    attribute: str = Field(description="Attribute of the LightningModule that holds it.")
    class_path: str = Field(description="`module:qualified.name` of the class.")
    settings: dict[str, Json] = Field(default={}, description="Configuration of the object.")


class Metrics(Section):
    """The metrics, time and memory of the run."""

    at_checkpoint: dict[str, Json] = Field(
        default={}, description="Latest value of each logged metric when the checkpoint was saved."
    )
    history: list[Epoch] = Field(default=[], description="Metrics of each epoch before the checkpoint was saved.")
    objects: list[MetricObject] = Field(default=[], description="The torchmetrics objects that compute metrics.")
    seconds: float | None = Field(
        default=None, description="Wall time from the start of fitting to the save, in seconds."
    )
    steps_per_second: float | None = Field(
        default=None, description="Training batches per second of wall time, including the time for validation."
    )
    peak_memory_bytes: Integer | None = Field(
        default=None, description="Peak resident memory of the process before the save."
    )
    peak_accelerator_memory_bytes: Integer | None = Field(
        default=None, description="Peak memory allocated on the CUDA device before the save, if one is in use."
    )
