"""The optimizers with their parameter groups, and the learning rate schedulers."""

import ast
import functools
import inspect
import re
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import Optimizer as TorchOptimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_dtool.capture.tokens import Same, Token, TokenWalk
from lightning_dtool.record import Gaps, Optimizer, ParameterGroup, Scheduler
from lightning_dtool.redaction.record import redact_value
from lightning_dtool.values.definitions import class_path, source_of
from lightning_dtool.values.parsing import parse
from lightning_dtool.values.writing import encode, encode_all, encode_in_detail

NOT_IN_MODULE = "<not in the LightningModule>"
"""Placeholder for a parameter of an optimizer that has no name in the LightningModule."""

_BOOKKEEPING = frozenset(
    {"_step_count", "_last_lr", "_get_lr_called_within_step", "_get_lr_called", "_is_initial", "_initial_step"}
)
"""Attributes of PyTorch's schedulers that are state, not settings."""

_SCHEDULED = re.compile(r"optimizers\[(\d+)\]\.param_groups\[\d+\]\.options\.(lr|momentum|betas)\b")
"""Options of an optimizer that schedulers change."""

_STEPPING = frozenset({"step", "train", "eval"})
"""Methods of optimizers that are called during training, some before and after validation."""

_OPTION = re.compile(r"optimizers\[(\d+)\]\.param_groups\[\d+\]\.options\.(\w+)")

_OF_A_SCHEDULER = re.compile(r"schedulers\[(\d+)\]\.settings(?:.*\.attributes)?\.(\w+)")
"""An attribute of a scheduler, or of the innermost of its nested schedulers."""

_MAX_DEPTH = 8
"""Maximum depth of nested schedulers."""

_MAX_PARTS = 100
"""Maximum number of functions or schedulers of one list that are recorded."""


