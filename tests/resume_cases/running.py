"""A training that is not interrupted, and one that stops and resumes, compared bit for bit."""

import atexit
import contextlib
import copy
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from kit import trainer as make_trainer
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.capture.generator_states import random_states, state_digests
from lightning_dtool.errors import ProvenanceWarning
from lightning_dtool.reproduction.states import compare_states
from resume_cases.case import ANNOUNCED, SILENT, Case
from resume_cases.data import data_of, packed
from resume_cases.kinds import training_of
from resume_cases.models import EPOCHS
from resume_cases.stops import Stopped, place_of

COMMAND = Path(__file__).parents[1] / "resume_matrix.py"
BEFORE_REASONS = "may differ from an uninterrupted run: "
"""The words before the reasons, in the warning of a resume that is not exact."""

_UNSTOPPED: dict[tuple[Any, ...], list[dict[str, Any]]] = {}


@contextlib.contextmanager
def _noting_warnings(file: Path) -> Iterator[None]:
    """Append the warnings of this process, and of those that it forks, to a file."""

    def note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, ProvenanceWarning):
            with open(file, "a", encoding="utf-8") as written:
                written.write(json.dumps(str(message)) + "\n")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield


def _reasons(file: Path) -> list[str]:
    """Return the reasons in the warnings of a resumed run."""
    texts = list(map(json.loads, file.read_text(encoding="utf-8").splitlines())) if file.exists() else []
    return [text.partition(BEFORE_REASONS)[2].rstrip(".") for text in texts if BEFORE_REASONS in text]


class Collect(Callback):
    """Writes the results of a run to a file on each rank, since DDP trains in other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.epochs = folder, {}

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._note(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._note(trainer)
        loader = trainer.fit_loop._combined_loader.flattened[0]
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        # Which files a run has saved depends on where it stops.
        policies = {callback.state_key for callback in trainer.checkpoint_callbacks}
        callbacks = {key: state for key, state in checkpoint["callbacks"].items() if key not in policies}
        state = {
            # Lightning saves that of rank 0.
            "checkpoint": {**checkpoint, "callbacks": callbacks} if trainer.global_rank == 0 else {},
            "weights": copy.deepcopy(module.state_dict()),
            "random states": state_digests(random_states()),
            "metrics": self.epochs,
            "order": dict(getattr(loader, "order_digests", {})) if trainer.global_rank == 0 else {},
        }
        torch.save(state, self.folder / f"rank{trainer.global_rank}.pt")

    def _note(self, trainer: L.Trainer) -> None:
        # Called at the start of the next epoch, when all values of an epoch have been logged.
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs[trainer.current_epoch] = metrics


def train(case: Case, folder: Path, uri: str, stop: bool, ckpt: str | None = None, seed: int = 11) -> None:
    """Train in a folder. Raises the exception that stops the training."""
    folder.mkdir(exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    if _needs_own_processes(case) and "RANK" not in os.environ:
        _launch(case, folder, uri, stop, ckpt, seed)
        return
    training = training_of(case.model)
    if training.begin is not None:
        training.begin()
    # A run that resumes begins with other random numbers, as in another process, unless it is the same script.
    L.seed_everything(seed if ckpt is None or training.same_seed else seed + 1000, verbose=False)
    module, settings, place = training.module(), training.settings(), place_of(case.where, training)
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all", background=False)
    stops = [place.stop()] if stop and place.stop is not None else []
    callbacks = [*settings.pop("callbacks", []), Collect(folder), provenance, *stops, place.checkpoint(folder)]
    distributed = {"devices": 2, "strategy": "ddp" if _needs_own_processes(case) else "ddp_fork"}
    if case.processes == 1:
        distributed = {}
    options = {"max_epochs": EPOCHS, "num_sanity_val_steps": 1, **place.trainer, **settings, **distributed}
    if stop:
        options |= place.until
    data = data_of(case, training, uri)
    if ckpt is not None and not training.same_seed:
        torch.rand(5), random.random(), np.random.rand()
    make_trainer(folder, *callbacks, **options).fit(module, data, ckpt_path=ckpt)


def _needs_own_processes(case: Case) -> bool:
    """Return True for cases that end processes: those of `ddp_fork` end each other, or their parent waits forever."""
    return case.processes > 1 and case.where.startswith(("SIGTERM", "on exception"))


def _launch(case: Case, folder: Path, uri: str, stop: bool, ckpt: str | None, seed: int) -> None:
    """Train in processes that are started like those of torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = json.dumps([asdict(case), str(folder), uri, stop, ckpt, seed])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "matrix",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, str(COMMAND), "--child", arguments],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = []
    for rank in ranks:
        try:
            outputs.append(rank.communicate(timeout=180)[1])
        except subprocess.TimeoutExpired:
            rank.kill()
            outputs.append(rank.communicate()[1])
    for text in outputs:
        for line in text.splitlines():
            if BEFORE_REASONS in line:
                warnings.warn(line, ProvenanceWarning, stacklevel=2)
    if not stop and not (folder / "rank0.pt").exists():
        raise AssertionError(f"training failed: {outputs[0][-1000:]}")
    if stop:
        raise Stopped


