"""A training that saves inside epochs and after validation, and writes to absolute paths."""

import sys

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from seeded import Net, loader

from lightning_dtool import DtoolProvenanceCallback

if __name__ == "__main__":
    models, outputs = sys.argv[1:]
    L.seed_everything(2)
    by_step = ModelCheckpoint(f"{outputs}/steps", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    by_metric = ModelCheckpoint(
        f"{outputs}/best", filename="{epoch}-{val_accuracy:.3f}", monitor="val_accuracy", mode="max"
    )
    callbacks = [by_step, by_metric, DtoolProvenanceCallback(models, retention="all")]
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        val_check_interval=3,
        logger=CSVLogger(f"{outputs}/logs"),
        enable_progress_bar=False,
        callbacks=callbacks,
    )
    trainer.fit(Net(), loader(1, shuffle=True), loader(2, shuffle=False))
    torch.save(trainer.callback_metrics, "metrics.pt")
