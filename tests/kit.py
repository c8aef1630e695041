"""Small models, data and Trainers for the tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_dtool.items import CHECKPOINT_ITEM, CHECKPOINT_TAG, RECORD_ITEM
from lightning_dtool.store import DatasetWriter, Item
from lightning_dtool.store.verification import Recorded


class TinyNet(L.LightningModule):
    """A classifier with dropout, whose training depends on random numbers."""

    def __init__(self, lr: float = 0.05, hidden: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, hidden), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(hidden, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", torch.nn.functional.cross_entropy(self(x), y))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("test_loss", torch.nn.functional.cross_entropy(self(x), y))
        self.log("test_acc", (self(x).argmax(-1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


class ImageNet(TinyNet):
    """A classifier of two classes of images with 3 channels and 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))


def loader(samples: int = 48, batch_size: int = 8, shuffle: bool = False, workers: int = 0) -> DataLoader:
    """Return a loader whose content depends on its arguments alone."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, 8, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=batch_size, shuffle=shuffle, num_workers=workers)


def batches_of(loader: DataLoader) -> list[Any]:
    """Return all batches. If one raises, the workers end at once.

    torch ends them when the iterator is collected. It then waits for ten seconds.
    """
    iterator = iter(loader)
    try:
        return list(iterator)
    finally:
        if loader.num_workers:
            iterator._shutdown_workers()


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """Return a Trainer that prints nothing and writes below a folder."""
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return L.Trainer(**{**settings, **options})


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a module's weights."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Return True if two sets of weights are bitwise equal."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the identifier of each item is added whose content is compared from now on."""
    compared: list[str] = []
    is_same, difference = Recorded.is_same, Recorded.difference

    def quickly(self: Recorded, content: bytes, identifier: str, recorded: str) -> bool:
        found = is_same(self, content, identifier, recorded)
        if found:  # if not, it is compared again
            compared.append(identifier)
        return found

    def thoroughly(self: Recorded, content: Path | bytes, item: Item) -> str | None:
        compared.append(item.identifier)
        return difference(self, content, item)

    monkeypatch.setattr(Recorded, "is_same", quickly)
    monkeypatch.setattr(Recorded, "difference", thoroughly)
    return compared


def checkpoint_dataset(
    base_uri: str, record: object, name: str = "made", *, items: Mapping[str, bytes] | None = None, **annotations: Any
) -> str:
    """Write a dataset with the items of a checkpoint and further named items, and return its URI."""
    content = {CHECKPOINT_ITEM: b"weights", RECORD_ITEM: json.dumps(record).encode(), **(items or {})}
    with DatasetWriter(name, base_uri, creator_username="tester") as writer:
        for relpath, data in content.items():
            writer.put_bytes(data, relpath)
        for key, value in annotations.items():
            writer.put_annotation(key, value)
        writer.put_tag(CHECKPOINT_TAG)
        return writer.commit().uri
