"""What observing costs: once when fitting begins, and at every step."""

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_dtool import DtoolProvenanceCallback

FILES = 200
LINES = 120
STEPS = 20_000


class Timed(DtoolProvenanceCallback):
    """Knows how long its hooks at the start of a fit take."""

    start = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time the observation of random states and weights."""
        begun = time.perf_counter()
        super().on_fit_start(trainer, pl_module)
        self.start = time.perf_counter() - begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time the observation of everything else."""
        begun = time.perf_counter()
        super().on_train_start(trainer, pl_module)
        self.start += time.perf_counter() - begun


def project(folder: Path) -> None:
    """Make a project of many modules in a git repository, import all of it, and be its main program."""
    package = folder / "leaves"
    package.mkdir()
    body = "\n".join(f"def f{number}(x):\n    return x + {number}\n" for number in range(LINES // 3))
    for number in range(FILES):
        (package / f"part{number}.py").write_text(f"import os\n\n{body}")
    (folder / "train.py").write_text("import leaves\n")
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "leaves"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    sys.path.insert(0, str(folder))
    for number in range(FILES):
        importlib.import_module(f"leaves.part{number}")
    sys.modules["__main__"].__file__ = str(folder / "train.py")
    os.chdir(folder)


def hooks(callback: DtoolProvenanceCallback, trainer: L.Trainer) -> float:
    """Return what our own hooks of one step cost, in seconds."""
    unused: Any = None
    optimizer = trainer.optimizers[0]
    begun = time.perf_counter()
    for _ in range(STEPS):
        callback.on_train_batch_start(trainer, unused, unused, 0)
        callback.on_before_backward(trainer, unused, unused)
        callback.on_before_optimizer_step(trainer, unused, optimizer)
        callback.on_train_batch_end(trainer, unused, unused, unused, 0)
    return (time.perf_counter() - begun) / STEPS


def run(module: L.LightningModule, data: Any, repeats: int = 5) -> None:
    """Print the costs."""
    torch.set_num_threads(1)
    starts, steps = [], []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "models").mkdir()
        (folder / "project").mkdir()
        project(folder / "project")
        for number in range(repeats):
            callback = Timed(str(folder / "models"))
            trainer = L.Trainer(
                max_epochs=1,
                accelerator="cpu",
                callbacks=[callback],
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder / str(number),
            )
            trainer.fit(module, data)
            starts.append(callback.start)
            steps.append(hooks(callback, trainer))
        os.chdir("/")
    first, median = 1e3 * starts[0], 1e3 * statistics.median(starts)
    print(f"fit start, {FILES} files in git: first {first:.0f} ms, median {median:.0f} ms")
    print(f"our own hooks of a step: median {1e6 * statistics.median(steps):.2f} us")
