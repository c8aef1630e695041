"""Who asked for a checkpoint: an unmodified ModelCheckpoint, or a program that may read the file at once."""

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

_POLICY = ModelCheckpoint.__module__
_BETWEEN = ("lightning.pytorch.", "lightning_dtool.", "lightning.fabric.")
_HOOKS = "lightning.pytorch.trainer.call"
_REPLACED = "file_exists"


def asking_policies() -> list[ModelCheckpoint]:
    """Return the Trainer's ModelCheckpoints, if one of them asked for the save and reads nothing of the file.

    Only then may the save return before the file is whole. A subclass, a callback or a script may read the file, send
    it away or delete it as soon as the save has returned, and so may a logger.

    Returns:
        An empty list unless the one that asked has exactly this class and no replaced methods, was called by one of the
        Trainer's hooks, does not have `save_last="link"`, and no logger reads files at once.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _module_of(frame) != _POLICY:
        if not _module_of(frame).startswith(_BETWEEN):
            return []
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != "_save_checkpoint":
        return []
    policy, trainer = frame.f_locals.get("self"), frame.f_locals.get("trainer")
    while frame is not None and _module_of(frame) == _POLICY:
        frame = frame.f_back
    if frame is None or _module_of(frame) != _HOOKS or not _reads_nothing(policy, getattr(trainer, "loggers", None)):
        return []
    return [found for found in getattr(trainer, "callbacks", []) if isinstance(found, ModelCheckpoint)]


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _reads_nothing(policy: Any, loggers: list[Logger] | None) -> bool:
    return (
        type(policy) is ModelCheckpoint
        and not any(callable(getattr(ModelCheckpoint, name, None)) for name in vars(policy).keys() - {_REPLACED})
        and policy.save_last != "link"
        and loggers is not None
        and not any("after_save_checkpoint" in vars(logger) or reads_files_at_once(logger) for logger in loggers)
    )


def reads_files_at_once(logger: Logger) -> bool:
    """Return True if a logger reads checkpoint files as soon as they are saved (W&B, MLflow with `log_model`).

    Args:
        logger: A logger of the Trainer.
    """
    reads = type(logger).after_save_checkpoint is not Logger.after_save_checkpoint
    return reads and bool(getattr(logger, "_log_model", True))


def tell_of_names(policies: list[ModelCheckpoint], exists: Callable[[str], bool | None]) -> None:
    """Tell ModelCheckpoints, which choose names that are free, of names that are taken in flight.

    Args:
        policies: The Trainer's ModelCheckpoints, of which each may use the names of the others.
        exists: Returns for a path whether it counts as taken; None if the file system knows.
    """
    for policy in policies:
        forget_names([policy])
        vars(policy)[_REPLACED] = partial(_file_exists, policy, exists)


def forget_names(policies: list[ModelCheckpoint]) -> None:
    """Let ModelCheckpoints ask only the file system again.

    Args:
        policies: ModelCheckpoints.
    """
    for policy in policies:
        vars(policy).pop(_REPLACED, None)


def _file_exists(policy: Any, exists: Callable[[str], bool | None], filepath: Any, trainer: Any) -> bool:
    known = exists(filepath)
    if known is None:
        return bool(type(policy).file_exists(policy, filepath, trainer))
    # The method agrees with the other ranks in a way that differs between releases, so only its look is replaced.
    filesystem = policy._fs
    policy._fs = SimpleNamespace(exists=lambda path: known)
    try:
        return bool(type(policy).file_exists(policy, filepath, trainer))
    finally:
        policy._fs = filesystem
