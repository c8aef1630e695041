"""What a rerun writes stays inside of its scratch folder: the originals are not touched.

This module is imported while Lightning is, which may be long before the script imports our package. So it must import
neither Lightning nor what reads the random states.
"""

import functools
import os
from pathlib import Path
from typing import Any

from lightning_dtool import rerun

_LOGGER_FOLDERS = ("_root_dir", "_save_dir")
"""Where the loggers of Lightning that write files (TensorBoard, CSV) keep their folder."""


def patch_trainer(trainer_class: Any) -> None:
    """Let every Trainer that is made from now on write into the scratch folder, and use the planned device.

    Args:
        trainer_class: Lightning's Trainer.
    """
    plan = rerun.current_plan()
    original = trainer_class.__init__
    if plan is None or hasattr(original, "lightning_dtool_original"):
        return

    @functools.wraps(original)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        if plan.device is not None:
            kwargs["accelerator"] = plan.device
            devices = kwargs.get("devices", "auto")
            if isinstance(devices, list | tuple):  # numbers of devices that are not there
                kwargs["devices"] = len(devices)
        original(self, *args, **kwargs)
        keep_inside(self, Path(plan.scratch))

    initialise.lightning_dtool_original = original  # type: ignore[attr-defined]
    trainer_class.__init__ = initialise


def keep_inside(trainer: Any, scratch: Path) -> None:
    """Redirect a Trainer's folders, unless they lie in the scratch folder already.

    Args:
        trainer: The Trainer.
        scratch: The folder.
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
