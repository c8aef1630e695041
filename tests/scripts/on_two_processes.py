"""A seeded training of a classifier by two processes."""

import sys

import lightning as L
from seeded import Net, loader

from lightning_dtool import DtoolProvenanceCallback


class Synchronised(Net):
    """A model whose metrics are those of both processes."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("both_loss", loss, sync_dist=True, on_epoch=True, on_step=False)
        return loss


if __name__ == "__main__":
    (models,) = sys.argv[1:]
    L.seed_everything(1)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        logger=False,
        enable_progress_bar=False,
        callbacks=[DtoolProvenanceCallback(models)],
    )
    trainer.fit(Synchronised(), loader(1, shuffle=True))
