"""Train again what a record tells of, compare, and decide."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lightning_dtool.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    LightningDtoolError,
    ReproductionError,
    UnsafeCheckpointError,
)
from lightning_dtool.items import REQUIREMENTS_ITEM, TRACE_ITEM
from lightning_dtool.reproduction.publishing import publish_copy
from lightning_dtool.reproduction.recorded import LocatedData, Recorded, datasets_of, locate_data, normal
from lightning_dtool.reproduction.rerunning import Options, Rerun, rerun
from lightning_dtool.reproduction.running import ended_by_signals
from lightning_dtool.reproduction.tolerance import MIN_VALUES, judge, width_factor
from lightning_dtool.reproduction.tracing import first_parting
from lightning_dtool.reproduction.verdict import (
    MetricRow,
    Replication,
    Reproduction,
    Verdict,
    judged_rows,
    write_verdict,
)
from lightning_dtool.rerun import REPLICATE, REPRODUCE
from lightning_dtool.store import FrozenDataset, ensure_writable, local_path, locate, normalize_uri

Environments = Literal["current", "create"]
Ancestors = Literal["first", "parent"]
Say = Callable[[str], None]

DEFAULT_INTO = "reproductions"
"""The folder, in the working directory, that verdicts and reruns go to."""

MAX_GENERATIONS = 100
"""Checkpoints that were resumed from one another."""


def reproduce(
    uri: str | os.PathLike[str],
    *,
    into: str | os.PathLike[str] | None = None,
    env: Environments = "current",
    device: str | None = None,
    runs: int = 0,
    level: float = 0.95,
    source: str | os.PathLike[str] | None = None,
    data: Mapping[str, str] | None = None,
    search: Sequence[str] = (),
    threads: int | None = None,
    from_: Ancestors = "first",
    trace: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> Reproduction:
    """Train again what a checkpoint's record tells of, and compare the two models bit by bit.

    The recorded code runs in a process of its own, with the rights of whoever calls this: reproduce what you would
    run. It runs from the recorded source, in a temporary folder, on the recorded data, up to the moment at which the
    checkpoint was saved. The original, and whatever folders the training wrote to, are not touched.

    Args:
        uri: The checkpoint's URI, or its folder.
        into: Where the rerun's checkpoint and the verdict go. Default: the folder `reproductions` here.
        env: `"current"` runs in this environment and says how it differs from the recorded one; `"create"` makes one
            of the recorded packages.
        device: `"cpu"` trains on the CPU, whatever the script asks for.
        runs: Further reruns with other seeds, to say where another training may end up. At least 3, or none: then
            only `identical` or `different` is claimed.
        level: The probability that all metrics lie inside their intervals if nothing differs.
        source: A folder whose code replaces the recorded one: does my present code still give this model?
        data: Other datasets for recorded ones, by their URI, UUID or name. They may have other content, which is then
            named among the differences.
        search: Base URIs to look for data in that is not where it was.
        threads: Another number of torch's threads than was recorded.
        from_: What a resumed training begins with: `"first"` reproduces its parents first, `"parent"` takes the
            recorded parent as it is.
        trace: Find the first step at which the two trainings part.
        timeout: Seconds that each training has. Default: no end.
        progress: Called with what is going on.

    Returns:
        The verdict, why, and the checkpoint of the rerun.

    Raises:
        DatasetNotFoundError: If there is no such checkpoint.
        NotACheckpointError: If it is none.
        VerificationError: If it differs from its hashes.
        ConfigurationError: If arguments do not fit together.
        StoreError: If `into` cannot be written.

    Example:
        ```python
        outcome = lightning_dtool.reproduce("s3://lab-models/6a1c…", search=["s3://lab-data"])
        outcome.verdict             # <Verdict.IDENTICAL: 'identical'>
        outcome.rerun.uri           # the checkpoint that came out
        ```
    """
    request = _Request(
        kind=REPRODUCE, env=env, device=device, runs=runs, level=level, source=source, data=dict(data or {}),
        search=tuple(search), threads=threads, from_=from_, trace=trace, timeout=timeout, say=progress or _silent,
    )  # fmt: skip
    return request.carry_out(uri, into)


def replicate(
    uri: str | os.PathLike[str],
    train: str | os.PathLike[str],
    val: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    *,
    into: str | os.PathLike[str] | None = None,
    env: Environments = "current",
    device: str | None = None,
    runs: int = 0,
    level: float = 0.95,
    source: str | os.PathLike[str] | None = None,
    data: Mapping[str, str] | None = None,
    search: Sequence[str] = (),
    threads: int | None = None,
    from_: Ancestors = "first",
    trace: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> Replication:
    """Train as a checkpoint was trained, on new data: does it come to the same result?

    As `reproduce`, but for the data. The new dataset takes the place of the recorded one and is divided as that was,
    by fractions or by its overlay, unless there is a dataset for validation or testing. Classes are numbered by the new
    training data. The weights will differ; with `runs` the recorded metrics are judged by trainings on the new data.

    Args:
        uri: The checkpoint's URI, or its folder.
        train: The new dataset to train on.
        val: The new dataset to validate on. Default: a part of `train`, as recorded.
        test: The new dataset to test on. Default: a part of `train`, as recorded.
        into: As in `reproduce`, and so for all that follow.
        env: Where it runs.
        device: The device to train on.
        runs: Further trainings with other seeds.
        level: The probability of the intervals.
        source: Code that replaces the recorded one.
        data: Other datasets that the script opens besides.
        search: Base URIs to look for data in.
        threads: Another number of threads.
        from_: What a resumed training begins with.
        trace: Find the first step at which the two trainings part.
        timeout: Seconds that each training has.
        progress: Called with what is going on.

    Returns:
        The verdict, why, and the new checkpoint, whose record says that it replicates the other.

    Example:
        ```python
        outcome = lightning_dtool.replicate("s3://lab-models/6a1c…", "s3://lab-data/leaves-2025", runs=5)
        outcome.verdict             # <Verdict.WITHIN_TOLERANCE: 'within tolerance'>
        ```
    """
    stages = {"train": train, "val": val, "test": test}
    request = _Request(
        kind=REPLICATE, env=env, device=device, runs=runs, level=level, source=source, data=dict(data or {}),
        search=tuple(search), threads=threads, from_=from_, trace=trace, timeout=timeout, say=progress or _silent,
        stages={stage: FrozenDataset.from_uri(given).uri for stage, given in stages.items() if given is not None},
    )  # fmt: skip
    found = request.carry_out(uri, into)
    assert isinstance(found, Replication)  # noqa: S101  # by the kind of the request
    return found


@dataclass(frozen=True)
class _Request:
    """What was asked for."""

    kind: str
    env: Environments = "current"
    device: str | None = None
    runs: int = 0
    level: float = 0.95
    source: str | os.PathLike[str] | None = None
    data: dict[str, str] = field(default_factory=dict)
    search: tuple[str, ...] = ()
    threads: int | None = None
    from_: Ancestors = "first"
    trace: bool = False
    timeout: float | None = None
    say: Say = lambda text: None
    stages: dict[str, str] = field(default_factory=dict)
    """For a replication: datasets by stage."""

    def __post_init__(self) -> None:
        if self.runs and self.runs < MIN_VALUES:
            raise ConfigurationError(f"runs={self.runs}: expected 0, or at least {MIN_VALUES}: fewer show no spread.")
        if not 0 < self.level < 1:
            raise ConfigurationError(f"level={self.level}: expected a probability between 0 and 1.")
        if self.runs:
            width_factor(MIN_VALUES, self.level)  # says so now, and not after hours, if SciPy is not installed
        if self.env not in ("current", "create"):
            raise ConfigurationError(f"env={self.env!r}: expected 'current' or 'create'.")
        if self.from_ not in ("first", "parent"):
            raise ConfigurationError(f"from_={self.from_!r}: expected 'first' or 'parent'.")
        if self.device not in (None, "cpu"):
            raise ConfigurationError(f"device={self.device!r}: expected 'cpu', or nothing for the script's own choice.")
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"threads={self.threads}: expected at least 1.")

    def carry_out(self, uri: str | os.PathLike[str], into: str | os.PathLike[str] | None) -> Reproduction:
        """Rerun, compare, decide, and keep the verdict."""
        base_uri = _prepared(into)
        self.say("verifying the checkpoint")
        recorded = Recorded.from_uri(uri)
        processes = recorded.record.trainer.settings.get("world_size", 1)
        if self.runs and processes != 1:
            raise ConfigurationError(
                f"runs={self.runs}: {recorded.uri} was trained by {processes} processes, and other seeds can be given "
                "to a training of one process only. Reproduce it without runs."
            )
        kind = Reproduction if self.kind == REPRODUCE else Replication
        with ended_by_signals(), _scratch() as scratch:
            log: Path | None = None
            try:
                session = _Session(self, recorded, base_uri, scratch)
                found = session.run(kind)
                log = session.log
            except (ReproductionError, LightningDtoolError) as error:
                found = kind(Verdict.COULD_NOT_RUN, str(error), recorded.reference, runs=self.runs, level=self.level)
                log = _latest_log(scratch)
            verdict = write_verdict(found, base_uri, log)
        return replace(found, uri=verdict.uri)


class _Session:
    """One request on its way."""

    def __init__(self, request: _Request, recorded: Recorded, base_uri: str, scratch: Path) -> None:
        self.request = request
        self.recorded = recorded
        self.base_uri = base_uri
        self.scratch = scratch
        self.log: Path | None = None
        self._notes: list[str] = []
        self._environment: list[str] = []

    def run(self, kind: type[Reproduction]) -> Reproduction:
        """Rerun, compare and decide."""
        request, recorded = self.request, self.recorded
        options = self._options()
        replaced = [normal(entry.uri) for entry in datasets_of(recorded.record)] if request.kind == REPLICATE else []
        data = locate_data(recorded.record, request.data, request.search, skip=replaced)
        if request.kind == REPLICATE:
            data = self._new_data(data)
        parent = self._parent(recorded, options, 0)
        folder = self.scratch / "rerun"
        first = rerun(
            recorded, data, folder, options, parent=parent, trace=self._traces(), recall=True, what=request.kind
        )
        self.log = first.log
        self._notes += first.notes
        kept = publish_copy(first.dataset, self.base_uri)
        comparison = self._compare(recorded.uri, kept.uri)
        measured = self._all_measured(first, data, options, parent)
        again = {**Recorded(kept).record.metrics.at_checkpoint, **_recalls(first, "rerun")}
        before = {**recorded.record.metrics.at_checkpoint, **_recalls(first, "recorded")}
        judgements = judge(before, measured, request.level) if measured else []
        rows = judged_rows(before, again, judgements)
        verdict, reason = _decide(comparison, rows, request)
        step = self._step(recorded, first, data, options, parent) if request.trace else None
        differences = () if verdict is Verdict.IDENTICAL else tuple(_factors(comparison))
        return kind(
            verdict,
            reason,
            recorded.reference,
            Recorded(kept).reference,
            metrics=rows,
            factors=differences,
            first_difference=str(comparison.first_difference) if comparison.first_difference is not None else None,
            step=step,
            notes=tuple(dict.fromkeys(self._notes)),
            environment=tuple(self._environment),
            runs=len(measured),
            level=request.level,
            seconds=first.outcome.seconds,
            comparison=comparison,
        )

    def _compare(self, one: str, two: str) -> Any:
        # Here, because it takes torch, which the command line does not load before something has run.
        from lightning_dtool.reproduction.comparison import compare

        try:
            return compare(one, two)
        except UnsafeCheckpointError:
            if self.request.source is not None:  # the code of the dataset has not run, and must not by being read
                raise
            return compare(one, two, weights_only=False)  # its code has just run with the user's rights

    def _all_measured(
        self, first: Rerun, data: LocatedData, options: Options, parent: str | None
    ) -> list[dict[str, float]]:
        """Return what trainings with other seeds measured; one that fails costs itself alone."""
        measured = []
        for number in range(1, self.request.runs + 1):
            try:
                measured.append(self._measured(first, data, options, parent, number))
            except ReproductionError as error:
                self._notes.append(f"seed {number} gave no checkpoint: {str(error).splitlines()[0]}")
        if 0 < len(measured) < MIN_VALUES:
            self._notes.append(f"{len(measured)} trainings with other seeds show no spread, and nothing is judged")
            return []
        return measured

    def _new_data(self, data: LocatedData) -> LocatedData:
        """Let the new datasets stand where a script opens the recorded ones without a DtoolDataModule."""
        stages, uris = self.request.stages, dict(data.uris)
        if not datasets_of(self.recorded.record):
            raise ReproductionError(
                "the recorded training did not read dtool datasets, so that there is nothing to put others in place of"
            )
        for stage, sources in self.recorded.record.data.stages.items():
            for entry in sources:
                if entry.dataset is not None and (new := stages.get(stage) or stages["train"]):
                    uris.setdefault(normal(entry.dataset.uri), new)
        return LocatedData(uris, data.notes)

    def _options(self) -> Options:
        request = self.request
        source = Path(request.source).resolve() if request.source is not None else None
        if request.device is not None:
            self._notes.append(f"every Trainer got accelerator={request.device!r}, whatever the script asked for")
        return Options(
            kind=request.kind,
            python=self._python(),
            source=source,
            threads=request.threads,
            device=request.device,
            timeout=request.timeout,
            data=request.stages,
            say=request.say,
        )

    def _python(self) -> str:
        """Return the interpreter to run with, and note how its environment differs from the recorded one."""
        # Here, because it takes torch to look at an environment.
        from lightning_dtool.reproduction.environment import create_environment, environment_differences

        record, path = self.recorded.record, self.recorded.optional_path(REQUIREMENTS_ITEM)
        pinned = path.read_text(encoding="utf-8", errors="replace") if path is not None else None
        if self.request.env == "create":
            if pinned is None:
                raise ReproductionError(
                    f"{self.recorded.uri}: expected an item {REQUIREMENTS_ITEM} to make an environment of, found none."
                )
            made = create_environment(pinned, self.scratch / "environment", record.environment.python, self.request.say)
            self._environment += [f"left out: {name}: {why}" for name, why in made.skipped.items()]
            self._environment += [f"replaced: {name}: {change}" for name, change in made.replaced.items()]
            self._environment += made.conflicts
            return str(made.python)
        found = environment_differences(pinned, record.environment)
        self._environment += [
            _one_line(entry) for entry in found if entry.weight == "matters" and not _OF_A_RERUN.fullmatch(entry.path)
        ]
        if self._environment:
            self.request.say(f"the environment differs from the recorded one in {len(self._environment)} points")
        return sys.executable

    def _traces(self) -> bool:
        return self.request.trace or TRACE_ITEM in self.recorded.items

    def _measured(
        self, first: Rerun, data: LocatedData, options: Options, parent: str | None, number: int
    ) -> dict[str, Any]:
        """Return what a rerun with another seed has measured; its checkpoint goes."""
        folder = self.scratch / f"seed-{number}"
        what = f"seed {number} of {self.request.runs}"
        other = rerun(self.recorded, data, folder, options, parent=parent, seed_offset=number, recall=True, what=what)
        metrics = {**Recorded(other.dataset).record.metrics.at_checkpoint, **_recalls(other, "rerun")}
        shutil.rmtree(folder, ignore_errors=True)
        return dict(metrics)

    def _parent(self, recorded: Recorded, options: Options, generation: int) -> str | None:
        """Return the checkpoint that a resumed training begins with: reproduced first, or as it is recorded."""
        reference = recorded.record.lineage.parent_checkpoint
        if reference is None:
            return None
        if generation >= MAX_GENERATIONS:
            raise ReproductionError(
                f"{recorded.uri}: more than {MAX_GENERATIONS} trainings, each resumed from another."
            )
        search = [*self.request.search, *_beside(recorded.uri)]
        try:
            located = locate(reference.uri, reference.uuid, content_digest=reference.content_digest, search=search)
        except DatasetNotFoundError:
            if not recorded.record.run.fit_index:
                raise
            # The script had fitted before, and so may have made it: what comes out is compared in any case.
            self._notes.append(
                f"the parent is gone, and is left to the script, which had fitted before: {reference.uri}"
            )
            return None
        parent = Recorded(located)
        if _same_process(parent, recorded):
            return None  # the script trains it itself
        if self.request.from_ == "parent":
            self._notes.append(f"resumed from the recorded parent as it is: {parent.uri}")
            return parent.uri
        before = self._parent(parent, options, generation + 1)
        data = locate_data(parent.record, self.request.data, self.request.search)
        folder = self.scratch / f"parent-{generation + 1}"
        name = f"parent {parent.dataset.name}"
        made = rerun(parent, data, folder, replace(options, kind=REPRODUCE), parent=before, what=name)
        self._notes += made.notes
        same = self._compare(parent.uri, made.dataset.uri)
        told = "identical to the recorded one" if same.weights_identical else "NOT identical to the recorded one"
        self._notes.append(f"resumed from the reproduced parent, which is {told}: {parent.uri}")
        return made.dataset.uri

    def _step(
        self, recorded: Recorded, first: Rerun, data: LocatedData, options: Options, parent: str | None
    ) -> str | None:
        """Say at which step two trainings parted: the recorded one and this, else two reruns of it."""
        mine = Recorded(first.dataset).optional_path(TRACE_ITEM)
        if mine is None:
            return None
        original = recorded.optional_path(TRACE_ITEM)
        if original is not None:
            parted = first_parting(original, mine)
            return f"parted from the recorded training at {parted}" if parted else "no step parted"
        second = rerun(
            recorded, data, self.scratch / "again", options, parent=parent, trace=True, what="once more, traced"
        )
        theirs = Recorded(second.dataset).optional_path(TRACE_ITEM)
        parted = first_parting(mine, theirs) if theirs is not None else None
        if parted:
            return f"training is not deterministic here: two reruns parted at {parted}"
        return (
            "training is deterministic here (two reruns are the same in every step), so a difference comes from what "
            "differs between then and now"
        )


def _recalls(made: Rerun, whose: str) -> dict[str, float]:
    """Return the recall of each class as metrics, where the rerun could compute it."""
    event = made.outcome.last("recall") or {}
    return {f"recall[{name}]": value for name, value in event.get(whose, {}).items()}


def _same_process(parent: Recorded, recorded: Recorded) -> bool:
    """Return True if one script trained both, one `fit` after another.

    Python seeds its generator from the operating system when a process starts: where this package found the same
    state, it was the same process.
    """
    one, two = (entry.record for entry in (parent, recorded))
    states = [record.randomness.states.get("import", {}).get("python") for record in (one, two)]
    if None in states or states[0] != states[1] or one.run.uuid == two.run.uuid:
        return False
    return (one.run.fit_index or 0) < (two.run.fit_index or 0)


def _beside(uri: str) -> list[str]:
    """Return the place that a checkpoint lies in: its parent is often there, too."""
    folder = local_path(uri)
    return [str(folder.parent)] if folder is not None else [uri.rpartition("/")[0]]


def _decide(comparison: Any, rows: tuple[MetricRow, ...], request: _Request) -> tuple[Verdict, str]:
    if comparison.weights_identical:
        others = [
            name
            for name, part in (
                ("the optimizers' states", comparison.optimizers),
                ("the schedulers' states", comparison.schedulers),
                ("metrics", comparison.metrics),
                ("the order of the samples", comparison.order),
            )
            if part.verdict == "different"
        ]
        rest = f"; {', '.join(others)} differ" if others else ""
        return Verdict.IDENTICAL, f"every bit of the {comparison.weights.tensor_count} weight tensors is the same{rest}"
    weights = comparison.weights
    shown = f"{weights.differing_count} of {weights.tensor_count} weight tensors differ"
    if weights.greatest_absolute is not None:
        shown += f" (by up to {weights.greatest_absolute:.3g})"
    judged = [row for row in rows if row.inside is not None]
    if not request.runs:
        return Verdict.DIFFERENT, f"{shown}. Whether the metrics are within tolerance takes reruns: --runs 5"
    if not judged:
        return Verdict.DIFFERENT, f"{shown}, and no metric could be judged"
    outside = [row.name for row in judged if not row.inside]
    if outside:
        return (
            Verdict.DIFFERENT,
            f"{shown}, and outside of what {request.runs} other seeds predict: {', '.join(outside)}",
        )
    share = f"{request.level:g}"
    return (
        Verdict.WITHIN_TOLERANCE,
        f"{shown}; all {len(judged)} metrics lie where {request.runs} other seeds predict them (level {share})",
    )


_OF_A_RERUN = re.compile(
    r"environment\.variables\W+(?!CU|NVIDIA|TORCH|PYTORCH|OMP|MKL|KMP|OPENBLAS|ONEDNN|DNNL|PYTHONHASHSEED).*"
    r"|code\.(argv|git|working_directory|untracked|run_as_module|patch)\b.*|run\..*"
    r"|lineage\.(reproduces|replicates|parent_checkpoint)\b.*|model\.initial_weights\.checkpoint\b.*"
    r"|data\.datamodule\.arguments\.\w*uri|trainer\.callbacks.*(Rehearsal|ProvenanceCallback|dirpath).*"
    r"|trainer\.(loggers.*(dir|path)|settings\.\w*dir|config)\b.*",
    re.DOTALL,
)
"""What differs because it is a rerun, and explains nothing."""

_FIRST = ("data", "code", "model", "optimizers", "schedulers", "loss", "trainer", "randomness", "environment")


def _factors(comparison: Any) -> list[str]:
    """Return what differs and could explain another outcome, one short line each, the likeliest first."""
    found = [factor for factor in comparison.factors if not _OF_A_RERUN.fullmatch(factor.path)]
    found.sort(key=lambda factor: _FIRST.index(factor.section) if factor.section in _FIRST else len(_FIRST))
    return [_one_line(factor) for factor in found]


def _one_line(factor: Any) -> str:
    if factor.patch:
        lines = [line for line in factor.patch.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        return f"{factor.path}: {' | '.join(line.strip() for line in lines[:4])}{' | …' if lines[4:] else ''}"
    if factor.kind == "changed":
        return f"{factor.path}: {_short(factor.before)} -> {_short(factor.after)}"
    return f"{factor.path}: {factor.kind}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _prepared(into: str | os.PathLike[str] | None) -> str:
    base_uri = normalize_uri(into if into is not None else DEFAULT_INTO)
    folder = local_path(base_uri)
    if folder is not None and not folder.exists():
        folder.mkdir(parents=True)
    ensure_writable(base_uri)
    return base_uri


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lightning-dtool-rerun-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _latest_log(scratch: Path) -> Path | None:
    logs = sorted(scratch.glob("*/log.txt"), key=lambda path: path.stat().st_mtime)
    return logs[-1] if logs else None


def _silent(text: str) -> None:
    """Say nothing."""
