"""An autoencoder with a loss from plain operations. Does not use lightning-dtool."""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class LitAutoEncoder(L.LightningModule):
    def __init__(self, hidden: int = 32, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.decoder = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 64))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        loss = (self.decoder(self.encoder(x)) - x).pow(2).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        (x,) = batch
        self.log("val_loss", (self.decoder(self.encoder(x)) - x).pow(2).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


if __name__ == "__main__":
    L.seed_everything(42)
    digits = TensorDataset(torch.tensor(load_digits().data[:400] / 16, dtype=torch.float32))
    train, val = random_split(digits, [320, 80])
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(LitAutoEncoder(), DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=32))
