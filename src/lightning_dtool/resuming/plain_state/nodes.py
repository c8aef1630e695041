"""The mutable objects of a run, and what they hold under names."""

import functools
import re
import types
import weakref
from typing import Any

import torch

from lightning_dtool.resuming.plain_state.kinds import MISSING, kind_of

_COMPUTED = re.compile(r"_(orig|g|v)$")
"""The ends of the names of parameters from which torch computes an attribute of the same name without it."""


class Node:
    """A mutable object of a run.

    Attributes:
        path: Its path, such as `model.encoder` or `callbacks[1].history`.
        kind: `attributes`, `contents`, `tensor`, `array`, `buffer`, `generator`, `flag`, `iterator`,
            or `opaque`.
        image: What it held when its image was taken, in a form that depends on its kind.
        hashed: Whether all values of a large tensor or array are hashed, too, and not only some.
        hash: The hash of all values when the image was taken.
        derived: Whether it came into being while training began: in the sanity check or in a hook.
        moved: What changed while training began: names, or None for what it holds without names.
        managed: Names of attributes that Lightning or torch manage.
        of_model: Whether it is a part of the LightningModule, whose parameters and buffers the state_dict holds.
    """

    __slots__ = (
        "_held", "derived", "hash", "hashed", "image", "kind", "managed", "moved", "names", "of_model", "path", "space",
    )  # fmt: skip

    def __init__(self, path: str, held: Any, kind: str, derived: bool) -> None:
        self.path, self.kind, self.derived = path, kind, derived
        self._held: Any = weakref.ref(held) if kind in ("tensor", "array", "flag") else held
        self.moved: set[str | None] = set()
        self.of_model = False
        self.managed: frozenset[str] = frozenset()
        self.names: tuple[str, ...] | None = None
        self.space: Any = None
        self.image: Any = None
        self.hashed = False
        self.hash: int | None = None

    @property
    def object(self) -> Any:
        """The object; None if it is a tensor or an array that is gone."""
        return self._held() if self.kind in ("tensor", "array", "flag") else self._held


def attributes(node: Node) -> dict[str, Any]:
    """Return what an object holds under names now.

    Args:
        node: An object of the kind `attributes`.
    """
    value = node.object
    if isinstance(value, types.CellType):
        try:
            return {"cell_contents": value.cell_contents}
        except ValueError:
            return {}
    space = node.space
    if node.names is not None:
        return {name: space[name] for name in node.names if name in space}
    kind: Any = type(value)
    found = {
        name: entry
        for name, entry in space.items()
        if name not in node.managed
        and not (isinstance(name, str) and name.startswith("__pl_"))
        and not (type(entry) is types.MethodType and entry.__self__ is value)  # strategies set `forward` like this
    }
    for name, descriptor in slots_of(kind):
        try:
            found[name] = descriptor.__get__(value)
        except AttributeError:
            continue
    if isinstance(value, torch.nn.Module):
        parameters, buffers, modules = (found.pop(held, {}) for held in ("_parameters", "_buffers", "_modules"))
        found.update((name, buffers[name]) for name in buffers if name in value._non_persistent_buffers_set)
        if node.of_model:  # pruning and norms of weights compute such attributes from parameters
            for name in parameters:
                found.pop(_COMPUTED.sub("", name), None)
        else:
            found |= {**parameters, **modules}
    return found


def set_attribute(node: Node, name: str, value: Any) -> None:
    """Set or delete what an object holds under a name, without running code of its class.

    Args:
        node: An object of the kind `attributes`.
        name: One of the names that `attributes` returns, or a new one.
        value: The value; `MISSING` to delete it.
    """
    held = node.object
    if isinstance(held, types.CellType):
        held.cell_contents = value
        return
    if isinstance(held, type):
        type.__delattr__(held, name) if value is MISSING else type.__setattr__(held, name, value)
        return
    descriptor = dict(slots_of(kind_of(held))).get(name) if not isinstance(held, types.ModuleType) else None
    if descriptor is not None:
        descriptor.__delete__(held) if value is MISSING else descriptor.__set__(held, value)
        return
    space = node.space
    if isinstance(held, torch.nn.Module):
        space = next((space[each] for each in ("_parameters", "_buffers", "_modules") if name in space[each]), space)
    if value is MISSING:
        space.pop(name, None)
    else:
        space[name] = value


@functools.lru_cache(maxsize=2000)
def slots_of(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Return the descriptors of the slots of a class that was defined in Python."""
    return tuple(
        (name, entry)
        for each in kind.__mro__
        if each.__module__ != "builtins" and "__slots__" in vars(each)
        for name, entry in vars(each).items()
        if isinstance(entry, types.MemberDescriptorType) and name not in ("__dict__", "__weakref__")
    )
