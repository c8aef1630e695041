"""One request on its way: rerun, compare, decide, and keep the verdict."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_dtool.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    LightningDtoolError,
    ReproductionError,
    UnsafeCheckpointError,
)
from lightning_dtool.items import REQUIREMENTS_ITEM, TRACE_ITEM
from lightning_dtool.reproduction.launch import Options, Rerun, rerun
from lightning_dtool.reproduction.original import LocatedData, Original, datasets_of, locate_data, normal
from lightning_dtool.reproduction.process import ended_by_signals
from lightning_dtool.reproduction.request import Request
from lightning_dtool.reproduction.storing import store_result
from lightning_dtool.reproduction.tolerance import MIN_VALUES, judge
from lightning_dtool.reproduction.tracing import first_parting
from lightning_dtool.reproduction.verdict import decide, explains, factors, judged_rows, one_line
from lightning_dtool.rerun import REPLICATE, REPRODUCE
from lightning_dtool.results.comparison import Comparison
from lightning_dtool.results.reproduction import Replication, Reproduction, Verdict
from lightning_dtool.store import DatasetWriter, FrozenDataset, ensure_writable, local_path, locate, normalize_uri

DEFAULT_INTO = "reproductions"
"""The folder, in the working directory, that verdicts and reruns go to."""

MAX_GENERATIONS = 100
"""Checkpoints that were resumed from one another."""


def carry_out(request: Request, uri: str | os.PathLike[str], into: str | os.PathLike[str] | None) -> Reproduction:
    """Rerun, compare, decide, and keep the verdict.

    Args:
        request: What was asked for.
        uri: The checkpoint's URI, or its folder.
        into: Where the rerun's checkpoint and the verdict go. Default: the folder `reproductions` here.
    """
    base_uri = _prepared(into)
    request.say("verifying the checkpoint")
    recorded = Original.from_uri(uri)
    processes = recorded.record.trainer.settings.get("world_size", 1)
    if request.runs and processes != 1:
        raise ConfigurationError(
            f"runs={request.runs}: {recorded.uri} was trained by {processes} processes, and other seeds can be given "
            "to a training of one process only. Reproduce it without runs."
        )
    kind = Reproduction if request.kind == REPRODUCE else Replication
    with ended_by_signals(), _scratch() as scratch:
        log: Path | None = None
        try:
            session = _Session(request, recorded, base_uri, scratch)
            found = session.run(kind)
            log = session.log
        except (ReproductionError, LightningDtoolError) as error:
            found = kind(Verdict.COULD_NOT_RUN, str(error), recorded.reference, runs=request.runs, level=request.level)
            log = _latest_log(scratch)
        verdict = store_result(found, base_uri, log)
    return replace(found, uri=verdict.uri)


class _Session:
    """One request on its way."""

    def __init__(self, request: Request, recorded: Original, base_uri: str, scratch: Path) -> None:
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
        kept = _published_copy(first.dataset, self.base_uri)
        comparison = self._compare(recorded.uri, kept.uri)
        measured = self._all_measured(first, data, options, parent)
        again = {**Original(kept).record.metrics.at_checkpoint, **_recalls(first, "rerun")}
        before = {**recorded.record.metrics.at_checkpoint, **_recalls(first, "recorded")}
        judgements = judge(before, measured, request.level) if measured else []
        rows = judged_rows(before, again, judgements)
        verdict, reason = decide(comparison, rows, request.runs, request.level)
        step = self._step(recorded, first, data, options, parent) if request.trace else None
        differences = () if verdict is Verdict.IDENTICAL else tuple(factors(comparison))
        return kind(
            verdict,
            reason,
            recorded.reference,
            Original(kept).reference,
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

    def _compare(self, one: str, two: str) -> Comparison:
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
                    f"expected an item {REQUIREMENTS_ITEM} to make an environment of, found none.",
                    uri=self.recorded.uri,
                )
            made = create_environment(pinned, self.scratch / "environment", record.environment.python, self.request.say)
            self._environment += [f"left out: {name}: {why}" for name, why in made.skipped.items()]
            self._environment += [f"replaced: {name}: {change}" for name, change in made.replaced.items()]
            self._environment += made.conflicts
            return str(made.python)
        found = environment_differences(pinned, record.environment)
        self._environment += [one_line(entry) for entry in found if entry.weight == "matters" and explains(entry)]
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
        metrics = {**Original(other.dataset).record.metrics.at_checkpoint, **_recalls(other, "rerun")}
        shutil.rmtree(folder, ignore_errors=True)
        return dict(metrics)

    def _parent(self, recorded: Original, options: Options, generation: int) -> str | None:
        """Return the checkpoint that a resumed training begins with: reproduced first, or as it is recorded."""
        reference = recorded.record.lineage.parent_checkpoint
        if reference is None:
            return None
        if generation >= MAX_GENERATIONS:
            raise ReproductionError(
                f"more than {MAX_GENERATIONS} trainings, each resumed from another.", uri=recorded.uri
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
        parent = Original(located)
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
        self, recorded: Original, first: Rerun, data: LocatedData, options: Options, parent: str | None
    ) -> str | None:
        """Say at which step two trainings parted: the recorded one and this, else two reruns of it."""
        mine = Original(first.dataset).optional_path(TRACE_ITEM)
        if mine is None:
            return None
        original = recorded.optional_path(TRACE_ITEM)
        if original is not None:
            parted = first_parting(original, mine)
            return f"parted from the recorded training at {parted}" if parted else "no step parted"
        second = rerun(
            recorded, data, self.scratch / "again", options, parent=parent, trace=True, what="once more, traced"
        )
        theirs = Original(second.dataset).optional_path(TRACE_ITEM)
        parted = first_parting(mine, theirs) if theirs is not None else None
        if parted:
            return f"training is not deterministic here: two reruns parted at {parted}"
        return (
            "training is deterministic here (two reruns are the same in every step), so a difference comes from what "
            "differs between then and now"
        )


def _published_copy(dataset: FrozenDataset, base_uri: str) -> FrozenDataset:
    """Publish a checkpoint from the scratch folder, under a new UUID.

    A plain copy of the dataset would keep a README with the URI in the scratch folder.
    """
    creator = dataset.admin_metadata.get("creator_username")
    with DatasetWriter(dataset.name, base_uri, creator_username=creator) as writer:
        for identifier, item in dataset.items.items():
            writer.put_file(dataset.path(identifier), item.relpath)
        for name, value in dataset.annotations().items():
            writer.put_annotation(name, value)
        for tag in dataset.tags():
            writer.put_tag(tag)
        writer.put_readme(dataset.readme().replace(dataset.uri, writer.uri))
        return writer.commit()


def _recalls(made: Rerun, whose: str) -> dict[str, float]:
    """Return the recall of each class as metrics, where the rerun could compute it."""
    event = made.outcome.last("recall") or {}
    return {f"recall[{name}]": value for name, value in event.get(whose, {}).items()}


def _same_process(parent: Original, recorded: Original) -> bool:
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
