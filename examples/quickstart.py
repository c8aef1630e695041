"""Training on a dtool dataset, and loading the checkpoint by its URI.

    python examples/quickstart.py [FOLDER]

This example writes scikit-learn's 1,797 handwritten digits as image files in class folders, and packs them into a
frozen dataset. It trains a small network, whose checkpoints are published as datasets with a record. It then loads the
best checkpoint by its URI. All output goes into FOLDER (default: quickstart).
"""

import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torchmetrics import Accuracy

from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback, pack


class DigitNet(L.LightningModule):
    """An ordinary LightningModule with two convolutions and a linear layer."""

    def __init__(self, channels: int = 16, dropout: float = 0.2, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * channels * 4 * 4, 10),
        )  # fmt: skip
        self.accuracy = Accuracy(task="multiclass", num_classes=10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.measure("val_accuracy", batch)

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.measure("test_accuracy", batch)

    def measure(self, name: str, batch: list[torch.Tensor]) -> None:
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log(name, self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def write_digits(folder: Path) -> None:
    """Write each digit as a small grey PNG file into the folder of its class: 0/0000.png, 1/0001.png and so on."""
    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(digit) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype("uint8")).save(path)


def main(folder: Path) -> None:
    datasets, models = folder / "datasets", folder / "models"
    for directory in (datasets, models):
        directory.mkdir(parents=True, exist_ok=True)

    # 1. Pack the class folders into a frozen dataset. The overlay `category` holds the class of each item.
    if not (datasets / "digits").exists():
        write_digits(folder / "images")
        pack(folder / "images", datasets, name="digits")

    # 2. Train. Only the DataModule and the callback come from lightning_dtool.
    L.seed_everything(1, workers=True)
    data = DtoolDataModule(datasets / "digits", batch_size=64, val_split=0.2, test_split=0.2, stratify=True)
    provenance = DtoolProvenanceCallback(models)
    best = ModelCheckpoint(monitor="val_accuracy", mode="max")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=8, accelerator="cpu", callbacks=[best, provenance], default_root_dir=folder, **quiet)
    trainer.fit(DigitNet(), data)
    trained = trainer.test(DigitNet(), data, ckpt_path="best", verbose=False)

    # 3. Show the record of the best checkpoint.
    checkpoint = DtoolCheckpoint.from_uri(provenance.best_uri)
    checkpoint.dataset.put_annotation("test_metrics", trained[0])  # the record never changes, annotations can be added
    show(checkpoint)

    # 4. Load the model by its URI, and test it again.
    reloaded = trainer.test(checkpoint.load_module(), data, verbose=False)
    print(f"\ntest accuracy after training  {trained[0]['test_accuracy']}")
    print(f"test accuracy from the URI    {reloaded[0]['test_accuracy']}")
    if reloaded != trained:
        sys.exit("The reloaded model is not the trained one.")


def show(checkpoint: DtoolCheckpoint) -> None:
    """Print some facts of the record; `lightning-dtool show URI` prints all of it."""
    record = checkpoint.record
    [optimizer] = record.optimizers
    [train] = record.data.stages["train"]
    facts = {
        "checkpoint": checkpoint.uri,
        "model": f"{record.model.class_path}, {record.model.parameters_total} parameters",
        "hyperparameters": record.model.hyperparameters,
        "optimizer": f"{optimizer.class_path}, lr {optimizer.param_groups[0].options['lr']}",
        "training data": f"{train.dataset.name}, {train.count} items, UUID {train.dataset.uuid}",
        "content": train.dataset.content_digest,
        "seed": record.randomness.global_seed,
        "git commit": record.code.git.commit if record.code.git else None,
        "versions": ", ".join(f"{name} {record.environment.versions[name]}" for name in ("lightning", "torch")),
        "metrics": record.metrics.at_checkpoint,
        "gaps": [gap.fact for gap in record.gaps] or "no gaps",
    }
    print()
    for name, value in facts.items():
        print(f"{name:16}{value}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
