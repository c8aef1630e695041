"""A training up to a given epoch, which finds its last checkpoint and resumes from it if there is one."""

import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_dtool import DtoolProvenanceCallback


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.layers(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


if __name__ == "__main__":
    models, folder, epochs = sys.argv[1:]
    L.seed_everything(int(epochs))
    x = torch.randn(48, 8, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=8, shuffle=True)
    last = Path(folder) / "last.ckpt"
    trainer = L.Trainer(
        max_epochs=int(epochs),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[DtoolProvenanceCallback(models, retention="all"), ModelCheckpoint(folder, save_last=True)],
    )
    trainer.fit(Net(), data, ckpt_path=str(last) if last.exists() else None)
