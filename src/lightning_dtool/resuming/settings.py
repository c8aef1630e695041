"""Settings of the Trainer that callbacks and hooks change while it trains, and that no checkpoint holds.

`GradientAccumulationScheduler` sets `accumulate_grad_batches` when an epoch begins, which a run that resumes inside the
epoch does not repeat. A hook may change `gradient_clip_val` or `limit_train_batches` at any time.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

_NAMES = (
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches",
    "limit_val_batches", "val_check_interval", "check_val_every_n_epoch", "overfit_batches",
    "reload_dataloaders_every_n_epochs",
)  # fmt: skip
"""The attributes of the Trainer that change what is computed. How long it trains is left out: that may differ."""


def settings_of(trainer: Any) -> dict[str, Any]:
    """Return the settings of a Trainer that change what is computed, by name, as plain values.

    Args:
        trainer: The Trainer.
    """
    # A Trainer whose validations are due by the clock has no `val_check_interval`.
    settings = {name: _plain(getattr(trainer, name, None)) for name in _NAMES}
    return {**settings, "precision": str(trainer.precision)}


def save_settings(trainer: Any, initial: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings at the start of the fit and at the save.

    Args:
        trainer: The Trainer that saves.
        initial: What `settings_of` returned when the fit began.
    """
    return {
        "initial": dict(initial),
        "present": settings_of(trainer),
        "stops_later": bool(trainer.should_stop and not trainer.fit_loop._can_stop_early),
        "batches": trainer.fit_loop.max_batches,
    }


def differing_settings(saved: Mapping[str, Any], initial: Mapping[str, Any]) -> list[str]:
    """Return a reason for each setting with which the resumed run begins differently.

    Args:
        saved: What `save_settings` returned.
        initial: What `settings_of` returned when the resumed run began.
    """
    return [
        f"Trainer({name}={value!r}) saved the checkpoint, and {name} is {initial[name]!r} now"
        for name, value in saved["initial"].items()
        if name in initial and initial[name] != value
    ]


def restore_settings(trainer: Any, saved: Mapping[str, Any], initial: Mapping[str, Any]) -> list[str]:
    """Restore the settings that had changed in the run. Return the reasons why the resumed run may differ.

    Args:
        trainer: The Trainer that resumes, just before training continues.
        saved: What `save_settings` returned.
        initial: What `settings_of` returned when the resumed run began.
    """
    for name, value in saved["present"].items():
        began = saved["initial"].get(name)
        if value != began and name in _NAMES and initial.get(name) == began:
            setattr(trainer, name, value)
    if saved["stops_later"]:
        # A callback has asked the Trainer to stop, which waits for `min_epochs` or `min_steps`.
        trainer.should_stop = True
    batches, present = saved["batches"], trainer.fit_loop.max_batches
    limited = initial["limit_train_batches"] != saved["initial"]["limit_train_batches"]
    if batches != present and not limited and not trainer.reload_dataloaders_every_n_epochs:
        return [f"an epoch had {batches} batches when the checkpoint was saved, and has {present} now"]
    return []


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, Enum) else value
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
