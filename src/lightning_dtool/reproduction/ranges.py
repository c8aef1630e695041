"""The range in which a metric lies whatever a training does, as far as its name, its values and the loss tell.

An interval that is computed for a normal population may reach beyond it.
"""

import math
import re
from collections.abc import Sequence

from lightning_dtool.record import Loss

_FRACTIONS = frozenset({
    "acc", "accuracy", "precision", "recall", "sensitivity", "specificity", "f1", "fbeta", "auc", "auroc", "auprc",
    "iou", "jaccard", "dice",
})  # fmt: skip
"""Words in the names of metrics that are fractions, or fractions in percent."""

_NOT_NEGATIVE = frozenset({"mse", "rmse", "mae", "msle", "mape", "smape", "cer", "wer"})

_LOSSES_NOT_NEGATIVE = frozenset({
    "crossentropy", "crossentropyloss", "binarycrossentropy", "binarycrossentropywithlogits", "bceloss",
    "bcewithlogitsloss", "mseloss", "l1loss", "smoothl1loss", "huberloss", "hingeembeddingloss", "marginrankingloss",
    "tripletmarginloss", "multimarginloss",
})  # fmt: skip
"""Losses of PyTorch that are never negative, as functions or classes, without underscores."""


def range_of(name: str, values: Sequence[float], loss: Loss | None = None) -> tuple[float, float]:
    """Return the lowest and the highest value that a metric can have; infinite where that is not known.

    Args:
        name: The name under which the metric was logged.
        values: All observed values. A range that does not hold them is not the metric's.
        loss: The record's `loss`. Default: nothing is known of the values of a loss.

    Example:
        >>> range_of("val_acc", [0.97, 0.99])
        (0.0, 1.0)
        >>> range_of("val_acc", [97.0, 99.0])
        (0.0, 100.0)
        >>> range_of("reward", [97.0, 99.0])
        (-inf, inf)
    """
    words = set(re.findall(r"[a-z]+\d*", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.split("[")[0]).lower()))
    low, high = -math.inf, math.inf
    if "loss" in words:
        low = 0.0 if loss is not None and _is_never_negative(loss) else low
    elif words & _NOT_NEGATIVE:
        low = 0.0
    elif words & _FRACTIONS:
        low, high = 0.0, 1.0 if max(values, default=0.0) <= 1 else 100.0
    return (low, high) if all(low <= value <= high for value in values) else (-math.inf, math.inf)


def _is_never_negative(loss: Loss) -> bool:
    names = [re.split(r"[:.]", call.name)[-1].replace("_", "").lower() for call in loss.calls]
    added = not any(operation.startswith(("Sub", "Rsub", "Neg")) for operation in loss.operations)
    return bool(names) and added and all(name in _LOSSES_NOT_NEGATIVE for name in names)
