"""The result of comparing two checkpoints: weights and other tensors, states, metrics and order of the samples."""

from dataclasses import dataclass
from typing import Any, Literal

from lightning_dtool._public import public
from lightning_dtool.results.differences import Difference
from lightning_dtool.results.strict_json import strict_json

Agreement = Literal["identical", "different", "not recorded"]
"""How one part of two checkpoints compares. `not recorded`: the two have nothing in common that could be compared."""


@dataclass(frozen=True)
class State:
    """A part of two checkpoints that is compared as a whole.

    Attributes:
        agreement: `identical`, `different`, or `not recorded` if a checkpoint was saved without it (in the form
            `weights_only`), or if neither checkpoint holds it.
        digest_a: The canonical digest in the first checkpoint; None if that does not hold it.
        digest_b: The same for the second.
    """

    agreement: Agreement
    digest_a: str | None
    digest_b: str | None


@dataclass(frozen=True)
class Weights(State):
    """The weights of two checkpoints, or other tensors in them.

    Attributes:
        agreement: `identical`, `different`, or `not recorded` if neither checkpoint holds a tensor.
        differing: Names of the tensors that differ, sorted; at most 50. A tensor that only one checkpoint holds, or
            that has another type or shape, counts as different.
        differing_count: The number of all tensors that differ.
        tensor_count: The number of names of tensors in both checkpoints together.
        greatest_absolute: The greatest absolute difference between two elements; None if no two differing tensors have
            the same shape. Infinite if an element is not finite in one checkpoint only.
        greatest_relative: The greatest difference between two elements as a fraction of the larger one.
    """

    differing: tuple[str, ...] = ()
    differing_count: int = 0
    tensor_count: int = 0
    greatest_absolute: float | None = None
    greatest_relative: float | None = None


@dataclass(frozen=True)
class Numbers:
    """Numbers that callbacks and the user's hooks put into two checkpoints.

    Attributes:
        agreement: `identical`, `different`, or `not recorded` if neither checkpoint holds one.
        differing: The places of those that differ, such as `callbacks[Average].count`; at most 50.
        differing_count: The number of all that differ.
        count: The number of places in both checkpoints together.
    """

    agreement: Agreement
    differing: tuple[str, ...] = ()
    differing_count: int = 0
    count: int = 0


@dataclass(frozen=True)
class MetricDifference:
    """A metric that is not bitwise the same in two records.

    Attributes:
        name: The metric's name.
        epoch: The epoch, from 0; None for the value at the checkpoint.
        a: The value in the first record.
        b: The value in the second record.
    """

    name: str
    epoch: int | None
    a: Any
    b: Any


@dataclass(frozen=True)
class MetricsComparison:
    """The metrics of two records.

    Attributes:
        agreement: `identical`, `different`, or `not recorded` if the records have no metric in common.
        epochs: The epochs that both records hold.
        differing: The metrics that differ, by epoch, with those at the checkpoint last.
        only_a: Names of metrics, and epochs as `epoch 3`, that only the first record holds.
        only_b: Those that only the second record holds.
    """

    agreement: Agreement
    epochs: tuple[int, ...]
    differing: tuple[MetricDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


@dataclass(frozen=True)
class OrderComparison:
    """The order of the training samples in two records.

    Attributes:
        agreement: `identical`, `different`, or `not recorded` if no epoch's order is in both records.
        epochs: The epochs whose order both records hold.
        differing: The epochs in which the order differs.
    """

    agreement: Agreement
    epochs: tuple[int, ...]
    differing: tuple[int, ...]


@dataclass(frozen=True)
class FirstDifference:
    """The first epoch in which two trainings differ, as far as it was recorded.

    Attributes:
        epoch: The epoch, from 0.
        order: Whether the order of the samples differs in it.
        metrics: The names of the metrics that differ in it.
        learning_rates: Whether its learning rates differ.
    """

    epoch: int
    order: bool
    metrics: tuple[str, ...]
    learning_rates: bool

    def __str__(self) -> str:
        """Return the epoch and what differs in it, on one line."""
        parts = [
            *(["the order of the samples"] if self.order else []),
            *(["the learning rates"] if self.learning_rates else []),
            *self.metrics,
        ]
        return f"epoch {self.epoch}: {', '.join(parts)}"


@public
@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        uri_a: The URI of the first checkpoint.
        uri_b: The URI of the second checkpoint.
        weights: The weights: parameters, buffers and other entries of the `state_dict`.
        other_tensors: All other tensors that the checkpoints deliver: in the states of callbacks, such as an averaged
            model, and under keys of the user's own.
        numbers: Numbers in the same places, such as counts.
        optimizers: The states of the optimizers.
        schedulers: The states of the learning rate schedulers.
        metrics: The metrics, bit by bit, for each epoch and at the checkpoint.
        order: The order of the samples in each epoch.
        first_difference: The first epoch in which the two differ; None if no recorded epoch differs.
        factors: Recorded inputs of the training that differ, and so could explain a different result: settings, data,
            code, packages, machine, random numbers, initial weights.
        unknown: Inputs of the training that neither record holds completely, so that they may differ, too.
        relation: What the two have to do with each other, such as `two checkpoints of one run: epochs 3 and 7`; None
            for checkpoints of different runs.
    """

    uri_a: str
    uri_b: str
    weights: Weights
    optimizers: State
    schedulers: State
    metrics: MetricsComparison
    order: OrderComparison
    first_difference: FirstDifference | None
    factors: tuple[Difference, ...]
    unknown: tuple[Difference, ...] = ()
    other_tensors: Weights = Weights("not recorded", None, None)
    numbers: Numbers = Numbers("not recorded")
    relation: str | None = None

    @property
    def weights_compared(self) -> bool:
        """Whether either checkpoint holds a tensor that could be compared."""
        return not self.weights.agreement == self.other_tensors.agreement == "not recorded"

    @property
    def weights_identical(self) -> bool:
        """Whether every bit of the weights, and of all other tensors that the checkpoints deliver, is the same."""
        tensors = (self.weights.agreement, self.other_tensors.agreement)
        return "identical" in tensors and "different" not in tensors

    @property
    def identical(self) -> bool:
        """Whether the weights are identical and no other part differs.

        A part that is not recorded in both checkpoints does not count.
        """
        others = (self.numbers, self.optimizers, self.schedulers, self.metrics, self.order)
        return self.weights_identical and all(part.agreement != "different" for part in others)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as strict JSON: NaN and infinities become strings."""
        return {"identical": self.identical, "weights_identical": self.weights_identical, **strict_json(self)}
