"""Training, publishing and resuming with data and models on S3.

    python examples/s3.py s3://BUCKET

First, tell dtool where the bucket is and give it your credentials. Set DTOOL_S3_ENDPOINT_<BUCKET>,
DTOOL_S3_ACCESS_KEY_ID_<BUCKET> and DTOOL_S3_SECRET_ACCESS_KEY_<BUCKET> in ~/.config/dtool/dtool.json or in the
environment. Or configure AWS as usual. The example leaves a dataset and two checkpoints in the bucket.
"""

import io
import sys

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lightning_dtool import DatasetWriter, DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback


class LeafNet(L.LightningModule):
    """A small classifier. Because of its dropout, the weights show whether a resumed run is exact."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))

    def forward(self, leaves: torch.Tensor) -> torch.Tensor:
        return self.layers(leaves)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        leaves, kinds = batch
        return F.cross_entropy(self(leaves), kinds)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        leaves, kinds = batch
        self.log("val_loss", F.cross_entropy(self(leaves), kinds))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def write_leaves(base_uri: str) -> str:
    """Write a dataset of 60 items to the bucket and return its URI."""
    numbers = np.random.default_rng(0)
    with DatasetWriter("leaves", base_uri) as writer:
        kinds = {}
        for number in range(60):
            buffer = io.BytesIO()
            np.save(buffer, numbers.normal(size=16).astype(np.float32))
            relpath = f"{number:02}.npy"
            writer.put_bytes(buffer.getvalue(), relpath)  # uploaded in the background
            kinds[relpath] = ("elm", "oak", "yew")[number % 3]
        writer.put_overlay("category", kinds)
        # Compares the uploaded objects with what the server holds. On an error, the dataset is not frozen.
        return writer.commit().uri


def train(leaves: str, base_uri: str, epochs: int, seed: int, ckpt_path: str | None = None) -> tuple[LeafNet, str]:
    """Train on the dataset. Return the model and the URI of its last checkpoint."""
    L.seed_everything(seed, verbose=False)
    data = DtoolDataModule(leaves, batch_size=12, val_split=0.2)
    provenance = DtoolProvenanceCallback(base_uri)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[provenance], **quiet)
    model = LeafNet()
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model, provenance.last_uri


def main(base_uri: str) -> None:
    leaves = write_leaves(base_uri)
    whole, first = train(leaves, base_uri, epochs=4, seed=1)

    # Stop the same training after two epochs, and resume it from the URI of its checkpoint.
    _, stopped = train(leaves, base_uri, epochs=2, seed=1)
    resumed, last = train(leaves, base_uri, epochs=4, seed=2, ckpt_path=stopped)
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    same = all(torch.equal(one, other) for one, other in pairs)

    checkpoint = DtoolCheckpoint.from_uri(last)
    checkpoint.verify()  # downloads every item and compares it with its hash
    DtoolCheckpoint.from_uri(stopped).delete()

    print("dataset    ", leaves)
    print("checkpoint ", last)
    print("weights    ", "bitwise the same as without an interruption" if same else "different")
    print("verified   ", len(checkpoint.dataset.items), "items")
    print("left       ", len({first, last}), "checkpoints")


if __name__ == "__main__":
    main(sys.argv[1])
