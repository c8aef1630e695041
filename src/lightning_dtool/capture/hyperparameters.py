"""The hyperparameters of a LightningModule or a LightningDataModule, as they are now."""

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.parsing import is_picklable

_CLI_KEYS = frozenset({"_class_path", "_instantiator"})
"""Keys that LightningCLI adds to the hyperparameters for internal use."""


def current_hyperparameters(owner: LightningModule | LightningDataModule) -> dict[Any, Any]:
    """Return the hyperparameters as a checkpoint holds them, and those that the Trainer has left out of it.

    When fitting begins, the Trainer removes values that cannot be pickled from `hparams`, but not from
    `hparams_initial`. What a script sets later (`self.hparams["width"] = 32`) is only in `hparams`, and what it deletes
    is only in `hparams_initial`.

    Args:
        owner: A LightningModule or a LightningDataModule.
    """
    now = owner.hparams
    left_out = {
        name: value for name, value in owner.hparams_initial.items() if name not in now and not _is_picklable(value)
    }
    return without_cli_keys({**left_out, **now})


def _is_picklable(value: Any) -> bool:
    try:
        return is_picklable(value)
    except Exception:  # a user's `__reduce__` may raise anything
        return False


def without_cli_keys(hparams: Any) -> dict[Any, Any]:
    """Return hyperparameters without those that LightningCLI adds for internal use.

    Args:
        hparams: A mapping of hyperparameters.
    """
    return {name: value for name, value in hparams.items() if name not in _CLI_KEYS}
