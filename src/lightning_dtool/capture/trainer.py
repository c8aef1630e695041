"""The settings of the Trainer, its callbacks and loggers, and its metrics."""

import datetime
import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_dtool.capture.tokens import Same, Token, TokenWalk
from lightning_dtool.record import Component, Gaps, Monitor, Trainer
from lightning_dtool.redaction.record import redact_mapping
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.surroundings import values_around
from lightning_dtool.values.writing import encode, encode_all

_SETTINGS = (
    "max_epochs",
    "min_epochs",
    "max_steps",
    "min_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "log_every_n_steps",
    "reload_dataloaders_every_n_epochs",
    "num_devices",
    "num_nodes",
    "world_size",
    "precision",
    "fast_dev_run",
    "barebones",
)
"""Settings that the Trainer keeps under the name of its parameter."""

_OF_THE_STRATEGY = frozenset({"num_devices", "num_nodes", "world_size", "precision"})
"""Settings that follow from the strategy, and do not change while it is the same one."""

_of_the_trainer = operator.attrgetter(
    *(name for name in _SETTINGS if name not in _OF_THE_STRATEGY),
    "_detect_anomaly",
    "validate_loop.inference_mode",
    "_accelerator_connector.use_distributed_sampler",
)

_ELSEWHERE: dict[str, Callable[[Any], Any]] = {
    "detect_anomaly": lambda trainer: trainer._detect_anomaly,
    "inference_mode": lambda trainer: trainer.validate_loop.inference_mode,
    "deterministic": lambda trainer: _deterministic(),
    "use_distributed_sampler": lambda trainer: trainer._accelerator_connector.use_distributed_sampler,
    "sync_batchnorm": lambda trainer: trainer._accelerator_connector._layer_sync is not None,
    "accelerator": lambda trainer: type(trainer.accelerator),
    "strategy": lambda trainer: type(trainer.strategy),
    "devices": lambda trainer: [str(device) for device in _devices(trainer)],
    "profiler": lambda trainer: type(trainer.profiler),
    "plugins": lambda trainer: {
        "precision": type(trainer.precision_plugin),
        "layer_sync": _class_or_none(trainer._accelerator_connector._layer_sync),
        "cluster_environment": _class_or_none(getattr(trainer.strategy, "cluster_environment", None)),
    },
}
"""Settings that the Trainer keeps elsewhere or in another form. A private attribute that has moved becomes a gap.

A class stands for its path.
"""

_OF_THE_TRAINER = frozenset(
    {"accelerator", "checkpoint_io", "cluster_environment", "device", "parallel_devices", "precision_plugin", "plugin"}
)
"""Parameters of a strategy that the Trainer sets and that are recorded separately."""

_HOOKS = (
    "backward", "configure_gradient_clipping", "lr_scheduler_step", "manual_backward", "optimizer_step",
    "optimizer_zero_grad", "transfer_batch_to_device",
)  # fmt: skip
"""Methods of a LightningModule that replace a part of the Trainer's work."""

_ABSENT: Any = object()

_HOLD_NO_PARTS = frozenset({type(None), bool, int, float, str, bytes, type, datetime.timedelta, torch.device})
"""Types of settings that hold no part of the LightningModule."""

_MAX_NAMED = 1000
"""Maximum length of a list that is searched for parts of the LightningModule."""

_MAX_DEPTH = 3
"""Maximum depth of nested lists that are searched for parts of the LightningModule."""

_NOT_SETTINGS = frozenset({"self", "trainer", "pl_module", "parser", "config"})


def capture_trainer(trainer: LightningTrainer, gaps: Gaps, module: LightningModule | None = None) -> Trainer:
    """Return the Trainer's settings that affect the result, its callbacks and its loggers.

    Args:
        trainer: The Trainer.
        gaps: Receives a gap for everything that could not be read.
        module: The LightningModule, which may replace a part of the Trainer's work.
    """
    gaps = gaps.at("trainer")
    at_settings = gaps.at("settings")
    settings: dict[str, Any] = {}
    for name, read in _readers(trainer, module).items():
        # Another version of Lightning, or a user's Trainer, may lack any of them.
        value = at_settings.at(name).observe(read, _ABSENT)
        if value is not _ABSENT:
            settings[name] = encode(value, at_settings.at(name))
    return Trainer(
        settings=redact_mapping(settings, at_settings),
        callbacks=[
            _component(callback, gaps.at(f"callbacks[{index}]"), module, callback.state_key)
            for index, callback in enumerate(trainer.callbacks)  # type: ignore[attr-defined]
        ],
        loggers=[
            _component(logger, gaps.at(f"loggers[{index}]"), module) for index, logger in enumerate(trainer.loggers)
        ],
    )


