"""Are two checkpoints the same model, and if not, where did they part and what could explain it?

What is compared are canonical digests of tensors, never bytes of files: a file knows its own name and folders. The
checkpoints are mapped, not read: what is in memory at any time is a piece of one tensor, however large the
optimizer's state is.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import torch

from lightning_dtool.checkpoint import DtoolCheckpoint
from lightning_dtool.errors import NotACheckpointError
from lightning_dtool.items import REQUIREMENTS_ITEM, SOURCE_ITEM
from lightning_dtool.record import MAX_INTEGER, Epoch, Provenance
from lightning_dtool.results import differences
from lightning_dtool.results.differences import Content, Difference, read_sources
from lightning_dtool.values.digests import state_digest

Verdict = Literal["identical", "different", "not recorded"]
"""`not recorded`: there is nothing that both checkpoints hold of it, so that nothing can be told."""

MAX_NAMES = 50
"""Names of tensors that differ which are listed; all are counted."""

_CHUNK = 2**20
"""Elements of two tensors that are subtracted at once."""

_NO_FACTOR = re.compile(
    r"metrics\.(?!objects\b).*|checkpoint\..*|data\.order\b.*|gaps\b.*|lineage\.source_datasets\b.*", re.DOTALL
)
"""Where a difference is an outcome, or is told elsewhere: the data stands in `data.stages`."""


@dataclass(frozen=True)
class State:
    """A part of two checkpoints that is compared as a whole.

    Attributes:
        verdict: `identical`, `different`, or `not recorded` if neither has it.
        digest_a: The first's canonical digest; None if it holds none.
        digest_b: The second's.
    """

    verdict: Verdict
    digest_a: str | None
    digest_b: str | None


@dataclass(frozen=True)
class Weights(State):
    """The weights of two checkpoints.

    Attributes:
        differing: Names of the tensors that differ, in order, at most `MAX_NAMES`. One that only one of the two
            holds, or that has another type or shape, is among them.
        differing_count: How many there are.
        tensor_count: How many names the two hold together.
        greatest_absolute: The greatest difference between two elements; None if no two tensors that differ have the
            same shape. Infinite if an element is no finite number in one of the two only.
        greatest_relative: The greatest difference between two elements, as a part of the larger one.
    """

    differing: tuple[str, ...] = ()
    differing_count: int = 0
    tensor_count: int = 0
    greatest_absolute: float | None = None
    greatest_relative: float | None = None


@dataclass(frozen=True)
class MetricDifference:
    """A metric that is not bitwise the same.

    Attributes:
        name: Its name.
        epoch: The epoch; None for the value at the checkpoint.
        a: The first's value, as it is recorded.
        b: The second's.
    """

    name: str
    epoch: int | None
    a: Any
    b: Any


@dataclass(frozen=True)
class MetricsComparison:
    """The metrics that both records hold.

    Attributes:
        verdict: `identical`, `different`, or `not recorded` if there is none that both hold.
        epochs: The epochs that both hold.
        differing: What differs: epoch by epoch, then at the checkpoint.
        only_a: Names of metrics, and epochs as `epoch 3`, that only the first has.
        only_b: Those that only the second has.
    """

    verdict: Verdict
    epochs: tuple[int, ...]
    differing: tuple[MetricDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


@dataclass(frozen=True)
class OrderComparison:
    """The order in which training saw its samples.

    Attributes:
        verdict: `identical`, `different`, or `not recorded` if there is no epoch for which both tell.
        epochs: The epochs for which both tell.
        differing: Those in which the order differs.
    """

    verdict: Verdict
    epochs: tuple[int, ...]
    differing: tuple[int, ...]


@dataclass(frozen=True)
class FirstDifference:
    """The first epoch in which anything that was recorded parts.

    Attributes:
        epoch: The epoch, from 0.
        order: Whether the order of the samples differs in it.
        metrics: The metrics that differ in it.
        learning_rates: Whether its learning rates differ.
    """

    epoch: int
    order: bool
    metrics: tuple[str, ...]
    learning_rates: bool

    def __str__(self) -> str:
        """Say it in a few words."""
        parted = [
            *(["the order of the samples"] if self.order else []),
            *(["the learning rates"] if self.learning_rates else []),
            *self.metrics,
        ]
        return f"epoch {self.epoch}: {', '.join(parted)}"


@dataclass(frozen=True)
class Comparison:
    """What two checkpoints have in common and what not.

    Attributes:
        uri_a: The first's URI.
        uri_b: The second's URI.
        weights: The weights.
        optimizers: The optimizers' states.
        schedulers: The states of the learning rate schedulers.
        metrics: The metrics, bit by bit, epoch by epoch and at the checkpoint.
        order: The order of the samples, epoch by epoch.
        first_difference: Where they parted first; None if nothing that was recorded did.
        factors: What was recorded and differs before any outcome does, so that it could explain one: settings, data,
            code, packages, machine, random numbers, first weights.
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

    @property
    def weights_identical(self) -> bool:
        """Whether every bit of the weights is the same."""
        return self.weights.verdict == "identical"

    @property
    def identical(self) -> bool:
        """Whether weights, optimizers, schedulers, metrics and order are the same, as far as both hold them.

        The weights have to be there. Where only one of the two holds an optimizer's state, they are not identical.
        """
        others = (self.optimizers, self.schedulers, self.metrics, self.order)
        return self.weights_identical and all(part.verdict != "different" for part in others)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as strict JSON: NaN and infinities are strings."""
        return {"identical": self.identical, "weights_identical": self.weights_identical, **strict_json(self)}


def compare(uri_a: str | os.PathLike[str], uri_b: str | os.PathLike[str], *, weights_only: bool = True) -> Comparison:
    """Compare two checkpoints: the models bit by bit, how they got there, and what could explain a difference.

    What is read is verified against its hashes first.

    Args:
        uri_a: The first checkpoint's URI, or its folder.
        uri_b: The second's.
        weights_only: A safe load, which runs no code (default). `False` unpickles whatever is there: only for two
            checkpoints whose origin you trust.

    Returns:
        The comparison; `identical` says it in one word.

    Raises:
        DatasetNotFoundError: If there is no dataset.
        NotACheckpointError: If one of them holds no checkpoint.
        VerificationError: If content differs from its hashes.
        UnsafeCheckpointError: If a safe load refuses one of them: weights and optimizers' states lie in one file,
            which is loaded as a whole or not at all.

    Example:
        ```python
        outcome = lightning_dtool.compare("s3://lab-models/6a1c…", "s3://lab-models/0b77…")
        outcome.identical                # False
        str(outcome.first_difference)    # "epoch 3: train_loss, val_loss"
        [factor.path for factor in outcome.factors]  # ["environment.packages.torch"]
        ```
    """
    return compare_checkpoints(
        DtoolCheckpoint.from_uri(uri_a), DtoolCheckpoint.from_uri(uri_b), weights_only=weights_only
    )


def compare_checkpoints(a: DtoolCheckpoint, b: DtoolCheckpoint, *, weights_only: bool = True) -> Comparison:
    """Compare two checkpoints that are open already; see `compare`.

    Args:
        a: The first.
        b: The second.
        weights_only: As in `compare`.
    """
    one, two = (checkpoint.load(weights_only=weights_only, mmap=True) for checkpoint in (a, b))
    record_a, record_b = a.record, b.record
    return Comparison(
        uri_a=a.uri,
        uri_b=b.uri,
        weights=compare_weights(_state_dict(one, a.uri), _state_dict(two, b.uri)),
        optimizers=_compare_states(one.get("optimizer_states"), two.get("optimizer_states")),
        schedulers=_compare_states(one.get("lr_schedulers"), two.get("lr_schedulers")),
        metrics=compare_metrics(record_a, record_b),
        order=compare_order(record_a, record_b),
        first_difference=first_difference(record_a, record_b),
        factors=tuple(factors(read_content(a), read_content(b))),
    )


def read_content(checkpoint: DtoolCheckpoint) -> Content:
    """Return a checkpoint's record, code and packages, each verified.

    Args:
        checkpoint: The checkpoint.
    """
    items = {item.relpath for item in checkpoint.dataset.items.values()}
    sources = requirements = None
    if SOURCE_ITEM in items:
        sources = read_sources(checkpoint.item_path(SOURCE_ITEM).read_bytes(), checkpoint.uri)
    if REQUIREMENTS_ITEM in items:
        requirements = checkpoint.item_path(REQUIREMENTS_ITEM).read_text(encoding="utf-8", errors="replace")
    return Content(checkpoint.record, sources, requirements)


def factors(a: Content, b: Content) -> list[Difference]:
    """Return what was recorded and differs, and is no outcome: what could explain one.

    What a record does not know (its gaps) explains nothing and is left out, as is what differs between any two runs.

    Args:
        a: The first's record, code and packages.
        b: The second's.
    """
    return [
        difference
        for difference in differences.compare(a, b)
        if difference.weight == "matters" and not _NO_FACTOR.fullmatch(difference.path)
    ]


# -- states ---------------------------------------------------------------------------------------


def _state_dict(checkpoint: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
    found = checkpoint.get("state_dict")
    if not isinstance(found, Mapping):
        raise NotACheckpointError(
            f"expected a Lightning checkpoint with a 'state_dict', found "
            f"{', '.join(map(str, checkpoint)) or 'nothing'}. Only what a Trainer saved can be compared.",
            uri=uri,
        )
    return found


def _compare_states(a: Any, b: Any) -> State:
    """Compare nested states; an empty list is as good as none."""
    one, two = (state_digest({"state": state}) if state else None for state in (a, b))
    return State("not recorded" if one is two is None else "identical" if one == two else "different", one, two)


def compare_weights(a: Mapping[str, Any], b: Mapping[str, Any]) -> Weights:
    """Compare two state dicts.

    Args:
        a: The first.
        b: The second. Its tensors may be mapped from a file, as the first's.
    """
    one, two = state_digest(a), state_digest(b)
    names = sorted({*a, *b}, key=str)
    if one == two:
        return Weights("identical", one, two, tensor_count=len(names))
    differing = [name for name in names if name not in a or name not in b or _digest(a[name]) != _digest(b[name])]
    greatest = [
        found for name in differing if name in a and name in b and (found := _greatest(a[name], b[name])) is not None
    ]
    return Weights(
        "different",
        one,
        two,
        differing=tuple(map(str, differing[:MAX_NAMES])),
        differing_count=len(differing),
        tensor_count=len(names),
        greatest_absolute=max((absolute for absolute, _ in greatest), default=None),
        greatest_relative=max((relative for _, relative in greatest), default=None),
    )


def _digest(value: Any) -> str:
    return state_digest({"": value})


def _greatest(a: Any, b: Any) -> tuple[float, float] | None:
    """Return the greatest absolute and relative difference of two dense tensors of numbers; else None."""
    for tensor in (a, b):
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
            return None
        if tensor.is_quantized or tensor.is_nested or tensor.is_meta or type(tensor) not in _PLAIN:
            return None
    if a.shape != b.shape or a.is_complex() != b.is_complex():
        return None
    absolute = relative = 0.0
    with torch.no_grad():
        for one, two in _chunks(a, b):
            same = (one == two) | (one.isnan() & two.isnan())
            size = torch.maximum(one.abs(), two.abs())
            difference = torch.where(same, 0.0, (one - two).abs()).nan_to_num(math.inf, posinf=math.inf)
            share = torch.where(same, 0.0, difference / size).nan_to_num(math.inf, posinf=math.inf)
            absolute = max(absolute, float(difference.max()))
            relative = max(relative, float(share.max()))
    return absolute, relative


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _chunks(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield two tensors piece by piece in double precision: all of them at once may not fit into memory."""
    dtype = torch.complex128 if a.is_complex() else torch.float64
    one, two = a.detach().reshape(-1), b.detach().reshape(-1)
    for start in range(0, one.numel(), _CHUNK):
        yield one[start : start + _CHUNK].to(dtype), two[start : start + _CHUNK].to(dtype)


