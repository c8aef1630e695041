"""A training in two fits of one Trainer, the second of which continues the first, then `save_checkpoint`."""

import sys

import lightning as L
from seeded import Net, loader

from lightning_dtool import DtoolProvenanceCallback

if __name__ == "__main__":
    (models,) = sys.argv[1:]
    L.seed_everything(4)
    provenance = DtoolProvenanceCallback(models)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, callbacks=[provenance]
    )
    net = Net()
    trainer.fit(net, loader(1, shuffle=True))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(net, loader(1, shuffle=True), ckpt_path=provenance.best_uri)
    trainer.save_checkpoint("final.ckpt")
