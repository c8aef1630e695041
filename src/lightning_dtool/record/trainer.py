"""The settings, callbacks and loggers of the Trainer."""

from pydantic import Field

from lightning_dtool.record.section import Json, Section


class Component(Section):
    """A callback or logger of the Trainer."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    state_key: str | None = Field(default=None, description="Key of a callback's state in a checkpoint.")
    settings: dict[str, Json] = Field(
        default={},
        description=(
            "Constructor arguments that the component keeps as attributes. A part of the LightningModule is replaced "
            "by its name, such as `pl_module.encoder`."
        ),
    )
    constants: dict[str, Json] = Field(
        default={},
        description=(
            "Plain values that the code of a user's class uses, by name, when training began and again when settings "
            "changed: class attributes, defaults and variables."
        ),
    )


class Config(Section):
    """The configuration of LightningCLI or Hydra."""

    kind: str = Field(description="`LightningCLI` or `Hydra`.")
    file: str = Field(description="Path of the complete, reusable configuration in source.zip.")


class Trainer(Section):
    """The settings, callbacks and loggers of the Trainer."""

    settings: dict[str, Json] = Field(
        default={}, description="Settings that affect the result, as they were when the checkpoint was saved."
    )
    callbacks: list[Component] = Field(default=[], description="The callbacks, in order.")
    loggers: list[Component] = Field(default=[], description="The loggers, in order.")
    config: Config | None = Field(
        default=None, description="Configuration of the run, if LightningCLI or Hydra set it up."
    )
