"""The result of a reproduction or a replication: the verdict and what it is based on."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from lightning_dtool._public import public
from lightning_dtool._version import __version__
from lightning_dtool.record import DatasetReference
from lightning_dtool.results.comparison import Comparison
from lightning_dtool.results.states import StateDifference
from lightning_dtool.results.strict_json import strict_json


@public
class Verdict(str, Enum):
    """The verdict on a rerun."""

    IDENTICAL = "identical"
    """Every bit of the weights, and of every other tensor that the checkpoint delivers, is the same."""
    WITHIN_TOLERANCE = "within tolerance"
    """The weights are not the same, and each metric that can be judged lies in its interval, which reruns with other
    seeds predict."""
    RESUME_EXACT = "resume exact"
    """A run that resumed from an earlier checkpoint of the same run has the same weights and states, bit by bit."""
    DIFFERENT = "different"
    """The weights differ, and a metric lies outside its interval, or the metrics were not judged. For a run that
    resumed from an earlier checkpoint of the same run: the weights or any state differ."""
    COULD_NOT_COMPARE = "could not compare"
    """Neither checkpoint holds a tensor, and no metric was judged."""
    COULD_NOT_RUN = "could not run"
    """The rerun produced no checkpoint; `reason` says why."""


@public
@dataclass(frozen=True)
class MetricRow:
    """A metric of the recorded checkpoint and of its rerun.

    Attributes:
        name: The metric's name. `recall[oak]` is the recall of the class `oak`: the fraction of its samples that were
            predicted correctly.
        recorded: The recorded value; None if there is none.
        rerun: The value in the rerun; None if there is none.
        low: The lower end of the interval that reruns with other seeds predict; None if there is no interval: without
            such reruns, or if all of them measured the same value.
        high: The upper end of that interval.
        inside: Whether the recorded value lies in the interval, or False if all reruns measured one other value; None
            if it was not judged.
        note: Why the metric was not judged, or on which side of the interval it lies.
        values: The values of the reruns with other seeds, in their order.
    """

    name: str
    recorded: Any
    rerun: Any
    low: float | None = None
    high: float | None = None
    inside: bool | None = None
    note: str = ""
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class ResumeProof:
    """What a run showed that resumed from an earlier checkpoint of the recorded run.

    Attributes:
        earlier: The earlier checkpoint.
        announced: The reasons why the resume may not be exact, as the warning at the resume gives them, which repeats
            those in the record of the earlier checkpoint. Empty if there was no warning.
        differences: What differs between the recorded checkpoint and that of the resumed run, the weights first; at
            most 1000 entries.
        differing_count: The number of all differences.
    """

    earlier: DatasetReference
    announced: tuple[str, ...] = ()
    differences: tuple[StateDifference, ...] = ()
    differing_count: int = 0


@public
@dataclass(frozen=True)
class Reproduction:
    """The result of `reproduce`.

    Attributes:
        verdict: The verdict.
        reason: The reason for it, in one or two sentences.
        original: The recorded checkpoint.
        rerun: The checkpoint of the rerun; None if it could not run.
        metrics: The metrics of both checkpoints.
        factors: Recorded inputs of the training that differ and could explain another result, one line each, the
            likeliest first, and then the inputs that are not known to be the same. If no recorded input differs, also
            what records do not hold, unless a resumed run has the same weights. Empty if the verdict is `identical` or
            `resume exact`, and if the training could not run.
        first_difference: The first epoch in which the two differ, as far as it was recorded; None if none does.
        step: The first optimizer step at which the two differ; None if the steps were not traced.
        notes: Further remarks, such as where moved data was found.
        environment: How the environment of the rerun differs from the recorded one, one line each.
        runs: The number of reruns with other seeds.
        level: The probability that all metrics lie in their intervals if nothing differs.
        seconds: The duration of the rerun.
        uri: The dataset that stores this result; None if it was not stored.
        cause: For a training that could not run, the `kind` of the error; None if the error has none.
        comparison: The whole comparison, bit by bit; None if the training could not run.
        resume: With `from_=URI`, what the resumed run showed: the `earlier` checkpoint, the `differences` of all
            states, and what was `announced`. None otherwise, and if the training could not run.
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
    cause: str | None = None
    comparison: Comparison | None = field(default=None, repr=False)
    resume: ResumeProof | None = field(default=None, repr=False)

    kind: ClassVar[str] = "reproduction"

    @property
    def successful(self) -> bool:
        """Whether the verdict is `identical`, `within tolerance` or `resume exact`."""
        return self.verdict in (Verdict.IDENTICAL, Verdict.WITHIN_TOLERANCE, Verdict.RESUME_EXACT)

    @property
    def checkpoints(self) -> list[DatasetReference]:
        """The recorded checkpoint, that of the rerun, and the earlier one from which it resumed, if there are any."""
        earlier = self.resume.earlier if self.resume is not None else None
        return [entry for entry in (self.original, self.rerun, earlier) if entry is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as strict JSON: NaN and infinities become strings."""
        return {
            "kind": self.kind,
            **strict_json(self),
            "comparison": self.comparison.to_dict() if self.comparison is not None else None,
            "lightning_dtool_version": __version__,
        }


@public
@dataclass(frozen=True)
class Replication(Reproduction):
    """The result of `replicate`: the same training on other data. The attributes are those of `Reproduction`."""

    kind: ClassVar[str] = "replication"
