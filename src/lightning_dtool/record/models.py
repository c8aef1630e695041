"""The pydantic models of a record, the content of `provenance.json`.

Its sections are, in this order: run, checkpoint, model, loss, optimizers and schedulers, data, randomness, trainer,
environment, code, metrics, lineage, and `gaps`: what could not be recorded, and why.
Every value is strict JSON, so that programs in any language can read it.

Nothing here knows torch, Lightning or dtool: a record must stay readable when those have changed.
"""

import math
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from lightning_dtool._public import public

SCHEMA_VERSION = 1

MAX_INTEGER = 2**63 - 1
"""The largest integer that an 8-byte reader (a Mongo database, for one) can hold."""


def _check_json(value: Any, where: str = "") -> Any:
    """Refuse what strict JSON, or an 8-byte integer, cannot hold."""
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
        raise ValueError(f"{where or 'value'}: {text[:80]!a} cannot be written in UTF-8; escape it") from None
    return text


Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""An integer of at most 8 bytes."""

Json = Annotated[Any, AfterValidator(_check_json)]
"""Any strict-JSON value: no NaN, no infinity, no integer beyond 8 bytes, keys are strings."""


class Section(BaseModel):
    """Base of every part of a record: immutable, and closed, so that a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gap(Section):
    """Something that this record does not know."""

    fact: str = Field(
        description="What is not recorded, as a path into the record, for example `model.hyperparameters.act`."
    )
    reason: str = Field(description="Why it could not be recorded.")
    remedy: str = Field(default="", description="What would close the gap.")


class Run(Section):
    """The training run that wrote the checkpoint."""

    uuid: str = Field(description="UUID4 of the run; every checkpoint of one `fit` has the same.")
    started_at: AwareDatetime | None = Field(description="When fitting began (UTC).")
    creator_username: str = Field(description="Who ran it, as the operating system knows them.")
    lightning_dtool_version: str = Field(description="The version of this package that wrote the record.")
    fit_index: Integer | None = Field(
        default=None, description="Which recorded `fit` of its process it was, from 0: a script may fit several times."
    )


class Monitor(Section):
    """The metric that decides which checkpoints are kept."""

    name: str = Field(description="The logged metric's name.")
    mode: str = Field(description="`min` or `max`.")
    value: Json = Field(default=None, description="Its value when the checkpoint was saved.")


class Checkpoint(Section):
    """The checkpoint itself."""

    filename: str = Field(description="The file's name where Lightning saved it.")
    epoch: Integer = Field(description="The epoch in which it was saved, from 0.")
    global_step: Integer = Field(description="Optimizer steps taken so far.")
    saved_at: AwareDatetime = Field(description="When it was saved (UTC).")
    weights_only: bool = Field(
        description="True if it holds no optimizer state, so that training cannot resume from it."
    )
    monitors: list[Monitor] = Field(default=[], description="What the Trainer's ModelCheckpoint callbacks watch.")


class Identified(Protocol):
    """What is identified like a dtool dataset."""

    @property
    def uri(self) -> str:
        """Its URI."""

    @property
    def uuid(self) -> str:
        """Its UUID."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def content_digest(self) -> str:
        """The digest of its items."""


class DatasetReference(Section):
    """A dtool dataset, by address and by content."""

    uri: str = Field(description="Where it was when it was used.")
    uuid: str = Field(description="Its UUID, which it keeps wherever it is copied to.")
    name: str = Field(description="Its name.")
    content_digest: str = Field(description="`sha256:…` over the sorted relpaths, sizes and hashes of its items.")

    @classmethod
    def of(cls, dataset: Identified) -> "DatasetReference":
        """Return a reference to an open dataset."""
        return cls(uri=dataset.uri, uuid=dataset.uuid, name=dataset.name, content_digest=dataset.content_digest)


class Child(Section):
    """One direct child of the LightningModule."""

    name: str = Field(description="Its attribute.")
    class_path: str = Field(description="`module:qualified.name` of its class.")
    parameters_total: Integer = Field(description="Number of parameters.")
    parameters_trainable: Integer = Field(description="Number of parameters with `requires_grad`.")


class InitialWeights(Section):
    """The weights that training began with."""

    origin: str = Field(
        description="`initialised` here at random, `pretrained` (of a library), or `checkpoint` (resumed, fine-tuned)."
    )
    names: list[str] = Field(
        default=[], description="Names of pretrained weights, such as `ResNet18_Weights.IMAGENET1K_V1`."
    )
    checkpoint: DatasetReference | None = Field(default=None, description="The checkpoint, if it is a dataset.")
    digest: str | None = Field(
        default=None, description="`sha256:…` over the sorted names, dtypes, shapes and bytes of the state dict."
    )
    stored: bool = Field(default=False, description="Whether the dataset holds them, as `initial_weights.ckpt`.")


class Model(Section):
    """The LightningModule."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    source: str | None = Field(default=None, description="The source code of the class.")
    source_sha256: str | None = Field(default=None, description="SHA-256 of the class's source code.")
    hyperparameters: dict[str, Json] = Field(
        default={},
        description="`hparams_initial`; a value that is not JSON stands as its type and its content or repr.",
    )
    parameters_total: Integer | None = Field(default=None, description="Number of parameters.")
    parameters_trainable: Integer | None = Field(default=None, description="Number of parameters with `requires_grad`.")
    children: list[Child] = Field(default=[], description="The direct children with their sizes.")
    frozen: list[str] = Field(default=[], description="Names of the parameters that training did not change.")
    architecture: str | None = Field(default=None, description="The module as PyTorch prints it.")
    initial_weights: InitialWeights | None = Field(default=None, description="Where the initial weights came from.")


