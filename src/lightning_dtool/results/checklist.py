"""A record held against two published lists: is enough known of this model to reproduce it?

- The four guidelines of M. Hartley and T. S. G. Olsson, "dtoolAI: Reproducibility for Deep Learning", *Patterns*
  1(5), 100073 (2020), doi:10.1016/j.patter.2020.100073.
- The variables of the factors Method, Data and Experiment of O. E. Gundersen and S. Kjensmo, "State of the Art:
  Reproducibility in Artificial Intelligence", AAAI 2018, doi:10.1609/aaai.v32i1.11503. They are listed as in the data
  that the authors published with the paper. Some of them stand in a paper and in no record; these are never faked.
- What decides, beyond those, about the numbers that a training run gives: its code, environment, data, settings and
  random numbers.

Nothing here reads a store: whoever can open the training data says what it found there.
"""

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_dtool.items import CHECKPOINT_ITEM, RANDOM_STATES_ITEM, RECORD_ITEM, REQUIREMENTS_ITEM, SOURCE_ITEM
from lightning_dtool.record import DataSource, Gap, Provenance

GUIDELINES = "Guidelines (Hartley & Olsson 2020)"
METHOD = "Method (Gundersen & Kjensmo 2018)"
DATA = "Data (Gundersen & Kjensmo 2018)"
EXPERIMENT = "Experiment (Gundersen & Kjensmo 2018)"
RUN = "What decides about the numbers"

_PACK = "pack the data with `lightning-dtool pack` and train with DtoolDataModule"
_RECORD_AGAIN = "train with DtoolProvenanceCallback of this version"
_MAX_NAMED = 5
"""Gaps and datasets that a finding names; the rest is counted."""


class Status(str, enum.Enum):
    """The status of one point of the checklist."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"
    NOT_CHECKED = "not checked"
    NOT_IN_RECORD = "not in a record"


@dataclass(frozen=True)
class Finding:
    """One point of the checklist.

    Attributes:
        key: A name that stays, for scripts: `guidelines.persistent_uris`.
        group: The list that it belongs to.
        title: What is asked for.
        status: Whether the record satisfies it.
        found: What was found.
        remedy: How to mend it; empty where there is nothing to mend.
    """

    key: str
    group: str
    title: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class DataDescription:
    """What whoever opened a training dataset found there.

    Attributes:
        uri: The URI in the record.
        problem: Why it could not be opened; empty if it could.
        uuid: The UUID of the dataset that is there.
        content_digest: Its content digest.
        readme: Its README.yml; None if it is not a YAML mapping.
        overlays: The names of its overlays.
        annotations: The names of its annotations.
    """

    uri: str
    problem: str = ""
    uuid: str | None = None
    content_digest: str | None = None
    readme: Mapping[str, Any] | None = None
    overlays: Sequence[str] = ()
    annotations: Sequence[str] = ()


_Result = tuple[Status, str, str]


@dataclass(frozen=True)
class _Evidence:
    """What a point is judged by."""

    record: Provenance
    data: Mapping[str, DataDescription]
    items: Collection[str] | None

    def sources(self, *stages: str) -> list[DataSource]:
        return [source for stage in stages for source in self.record.data.stages.get(stage, [])]

    def gaps(self, *facts: str) -> list[Gap]:
        """Return the gaps at these places of the record, or below them."""
        return [
            gap
            for gap in self.record.gaps
            if any(gap.fact == fact or gap.fact.startswith((f"{fact}.", f"{fact}[")) for fact in facts)
        ]


def check(
    record: Provenance, data: Iterable[DataDescription] = (), items: Collection[str] | None = None
) -> list[Finding]:
    """Hold a record against the guidelines and the factors of reproducibility.

    Args:
        record: The record.
        data: What was found of its training datasets, as far as somebody looked.
        items: The paths of the items beside the record in its dataset; None if nobody looked.

    Returns:
        Every point, in a fixed order, whatever the record says.

    Example:
        ```python
        failed = [finding.title for finding in check(checkpoint.record) if finding.status is Status.FAIL]
        ```
    """
    evidence = _Evidence(record, {found.uri: found for found in data}, items)
    return [Finding(key, group, title, *judge(evidence)) for key, group, title, judge in _POINTS]


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that a strict reader does not accept: what failed, and what could not be checked."""
    return [finding for finding in findings if finding.status in (Status.FAIL, Status.NOT_CHECKED)]


# -- results --------------------------------------------------------------------------------------


def _pass(found: str) -> _Result:
    return Status.PASS, found, ""


def _fail(found: str, remedy: str) -> _Result:
    return Status.FAIL, found, remedy


