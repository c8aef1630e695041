"""The verdict on a rerun, and the factors that could explain it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_dtool.reproduction.tolerance import MANY_VALUES, MetricJudgement
from lightning_dtool.results.checklist.findings import counted
from lightning_dtool.results.comparison import Comparison, Weights
from lightning_dtool.results.differences import Difference
from lightning_dtool.results.reproduction import MetricRow, Verdict

_OF_A_RERUN = re.compile(
    r"environment\.variables\W+(?!CU|NVIDIA|TORCH|PYTORCH|OMP|MKL|KMP|OPENBLAS|ONEDNN|DNNL|PYTHONHASHSEED).*"
    r"|environment\.variables\W+TORCH(INDUCTOR_CACHE|_EXTENSIONS)_DIR\b.*|code\.(argv|git|working_directory|untracked|run_as_module|patch)\b.*|run\..*"
    r"|lineage\.(reproduces|replicates|parent_checkpoint|other_parents)\b.*|model\.initial_weights\.(origin|sources)\b.*"
    r"|model\.loaded_weights\b.*\.source\.(path|dataset|run_uuid|kind)\b.*"
    r"|data\.datamodule\.arguments\.\w*uri|trainer\.callbacks.*(Rehearsal|ProvenanceCallback|dirpath).*"
    r"|trainer\.(loggers.*(dir|path)|settings\.\w*dir|config)\b.*",
    re.DOTALL,
)
"""Paths of differences that every rerun has and that therefore explain nothing."""

_OF_A_RESUME = re.compile(r"model\.initial_weights\..*|lineage\.resumed|randomness\.states\..*", re.DOTALL)
"""The same for a run that was resumed at another moment than the recorded one."""

_LIKELIEST_FIRST = ("data", "code", "model", "optimizers", "schedulers", "loss", "trainer", "randomness", "environment")


def decide(comparison: Comparison, rows: tuple[MetricRow, ...], runs: int, level: float) -> tuple[Verdict, str]:
    """Return the verdict and the reason for it.

    Args:
        comparison: The comparison of the recorded checkpoint with its rerun.
        rows: The metrics of both; judged if there were reruns with other seeds.
        runs: The number of reruns with other seeds.
        level: The probability that all metrics lie in their intervals if nothing differs.
    """
    if comparison.weights_identical:
        others = [
            name
            for name, part in (
                (_named("numbers", comparison.numbers.differing), comparison.numbers),
                ("the optimizers' states", comparison.optimizers),
                ("the schedulers' states", comparison.schedulers),
                ("metrics", comparison.metrics),
                ("the order of the samples", comparison.order),
            )
            if part.agreement == "different"
        ]
        rest = f"; {', '.join(others)} differ" if others else ""
        return Verdict.IDENTICAL, f"every bit of the {_counts(comparison)} is the same{rest}"
    shown = _differing(comparison)
    judged = [row for row in rows if row.inside is not None]
    if not runs:
        if not comparison.weights_compared:
            return Verdict.COULD_NOT_COMPARE, f"{shown}. Save what training makes in the checkpoint"
        return (
            Verdict.DIFFERENT,
            f"{shown}. Reruns with other seeds show whether the metrics are within tolerance: --runs 5",
        )
    if not judged:
        verdict = Verdict.DIFFERENT if comparison.weights_compared else Verdict.COULD_NOT_COMPARE
        return verdict, f"{shown}, and no metric could be judged"
    outside = [row.name for row in judged if not row.inside and row.low is not None]
    unlike = [row.name for row in judged if row.low is None]
    reasons = []
    if outside:
        reasons.append(f"these metrics lie outside the intervals that {runs} other seeds predict: {', '.join(outside)}")
    if unlike:
        reasons.append(
            f"these metrics have one value for all other seeds and another in the record: {', '.join(unlike)}"
        )
    few = f"; {runs} seeds are few, so that the intervals are wide" if runs < MANY_VALUES else ""
    if reasons:
        return Verdict.DIFFERENT, f"{shown}, and {'; and '.join(reasons)}{few}"
    return (
        Verdict.WITHIN_TOLERANCE,
        f"{shown}; all {len(judged)} metrics with an interval lie in those that {runs} other seeds predict "
        f"(level {level:g}){few}",
    )


def _counts(comparison: Comparison) -> str:
    """Return how many tensors were compared, as words."""
    weights, others = comparison.weights.tensor_count, comparison.other_tensors.tensor_count
    counts = [counted(weights, "weight tensor")] if weights else []
    if others:
        counts.append(f"{others} in callbacks' states and the script's own keys" if weights else _other_count(others))
    return " and of the ".join(counts)


def _other_count(count: int) -> str:
    return f"{counted(count, 'tensor')} in callbacks' states and the script's own keys"


def _differing(comparison: Comparison) -> str:
    """Return which tensors differ, as words."""
    if not comparison.weights_compared:
        return "nothing could be compared: neither checkpoint holds a tensor"
    weights, others = comparison.weights, comparison.other_tensors
    shown = []
    if weights.agreement == "different" or others.agreement != "different":
        shown.append(f"{weights.differing_count} of {counted(weights.tensor_count, 'weight tensor')} differ")
        shown[0] += _by(weights)
    if others.agreement == "different":
        count = f"{others.differing_count} of {_other_count(others.tensor_count)}"
        shown.append(f"{_named(count, others.differing)} differ{_by(others)}")
    return "; ".join(shown)


def _named(what: str, names: Sequence[str]) -> str:
    """Return words with the first names that they stand for."""
    return f"{what} ({', '.join(names[:3])}{', …' if names[3:] else ''})"


def _by(weights: Weights) -> str:
    return "" if weights.greatest_absolute is None else f" (by up to {weights.greatest_absolute:.3g})"


def judged_rows(
    recorded: Mapping[str, Any], again: Mapping[str, Any], judgements: Sequence[MetricJudgement]
) -> tuple[MetricRow, ...]:
    """Return the metrics of the recorded checkpoint and of its rerun.

    Args:
        recorded: The recorded metrics.
        again: The metrics of the rerun.
        judgements: The judgements on the recorded metrics; empty without reruns with other seeds.
    """
    by_name = {judgement.name: judgement for judgement in judgements}
    rows = []
    for name in dict.fromkeys([*recorded, *again]):
        judgement = by_name.get(name)
        row = MetricRow(name, recorded.get(name), again.get(name))
        if judgement is not None:
            interval = judgement.interval
            row = MetricRow(
                name,
                recorded.get(name),
                again.get(name),
                interval.low if interval is not None else None,
                interval.high if interval is not None else None,
                judgement.inside if judgement.comparable else None,
                judgement.note,
                judgement.values,
            )
        rows.append(row)
    return tuple(rows)


def factors(comparison: Comparison, *, resumes: bool = False) -> list[Difference]:
    """Return the differences that could explain a different result, the likeliest first.

    They are followed by the facts that are not known to be the same.

    Args:
        comparison: The comparison of the recorded checkpoint with its rerun.
        resumes: Whether the rerun resumed at another moment than the recorded training.
    """
    found = [factor for factor in (*comparison.factors, *comparison.unknown) if explains(factor)]
    if resumes:
        found = [factor for factor in found if not _OF_A_RESUME.fullmatch(factor.path)]
    return sorted(found, key=lambda factor: (factor.weight == "unknown", _rank(factor.section)))


def _rank(section: str) -> int:
    return _LIKELIEST_FIRST.index(section) if section in _LIKELIEST_FIRST else len(_LIKELIEST_FIRST)


def explains(difference: Difference) -> bool:
    """Return whether a difference could explain a different result.

    Differences that every rerun has could not, nor could a package that only the rerun's environment has: the recorded
    code ran without it.
    """
    extra = difference.kind == "added" and difference.path.startswith(("environment.packages", "environment.versions"))
    return not extra and not _OF_A_RERUN.fullmatch(difference.path)


def one_line(factor: Difference) -> str:
    """Return a difference as one short line; for a patch, its first changed lines."""
    if factor.patch:
        lines = [line for line in factor.patch.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        return f"{factor.path}: {' | '.join(line.strip() for line in lines[:4])}{' | …' if lines[4:] else ''}"
    if factor.kind == "unknown":
        return f"{factor.path}: not known to be the same ({_short(factor.note)})"
    if factor.kind == "changed":
        return f"{factor.path}: {_short(factor.before)} -> {_short(factor.after)}"
    return f"{factor.path}: {factor.kind}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
