"""Benchmarks of loading a model from its checkpoint."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from benchmarks.measuring import Bar, Comparison, Settings, interleaved
from benchmarks.training import Wide, batches, quiet_trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback, checkpoint

PLAIN = "load_from_checkpoint of the plain file"
FIRST = "from_uri and load_module, first time in a process"
AGAIN = "from_uri and load_module, again"
UNVERIFIED = "only torch.load of the plain file"


def run(settings: Settings) -> Iterator[Comparison]:
    """Compare ways to load a model from a checkpoint in the page cache that includes Adam's states."""
    for shown, megabytes in {"1 MB": 1}.items() if settings.short else {"100 MB": 100, "1 GB": 1024}.items():
        yield _compare(settings, shown, megabytes)
    if not settings.short:
        yield _import_time()


def _compare(settings: Settings, shown: str, megabytes: int) -> Comparison:
    folder = settings.folder / shown.replace(" ", "")
    (folder / "models").mkdir(parents=True)
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    policy = ModelCheckpoint(dirpath=folder / "checkpoints")
    quiet_trainer(folder, [policy, provenance], max_epochs=1).fit(Wide(megabytes), batches(2))
    uri, file = str(provenance.last_uri), folder / "plain.ckpt"
    file.write_bytes(Path(policy.best_model_path).read_bytes())

    def plain() -> float:
        begun = time.perf_counter()
        Wide.load_from_checkpoint(file, weights_only=True)
        return time.perf_counter() - begun

    def read() -> float:
        begun = time.perf_counter()
        torch.load(file, weights_only=True)
        return time.perf_counter() - begun

    def ours(forget: bool) -> float:
        if forget:
            checkpoint._verified.clear()
        begun = time.perf_counter()
        DtoolCheckpoint.from_uri(uri).load_module(Wide)
        return time.perf_counter() - begun

    cases = {PLAIN: plain, UNVERIFIED: read, FIRST: lambda: ours(forget=True), AGAIN: lambda: ours(forget=False)}
    return Comparison(
        f"Loading a model from a checkpoint of {shown}, of which a third is weights and the rest Adam's states",
        "s",
        interleaved(cases, 1 if settings.short else 7),
        PLAIN,
        [Bar(FIRST, 1.2), Bar(AGAIN, 0.6)],
        ["from_uri and load_module verify the checkpoint: they hash the whole file the first time."],
    )


def _import_time() -> Comparison:
    def timed(statement: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - begun

    cases = {
        "import lightning.pytorch": lambda: timed("import lightning.pytorch"),
        "import lightning.pytorch and DtoolProvenanceCallback": lambda: timed(
            "import lightning.pytorch; from lightning_dtool import DtoolProvenanceCallback"
        ),
    }
    figures = interleaved(cases, 5)
    return Comparison("Importing in a new process", "s", figures, "import lightning.pytorch")
