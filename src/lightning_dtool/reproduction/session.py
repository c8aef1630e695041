"""The steps of one reproduction: rerun, compare, decide, and store the result."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lightning_dtool.errors import LightningDtoolError, ReproductionError
from lightning_dtool.items import REQUIREMENTS_ITEM, TRACE_ITEM
from lightning_dtool.reproduction.launch import Options, Rerun, rerun
from lightning_dtool.reproduction.original import LocatedData, Original, datasets_of, locate_data, normal
from lightning_dtool.reproduction.parents import parent_of, places_beside
from lightning_dtool.reproduction.process import ended_by_signals
from lightning_dtool.reproduction.request import Request
from lightning_dtool.reproduction.storing import store_copy, store_result
from lightning_dtool.reproduction.tolerance import MIN_VALUES, judge
from lightning_dtool.reproduction.tracing import first_differing_step
from lightning_dtool.reproduction.unrecorded import unrecorded_causes
from lightning_dtool.reproduction.verdict import decide, explains, factors, judged_rows, one_line
from lightning_dtool.rerun import REPLICATE, REPRODUCE
from lightning_dtool.results.comparison import Comparison
from lightning_dtool.results.reproduction import Replication, Reproduction, Verdict
from lightning_dtool.store import ensure_writable, local_path, normalize_uri

DEFAULT_INTO = "reproductions"
"""The folder in the working directory for reruns and their results, by default."""


def carry_out(request: Request, uri: str | os.PathLike[str], into: str | os.PathLike[str] | None) -> Reproduction:
    """Rerun a training, compare the checkpoints, decide, and store the result.

    Args:
        request: The options.
        uri: The checkpoint's URI or its folder.
        into: The base URI for the checkpoint of the rerun and for the result. Default: the folder `reproductions` in
            the working directory.

    Returns:
        The result. If the training could not run, that is its verdict and not an error.
    """
    base_uri = _prepared(into)
    request.say("verifying the checkpoint")
    original = Original.from_uri(uri)
    request = request.asking(original.uri, base_uri)
    earlier = Original.from_uri(request.earlier) if request.earlier is not None else None
    if earlier is not None:
        # Imported late: this module imports torch.
        from lightning_dtool.reproduction.proof import check_earlier

        check_earlier(earlier, original, places_beside(original, request), request.addresses)
    kind = Reproduction if request.kind == REPRODUCE else Replication
    with ended_by_signals(), _scratch() as scratch:
        log: Path | None = None
        try:
            session = _Session(request, original, earlier, base_uri, scratch)
            found = session.run(kind)
            log = session.log
        except LightningDtoolError as error:
            found = kind(
                Verdict.COULD_NOT_RUN,
                _reason(error, original.uri),
                original.reference,
                notes=error.notes if isinstance(error, ReproductionError) else (),
                runs=request.runs,
                level=request.level,
                cause=error.kind,
            )
            log = _latest_log(scratch)
        verdict = store_result(found, base_uri, log)
    return replace(found, uri=verdict.uri)


class _Session:
    """The state of one reproduction."""

    def __init__(
        self, request: Request, original: Original, earlier: Original | None, base_uri: str, scratch: Path
    ) -> None:
        self.request = request
        self.original = original
        self.earlier = earlier
        self.base_uri = base_uri
        self.scratch = scratch
        self.log: Path | None = None
        self._notes: list[str] = []
        self._environment: list[str] = []

    def run(self, kind: type[Reproduction]) -> Reproduction:
        """Rerun the training, compare the checkpoints and decide."""
        request, original = self.request, self.original
        options = self._options()
        replaced = [normal(entry.uri) for entry in datasets_of(original.record)] if request.kind == REPLICATE else []
        data = locate_data(original.record, request.data, request.search, request.addresses, skip=replaced)
        if request.kind == REPLICATE:
            data = self._new_data(data)
        proves = self.earlier is not None
        parent = self.earlier.uri if self.earlier is not None else self._parent(options)
        folder = self.scratch / "rerun"
        first = rerun(
            original,
            data,
            folder,
            options,
            parent=parent,
            as_recorded=not proves,
            trace=self._traces(),
            recall=not proves,
            what=request.kind,
        )
        self.log = first.log
        self._notes += first.notes
        again = Original(store_copy(first.dataset, self.base_uri))
        # Imported late: this module imports torch, which the command line loads only after a rerun.
        from lightning_dtool.reproduction.comparison import compare

        comparison = compare(original.uri, again.uri)
        measured = self._all_measured(data, options, parent)
        before = {**original.record.metrics.at_checkpoint, **_recalls(first, "recorded")}
        judgements = judge(before, measured, request.level, original.record.loss) if measured else []
        rows = judged_rows(before, {**again.record.metrics.at_checkpoint, **_recalls(first, "rerun")}, judgements)
        verdict, reason = decide(comparison, rows, len(measured) or request.runs, request.level)
        resume = None
        if self.earlier is not None:
            # Imported late: this module imports torch.
            from lightning_dtool.reproduction.proof import prove

            verdict, reason, resume = prove(self.earlier, original, again, comparison, _doubts(first))
        traced = self._traces() if proves else request.trace
        step = self._step(first, data, options, parent) if traced else None
        same = verdict in (Verdict.IDENTICAL, Verdict.RESUME_EXACT)
        return kind(
            verdict,
            reason,
            original.reference,
            again.reference,
            metrics=rows,
            factors=() if same else tuple(self._causes(comparison, again)),
            first_difference=str(comparison.first_difference) if comparison.first_difference is not None else None,
            step=step,
            notes=tuple(dict.fromkeys(self._notes)),
            environment=tuple(self._environment),
            runs=len(measured),
            level=request.level,
            seconds=first.outcome.seconds,
            comparison=comparison,
            resume=resume,
        )

    def _causes(self, comparison: Comparison, again: Original) -> list[str]:
        """Return what could explain a difference: recorded inputs, and without any also what records do not hold."""
        resumes = self.earlier is not None
        found = factors(comparison, resumes=resumes)
        lines = [one_line(factor) for factor in found]
        if any(factor.weight != "unknown" for factor in found) or (resumes and comparison.weights_identical):
            return lines
        return [*lines, *unrecorded_causes(self.original.record, again.record)]

    def _all_measured(self, data: LocatedData, options: Options, parent: str | None) -> list[dict[str, float]]:
        """Return the metrics of reruns with other seeds. A rerun that fails is left out."""
        measured = []
        for number in range(1, self.request.runs + 1):
            try:
                measured.append(self._measured(data, options, parent, number))
            except ReproductionError as error:
                self._notes.append(f"seed {number} gave no checkpoint: {error.reason}")
        if 0 < len(measured) < MIN_VALUES:
            self._notes.append(f"{len(measured)} reruns with other seeds are too few to judge the metrics")
        return measured

    def _new_data(self, data: LocatedData) -> LocatedData:
        """Map the recorded datasets to the new ones, for scripts that open them without a DtoolDataModule."""
        stages, uris = self.request.stages, dict(data.uris)
        if not datasets_of(self.original.record):
            raise ReproductionError(
                "the recorded training did not read dtool datasets, so there is none to replace.",
                uri=self.original.uri,
                kind="no_data",
            )
        for stage, sources in self.original.record.data.stages.items():
            for entry in sources:
                if entry.dataset is not None and (new := stages.get(stage) or stages["train"]):
                    uris.setdefault(normal(entry.dataset.uri), new)
        return LocatedData(uris, data.notes, data.others)

    def _options(self) -> Options:
        request = self.request
        source = Path(request.source).resolve() if request.source is not None else None
        if request.device is not None:
            self._notes.append(f"accelerator={request.device!r} replaced the accelerator of every Trainer")
        return Options(
            kind=request.kind,
            python=self._python(),
            source=source,
            threads=request.threads,
            device=request.device,
            timeout=request.timeout,
            data=request.stages,
            allow_write=request.allow_write,
            allow_network=request.allow_network,
            say=request.say,
        )

    def _python(self) -> str:
        """Return the interpreter of the rerun, and note how its environment differs from the recorded one."""
        # Imported late: this module imports torch.
        from lightning_dtool.reproduction.environment import create_environment, environment_differences

        record, path = self.original.record, self.original.optional_path(REQUIREMENTS_ITEM)
        pinned = path.read_text(encoding="utf-8", errors="replace") if path is not None else None
        if self.request.env == "create":
            if pinned is None:
                raise ReproductionError(
                    f"expected an item {REQUIREMENTS_ITEM} with the recorded packages, found none.",
                    uri=self.original.uri,
                    item=REQUIREMENTS_ITEM,
                    kind="no_packages",
                )
            created = create_environment(
                pinned, self.scratch / "environment", record.environment.python, self.request.say
            )
            self._environment += [f"left out: {name}: {why}" for name, why in created.skipped.items()]
            self._environment += [f"replaced: {name}: {change}" for name, change in created.replaced.items()]
            self._environment += created.conflicts
            return str(created.python)
        found = environment_differences(pinned, record.environment)
        self._environment += [one_line(entry) for entry in found if entry.weight == "matters" and explains(entry)]
        if self._environment:
            self.request.say(f"the environment has {len(self._environment)} differences from the recorded one")
        return sys.executable

    def _traces(self) -> bool:
        return self.request.trace or TRACE_ITEM in self.original.items

    def _measured(self, data: LocatedData, options: Options, parent: str | None, number: int) -> dict[str, float]:
        """Return the metrics of a rerun with another seed, and delete its checkpoint."""
        folder = self.scratch / f"seed-{number}"
        what = f"seed {number} of {self.request.runs}"
        other = rerun(self.original, data, folder, options, parent=parent, seed_offset=number, recall=True, what=what)
        metrics = {**Original(other.dataset).record.metrics.at_checkpoint, **_recalls(other, "rerun")}
        shutil.rmtree(folder, ignore_errors=True)
        return metrics

    def _parent(self, options: Options) -> str | None:
        parent, notes = parent_of(self.original, self.request, options, self.scratch)
        self._notes += notes
        return parent

    def _step(self, first: Rerun, data: LocatedData, options: Options, parent: str | None) -> str | None:
        """Return the step at which the rerun differs from the recorded training, or else from another rerun."""
        mine = Original(first.dataset).optional_path(TRACE_ITEM)
        if mine is None:
            return None
        theirs = self.original.optional_path(TRACE_ITEM)
        resumed = self.earlier is not None
        begin = self.earlier.record.checkpoint.global_step + 1 if self.earlier is not None else 0
        if theirs is not None:
            step = first_differing_step(theirs, mine, begin)
            return f"first difference from the recorded training at {step}" if step else "no step differs"
        parent = self._parent(options) if resumed else parent
        second = rerun(
            self.original, data, self.scratch / "again", options, parent=parent, trace=True, what="second rerun"
        )
        theirs = Original(second.dataset).optional_path(TRACE_ITEM)
        if theirs is None:
            return None
        if resumed:
            step = first_differing_step(theirs, mine, begin)
            where = f"first difference from a rerun that was not stopped at {step}"
            return where if step else "no step differs from those of a rerun that was not stopped"
        step = first_differing_step(mine, theirs)
        if step:
            return f"training is not deterministic here: two reruns differ at {step}"
        return (
            "training is deterministic here (two reruns are identical in every step), so a difference comes from a "
            "changed input or environment"
        )


def _reason(error: LightningDtoolError, original: str) -> str:
    """Return why a training could not run. The URI is left out if it is that of the original."""
    reason = error.reason if error.uri in (None, original) and error.path is None else str(error)
    output = error.output if isinstance(error, ReproductionError) else ()
    return "\n".join(
        [reason, *(["The last lines of its output:"] if output else []), *(f"  {line}" for line in output)]
    )


def _doubts(rerun: Rerun) -> list[str]:
    """Return the reasons that the warning at the resume gave."""
    events = [event for event in rerun.outcome.events if event["event"] == "doubts"]
    return [str(reason) for event in events for reason in event.get("reasons", [])]


def _recalls(rerun: Rerun, whose: str) -> dict[str, float]:
    """Return the recall of each class as metrics, if the rerun could compute it."""
    event = rerun.outcome.last("recall") or {}
    return {f"recall[{name}]": value for name, value in event.get(whose, {}).items()}


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
