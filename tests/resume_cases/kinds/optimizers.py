"""Optimizers and schedulers that keep state outside their `state_dict`."""

from typing import Any

import torch

from resume_cases.models import Net, Training


class CountingSGD(torch.optim.SGD):
    """Keeps its own count of steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = 0.05 / self.steps**0.5
        return super().step(closure)


class Lookahead(torch.optim.SGD):
    """Keeps slow weights, and returns to them every fourth step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slow = [each.detach().clone() for group in self.param_groups for each in group["params"]]
        self.steps = 0

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.steps += 1
        fast = [each for group in self.param_groups for each in group["params"]]
        if self.steps % 4 == 0:
            with torch.no_grad():
                for slow, weight in zip(self.slow, fast, strict=True):
                    slow.lerp_(weight, 0.5)
                    weight.copy_(slow)
        return loss


class ByCountingSGD(Net):
    def configure_optimizers(self) -> Any:
        return CountingSGD(self.parameters(), lr=0.05, momentum=0.9)


class ByLookahead(Net):
    def configure_optimizers(self) -> Any:
        return Lookahead(self.parameters(), lr=0.05)


class CountingLambda(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        calls = 0

        def factor(epoch: int) -> float:
            nonlocal calls
            calls += 1
            return 0.9**calls

        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}]


class StepHook(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        steps: list[int] = []

        def decay(*_: Any) -> None:
            steps.append(1)
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.01 * len(steps)

        optimizer.register_step_post_hook(decay)
        return optimizer


class SchedulerByHand(Net):
    """A scheduler that Lightning does not know."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        self.cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        return optimizer

    def on_train_batch_end(self, *_: Any) -> None:
        self.cosine.step()


class OptimizerByHand(Net):
    """A second optimizer that Lightning does not know."""

    def configure_optimizers(self) -> Any:
        self.second = torch.optim.SGD(self.layers[4].parameters(), lr=0.05, momentum=0.9)
        return torch.optim.SGD(self.layers[:4].parameters(), lr=0.05, momentum=0.9)

    def on_after_backward(self) -> None:
        self.second.step()
        self.second.zero_grad()


class EveryFifth(Net):
    """Manual optimization that steps every fifth batch of the run: gradients wait over the end of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss / 5)
        self.batches += 1
        if int(self.batches) % 5 == 0:
            optimizer = self.optimizers()
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]


class KeepsGradients(EveryFifth):
    """Manual optimization that keeps half of each gradient."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(Net.training_step(self, batch, batch_idx))
        self.optimizers().step()  # type: ignore[union-attr]
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)


KINDS = {
    "optimizer with a count": Training(ByCountingSGD),
    "optimizer with slow weights": Training(ByLookahead),
    "LambdaLR with a counting closure": Training(CountingLambda),
    "hook of the optimizer that counts in a closure": Training(StepHook),
    "scheduler stepped by hand": Training(SchedulerByHand),
    "optimizer stepped by hand": Training(OptimizerByHand),
    "manual optimization, a step every fifth batch": Training(EveryFifth, inside=(2, 3)),
    "manual optimization, a step every fifth batch, no validation": Training(
        EveryFifth, lambda: {"limit_val_batches": 0}, inside=(2, 3)
    ),
    "manual optimization that keeps gradients": Training(KeepsGradients),
    "manual optimization that keeps gradients, no validation": Training(
        KeepsGradients, lambda: {"limit_val_batches": 0}
    ),
}
