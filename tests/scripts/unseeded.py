"""An unseeded training in two fits: the second checkpoint depends on all random numbers before it."""

import random
import sys

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dtool import DtoolProvenanceCallback  # imported first: states before this import are unknown


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        noise = float(np.random.normal()) + random.random()
        loss = (self.layer(x) - x.sum(1, keepdim=True)).pow(2).mean() * (1 + 0.01 * noise)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


if __name__ == "__main__":
    data = DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=8, shuffle=True)
    for models in sys.argv[1:]:
        trainer = L.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            callbacks=[DtoolProvenanceCallback(models)],
        )
        trainer.fit(Net(), data)
