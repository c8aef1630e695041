"""Comparison of everything that two checkpoints hold: weights, and all states from which training would go on.

Two checkpoints of the same moment are compared, one of a run that was never interrupted and one of a run that resumed.
Left out is what says nothing about the training: names of files and folders, durations, settings, which
`results.differences` compares, and the reasons why a resume is not exact.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lightning_dtool.capture.generator_states import state_digests
from lightning_dtool.items import DATASET_KEY, RESUMPTION_SECTION
from lightning_dtool.results.states import StateDifference
from lightning_dtool.values.digests import state_digest

_PARTS = {
    "state_dict": "weights",
    "optimizer_states": "optimizer states",
    "lr_schedulers": "schedulers",
    "callbacks": "callbacks",
    "loops": "loops",
    "epoch": "loops",
    "global_step": "loops",
    "MixedPrecision": "gradient scaler",
    "native_amp_scaling_state": "gradient scaler",
}
"""The parts of a checkpoint by its keys. Any other key, of a datamodule or of the user, is a part of its own."""

_SECTION_PARTS = {
    "random": "random states",
    "generators": "random states",
    "measured": "metrics",
    "gradients": "gradients",
    "requests": "loaders",
    "reloaded": "loaders",
    "running_workers": "loaders",
    "seeds": "loaders",
    "moment": "loops",
    "remembered": "plain state",
}
"""The same for the section that this package adds."""

_ORDER = (
    "weights", "optimizer states", "schedulers", "gradient scaler", "gradients", "callbacks", "metrics",
    "plain state", "random states", "loops", "loaders",
)  # fmt: skip
"""The parts, with those first that a user looks at first."""

SETTINGS = frozenset(
    {
        "pytorch-lightning_version",
        "hparams_name",
        "hparams_type",
        "hyper_parameters",
        "datamodule_hparams_name",
        "datamodule_hparams_type",
        "datamodule_hyper_parameters",
    }
)
"""Keys that hold settings and not states."""

_UNCOMPARED_IN_SECTION = frozenset({"version", "inexact", DATASET_KEY})

_DATA = "DtoolDataModule"
"""The key of the identity of the training data, which names its place, too."""

_DURATIONS = "Timer"
"""The key of the state of Lightning's callback that measures durations."""

_VERSION_OF_FILE = re.compile(r"-v\d+(?=\.\w+$)")
"""What ModelCheckpoint adds to the name of a file if the name is taken."""

_MAX_DEPTH = 20
_MAX_TEXT = 60


class _FromStart:
    """A value that a hook set when training started. A run may hold it only because it began at another epoch."""

    def __init__(self, value: Any) -> None:
        self.value = value


