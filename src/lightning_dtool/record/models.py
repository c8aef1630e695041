"""The pydantic models of a record, the content of `provenance.json`.

The sections, in order, are: run, checkpoint, model, loss, optimizers, schedulers, data, randomness, trainer,
environment, code, metrics, lineage, `changes`, which lists what changed after training began, and `gaps`, which lists
what could not be recorded and why. Every value is strict JSON, so that programs in any language can read it.

This module does not depend on torch, Lightning or dtool, so that a record stays readable when they change.
"""

import math
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from lightning_dtool._public import public

SCHEMA_VERSION = 1

MAX_INTEGER = 2**63 - 1
"""The largest integer of 8 bytes. Some readers of JSON, such as MongoDB, hold no larger ones."""


def _check_json(value: Any, where: str = "") -> Any:
    """Raise a ValueError for a value that strict JSON or an integer of 8 bytes cannot hold."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _check_text(value, where)
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError(f"{where or 'value'}: the integer {value} exceeds 8 bytes; write it as a string")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'value'}: {value} is not JSON; write it as a string")
        return value
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where or 'value'}: the key {key!r} is not a string")
            _check_text(key, where)
            _check_json(item, f"{where}.{key}" if where else key)
        return value
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]")
        return value
    raise ValueError(f"{where or 'value'}: a {type(value).__name__} is not JSON")


def _check_text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where or 'value'}: {text[:80]!a} cannot be encoded in UTF-8; escape it") from None
    return text


Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""An integer of at most 8 bytes."""

Json = Annotated[Any, AfterValidator(_check_json)]
"""Any strict JSON value: no NaN, no infinity, no integer of more than 8 bytes, only strings as keys."""


class Section(BaseModel):
    """Base class of every part of a record. It is immutable, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gap(Section):
    """A fact that is not recorded, or not completely."""

    fact: str = Field(
        description="What is not recorded, as a path into the record, for example `model.hyperparameters.act`."
    )
    reason: str = Field(description="Why the fact could not be recorded.")
    remedy: str = Field(default="", description="What the user can do to close the gap.")


class Change(Section):
    """A fact of the record that changed after training began."""

    epoch: Integer = Field(description="Epoch in which the change was seen, from 0.")
    global_step: Integer = Field(description="Number of optimizer steps before the change was seen.")
    fact: str = Field(
        description="What changed, as a path into the record, for example `optimizers[0].param_groups[0].options.lr`."
    )
    before: Json = Field(
        default=None, description="The value before. null if there was none. A long value is cut short."
    )
    after: Json = Field(
        default=None, description="The value after. null if there is none any more. A long value is cut short."
    )


class Run(Section):
    """The training run that wrote the checkpoint."""

    uuid: str = Field(description="UUID4 of the run. All checkpoints of one `fit` share it.")
    started_at: AwareDatetime | None = Field(description="Time at which training began (UTC).")
    creator_username: str = Field(description="The operating system's name of the user who started the run.")
    lightning_dtool_version: str = Field(description="Version of lightning-dtool that wrote the record.")
    fit_index: Integer | None = Field(
        default=None,
        description="Number of this `fit` among the recorded fits of its process, from 0.",
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


class Identified(Protocol):
    """An object with the identity of a dtool dataset."""

    @property
    def uri(self) -> str:
        """URI of the dataset."""

    @property
    def uuid(self) -> str:
        """UUID of the dataset."""

    @property
    def name(self) -> str:
        """Name of the dataset."""

    @property
    def content_digest(self) -> str:
        """Digest of the items."""


class DatasetReference(Section):
    """A reference to a dtool dataset, by its URI, its UUID and its content."""

    uri: str = Field(description="URI at which the dataset was used.")
    uuid: str = Field(description="UUID of the dataset. Copies have the same UUID.")
    name: str = Field(description="Name of the dataset.")
    content_digest: str = Field(description="`sha256:…` over the sorted relpaths, sizes and hashes of the items.")

    @classmethod
    def of(cls, dataset: Identified) -> "DatasetReference":
        """Return a reference to an open dataset."""
        return cls(uri=dataset.uri, uuid=dataset.uuid, name=dataset.name, content_digest=dataset.content_digest)


class Child(Section):
    """A direct child of the LightningModule."""

    name: str = Field(description="Name of the attribute that holds the child.")
    class_path: str = Field(description="`module:qualified.name` of the child's class.")
    parameters_total: Integer = Field(description="Number of parameters.")
    parameters_trainable: Integer = Field(description="Number of parameters with `requires_grad`.")


class WeightsSource(Section):
    """Where some of the initial weights came from: each of these tensors was bitwise equal to the source's."""

    kind: str = Field(
        description=(
            "`continued` (from an earlier run of the same process), `checkpoint` (from a checkpoint dataset) or `file`."
        )
    )
    keys: list[str] = Field(
        description="Their names in the state dict. `backbone.*` stands for all names below `backbone.`, `*` for all."
    )
    keys_total: Integer = Field(description="Number of these names.")
    run_uuid: str | None = Field(default=None, description="UUID of the earlier run of the same process.")
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
    parameters_total: Integer | None = Field(default=None, description="Number of parameters.")
    parameters_trainable: Integer | None = Field(default=None, description="Number of parameters with `requires_grad`.")
    children: list[Child] = Field(default=[], description="The direct children and their sizes.")
    frozen: list[str] = Field(
        default=[], description="Names of the parameters without `requires_grad` when the checkpoint was saved."
    )
    architecture: str | None = Field(default=None, description="The module as PyTorch prints it.")
    initial_weights: InitialWeights | None = Field(default=None, description="The weights with which training began.")


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

    It is observed in the first batch, and again in the first batch of an epoch if its settings have changed. The
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


