"""The loss that training minimises."""

from pydantic import Field

from lightning_dtool.record.section import Json, Section


class LossCall(Section):
    """One loss that a training step computes."""

    name: str = Field(description="`module:qualified.name` of the function or class.")
    kind: str = Field(description="`function`, `module`, or `metric` (a torchmetrics object).")
    attribute: str | None = Field(
        default=None, description="Attribute of the LightningModule that holds it, for a module."
    )
    arguments: dict[str, Json] = Field(
        default={},
        description="Settings, such as `label_smoothing` and `reduction`. Tensors of data are recorded by shape.",
    )
    source: str | None = Field(default=None, description="The source code of a function that is the user's.")
    constants: dict[str, Json] = Field(
        default={}, description="Values of variables outside the function that its code reads, by name."
    )


class Loss(Section):
    """The loss that training minimises.

    It is observed in the first batch, and again when an epoch begins if its settings or operations have changed. The
    settings of loss modules are those at the save.
    """

    calls: list[LossCall] = Field(default=[], description="The recognised losses, in the order of their calls.")
    operations: list[str] = Field(
        default=[],
        description="Autograd operations of the loss, from the loss inwards. They describe a handwritten loss.",
    )
    training_step: str | None = Field(default=None, description="The source code of `training_step`.")
    constants: dict[str, Json] = Field(
        default={},
        description=(
            "Plain values at the save that `training_step` and the functions that it calls read, by "
            "name: attributes (`self.weight`), variables of modules, and defaults of arguments (`dice.eps`)."
        ),
    )
