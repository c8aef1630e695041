"""A training whose loss is scaled by a helper from a folder outside the project."""

import os
import sys

import lightning as L
import torch

from lightning_dtool import DtoolProvenanceCallback

if "inserted" in sys.argv:
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "shared"))

import helper


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return helper.scaled(self.layer(batch).pow(2).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    L.seed_everything(1)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[DtoolProvenanceCallback(sys.argv[1])],
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=4))
