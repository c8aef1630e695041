"""The walk through all objects that a run can reach."""

import collections
import functools
import itertools
import random
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection

from lightning_dtool.resuming.plain_state.images import is_unchanged, take_image
from lightning_dtool.resuming.plain_state.kinds import (
    CONSTANTS,
    DATES,
    GENERATORS,
    MISSING,
    PLAIN,
    family_of,
    holds_objects,
    is_buffer,
    kind_of,
)
from lightning_dtool.resuming.plain_state.nodes import Node, attributes, slots_of
from lightning_dtool.resuming.plain_state.samples import MAX_ARRAY, SMALL
from lightning_dtool.resuming.plain_state.scope import (
    hooks_of,
    is_left_out,
    is_made_by_reading,
    is_ours,
    managed_by_others,
    managed_by_torch,
    parts_of_managed,
)
from lightning_dtool.values.definitions import class_path, is_library, is_users, names_used

MAX_OBJECTS = 10_000
"""Maximum number of objects of which images are taken."""

_MAX_HASHED = 64 * 2**20
"""Number of bytes of large tensors and arrays of which all values are hashed. Of others, some are."""

_MAX_INSIDE = 1000
"""Maximum number of entries of a container that are looked into. A longer one holds data."""

_SOME_ITERATORS: list[Any] = [
    iter([]), iter(()), iter({}), iter({}.values()), iter({}.items()), iter(set()), iter(range(0)), iter(""),
    reversed([]), itertools.count(), itertools.cycle([]), itertools.chain(), itertools.islice([], 0), map(str, []),
    filter(None, []), zip(), enumerate([]), (None for _ in ()),
]  # fmt: skip

_ITERATORS = tuple(map(type, _SOME_ITERATORS))


