"""`python -m benchmarks bytes|capture`: what the callback costs."""

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import capture
from lightning_dtool import DtoolProvenanceCallback

WIDTH = 64


class Wide(L.LightningModule):
    """A model of a wanted size that is cheap to train: plain SGD has no state of its own."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, megabytes * 2**20 // (4 * (WIDTH + 1)))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return something to learn."""
        return self.layer(batch[0]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TimedCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that knows how long training stood still for each save."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds: list[float] = []

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        start = time.perf_counter()
        super()._save_checkpoint(trainer, filepath)
        self.seconds.append(time.perf_counter() - start)


def bytes_on_disk(folder: Path) -> int:
    """Return what the files below a folder take; a link counts as a link."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def train(folder: Path, megabytes: int, saves: int, extra: Sequence[Callback]) -> tuple[int, list[float]]:
    """Train with a save after every epoch, all kept.

    Returns:
        Bytes on disk at the end, and for how long each save stopped training.
    """
    checkpoints = TimedCheckpoint(dirpath=folder / "checkpoints", save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=saves, accelerator="cpu", callbacks=[checkpoints, *extra], **quiet)
    trainer.fit(Wide(megabytes), DataLoader(TensorDataset(torch.ones(4096, WIDTH)), batch_size=64))
    return bytes_on_disk(folder), checkpoints.seconds


def main() -> None:
    """Run the benchmark that the command line names, and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=["bytes", "capture"])
    parser.add_argument("--megabytes", type=int, default=10, help="size of the model's weights (default: 10)")
    parser.add_argument("--saves", type=int, default=5, help="checkpoints, one per epoch (default: 5)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.benchmark == "capture":
        capture.run(Wide(1), DataLoader(TensorDataset(torch.ones(64, WIDTH)), batch_size=8))
        return
    figures = {}
    for name in ("without", "with"):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "models").mkdir()
            extra = [DtoolProvenanceCallback(f"{folder}/models")] if name == "with" else []
            figures[name] = train(Path(folder), arguments.megabytes, arguments.saves, extra)
    for name, (size, seconds) in figures.items():
        slowest, median = max(seconds), sorted(seconds)[len(seconds) // 2]
        print(f"{name:8} {size:>12,} bytes on disk; blocked per save: median {median:.4f} s, longest {slowest:.4f} s")
    print(f"ratio    {figures['with'][0] / figures['without'][0]:.4f}")


if __name__ == "__main__":
    main()
