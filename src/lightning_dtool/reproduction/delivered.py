"""What a checkpoint delivers beside its state_dict: tensors and numbers that callbacks and the user's hooks add.

An averaged model may be in a callback's state, an ensemble under a key of the user's, and either may be a whole object.
"""

import collections
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lightning_dtool.items import RESUMPTION_SECTION
from lightning_dtool.loading.makers import ATTRIBUTES
from lightning_dtool.reproduction.states import SETTINGS
from lightning_dtool.reproduction.weights import MAX_NAMES
from lightning_dtool.results.comparison import Numbers

_OF_LIGHTNING = SETTINGS | {
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "epoch",
    "global_step",
    "loops",
    "callbacks",
    RESUMPTION_SECTION,
}
"""The keys of a checkpoint that are compared elsewhere, or that describe the run."""

_OF_MODEL_CHECKPOINT = frozenset(
    {
        "monitor",
        "best_model_score",
        "best_model_path",
        "current_score",
        "dirpath",
        "best_k_models",
        "kth_best_model_path",
        "kth_value",
        "last_model_path",
    }
)
"""The state of a ModelCheckpoint: paths, and the scores of other checkpoints."""

_TIMES = frozenset({"time_elapsed"})
"""The state of Lightning's Timer."""


@dataclass
class Delivered:
    """What a checkpoint delivers beside its state_dict.

    Attributes:
        tensors: Tensors and arrays, by their place in the checkpoint, such as `callbacks[Ema].average.weight`.
        numbers: Numbers, by their place. A list of numbers is one entry.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)


def delivered(checkpoint: Mapping[str, Any]) -> Delivered:
    """Return the tensors and numbers in a checkpoint that Lightning and this package did not put there.

    Args:
        checkpoint: The result of `load_safely`. Objects that were not made count by what the file says about them.
    """
    found = Delivered()
    callbacks = checkpoint.get("callbacks")
    for label, state in _labelled(callbacks) if isinstance(callbacks, Mapping) else ():
        _add_callback(found, f"callbacks[{label}]", state)
    for key, value in checkpoint.items():
        if key not in _OF_LIGHTNING:
            _add(found, str(key), value)
    return found


def compare_numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> Numbers:
    """Compare numbers by their places, with their types and bit by bit.

    Args:
        a: Those of the first checkpoint.
        b: Those of the second.
    """
    names = [*a, *(name for name in b if name not in a)]
    differing = [name for name in names if name not in a or name not in b or not _same(a[name], b[name])]
    agreement = "different" if differing else "identical" if names else "not recorded"
    return Numbers(agreement, tuple(differing[:MAX_NAMES]), len(differing), len(names))  # type: ignore[arg-type]


def _labelled(callbacks: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the states by class. A state's key also contains arguments, among them folders that differ in a rerun."""
    seen: collections.Counter[str] = collections.Counter()
    for key, state in callbacks.items():
        name = str(key).partition("{")[0]
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}", state


def _add_callback(found: Delivered, place: str, state: Any) -> None:
    if isinstance(state, Mapping):
        left_out = {*_TIMES, *(_OF_MODEL_CHECKPOINT if "best_model_path" in state else ())}
        state = {key: value for key, value in state.items() if key not in left_out}
    own = Delivered()
    _add(own, place, state)
    if any(np.ndim(value) for value in own.tensors.values()):
        found.tensors |= own.tensors
    else:  # single numbers alone are no model, but scores, as in an EarlyStopping
        own.numbers |= {place: value.item() for place, value in own.tensors.items()}
    found.numbers |= own.numbers


def _add(found: Delivered, place: str, value: Any) -> None:
    """Add the tensors and numbers in a value, which may contain itself and be of any depth."""
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [(place, value)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, torch.Tensor) or (isinstance(item, np.ndarray) and not item.dtype.hasobject):
            found.tensors[place] = item
        elif _is_number(item) or (isinstance(item, list | tuple) and item and all(map(_is_number, item))):
            found.numbers[place] = item
        elif id(item) not in seen:
            seen.add(id(item))
            parts = [(_place(place, key), part) for key, part in _parts(item)]
            pending += reversed(parts)


def _parts(item: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(item, ATTRIBUTES):
        item = vars(item)
    if isinstance(item, Mapping):
        yield from item.items()
    elif isinstance(item, list | tuple | collections.deque | np.ndarray):
        yield from enumerate(item)


def _place(place: str, key: Any) -> str:
    return f"{place}[{key}]" if isinstance(key, int) else f"{place}.{key}"


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float, complex) or isinstance(value, np.generic)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if type(a) is not type(b):
        return False
    return repr(a) == repr(b) if isinstance(a, float) and not math.isnan(a) else bool(a == b) or (a != a and b != b)