def capture_optimizers(trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> list[Optimizer]:
    """Describe each optimizer with its parameter groups.

    Args:
        trainer: The Trainer.
        module: The LightningModule, not wrapped by a strategy.
        gaps: Receives a gap for everything that could not be recorded.

    Returns:
        The optimizers in the order of `configure_optimizers`, also with manual optimization.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found: list[Optimizer] = []
    for wrapped in trainer.optimizers:
        optimizer = _unwrapped(wrapped)
        if type(optimizer).__name__ == "_MockOptimizer":  # Lightning's stand-in for None
            reason = "configure_optimizers returned no optimizer, so how the weights change is not known"
            gaps.at("optimizers").add(reason, "return the optimizer from configure_optimizers")
            continue
        at_optimizer = gaps.at(f"optimizers[{len(found)}]")
        bare = Optimizer(class_path=class_path(type(optimizer)), defaults={}, param_groups=[])
        found.append(at_optimizer.observe(functools.partial(_describe, optimizer, names, at_optimizer), bare))
    return found


def optimizers_token(trainer: LightningTrainer, module: LightningModule) -> Token:
    """Return a token of everything that `capture_optimizers` records, apart from the names of the parameters.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
    """
    walk = TokenWalk()
    found = []
    for wrapped in trainer.optimizers:
        optimizer = _unwrapped(wrapped)
        groups = [
            (
                list(group),
                walk.tokens([value for name, value in group.items() if name != "params"]),
                Same(group["params"]),
            )
            for group in optimizer.param_groups
        ]
        found.append((type(optimizer), walk.token(getattr(optimizer, "defaults", None)), groups))
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
            gaps.at(name).add(reason, "make its settings hyperparameters")
    return Optimizer(
        class_path=class_path(type(optimizer)),
        defaults=encode_all(getattr(optimizer, "defaults", {}), gaps.at("defaults")),
        param_groups=groups,
    )


def _parameter_names(group: Mapping[str, Any], names: dict[int, str], gaps: Gaps) -> list[str]:
    """Return the names of a group's parameters in the module, or else the names that the user gave them."""
    given = group.get("param_names") or []
    found = []
    strangers = 0
    for index, parameter in enumerate(group["params"]):
        name = names.get(id(parameter))
        strangers += name is None
        found.append(name or (str(given[index]) if index < len(given) else NOT_IN_MODULE))
    if strangers:
        reason = f"{strangers} of its parameters are not parameters of the LightningModule"
        gaps.at("parameters").add(reason, "register them in the LightningModule")
    return found


def capture_schedulers(trainer: LightningTrainer, gaps: Gaps) -> list[Scheduler]:
    """Describe each learning rate scheduler: when it steps, its constants, nested schedulers and functions.

    Args:
        trainer: The Trainer.
        gaps: Receives a gap for everything that could not be recorded.

    Returns:
        The schedulers in the order of `configure_optimizers`.
    """
    found = []
    manual = not getattr(trainer.lightning_module, "automatic_optimization", True)
    for index, config in enumerate(trainer.lr_scheduler_configs):
        at_scheduler = gaps.at(f"schedulers[{index}]")
        at_settings = at_scheduler.at("settings")
        settings: dict[str, Any] = {}
        settings = at_settings.observe(functools.partial(_Walk().settings, config.scheduler, at_settings), settings)
        if manual:
            reason = (
                "with manual optimization, training_step decides when it steps; interval and frequency have no effect"
            )
            at_scheduler.at("interval").add(reason, "see loss.training_step")
        if config.reduce_on_plateau and not config.strict:
            settings["strict"] = False  # if its metric is missing, the step is skipped
        found.append(
            Scheduler(
                class_path=class_path(type(config.scheduler)),
                interval=config.interval,
                frequency=config.frequency,
                monitor=config.monitor,
                settings=settings,
            )
        )
    return found


class Schedule:
    """What changes at each step: options that schedulers or the optimizers' own code change, and schedulers' states.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: LightningTrainer) -> None:
        schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
        optimizers = [_unwrapped(optimizer) for optimizer in trainer.optimizers]
        places = {id(optimizer): index for index, optimizer in enumerate(optimizers)}
        self._written = [_options_written(type(optimizer)) for optimizer in optimizers]  # type: ignore[arg-type]
        owned = [(places.get(id(_unwrapped(getattr(each, "optimizer", None)))), each) for each in schedulers]
        self._rates = {place for place, _ in owned}
        self._momenta = {place for place, each in owned if any(map(_may_change_momentum, _with_nested(each)))}
        self._settings = [
            frozenset().union(*(_parameters(type(nested)) for nested in _with_nested(scheduler)))  # type: ignore[arg-type]
            for scheduler in schedulers
        ]

    def changes(self, fact: str) -> bool:
        """Return True for a fact that changes when a scheduler or an optimizer steps.

        Args:
            fact: A path into the record. Attributes of a scheduler that are no parameters of its class are its state.
        """
        option = _OPTION.match(fact)
        if option is not None and int(option[1]) < len(self._written) and option[2] in self._written[int(option[1])]:
            return True
        option = _SCHEDULED.match(fact)
        if option is not None:
            return int(option[1]) in (self._rates if option[2] == "lr" else self._momenta)
        attribute = _OF_A_SCHEDULER.match(fact)
        if attribute is None or int(attribute[1]) >= len(self._settings):
            return False
        name = attribute[2].lstrip("_")
        known = self._settings[int(attribute[1])]
        return name == "last_epoch" or not ({name, name.removesuffix("s")} & known or name == "base_lrs")


@functools.lru_cache(maxsize=1000)
def _options_written(cls: type) -> frozenset[str]:
    """Return the options of parameter groups that the methods of an optimizer's class assign, such as a counter.

    PyTorch's own optimizers keep their state elsewhere.
    """
    found: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        try:
            tree = parse(source_of(base) or "")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in _STEPPING]
        found |= {
            node.slice.value
            for method in methods
            for node in ast.walk(method)
            if isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and "group" in node.value.id  # not `state`, whose entries may have the names of options
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        }
    return frozenset(found)


def _unwrapped(optimizer: Any) -> Any:
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _with_nested(scheduler: Any, depth: int = 0) -> Iterator[Any]:
    yield scheduler
    nested = getattr(scheduler, "_schedulers", None)
    if isinstance(nested, list | tuple) and depth < _MAX_DEPTH:
        for each in nested:
            yield from _with_nested(each, depth + 1)


def _may_change_momentum(scheduler: Any) -> bool:
    """Return whether a scheduler may change more than learning rates. Of PyTorch's schedulers, only two do."""
    if type(scheduler).__module__.partition(".")[0] == "torch":
        return bool(getattr(scheduler, "cycle_momentum", False))
    return True


@functools.lru_cache(maxsize=1000)
def _parameters(cls: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(cls).parameters)
    except (TypeError, ValueError):
        return frozenset()


class _Walk:
    """One walk through a scheduler and its nested schedulers."""

    def __init__(self) -> None:
        self._inside: set[int] = set()

    def settings(self, scheduler: Any, gaps: Gaps) -> dict[str, Any]:
        """Return a scheduler's attributes, including those that its `state_dict` leaves out."""
        self._inside.add(id(scheduler))
        found = {
            name: self._setting(value, gaps.at(name))
            for name, value in sorted(vars(scheduler).items())
            if not (name in _BOOKKEEPING or name.startswith("__") or isinstance(value, TorchOptimizer))
        }
        self._inside.discard(id(scheduler))
        return found

    def _setting(self, value: Any, gaps: Gaps) -> Any:
        if isinstance(value, weakref.ref):
            value = value()
        if _is_scheduler(value):
            if len(self._inside) > _MAX_DEPTH or id(value) in self._inside:
                gaps.add("it contains itself or is nested too deeply", "use fewer nested schedulers")
                return {"type": class_path(value), "repr": "…"}
            # Not with `encode`, which would also write the optimizer of the scheduler. It is recorded elsewhere.
            return {"type": class_path(value), "attributes": self.settings(value, gaps)}
        if isinstance(value, list) and len(value) <= _MAX_PARTS:
            return [self._setting(entry, gaps.at(f"[{index}]")) for index, entry in enumerate(value)]
        if not _is_function(value):
            return encode(value, gaps)
        if _is_scheduler(getattr(value, "__self__", None)):  # a method of a scheduler
            return {"type": "builtins:method", "name": class_path(value), "missing": ["__self__"]}
        return redact_value(encode_in_detail(value, gaps), gaps)


def _is_scheduler(value: object) -> bool:
    return isinstance(value, LRScheduler | ReduceLROnPlateau)


def _is_function(value: object) -> bool:
    """Return True for what a scheduler may call: functions, and callable objects of a user's class."""
    if isinstance(value, type | torch.Tensor) or not callable(value):
        return False
    return inspect.isroutine(value) or isinstance(value, functools.partial) or hasattr(value, "__dict__")