class Randomness(Section):
    """Seeds, random states and other settings that determine random numbers and the bits of results."""

    global_seed: Integer | None = Field(
        default=None, description="Seed of the last `seed_everything`, if it was called in this process."
    )
    seeds: dict[str, Json] = Field(
        default={},
        description=(
            "Last seed of each global generator (`torch`, `numpy`, `python`), whether `seed_everything` or other code "
            "has set it. Without an entry, no seed was seen."
        ),
    )
    seeded_before_model: bool | None = Field(
        default=None,
        description=(
            "Whether torch was seeded before the LightningModule was made, so that the seed determines its initial "
            "weights. null if this is not known, or if torch was not seeded."
        ),
    )
    seed_workers: bool | None = Field(
        default=None, description="Whether data loader workers were seeded with `global_seed`."
    )
    states: dict[str, dict[str, str]] = Field(
        default={},
        description=(
            "SHA-256 of each state, by moment (`import`, `fit_start`) and generator; random_states.json has the states."
        ),
    )
    flags: dict[str, Json] = Field(
        default={},
        description="Other settings that affect bits: deterministic algorithms, matmul precision, threads and so on.",
    )
    repeatable_by: str | None = Field(
        default=None,
        description=(
            "What makes a rerun repeatable: `seed` (all generators were seeded), `states` (of a generator that was not "
            "seeded, no random number was drawn before DtoolProvenanceCallback was imported) or `initial_weights` "
            "(they are stored). null if nothing does, or if samples or their order are not known to follow from it "
            "(see `gaps`)."
        ),
    )


