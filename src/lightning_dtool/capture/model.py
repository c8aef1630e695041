"""The model: its class, hyperparameters and children, and its initial weights."""

import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.nn.parameter import is_lazy

from lightning_dtool.capture.arguments import capture_arguments
from lightning_dtool.capture.hyperparameters import current_hyperparameters, without_cli_keys
from lightning_dtool.capture.source_text import recorded_source
from lightning_dtool.record import Child, DatasetReference, Gaps, InitialWeights, Model, as_text
from lightning_dtool.values.definitions import class_path, source_digest, source_of, without_addresses
from lightning_dtool.values.digests import opaque_names, state_digest
from lightning_dtool.values.writing import encode_all

MAX_ARCHITECTURE = 50_000
"""Maximum length of the printed module, in characters."""

MAX_NAMES = 1000
"""Maximum number of names of frozen parameters, and of direct children, that are recorded."""

_MAX_PARTS = 20_000
"""Maximum number of modules and parameters of a module that is printed. PyTorch prints larger ones too slowly."""

_WEIGHTS_NAME = re.compile(r"\w+_Weights\.\w+")


def capture_model(module: LightningModule, gaps: Gaps) -> Model:
    """Describe a LightningModule: its class, hyperparameters, size, children and architecture.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        gaps: Receives a gap for everything that could not be recorded.

    Returns:
        The record's section, without the initial weights (see `capture_initial_weights`).
    """
    source = source_of(type(module))
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
    return Model(
        class_path=class_path(type(module)),
        source=recorded_source(type(module), gaps.at("model.source")),
        source_sha256=source_digest(type(module)) if source else None,
        hyperparameters=encode_hyperparameters(current_hyperparameters(module), gaps),
        arguments=capture_arguments(module, gaps.at("model.arguments"), "load_module"),
        parameters_total=total,
        parameters_trainable=trainable,
        children=_first(list(_children(module)), gaps.at("model.children")),
        frozen=_first(frozen, gaps.at("model.frozen")),
        architecture=_architecture(module, parts, gaps),
    )


