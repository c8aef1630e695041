"""A training that reads its learning rate from a text file and hides the error if the file is missing."""

import sys

import lightning as L
import torch

from lightning_dtool import DtoolProvenanceCallback


class Net(L.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.lr = lr

    def training_step(self, batch, batch_idx):
        return self.layer(batch).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def settings() -> float:
    try:
        with open("settings.txt") as file:
            return float(file.read())
    except OSError:
        raise RuntimeError("this project is not set up") from None


if __name__ == "__main__":
    lr = settings()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[DtoolProvenanceCallback(sys.argv[1])],
    )
    trainer.fit(Net(lr), torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=4))