def trainer_token(trainer: LightningTrainer, module: LightningModule) -> Token:
    """Return a token of everything that `capture_trainer` records.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
    """
    walk = TokenWalk()
    strategy: Any = trainer.strategy
    plugin = strategy.precision_plugin
    kept = vars(module)
    # `deterministic` is one of the flags of torch, with which this part is observed again.
    return (
        Same((strategy, plugin)),
        walk.tokens(_of_the_trainer(trainer)),
        type(trainer.profiler),  # type: ignore[attr-defined]
        plugin.precision,
        _kept_token(walk, plugin, module),
        _kept_token(walk, strategy, module, _OF_THE_TRAINER),
        walk.token(getattr(strategy, "_ddp_kwargs", None)),
        module.automatic_optimization,
        [name for name in _HOOKS if name in kept],
        [(type(part), _kept_token(walk, part, module)) for part in trainer.callbacks],  # type: ignore[attr-defined]
        [(type(part), _kept_token(walk, part, module)) for part in trainer.loggers],
    )


def _kept_token(
    walk: TokenWalk, part: object, module: LightningModule, without: frozenset[str] = frozenset()
) -> list[Token]:
    """Return the tokens of the constructor arguments that an object keeps, in the order of the parameters."""
    attributes = getattr(part, "__dict__", {})
    values = [
        attributes[name] if name in attributes else attributes.get(private, _Absent)
        for name, private, _ in _parameters(type(part))  # type: ignore[arg-type]
        if name not in without
    ]
    if not _HOLD_NO_PARTS.issuperset(map(type, values)):
        values = list(_with_names(dict(enumerate(values)), module).values())
    return walk.tokens(values)


class _Absent:
    """Stands in a token for an argument that is not kept."""


def _readers(trainer: LightningTrainer, module: LightningModule | None) -> dict[str, Callable[[], Any]]:
    """Return functions that read the settings of a Trainer, by name."""
    readers: dict[str, Callable[[], Any]] = {
        **{name: functools.partial(_setting, trainer, name) for name in _SETTINGS},
        **{name: functools.partial(_elsewhere, trainer, read) for name, read in _ELSEWHERE.items()},
        "strategy_settings": lambda: _strategy_settings(trainer.strategy),
        "precision_settings": lambda: _constructed(trainer.precision_plugin)[0],
    }
    if module is not None:
        readers["automatic_optimization"] = lambda: module.automatic_optimization
        readers["hooks_of_the_module"] = lambda: [name for name in _HOOKS if is_overridden(name, module)]
    return readers


def _setting(trainer: LightningTrainer, name: str) -> Any:
    value = getattr(trainer, name)
    # Lightning's string enumerations are recorded as text.
    return str(value.value) if isinstance(value, str) and hasattr(value, "value") else value


def _elsewhere(trainer: LightningTrainer, read: Callable[[Any], Any]) -> Any:
    value = read(trainer)
    if isinstance(value, dict):
        return {key: class_path(entry) if entry is not None else None for key, entry in value.items()}
    return class_path(value) if isinstance(value, type) else value


def _deterministic() -> bool | str:
    """Return the Trainer's `deterministic` from torch, because the Trainer does not keep it."""
    return (
        "warn"
        if torch.is_deterministic_algorithms_warn_only_enabled()
        else torch.are_deterministic_algorithms_enabled()
    )


def _devices(trainer: Any) -> list[Any]:
    parallel = getattr(trainer.strategy, "parallel_devices", None)
    return list(parallel) if parallel else [trainer.strategy.root_device]


def _class_or_none(plugin: object) -> type | None:
    return type(plugin) if plugin is not None else None


def _strategy_settings(strategy: Any) -> dict[str, Any]:
    kept, _ = _constructed(strategy)
    kept = {name: value for name, value in kept.items() if name not in _OF_THE_TRAINER}
    return kept | dict(getattr(strategy, "_ddp_kwargs", {}))  # such as `find_unused_parameters`


