"""What has changed in the objects of a run since their images were taken."""

from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_dtool.resuming.plain_state.clocks import Clocks
from lightning_dtool.resuming.plain_state.encoding import Encoder
from lightning_dtool.resuming.plain_state.images import from_image, is_unchanged
from lightning_dtool.resuming.plain_state.kinds import DATES, MISSING, PLAIN, NotPlainError, kind_of
from lightning_dtool.resuming.plain_state.nodes import Node, attributes
from lightning_dtool.resuming.plain_state.roots import root_of, roots_of
from lightning_dtool.resuming.plain_state.scope import is_left_out, is_made_by_reading

_BEFORE_A_BATCH = (
    "on_train_batch_start", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer",
)  # fmt: skip
"""The hooks that run before a batch is computed."""


def changes(nodes: list[Node], clocks: Clocks, modes: Mapping[int, bool]) -> Iterator[tuple[Node, Any, Any]]:
    """Yield each object that changed, the name of an attribute, and the attribute's value.

    For an object that holds values without names, the name is None and the value is the object.

    Args:
        nodes: The objects, with their images.
        clocks: The clocks when the fit began.
        modes: What `modes_before_validation` returned.
    """
    for node in nodes:
        as_before = not node.derived and not node.moved and is_unchanged(node)
        if as_before and not (modes and id(node.object) in modes):
            continue
        held = node.object
        if node.kind == "attributes":
            yield from _changed_attributes(node, held, clocks, modes)
        elif node.kind == "opaque" or held is None or (node.kind == "iterator" and is_unchanged(node)):
            continue
        elif not _holds_only_what_is_left_out(held, clocks):
            yield node, None, held


def modes_before_validation(trainer: Any) -> dict[int, bool]:
    """Return the modes of the modules before the validation that is running, by the identity of the module.

    Args:
        trainer: The Trainer.
    """
    if not trainer.validating:
        return {}
    modes = trainer.fit_loop.epoch_loop.val_loop._module_mode.mode
    return {id(part): modes[name] for name, part in trainer.lightning_module.named_modules() if name in modes}


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are the same object, or equal and plain.

    Args:
        one: A value.
        other: Another value.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) in (float, complex):  # 0.0 is not -0.0, and NaN is NaN
        return repr(one) == repr(other)
    if type(one) in PLAIN or type(one) in DATES:
        return bool(one == other)
    if type(one) is tuple:
        return len(one) == len(other) and all(map(is_same, one, other))
    return False


def may_decide(value: Any) -> bool:
    """Return whether a value may decide how training continues: a number, a tensor, or a container of such values.

    Args:
        value: Any value.
    """
    if type(value) is str or type(value) not in (*PLAIN, list, dict, set, torch.Tensor):
        return False
    if _holds_only_what_is_left_out(value, None):
        return False
    try:
        Encoder(lambda value: None).value(value)
    except NotPlainError:
        return False
    return True


def may_change_before_a_batch(trainer: Any, path: str) -> bool:
    """Return whether code that runs before a batch is computed may change what is at a path.

    Args:
        trainer: The Trainer.
        path: The path of an object.
    """
    root = root_of(path)
    if root.startswith(("optimizers[", "schedulers[", "val[")):
        return False
    owner: Any = trainer.lightning_module if root == "model" else None
    base: type = pl.LightningModule
    if root.startswith("callbacks["):
        owner, base = dict(roots_of(trainer, ())).get(root), pl.Callback
    return owner is None or any(
        getattr(type(owner), hook, None) is not getattr(base, hook, None) for hook in _BEFORE_A_BATCH
    )


def _changed_attributes(
    node: Node, held: Any, clocks: Clocks, modes: Mapping[int, bool]
) -> Iterator[tuple[Node, Any, Any]]:
    now = attributes(node)
    if id(held) in modes:
        now["training"] = modes[id(held)]
    image = node.image
    for name in {**now, **image}:
        if type(name) is not str:  # no attribute
            continue
        then, value = from_image(image.get(name, MISSING)), now.get(name, MISSING)
        always = node.derived or name in node.moved
        if then is value and not always:
            continue
        if is_left_out(kind_of(value)) or is_left_out(kind_of(then)):
            continue
        if is_made_by_reading(type(held), name) and (name == "_hparams" or type(value) in (str, bytes)):
            continue  # a text may be the folder of this run
        if not always and is_same(then, value):
            continue
        if clocks.may_have_given(value, name):
            continue
        yield node, name, value


def _holds_only_what_is_left_out(value: Any, clocks: Clocks | None) -> bool:
    """Return whether a value is a container of loggers, files, warnings, readings of a clock and the like."""
    if type(value) not in (dict, list, set):
        return False
    entries = list(value.values() if type(value) is dict else value)
    return bool(entries) and all(
        is_left_out(kind_of(entry))
        or (isinstance(entry, DATES) and (clocks is None or clocks.may_have_given(entry, "time")))
        for entry in entries
    )
