"""A training without interruption, and the same one resumed from one of its checkpoints, compared bit for bit."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from kit import same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback, pack
from lightning_dtool.errors import ProvenanceWarning


@dataclass
class Resumed:
    """The two trainings.

    Attributes:
        whole: The module that was trained without interruption.
        rest: The module of the resumed run.
        reasons: The warnings of the resumed run that it may differ.
        gaps: The reasons in the record of the checkpoint, which are the gap `checkpoint.resume`.
        trainers: The two Trainers.
    """

    whole: L.LightningModule
    rest: L.LightningModule
    reasons: list[str]
    gaps: list[str]
    trainers: tuple[L.Trainer, L.Trainer]

    @property
    def equal(self) -> bool:
        optimizers = [[optimizer.state_dict() for optimizer in t.optimizers] for t in self.trainers]
        return same(weights(self.whole), weights(self.rest)) and str(optimizers[0]) == str(optimizers[1])


def vectors(folder: Path, samples: int = 24) -> str:
    """Pack a dataset of vectors with two classes, and return its URI."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    (folder / "data").mkdir()
    np.save(raw / "data.npy", np.random.default_rng(0).normal(size=(samples, 8)).astype("float32"))
    np.save(raw / "labels.npy", np.arange(samples) % 3)
    return pack(raw, str(folder / "data"), "vectors", progress=False)


def fit(
    folder: Path,
    module: Callable[[], L.LightningModule],
    data: Callable[[], Any],
    callbacks: Callable[[], Sequence[Callback]] = list,
    when: dict[str, Any] | None = None,
    ckpt: str | None = None,
    seed: int = 1,
    **options: Any,
) -> tuple[L.LightningModule, L.Trainer, DtoolProvenanceCallback]:
    """Train new objects. The data is a function that returns a DataModule, or the loaders."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    L.seed_everything(1, verbose=False)  # modules begin with the same weights, as a script would make them
    net, source = module(), data()
    L.seed_everything(seed, verbose=False)
    policy = ModelCheckpoint(folder / "ckpt", "{epoch}-{step}", save_top_k=-1, **(when or {}))
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all", background=False)
    t = trainer(folder, *callbacks(), policy, provenance, **{"max_epochs": 3, **options})
    loaders = source if isinstance(source, tuple) else (source,)
    t.fit(net, *loaders, ckpt_path=ckpt)
    return net, t, provenance


def at_step(provenance: DtoolProvenanceCallback, step: int) -> DtoolCheckpoint:
    """Return the checkpoint of a run that was saved at a step."""
    found = [DtoolCheckpoint.from_uri(uri) for uri in provenance.uris]
    return next(each for each in found if each.record.checkpoint.global_step == step)


def resumed(
    folder: Path, module: Any, data: Any, step: int, longer: dict[str, Any] | None = None, **how: Any
) -> Resumed:
    """Train, and train again from the checkpoint that was saved at a step.

    Args:
        folder: An empty folder.
        module: Returns a new module.
        data: Returns new data.
        step: The step of the checkpoint.
        longer: The options of the uninterrupted and the resumed run, if the stopped one had others.
        **how: For `fit`.
    """
    whole, one, provenance = fit(folder / "whole", module, data, **{**how, **(longer or {})})
    if longer is not None:
        _, _, provenance = fit(folder / "stopped", module, data, **how)
    checkpoint = at_step(provenance, step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rest, two, _ = fit(folder / "rest", module, data, ckpt=checkpoint.uri, seed=2, **{**how, **(longer or {})})
    texts = [str(each.message) for each in caught if issubclass(each.category, ProvenanceWarning)]
    reasons = [text for text in texts if "may differ from an uninterrupted run" in text]
    gaps = [gap.reason for gap in checkpoint.record.gaps if gap.fact == "checkpoint.resume"]
    return Resumed(whole, rest, reasons, gaps, (one, two))


def assert_exact(found: Resumed) -> None:
    """Check that the resumed run equals the uninterrupted one, and that nobody doubts it."""
    assert found.equal
    assert (found.reasons, found.gaps) == ([], []), (found.reasons, found.gaps)


def dtool(uri: str, **options: Any) -> Callable[[], DtoolDataModule]:
    """Return a function that returns a new DtoolDataModule."""
    return lambda: DtoolDataModule(uri, **{"batch_size": 4, **options})


def state_of(uri: str) -> Any:
    """Return the Lightning checkpoint in a dataset."""
    return torch.load(DtoolCheckpoint.from_uri(uri).path, weights_only=True)
