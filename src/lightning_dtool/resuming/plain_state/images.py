"""Images of the objects of a run: what they held at one moment, compared with what they hold later."""

import inspect
import itertools
import operator
import types
import weakref
from typing import Any

import numpy as np
import torch

from lightning_dtool.resuming.plain_state.generator_states import generator_state
from lightning_dtool.resuming.plain_state.kinds import MISSING, NotPlainError, family_of, kind_of
from lightning_dtool.resuming.plain_state.nodes import Node, attributes, slots_of
from lightning_dtool.resuming.plain_state.samples import (
    hash_of_all,
    sample_of_array,
    sample_of_buffer,
    sample_of_tensor,
)
from lightning_dtool.watch.replaced import version

_MAX_COMPARED = 200_000
"""Maximum number of entries of a container that are compared one by one. Of a longer one, some are."""

_MAX_KNOWN = 20_000
"""Maximum number of entries of a container of which it is known whether a resumed run began with the same ones."""

_SAMPLE = 512
"""Number of entries that are compared of a longer container."""

_LARGE = 2**20
"""Tensors and arrays of more bytes are not kept alive by an image."""

_WHOLE = ("whole",)
"""The key of an image under which all values of a `__dict__` are kept, to compare them at once."""


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
        node.image = (version(value), sample_of_tensor(value), value.requires_grad)
    elif node.kind == "flag":
        node.image = value.requires_grad
    elif node.kind == "array":
        node.image = sample_of_array(value)
    elif node.kind == "buffer":
        node.image = sample_of_buffer(value)
    elif node.kind == "generator":
        node.image = _state_image(value)
    elif node.kind == "iterator":
        node.image = _position(value)
    if node.hashed:
        node.hash = hash_of_all(value)


def is_unchanged(node: Node) -> bool:
    """Return True if an object holds the same as when its image was taken. False if this takes a closer look.

    Args:
        node: The object.
    """
    kind = node.kind
    if kind == "attributes":
        space = node.space
        if node.names is None and type(space) is dict and not slots_of(kind_of(node.object)):
            whole = node.image[_WHOLE]
            if isinstance(node.object, torch.nn.Module) and not _same_parts(node):
                return False
            return len(space) == len(whole) and all(map(operator.is_, space.values(), whole))
        now, then = attributes(node), {name: entry for name, entry in node.image.items() if name is not _WHOLE}
        return now.keys() == then.keys() and all(then[name] is entry for name, entry in now.items())
    if kind == "contents":
        return _same_contents(node.object, node.image)
    value = node.object
    if kind == "opaque" or value is None:
        return True
    if kind == "tensor":
        changes, sample, flag = node.image
        same = changes == version(value) and flag == value.requires_grad and sample == sample_of_tensor(value)
        return bool(same and _same_hash(node, value))
    if kind == "flag":
        return bool(node.image == value.requires_grad)
    if kind == "array":
        return bool(node.image == sample_of_array(value)) and _same_hash(node, value)
    if kind == "buffer":
        return bool(node.image == sample_of_buffer(value))
    if kind == "generator":
        return bool(node.image == _state_image(value))
    return node.image is not None and bool(node.image == _position(value))


def _same_hash(node: Node, value: Any) -> bool:
    return not node.hashed or node.hash == hash_of_all(value)


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
        if dict.__len__(value) > _MAX_COMPARED:
            return (dict.__len__(value), list(itertools.islice(dict.items(value), _SAMPLE)), None)
        return (dict.__len__(value), list(dict.keys(value)), list(dict.values(value)))
    if isinstance(value, bytearray):
        return (len(value), bytes(value), None)
    if isinstance(value, np.ndarray):
        return (value.size, _objects(value), value.shape)
    family = family_of(kind_of(value))
    length = family.__len__(value)
    if length > _MAX_COMPARED:
        return (length, None, _sampled(family, value, length))
    return (length, list(family.__iter__(value)), None)


def _objects(value: np.ndarray[Any, Any]) -> list[Any]:
    entries: list[Any] = value.reshape(-1)[:: max(1, value.size // _MAX_COMPARED)].tolist()
    return entries


def image_entries(node: Node) -> list[Any] | None:
    """Return the entries of a container when its image was taken: of a mapping, pairs. None if not all are known.

    Args:
        node: An object of the kind `contents`.
    """
    value, (length, first, second) = node.object, node.image
    if isinstance(value, bytearray):
        return list(first)
    if length > _MAX_KNOWN:
        return None
    if isinstance(value, np.ndarray):
        return [*first, second]
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
    if isinstance(value, np.ndarray):
        return value.shape == second and all(map(operator.is_, _objects(value), first))
    family = family_of(kind_of(value))
    if family.__len__(value) != length:
        return False
    if first is None:
        return all(map(operator.is_, _sampled(family, value, length), second))
    return all(map(operator.is_, family.__iter__(value), first))


def _sampled(family: Any, value: Any, length: int) -> list[Any]:
    if family is set:
        return list(itertools.islice(set.__iter__(value), _SAMPLE))
    return [family.__getitem__(value, index) for index in range(0, length, max(1, length // _SAMPLE))]


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