class Reached:
    """All mutable objects that were found, by identity and by path.

    Attributes:
        nodes: The objects in the order in which they were found.
        by_path: The objects under each of their paths.
        classes: Classes of the user by path, of which objects may be made.
        left_out: The path of the first object that was left out because there are too many; None if there is none.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.by_path: dict[str, Node] = {}
        self.classes: dict[str, type] = {}
        self.left_out: str | None = None
        self._by_id: dict[int, Node] = {}
        self._owned: set[int] = set()
        self._metrics: set[int] = set()
        self._parts: set[int] = set()
        self._saved: set[int] = set()
        self._looked_at: set[type] = set()
        self._left_to_hash = _MAX_HASHED

    def node_of(self, value: Any) -> Node | None:
        """Return the node of an object; None if it was not found before.

        Args:
            value: Any object.
        """
        node = self._by_id.get(id(value))
        return node if node is not None and node.object is value else None

    def path_of(self, value: Any) -> str | None:
        """Return the path of an object; None if it was not found before.

        Args:
            value: Any object.
        """
        node = self.node_of(value)
        return node.path if node is not None else None

    def own(self, module: torch.nn.Module, saved: Iterable[Any]) -> None:
        """Note what is saved elsewhere: the tensors that the module's state_dict holds, and its torchmetrics objects.

        Args:
            module: The LightningModule.
            saved: The optimizers and schedulers whose states Lightning saves.
        """
        self._saved |= {id(each) for each in saved}
        for child in module.modules():
            self._parts.add(id(child))
            if isinstance(child, torch.jit.ScriptModule):  # its tensors have no Python objects of their own
                continue
            self._owned |= {id(each) for each in child._parameters.values()}
            kept = child._buffers.keys() - child._non_persistent_buffers_set
            self._owned |= {id(child._buffers[name]) for name in kept}
            if isinstance(child, Metric | MetricCollection):
                self._metrics.add(id(child))

    def forget(self, prefix: str) -> None:
        """Forget the objects of a loader that is replaced by another one.

        Args:
            prefix: The beginning of their paths.
        """
        gone = {id(node) for node in self.nodes if node.path.startswith(prefix)}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self.by_path = {path: node for path, node in self.by_path.items() if id(node) not in gone}
        self._by_id = {key: node for key, node in self._by_id.items() if id(node) not in gone}

    def walk(self, roots: Iterable[tuple[str, Any]], derived: bool = False) -> None:
        """Find the objects that can be reached, and take images of those that are new.

        No code of the objects' classes runs.

        Args:
            roots: The objects where the walk begins, with their paths.
            derived: What `Node.derived` of the new objects is.
        """
        waiting = collections.deque(roots)
        seen: dict[int, Any] = {}  # keeps the objects, so that no other one gets the identity of one that was deleted
        while waiting:
            path, value = waiting.popleft()
            kind: Any = type(value)
            if kind in PLAIN or issubclass(kind, CONSTANTS) or is_left_out(kind):
                continue
            known = self.node_of(value)
            if known is not None:
                self.by_path.setdefault(path, known)
                continue
            if id(value) in seen:
                continue
            if len(self.nodes) >= MAX_OBJECTS:
                self.left_out = self.left_out or path
                return
            node = self._image_of(path, value, derived)
            if node is None:
                seen[id(value)] = value
                waiting.extend(self._inside_immutable(path, kind, value))
            else:
                self.nodes.append(node)
                self.by_path[path] = node  # an object that a hook has replaced is at this path no longer
                self._by_id[id(value)] = node
                waiting.extend(self._inside(node))

    def walk_new(self) -> None:
        """Find the objects that came into being since the images were taken, and take images of these."""
        found = [each for node in list(self.nodes) for each in self._new_inside(node)]
        self.walk(found, derived=True)

    def _image_of(self, path: str, value: Any, derived: bool) -> Node | None:
        """Return a node with an image; None for an object that does not change itself."""
        kind: Any = type(value)
        if issubclass(kind, torch.Tensor):
            node = Node(path, value, "flag" if id(value) in self._owned else "tensor", derived)
            node.hashed = node.kind == "tensor" and self._is_hashed(value, SMALL)
        elif holds_objects(value):
            node = Node(path, value, "contents", derived)
        elif issubclass(kind, np.ndarray):
            node = Node(path, value, "array", derived)
            node.hashed = self._is_hashed(value, MAX_ARRAY)
        elif issubclass(kind, GENERATORS):
            node = Node(path, value, "opaque" if _is_global(value) else "generator", derived)
        elif issubclass(kind, list | dict | set | bytearray | collections.deque):
            node = Node(path, value, "contents", derived)
        elif is_buffer(kind):
            node = Node(path, value, "buffer", derived)
        elif issubclass(kind, tuple | frozenset | types.MethodType | types.BuiltinFunctionType):
            return None
        elif issubclass(kind, types.FunctionType | functools.partial):
            return Node(path, value, "opaque", derived)
        elif issubclass(kind, _ITERATORS):
            node = Node(path, value, "iterator", derived)
        elif isinstance(value, types.CellType):
            node = Node(path, value, "attributes", derived)
        elif isinstance(value, type):
            return self._of_class(path, value, derived)
        else:
            node = self._of_object(path, value, derived)
        take_image(node)
        return node

    def _is_hashed(self, value: Any, smallest: int) -> bool:
        """Return whether all values of a tensor or array are hashed, of which otherwise only some are."""
        if not smallest < value.nbytes <= self._left_to_hash:
            return False
        self._left_to_hash -= value.nbytes
        return True

    def _of_class(self, path: str, value: Any, derived: bool) -> Node | None:
        if not is_users(value):
            return None
        names = tuple(
            name
            for name, entry in vars(value).items()
            if not name.startswith("__") and not isinstance(entry, types.FunctionType | types.MemberDescriptorType)
            and not is_left_out(kind_of(entry))
        )  # fmt: skip
        node = Node(path, value, "attributes", derived)
        node.space, node.names = vars(value), names
        take_image(node)
        return node

    def _of_object(self, path: str, value: Any, derived: bool) -> Node:
        kind: Any = type(value)
        managed = managed_by_others(kind)
        node = Node(path, value, "attributes", derived)
        node.of_model = id(value) in self._parts
        try:
            node.space = object.__getattribute__(value, "__dict__")
        except AttributeError:
            node.space = None
        if issubclass(kind, torch.optim.Optimizer | LRScheduler) and id(value) not in self._saved:
            managed = managed_by_torch(kind)
        node.managed = managed or frozenset()
        nothing = node.space is None and not slots_of(kind)
        compiled = issubclass(kind, torch.jit.ScriptModule)
        if managed is None or is_ours(kind) or id(value) in self._metrics or nothing or compiled:
            node.kind = "opaque"
        node.space = {} if node.space is None else node.space
        return node

    def _inside(self, node: Node) -> Iterator[tuple[str, Any]]:
        """Yield the objects inside one object, with their paths."""
        value, path = node.object, node.path
        if node.kind == "contents":
            yield from _entries(path, value)
        elif node.kind == "attributes":
            for name, entry in attributes(node).items():
                yield f"{path}.{name}", entry
            if isinstance(value, torch.nn.Module):
                for held in (value._parameters, value._buffers, value._modules):
                    yield from ((f"{path}.{name}", entry) for name, entry in held.items())
            for name, hooks in hooks_of(value).items():
                yield from ((f"{path}.{name}[{index}]", hook) for index, hook in enumerate(hooks))
            if not isinstance(value, types.CellType | type | types.ModuleType):
                yield from self._around(kind_of(value))
        elif isinstance(value, types.FunctionType | functools.partial):
            yield from self._inside_immutable(path, kind_of(value), value)
        elif node.kind == "opaque":
            kept, parts = node.space or {}, parts_of_managed(kind_of(value))
            yield from ((f"{path}.{name}", kept[name]) for name in sorted(parts & kept.keys()))
            yield from self._around(kind_of(value))

    def _new_inside(self, node: Node) -> Iterator[tuple[str, Any]]:
        """Yield the objects inside one object that it did not hold when its image was taken."""
        if node.kind == "attributes" and not is_unchanged(node):
            for name, entry in attributes(node).items():
                if node.image.get(name, MISSING) is not entry and not is_made_by_reading(type(node.object), name):
                    yield f"{node.path}.{name}", entry
        elif node.kind == "contents" and not is_unchanged(node):
            yield from _entries(node.path, node.object)

    def _around(self, kind: type) -> Iterator[tuple[str, Any]]:
        """Yield the user's classes of an object, and the variables of their modules that their methods use."""
        for each in _users_classes(kind):
            if each not in self._looked_at:
                self._looked_at.add(each)
                self.classes.setdefault(class_path(each), each)
                yield f"class {class_path(each)}", each
                yield from self._variables(each.__module__, _names_of_methods(each))
                for name, method in _methods(each).items():
                    if _keeps_state(method):
                        yield f"class {class_path(each)}.{name}", method

    def _variables(self, name: str, used: frozenset[str]) -> Iterator[tuple[str, Any]]:
        """Yield the variables of a module that are used, and watch them."""
        module = sys.modules.get(name)
        if module is None:
            return
        path = f"module {name}"
        node = self.by_path.get(path)
        if node is None:
            node = Node(path, module, "attributes", False)
            node.space, node.names = vars(module), ()
            self.by_path[path] = self._by_id[id(module)] = node
            self.nodes.append(node)
            for entry in vars(module).values():
                if isinstance(entry, type) and entry.__module__ == name:
                    self.classes.setdefault(class_path(entry), entry)
        found = {each for each in used if _is_variable(node.space.get(each, MISSING))} - {*(node.names or ())}
        node.names = (*(node.names or ()), *sorted(found))
        take_image(node)
        for each in sorted(used & node.space.keys()):
            entry = node.space[each]
            if each in found or (isinstance(entry, types.FunctionType | type) and is_users(entry)):
                yield f"{path}.{each}", entry
                if isinstance(entry, type):
                    yield from self._around(entry)

    def _inside_immutable(self, path: str, kind: type, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the objects inside an object that does not change itself, with their paths."""
        if issubclass(kind, tuple):
            if tuple.__len__(value) <= _MAX_INSIDE:
                yield from ((f"{path}[{index}]", entry) for index, entry in enumerate(tuple.__iter__(value)))
        elif isinstance(value, functools.partial):
            for name in ("func", "args", "keywords"):
                yield f"{path}.{name}", getattr(value, name)
        elif isinstance(value, types.MethodType):
            yield from ((f"{path}.__self__", value.__self__), (f"{path}.__func__", value.__func__))
        elif isinstance(value, types.BuiltinFunctionType):
            yield f"{path}.__self__", value.__self__
        elif isinstance(value, types.FunctionType):
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                if name != "__class__":
                    yield f"{path}.{name}", cell
            if is_users(value):
                yield f"{path}.__defaults__", value.__defaults__
                yield f"{path}.__kwdefaults__", value.__kwdefaults__
                yield from self._variables(str(value.__module__), frozenset(names_used(value.__code__)))
            if value.__dict__:
                yield f"{path}.__dict__", value.__dict__


def _entries(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a container that is not too long, with their paths."""
    if isinstance(value, dict):
        if dict.__len__(value) <= _MAX_INSIDE:
            for key, entry in dict.items(value):
                yield f"{path}[{key!r}]" if type(key) in (str, int) else f"{path}[…]", entry
    elif isinstance(value, np.ndarray):
        if value.size <= _MAX_INSIDE:
            yield from ((f"{path}[{index}]", entry) for index, entry in enumerate(value.reshape(-1).tolist()))
    elif not isinstance(value, bytearray):
        family = family_of(kind_of(value))
        if family.__len__(value) <= _MAX_INSIDE and family is not set:
            for index, entry in enumerate(family.__iter__(value)):
                yield f"{path}[{index}]", entry


@functools.lru_cache(maxsize=2000)
def _users_classes(kind: Any) -> tuple[type, ...]:
    return tuple(each for each in kind.__mro__ if is_users(each))


@functools.lru_cache(maxsize=2000)
def _names_of_methods(cls: Any) -> frozenset[str]:
    return frozenset().union(*(names_used(method.__code__) for method in _methods(cls).values()))


def _methods(cls: Any) -> dict[str, types.FunctionType]:
    """Return the functions of a class by name: methods and properties."""
    found = {name: getattr(entry, "__func__", getattr(entry, "fget", entry)) for name, entry in vars(cls).items()}
    return {name: entry for name, entry in found.items() if isinstance(entry, types.FunctionType)}


def _keeps_state(method: types.FunctionType) -> bool:
    """Return whether a method has default arguments that change, or variables of a decorator of the user."""
    given = [*(method.__defaults__ or ()), *(method.__kwdefaults__ or {}).values()]
    closes = set(method.__code__.co_freevars) - {"__class__"}
    return any(map(_holds_state, given)) or (bool(closes) and not is_library(str(method.__globals__.get("__name__"))))


def _is_variable(value: Any) -> bool:
    return value is not MISSING and (type(value) in PLAIN or isinstance(value, DATES) or _holds_state(value))


def _holds_state(value: Any) -> bool:
    kind: Any = type(value)
    if issubclass(kind, (list, dict, set, collections.deque, torch.Tensor, np.ndarray, *GENERATORS)):
        return True
    if is_buffer(kind) or kind.__module__ == "multiprocessing.sharedctypes":
        return True
    routine = isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType)
    return not routine and kind not in PLAIN and is_users(kind)


def _is_global(value: Any) -> bool:
    shared = (getattr(random, "_inst", None), getattr(np.random.mtrand, "_rand", None), torch.default_generator)
    return any(value is each for each in (*shared, *torch.cuda.default_generators))