def _component(part: Any, gaps: Gaps, module: LightningModule | None, state_key: str | None = None) -> Component:
    """Describe a callback or a logger."""
    try:
        kept, missing = _constructed(part)
    except Exception as error:  # a user's class may raise anything
        kept, missing = {}, []
        reason = f"reading a {class_path(type(part))} raised {type(error).__name__}"
        gaps.at("settings").add(reason, "keep its parameters in plain attributes")
    if missing and not _is_of_lightning(type(part)):
        gaps.at("settings").add(
            f"a {class_path(type(part))} does not keep these parameters: {', '.join(missing)}",
            "assign each parameter of __init__ to an attribute of that name",
        )
    at_constants = gaps.at("constants")
    constants = encode_all(values_around(type(part)), at_constants)
    settings = encode_all(_with_names(kept, module), gaps.at("settings"))
    return Component(
        class_path=class_path(type(part)),
        state_key=str(state_key) if state_key is not None else None,
        settings=redact_mapping(settings, gaps.at("settings")),
        constants=redact_mapping(constants, at_constants),
    )


def _with_names(kept: dict[Any, Any], module: LightningModule | None) -> dict[Any, Any]:
    """Return settings in which parts of the LightningModule are replaced by their names, such as `pl_module.encoder`.

    ModelPruning holds layers, for example. What they are is recorded with the model, and their weights change.
    """
    if module is None or _HOLD_NO_PARTS.issuperset(map(type, kept.values())):
        return kept
    names = {id(part): ".".join(filter(None, ("pl_module", name))) for name, part in module.named_modules()}
    names |= {id(parameter): f"pl_module.{name}" for name, parameter in module.named_parameters()}
    return {name: _named(value, names) for name, value in kept.items()}


def _named(value: Any, names: Mapping[int, str], depth: int = 0) -> Any:
    if isinstance(value, torch.nn.Module | torch.nn.Parameter):
        return names.get(id(value), value)
    if type(value) in (list, tuple) and len(value) <= _MAX_NAMED and depth < _MAX_DEPTH:
        return type(value)(_named(entry, names, depth + 1) for entry in value)
    if type(value) is dict and len(value) <= _MAX_NAMED and depth < _MAX_DEPTH:
        return {key: _named(entry, names, depth + 1) for key, entry in value.items()}
    return value


def _is_of_lightning(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("lightning", "pytorch_lightning", "lightning_dtool")


def _constructed(part: object) -> tuple[dict[str, Any], list[str]]:
    """Return the constructor arguments that an object keeps, and the names of the parameters that it does not keep.

    The parameter `name` is kept as an attribute `name` or `_name`. Properties are not read, as they may have effects.
    """
    attributes = getattr(part, "__dict__", {})
    kept: dict[str, Any] = {}
    missing: list[str] = []
    for name, private, passed_on in _parameters(type(part)):  # type: ignore[arg-type]
        if name in attributes:
            kept[name] = attributes[name]
        elif private in attributes:
            kept[name] = attributes[private]
        elif not passed_on:
            missing.append(name)
    return kept, missing


@functools.lru_cache(maxsize=1000)
def _parameters(cls: Any) -> tuple[tuple[str, str, bool], ...]:
    """Return the names of a constructor's parameters, and of private attributes that may keep them.

    The third entry says whether a base class may receive the values of the parameter. With `**kwargs`, the parameters
    of the base class follow.
    """
    return tuple((name, f"_{name}", passed_on) for name, passed_on in _parameters_of(cls))


def _parameters_of(cls: type) -> Iterator[tuple[str, bool]]:
    seen = set(_NOT_SETTINGS)
    constructors = [vars(base)["__init__"] for base in cls.__mro__ if base is not object and "__init__" in vars(base)]
    for index, constructor in enumerate(constructors):
        parameters = inspect.signature(constructor).parameters.values()
        passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        for parameter in parameters:
            if parameter.name not in seen:
                seen.add(parameter.name)
                several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                yield parameter.name, several and passes_on and index + 1 < len(constructors)
        if not passes_on:
            return


def capture_monitors(trainer: LightningTrainer, gaps: Gaps) -> list[Monitor]:
    """Return the metrics that the Trainer's ModelCheckpoint callbacks monitor, with their current values."""
    return [
        Monitor(
            name=callback.monitor,
            mode=callback.mode,
            value=_scalar(
                trainer.callback_metrics.get(callback.monitor), gaps.at(f"checkpoint.monitors.{callback.monitor}")
            ),
        )
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    ]


def capture_metrics(trainer: LightningTrainer, gaps: Gaps) -> dict[str, Any]:
    """Return the latest value of each logged metric."""
    return {
        name: _scalar(value, gaps.at(f"metrics.at_checkpoint.{name}"))
        for name, value in trainer.callback_metrics.items()
    }


def _scalar(value: Any, gaps: Gaps) -> Any:
    """Return a logged metric as a number, or as text if it is not finite."""
    if value is None:
        return None
    number = float(value)
    return encode(number, gaps) if number == number and abs(number) != float("inf") else str(number)
