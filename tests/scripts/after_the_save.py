"""A training whose weights change after hooks of its callbacks: in a hook of the module, and by hand after `fit`."""

import sys

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from seeded import Net, loader

from lightning_dtool import DtoolProvenanceCallback


class WithTarget(Net):
    """A model with a second copy of its weights, which follows at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.target = torch.nn.Linear(16, 3).requires_grad_(False)

    def on_train_epoch_end(self):
        self.target.load_state_dict(self.layers[3].state_dict())
        self.log("norm", self.target.weight.norm())
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.5


class SavesFirst(L.Callback):
    """A callback that saves before the module's own hook."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(f"before-{trainer.current_epoch}.ckpt")


if __name__ == "__main__":
    models, *options = sys.argv[1:]
    L.seed_everything(1)
    model = WithTarget()
    callbacks = [SavesFirst()] if "first" in options else []
    names = "{epoch}-{norm:.4f}" if "metric" in options else None
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[
            *callbacks,
            ModelCheckpoint("checkpoints", names, save_weights_only="bare" in options),
            DtoolProvenanceCallback(models, retention="all"),
        ],
    )
    trainer.fit(model, loader(1, shuffle=True))
    if "pruned" in options:
        trainer.save_checkpoint("trained.ckpt")
        for layer in (model.layers[0], model.layers[3]):
            layer.weight.data[layer.weight.abs() < 0.1] = 0
        trainer.save_checkpoint("pruned.ckpt")
