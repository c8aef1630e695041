"""Plain state that no state_dict holds is exact after a resume, or there is a warning."""

import collections
import copy
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from kit import same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.errors import ProvenanceWarning

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

SAMPLES, BATCH = 24, 8


class Net(L.LightningModule):
    """A classifier whose loss the tests change."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layers(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def points() -> TensorDataset:
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, (x.sum(1) > 0).long())


def plain_loader() -> DataLoader:
    return DataLoader(points(), BATCH, shuffle=True)


# -- trainings: each keeps state in another place ---------------------------------------------------


class Counter(Net):
    beta = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.beta += 0.02
        return super().training_step(batch, batch_idx) * (1 + self.beta)


class Outputs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach())
        return loss * (1 + torch.stack(self.losses).mean())


class OutputsWithGraphs(Outputs):
    """Keeps losses with their graphs, which `backward` has used."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = Net.training_step(self, batch, batch_idx)
        mean = torch.stack(self.losses).mean().detach() if self.losses else 0.0
        self.losses.append(loss)
        return loss * (1 + mean)


class Recent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.recent: collections.deque[float] = collections.deque(maxlen=4)
        self.counts: dict[str, int] = collections.defaultdict(int)
        self.seen: set[int] = set()
        self.same_deque = self.recent

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.recent.append(float(loss))
        self.counts["steps"] += 1
        self.seen.add(self.counts["steps"])
        assert self.same_deque is self.recent
        return loss * (1 + sum(self.same_deque) + 0.1 * self.counts["steps"] + 0.01 * len(self.seen))


class Meter:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1


class Meters(Net):
    """Makes a new object of its own class in each epoch, and keeps the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.meter, self.past = Meter(), [Meter()]

    def on_train_epoch_start(self) -> None:
        self.past.append(self.meter)
        self.meter = Meter()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.meter.add(float(loss))
        return loss * (1 + self.meter.total + self.past[-1].total)


Step = collections.namedtuple("Step", ["loss", "state"])


class Replay(Net):
    """Learns from steps that it has stored before, as in reinforcement learning."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer: collections.deque[Step] = collections.deque(maxlen=100)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.buffer.append(Step(loss.item(), np.full(3, float(loss))))
        drawn = random.choice(self.buffer)
        return loss * (1 + drawn.loss + drawn.state.sum())


class Queue(Net):
    """A queue of features with an int as pointer, as MoCo has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(40, 2), persistent=False)
        self.pointer = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        out = self.layers(batch[0])
        with torch.no_grad():
            self.queue[self.pointer : self.pointer + BATCH] = out
            self.pointer = (self.pointer + BATCH) % 40
        return nn.functional.cross_entropy(out, batch[1]) + (out.mean(0) * self.queue.mean(0)).sum()


class Parts(Net):
    """Keeps a value in a class, one in a variable of the module, and one in a default of a function."""

    total = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        type(self).total += 1
        STEPS.append(self.total)
        return super().training_step(batch, batch_idx) * (1 + 0.1 * self.total + 0.1 * len(STEPS) + 0.1 * counted())


STEPS: list[int] = []


def counted(memory: dict[str, int] = {}) -> int:  # noqa: B006
    memory["calls"] = memory.get("calls", 0) + 1
    return memory["calls"]


class Flags(Net):
    """Freezes a layer, sets batch norm to evaluation mode and changes the rate of dropout, once and for all."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 2:
            self.layers[0].requires_grad_(False)
            self.layers[1].eval()
            self.layers[3].p = 0.6

    def on_validation_model_train(self) -> None:
        pass

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.layers(batch[0])

    def val_dataloader(self) -> Any:
        return DataLoader(points(), BATCH)


class Closure(Net):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        calls = 0

        def factor(step: int) -> float:
            nonlocal calls
            calls += 1
            return 1 / (1 + calls)

        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}]


class Sgd(torch.optim.SGD):
    """An optimizer with a value that it does not save."""

    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        self.param_groups[0]["lr"] = 0.1 / self.calls
        return super().step(closure)


class OwnOptimizer(Net):
    def configure_optimizers(self) -> Any:
        return Sgd(self.parameters(), lr=0.1)


class Validated(Net):
    """Remembers the best loss of a validation, which the sanity check sets too."""

    best = float("inf")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * (1 + self.best)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.best = min(self.best, float(super().training_step(batch, batch_idx)))

    def val_dataloader(self) -> Any:
        return DataLoader(points(), BATCH)


class Ema(L.Callback):
    """An average of the weights, which the callback copies when training starts and does not save."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.average = copy.deepcopy(module.layers).requires_grad_(False)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        for kept, now in zip(self.average.parameters(), module.layers.parameters(), strict=True):
            kept.data.mul_(0.9).add_(now.data, alpha=0.1)
            now.data.add_(kept.data, alpha=0.01)


class EmaOfTensors(L.Callback):
    """The same with a dict of tensors, which exists from the beginning."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        for name, now in module.named_parameters():
            self.average[name] = 0.9 * self.average.get(name, torch.zeros_like(now.data)) + 0.1 * now.data
            now.data.add_(self.average[name], alpha=0.01)


