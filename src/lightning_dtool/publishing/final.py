"""The checkpoint at the end of training, which has a dataset and no file."""

import uuid

from lightning.pytorch import Callback, LightningModule, Trainer

_SCHEME = "lightning-dtool://"


class FinalCheckpoint(Callback):
    """Saves a checkpoint when training ends, after every other callback.

    The Trainer saves it as any other checkpoint, on every rank. Its address is no file, so the DtoolCheckpointIO only
    publishes it. If the state has been published already, nothing is written, and that dataset is kept.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint. Lightning does not call this after an exception."""
        # A new address for each fit, so that the next fit does not replace the dataset of this one.
        trainer.save_checkpoint(f"{_SCHEME}{uuid.uuid4().hex}/final")


def has_no_file(address: str) -> bool:
    """Return True for the address of a checkpoint that is published only."""
    return address.startswith(_SCHEME)
