"""A seeded training that begins with given weights, as fine-tuning does, and whose initial weights are stored."""

import sys

import lightning as L
import torch
from seeded import Net, loader

from lightning_dtool import DtoolProvenanceCallback

SCALE = 0.3

if __name__ == "__main__":
    (models,) = sys.argv[1:]
    L.seed_everything(1)
    torch.set_num_threads(1)
    net = Net()
    for weight in net.parameters():
        weight.data.copy_(torch.linspace(-SCALE, SCALE, weight.numel()).view_as(weight).sin())
    provenance = DtoolProvenanceCallback(models, save_initial_weights=True)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, callbacks=[provenance]
    )
    trainer.fit(net, loader(1, shuffle=True))