def latest(folder: Path) -> str | None:
    """Return the URI of the last checkpoint, or None."""
    from lightning_dtool.store import iter_datasets

    found = sorted(iter_datasets(str(folder / "models")), key=lambda dataset: dataset.frozen_at)
    return found[-1].uri if found else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    term = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, term)


@cache
def _vectors() -> str:
    """Return the URI of the data, which the runs of this process share."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return packed(Path(folder))


def run(case: Case, folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of what differs after a stop, and the reasons in the warnings of the resumed run.

    Args:
        case: The case.
        folder: An empty folder.
    """
    uri = _vectors()
    with _quiet():
        expected = unstopped(case, folder / "whole", uri)
        try:
            train(case, folder / "stopped", uri, stop=True)
        except (Stopped, SystemExit):
            pass
        except Exception as error:  # DDP wraps the exception of a process
            if "Stopped" not in str(error) and "SIGTERM" not in repr(error):
                raise
        else:
            if not place_of(case.where, training_of(case.model)).ends_by_itself:
                raise AssertionError(f"{case.name}: training was not stopped")
    ckpt = latest(folder / "stopped")
    if ckpt is None:
        return ["no checkpoint"], ["the processes of DDP end each other before a checkpoint is saved"]
    with _quiet(), _noting_warnings(folder / "warnings"):
        try:
            train(case, folder / "resumed", uri, stop=False, ckpt=ckpt)
        except Exception as error:
            reasons = _reasons(folder / "warnings")
            if not reasons:
                raise
            return [f"{type(error).__name__} in the resumed run"], reasons
    reasons = _reasons(folder / "warnings")
    differing: list[str] = []
    for whole, resumed in zip(expected, _states(case, folder / "resumed"), strict=True):
        differing += [each.part for each in compare_states(whole["checkpoint"], resumed["checkpoint"])]
        for what in ("weights", "random states", "metrics", "order"):
            one, two = whole[what], resumed[what]
            if what == "metrics":  # a resumed run has those of its own epochs
                one = {epoch: metrics for epoch, metrics in one.items() if epoch in two}
            if not same(one, two):
                differing.append(what)
    return list(dict.fromkeys(differing)), reasons


def unstopped(case: Case, folder: Path, uri: str) -> list[dict[str, Any]]:
    """Return the results of an uninterrupted training on each rank. Cases that differ only in the stop share them."""
    options = place_of(case.where, training_of(case.model)).trainer
    key = (replace(case, where=""), _needs_own_processes(case), *options.items())
    if key not in _UNSTOPPED:
        train(case, folder, uri, stop=False)
        _UNSTOPPED[key] = _states(case, folder)
    return _UNSTOPPED[key]


def _states(case: Case, folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(case.processes)]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return (a == b) or (a != a and b != b)


def judge(case: Case) -> dict[str, Any]:
    """Run a case and return its row of the table."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        try:
            differing, reasons = run(case, Path(folder))
        except Exception as error:
            found = f"{type(error).__name__}: {str(error)[-300:]}"
            return {**asdict(case), "verdict": "failed", "differing": [found], "reasons": []}
    verdict = "equal" if not differing else ANNOUNCED if reasons else SILENT
    return {**asdict(case), "verdict": verdict, "differing": differing, "reasons": reasons}
