"""A training that a signal or an exception ends once in a given hook, or that saves in this hook."""

import os
import signal
import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from seeded import Net, loader

from lightning_dtool import DtoolProvenanceCallback


class Interrupt(L.Callback):
    """Ends the run, or saves by hand, in a hook. The run is ended only while a file exists, which stands for a user."""

    def __init__(self, hook: str, how: str, flag: str) -> None:
        self.how, self.flag = how, flag
        setattr(self, hook, self.act)

    def act(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.sanity_checking or trainer.global_step != (12 if trainer.validating else 10):
            return
        if self.how == "save":
            trainer.save_checkpoint("by-hand.ckpt")
        elif os.path.exists(self.flag):
            Path(self.flag).unlink()
            if self.how == "sigterm":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                raise KeyboardInterrupt


if __name__ == "__main__":
    models, flag, hook, how = sys.argv[1:]
    L.seed_everything(2)
    saving = ModelCheckpoint(
        "checkpoints", filename="{epoch}-{step}", save_on_exception=how != "save", every_n_epochs=9
    )
    callbacks = [Interrupt(hook, how, flag), saving, DtoolProvenanceCallback(models, retention="all")]
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(Net(), loader(1, shuffle=True), loader(2, shuffle=False))
