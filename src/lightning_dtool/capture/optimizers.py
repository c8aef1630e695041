"""Optimizers with their parameter groups, and learning rate schedulers."""

import functools
import inspect
import types
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import Optimizer as TorchOptimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_dtool.capture.source_text import recorded_source
from lightning_dtool.record import Gaps, Optimizer, ParameterGroup, Scheduler
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.encoding import encode, encode_all

NOT_IN_MODULE = "<not in the LightningModule>"
"""Stands for a parameter that an optimizer changes and that no name leads to."""

_BOOKKEEPING = frozenset(
    {"_step_count", "_last_lr", "_get_lr_called_within_step", "_get_lr_called", "_is_initial", "_initial_step"}
)
"""Attributes of PyTorch's schedulers that say where a scheduler stands, not what it does."""

_MAX_DEPTH = 8
"""Schedulers within schedulers that are followed."""

_MAX_PARTS = 100
"""Functions or schedulers of one list that are described."""

_NOTHING = object()


def capture_optimizers(trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> list[Optimizer]:
    """Describe every optimizer with its parameter groups. Meant for the start of training.

    Args:
        trainer: The Trainer.
        module: The LightningModule, not wrapped by a strategy.
        gaps: Receives a gap for whatever could not be recorded.

    Returns:
        The optimizers, in the order of `configure_optimizers`; with and without manual optimization.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found: list[Optimizer] = []
    for wrapped in trainer.optimizers:
        optimizer: Any = wrapped.optimizer if isinstance(wrapped, LightningOptimizer) else wrapped
        if type(optimizer).__name__ == "_MockOptimizer":  # Lightning's stand-in for None
            reason = "configure_optimizers returned no optimizer: how weights change is up to the code"
            gaps.at("optimizers").add(reason, "return the optimizer from configure_optimizers")
            continue
        at_optimizer = gaps.at(f"optimizers[{len(found)}]")
        bare = Optimizer(class_path=class_path(type(optimizer)), defaults={}, param_groups=[])
        found.append(at_optimizer.observe(functools.partial(_describe, optimizer, names, at_optimizer), bare))
    return found


def _describe(optimizer: TorchOptimizer, names: dict[int, str], gaps: Gaps) -> Optimizer:
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        at_group = gaps.at(f"param_groups[{index}]")
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append(
            ParameterGroup(options=encode_all(options, at_group), parameters=_parameter_names(group, names, at_group))
        )
    for name, value in vars(optimizer).items():
        if isinstance(value, TorchOptimizer):
            reason = f"it wraps a {class_path(value)}, whose own settings are not recorded"
            gaps.at(name).add(reason, "give its settings as hyperparameters")
    return Optimizer(
        class_path=class_path(type(optimizer)),
        defaults=encode_all(getattr(optimizer, "defaults", {}), gaps.at("defaults")),
        param_groups=groups,
    )


def _parameter_names(group: Mapping[str, Any], names: dict[int, str], gaps: Gaps) -> list[str]:
    """Return the names of a group's parameters; those that the user gave where the module knows none."""
    given = group.get("param_names") or []
    found = []
    strangers = 0
    for index, parameter in enumerate(group["params"]):
        name = names.get(id(parameter))
        strangers += name is None
        found.append(name or (str(given[index]) if index < len(given) else NOT_IN_MODULE))
    if strangers:
        reason = f"{strangers} of its parameters are not parameters of the LightningModule (when training began)"
        gaps.at("parameters").add(reason, "register them in the LightningModule")
    return found


def capture_schedulers(trainer: LightningTrainer, gaps: Gaps) -> list[Scheduler]:
    """Describe every learning rate scheduler: when it steps, its constants, its parts, the functions that it calls.

    Args:
        trainer: The Trainer.
        gaps: Receives a gap for whatever could not be recorded.

    Returns:
        The schedulers, in the order of `configure_optimizers`.
    """
    found = []
    manual = not getattr(trainer.lightning_module, "automatic_optimization", True)
    for index, config in enumerate(trainer.lr_scheduler_configs):
        at_scheduler = gaps.at(f"schedulers[{index}]")
        sources: dict[str, str] = {}
        walk = _Walk(sources, at_scheduler)
        settings: dict[str, Any] = {}
        observe = functools.partial(walk.settings, config.scheduler, "", 0)
        settings = at_scheduler.at("settings").observe(observe, settings)
        if manual:
            reason = "under manual optimization it steps where training_step says so, not by interval and frequency"
            at_scheduler.at("interval").add(reason, "see loss.training_step")
        if config.reduce_on_plateau and not config.strict:
            settings["strict"] = False  # it is skipped when its metric is missing
        found.append(
            Scheduler(
                class_path=class_path(type(config.scheduler)),
                interval=config.interval,
                frequency=config.frequency,
                monitor=config.monitor,
                settings=settings,
                sources=sources,
            )
        )
    return found


class _Walk:
    """One walk through a scheduler and what it is made of.

    Args:
        sources: Receives the source code of functions, by their place in the settings.
        gaps: Stands at the scheduler's place in the record. Receives a gap for whatever could not be recorded.
    """

    def __init__(self, sources: dict[str, str], gaps: Gaps) -> None:
        self._sources = sources
        self._gaps = gaps
        self._inside: set[int] = set()

    def settings(self, scheduler: Any, place: str, depth: int) -> dict[str, Any]:
        """Return a scheduler's attributes, whatever its `state_dict` leaves out."""
        found: dict[str, Any] = {}
        self._inside.add(id(scheduler))
        for name, value in sorted(vars(scheduler).items()):
            if name in _BOOKKEEPING or name.startswith("__") or isinstance(value, TorchOptimizer):
                continue
            here = f"{place}.{name}" if place else name
            special = self._special(value, here, depth)
            found[name] = encode(value, self._gaps.at(f"settings.{here}")) if special is _NOTHING else special
        self._inside.discard(id(scheduler))
        return found

    def _special(self, value: Any, place: str, depth: int) -> Any:
        """Return what stands for schedulers and functions, alone and in lists; `_NOTHING` for anything else."""
        if isinstance(value, weakref.ref):
            value = value()
        if _is_scheduler(value):
            if depth >= _MAX_DEPTH or id(value) in self._inside:
                self._gaps.at(f"settings.{place}").add("it contains itself, or lies too deep", "use flatter parts")
                return {"type": class_path(type(value))}
            return {"type": class_path(type(value)), "settings": self.settings(value, place, depth + 1)}
        if isinstance(value, list | tuple) and any(_is_scheduler(item) or _is_function(item) for item in value):
            if len(value) > _MAX_PARTS:
                return _NOTHING
            return [self._item(item, f"{place}[{index}]", depth) for index, item in enumerate(value)]
        return self._function(value, place) if _is_function(value) else _NOTHING

    def _item(self, value: Any, place: str, depth: int) -> Any:
        special = self._special(value, place, depth)
        return encode(value, self._gaps.at(f"settings.{place}")) if special is _NOTHING else special

    def _function(self, value: Any, place: str) -> dict[str, Any]:
        """Return a function by name, with the values that it takes from around it; its source goes to the sources."""
        gaps = self._gaps.at(f"settings.{place}")
        described: dict[str, Any] = {}
        if isinstance(value, functools.partial):
            described["args"] = encode(list(value.args), gaps.at("args"))
            described["keywords"] = encode_all(value.keywords, gaps.at("keywords"))
            return {**self._function(value.func, place), **described}
        described["name"] = class_path(value)
        code = value if inspect.isroutine(value) else type(value)
        source = recorded_source(code, self._gaps.at(f"sources.{place}"))
        if source is not None:
            self._sources[place] = source
        elif not (inspect.isbuiltin(value) or value.__class__.__module__ == "builtins"):
            gaps.add("the source code of the function is not available", "define it at the top of a module")
        if not inspect.isroutine(value):  # an object that can be called
            return {**described, "settings": encode_all(vars(value), gaps)}
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, type | types.ModuleType | LightningModule):
            described["self"] = encode_all(getattr(owner, "__dict__", {}), gaps.at("self"))
        function = inspect.unwrap(getattr(value, "__func__", value))
        if isinstance(function, types.FunctionType):
            variables = _variables(function)
            if variables:
                described["variables"] = encode_all(variables, gaps.at("variables"))
        return described

    def _gap(self, where: str, reason: str, remedy: str) -> None:
        self._gaps.add(reason, remedy)


def _variables(function: types.FunctionType) -> dict[str, Any]:
    """Return the values that a function takes from around it: defaults, closure, globals that are plain values."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    outside = inspect.getclosurevars(function)
    around = {
        name: value
        for name, value in {**outside.globals, **outside.nonlocals}.items()
        # Modules, classes and functions are code, which the record has elsewhere; a module's settings are in its own
        # part of the record.
        if not (isinstance(value, types.ModuleType | type | torch.nn.Module) or inspect.isroutine(value))
    }
    return {**around, **defaults}


def _is_scheduler(value: object) -> bool:
    return isinstance(value, LRScheduler | ReduceLROnPlateau)


def _is_function(value: object) -> bool:
    """Return True for what a scheduler calls: functions, and objects of somebody's own class that can be called."""
    if isinstance(value, type | torch.Tensor) or not callable(value):
        return False
    return inspect.isroutine(value) or isinstance(value, functools.partial) or hasattr(value, "__dict__")
