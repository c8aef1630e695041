"""The verdict on a rerun, and what could explain it: functions of a comparison."""

import re
from typing import TYPE_CHECKING

from lightning_dtool.reproduction.verdict import MetricRow, Verdict
from lightning_dtool.results.differences import Difference

if TYPE_CHECKING:  # it takes torch, which the command line does not load before something has run
    from lightning_dtool.reproduction.comparison import Comparison

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


def decide(comparison: "Comparison", rows: tuple[MetricRow, ...], runs: int, level: float) -> tuple[Verdict, str]:
    """Return the verdict, and why.

    Args:
        comparison: The two models.
        rows: Their metrics; judged where there were reruns with other seeds.
        runs: How many reruns with other seeds were asked for.
        level: The probability of the intervals.
    """
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
    if not runs:
        return Verdict.DIFFERENT, f"{shown}. Whether the metrics are within tolerance takes reruns: --runs 5"
    if not judged:
        return Verdict.DIFFERENT, f"{shown}, and no metric could be judged"
    outside = [row.name for row in judged if not row.inside]
    if outside:
        return (
            Verdict.DIFFERENT,
            f"{shown}, and outside of what {runs} other seeds predict: {', '.join(outside)}",
        )
    share = f"{level:g}"
    return (
        Verdict.WITHIN_TOLERANCE,
        f"{shown}; all {len(judged)} metrics lie where {runs} other seeds predict them (level {share})",
    )


def factors(comparison: "Comparison") -> list[str]:
    """Return what differs and could explain another outcome, one short line each, the likeliest first."""
    found = [factor for factor in comparison.factors if explains(factor)]
    found.sort(key=lambda factor: _FIRST.index(factor.section) if factor.section in _FIRST else len(_FIRST))
    return [one_line(factor) for factor in found]


def explains(difference: Difference) -> bool:
    """Tell whether a difference could explain another outcome, or is there because one is a rerun."""
    return not _OF_A_RERUN.fullmatch(difference.path)


def one_line(factor: Difference) -> str:
    """Return a difference as a short line: of a patch the first lines that changed."""
    if factor.patch:
        lines = [line for line in factor.patch.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        return f"{factor.path}: {' | '.join(line.strip() for line in lines[:4])}{' | …' if lines[4:] else ''}"
    if factor.kind == "changed":
        return f"{factor.path}: {_short(factor.before)} -> {_short(factor.after)}"
    return f"{factor.path}: {factor.kind}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
