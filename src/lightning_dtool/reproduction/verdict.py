"""What a rerun has shown, and how it is kept: a small frozen dataset that points at both checkpoints."""

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_dtool._version import __version__
from lightning_dtool.export.annotations import searchable, source_annotations
from lightning_dtool.items import REPRODUCTION_TAG, VERDICT_ITEM
from lightning_dtool.record import DatasetReference
from lightning_dtool.reproduction.tolerance import MetricJudgement
from lightning_dtool.store import DatasetWriter, FrozenDataset

if TYPE_CHECKING:
    from lightning_dtool.reproduction.comparison import Comparison

LOG_ITEM = "log.txt"

MAX_LOG_BYTES = 10 * 2**20
"""Of a longer log the end is kept."""


class Verdict(str, Enum):
    """What a rerun has shown."""

    IDENTICAL = "identical"
    """Every bit of the weights is the same."""
    WITHIN_TOLERANCE = "within tolerance"
    """All metrics lie where reruns with other seeds predict them."""
    DIFFERENT = "different"
    """Another model came out."""
    COULD_NOT_RUN = "could not run"
    """Nothing came out; the reason says why."""


@dataclass(frozen=True)
class MetricRow:
    """A metric, side by side.

    Attributes:
        name: Its name; `recall[oak]` is the part of the class oak that was recognised.
        recorded: The recorded value; None if there is none.
        rerun: The rerun's value.
        low: The lower end of where reruns with other seeds predict it; None without such reruns.
        high: The upper end.
        inside: Whether the recorded value lies between them; None if it was not judged.
        note: Why it was not judged, or on which side it lies outside.
    """

    name: str
    recorded: Any
    rerun: Any
    low: float | None = None
    high: float | None = None
    inside: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` has found.

    Attributes:
        verdict: The verdict.
        reason: Why, in a sentence or two.
        original: The recorded checkpoint.
        rerun: The checkpoint of the rerun; None if it could not run.
        metrics: The metrics at the checkpoint, side by side.
        factors: What differs and could explain another outcome, one line each, the likeliest first.
        first_difference: Where the two parted first, as far as the records tell; None if they did not.
        step: Where they parted step by step, if that was traced.
        notes: What else a reader should know.
        environment: How the present environment differs from the recorded one, one line each.
        runs: How many reruns with other seeds there were.
        level: The probability of the intervals.
        seconds: How long the rerun took.
        uri: The dataset that keeps this verdict; None if it was not written.
        comparison: The whole comparison, bit by bit; None if it could not run.
    """

    verdict: Verdict
    reason: str
    original: DatasetReference
    rerun: DatasetReference | None = None
    metrics: tuple[MetricRow, ...] = ()
    factors: tuple[str, ...] = ()
    first_difference: str | None = None
    step: str | None = None
    notes: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    runs: int = 0
    level: float = 0.95
    seconds: float | None = None
    uri: str | None = None
    comparison: "Comparison | None" = field(default=None, repr=False)

    @property
    def successful(self) -> bool:
        """Whether the recorded result came out again: identical, or within tolerance."""
        return self.verdict in (Verdict.IDENTICAL, Verdict.WITHIN_TOLERANCE)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as strict JSON."""
        return {
            "kind": _KINDS[type(self)],
            "verdict": self.verdict.value,
            "reason": self.reason,
            "original": self.original.model_dump(),
            "rerun": self.rerun.model_dump() if self.rerun is not None else None,
            "metrics": [{name: strict(value) for name, value in vars(row).items()} for row in self.metrics],
            "factors": list(self.factors),
            "first_difference": self.first_difference,
            "step": self.step,
            "notes": list(self.notes),
            "environment": list(self.environment),
            "runs": self.runs,
            "level": self.level,
            "seconds": self.seconds,
            "uri": self.uri,
            "comparison": self.comparison.to_dict() if self.comparison is not None else None,
            "lightning_dtool_version": __version__,
        }


@dataclass(frozen=True)
class Replication(Reproduction):
    """What `replicate` has found: the same training on other data."""


_KINDS: dict[type, str] = {Reproduction: "reproduction", Replication: "replication"}


def judged_rows(
    recorded: Mapping[str, Any], again: Mapping[str, Any], judgements: list[MetricJudgement]
) -> tuple[MetricRow, ...]:
    """Return the metrics side by side.

    Args:
        recorded: The recorded metrics.
        again: Those of the rerun.
        judgements: What reruns with other seeds say of the recorded ones.
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
            )
        rows.append(row)
    return tuple(rows)


def write_verdict(found: Reproduction, base_uri: str, log: Path | None) -> FrozenDataset:
    """Keep a verdict as a frozen dataset.

    Args:
        found: The verdict.
        base_uri: Where it goes.
        log: What the training printed.
    """
    kind = _KINDS[type(found)]
    sources = [found.original, *([found.rerun] if found.rerun is not None else [])]
    tail = f"-{kind}-{uuid.uuid4().hex[:8]}"  # the same checkpoint may be reproduced many times
    name = found.original.name[: 80 - len(tail)] + tail
    with DatasetWriter(name, base_uri) as writer:
        content = {**found.to_dict(), "uri": writer.uri}
        writer.put_bytes((json.dumps(content, indent=1, allow_nan=False) + "\n").encode(), VERDICT_ITEM)
        writer.put_bytes(_without_secrets(_end_of(log)), LOG_ITEM)
        for key, value in source_annotations(sources).items():
            writer.put_annotation(key, value)
        writer.put_annotation("verdict", found.verdict.value)
        metrics = {row.name: {"recorded": strict(row.recorded), "rerun": strict(row.rerun)} for row in found.metrics}
        writer.put_annotation("metrics", searchable(metrics))
        writer.put_readme(_readme(found, kind, writer.uri))
        writer.put_tag(REPRODUCTION_TAG)
        return writer.commit()


def strict(value: Any) -> Any:
    """Return a value as strict JSON: what is not finite as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _end_of(log: Path | None) -> bytes:
    if log is None or not log.is_file():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LOG_BYTES))
        return file.read()


def _without_secrets(log: bytes) -> bytes:
    """Return a log without what looks like a credential: a training may print its whole environment."""
    # Here, because that room takes torch, which the command line does not load before something has run.
    from lightning_dtool.redaction.text import redact_text

    return redact_text(log.decode("utf-8", "replace")).encode()


def _readme(found: Reproduction, kind: str, uri: str) -> str:
    sources = [found.original, *([found.rerun] if found.rerun is not None else [])]
    content: dict[str, Any] = {
        "description": f"Verdict of a {kind} of the checkpoint {found.original.name}: {found.verdict.value}.",
        "verdict": found.verdict.value,
        "reason": found.reason,
        "checkpoints": [{"name": entry.name, "uri": entry.uri, "uuid": entry.uuid} for entry in sources],
        "items": {VERDICT_ITEM: "all that was found, as JSON", LOG_ITEM: "what the training printed"},
        "uri": uri,
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}"