class LossCall(Section):
    """One loss that a training step computes."""

    name: str = Field(description="`module:qualified.name` of the function or class.")
    kind: str = Field(description="`function`, `module`, or `metric` (a torchmetrics object).")
    attribute: str | None = Field(default=None, description="Where the LightningModule keeps it, for a module.")
    arguments: dict[str, Json] = Field(
        default={}, description="Its settings, such as `label_smoothing` and `reduction`; tensors by their shape."
    )


class Loss(Section):
    """What training minimises, as the first training step computed it."""

    calls: list[LossCall] = Field(default=[], description="Every known loss, in the order of the calls.")
    operations: list[str] = Field(
        default=[], description="The operations of the loss's graph, from the loss inwards, for one made by hand."
    )
    training_step: str | None = Field(default=None, description="The source code of `training_step`.")


class ParameterGroup(Section):
    """One parameter group of an optimizer."""

    options: dict[str, Json] = Field(description="Learning rate, weight decay and whatever else the group sets.")
    parameters: list[str] = Field(description="The names of its parameters in the LightningModule.")


class Optimizer(Section):
    """One optimizer, as it was when training began."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    defaults: dict[str, Json] = Field(description="The optimizer's defaults.")
    param_groups: list[ParameterGroup] = Field(description="Its parameter groups, in order.")


class Scheduler(Section):
    """One learning rate scheduler."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    interval: str = Field(description="`epoch` or `step`.")
    frequency: Integer = Field(description="It steps every so many intervals.")
    monitor: str | None = Field(default=None, description="The metric that it watches, if it watches one.")
    settings: dict[str, Json] = Field(
        default={}, description="Its attributes at the start: constants, its parts, and the functions that it calls."
    )


class Loader(Section):
    """How a data loader was set up."""

    class_path: str = Field(description="`module:qualified.name` of its class.")
    batch_size: Integer | None = Field(default=None, description="Samples in a batch of one process.")
    num_workers: Integer | None = Field(default=None, description="Processes that load.")
    drop_last: bool | None = Field(default=None, description="Whether a last, smaller batch is left out.")
    sampler: dict[str, Json] = Field(default={}, description="Class path and settings of the sampler.")
    collate_fn: Json = Field(
        default=None, description="What makes a batch of samples, with its source if it is the user's."
    )
    settings: dict[str, Json] = Field(default={}, description="Whatever else was set, such as `pin_memory`.")


class DataSource(Section):
    """What one data loader of a stage reads."""

    dataset: DatasetReference | None = Field(default=None, description="The dtool dataset, if it is one.")
    class_path: str | None = Field(default=None, description="The class of the torch dataset.")
    count: Integer | None = Field(default=None, description="Number of samples.")
    selection_digest: str | None = Field(
        default=None, description="SHA-256 over the sorted identifiers of the chosen items."
    )
    classes: list[str] | None = Field(default=None, description="Class names, in order of their numbers.")
    class_to_idx: dict[str, Integer] | None = Field(default=None, description="The number of each class.")
    class_counts: dict[str, Integer] | None = Field(default=None, description="Samples in each class.")
    selection: dict[str, Json] = Field(
        default={}, description="How the samples were chosen: overlay and value, or fractions and seed."
    )
    transforms: dict[str, Json] = Field(
        default={},
        description="By place (`transform`, `target_transform`, `decoder`): class, parameters and nesting, or source.",
    )
    loader: Loader | None = Field(default=None, description="The data loader.")
    root: str | None = Field(
        default=None, description="The folder that the data was read from, if it is no dtool dataset."
    )
    fingerprint: str | None = Field(
        default=None, description="`sha256:…` over content that is cheap to read, for data that is no dtool dataset."
    )


