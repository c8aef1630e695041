"""Comparison of two records epoch by epoch: metrics, learning rates and the order of the samples."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_dtool.record import Epoch, Provenance
from lightning_dtool.results.comparison import (
    Agreement,
    FirstDifference,
    MetricDifference,
    MetricsComparison,
    OrderComparison,
)


def compare_metrics(a: Provenance, b: Provenance) -> MetricsComparison:
    """Compare the metrics that two records have in common, bit by bit. Durations are not metrics.

    Args:
        a: The first record.
        b: The second record.
    """
    one, two = _epochs(a), _epochs(b)
    shared = sorted(one.keys() & two.keys())
    pairs = [
        *((epoch, one[epoch].metrics, two[epoch].metrics) for epoch in shared),
        (None, a.metrics.at_checkpoint, b.metrics.at_checkpoint),
    ]
    return MetricsComparison(
        agreement=_agreement(any(x.keys() & y.keys() for _, x, y in pairs), any(_differing(x, y) for _, x, y in pairs)),
        epochs=tuple(shared),
        differing=tuple(
            MetricDifference(name, epoch, x[name], y[name]) for epoch, x, y in pairs for name in _differing(x, y)
        ),
        only_a=_only(one, two, [(x, y) for _, x, y in pairs]),
        only_b=_only(two, one, [(y, x) for _, x, y in pairs]),
    )


def compare_order(a: Provenance, b: Provenance) -> OrderComparison:
    """Compare the order of the samples in two records, for the epochs whose order both hold.

    Args:
        a: The first record.
        b: The second record.
    """
    one, two = _orders(a), _orders(b)
    shared = sorted(one.keys() & two.keys())
    differing = tuple(epoch for epoch in shared if one[epoch] != two[epoch])
    return OrderComparison(_agreement(bool(shared), bool(differing)), tuple(shared), differing)


def first_difference(a: Provenance, b: Provenance) -> FirstDifference | None:
    """Return the first epoch in which order, metrics or learning rates of two records differ.

    Args:
        a: The first record.
        b: The second record.

    Returns:
        The epoch and what differs in it; None if no recorded epoch differs.
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


def _agreement(comparable: bool, differs: bool) -> Agreement:
    return "different" if differs else "identical" if comparable else "not recorded"


def _epochs(record: Provenance) -> dict[int, Epoch]:
    """Return the epochs by number. If an epoch was trained more than once, the last one counts."""
    return {epoch.epoch: epoch for epoch in record.metrics.history}


def _orders(record: Provenance) -> dict[int, str]:
    return {int(epoch): digest for epoch, digest in record.data.order.items() if epoch.isdecimal()}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in a if name in b and not _same(a[name], b[name])]


def _same(a: Any, b: Any) -> bool:
    """Compare values as JSON, which keeps every bit of a number."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _only(
    a: Mapping[int, Epoch], b: Mapping[int, Epoch], pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> tuple[str, ...]:
    names = dict.fromkeys(name for x, y in pairs for name in x if name not in y)
    return (*names, *(f"epoch {epoch}" for epoch in sorted(a.keys() - b.keys())))
