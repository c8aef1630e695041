"""A seeded training on the device and in the precision that its arguments name, which draws random numbers there."""

import sys

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dtool import DtoolProvenanceCallback


class Net(L.LightningModule):
    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.layers(x + 0.01 * torch.randn_like(x)), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


if __name__ == "__main__":
    models, device, precision = sys.argv[1:]
    L.seed_everything(1)
    x = torch.randn(48, 8, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8, shuffle=True)
    L.Trainer(
        max_epochs=3,
        accelerator=device,
        devices=1,
        precision=precision,
        deterministic=True,
        logger=False,
        enable_progress_bar=False,
        callbacks=[DtoolProvenanceCallback(models)],
    ).fit(Net(), data)
