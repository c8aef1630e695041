"""Callbacks that keep state and implement no `state_dict`."""

import copy
import random
from collections import deque
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from resume_cases.data import Augmented, Plain, numbers
from resume_cases.models import Net, Training


class Counts(Callback):
    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.batches += 1
        if self.batches % 5 == 0:
            trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / self.batches


class Averages(Callback):
    """An exponential average of the weights, to which they return at the end of each epoch."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        for name, value in module.named_parameters():
            held = self.average.setdefault(name, value.detach().clone())
            held.lerp_(value.detach(), 0.1)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.lerp_(self.average[name], 0.3)


class Teaches(Callback):
    """A copy of the module as a teacher."""

    teacher: Any = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.teacher is None:
            self.teacher = copy.deepcopy(module.layers)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        with torch.no_grad():
            for teacher, student in zip(self.teacher.parameters(), module.layers.parameters(), strict=True):
                teacher.lerp_(student, 0.1)
                student.lerp_(teacher, 0.05)


class Patience(Callback):
    """Halves the learning rate if the last losses of validation did not fall."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=3)
        self.best = float("inf")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.losses.append(float(trainer.callback_metrics["val_loss"]))
        self.best = min(self.best, self.losses[-1])
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.02 * self.best / sum(self.losses)


class Perturbs(Callback):
    def __init__(self) -> None:
        self.random = random.Random(4)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        with torch.no_grad():
            module.layers[0].bias.add_(0.01 * self.random.random())


class WithHalfAState(Counts):
    """A callback whose `state_dict` leaves something out."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.batches += 1
        self.scale *= 0.9
        trainer.optimizers[0].param_groups[0]["lr"] = 0.02 * self.scale + 0.001 * self.batches

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]


class Curriculum(Callback):
    """Lets an attribute of the dataset grow."""

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        dataset = trainer.train_dataloader.dataset  # type: ignore[union-attr]
        dataset.strength = 0.1 * trainer.current_epoch


class CurriculumByTransform(Callback):
    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.datamodule.train_transform.strength += 0.1  # type: ignore[attr-defined]


class Shifted(Augmented):
    strength = 0.0

    def __getitem__(self, index: int) -> Any:
        return self.x[index] + self.strength, self.y[index]


class OfShifted(Plain):
    def __init__(self) -> None:
        super().__init__("DataLoader", "0", 4)

    def train_dataloader(self) -> Any:
        x = numbers(7, 24, 8)
        return torch.utils.data.DataLoader(Shifted(x, x[:, :3].argmax(1)), batch_size=4, shuffle=True)


class Shift:
    """A transform with a strength."""

    def __init__(self) -> None:
        self.strength = 0.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() + self.strength


class Hinted(Net):
    """Reads what a callback sets."""

    hint = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * self.hint


class Hints(Callback):
    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        module.hint *= 1.05


def _callbacks(*classes: type[Callback]) -> Any:
    return lambda: {"callbacks": [each() for each in classes]}


KINDS = {
    "callback that counts": Training(settings=_callbacks(Counts)),
    "callback with an average of the weights": Training(settings=_callbacks(Averages)),
    "callback with a copy of the module": Training(settings=_callbacks(Teaches)),
    "callback with the last losses": Training(settings=_callbacks(Patience)),
    "callback with random.Random": Training(settings=_callbacks(Perturbs)),
    "callback with half a state_dict": Training(settings=_callbacks(WithHalfAState)),
    "callback that sets an attribute of the dataset": Training(settings=_callbacks(Curriculum), data=OfShifted),
    "callback that sets an attribute of the transform": Training(
        settings=_callbacks(CurriculumByTransform), transform=Shift
    ),
    "callback that sets an attribute of the module": Training(Hinted, _callbacks(Hints)),
}