def encode_hyperparameters(hparams: Mapping[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return hyperparameters as strict JSON, without LightningCLI's own keys."""
    return encode_all(without_cli_keys(hparams), gaps.at("model.hyperparameters"))


def capture_initial_weights(
    module: LightningModule, parent: DatasetReference | None, gaps: Gaps, stored: bool = False
) -> InitialWeights:
    """Return the origin and the digest of the weights. To be called when fitting starts.

    Pretrained weights of torchvision are recognised by a hyperparameter, or by a bitwise comparison with the files that
    torchvision has downloaded. Those of transformers are recognised by the name in the configuration of the model. If
    pretrained weights can be neither found nor excluded, a gap says so.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        parent: The checkpoint that the weights were loaded from, if it is a dataset.
        gaps: Receives a gap for everything that could not be determined.
        stored: Whether the dataset contains the weights.
    """
    names: list[str] = []
    try:
        names = sorted({*_chosen_weights(module.hparams_initial), *_library_weights(module, gaps)})
    except Exception as error:  # a library may have changed, and a user's class may raise anything
        reason = f"looking for pretrained weights raised {type(error).__name__}"
        gaps.at("model.initial_weights.names").add(reason)
    origin = "checkpoint" if parent is not None else "pretrained" if names else "initialised"
    return InitialWeights(origin=origin, names=names, checkpoint=parent, digest=_digest(module, gaps), stored=stored)


def _digest(module: LightningModule, gaps: Gaps) -> str | None:
    try:
        state = module.state_dict()
        for name in opaque_names(state):
            reason = "the digest covers only the repr of this extra state"
            gaps.at(f"model.initial_weights.digest.{as_text(name)}").add(reason, "keep tensors")
        return state_digest(state)
    except Exception as error:  # for example sharded tensors, or an unknown tensor class
        reason = f"computing it raised {type(error).__name__}"
        gaps.at("model.initial_weights.digest").add(reason)
        return None


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


# -- pretrained weights -------------------------------------------------------------------------------


def _chosen_weights(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the names of torchvision's weights among hyperparameters."""
    if isinstance(value, Mapping) and depth < 4:
        for item in list(value.values())[:MAX_NAMES]:
            yield from _chosen_weights(item, depth + 1)
    elif isinstance(value, list | tuple) and depth < 4:
        for item in value[:MAX_NAMES]:
            yield from _chosen_weights(item, depth + 1)
    elif _is_weights(value):
        yield f"{type(value).__name__}.{value.name}"
    elif isinstance(value, str) and _WEIGHTS_NAME.fullmatch(value):
        yield value


def _library_weights(module: LightningModule, gaps: Gaps) -> Iterator[str]:
    """Yield the names of the pretrained weights of a module and its children."""
    seen: list[str] = []
    for name, child in module.named_modules():
        if any(name.startswith(f"{outer}.") for outer in seen):
            continue
        library = type(child).__module__.partition(".")[0]
        at_part = gaps.at(f"model.initial_weights.{name}")
        if library == "torchvision" and ".models." in type(child).__module__:
            seen.append(name)
            yield from _torchvision_weights(child, at_part)
        elif isinstance(getattr(child, "pretrained_cfg", None), Mapping) or library == "timm":
            seen.append(name)
            _doubt_timm(child, module.hparams_initial, at_part)
        elif library == "transformers" and (path := getattr(getattr(child, "config", None), "_name_or_path", None)):
            seen.append(name)
            reason = "transformers keeps this name even if the model was built without pretrained weights"
            at_part.add(reason, "compare the digest of the initial weights")
            yield as_text(str(path))


def _doubt_timm(child: torch.nn.Module, hparams: Mapping[str, Any], gaps: Gaps) -> None:
    if hparams.get("pretrained") is False:
        return
    configuration = getattr(child, "pretrained_cfg", None) or {}
    name = ".".join(str(configuration[key]) for key in ("architecture", "tag") if configuration.get(key))
    reason = f"timm does not say whether {as_text(name) or 'pretrained'} weights were loaded"
    remedy = "make `pretrained` a hyperparameter, or compare the digest of the initial weights"
    gaps.add(reason, remedy)


def _torchvision_weights(child: torch.nn.Module, gaps: Gaps) -> Iterator[str]:
    """Yield the names of the downloaded weights of torchvision that a model contains."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    state = child.state_dict()
    for kind in list(vars(sys.modules[type(child).__module__]).values()):
        if not (isinstance(kind, type) and kind.__name__.endswith("_Weights")):
            continue
        for weights in filter(_is_weights, kind):  # type: ignore[call-overload]
            file = folder / os.path.basename(weights.url)
            if not file.is_file():
                continue
            if not zipfile.is_zipfile(file):  # an older format, which cannot be memory-mapped
                reason = f"{kind.__name__}.{weights.name} was downloaded on this machine and may be in the model"
                gaps.add(reason, "make the weights a hyperparameter")
            elif _holds(state, torch.load(file, map_location="cpu", mmap=True, weights_only=True)):
                yield f"{kind.__name__}.{weights.name}"


def _holds(state: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    """Return True if a state contains any of these tensors under its name. Constant and small tensors are ignored."""
    for name, tensor in weights.items():
        mine = state.get(name)
        if not isinstance(mine, torch.Tensor) or mine.shape != tensor.shape or mine.dtype != tensor.dtype:
            continue
        if mine.numel() >= 64 and torch.equal(mine.cpu(), tensor) and bool((tensor != tensor.flatten()[0]).any()):
            return True
    return False


def _is_weights(value: object) -> bool:
    """Return True for a member of torchvision's enumerations of weights. This does not import torchvision."""
    api = sys.modules.get("torchvision.models._api")
    return api is not None and isinstance(value, api.WeightsEnum)
