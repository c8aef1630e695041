"""The settings of losses: arguments of loss functions, and attributes of loss modules and metrics."""

import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torchmetrics import Metric

from lightning_dtool.capture.loss_graph import MAX_CALLS, tensors_in
from lightning_dtool.record import Gaps, LossCall, as_text
from lightning_dtool.values.attributes import attributes_of
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.writing import encode, encode_all

MAX_WEIGHTS = 1000
"""Maximum number of elements of a tensor of weights that is recorded by value."""

_MAX_ENTRIES = 100
"""Maximum number of entries of a container with data that are described."""

_MAX_DEPTH = 5
"""Maximum depth of containers with data that are described."""

_WEIGHTS = frozenset({"weight", "pos_weight"})

_LEGACY = ("size_average", "reduce")
"""Arguments that PyTorch has replaced by `reduction`. They are left out if they are not used."""


def is_loss(module: torch.nn.Module) -> bool:
    """Return True for PyTorch's loss modules, and for modules with the name of a loss.

    >>> is_loss(torch.nn.MSELoss()), is_loss(torch.nn.Linear(1, 1))
    (True, False)
    """
    if isinstance(module, LightningModule | Metric):
        return False
    return isinstance(module, torch.nn.modules.loss._Loss) or type(module).__name__.endswith(("Loss", "Criterion"))


def describe_loss_modules(module: LightningModule, gaps: Gaps) -> list[LossCall]:
    """Return the loss modules of a LightningModule, whether or not they were called."""
    found = [(name, child) for name, child in module.named_modules() if name and is_loss(child)]
    calls: list[LossCall] = []
    for name, child in found[:MAX_CALLS]:
        settings = loss_settings(child, gaps.at(f"loss.calls[{len(calls)}]"))
        calls.append(LossCall(name=class_path(type(child)), kind="module", attribute=name, arguments=settings))
    return calls


def bound_arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, or by position for a built-in function without a signature."""
    try:
        bound = inspect.signature(func).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**{f"args[{index}]": value for index, value in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name not in _LEGACY or value is not None}


def encode_arguments(arguments: Mapping[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return the arguments of a loss function as strict JSON, with data by shape and weights by value.

    Args:
        arguments: The arguments by name. Containers and objects that hold tensors, such as a batch or a distribution,
            are data, too.
        gaps: Receives a gap for each setting that cannot be recorded.
    """
    gaps = gaps.at("arguments")
    data = {name for name, value in arguments.items() if _holds_tensors(value)}
    encoded = encode_all({name: value for name, value in arguments.items() if name not in data}, gaps)
    return {
        name: _outlined(name, value, gaps) if name in data else encoded.get(name) for name, value in arguments.items()
    }


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, Mapping | list | tuple):
        entries = list(itertools.islice(value.values() if isinstance(value, Mapping) else value, _MAX_ENTRIES))
        return depth < _MAX_DEPTH and any(_holds_tensors(entry, depth + 1) for entry in entries)
    return next(tensors_in(attributes_of(value)), None) is not None


def _outlined(name: str, value: Any, gaps: Gaps, depth: int = 0) -> Any:
    """Return the JSON of data: tensors by shape, objects by class, and the other entries of containers by value."""
    if isinstance(value, torch.Tensor):
        return _tensor(name, value, gaps)
    if isinstance(value, Mapping | list | tuple) and len(value) <= _MAX_ENTRIES and depth < _MAX_DEPTH:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {
                as_text(key): _outlined(key, entry, gaps.at(as_text(key)), depth + 1) for key, entry in value.items()
            }
        if isinstance(value, list | tuple):
            return [_outlined("", entry, gaps.at(f"[{index}]"), depth + 1) for index, entry in enumerate(value)]
    if isinstance(value, torch.nn.Module | Mapping | list | tuple):
        return {"type": class_path(type(value))}
    if not _holds_tensors(value):
        return encode(value, gaps)
    tensors = {key: entry for key, entry in (attributes_of(value) or {}).items() if isinstance(entry, torch.Tensor)}
    described = {as_text(key): _tensor(key, entry, gaps) for key, entry in tensors.items() if not key.startswith("_")}
    return {"type": class_path(type(value)), **plain_attributes(value), **described}


def plain_attributes(owner: object) -> dict[str, Any]:
    """Return the public attributes of an object that are plain numbers, texts or flags."""
    return (
        {
            name: value
            for name, value in vars(owner).items()
            if not name.startswith("_") and name != "training" and isinstance(value, bool | int | float | str | None)
        }
        if hasattr(owner, "__dict__")
        else {}
    )


def _tensor(name: str, tensor: torch.Tensor, gaps: Gaps) -> Any:
    """Return the JSON of a tensor: small weights by value, data by shape."""
    if name in _WEIGHTS and tensor.dim() < 2 and tensor.numel() <= MAX_WEIGHTS:
        return encode(tensor, gaps.at(name))
    if name in _WEIGHTS:
        reason = f"only the shape of its {tensor.numel()} weights is recorded"
        gaps.at(name).add(reason, "keep them as a buffer")
    return _shape(tensor)


def _shape(tensor: torch.Tensor) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"type": class_path(type(tensor)), "dtype": dtype, "shape": list(tensor.shape)}


def loss_settings(module: torch.nn.Module, gaps: Gaps) -> dict[str, Any]:
    """Return the public attributes, buffers and children of a loss module or a metric."""
    states = set(getattr(module, "_defaults", {})) if isinstance(module, Metric) else set()
    hidden = states | {"training", "update", "compute"} if isinstance(module, Metric) else {"training"}
    plain = {name: value for name, value in vars(module).items() if not name.startswith("_") and name not in hidden}
    computed = {name for name, value in plain.items() if isinstance(value, torch.Tensor) and value.grad_fn is not None}
    plain = {name: value for name, value in plain.items() if name not in computed}
    gaps = gaps.at("arguments")
    tensors: dict[str, Any] = {
        name: encode(value, gaps.at(name))
        if value is None or value.numel() <= MAX_WEIGHTS
        else _tensor(name, value, gaps)
        for name, value in module._buffers.items()
        if name not in states
    }
    for name, parameter in module._parameters.items():
        tensors[name] = None if parameter is None else _shape(parameter)
    for name, child in module._modules.items():
        tensors[name] = None if child is None else {"type": class_path(type(child))}
    return {**encode_all(plain, gaps), **tensors}
