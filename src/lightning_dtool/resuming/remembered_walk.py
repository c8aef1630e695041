"""The mutable objects that a run can reach, each with its path and an image of what it held."""

import collections
import functools
import hashlib
import inspect
import itertools
import operator
import random
import re
import sys
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection

from lightning_dtool.resuming.remembered_scope import (
    hooks_of,
    is_left_out,
    is_made_by_reading,
    is_ours,
    managed_by_others,
    managed_by_torch,
    parts_of_managed,
    set_by_the_user,
)
from lightning_dtool.resuming.remembered_values import (
    CONSTANTS,
    GENERATORS,
    MISSING,
    NotPlainError,
    generator_state,
    kind_of,
)
from lightning_dtool.values.definitions import class_path, is_users, names_used

MAX_OBJECTS = 10_000
"""Maximum number of objects of which images are taken."""

MAX_INSIDE = 1000
"""Maximum number of entries of a container that are looked into. A longer one holds data."""

MAX_COMPARED = 20_000
"""Maximum number of entries of a container that are compared one by one. Of a longer one, some are."""

_SAMPLE = 512
"""Number of entries that are compared of a longer container, or of a larger tensor."""

_SMALL = 4096
"""Maximum number of bytes of a tensor that is compared as a whole. A larger one counts its changes."""

_MAX_ARRAY = 2**20
"""Maximum number of bytes of an array that is compared as a whole."""

_LARGE = 2**20
"""Tensors and arrays of more bytes are not kept alive by an image."""

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, complex})

_SOME_ITERATORS: list[Any] = [
    iter([]), iter(()), iter({}), iter({}.values()), iter({}.items()), iter(set()), iter(range(0)), iter(""),
    reversed([]), itertools.count(), itertools.cycle([]), itertools.chain(), itertools.islice([], 0), map(str, []),
    filter(None, []), zip(), enumerate([]), (None for _ in ()),
]  # fmt: skip

_ITERATORS = tuple(map(type, _SOME_ITERATORS))


_COMPUTED = re.compile(r"_(orig|g|v)$")
"""The ends of the names of parameters from which torch computes an attribute of the same name without it."""


class Node:
    """A mutable object of a run.

    Attributes:
        path: Its path, such as `model.encoder` or `callbacks[1].history`.
        kind: `attributes`, `contents`, `tensor`, `array`, `generator`, `flag`, `iterator`, or `opaque`.
        image: What it held when its image was taken, in a form that depends on its kind.
        derived: Whether it came into being while training began: in the sanity check or in a hook.
        moved: What changed while training began: names, or None for what it holds without names.
        managed: Names of attributes that Lightning or torch manage.
        of_model: Whether it is a part of the LightningModule, whose parameters and buffers the state_dict holds.
    """

    __slots__ = ("_held", "derived", "image", "kind", "managed", "moved", "names", "of_model", "path", "space")

    def __init__(self, path: str, held: Any, kind: str, derived: bool) -> None:
        self.path, self.kind, self.derived = path, kind, derived
        self._held: Any = weakref.ref(held) if kind in ("tensor", "array", "flag") else held
        self.moved: set[str | None] = set()
        self.of_model = False
        self.managed: frozenset[str] = frozenset()
        self.names: tuple[str, ...] | None = None
        self.space: Any = None
        self.image: Any = None

    @property
    def object(self) -> Any:
        """The object; None if it is a tensor or an array that is gone."""
        return self._held() if self.kind in ("tensor", "array", "flag") else self._held


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
            if kind in _PLAIN or issubclass(kind, CONSTANTS) or is_left_out(kind):
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
        elif issubclass(kind, np.ndarray):
            node = Node(path, value, "array", derived)
        elif issubclass(kind, GENERATORS):
            node = Node(path, value, "opaque" if _is_global(value) else "generator", derived)
        elif issubclass(kind, list | dict | set | bytearray | collections.deque):
            node = Node(path, value, "contents", derived)
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
        if managed is None or is_ours(kind) or id(value) in self._metrics or (node.space is None and not _slots(kind)):
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
            if tuple.__len__(value) <= MAX_INSIDE:
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
    for name, descriptor in _slots(kind):
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
    descriptor = dict(_slots(kind_of(held))).get(name) if not isinstance(held, types.ModuleType) else None
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


