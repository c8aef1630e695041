"""Values that determine what a model does, beside its source, its arguments and its weights."""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torchmetrics import Metric

from lightning_dtool.capture.preprocessing import describe_pipeline, transforms_of
from lightning_dtool.record import Gaps, as_text
from lightning_dtool.redaction.record import redact_mapping
from lightning_dtool.values.attributes import OF_EVERY_MODULE
from lightning_dtool.values.definitions import is_users
from lightning_dtool.values.surroundings import functions_of, is_path_here, is_setting, values_around

MAX_SETTINGS = 1000
"""Maximum number of values that are recorded."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def capture_settings(module: torch.nn.Module, gaps: Gaps) -> dict[str, Any]:
    """Return the values that the code of a model uses, by name.

    These are class attributes (`Net.alpha`), defaults (`forward.scale`), variables of modules and closures (`ALPHA`),
    plain attributes of the user's modules inside the model (`head.scale`), and the user's functions that are hooks of a
    module or are held by one (`head.forward`).

    Args:
        module: The LightningModule. Its own plain attributes are left out: they may be a part of its state.
        gaps: Collector at the place of the settings. Receives a gap for each that is not described completely.
    """
    inside = list(module.named_modules())
    around = values_around(*{type(child): None for _, child in inside if is_users(type(child))})
    held = (entry for path, child in inside for entry in _held_by(path, child, child is module))
    found = dict(itertools.islice({**around, **dict(held)}.items(), MAX_SETTINGS + 1))
    if len(found) > MAX_SETTINGS:
        gaps.add(f"only the first {MAX_SETTINGS} values are recorded")
        found.popitem()
    described = {as_text(name): describe_pipeline(value, gaps.at(name)) for name, value in found.items()}
    return redact_mapping(described, gaps)


def _held_by(path: str, module: torch.nn.Module, is_outermost: bool) -> Iterator[tuple[str, Any]]:
    start = f"{path}." if path else "self."
    for name in _HOOKS:
        hooks = [hook for hook in vars(module).get(name, {}).values() if any(functions_of(hook))]
        if hooks:
            yield f"{start}{name.strip('_')}", hooks
    described = transforms_of(module) if is_outermost else {}  # with the data
    has_settings = is_users(type(module)) and not (is_outermost or isinstance(module, Metric))  # a metric has a state
    for name, value in vars(module).items():
        if inspect.isroutine(value):
            if name not in described and any(functions_of(value)):
                yield f"{start}{name}", getattr(value, "__func__", value)
        elif has_settings and name not in OF_EVERY_MODULE and _is_plain(value):
            yield f"{start}{name}", value


def _is_plain(value: Any) -> bool:
    return is_setting(value) and not (isinstance(value, torch.Tensor) or is_path_here(value))
