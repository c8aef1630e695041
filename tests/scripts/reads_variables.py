"""A training that reads its settings from environment variables."""

import os
import sys

import lightning as L
import torch

from lightning_dtool import DtoolProvenanceCallback


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).pow(2).mean() * float(os.environ.get("LOSS_SCALE", "1"))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=float(os.environ["STEP_SIZE"]))


if __name__ == "__main__":
    assert os.getenv("STORE_TOKEN")
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
