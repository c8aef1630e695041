"""Modules that keep state outside parameters and buffers."""

import array
import collections
import ctypes
import datetime
import functools
import itertools
import multiprocessing
import os
import random
import warnings
import zoneinfo
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from resume_cases.models import Net, Training


class Scaled(Net):
    """Multiplies its loss with a factor that a subclass computes."""

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = super().training_step(batch, batch_idx)
        return loss * self.factor(x.flatten(1), y)


class Counter(Scaled):
    steps = 0

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.steps += 1
        return 1 + 0.1 * self.steps


class RunningValue(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.running = torch.ones(())

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.running = 0.9 * self.running + 0.1 * x.abs().mean()
        return self.running


class Prototypes(Scaled):
    """Begins with None."""

    prototypes: torch.Tensor | None = None

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        mean = x.mean(0)
        self.prototypes = mean if self.prototypes is None else 0.9 * self.prototypes + 0.1 * mean
        return 1 + self.prototypes.abs().sum()


class InPlace(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.counts = np.ones(3)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        np.add.at(self.counts, y.numpy(), 1)
        return float(self.counts.max() / self.counts.mean())


class Nested(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Any] = {"classes": {}, "steps": [0]}

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.seen["steps"][0] += 1
        for label in y.tolist():
            self.seen["classes"][label] = self.seen["classes"].get(label, 0) + 1
        return 1 + self.seen["classes"].get(0, 0) / (3 * self.seen["steps"][0])


@dataclass
class Progress:
    steps: int = 0
    best: float = float("inf")


class InDataclass(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress()

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.progress.steps += 1
        self.progress.best = min(self.progress.best, float(x.std()))
        return self.progress.best + 0.1 * self.progress.steps


class ReplayBuffer(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.memory: collections.deque[torch.Tensor] = collections.deque(maxlen=10)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.memory.append(x.detach().clone())
        return 1 + self(random.choice(self.memory)).std()


class LargeReplayBuffer(ReplayBuffer):
    """A memory of some megabytes."""

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.memory.append(torch.cat([x] * 20000))
        return 1 + random.choice(self.memory)[-4:].std()


class WithScript(Counter):
    """Has a part that was compiled to TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that TorchScript is deprecated
            self.more = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.more(x.flatten(1)))


class LeavesOutTeacher(Scaled):
    """Follows its weights with a frozen copy, which it takes out of its checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False
        self.teacher = nn.Linear(8, 1).requires_grad_(False)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.teacher.bias.data += 0.1
        return 1 + self.teacher(x).square().mean()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith("teacher")}


class InArray(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.means = array.array("d")
        self.steps = (ctypes.c_int * 1)()

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.means.append(float(x.mean()))
        self.steps[0] += 1
        return 1 + 0.1 * self.steps[0] + sum(self.means)


class InSharedValue(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.steps = multiprocessing.Value("i", 0)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        with self.steps.get_lock():
            self.steps.value += 1
        return 1 + 0.1 * self.steps.value


class InArrayOfObjects(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.kept = np.array([None, [], 0.0], dtype=object)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.kept[0] = x.mean()
        self.kept[1].append(1)
        self.kept[2] += 0.1
        return 1 + self.kept[0] + 0.01 * len(self.kept[1]) + self.kept[2]


class InDate(Scaled):
    """Goes through the days of a year, and looks further back each time."""

    def __init__(self) -> None:
        super().__init__()
        self.day, self.back = datetime.date(2020, 1, 1), datetime.timedelta(days=1)
        self.hour = datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC"))
        self.seen = datetime.datetime.now()

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.seen = datetime.datetime.now()
        self.day += self.back
        self.back += datetime.timedelta(days=2)
        self.hour += datetime.timedelta(hours=1)
        return 1 + 0.01 * self.day.timetuple().tm_yday + 0.01 * self.back.days + 0.01 * self.hour.hour


class LongList(Scaled):
    """Replaces entries that no sample of the list holds."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [1.0] * 30_001
        self.counts = np.ones(2**18)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.weights[1] += 0.1
        self.counts[1] += 0.1
        return self.weights[1] * self.counts[1]


class OwnGenerator(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.Generator().manual_seed(5)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return 1 + torch.rand((), generator=self.noise)


class OwnNumpyGenerator(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(5)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return 1 + float(self.rng.random())


class OwnPythonGenerator(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(5)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return 1 + self.rng.random()


class Cycle(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.factors = itertools.cycle([0.5, 1.0, 2.0, 3.0, 4.0])

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return next(self.factors)


def _growing() -> Any:
    factor = 1.0
    while True:
        factor *= 1.1
        yield factor


class GeneratorObject(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.factors = _growing()

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return next(self.factors)


class Momentum(Scaled):
    """A MoCo-like queue in a buffer, with its pointer in an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(16, 8))
        self.pointer = 0

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.queue[self.pointer : self.pointer + len(x)] = x
        self.pointer = (self.pointer + len(x)) % 16
        return 1 + self.queue[: self.pointer + 1].abs().mean()


class ExtraState(nn.Module):
    steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
        return x * (1 + 0.1 * self.steps)

    def get_extra_state(self) -> Any:
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        self.steps = state["steps"]


class OtherExtraState(ExtraState):
    """Saves some of its state only."""

    shift = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.shift += 0.01
        return super().forward(x) + self.shift


class TemperedLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.temperature *= 0.95
        return x * self.temperature


class WithPart(Net):
    """Applies one more module to its inputs."""

    part: type[nn.Module] = nn.Identity

    def __init__(self) -> None:
        super().__init__()
        self.more = self.part()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.more(x.flatten(1)))


class WithExtraState(WithPart):
    part = ExtraState


class WithOtherExtraState(WithPart):
    part = OtherExtraState


class WithTemperedLoss(WithPart):
    part = TemperedLoss


class Normalised(WithPart):
    @staticmethod
    def part() -> nn.Module:
        return nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(8, 8)), parametrizations.weight_norm(nn.Linear(8, 8))
        )


class Quantised(nn.Module):
    """A parametrization whose buffer is in no state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.ones(()), persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.largest.mul_(0.9).add_(0.1 * weight.detach().abs().max())
        return weight / (1 + self.largest)


class Parametrized(WithPart):
    @staticmethod
    def part() -> nn.Module:
        layer = nn.Linear(8, 8)
        parametrize.register_parametrization(layer, "weight", Quantised())
        return layer


class NonPersistentBuffer(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.ones(()), persistent=False)

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.running.mul_(0.9).add_(0.1 * x.abs().mean())
        return self.running


class ForwardHook(Net):
    """A hook that counts in a closure."""

    def __init__(self) -> None:
        super().__init__()
        calls = 0

        def scale(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += module.training
            return output * (1 + 0.05 * calls)

        self.layers[0].register_forward_hook(scale)


class Slotted:
    """An object without `__dict__`."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = 0


class InSlots(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.state = Slotted()

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.state.steps += 1
        return 1 + 0.1 * self.state.steps


class InHyperparameters(Scaled):
    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.hparams["beta"] += 0.1
        return 1 + self.hparams["beta"]


class OnTrainer(Scaled):
    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.trainer.steps_so_far = getattr(self.trainer, "steps_so_far", 0) + 1
        return 1 + 0.1 * self.trainer.steps_so_far


class OnTrainerHidden(Scaled):
    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.trainer._steps_so_far = getattr(self.trainer, "_steps_so_far", 0) + 1
        return 1 + 0.1 * self.trainer._steps_so_far


class InVariable(Scaled):
    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        os.environ["STEPS_SO_FAR"] = str(int(os.environ.get("STEPS_SO_FAR", "0")) + 1)
        return 1 + 0.1 * int(os.environ["STEPS_SO_FAR"])


def _begin_variable() -> None:
    os.environ.pop("STEPS_SO_FAR", None)


class InCachedProperty(Scaled):
    @functools.cached_property
    def seen(self) -> list[float]:
        return []

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.seen.append(float(x.mean()))
        return 1 + 0.1 * len(self.seen)


class FirstBatchInCachedProperty(Scaled):
    @functools.cached_property
    def scale(self) -> torch.Tensor:
        return self.layers[0].weight.detach().abs().mean()

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.scale


class InDefaultOfMethod(Scaled):
    def factor(self, x: torch.Tensor, y: torch.Tensor, steps: dict[str, int] = {}) -> Any:  # noqa: B006
        steps["so far"] = steps.get("so far", 0) + 1
        return 1 + 0.1 * steps["so far"]


def _begin_default_of_method() -> None:
    InDefaultOfMethod.factor.__defaults__[0].clear()


def _counted(method: Any) -> Any:
    calls = 0

    @functools.wraps(method)
    def wrapper(*args: Any) -> Any:
        nonlocal calls
        calls = 0 if args == ("begin",) else calls + 1
        return None if calls == 0 else method(*args) * (1 + 0.1 * calls)

    return wrapper


class Decorated(Scaled):
    @_counted
    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return 1.0


def _begin_decorated() -> None:
    Decorated.factor("begin")  # type: ignore[call-arg, arg-type]


class InClass(Scaled):
    steps = 0

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        InClass.steps += 1
        return 1 + 0.1 * InClass.steps


def _begin_class() -> None:
    InClass.steps = 0


STEPS = 0


class InGlobal(Scaled):
    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        global STEPS
        STEPS += 1
        return 1 + 0.1 * STEPS


def _begin_global() -> None:
    global STEPS
    STEPS = 0


STATE: dict[str, int] = {}


class InGlobalDict(Scaled):
    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        STATE["steps"] = STATE.get("steps", 0) + 1
        return 1 + 0.1 * STATE["steps"]


def _noise(state: Any = np.random.RandomState(3)) -> float:  # noqa: B008
    return float(state.rand())


class InDefault(Scaled):
    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return 1 + _noise()


def _begin_default() -> None:
    _noise.__defaults__ = (np.random.RandomState(3),)


class LinkedLists(Scaled):
    """Two names of one list."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []
        self.same = self.seen

    def factor(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        self.seen.append(float(x.mean()))
        return 1 + 0.1 * len(self.same)


KINDS = {
    "count in the module": Training(Counter),
    "running value in the module": Training(RunningValue),
    "tensor in the module that begins as None": Training(Prototypes),
    "NumPy array changed in place": Training(InPlace),
    "nested dictionaries in the module": Training(Nested),
    "dataclass in the module": Training(InDataclass),
    "object with slots in the module": Training(InSlots),
    "one list under two names": Training(LinkedLists),
    "replay buffer": Training(ReplayBuffer),
    "large replay buffer": Training(LargeReplayBuffer),
    "count in the module, with TorchScript": Training(WithScript),
    "frozen weights that are not in the checkpoint": Training(LeavesOutTeacher),
    "array.array and ctypes in the module": Training(InArray),
    "multiprocessing.Value in the module": Training(InSharedValue),
    "NumPy array of objects in the module": Training(InArrayOfObjects),
    "dates in the module": Training(InDate),
    "long list and large array in the module": Training(LongList),
    "torch.Generator in the module": Training(OwnGenerator),
    "NumPy generator in the module": Training(OwnNumpyGenerator),
    "random.Random in the module": Training(OwnPythonGenerator),
    "itertools.cycle in the module": Training(Cycle),
    "generator object in the module": Training(GeneratorObject),
    "MoCo queue with an integer pointer": Training(Momentum),
    "get_extra_state": Training(WithExtraState),
    "get_extra_state that leaves something out": Training(WithOtherExtraState),
    "loss module with a temperature": Training(WithTemperedLoss),
    "spectral_norm and weight_norm": Training(Normalised),
    "parametrization with a non-persistent buffer": Training(Parametrized),
    "non-persistent buffer": Training(NonPersistentBuffer),
    "forward hook that counts in a closure": Training(ForwardHook),
    "hyperparameter that changes": Training(InHyperparameters),
    "attribute of the Trainer": Training(OnTrainer),
    "hidden attribute of the Trainer": Training(OnTrainerHidden),
    "environment variable": Training(InVariable, begin=_begin_variable),
    "list in a cached_property": Training(InCachedProperty),
    "cached_property that is read in the first batch": Training(FirstBatchInCachedProperty),
    "default argument of a method": Training(InDefaultOfMethod, begin=_begin_default_of_method),
    "decorator that counts": Training(Decorated, begin=_begin_decorated),
    "class attribute": Training(InClass, begin=_begin_class),
    "global variable of the script": Training(InGlobal, begin=_begin_global),
    "global dictionary of the script": Training(InGlobalDict, begin=STATE.clear),
    "generator in a default argument": Training(InDefault, begin=_begin_default),
}