def take_image(node: Node) -> None:
    """Take an image of what an object holds now.

    Args:
        node: The object.
    """
    value = node.object
    if node.kind == "attributes":
        node.image = {name: for_image(entry) for name, entry in attributes(node).items()}
        if type(node.space) is dict and node.names is None:
            node.image[_WHOLE] = tuple(map(for_image, node.space.values()))
    elif node.kind == "contents":
        node.image = _contents_image(value)
    elif node.kind == "tensor":
        node.image = (_version(value), sample_of_tensor(value), value.requires_grad)
    elif node.kind == "flag":
        node.image = value.requires_grad
    elif node.kind == "array":
        node.image = sample_of_array(value)
    elif node.kind == "generator":
        node.image = _state_image(value)
    elif node.kind == "iterator":
        node.image = _position(value)


_WHOLE = ("whole",)
"""The key of an image under which all values of a `__dict__` are kept, to compare them at once."""


def image_of_attributes(node: Node) -> dict[str, Any]:
    """Return what an object held under names when its image was taken.

    Args:
        node: An object of the kind `attributes`.
    """
    return {name: entry for name, entry in node.image.items() if name is not _WHOLE}


def is_unchanged(node: Node) -> bool:
    """Return True if an object holds the same as when its image was taken. False if this takes a closer look.

    Args:
        node: The object.
    """
    kind = node.kind
    if kind == "attributes":
        space = node.space
        if node.names is None and type(space) is dict and not _slots(kind_of(node.object)):
            whole = node.image[_WHOLE]
            if isinstance(node.object, torch.nn.Module) and not _same_parts(node):
                return False
            return len(space) == len(whole) and all(map(operator.is_, space.values(), whole))
        now = attributes(node)
        return all(node.image.get(name, MISSING) is entry for name, entry in now.items()) and len(now) == len(
            node.image
        ) - (_WHOLE in node.image)
    if kind == "contents":
        return _same_contents(node.object, node.image)
    value = node.object
    if kind == "opaque" or value is None:
        return True
    if kind == "tensor":
        version, sample, flag = node.image
        return bool(version == _version(value) and flag == value.requires_grad and sample == sample_of_tensor(value))
    if kind == "flag":
        return bool(node.image == value.requires_grad)
    if kind == "array":
        return bool(node.image == sample_of_array(value))
    if kind == "generator":
        return bool(node.image == _state_image(value))
    return node.image is not None and bool(node.image == _position(value))


def _same_parts(node: Node) -> bool:
    """Return whether a module holds the same buffers without state, and one that is no part of the model all others."""
    image, module = node.image, node.object
    names = module._non_persistent_buffers_set
    same = all(image.get(name, MISSING) is module._buffers.get(name, MISSING) for name in names)
    if node.of_model:
        return same
    held = itertools.chain(module._parameters.items(), module._modules.items())
    return same and all(image.get(name, MISSING) is entry for name, entry in held)


def for_image(value: Any) -> Any:
    """Return a value as an image holds it: a large tensor or array as a reference that does not keep it alive.

    Args:
        value: Any value.
    """
    if isinstance(value, torch.Tensor | np.ndarray) and value.nbytes > _LARGE:
        return value if isinstance(value, torch.nn.Parameter) else _Gone(value)
    return value


class _Gone:
    """A reference to a large tensor or array, which the run may let go."""

    __slots__ = ("reference",)

    def __init__(self, value: Any) -> None:
        self.reference = weakref.ref(value)


def from_image(entry: Any) -> Any:
    """Return the value that an image holds; MISSING if the run let it go.

    Args:
        entry: A value of an image.
    """
    if type(entry) is not _Gone:
        return entry
    value = entry.reference()
    return MISSING if value is None else value


