"""The patch of Lightning's Trainer in a rerun: it writes into the scratch folder, and uses the planned device.

This module is imported together with Lightning, possibly long before the script imports this package. It must therefore
import neither Lightning nor `lightning_dtool.capture.randomness`, which observes the random states.
"""

import functools
import os
from pathlib import Path
from typing import Any

from lightning_dtool import rerun

_LOGGER_FOLDERS = ("_root_dir", "_save_dir")
"""Attributes of Lightning's file loggers (TensorBoard, CSV) that hold their folders."""


def patch_trainer(trainer_class: Any) -> None:
    """Make every Trainer that is created from now on write into the scratch folder and use the planned device.

    Args:
        trainer_class: Lightning's Trainer.
    """
    plan = rerun.current_plan()
    original = trainer_class.__init__
    if plan is None or hasattr(original, "lightning_dtool_original"):
        return

    @functools.wraps(original)
    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        if plan.device is not None:
            kwargs["accelerator"] = plan.device
            devices = kwargs.get("devices", "auto")
            if isinstance(devices, list | tuple):  # device indices, which may not exist on this machine
                kwargs["devices"] = len(devices)
        original(self, *args, **kwargs)
        redirect_folders(self, Path(plan.scratch))

    patched.lightning_dtool_original = original  # type: ignore[attr-defined]
    trainer_class.__init__ = patched


def redirect_folders(trainer: Any, scratch: Path) -> None:
    """Redirect a Trainer's folders to the scratch folder, unless they are in it already.

    Args:
        trainer: The Trainer.
        scratch: The scratch folder.
    """
    trainer._default_root_dir = rerun.path_in_scratch(trainer._default_root_dir, scratch)
    for callback in trainer.checkpoint_callbacks:
        if getattr(callback, "dirpath", None) is not None:
            callback.dirpath = rerun.path_in_scratch(callback.dirpath, scratch)
    for logger in trainer.loggers:
        for name in _LOGGER_FOLDERS:
            if isinstance(getattr(logger, name, None), str | os.PathLike):
                setattr(logger, name, rerun.path_in_scratch(getattr(logger, name), scratch))
    profiler = trainer.profiler
    if getattr(profiler, "dirpath", None) is not None:
        profiler.dirpath = rerun.path_in_scratch(profiler.dirpath, scratch)
