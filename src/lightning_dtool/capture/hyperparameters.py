"""The hyperparameters of a LightningModule or a LightningDataModule, as they are now."""

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

_CLI_KEYS = frozenset({"_class_path", "_instantiator"})
"""Keys that LightningCLI adds to the hyperparameters for internal use."""


def current_hyperparameters(owner: LightningModule | LightningDataModule) -> dict[Any, Any]:
    """Return the hyperparameters as a checkpoint holds them, and those that only `hparams_initial` has.

    `save_hyperparameters` leaves values that cannot be pickled out of `hparams`, but not out of `hparams_initial`.
    What a script sets later (`self.hparams["width"] = 32`) is only in `hparams`.

    Args:
        owner: A LightningModule or a LightningDataModule.
    """
    return without_cli_keys({**owner.hparams_initial, **owner.hparams})


def without_cli_keys(hparams: Any) -> dict[Any, Any]:
    """Return hyperparameters without those that LightningCLI adds for internal use.

    Args:
        hparams: A mapping of hyperparameters.
    """
    return {name: value for name, value in hparams.items() if name not in _CLI_KEYS}