def _not_applicable(found: str) -> _Result:
    return Status.NOT_APPLICABLE, found, ""


def _not_checked(found: str, remedy: str) -> _Result:
    return Status.NOT_CHECKED, found, remedy


def _in_the_paper(found: str) -> Callable[[_Evidence], _Result]:
    return lambda _: (Status.NOT_IN_RECORD, found, "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _MAX_NAMED
    return ", ".join(every[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _unknown(gaps: Sequence[Gap], otherwise: str) -> _Result:
    """Fail for gaps, in their own words; `otherwise` is the remedy where they have none."""
    reasons = _named(f"{gap.fact}: {gap.reason}" for gap in gaps)
    remedies = dict.fromkeys(gap.remedy for gap in gaps if gap.remedy)
    return _fail(f"not known: {reasons}", _named(remedies) or otherwise)


# -- the guidelines -------------------------------------------------------------------------------


def _annotated(evidence: _Evidence) -> _Result:
    datasets = evidence.record.lineage.source_datasets
    if not datasets:
        return _fail("no training data is a dtool dataset, so it has no metadata of its own", _PACK)
    bare, unread, described = [], [], []
    for dataset in datasets:
        found = evidence.data.get(dataset.uri)
        if found is None or found.problem:
            unread.append(f"{dataset.name} ({found.problem if found else 'nobody looked'})")
        elif found.uuid != dataset.uuid:
            unread.append(f"{dataset.name} (another dataset is there)")
        elif not str((found.readme or {}).get("description") or "").strip():
            bare.append(dataset.name)
        else:
            counts = [_counted(len(found.overlays), "overlay"), _counted(len(found.annotations), "annotation")]
            described.append(f"{dataset.name}: a description, {', '.join(counts)}")
    if bare:
        return _fail(
            f"no description in the README of {_named(bare)}", "write one: `dtool readme interactive` or `... edit`"
        )
    if unread:
        return _not_checked(f"could not be read: {_named(unread)}", "run this where the data can be reached")
    return _pass(_named(described))


def _persistent(evidence: _Evidence) -> _Result:
    sources = evidence.sources("train", "val", "test")
    if not sources:
        return _fail("no data is recorded", _PACK)
    without = [source.class_path or "unknown" for source in sources if source.dataset is None]
    if without:
        return _fail(f"without a URI: {_named(dict.fromkeys(without))}", _PACK)
    references = {source.dataset.uri: source.dataset for source in sources if source.dataset}
    for reference in references.values():
        found = evidence.data.get(reference.uri)
        if found is None or found.problem:
            continue
        if found.uuid != reference.uuid:
            return _fail(
                f"{reference.uri} is now another dataset: {found.uuid}, not {reference.uuid}",
                "put a copy of the recorded dataset back, or find it by its UUID",
            )
        if found.content_digest != reference.content_digest:
            return _fail(
                f"{reference.uri} has the recorded UUID, but other content: it was changed after training",
                "restore it from a copy; `lightning-dtool verify` tells which items differ",
            )
    on_disk = sum(uri.startswith("file:") for uri in references)
    disk = f"; {on_disk} on a disk: `dtool cp` to a shared store lets others reach it" if on_disk else ""
    return _pass(f"{_counted(len(references), 'dataset')} by URI, UUID and content digest{disk}")


def _captured(evidence: _Evidence) -> _Result:
    record = evidence.record
    gaps = evidence.gaps("model.hyperparameters", "optimizers", "schedulers", "trainer.settings")
    if gaps:
        return _unknown(gaps, _RECORD_AGAIN)
    if not record.optimizers or not record.trainer.settings:
        return _fail("no optimizer and no settings of a Trainer were observed", _RECORD_AGAIN)
    counts = (
        _counted(len(record.model.hyperparameters), "hyperparameter"),
        _counted(len(record.optimizers), "optimizer"),
        _counted(len(record.trainer.settings), "setting"),
    )
    return _pass(f"{', '.join(counts)}, observed when training started")


def _together(evidence: _Evidence) -> _Result:
    if evidence.items is None:
        return _not_checked("nobody looked which items the dataset has", "check the dataset by its URI")
    missing = {CHECKPOINT_ITEM, RECORD_ITEM} - set(evidence.items)
    if missing:
        return _fail(f"the dataset lacks {_named(sorted(missing))}", _RECORD_AGAIN)
    if not evidence.record.lineage.source_datasets:
        return _fail("weights and parameters are in one dataset; the data inputs have no address in it", _PACK)
    inputs = _named(dataset.name for dataset in evidence.record.lineage.source_datasets)
    return _pass(f"weights, parameters and the data inputs ({inputs}) are in one frozen dataset")


# -- Gundersen and Kjensmo: data ------------------------------------------------------------------


def _stage(stage: str) -> Callable[[_Evidence], _Result]:
    def judge(evidence: _Evidence) -> _Result:
        sources = evidence.sources(stage)
        if not sources and stage == "train":
            return _fail("no training data is recorded", _PACK)
        if not sources:
            return _not_applicable("the run had none")
        without = [source.class_path or "unknown" for source in sources if source.dataset is None]
        if without:
            return _fail(f"not a dtool dataset: {_named(dict.fromkeys(without))}", _PACK)
        return _pass(
            _named(f"{source.dataset.name} ({_samples(source.count)})" for source in sources if source.dataset)
        )

    return judge


def _samples(count: int | None) -> str:
    return "unknown number of samples" if count is None else _counted(count, "sample")


def _results(evidence: _Evidence) -> _Result:
    metrics = evidence.record.metrics
    if not metrics.at_checkpoint:
        return _fail("no metric was logged", "log what you measure with `self.log` in the LightningModule")
    return _pass(f"{_named(metrics.at_checkpoint)}; {_counted(len(metrics.history), 'epoch')} of history")


# -- Gundersen and Kjensmo: experiment ------------------------------------------------------------


def _method_code(evidence: _Evidence) -> _Result:
    record = evidence.record
    module = record.model.class_path.partition(":")[0]
    if module in record.code.modules:
        return _with_item(evidence, SOURCE_ITEM, f"{record.code.modules[module]} in {SOURCE_ITEM}")
    if record.model.source:
        return _pass("the class's source is in the record")
    return _fail(f"the source of {record.model.class_path} is not stored", "keep the model in a file of your project")


def _experiment_code(evidence: _Evidence) -> _Result:
    code = evidence.record.code
    if not code.entry_point or code.entry_point not in code.files:
        return _fail(
            "the script that ran is not stored", "run a script, a notebook or a module of a project, not a prompt"
        )
    return _with_item(evidence, SOURCE_ITEM, f"{code.entry_point} in {SOURCE_ITEM}")


def _with_item(evidence: _Evidence, item: str, found: str) -> _Result:
    """Pass if the dataset has the item that the record speaks of."""
    if evidence.items is not None and item not in evidence.items:
        return _fail(f"the dataset has no {item}", _RECORD_AGAIN)
    return _pass(found)


def _hardware(evidence: _Evidence) -> _Result:
    environment = evidence.record.environment
    if environment.cpu is None or environment.memory_bytes is None:
        return _fail("processor or memory is not recorded", _RECORD_AGAIN)
    accelerators = _named(environment.accelerators) or "no accelerator"
    memory = f"{environment.memory_bytes / 2**30:.1f} GiB"
    return _pass(f"{environment.cpu}, {_counted(environment.cpu_count or 0, 'processor')}, {memory}, {accelerators}")


def _software(evidence: _Evidence) -> _Result:
    environment = evidence.record.environment
    versions = ", ".join(f"{name} {environment.versions[name]}" for name in ("torch", "lightning")
                         if name in environment.versions)  # fmt: skip
    if evidence.items is None:
        return _not_checked(f"nobody looked for {REQUIREMENTS_ITEM}", "check the dataset by its URI")
    return _with_item(evidence, REQUIREMENTS_ITEM, f"Python {environment.python}, {versions}; {REQUIREMENTS_ITEM}")


def _setup(evidence: _Evidence) -> _Result:
    record = evidence.record
    gaps = evidence.gaps("model.hyperparameters", "loss", "optimizers", "schedulers", "trainer", "data.datamodule")
    if gaps:
        return _unknown(gaps, _RECORD_AGAIN)
    if not record.trainer.settings or not (record.loss.calls or record.loss.operations):
        return _fail("the loss or the settings of the Trainer are not recorded", _RECORD_AGAIN)
    return _pass("hyperparameters, loss, optimizers, schedulers and Trainer, without a gap")


def _evaluation(evidence: _Evidence) -> _Result:
    record = evidence.record
    monitors = [f"{monitor.name} ({monitor.mode})" for monitor in record.checkpoint.monitors]
    objects = [found.class_path.rpartition(":")[2] for found in record.metrics.objects]
    if not monitors and not objects:
        return _fail(
            "no monitored metric and no torchmetrics object",
            "say what you judge by: ModelCheckpoint(monitor=...), or a torchmetrics object in the LightningModule",
        )
    parts = [f"checkpoints are chosen by {_named(monitors)}"] if monitors else []
    return _pass("; ".join([*parts, *([f"computed by {_named(objects)}"] if objects else [])]))


# -- what decides about the numbers ---------------------------------------------------------------


def _in_git(evidence: _Evidence) -> _Result:
    git = evidence.record.code.git
    if git is None:
        return _fail("the code is in no git repository", "commit it to one")
    place = f" of {git.remote}" if git.remote else ""
    return _pass(f"commit {git.commit[:12]}{place}")


def _changes(evidence: _Evidence) -> _Result:
    code = evidence.record.code
    if code.git is None:
        return _not_applicable("the code is in no git repository")
    if code.git.dirty is None:
        return _fail("git did not say whether files differed from the commit", "try: git status")
    lost = [path for path in code.untracked if path not in code.files]
    if lost:
        return _fail(f"imported, unknown to git and not stored: {_named(lost)}", "commit them")
    if code.git.dirty and not code.patch:
        return _fail("files differed from the commit, and the patch is not stored", "commit before you train")
    known = f"{_counted(len(code.untracked), 'untracked file')} stored" if code.untracked else "no untracked file"
    if code.git.dirty:
        return _with_item(evidence, SOURCE_ITEM, f"the patch is {code.patch} in {SOURCE_ITEM}; {known}")
    return _pass(f"no file differed from the commit; {known}")


def _sources(evidence: _Evidence) -> _Result:
    files = evidence.record.code.files
    gaps = evidence.gaps("code.files", "code.modules")
    if gaps:
        return _unknown(gaps, "keep the code in files of one project")
    if not files:
        return _fail("no source file is stored", "run a script, a notebook or a module of a project")
    return _with_item(evidence, SOURCE_ITEM, f"{_counted(len(files), 'file')} in {SOURCE_ITEM}")


def _split(evidence: _Evidence) -> _Result:
    sources = evidence.sources("train", "val", "test")
    if not sources:
        return _fail("no data is recorded", _PACK)
    chosen = [source for source in sources if source.selection or source.selection_digest]
    if len(chosen) == len(sources):
        return _pass(f"how samples were chosen is recorded for {_counted(len(sources), 'source')}")
    places = [source.dataset.uuid if source.dataset else None for source in sources]
    if len(set(places)) == len(places) and None not in places:
        return _not_applicable("every stage has a dataset of its own")
    return _fail(
        f"{len(sources) - len(chosen)} of {_counted(len(sources), 'source')} do not say which samples were chosen",
        "split with DtoolDataModule(val_split=...), or give each stage a dataset of its own",
    )


def _preprocessing(evidence: _Evidence) -> _Result:
    gaps = [gap for gap in evidence.gaps("data") if "transform" in gap.fact or "collate" in gap.fact]
    if gaps:
        return _unknown(gaps, "write transforms as classes or functions in a file of your project")
    if not evidence.sources("train"):
        return _fail("no training data is recorded", _PACK)
    places = dict.fromkeys(place for source in evidence.sources("train", "val", "test") for place in source.transforms)
    hooks = evidence.record.data.hooks
    return _pass(_named([*places, *hooks]) or "none was found")


def _order(evidence: _Evidence) -> _Result:
    order = evidence.record.data.order
    if not order:
        return _fail("the order of the samples is not recorded", "train with DtoolDataModule")
    return _pass(f"a digest for {_counted(len(order), 'epoch')}")


def _initial_weights(evidence: _Evidence) -> _Result:
    weights = evidence.record.model.initial_weights
    if weights is None or weights.digest is None:
        return _fail("there is no digest of the first weights", _RECORD_AGAIN)
    names = f" ({_named(weights.names)})" if weights.names else ""
    return _pass(f"{weights.origin}{names}, {weights.digest[:19]}")


def _loss(evidence: _Evidence) -> _Result:
    loss = evidence.record.loss
    if loss.calls:
        return _pass(_named(call.name.rpartition(":")[2] for call in loss.calls))
    if loss.operations and loss.training_step:
        return _pass(f"made by hand: {_counted(len(loss.operations), 'operation')} and the source of training_step")
    gaps = evidence.gaps("loss")
    return _unknown(gaps, _RECORD_AGAIN) if gaps else _fail("the loss is not recorded", _RECORD_AGAIN)


def _seed(evidence: _Evidence) -> _Result:
    seed = evidence.record.randomness.global_seed
    if seed is None:
        return _fail("no global seed was set", "call lightning.seed_everything(seed, workers=True) first")
    return _pass(f"seed_everything({seed})")


def _worker_seeds(evidence: _Evidence) -> _Result:
    loaders = [source.loader for source in evidence.sources("train", "val", "test") if source.loader]
    if loaders and not any(loader.num_workers for loader in loaders):
        return _not_applicable("no data loader has workers")
    if evidence.record.randomness.seed_workers:
        return _pass("workers were seeded with the global seed")
    return _fail("data loader workers were not seeded", "call lightning.seed_everything(seed, workers=True) first")


def _states(evidence: _Evidence) -> _Result:
    states = evidence.record.randomness.states
    if not states:
        return _fail("the states of the random number generators are not recorded", _RECORD_AGAIN)
    return _with_item(evidence, RANDOM_STATES_ITEM, f"at {_named(states)}, in {RANDOM_STATES_ITEM}")


def _deterministic(evidence: _Evidence) -> _Result:
    flags = evidence.record.randomness.flags
    if "deterministic_algorithms" not in flags:
        return _fail("it is not recorded whether torch used deterministic algorithms only", _RECORD_AGAIN)
    if flags["deterministic_algorithms"] is True and not flags.get("deterministic_algorithms_warn_only"):
        return _pass("torch used deterministic algorithms only")
    if not evidence.record.environment.accelerators:
        return _not_applicable("not asked for, and there was no accelerator, whose algorithms it is about")
    return _fail("torch was free to use algorithms that are not deterministic", "Trainer(deterministic=True)")


def _no_gaps(evidence: _Evidence) -> _Result:
    gaps = evidence.record.gaps
    if not gaps:
        return _pass("nothing is known to be missing")
    facts = _named(gap.fact for gap in gaps)
    return _fail(f"{_counted(len(gaps), 'gap')}: {facts}", "`lightning-dtool show URI` has reason and remedy of each")


_POINTS: Sequence[tuple[str, str, str, Callable[[_Evidence], _Result]]] = (
    ("guidelines.metadata", GUIDELINES, "Training data is annotated with metadata", _annotated),
    ("guidelines.persistent_uris", GUIDELINES, "Data has persistent URIs", _persistent),
    ("guidelines.captured", GUIDELINES, "Training parameters are captured at training time", _captured),
    ("guidelines.stored_together", GUIDELINES, "Parameters and data inputs are stored with the model", _together),
    ("method.problem", METHOD, "Problem description", _in_the_paper("it stands in a paper")),
    ("method.goal", METHOD, "Goal or objective", _in_the_paper("it stands in a paper")),
    ("method.research_method", METHOD, "Research method", _in_the_paper("it stands in a paper")),
    ("method.research_question", METHOD, "Research question", _in_the_paper("it stands in a paper")),
    ("method.pseudocode", METHOD, "Pseudocode", _in_the_paper("it stands in a paper; the code itself is stored")),
    ("data.train", DATA, "Training data", _stage("train")),
    ("data.validation", DATA, "Validation data", _stage("val")),
    ("data.test", DATA, "Test data", _stage("test")),
    ("data.results", DATA, "Results", _results),
    ("experiment.hypothesis", EXPERIMENT, "Hypothesis", _in_the_paper("it stands in a paper")),
    ("experiment.prediction", EXPERIMENT, "Prediction", _in_the_paper("it stands in a paper")),
    ("experiment.method_code", EXPERIMENT, "Source code of the method", _method_code),
    ("experiment.experiment_code", EXPERIMENT, "Source code of the experiment", _experiment_code),
    ("experiment.hardware", EXPERIMENT, "Hardware specification", _hardware),
    ("experiment.software", EXPERIMENT, "Software dependencies", _software),
    ("experiment.setup", EXPERIMENT, "Experiment setup", _setup),
    ("experiment.evaluation", EXPERIMENT, "Evaluation criteria", _evaluation),
    ("run.git", RUN, "Code in git", _in_git),
    ("run.changes", RUN, "Changes since the commit", _changes),
    ("run.sources", RUN, "Source files stored", _sources),
    ("run.split", RUN, "Split of the data", _split),
    ("run.preprocessing", RUN, "Preprocessing", _preprocessing),
    ("run.order", RUN, "Order of the samples", _order),
    ("run.initial_weights", RUN, "First weights", _initial_weights),
    ("run.loss", RUN, "Loss", _loss),
    ("run.seed", RUN, "Global seed", _seed),
    ("run.worker_seeds", RUN, "Seeds of data loader workers", _worker_seeds),
    ("run.states", RUN, "States of random number generators", _states),
    ("run.deterministic", RUN, "Deterministic algorithms", _deterministic),
    ("run.gaps", RUN, "No gaps", _no_gaps),
)


def by_group(findings: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each group with its findings, in order."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.group, []).append(finding)
    yield from groups.items()