def _contents_image(value: Any) -> Any:
    if isinstance(value, dict):
        if dict.__len__(value) > MAX_COMPARED:
            return (dict.__len__(value), list(itertools.islice(dict.items(value), _SAMPLE)), None)
        return (dict.__len__(value), list(dict.keys(value)), list(dict.values(value)))
    if isinstance(value, bytearray):
        return (len(value), bytes(value), None)
    family = _family(kind_of(value))
    length = family.__len__(value)
    if length > MAX_COMPARED:
        return (length, None, _sampled(family, value, length))
    return (length, list(family.__iter__(value)), None)


def image_entries(node: Node) -> list[Any] | None:
    """Return the entries of a container when its image was taken: of a mapping, pairs. None if not all are known.

    Args:
        node: An object of the kind `contents`.
    """
    value, (_, first, second) = node.object, node.image
    if isinstance(value, bytearray):
        return list(first)
    if isinstance(value, dict):
        return None if second is None else list(zip(first, second, strict=True))
    return list(first) if first is not None else None


def _same_contents(value: Any, image: Any) -> bool:
    length, first, second = image
    if isinstance(value, dict):
        if dict.__len__(value) != length:
            return False
        if second is None:
            now = itertools.islice(dict.items(value), _SAMPLE)
            return all(a is b[0] and c is b[1] for (a, c), b in zip(now, first, strict=True))
        return all(map(operator.is_, dict.keys(value), first)) and all(map(operator.is_, dict.values(value), second))
    if isinstance(value, bytearray):
        return bool(bytes(value) == first)
    family = _family(kind_of(value))
    if family.__len__(value) != length:
        return False
    if first is None:
        return all(map(operator.is_, _sampled(family, value, length), second))
    return all(map(operator.is_, family.__iter__(value), first))