class EveryTwenty(L.Callback):
    n = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.n += 1
        trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / self.n


class BeginsAt(L.Callback):
    """Notes in which epoch a run began."""

    first = 0

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.first = 10 + trainer.current_epoch

    def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / (1 + trainer.current_epoch + self.first)


class Balanced(Sampler):
    def __init__(self, samples: int) -> None:
        self.samples, self.own = samples, torch.Generator().manual_seed(0)

    def __iter__(self) -> Any:
        yield from torch.randperm(self.samples, generator=self.own).view(-1, BATCH).tolist()

    def __len__(self) -> int:
        return self.samples // BATCH


class Noisy(Dataset):
    """A dataset that draws from generators of its own, of three kinds."""

    def __init__(self) -> None:
        self.data = points()
        self.rng, self.old = np.random.default_rng(3), np.random.RandomState(4)
        self.transform = Jitter()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        noise = self.rng.standard_normal(4) + self.old.standard_normal(4)
        return self.transform(x + torch.from_numpy(noise.astype("float32"))), y


class Jitter:
    """A transform as MONAI has them: with a generator in `R`."""

    def __init__(self) -> None:
        self.R, self.calls = random.Random(5), 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.R.random() + 0.001 * self.calls


class Reloading(Net):
    """Makes a dataset anew in each epoch."""

    def train_dataloader(self) -> Any:
        return DataLoader(Noisy(), BATCH)


Made = tuple[L.LightningModule, Any, list[L.Callback], dict[str, Any]]

TRAININGS: dict[str, Callable[[], Made]] = {
    "counter": lambda: (Counter(), plain_loader(), [], {}),
    "list of outputs": lambda: (Outputs(), plain_loader(), [], {}),
    "outputs with graphs": lambda: (OutputsWithGraphs(), plain_loader(), [], {}),
    "deque, defaultdict and set": lambda: (Recent(), plain_loader(), [], {}),
    "objects of the user": lambda: (Meters(), plain_loader(), [], {}),
    "replay buffer": lambda: (Replay(), plain_loader(), [], {}),
    "queue with a pointer": lambda: (Queue(), plain_loader(), [], {}),
    "class, variable and default": lambda: (Parts(), plain_loader(), [], {}),
    "flags, modes and rates": lambda: (Flags(), plain_loader(), [], {}),
    "closure of LambdaLR": lambda: (Closure(), plain_loader(), [], {}),
    "own optimizer": lambda: (OwnOptimizer(), plain_loader(), [], {}),
    "best of the validations": lambda: (Validated(), plain_loader(), [], {}),
    "EMA made at the start": lambda: (Net(), plain_loader(), [Ema()], {}),
    "EMA as a dict of tensors": lambda: (Net(), plain_loader(), [EmaOfTensors()], {}),
    "callback that counts": lambda: (Net(), plain_loader(), [EveryTwenty()], {}),
    "value of a start hook": lambda: (Net(), plain_loader(), [BeginsAt()], {}),
    "batch sampler with a generator": lambda: (Net(), DataLoader(points(), batch_sampler=Balanced(SAMPLES)), [], {}),
    "dataset and transform with generators": lambda: (Net(), DataLoader(Noisy(), BATCH, shuffle=True), [], {}),
    "loaders made anew": lambda: (Reloading(), None, [], {"reload_dataloaders_every_n_epochs": 1}),
}


def forget_globals() -> None:
    """Give the variables of this file their first values, as in a new process."""
    Parts.total = 0
    STEPS.clear()
    counted.__defaults__[0].clear()  # type: ignore[index]


def fit(folder: Path, made: Made, ckpt: str | None = None, seed: int = 1, epochs: int = 4) -> Any:
    """Train, and return the module, the provenance callback and the warnings about the resume."""
    forget_globals()
    (folder / "models").mkdir(parents=True, exist_ok=True)
    module, data, callbacks, options = made
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(folder, *callbacks, provenance, max_epochs=epochs, **options).fit(module, data, ckpt_path=ckpt)
    texts = [str(each.message) for each in caught if issubclass(each.category, ProvenanceWarning)]
    return module, provenance, [text for text in texts if "may differ" in text]


def made(name: str, seed: int) -> Made:
    L.seed_everything(seed, verbose=False)
    return TRAININGS[name]()


def reasons(uri: str) -> list[str]:
    return [gap.reason for gap in DtoolCheckpoint.from_uri(uri).record.gaps if gap.fact == "checkpoint.resume"]


@pytest.mark.parametrize("name", TRAININGS)
def test_plain_state_is_as_in_an_uninterrupted_run(tmp_path: Path, name: str) -> None:
    whole, provenance, _ = fit(tmp_path / "whole", made(name, 1))
    uri = provenance.uris[1]
    resumed, again, told = fit(tmp_path / "resumed", made(name, 2), uri)
    assert told == []
    assert reasons(uri) == []
    assert same(weights(whole), weights(resumed))
    # A run that resumed saves what a third run needs.
    third, _, told = fit(tmp_path / "third", made(name, 3), again.uris[0])
    assert told == []
    assert same(weights(whole), weights(third))
