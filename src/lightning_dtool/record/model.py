"""The model and its initial weights."""

from pydantic import Field

from lightning_dtool.record.dataset_reference import DatasetReference
from lightning_dtool.record.section import Integer, Json, Section


class Child(Section):
    """A direct child of the LightningModule."""

    name: str = Field(description="Name of the attribute that holds the child.")
    class_path: str = Field(description="`module:qualified.name` of the child's class.")
    parameters_total: Integer = Field(description="Number of parameters.")
    parameters_trainable: Integer = Field(description="Number of parameters with `requires_grad`.")


class WeightsSource(Section):
    """Where some of the weights came from: each of these tensors was bitwise equal to the source's."""

    kind: str = Field(
        description=(
            "`continued` (from an earlier run of the same process), `checkpoint` (from a checkpoint dataset) or `file`."
        )
    )
    keys: list[str] = Field(
        description="Their names in the state dict. `backbone.*` stands for all names below `backbone.`, `*` for all."
    )
    keys_total: Integer = Field(description="Number of these names.")
    run_uuid: str | None = Field(
        default=None,
        description="UUID of the earlier run of the same process, or of this run if it saved the file itself.",
    )
    dataset: DatasetReference | None = Field(
        default=None,
        description="The dtool dataset that holds the weights: a checkpoint, or one with a file of weights.",
    )
    path: str | None = Field(default=None, description="Path of the file from which they were read.")
    sha256: str | None = Field(default=None, description="SHA-256 of the file.")
    repository: str | None = Field(
        default=None, description="Repository of the Hugging Face Hub that the file was downloaded from."
    )
    revision: str | None = Field(default=None, description="Commit of the repository.")
    name: str | None = Field(
        default=None, description="Name that a library gives the weights, such as `ResNet18_Weights.IMAGENET1K_V1`."
    )


class InitialWeights(Section):
    """The weights with which training began, observed when fitting starts.

    If a hook replaces them before the first batch, their origin and sources are observed again.
    """

    origin: str = Field(
        description=(
            "Kind of the source of most weights: `continued`, `checkpoint` or `file` (see `sources`), `script` (none "
            "has another source: the script made them), or `unknown` (see `gaps`)."
        )
    )
    seeded: bool | None = Field(
        default=None, description="Whether torch's generator had been seeded when fitting started. null if not known."
    )
    sources: list[WeightsSource] = Field(
        default=[], description="Where they came from, the source of most weights first. The script made the others."
    )
    keys_total: Integer | None = Field(default=None, description="Number of names in the state dict.")
    digest: str | None = Field(
        default=None, description="`sha256:…` over the sorted names, dtypes, shapes and bytes of the state dict."
    )
    stored: bool = Field(
        default=False, description="Whether the checkpoint dataset has them, as `initial_weights.ckpt`."
    )


class LoadedWeights(Section):
    """Weights that were put into the model after training began, for example by a hook with `load_state_dict`."""

    epoch: Integer = Field(description="Epoch in which they were seen, from 0.")
    global_step: Integer = Field(description="Number of optimizer steps before they were seen.")
    source: WeightsSource = Field(description="Where they came from.")


class Model(Section):
    """The LightningModule."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    distribution: str | None = Field(
        default=None,
        description=(
            "Name and version of the installed package that defines the class, as `name==version`. null for the user's "
            "own class."
        ),
    )
    source: str | None = Field(default=None, description="The source code of the class.")
    source_sha256: str | None = Field(default=None, description="SHA-256 of the source code of the class.")
    hyperparameters: dict[str, Json] = Field(
        default={},
        description=(
            "`hparams` when the checkpoint was saved, and values of `hparams_initial` that cannot be pickled. A value "
            "that is not JSON is recorded as its type with its content or repr."
        ),
    )
    arguments: dict[str, Json] | None = Field(
        default=None,
        description=(
            "Arguments of `__init__`, with defaults, captured when the module was made. Null if they are not known."
        ),
    )
    settings: dict[str, Json] = Field(
        default={},
        description=(
            "Values that the code of the user's classes uses, by name, when training began and again when parts of the "
            "model changed: class attributes (`Net.alpha`), defaults (`forward.scale`), variables (`ALPHA`), plain "
            "attributes of the user's modules inside (`head.scale`), and functions that are hooks or replace methods."
        ),
    )
    parameters_total: Integer | None = Field(default=None, description="Number of parameters.")
    parameters_trainable: Integer | None = Field(default=None, description="Number of parameters with `requires_grad`.")
    children: list[Child] = Field(default=[], description="The direct children and their sizes.")
    frozen: list[str] = Field(
        default=[], description="Names of the parameters without `requires_grad` when the checkpoint was saved."
    )
    architecture: str | None = Field(default=None, description="The module as PyTorch prints it.")
    initial_weights: InitialWeights | None = Field(default=None, description="The weights with which training began.")
    loaded_weights: list[LoadedWeights] = Field(
        default=[],
        description=(
            "Weights from files, from checkpoints or from earlier runs that were put into the model after training "
            "began, in order. A load that another one replaced before the next step is not listed."
        ),
    )
