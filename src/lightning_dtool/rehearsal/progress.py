"""The counters of Lightning's loops in a checkpoint, by which a rerun recognises the recorded moment."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_dtool.loading.weights import load_safely

_BATCH, _VALIDATION = "epoch_loop.batch_progress", "epoch_loop.val_loop."

_LAST_BATCH = f"{_BATCH}.is_last_batch"

_PLACE = (
    *(f"epoch_progress.current.{name}" for name in ("ready", "started", "processed", "completed")),
    _LAST_BATCH,
)
"""The counters that do not depend on the number of batches of an epoch."""

_COUNTED = ("epoch_progress", "batch_progress")
"""Suffixes of the names of the counters of epochs and batches. Other counters may depend on computed values, such as
the number of evaluations of an optimizer's closure."""


def progress_of(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Return the counters of a checkpoint by their paths, as they were before anything that was interrupted.

    An exception or a signal may have ended the recorded run inside a batch or a validation. A rerun meets neither, but
    it passes the moment before that batch or validation.

    Args:
        checkpoint: The checkpoint, or a mapping with its `loops`.
    """
    found = dict(_counters(checkpoint.get("loops", {}).get("fit_loop", {})))
    if _is_open(found, _BATCH):
        for which in ("total", "current"):
            for count in ("ready", "started", "processed"):
                found[f"{_BATCH}.{which}.{count}"] = found[f"{_BATCH}.{which}.completed"]
        found[_LAST_BATCH] = 0
    validated = f"{_VALIDATION}batch_progress"
    begun, last = (found.get(f"{validated}.{name}") for name in ("current.ready", "is_last_batch"))
    if _is_open(found, validated) or (begun and not last):
        found = {name: value for name, value in found.items() if not name.startswith(_VALIDATION)}
    return found


def recorded_progress(checkpoint: str | None) -> dict[str, int]:
    """Return the counters of the recorded checkpoint.

    Args:
        checkpoint: Its local file.

    Returns:
        The counters by their paths. Empty without a file, and if it cannot be read safely.
    """
    if checkpoint is None:
        return {}
    try:
        return progress_of(load_safely(Path(checkpoint)))
    except Exception:  # an untrusted file may raise anything; then only epoch and step are compared
        return {}


def ends_epoch(progress: Mapping[str, int]) -> bool:
    """Return whether the last batch of the epoch was trained. Without a counter of it, that is assumed."""
    return bool(progress.get(_LAST_BATCH, 1))


def is_same_place(progress: Mapping[str, int], recorded: Mapping[str, int]) -> bool:
    """Return whether counters are of the same place in an epoch, whatever its number of batches.

    Args:
        progress: The counters.
        recorded: The recorded counters. Those that they lack are not compared.
    """
    return all(progress.get(name) == recorded[name] for name in _PLACE if name in recorded)


def _is_open(progress: Mapping[str, int], batches: str) -> bool:
    """Return whether a batch has begun and was not computed."""
    return progress.get(f"{batches}.current.ready") != progress.get(f"{batches}.current.processed")


def _counters(state: Any, path: str = "", inside: bool = False) -> Iterator[tuple[str, int]]:
    """Yield the counters of Lightning's loops, by path. The rest of their state may differ between two runs."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            place = f"{path}.{key}" if path else str(key)
            yield from _counters(value, place, inside or str(key).endswith(_COUNTED))
    elif inside and isinstance(state, int):
        yield path, int(state)
