"""The run, and the checkpoint that it saved."""

from pydantic import AwareDatetime, Field

from lightning_dtool.record.section import Integer, Json, Section


class Run(Section):
    """The training run that wrote the checkpoint."""

    uuid: str = Field(description="UUID4 of the run. All checkpoints of one `fit` share it.")
    started_at: AwareDatetime | None = Field(description="Time at which training began (UTC).")
    creator_username: str = Field(
        description="The user who started the run: LIGHTNING_DTOOL_CREATOR_USERNAME, or the operating system's name."
    )
    lightning_dtool_version: str = Field(description="Version of lightning-dtool that wrote the record.")
    fit_index: Integer | None = Field(
        default=None,
        description="Number of this `fit` among the recorded fits of its process or Hydra job, from 0.",
    )


class Monitor(Section):
    """A metric that decides which checkpoints are kept."""

    name: str = Field(description="Name of the logged metric.")
    mode: str = Field(description="`min` or `max`.")
    value: Json = Field(default=None, description="Value of the metric when the checkpoint was saved.")


class Checkpoint(Section):
    """The checkpoint file and the moment at which it was saved."""

    filename: str = Field(description="Name of the file to which Lightning saved the checkpoint.")
    epoch: Integer = Field(description="Epoch in which the checkpoint was saved, from 0.")
    global_step: Integer = Field(description="Number of optimizer steps before the checkpoint was saved.")
    saved_at: AwareDatetime = Field(description="Time at which the checkpoint was saved (UTC).")
    weights_only: bool = Field(
        description="True if the checkpoint has no optimizer states, so that training cannot resume from it."
    )
    monitors: list[Monitor] = Field(
        default=[], description="Metrics that the Trainer's ModelCheckpoint callbacks monitor."
    )
    missing_keys: list[str] = Field(
        default=[],
        description="Names of the model's parameters and persistent buffers that the checkpoint lacks, at most 1000.",
    )
    missing_keys_total: Integer | None = Field(
        default=None,
        description="Number of these names. Null if the checkpoint was not compared with the model when it was saved.",
    )
