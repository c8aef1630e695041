"""Modules whose hooks change the training."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from resume_cases.models import Net, Training


class Target(Net):
    """Soft updates of a target network, as in reinforcement learning and mean teachers."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Linear(8, 3).requires_grad_(False)
        self.online = nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x = batch[0].flatten(1)
        return super().training_step(batch, batch_idx) + functional.mse_loss(self.online(x), self.target(x) + 1)

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
                target.lerp_(online, 0.1)


class CountsBatches(Net):
    batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * (1 + 0.1 * self.batches)


class RescalesRate(Net):
    """Sets the learning rate by hand after each batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] *= 0.9


class Anneals(Net):
    beta = 0.0

    def on_train_epoch_start(self) -> None:
        self.beta = 0.1 * self.current_epoch

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) + self.beta * self.layers[0].weight.pow(2).sum()


class AnnealsAtTheEnd(Anneals):
    def on_train_epoch_start(self) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        self.beta += 0.1


class ChangesWeightsAtTheEnd(Net):
    def on_train_epoch_end(self) -> None:
        with torch.no_grad():
            self.layers[0].weight.mul_(0.9)


class DropoutRate(Net):
    def on_train_epoch_start(self) -> None:
        self.layers[3].p = 0.1 + 0.1 * self.current_epoch


class DropoutRateOnce(Net):
    def on_train_batch_start(self, *_: Any) -> None:
        if self.global_step == 7:
            self.layers[3].p = 0.6


class FreezesOnce(Net):
    def on_train_batch_start(self, *_: Any) -> None:
        if self.global_step == 7:
            self.layers[0].requires_grad_(False)


class FreezesByEpoch(Net):
    def on_train_epoch_start(self) -> None:
        self.layers[0].requires_grad_(self.current_epoch % 2 == 0)


class BatchNormToEval(Net):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch >= 1:
            self.layers[1].eval()


class BatchNormToEvalOnce(Net):
    def on_train_batch_start(self, *_: Any) -> None:
        if self.global_step == 7:
            self.layers[1].eval()


class ResetsBuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def on_train_start(self) -> None:
        self.seen.zero_()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen += 1
        return super().training_step(batch, batch_idx) / self.seen.sqrt()


class ResetsAttribute(Net):
    seen = 0

    def on_train_start(self) -> None:
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen += 1
        return super().training_step(batch, batch_idx) / self.seen**0.5


class MovesBufferInValidation(Net):
    """The sanity check before a resumed epoch moves the buffer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("validated", torch.zeros(()))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated += 1
        super().validation_step(batch, batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) / (1 + self.validated)


class KeepsValidationOutputs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[torch.Tensor] = []
        self.scale = 1.0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.outputs.append(self(batch[0]).std())

    def on_validation_epoch_end(self) -> None:
        self.scale = float(torch.stack(self.outputs).mean())

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * self.scale


class KeepsTrainingOutputs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[torch.Tensor] = []
        self.scale = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx) * self.scale
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.scale = float(torch.stack(self.outputs).mean())
        self.outputs.clear()


class WarmsUp(Net):
    """A warm-up by hand, as the documentation of `optimizer_step` once showed it."""

    steps = 0

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        self.steps += 1
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * min(1.0, self.steps / 15)
        optimizer.step(closure=closure)


class CutMix(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = torch.Generator().manual_seed(9)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        if not self.training:
            return batch
        share = torch.rand(len(x), 1, generator=self.mixing)
        return x.flatten(1) * share + x.flatten(1).roll(1, 0) * (1 - share), y


class GradientNoise(Net):
    def __init__(self) -> None:
        super().__init__()
        self.level = 0.1

    def on_after_backward(self) -> None:
        self.level *= 0.9
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.add_(self.level)


KINDS = {
    "target network in on_train_batch_end": Training(Target),
    "count in on_train_batch_end": Training(CountsBatches),
    "learning rate set in on_train_batch_end": Training(RescalesRate),
    "annealing in on_train_epoch_start": Training(Anneals),
    "annealing in on_train_epoch_end": Training(AnnealsAtTheEnd),
    "weights changed in on_train_epoch_end": Training(ChangesWeightsAtTheEnd),
    "dropout rate set for each epoch": Training(DropoutRate),
    "dropout rate set once": Training(DropoutRateOnce),
    "requires_grad set for each epoch": Training(FreezesByEpoch),
    "requires_grad set once": Training(FreezesOnce),
    "batch norm in eval() for each epoch": Training(BatchNormToEval),
    "batch norm in eval() once": Training(BatchNormToEvalOnce),
    "buffer reset in on_train_start": Training(ResetsBuffer),
    "attribute reset in on_train_start": Training(ResetsAttribute),
    "buffer changed by validation": Training(MovesBufferInValidation),
    "outputs of validation in a list": Training(KeepsValidationOutputs),
    "outputs of training in a list": Training(KeepsTrainingOutputs),
    "warm-up in optimizer_step": Training(WarmsUp),
    "CutMix with a generator of its own": Training(CutMix),
    "gradient noise that decays": Training(GradientNoise),
}
