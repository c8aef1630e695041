"""A training in two phases: frozen layers are trained in a second fit of the same module, with new data."""

import sys

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset
from unseeded import Net

from lightning_dtool import DtoolProvenanceCallback

if __name__ == "__main__":
    L.seed_everything(2)
    net = Net()
    net.layer[0].requires_grad_(False)
    for models in sys.argv[1:]:
        data = DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=8, shuffle=True)
        trainer = L.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            callbacks=[DtoolProvenanceCallback(models)],
        )
        trainer.fit(net, data)
        net.requires_grad_(True)