def _sampled(family: Any, value: Any, length: int) -> list[Any]:
    if family is set:
        return list(itertools.islice(set.__iter__(value), _SAMPLE))
    return [family.__getitem__(value, index) for index in range(0, length, max(1, length // _SAMPLE))]


@functools.lru_cache(maxsize=1000)
def _family(kind: Any) -> Any:
    return next(each for each in (list, set, collections.deque) if issubclass(kind, each))


def sample_of_tensor(value: torch.Tensor) -> Any:
    """Return a hash of the values of a small tensor, or of some values of a larger one.

    A change through `.data` is not counted by torch.

    Args:
        value: The tensor.
    """
    try:
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            return None
        found = value.detach()
        if value.nbytes > _SMALL:
            flat = found.reshape(-1) if found.is_contiguous() else found.flatten()[:_SAMPLE]
            found = flat[:: max(1, flat.numel() // _SAMPLE)]
        if found.device.type != "cpu":
            found = found.cpu()
        if found.dtype == torch.bfloat16:
            found = found.view(torch.int16)
        return (tuple(value.shape), str(value.dtype), _hash(found.numpy().tobytes()))
    except (RuntimeError, TypeError):  # a tensor without values, or of a type that NumPy does not have
        return None


def sample_of_array(value: np.ndarray[Any, Any]) -> Any:
    """Return a hash of the values of an array, or of some values of a large one.

    Args:
        value: The array.
    """
    if value.dtype.hasobject:
        return None
    found = value
    if value.nbytes > _MAX_ARRAY:
        flat = value.reshape(-1) if value.flags.c_contiguous else value.flat[: 64 * _SAMPLE]
        found = flat[:: max(1, len(flat) // (64 * _SAMPLE))]
    return (value.shape, value.dtype.str, _hash(found.tobytes()))


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _version(value: torch.Tensor) -> int | None:
    return None if value.is_inference() else value._version


def _state_image(value: Any) -> Any:
    try:
        state = generator_state(value)
    except NotPlainError:
        return None
    if isinstance(state, torch.Tensor):
        return state.numpy().tobytes()
    return state if isinstance(state, tuple) else _frozen(state)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _frozen(entry)) for key, entry in value.items())
    return value.tobytes() if isinstance(value, np.ndarray) else value


def _position(value: Any) -> Any:
    """Return the position of an iterator; None if it cannot be told."""
    if isinstance(value, types.GeneratorType):
        state = inspect.getgeneratorstate(value)
        # A generator that has begun may be at any round of its loop.
        return state if state in (inspect.GEN_CREATED, inspect.GEN_CLOSED) else None
    if isinstance(value, itertools.count):
        return repr(value)
    hint = getattr(type(value), "__length_hint__", None)
    return hint(value) if hint is not None else None


def _entries(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a container that is not too long, with their paths."""
    if isinstance(value, dict):
        if dict.__len__(value) <= MAX_INSIDE:
            for key, entry in dict.items(value):
                yield f"{path}[{key!r}]" if type(key) in (str, int) else f"{path}[…]", entry
    elif not isinstance(value, bytearray):
        family = _family(kind_of(value))
        if family.__len__(value) <= MAX_INSIDE and family is not set:
            for index, entry in enumerate(family.__iter__(value)):
                yield f"{path}[{index}]", entry


@functools.lru_cache(maxsize=2000)
def _users_classes(kind: Any) -> tuple[type, ...]:
    return tuple(each for each in kind.__mro__ if is_users(each))


@functools.lru_cache(maxsize=2000)
def _names_of_methods(cls: Any) -> frozenset[str]:
    used: set[str] = set()
    for entry in vars(cls).values():
        function = getattr(entry, "__func__", getattr(entry, "fget", entry))
        if isinstance(function, types.FunctionType):
            used |= names_used(function.__code__)
    return frozenset(used)


def _is_variable(value: Any) -> bool:
    return value is not MISSING and (type(value) in _PLAIN or _holds_state(value))


def _holds_state(value: Any) -> bool:
    kind: Any = type(value)
    if issubclass(kind, (list, dict, set, collections.deque, torch.Tensor, np.ndarray, *GENERATORS)):
        return True
    routine = isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType)
    return not routine and kind not in _PLAIN and is_users(kind)


def _is_global(value: Any) -> bool:
    shared = (getattr(random, "_inst", None), getattr(np.random.mtrand, "_rand", None), torch.default_generator)
    return any(value is each for each in (*shared, *torch.cuda.default_generators))


@functools.lru_cache(maxsize=2000)
def _slots(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Return the descriptors of the slots of a class that was defined in Python."""
    return tuple(
        (name, entry)
        for each in kind.__mro__
        if each.__module__ != "builtins" and "__slots__" in vars(each)
        for name, entry in vars(each).items()
        if isinstance(entry, types.MemberDescriptorType) and name not in ("__dict__", "__weakref__")
    )


def roots_of(trainer: Any, loaders: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the objects of a run that may hold state, with their paths.

    Args:
        trainer: The Trainer, in `fit`.
        loaders: The loaders, with their names.
    """
    found: list[tuple[str, Any]] = [("model", trainer.lightning_module)]
    names: collections.Counter[str] = collections.Counter()
    for callback in _callbacks(trainer):
        name = type(callback).__qualname__.rpartition(".")[2]
        names[name] += 1
        found.append((f"callbacks[{name}]" if names[name] == 1 else f"callbacks[{name}, {names[name]}]", callback))
    for index, optimizer in enumerate(trainer.optimizers):
        found.append((f"optimizers[{index}]", optimizer))
    for index, config in enumerate(trainer.lr_scheduler_configs):
        found.append((f"schedulers[{index}]", config.scheduler))
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None:
        found.append(("datamodule", datamodule))
    found += [(f"trainer.{name}", value) for name, value in set_by_the_user(trainer).items()]
    return [*found, *loaders]


def _callbacks(trainer: Any) -> list[Any]:
    """Return the callbacks that save no state of their own: those that are not Lightning's or this package's."""
    return [each for each in trainer.callbacks if isinstance(each, pl.Callback) and not is_left_out_callback(each)]


def is_left_out_callback(callback: Any) -> bool:
    """Return whether a callback manages its own state, since it belongs to Lightning or to this package.

    Args:
        callback: The callback.
    """
    return managed_by_others(kind_of(callback)) is None or is_ours(kind_of(callback))
