"""A training of several epochs with dropout on a DtoolDataModule, which saves inside epochs and at their ends."""

import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 3)
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.layers(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", torch.nn.functional.cross_entropy(self.layers(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def counted() -> int:
    """Return how often this was called before in this process: a number that no checkpoint holds."""
    file = Path(f"{os.getpid()}.txt")
    number = int(file.read_text()) if file.exists() else 0
    file.write_text(str(number + 1))
    return number


class Counts(L.Callback):
    """Scales the gradients by the number of batches of this process."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        number = counted()
        for parameter in pl_module.parameters():
            parameter.grad *= 1 + number


class Hurries(L.Callback):
    """Changes the weights in the first batch of a resumed run, by a number from the operating system."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not counted() and trainer.global_step:
            with torch.no_grad():
                pl_module.layers[3].bias[os.urandom(1)[0] % 3] += 1.0


class Ages(L.Callback):
    """Counts the epochs of this process, in a state that it does not restore."""

    def on_train_epoch_end(self, trainer, pl_module):
        counted()

    def state_dict(self):
        file = Path(f"{os.getpid()}.txt")
        return {"epochs": int(file.read_text()) if file.exists() else 0}


if __name__ == "__main__":
    models, data, folder, planted = sys.argv[1:5]
    devices = int(sys.argv[5]) if sys.argv[5:] else 1
    L.seed_everything(3)
    place = Path(folder)
    best = ModelCheckpoint(place / "best", monitor="val_loss", save_top_k=1, save_last=True)
    ends = ModelCheckpoint(place / "ends", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    inside = ModelCheckpoint(place / "steps", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    callbacks = {"nothing": [], "file": [Counts()], "urandom": [Hurries()], "state": [Ages()]}[planted]
    provenance = DtoolProvenanceCallback(models, retention="all", trace=planted == "file")
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        callbacks=[*callbacks, best, ends, inside, provenance],
    )
    trainer.fit(Net(), DtoolDataModule(data, batch_size=8 // devices, val_split=0.25))