class DataModule(Section):
    """The LightningDataModule."""

    class_path: str = Field(description="`module:qualified.name` of the class.")
    arguments: dict[str, Json] = Field(default={}, description="What it was built with, good enough to build it again.")


class Data(Section):
    """What the model was trained, validated and tested on."""

    datamodule: DataModule | None = Field(default=None, description="The LightningDataModule, if there was one.")
    stages: dict[str, list[DataSource]] = Field(default={}, description="By stage: `train`, `val`, `test`, `predict`.")
    hooks: dict[str, str] = Field(
        default={}, description="Source of the hooks that change a batch, such as `on_after_batch_transfer`, by name."
    )
    order: dict[str, str] = Field(
        default={}, description="By epoch: `sha256:…` over the samples in the order in which training saw them."
    )


class Randomness(Section):
    """What the random numbers depended on."""

    global_seed: Integer | None = Field(default=None, description="The seed given to `seed_everything`.")
    seed_workers: bool | None = Field(default=None, description="Whether data loader workers were seeded with it.")
    states: dict[str, dict[str, str]] = Field(
        default={},
        description=(
            "By moment (`import`, `fit_start`) and generator: SHA-256 of the state, which is in random_states.json."
        ),
    )
    flags: dict[str, Json] = Field(
        default={},
        description="What else decides about bits: deterministic algorithms, matmul precision, threads and so on.",
    )
    repeatable_by: str | None = Field(
        default=None,
        description=(
            "What a rerun can rely on: `seed` (`seed_everything` was called), `states` (nothing had been drawn when "
            "this package was imported), `initial_weights` (they are stored); null if nothing (see `gaps`)."
        ),
    )


class Component(Section):
    """A callback, logger, plugin or profiler of the Trainer."""

    class_path: str = Field(description="`module:qualified.name` of its class.")
    state_key: str | None = Field(default=None, description="The key of its state in a checkpoint, for a callback.")
    settings: dict[str, Json] = Field(
        default={}, description="The values that it was constructed with, as far as it keeps them."
    )


class Config(Section):
    """The configuration of LightningCLI or Hydra."""

    kind: str = Field(description="`LightningCLI` or `Hydra`.")
    file: str = Field(description="Its path in source.zip. The file is complete and can be used again.")


class Trainer(Section):
    """How the Trainer was set up."""

    settings: dict[str, Json] = Field(default={}, description="The settings that change the result.")
    callbacks: list[Component] = Field(default=[], description="The callbacks, in order.")
    loggers: list[Component] = Field(default=[], description="The loggers, in order.")
    config: Config | None = Field(default=None, description="The configuration file that set it up, if there was one.")


class Environment(Section):
    """What the code ran on."""

    python: str = Field(description="Python's version.")
    platform: str = Field(description="Operating system and processor architecture.")
    versions: dict[str, str] = Field(
        description="Versions of the libraries that matter most; all are in requirements.txt."
    )
    cpu: str | None = Field(default=None, description="The processor's name.")
    cpu_count: Integer | None = Field(default=None, description="Processors that the process may use.")
    memory_bytes: Integer | None = Field(default=None, description="The machine's memory.")
    accelerators: list[str] = Field(default=[], description="Names of the GPUs or other accelerators that are there.")
    drivers: dict[str, str] = Field(
        default={},
        description="Versions of CUDA and the like that torch was built with, and of cuDNN where CUDA is in use.",
    )
    torch_build: str | None = Field(default=None, description="How torch was built, as torch describes it.")
    container: str | None = Field(default=None, description="The container or its image, if it is known.")
    scheduler: dict[str, str] = Field(
        default={}, description="The batch system's job: ids, nodes and names (SLURM, PBS)."
    )
    variables: dict[str, str] = Field(
        default={}, description="Environment variables from an allow-list of those that change a result."
    )


