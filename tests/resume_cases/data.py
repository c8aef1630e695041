"""The data of the resume matrix."""

import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_dtool import DtoolDataModule
from lightning_dtool.data.packing import pack
from resume_cases.case import Case
from resume_cases.models import Training

SAMPLES = 24


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Augmented(Dataset):
    """Samples with noise from all three global generators."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return noisy(self.x[index]), self.y[index]


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x.float() + 0.1 * torch.randn(x.shape) + 0.1 * float(np.random.randn()) + 0.1 * random.random()


class Plain(L.LightningDataModule):
    """Ordinary DataLoaders, of several kinds."""

    def __init__(self, kind: str, workers: str, batch_size: int) -> None:
        super().__init__()
        self.kind, self.batch_size = kind, batch_size
        self.workers = {"num_workers": 0 if workers == "0" else 2, "persistent_workers": workers == "persistent"}
        x = numbers(7, SAMPLES, 8)
        self.train = (x, x[:, :3].argmax(1))

    def train_dataloader(self) -> DataLoader:
        x, y = self.train
        options: dict[str, Any] = {"batch_size": self.batch_size, "shuffle": True, **self.workers}
        if self.kind == "DataLoader with generator":
            return DataLoader(TensorDataset(x, y), generator=torch.Generator().manual_seed(3), **options)
        if self.kind == "DataLoader, random augmentation":
            return DataLoader(Augmented(x, y), **options)
        if self.kind == "train_dataloader() that draws":
            chosen = torch.randperm(SAMPLES)
            return DataLoader(TensorDataset(x[chosen] + 0.1 * torch.randn(1), y[chosen]), **options)
        return DataLoader(TensorDataset(x, y), **options)

    def val_dataloader(self) -> DataLoader:
        x = numbers(8, 8, 8)
        return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=4, **self.workers)


DATA = (
    "DtoolDataModule", "DtoolDataModule, random augmentation", "DataLoader", "DataLoader with generator",
    "DataLoader, random augmentation", "train_dataloader() that draws",
)  # fmt: skip


def packed(folder: Path) -> str:
    """Return the URI of a small dataset of vectors."""
    x = numbers(7, SAMPLES + 8, 8)
    for number, row in enumerate(x):
        path = folder / "vectors" / "abc"[int(row[:3].argmax())] / f"{number:02}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, row.numpy())
    (folder / "data").mkdir()
    return pack(folder / "vectors", str(folder / "data"), "vectors", progress=False)


def data_of(case: Case, training: Training, uri: str) -> L.LightningDataModule:
    """Return the data of a case, new for each run."""
    if training.data is not None:
        return training.data()
    if not case.data.startswith("DtoolDataModule"):
        return Plain(case.data, case.workers, 4 // case.processes)
    transform = noisy if "augmentation" in case.data else None
    return DtoolDataModule(
        uri,
        batch_size=4 // case.processes,
        val_split=0.25,
        train_transform=training.transform() if training.transform else transform,
        num_workers=0 if case.workers == "0" else 2,
        persistent_workers=case.workers == "persistent",
    )
