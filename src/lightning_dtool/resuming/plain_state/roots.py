"""The objects of a run where the search for plain state begins, and their paths."""

import collections
import re
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl

from lightning_dtool.resuming.plain_state.kinds import kind_of
from lightning_dtool.resuming.plain_state.scope import is_ours, managed_by_others, set_by_the_user


def roots_of(trainer: Any, loaders: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the objects of a run that may hold state, with their paths.

    Args:
        trainer: The Trainer, in `fit`.
        loaders: The loaders, with their names.
    """
    found: list[tuple[str, Any]] = [("model", trainer.lightning_module)]
    names: collections.Counter[str] = collections.Counter()
    for callback in _callbacks(trainer):
        name = type(callback).__qualname__.rpartition(".")[2]
        names[name] += 1
        found.append((f"callbacks[{name}]" if names[name] == 1 else f"callbacks[{name}, {names[name]}]", callback))
    for index, optimizer in enumerate(trainer.optimizers):
        found.append((f"optimizers[{index}]", optimizer))
    for index, config in enumerate(trainer.lr_scheduler_configs):
        found.append((f"schedulers[{index}]", config.scheduler))
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None:
        found.append(("datamodule", datamodule))
    found += [(f"trainer.{name}", value) for name, value in set_by_the_user(trainer).items()]
    return [*found, *loaders]


def _callbacks(trainer: Any) -> list[Any]:
    """Return the callbacks that save no state of their own: those that are not Lightning's or this package's."""
    return [each for each in trainer.callbacks if isinstance(each, pl.Callback) and not _saves_its_state(each)]


def _saves_its_state(callback: Any) -> bool:
    """Return whether a callback manages its own state, since it belongs to Lightning or to this package.

    Args:
        callback: The callback.
    """
    return managed_by_others(kind_of(callback)) is None or is_ours(kind_of(callback))


def root_of(path: str) -> str:
    """Return the path of the object of the Trainer, the class or the module where a path begins.

    Args:
        path: The path of an object.
    """
    if path.startswith(("class ", "module ")):
        return path
    match = re.match(r"\w+(\[[^\]]*\])?", path)
    return match[0] if match else path
