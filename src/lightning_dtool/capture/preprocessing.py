"""Transforms and hooks that change the data before it reaches the model, as structure and source."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.core.hooks import DataHooks

from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.record import Gaps, as_text
from lightning_dtool.redaction.record import add_redaction, redact_value
from lightning_dtool.redaction.source import redact_source
from lightning_dtool.values.definitions import is_users, source_of
from lightning_dtool.values.writing import encode_in_detail

BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Hooks of Lightning that may change a batch."""

_CHANGES_DATA = re.compile(r"aug(?!ust)|transform(?!er)", re.IGNORECASE)
"""Names of attributes that hold a transform. The name `transformer` does not match."""

_DECODERS = ("decoder", "loader")
"""Attributes that hold a decoder. The folders of torchvision call it `loader`."""

_RECORDED_ELSEWHERE = frozenset({"train_transform", "eval_transform", "target_transform"})
"""Arguments of a DtoolDataModule that are recorded with the stages that use them."""

_MAX_KNOWN = 1000

_known: dict[type, tuple[tuple[Any, ...], list[str]]] = {}
"""The attributes of the latest object of a class, and those with names of transforms: at each save, they are needed."""


def describe_pipeline(obj: Any, gaps: Gaps) -> Any:
    """Describe a transform, or another object that is called with a sample or a batch.

    Pipelines that differ in a parameter have different descriptions. A pipeline has the same description in every
    process. Pipelines of torchvision, `nn.Module`s and albumentations are described by their structure. The user's
    functions and classes are also described by their source.

    Args:
        obj: The transform.
        gaps: Collector at its place in the record. Receives a gap for everything that is not described completely.

    Returns:
        Strict JSON, with credentials replaced.

    Example:
        >>> describe_pipeline(str.strip, Gaps())
        {'type': 'builtins:function', 'name': 'builtins:str.strip'}
    """
    return redact_value(encode_in_detail(obj, gaps), gaps)


def described_transforms(places: Mapping[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Describe several transforms, without places that hold None.

    Args:
        places: The transforms, by place.
        gaps: Collector at their place in the record. Receives a gap for everything that is not described completely.
    """
    return {name: describe_pipeline(value, gaps.at(name)) for name, value in places.items() if value is not None}


def transforms_of(owner: object) -> dict[str, Any]:
    """Return the callable attributes of an object that have names of transforms or augmentations.

    Args:
        owner: A dataset, a DataModule or a LightningModule. None of its properties and methods is called.

    Returns:
        The attributes by name, sorted by name.
    """
    own, children = _kept(owner)
    names = (*own, *children)
    known = _known.get(type(owner))
    if known is None or known[0] != names:
        found = {name for name in names if isinstance(name, str) and _names_a_transform(name)}
        known = names, sorted(found)
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[type(owner)] = known
    held = {name: children[name] if name in children else own[name] for name in known[1]}
    return {name: value for name, value in held.items() if callable(value)}


def decoders_of(owner: object) -> dict[str, Any]:
    """Return the callable attributes of a dataset that decode files, by name.

    Args:
        owner: A dataset. None of its properties and methods is called.
    """
    own, children = _kept(owner)
    kept = {**own, **children}
    return {name: kept[name] for name in _DECODERS if callable(kept.get(name))}


@functools.lru_cache(maxsize=10_000)
def _names_a_transform(name: str) -> bool:
    return _CHANGES_DATA.search(name) is not None


def capture_hooks(trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> dict[str, str]:
    """Describe the hooks, methods and attributes that change a batch between the data loader and the training step.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        gaps: Receives a gap for everything that is not described completely.

    Returns:
        Descriptions by name, which begins with `module` or `datamodule`. For an overridden hook of Lightning
        (`module.on_after_batch_transfer`) and for a method with the name of a transform or an augmentation, the
        description is the source. For an attribute with such a name (`module.train_aug`), and for a method whose source
        is not available, it is the structure as JSON text.
    """
    hooks: dict[str, str] = {}
    for prefix, owner in (("module", module), ("datamodule", getattr(trainer, "datamodule", None))):
        if owner is None:
            continue
        try:
            for name, described in _hooks_of(owner, prefix, gaps):
                hooks[f"{prefix}.{name}"] = described
        except Exception as error:  # a user's class may raise anything
            reason = f"reading the {prefix} raised {type(error).__name__}"
            gaps.at(f"data.hooks.{prefix}").add(reason, "keep transforms in plain attributes")
    return hooks


def _hooks_of(owner: LightningModule | LightningDataModule, prefix: str, gaps: Gaps) -> Iterator[tuple[str, str]]:
    for name, value in sorted(_methods(owner).items()):
        at_hook = gaps.at(f"data.hooks.{prefix}.{name}")
        source = source_of(value)
        if source is None:
            at_hook.add("its source code is not available", "define it in a file")
            yield name, json.dumps(describe_pipeline(value, at_hook), ensure_ascii=False)
            continue
        text, redacted = redact_source(as_text(source))
        if redacted:
            add_redaction(at_hook)
        yield name, text
    for name, value in transforms_of(owner).items():
        if not (isinstance(owner, DtoolDataModule) and name in _RECORDED_ELSEWHERE):
            described = describe_pipeline(value, gaps.at(f"data.hooks.{prefix}.{name}"))
            yield name, json.dumps(described, ensure_ascii=False, allow_nan=False)


def _methods(owner: LightningModule | LightningDataModule) -> dict[str, Any]:
    """Return the overridden hooks, and the user's methods that have names of transforms."""
    found: dict[str, Any] = {}
    for name in BATCH_HOOKS:
        value = vars(owner).get(name, getattr(type(owner), name, None))
        if value is not None and value is not getattr(DataHooks, name):
            found[name] = value
    for each in type(owner).__mro__:
        if not is_users(each):
            continue
        for name, value in vars(each).items():
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if _names_a_transform(name) and callable(function):
                found.setdefault(name, function)
    return found


def _kept(owner: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes of an object, and those attributes that an `nn.Module` keeps elsewhere, its children."""
    try:
        own = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return {}, {}
    children = own.get("_modules")
    return own, children if isinstance(children, dict) else {}