# -- what was measured, and in which order ---------------------------------------------------------


def compare_metrics(a: Provenance, b: Provenance) -> MetricsComparison:
    """Compare the metrics of two records, bit by bit, as far as both hold them. Durations are no metrics.

    Args:
        a: The first.
        b: The second.
    """
    one, two = _epochs(a), _epochs(b)
    shared = sorted(one.keys() & two.keys())
    pairs = [
        *((epoch, one[epoch].metrics, two[epoch].metrics) for epoch in shared),
        (None, a.metrics.at_checkpoint, b.metrics.at_checkpoint),
    ]
    return MetricsComparison(
        verdict=_verdict(any(x.keys() & y.keys() for _, x, y in pairs), any(_differing(x, y) for _, x, y in pairs)),
        epochs=tuple(shared),
        differing=tuple(
            MetricDifference(name, epoch, x[name], y[name]) for epoch, x, y in pairs for name in _differing(x, y)
        ),
        only_a=_only(one, two, [(x, y) for _, x, y in pairs]),
        only_b=_only(two, one, [(y, x) for _, x, y in pairs]),
    )


def compare_order(a: Provenance, b: Provenance) -> OrderComparison:
    """Compare the order of samples in two records, for the epochs for which both tell it.

    Args:
        a: The first.
        b: The second.
    """
    one, two = _orders(a), _orders(b)
    shared = sorted(one.keys() & two.keys())
    differing = tuple(epoch for epoch in shared if one[epoch] != two[epoch])
    return OrderComparison(_verdict(bool(shared), bool(differing)), tuple(shared), differing)


