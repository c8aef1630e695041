"""Runs that are stopped and resumed, compared with runs that never stopped."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from kit import trainer
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.data.loaders import StatefulDataLoader
from lightning_dtool.data.sampler import ResumableSampler
from lightning_dtool.errors import ProvenanceWarning

ANNOUNCED = "may differ from an uninterrupted run: "


class Small(L.LightningModule):
    """A linear classifier of vectors of length 4."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def vectors(samples: int = 24, batch_size: int = 4) -> DataLoader:
    """Return a loader that can continue inside an epoch."""
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(x, (x.sum(1) > 0).long())
    return StatefulDataLoader(data, batch_size=batch_size, sampler=ResumableSampler(data, seed=5))


class EndsSaving(Callback):
    """Ends the saving of checkpoints when there are some, because each takes as long as an epoch."""

    def __init__(self, count: int, policy: ModelCheckpoint) -> None:
        self.count, self.policy = count, policy

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if len(trainer.strategy.checkpoint_io.publications) >= self.count:  # type: ignore[attr-defined]
            self.policy.save_top_k, self.policy.save_last = 0, None


class Resumed:
    """A run that never stopped, and the same run resumed from one of its checkpoints by new objects.

    Attributes:
        whole: The module of the run that never stopped.
        module: The module of the resumed run.
        saved: The reasons in the section of the checkpoint.
        reasons: The reasons in the warnings of the resumed run.
        differing: The names of the tensors in the modules' state_dicts, and of the optimizers, that differ.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[[], L.LightningModule],
        policy: dict[str, Any],
        *,
        at: int = 1,
        data: Callable[[], Any] = vectors,
        val: Callable[[], Any] | None = None,
        callbacks: Callable[[], Sequence[Callback]] = tuple,
        **options: Any,
    ) -> None:
        def train(ckpt: str | None, seed: int) -> tuple[Any, Any]:
            torch.manual_seed(3)
            module = make()
            torch.manual_seed(seed)
            provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all")
            checkpoints = ModelCheckpoint(folder / f"{seed}", "{epoch}-{step}", **{"save_top_k": -1, **policy})
            extra = [*callbacks(), checkpoints, provenance, EndsSaving(at + 1, checkpoints)]
            t = trainer(folder, **{"max_epochs": 4, **options, "callbacks": extra})
            t.fit(module, data(), None if val is None else val(), ckpt_path=ckpt)
            return t, provenance

        (folder / "models").mkdir()
        whole, provenance = train(None, 10)
        self.uri = provenance.uris[at]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again, _ = train(self.uri, 20)
        texts = [str(each.message) for each in caught if issubclass(each.category, ProvenanceWarning)]
        self.reasons = [text.partition(ANNOUNCED)[2] for text in texts if ANNOUNCED in text]
        self.whole, self.module = whole.lightning_module, again.lightning_module
        self.differing = _differing(_state(whole), _state(again))

    @property
    def equal(self) -> bool:
        """Whether nothing differs, and nothing was announced."""
        return not self.differing and not self.reasons


def _state(t: L.Trainer) -> dict[str, Any]:
    states: dict[str, Any] = dict(t.lightning_module.state_dict())
    for number, optimizer in enumerate(t.optimizers):
        state = optimizer.state_dict()
        for index, values in state["state"].items():
            states.update({f"optimizer {number} {index} {name}": value for name, value in values.items()})
        states[f"optimizer {number} groups"] = state["param_groups"]
    return {**states, "global step": t.global_step}


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**one, **other} if not _equal(one.get(name), other.get(name))]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    return one == other