def compare_states(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[StateDifference]:
    """Compare two checkpoints that were saved at the same moment of a training, bit by bit.

    Args:
        a: The content of the first checkpoint file. Its tensors may be memory-mapped.
        b: The content of the second.

    Returns:
        The differences: weights first, then optimizers, schedulers, callbacks, metrics, random states and loops. Empty
        if training goes on from both in the same way, as far as a checkpoint can say.

    Example:
        >>> compare_states({"state_dict": {"bias": 1.0}, "epoch": 1}, {"state_dict": {"bias": 2.0}, "epoch": 1})
        [StateDifference(part='weights', path='bias', a='1.0', b='2.0')]
    """
    one, two = _by_part(a), _by_part(b)
    names = dict.fromkeys([*(name for name in _ORDER if name in one or name in two), *one, *two])
    return [
        StateDifference(part, path, *shown)
        for part in names
        for path, shown in _differences(one.get(part, {}), two.get(part, {}), "", 0)
    ]


def _by_part(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the compared content of a checkpoint, by the names of its parts."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in checkpoint.items():
        if key in SETTINGS:
            continue
        if key == RESUMPTION_SECTION and isinstance(value, Mapping):
            for name, part, content in _in_section(value):
                found.setdefault(part, {})[name] = content
        elif key == "callbacks" and isinstance(value, Mapping):
            found["callbacks"] = {
                str(name): _without_places(state) for name, state in value.items() if name != _DURATIONS
            }
        elif key == _DATA and isinstance(value, Mapping):
            found[_DATA] = {name: fact for name, fact in value.items() if name != "uri"}
        elif key in ("state_dict", "optimizer_states", "lr_schedulers"):
            found[_PARTS[key]] = _as_mapping(value)
        else:
            found.setdefault(_PARTS.get(key, key), {})[key] = value
    return found


def _in_section(section: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the name, the part and the content of each entry of this package's section."""
    for key, value in section.items():
        if key in _UNCOMPARED_IN_SECTION:
            continue
        if key != "ranks" or not isinstance(value, list):
            yield key, _SECTION_PARTS.get(key, key), value
            continue
        for rank, state in enumerate(value):
            prefix = f"rank {rank} " if len(value) > 1 else ""
            for name, content in state.items() if isinstance(state, Mapping) else [("state", state)]:
                yield f"{prefix}{name}", _SECTION_PARTS.get(name, name), _comparable(name, content)


def _comparable(name: str, content: Any) -> Any:
    """Return an entry of a rank's state in a form that is equal if the states are."""
    if name == "remembered":
        return _plain_state(content)
    if name == "random" and content is not None:
        return state_digests(content)
    if name == "requests":
        return {stage: state_digests(states) for stage, states in content.items()}
    return content


def _plain_state(content: Any) -> dict[str, Any]:
    """Return the plain state of a run by the places of its values."""
    table, changes = content["table"], content["changes"]

    def inline(value: Any, inside: frozenset[int]) -> Any:
        if isinstance(value, list):
            return [inline(entry, inside) for entry in value]
        if not isinstance(value, Mapping):
            return value
        if value.get("kind") == "new":
            index = value["index"]
            return "itself" if index in inside else inline(table[index], inside | {index})
        return {key: inline(entry, inside) for key, entry in value.items()}

    found: dict[str, Any] = {}
    for change in changes:
        place = change["path"] if change["name"] is None else f"{change['path']}.{change['name']}"
        value = inline(change["value"], frozenset())
        found[place] = _FromStart(value) if change["always"] else value
    return found


def _as_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    return {str(index): entry for index, entry in enumerate(value)} if isinstance(value, list | tuple) else {"": value}


def _without_places(state: Any) -> Any:
    """Return the state of a callback without the folder of its files, which the state of ModelCheckpoint names."""
    folder = state.get("dirpath") if isinstance(state, Mapping) else None
    if not isinstance(folder, str):
        return state
    return {key: _without_folder(value, folder) for key, value in state.items() if key != "dirpath"}


def _without_folder(value: Any, folder: str) -> Any:
    if isinstance(value, str) and value.startswith(folder):
        return _VERSION_OF_FILE.sub("", os.path.basename(value))
    if isinstance(value, dict):
        return {_without_folder(key, folder): _without_folder(item, folder) for key, item in value.items()}
    return value


def _differences(a: Any, b: Any, path: str, depth: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the places at which two values differ, with both as short texts."""
    if depth < _MAX_DEPTH and isinstance(a, Mapping) and isinstance(b, Mapping) and type(a) is type(b):
        for key in dict.fromkeys([*a, *b]):
            place = f"{path}.{key}" if path else str(key)
            one, two = a.get(key), b.get(key)
            if isinstance(one, _FromStart) or isinstance(two, _FromStart):
                if key in a and key in b:
                    one, two = (each.value if isinstance(each, _FromStart) else each for each in (one, two))
                    yield from _differences(one, two, place, depth + 1)
            elif key not in a or key not in b:
                yield place, tuple(_text(side[key]) if key in side else "absent" for side in (a, b))  # type: ignore[misc]
            else:
                yield from _differences(a[key], b[key], place, depth + 1)
    elif depth < _MAX_DEPTH and isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        for index, (one, two) in enumerate(zip(a, b, strict=True)):
            yield from _differences(one, two, f"{path}.{index}" if path else str(index), depth + 1)
    elif state_digest({"": a}) != state_digest({"": b}):
        yield path, (_text(a), _text(b))


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor) and (value.numel() != 1 or value.is_meta):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, list | tuple | Mapping) and len(value) > 4:
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
