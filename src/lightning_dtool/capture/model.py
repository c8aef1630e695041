"""The model: its class, hyperparameters and children."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.nn.parameter import is_lazy

from lightning_dtool.capture.arguments import capture_arguments
from lightning_dtool.capture.hyperparameters import current_hyperparameters, without_cli_keys
from lightning_dtool.capture.model_settings import capture_settings
from lightning_dtool.capture.source_text import recorded_source
from lightning_dtool.record import Child, Gaps, Model, as_text
from lightning_dtool.values.definitions import class_path, source_digest, without_addresses
from lightning_dtool.values.writing import encode_all

MAX_ARCHITECTURE = 50_000
"""Maximum length of the printed module, in characters."""

MAX_NAMES = 1000
"""Maximum number of names of frozen parameters, and of direct children, that are recorded."""

_MAX_PARTS = 20_000
"""Maximum number of modules and parameters of a module that is printed. PyTorch prints larger ones too slowly."""


def capture_model(module: LightningModule, gaps: Gaps) -> Model:
    """Describe a LightningModule: its class, hyperparameters, size, children and architecture.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        gaps: Receives a gap for everything that could not be recorded.

    Returns:
        The record's section, without the initial weights (see `capture_initial_weights`).
    """
    source = recorded_source(type(module), gaps.at("model.source"))
    if source is None:
        reason, remedy = "the source code of the class is not available", "define the class in a file"
        gaps.at("model.source_sha256").add(reason, remedy)
    total = trainable = parts = lazy = 0
    frozen = []
    for name, parameter in module.named_parameters():
        parts += 1
        lazy += is_lazy(parameter)
        count = _size(parameter)
        total += count
        if parameter.requires_grad:
            trainable += count
        else:
            frozen.append(as_text(name))
    if lazy:
        reason = f"{lazy} parameters of lazy layers have no size before the first batch and are counted as 0"
        gaps.at("model.parameters_total").add(reason, "run a batch through the model before fit")
    at_settings = gaps.at("model.settings")
    settings: dict[str, Any] = {}
    settings = at_settings.observe(lambda: capture_settings(module, at_settings), settings)
    return Model(
        class_path=class_path(type(module)),
        source=source,
        source_sha256=source_digest(type(module)),
        hyperparameters=encode_hyperparameters(current_hyperparameters(module), gaps),
        arguments=capture_arguments(module, gaps.at("model.arguments"), "load_module"),
        settings=settings,
        parameters_total=total,
        parameters_trainable=trainable,
        children=_first(list(_children(module)), gaps.at("model.children")),
        frozen=_first(frozen, gaps.at("model.frozen")),
        architecture=_architecture(module, parts, gaps),
    )


def encode_hyperparameters(hparams: Mapping[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return hyperparameters as strict JSON, without LightningCLI's own keys."""
    return encode_all(without_cli_keys(hparams), gaps.at("model.hyperparameters"))


def _size(parameter: torch.Tensor) -> int:
    # A lazy parameter has no size before the first batch.
    return 0 if is_lazy(parameter) else parameter.numel()


def _children(module: torch.nn.Module) -> Iterator[Child]:
    """Yield the direct children. A child with two names, or a parameter that two children share, counts twice."""
    for name, child in module._modules.items():
        if child is None:
            continue
        sizes = [(_size(parameter), parameter.requires_grad) for parameter in child.parameters()]
        yield Child(
            name=as_text(name),
            class_path=class_path(type(child)),
            parameters_total=sum(size for size, _ in sizes),
            parameters_trainable=sum(size for size, trainable in sizes if trainable),
        )


def _first(entries: list[Any], gaps: Gaps) -> list[Any]:
    if len(entries) > MAX_NAMES:
        reason = f"only the first {MAX_NAMES} of its {len(entries)} entries are recorded"
        gaps.add(reason)
    return entries[:MAX_NAMES]


def _bounded(text: str, limit: int, gaps: Gaps) -> str:
    if len(text) > limit:
        reason = f"only the first {limit} of its {len(text)} characters are recorded"
        gaps.add(reason)
    return as_text(text[:limit])


def _architecture(module: torch.nn.Module, parameters: int, gaps: Gaps) -> str | None:
    """Return a module as PyTorch prints it, or an outline of its first modules if it is very large."""
    gaps = gaps.at("model.architecture")
    try:
        if parameters + sum(1 for _ in module.modules()) <= _MAX_PARTS:
            return _bounded(without_addresses(repr(module)), MAX_ARCHITECTURE, gaps)
        gaps.add("it has too many modules and parameters to print, so only an outline of the first modules is recorded")
        return _outline(module)
    except Exception as error:  # a user's __repr__ may raise anything
        gaps.add(f"printing it raised {type(error).__name__}")
        return None


def _outline(module: torch.nn.Module) -> str:
    lines: list[str] = []
    left = MAX_ARCHITECTURE
    for name, child in module.named_modules():
        line = as_text(f"{'  ' * (name.count('.') + bool(name))}({name.rpartition('.')[2]}): {type(child).__name__}")
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    return "\n".join(lines)