class Git(Section):
    """The state of the git work tree."""

    remote: str | None = Field(default=None, description="The remote's URL, without credentials.")
    commit: str = Field(description="The hash of the commit that was checked out.")
    branch: str | None = Field(default=None, description="The branch, if one was checked out.")
    dirty: bool | None = Field(
        description="True if tracked files differed from the commit; null if git did not answer (see `gaps`)."
    )


class Code(Section):
    """What ran."""

    argv: list[str] = Field(description="The command line as Python saw it, without what looks like a secret.")
    working_directory: str = Field(description="The folder that it was started in; empty if that was deleted.")
    entry_point: str | None = Field(
        default=None, description="The script, as a path inside source.zip where it is there."
    )
    run_as_module: str | None = Field(default=None, description="The module's name, if it was run with `python -m`.")
    git: Git | None = Field(default=None, description="The git work tree that it lies in, if there is one.")
    patch: str | None = Field(default=None, description="Where source.zip holds the changes since the commit.")
    untracked: list[str] = Field(default=[], description="Imported files that git does not know.")
    files: dict[str, str] = Field(default={}, description="The files in source.zip with their SHA-256.")
    modules: dict[str, str] = Field(
        default={}, description="Imported modules that lie in source.zip, with their paths there."
    )


class Epoch(Section):
    """What was measured at the end of one epoch."""

    epoch: Integer = Field(description="The epoch, from 0.")
    global_step: Integer = Field(description="Optimizer steps taken so far.")
    seconds: float = Field(description="Wall time since fitting began.")
    metrics: dict[str, Json] = Field(default={}, description="Every logged metric's latest value.")
    learning_rates: list[list[Json]] = Field(
        default=[], description="The learning rate of each parameter group of each optimizer, as it was used last."
    )


class MetricObject(Section):
    """A torchmetrics object of the LightningModule."""

    attribute: str = Field(description="Where the LightningModule keeps it.")
    class_path: str = Field(description="`module:qualified.name` of its class.")
    settings: dict[str, Json] = Field(default={}, description="Its configuration.")


class Metrics(Section):
    """What was measured."""

    at_checkpoint: dict[str, Json] = Field(default={}, description="Every logged metric's latest value at the save.")
    history: list[Epoch] = Field(default=[], description="Epoch by epoch, up to the save.")
    objects: list[MetricObject] = Field(default=[], description="How metrics were computed: torchmetrics objects.")
    seconds: float | None = Field(default=None, description="Wall time from the beginning of fitting to the save.")
    steps_per_second: float | None = Field(
        default=None, description="Training batches per second, validation included."
    )
    peak_memory_bytes: Integer | None = Field(default=None, description="The process's largest resident memory so far.")
    peak_accelerator_memory_bytes: Integer | None = Field(
        default=None, description="The accelerator's largest allocated memory so far, where there is one."
    )


class Lineage(Section):
    """Where this checkpoint comes from."""

    source_datasets: list[DatasetReference] = Field(default=[], description="The training data.")
    parent_checkpoint: DatasetReference | None = Field(
        default=None, description="The checkpoint that training started from."
    )
    reproduces: DatasetReference | None = Field(
        default=None, description="The checkpoint whose training was rerun, by `lightning-dtool reproduce`."
    )
    replicates: DatasetReference | None = Field(
        default=None, description="The checkpoint whose training was rerun on new data, by `lightning-dtool replicate`."
    )


@public
class Provenance(Section):
    """The record of one checkpoint: how this model came to be."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="The version of this schema.")
    run: Run = Field(description="The training run.")
    checkpoint: Checkpoint = Field(description="The checkpoint.")
    model: Model = Field(description="The model.")
    loss: Loss = Field(default=Loss(), description="The loss that was minimised.")
    optimizers: list[Optimizer] = Field(default=[], description="The optimizers.")
    schedulers: list[Scheduler] = Field(default=[], description="The learning rate schedulers.")
    data: Data = Field(default=Data(), description="The data.")
    randomness: Randomness = Field(default=Randomness(), description="What the random numbers depended on.")
    trainer: Trainer = Field(default=Trainer(), description="The Trainer.")
    environment: Environment = Field(description="The machine and the libraries.")
    code: Code = Field(description="The code that ran.")
    metrics: Metrics = Field(default=Metrics(), description="The metrics.")
    lineage: Lineage = Field(default=Lineage(), description="What the checkpoint was made from.")
    gaps: list[Gap] = Field(default=[], description="What this record does not know, and why.")
