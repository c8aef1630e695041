"""The resume matrix: uninterrupted runs compared bit for bit with runs that were stopped and resumed.

Each case is a training without interruption, and one that is stopped where the case says and resumed from the dataset
of its checkpoint, with new objects and other random numbers, as in a new process. Weights, optimizer and scheduler
states, metrics, random states and the order of samples are compared.

    python tests/resume_matrix.py                                # run all: half an hour
    python tests/resume_matrix.py --only "inside an epoch"       # run some
    python tests/resume_matrix.py --write docs/resume/newest.json
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from kit import trainer as make_trainer
from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback
from lightning_dtool.capture.randomness import random_states, state_digests
from lightning_dtool.data.packing import pack
from lightning_dtool.errors import ProvenanceWarning

SAMPLES, EPOCHS, BATCHES = 24, 4, 6
BEFORE_REASONS = "may differ from an uninterrupted run: "
"""The words before the reasons, in the warning of a resume that is not exact."""

ANNOUNCED = "different, announced"
"""The verdict on a resume that is not exact and gives a warning with the reason."""


@dataclass(frozen=True)
class Case:
    """One row of the matrix.

    Attributes:
        where: Where training stops, a key of `STOPS`.
        data: The kind of data, one of `DATA`.
        model: The model and its Trainer settings, a key of `MODELS`.
        workers: `0`, `2`, or `persistent` (2).
        processes: 1, or 2 for DDP with gloo.
    """

    where: str
    data: str = "DtoolDataModule"
    model: str = "dropout and batch norm"
    workers: str = "0"
    processes: int = 1

    @property
    def name(self) -> str:
        parts = [self.where, self.data, self.model, f"workers {self.workers}"]
        return ", ".join([*parts, "DDP of 2"] if self.processes > 1 else parts)


# -- models -----------------------------------------------------------------------------------------


class Net(L.LightningModule):
    """A model with dropout, batch norm, and metrics logged per step and per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.accuracy = MulticlassAccuracy(3)
        self.val_accuracy = MulticlassAccuracy(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.flatten(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        out = self(x)
        loss = functional.cross_entropy(out, y)
        self.accuracy(out, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        self.log("train_acc", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        out = self(x) + torch.rand(1, device=x.device) * 1e-3  # validation also draws random numbers
        self.val_accuracy(out, y)
        self.log("val_loss", functional.cross_entropy(out, y), sync_dist=True)
        self.log("val_acc", self.val_accuracy)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


class OneCycle(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=EPOCHS * BATCHES + 4)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class Plateau(Net):
    monitor, interval = "train_loss_epoch", "epoch"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
        scheduler = {"scheduler": plateau, "monitor": self.monitor, "interval": self.interval, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class PlateauByStep(Plateau):
    monitor, interval = "train_loss_step", "step"


class PlateauOnValidation(Plateau):
    monitor = "val_loss"


class Gan(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 8)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        one, two = self.optimizers()  # type: ignore[misc]
        fake = self.generator(torch.randn(len(x), 4))
        loss = functional.cross_entropy(self(fake), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        one.zero_grad()
        self.manual_backward(loss)
        one.step()
        two.zero_grad()
        self.manual_backward(functional.cross_entropy(self(x), y) - 0.1 * self(fake.detach()).std())
        two.step()

    def configure_optimizers(self) -> Any:
        layers = torch.optim.Adam(self.layers.parameters(), lr=0.01)
        return [torch.optim.Adam(self.generator.parameters(), lr=0.01), layers]


class Lbfgs(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


def _ema() -> dict[str, Any]:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    return {"callbacks": [EMAWeightAveraging(decay=0.9)]}


MODELS: dict[str, tuple[type[Net], Callable[[], dict[str, Any]]]] = {
    "dropout and batch norm": (Net, dict),
    "OneCycleLR": (OneCycle, dict),
    "ReduceLROnPlateau": (Plateau, dict),
    "ReduceLROnPlateau on validation": (PlateauOnValidation, dict),
    "ReduceLROnPlateau by step": (PlateauByStep, dict),
    "EarlyStopping": (Net, lambda: {"callbacks": [EarlyStopping("val_loss", patience=9, strict=False)]}),
    "SWA": (Net, lambda: {"callbacks": [StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)]}),
    "EMA weight averaging": (Net, _ema),
    "gradient accumulation": (Net, lambda: {"accumulate_grad_batches": 2}),
    "GAN with two optimizers": (Gan, dict),
    "LBFGS": (Lbfgs, dict),
    "bf16": (Net, lambda: {"precision": "bf16-mixed"}),
    "max_steps": (Net, lambda: {"max_steps": EPOCHS * BATCHES, "max_epochs": -1}),
}


# -- data -------------------------------------------------------------------------------------------


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


def data_of(case: Case, uri: str) -> L.LightningDataModule:
    if not case.data.startswith("DtoolDataModule"):
        return Plain(case.data, case.workers, 4 // case.processes)
    return DtoolDataModule(
        uri,
        batch_size=4 // case.processes,
        val_split=0.25,
        train_transform=noisy if "augmentation" in case.data else None,
        num_workers=0 if case.workers == "0" else 2,
        persistent_workers=case.workers == "persistent",
    )


# -- stops --------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Raised where a case stops its training."""


class StopAfterSave(Callback):
    """Stops a training after the checkpoint of the case is saved."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        self.epoch, self.batch, self.saved = epoch, batch, False

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch and self.batch in (None, trainer.fit_loop.batch_idx):
            self.saved = True

    def _stop(self, *_: Any) -> None:
        if self.saved:
            raise Stopped

    on_train_batch_start = on_train_epoch_start = on_validation_start = on_train_epoch_end = on_train_end = _stop


class Raise(Callback):
    """Ends a training with an exception or a signal."""

    def __init__(self, hook: str, epoch: int, batch: int, by_signal: bool = False) -> None:
        self.epoch, self.batch, self.by_signal = epoch, batch, by_signal
        setattr(self, hook, self._raise)

    def _raise(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.sanity_checking or trainer.current_epoch != self.epoch or trainer.fit_loop.batch_idx != self.batch:
            return
        if self.by_signal:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            raise Stopped


Policy = Callable[[Path], tuple[list[Callback], dict[str, Any]]]


def _policy(options: dict[str, Any], *stops: Callable[[], Callback], **trainer: Any) -> Policy:
    return lambda folder: (
        [
            *(stop() for stop in stops),
            ModelCheckpoint(folder / "checkpoints", save_top_k=-1, filename="{epoch}-{step}", **options),
        ],
        trainer,
    )


def _exceptional(*stops: Callable[[], Callback]) -> Policy:
    return _policy({"save_on_exception": True, "every_n_epochs": 100}, *stops)


STOPS: dict[str, Policy] = {
    "end of epoch": _policy({"save_on_train_epoch_end": True}, lambda: StopAfterSave(1)),
    "end of epoch, no validation": _policy({}, lambda: StopAfterSave(1), limit_val_batches=0),
    "end of validation": _policy({"save_on_train_epoch_end": False}, lambda: StopAfterSave(1)),
    "check_val_every_n_epoch=2": _policy({}, lambda: StopAfterSave(1), check_val_every_n_epoch=2),
    "end of epoch, check_val_every_n_epoch=2": _policy(
        {"save_on_train_epoch_end": True}, lambda: StopAfterSave(2), check_val_every_n_epoch=2
    ),
    "val_check_interval=0.5, mid-epoch": _policy({}, lambda: StopAfterSave(1, 2), val_check_interval=0.5),
    "val_check_interval=0.5, end": _policy({}, lambda: StopAfterSave(1, 5), val_check_interval=0.5),
    # With accumulation or two optimizers a batch is half a step or two steps. These numbers fit the batch in each case.
    "inside an epoch": _policy({"every_n_train_steps": 5}, lambda: StopAfterSave(1, 3)),
    "inside an epoch, validation due": _policy(
        {"every_n_train_steps": 9}, lambda: StopAfterSave(1, 2), val_check_interval=0.5
    ),
    "at the last batch": _policy({"every_n_train_steps": 6}, lambda: StopAfterSave(1, 5)),
    "on exception in a hook": _exceptional(lambda: Raise("on_train_batch_end", 1, 3)),
    "on exception in a batch": _exceptional(lambda: Raise("on_before_backward", 1, 3)),
    "on exception before a batch": _exceptional(lambda: Raise("on_train_batch_start", 1, 3)),
    "on exception in validation": _exceptional(lambda: Raise("on_validation_batch_start", 1, 5)),
    "SIGTERM": _exceptional(lambda: Raise("on_train_batch_start", 1, 3, by_signal=True)),
    "SIGTERM at the end of an epoch": _exceptional(lambda: Raise("on_train_batch_start", 1, 5, by_signal=True)),
}


# -- a run ----------------------------------------------------------------------------------------------


_CAUGHT: list[warnings.WarningMessage] = []
_UNSTOPPED: dict[tuple[Any, ...], list[dict[str, Any]]] = {}


def reasons_given() -> list[str]:
    """Return the reasons in the warnings of a resumed run."""
    texts = [str(each.message) for each in _CAUGHT if issubclass(each.category, ProvenanceWarning)]
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
        state = {
            "weights": {name: value.clone() for name, value in module.state_dict().items()},
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "random states": state_digests(random_states()),
            "metrics": self.epochs,
            "global step": trainer.global_step,
            "order": dict(getattr(loader, "order_digests", {})) if trainer.global_rank == 0 else {},
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(reasons_given()))
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
    L.seed_everything(seed, verbose=False)
    kind, options = MODELS[case.model]
    settings = options()
    callbacks, extra = STOPS[case.where](folder)
    if not stop:
        callbacks = [callback for callback in callbacks if not isinstance(callback, StopAfterSave | Raise)]
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all", background=False)
    callbacks = [*settings.pop("callbacks", []), Collect(folder), provenance, *callbacks]
    distributed = {"devices": 2, "strategy": "ddp" if _needs_own_processes(case) else "ddp_fork"}
    if case.processes == 1:
        distributed = {}
    trainer = make_trainer(
        folder, *callbacks, **{"max_epochs": EPOCHS, "num_sanity_val_steps": 1, **extra, **settings, **distributed}
    )
    module = kind()
    if ckpt is not None:  # other random numbers, as in another process
        L.seed_everything(seed + 1000, verbose=False)
        module = kind()
        torch.rand(5), random.random(), np.random.rand()
    trainer.fit(module, data_of(case, uri), ckpt_path=ckpt)


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
            [sys.executable, __file__, "--child", arguments],
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


def run(case: Case, folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of what differs after a stop, and the reasons in the warnings of the resumed run.

    Args:
        case: The case.
        folder: An empty folder.
    """
    uri = packed(folder)
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
            raise AssertionError(f"{case.name}: training was not stopped")
    ckpt = latest(folder / "stopped")
    if ckpt is None:
        return ["no checkpoint"], ["the processes of DDP end each other before a checkpoint is saved"]
    global _CAUGHT
    with _quiet(), warnings.catch_warnings(record=True) as _CAUGHT:
        warnings.simplefilter("always")
        train(case, folder / "resumed", uri, stop=False, ckpt=ckpt)
        # `ddp_fork` trains, and warns, in other processes.
        reasons = reasons_given() or json.loads((folder / "resumed" / "rank0.json").read_text())
    differing = []
    for whole, resumed in zip(expected, _states(case, folder / "resumed"), strict=True):
        for what in whole:
            one, two = whole[what], resumed[what]
            if what == "metrics":  # a resumed run has those of its own epochs
                one = {epoch: metrics for epoch, metrics in one.items() if epoch in two}
            if not same(one, two) and what not in differing:
                differing.append(what)
    return differing, reasons


def unstopped(case: Case, folder: Path, uri: str) -> list[dict[str, Any]]:
    """Return the results of an uninterrupted training on each rank. Cases that differ only in the stop share them."""
    _, options = STOPS[case.where](folder)
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


def cases() -> list[Case]:
    """Return every row of the table."""
    rows = [Case(where, data) for where in STOPS for data in DATA]
    some = ("end of epoch", "end of validation", "val_check_interval=0.5, mid-epoch", "inside an epoch", "SIGTERM")
    rows += [Case(where, data, workers=workers) for workers in ("2", "persistent") for where in some for data in DATA]
    rows += [Case(where, model=model) for model in MODELS for where in STOPS if model != "dropout and batch norm"]
    rows += [Case(where, data, processes=2) for where in STOPS for data in ("DtoolDataModule", "DataLoader")]
    augmented = "DtoolDataModule, random augmentation"
    rows += [Case(where, augmented, workers="2", processes=2) for where in some]
    return [row for row in dict.fromkeys(rows) if _makes_sense(row)]


def _makes_sense(case: Case) -> bool:
    if case.model == "ReduceLROnPlateau on validation":
        return "no validation" not in case.where
    if case.model == "EarlyStopping":
        return "no validation" not in case.where
    if case.model == "gradient accumulation":  # no checkpoint is saved at a batch without an optimizer step
        return "validation due" not in case.where
    if case.model == "EMA weight averaging":
        import lightning.pytorch.callbacks as callbacks

        return hasattr(callbacks, "EMAWeightAveraging")
    return True


def judge(case: Case) -> dict[str, Any]:
    """Run a case and return its row of the table."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        try:
            differing, reasons = run(case, Path(folder))
        except Exception as error:
            found = f"{type(error).__name__}: {str(error)[-300:]}"
            return {**asdict(case), "verdict": "failed", "differing": [found], "reasons": []}
    verdict = "equal" if not differing else ANNOUNCED if reasons else "DIFFERENT, NOT ANNOUNCED"
    return {**asdict(case), "verdict": verdict, "differing": differing, "reasons": reasons}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Run only the cases whose name contains this text.")
    parser.add_argument(
        "--write",
        type=Path,
        help="Write the results as JSON for the documentation. Rows of cases that were not run are kept.",
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if options.child:
        warnings.simplefilter("always", ProvenanceWarning)
        case, folder, *rest = json.loads(options.child)
        train(Case(**case), Path(folder), *rest)
        return
    rows = []
    for case in cases():
        if options.only in case.name:
            rows.append(judge(case))
            print(f"{rows[-1]['verdict']:24} {case.name}: {', '.join(rows[-1]['differing'])}", flush=True)
    print({verdict: sum(row["verdict"] == verdict for row in rows) for verdict in {row["verdict"] for row in rows}})
    if options.write:
        versions = {"python": platform.python_version(), "lightning": L.__version__, "torch": torch.__version__}
        known = json.loads(options.write.read_text(encoding="utf-8"))["rows"] if options.write.exists() else []
        found = {_key(row): row for row in [*known, *rows]}
        kept = [found[key] for key in map(_key, map(asdict, cases())) if key in found]
        options.write.write_text(json.dumps({"versions": versions, "rows": kept}, indent=1) + "\n", encoding="utf-8")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in Case.__annotations__)


if __name__ == "__main__":
    main()