class Component(Section):
    """A callback or logger of the Trainer."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    state_key: str | None = Field(default=None, description="Key of a callback's state in a checkpoint.")
    settings: dict[str, Json] = Field(
        default={}, description="Constructor arguments that the component keeps as attributes."
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


class Environment(Section):
    """The machine, the operating system and the libraries."""

    python: str = Field(description="Version of Python.")
    platform: str = Field(description="Operating system and processor architecture.")
    versions: dict[str, str] = Field(
        description=(
            "Versions of the most important libraries and of those that define the model's classes. requirements.txt "
            "has all of them."
        )
    )
    cpu: str | None = Field(default=None, description="Name of the processor.")
    cpu_count: Integer | None = Field(default=None, description="Number of processors that the process may use.")
    memory_bytes: Integer | None = Field(default=None, description="Memory of the machine, in bytes.")
    accelerators: list[str] = Field(default=[], description="Names of the available GPUs and other accelerators.")
    drivers: dict[str, str] = Field(
        default={},
        description="Versions of CUDA, ROCm or XPU in torch's build, the NVIDIA driver, and cuDNN if CUDA is in use.",
    )
    torch_build: str | None = Field(default=None, description="torch's description of its build.")
    container: str | None = Field(default=None, description="The container or its image, if known.")
    scheduler: dict[str, str] = Field(
        default={}, description="The job of the batch system (SLURM, PBS): ids, nodes and names."
    )
    variables: dict[str, str] = Field(
        default={}, description="Environment variables that may affect the result, from an allow-list."
    )


class Git(Section):
    """The state of a git work tree."""

    remote: str | None = Field(default=None, description="URL of the remote, without credentials.")
    commit: str = Field(description="Hash of the commit that was checked out.")
    branch: str | None = Field(default=None, description="Branch, if one was checked out.")
    dirty: bool | None = Field(
        description="True if tracked files differed from the commit. null if git did not answer (see `gaps`)."
    )


class Code(Section):
    """The code that ran."""

    argv: list[str] = Field(description="`sys.argv`, with credentials redacted.")
    working_directory: str = Field(description="Working directory. Empty if it was deleted.")
    entry_point: str | None = Field(
        default=None, description="The script, as a path in source.zip if it is stored there."
    )
    run_as_module: str | None = Field(default=None, description="Name of the module, if it was run with `python -m`.")
    git: Git | None = Field(default=None, description="The git work tree of the code, if any.")
    patch: str | None = Field(
        default=None, description="Path in source.zip of a patch with the changes since the commit."
    )
    untracked: list[str] = Field(default=[], description="Imported files that git does not track.")
    files: dict[str, str] = Field(default={}, description="SHA-256 of each file in source.zip, by path.")
    modules: dict[str, str] = Field(default={}, description="Path in source.zip of each stored module, by module name.")


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
        default=[], description="Other datasets from which some of the initial weights came."
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
        """All datasets from which initial weights came, the most important one first."""
        first = [self.parent_checkpoint] if self.parent_checkpoint is not None else []
        return [*first, *self.other_parents]


@public
class Provenance(Section):
    """The record of a checkpoint: how its model was trained."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of the schema.")
    run: Run = Field(description="The training run.")
    checkpoint: Checkpoint = Field(description="The checkpoint.")
    model: Model = Field(description="The model.")
    loss: Loss = Field(default=Loss(), description="The loss.")
    optimizers: list[Optimizer] = Field(default=[], description="The optimizers.")
    schedulers: list[Scheduler] = Field(default=[], description="The learning rate schedulers.")
    data: Data = Field(default=Data(), description="The data.")
    randomness: Randomness = Field(default=Randomness(), description="Seeds, random states and related settings.")
    trainer: Trainer = Field(default=Trainer(), description="The Trainer.")
    environment: Environment = Field(description="The machine, the operating system and the libraries.")
    code: Code = Field(description="The code that ran.")
    metrics: Metrics = Field(default=Metrics(), description="The metrics.")
    lineage: Lineage = Field(
        default=Lineage(), description="The datasets and checkpoints that this checkpoint was made from."
    )
    changes: list[Change] = Field(
        default=[],
        description=(
            "What changed after training began, in order. The other parts hold what was so when the checkpoint was "
            "saved. Learning rates that a scheduler changes, and the states of schedulers, are not listed."
        ),
    )
    gaps: list[Gap] = Field(default=[], description="Facts that are not recorded, and why.")
