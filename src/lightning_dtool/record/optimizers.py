"""The optimizers and the learning rate schedulers."""

from pydantic import Field

from lightning_dtool.record.section import Integer, Json, Section


class ParameterGroup(Section):
    """A parameter group of an optimizer."""

    options: dict[str, Json] = Field(description="Options of the group, such as learning rate and weight decay.")
    parameters: list[str] = Field(description="Names of the group's parameters in the LightningModule.")


class Optimizer(Section):
    """An optimizer, as it was when the checkpoint was saved."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    defaults: dict[str, Json] = Field(description="The optimizer's `defaults`.")
    param_groups: list[ParameterGroup] = Field(description="The optimizer's parameter groups, in order.")


class Scheduler(Section):
    """A learning rate scheduler."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    interval: str = Field(description="`epoch` or `step`.")
    frequency: Integer = Field(description="Number of intervals between two steps of the scheduler.")
    monitor: str | None = Field(default=None, description="The metric that the scheduler monitors, if any.")
    settings: dict[str, Json] = Field(
        default={},
        description=(
            "Attributes when the checkpoint was saved: constants, nested schedulers, and functions that it calls."
        ),
    )
