"""A training on a dtool dataset of images: one beside the script, by a relative path, or the second argument.

The model is large enough for the number of threads to change bits.
"""

import sys

import lightning as L
import numpy as np
import torch
from torch import nn

from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 512), nn.ReLU(), nn.Linear(512, 512))
        self.head = nn.Linear(512, 2)

    def forward(self, x):
        return self.head(self.layers(x).relu())

    def training_step(self, batch, batch_idx):
        x, y = batch
        # A sum of many numbers depends on the number of threads.
        size = sum(parameter.pow(2).sum() for parameter in self.parameters())
        loss = nn.functional.cross_entropy(self(x), y) * (1 + 1e-3 * size)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_accuracy", (self(x).argmax(-1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def to_tensor(image):
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)


if __name__ == "__main__":
    L.seed_everything(1)
    models, images, *_ = [*sys.argv[1:], "leaves"]
    data = DtoolDataModule(images, batch_size=16, val_split=0.25, train_transform=to_tensor, eval_transform=to_tensor)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[DtoolProvenanceCallback(models)],
    )
    trainer.fit(Net(), data)