def first_difference(a: Provenance, b: Provenance) -> FirstDifference | None:
    """Return the first epoch in which order, metrics or learning rates of two records part.

    Args:
        a: The first.
        b: The second.

    Returns:
        The epoch and what parted in it; None if nothing did, or if nothing was recorded that could tell.
    """
    one, two = _epochs(a), _epochs(b)
    order = set(compare_order(a, b).differing)
    for epoch in sorted({*(one.keys() & two.keys()), *order}):
        x, y = one.get(epoch), two.get(epoch)
        both = x is not None and y is not None
        found = FirstDifference(
            epoch=epoch,
            order=epoch in order,
            metrics=tuple(_differing(x.metrics, y.metrics)) if both else (),  # type: ignore[union-attr]
            learning_rates=both and not _same(x.learning_rates, y.learning_rates),  # type: ignore[union-attr]
        )
        if found.order or found.metrics or found.learning_rates:
            return found
    return None


def _verdict(told: bool, differs: bool) -> Verdict:
    return "different" if differs else "identical" if told else "not recorded"


def _epochs(record: Provenance) -> dict[int, Epoch]:
    """Return what each epoch measured; of an epoch that was trained twice what counted in the end."""
    return {epoch.epoch: epoch for epoch in record.metrics.history}


def _orders(record: Provenance) -> dict[int, str]:
    return {int(epoch): digest for epoch, digest in record.data.order.items() if epoch.isdecimal()}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in a if name in b and not _same(a[name], b[name])]


def _same(a: Any, b: Any) -> bool:
    """Compare as it is written: JSON's numbers are written so that every bit comes back."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _only(
    a: Mapping[int, Epoch], b: Mapping[int, Epoch], pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> tuple[str, ...]:
    names = dict.fromkeys(name for x, y in pairs for name in x if name not in y)
    return (*names, *(f"epoch {epoch}" for epoch in sorted(a.keys() - b.keys())))


# -- JSON -----------------------------------------------------------------------------------------


def strict_json(value: Any) -> Any:
    """Return a value as strict JSON: NaN, infinities and integers beyond 8 bytes are strings.

    Args:
        value: Dataclasses, mappings, sequences and plain values. Anything else stands as its text.

    Example:
        >>> strict_json({"a": float("nan"), "b": (1, 2.5)})
        {'a': 'nan', 'b': [1, 2.5]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: strict_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict_json(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INTEGER else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)
