"""Plain values as types that a safe load accepts, and back.

A value is encoded as itself if it is None or a bool, int, float or str. Any other is a dict with the key `kind`: an
object of the run is named by its path (`{"kind": "at"}`), and a mutable value is an entry of a table (`{"kind":
"new"}`), so that an object that is held in two places stays one object. Encoding runs no code of the values' classes.
"""

import collections
import enum
import functools
import hashlib
import pathlib
import random
import re
import struct
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from lightning_dtool.resuming.remembered_scope import is_left_out
from lightning_dtool.values.attributes import has_hidden_state
from lightning_dtool.values.definitions import class_path, is_users

Encoded = Any
"""None, bool, int, float, str, or a dict with the key `kind`."""

MAX_BYTES = 256 * 2**20
"""Maximum number of bytes of the tensors, arrays and texts that one checkpoint remembers."""

MAX_ENTRIES = 1_000_000
"""Maximum number of entries of containers that one checkpoint remembers."""

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)

_MAX_DEPTH = 50

CONSTANTS = (
    range, slice, torch.dtype, torch.device, torch.Size, torch.layout, np.generic, np.dtype, enum.Enum,
    pathlib.PurePath, re.Pattern,
)  # fmt: skip
"""Types whose objects do not change, and hold none that do."""

_LARGEST_INT = 2**63

_SCALARS = frozenset({type(None), bool, int, float, str})

_FACTORIES = {
    None: "none",
    int: "int",
    float: "float",
    list: "list",
    dict: "dict",
    set: "set",
    str: "str",
    bool: "bool",
}


class NotPlainError(Exception):
    """A value that cannot be encoded. The message says why, as the end of a sentence about it."""


class MissingType(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING = MissingType.MISSING
"""The value of an attribute that does not exist, and of one that holds no state of a training."""


class Encoder:
    """Encodes the values of one checkpoint.

    Attributes:
        table: The mutable values, each once.
    """

    def __init__(self, path_of: Callable[[Any], str | None]) -> None:
        """Begin with an empty table.

        Args:
            path_of: Returns the path of an object of the run; None for other objects.
        """
        self.table: list[dict[str, Any]] = []
        self._path_of = path_of
        self._places: dict[int, int] = {}
        self._alive: list[Any] = []
        self._bytes_left = MAX_BYTES
        self._entries_left = MAX_ENTRIES
        self._depth = 0

    def value(self, value: Any) -> Encoded:
        """Return an encoded value.

        Args:
            value: Any value.

        Raises:
            NotPlainError: If the value is not plain, or too large.
        """
        kind: Any = type(value)
        if kind in _SCALARS:
            if kind is int and not -_LARGEST_INT <= value < _LARGEST_INT:
                return {"kind": "int", "value": hex(value)}
            if kind is str:
                self._take_bytes(len(value))
                return value.encode(errors="surrogatepass").decode(errors="replace")
            return value
        if value is MISSING:
            return {"kind": "missing"}
        if is_left_out(kind):
            return {"kind": "left out"}
        path = self._path_of(value)
        if path is not None:
            return {"kind": "at", "path": path}
        if id(value) in self._places:
            return {"kind": "new", "index": self._places[id(value)]}
        simple = _simple(kind, value)
        if simple is not None:
            return simple
        if issubclass(kind, tuple):
            return self._tuple(kind, value)
        if issubclass(kind, frozenset):
            return {"kind": "frozenset", "value": self._several(sorted_entries(frozenset.__iter__(value)))}
        index = len(self.table)
        self.table.append({})
        self._places[id(value)] = index
        self._alive.append(value)
        self.table[index] = self.contents(value)
        return {"kind": "new", "index": index}

    def attempt(self, value: Any) -> Encoded:
        """Return an encoded value, like `value`. If it cannot be encoded, the table is as before.

        Args:
            value: Any value.

        Raises:
            NotPlainError: If the value is not plain, or too large.
        """
        return self._undone(lambda: self.value(value))

    def attempt_filling(self, family: str, value: Any) -> dict[str, Any]:
        """Return the contents of a container, like `contents`, also for a class that derives from a built-in one.

        Args:
            family: `list`, `dict`, `set`, `deque`, or anything else for a value that is no container.
            value: The container.

        Raises:
            NotPlainError: If an entry is not plain, or if it is too large.
        """
        found: dict[str, Any] = self._undone(lambda: self._filling(family, value))
        return found

    def _filling(self, family: str, value: Any) -> dict[str, Any]:
        if family == "dict":
            return {"kind": "dict", "value": self.pairs(dict.items(value))}
        if family == "set":
            return {"kind": "set", "value": self._several(sorted_entries(set.__iter__(value)))}
        if family in ("list", "deque"):
            entries = list.__iter__(value) if family == "list" else collections.deque.__iter__(value)
            return {"kind": "list", "value": self._several(entries)}
        return self.contents(value)

    def _undone(self, encode: Callable[[], Any]) -> Any:
        length = len(self.table)
        try:
            return encode()
        except NotPlainError:
            del self.table[length:]
            self._places = {key: index for key, index in self._places.items() if index < length}
            self._depth = 0
            raise

    def contents(self, value: Any) -> dict[str, Any]:
        """Return the contents of a mutable value, as an entry of the table.

        Args:
            value: A container, a tensor, an array, a generator, or an object of a class of the user.

        Raises:
            NotPlainError: If the value is not plain, or too large.
        """
        self._depth += 1
        try:
            if self._depth > _MAX_DEPTH:
                raise NotPlainError("is nested too deeply")
            return self._contents(type(value), value)
        finally:
            self._depth -= 1

    def _contents(self, kind: Any, value: Any) -> dict[str, Any]:
        if issubclass(kind, torch.Tensor):
            return self._tensor(value)
        if issubclass(kind, np.ndarray):
            return self._array(value)
        if issubclass(kind, GENERATORS):
            return {"kind": "generator", "class": class_path(kind), "value": self._several_of_a_state(value)}
        if kind is collections.deque:
            return {"kind": "deque", "value": self._several(collections.deque.__iter__(value)), "maxlen": value.maxlen}
        if kind is list:
            return {"kind": "list", "value": self._several(value)}
        if kind is set:
            return {"kind": "set", "value": self._several(sorted_entries(value))}
        if kind is bytearray:
            return {"kind": "bytearray", "value": self._bytes(bytes(value))}
        if kind in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
            found: dict[str, Any] = {"kind": kind.__name__, "value": self.pairs(dict.items(value))}
            if kind is collections.defaultdict:
                factory = value.default_factory
                if factory not in _FACTORIES:
                    raise NotPlainError("is a defaultdict with a function of its own")
                found["factory"] = _FACTORIES[factory]
            return found
        if is_buildable(kind):
            attributes = dict(object.__getattribute__(value, "__dict__"))
            return {"kind": "instance", "class": class_path(kind), "value": self.pairs(attributes.items())}
        raise NotPlainError(f"is a {class_path(kind)}, which cannot be saved as plain values")

    def pairs(self, items: Iterable[tuple[Any, Any]]) -> list[list[Encoded]]:
        """Return the encoded entries of a mapping.

        Args:
            items: The entries, in order.

        Raises:
            NotPlainError: If an entry is not plain, or if there are too many.
        """
        return [self._several(pair) for pair in items]

    def _several(self, values: Iterable[Any]) -> list[Encoded]:
        found = list(values)
        self._entries_left -= len(found)
        if self._entries_left < 0:
            raise NotPlainError(f"holds more than {MAX_ENTRIES} entries, together with other state")
        if set(map(type, found)) <= {float, bool, type(None)}:
            return found
        return [self.value(each) for each in found]

    def _tuple(self, kind: Any, value: Any) -> Encoded:
        self._depth += 1
        try:
            if self._depth > _MAX_DEPTH:
                raise NotPlainError("is nested too deeply")
            entries = self._several(tuple.__iter__(value))
        finally:
            self._depth -= 1
        if kind is tuple:
            return {"kind": "tuple", "value": entries}
        if is_named_tuple(kind):
            return {"kind": "namedtuple", "class": class_path(kind), "value": entries}
        raise NotPlainError(f"is a {class_path(kind)}, which cannot be saved as plain values")

    def _tensor(self, value: torch.Tensor) -> dict[str, Any]:
        plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided
        if not plain or value.is_quantized or value.is_meta:
            raise NotPlainError(f"is a tensor of the kind {class_path(type(value))}, which cannot be saved")
        if value.grad_fn is not None and not _has_been_used(value.grad_fn):
            raise NotPlainError("is a tensor with a graph of gradients that has not been used, which cannot be saved")
        self._take_bytes(value.nbytes)
        found = value.detach()
        if value.device.type != "cpu":
            found = found.cpu()
        elif value.untyped_storage().nbytes() > value.nbytes or value.is_inference():
            found = found.clone()
        return {
            "kind": "tensor",
            "value": found,
            "device": value.device.type,
            "requires_grad": value.requires_grad and value.grad_fn is None,
            "parameter": type(value) is torch.nn.Parameter,
        }

    def _array(self, value: Any) -> dict[str, Any]:
        if type(value) is not np.ndarray or value.dtype.hasobject or value.dtype.names is not None:
            raise NotPlainError(
                f"is an array of the kind {class_path(type(value))} {value.dtype}, which cannot be saved"
            )
        self._take_bytes(value.nbytes)
        flat = np.ascontiguousarray(value)
        return {
            "kind": "array",
            "value": _as_tensor(flat.tobytes()),
            "dtype": value.dtype.str,
            "shape": list(value.shape),
        }

    def _several_of_a_state(self, generator: Any) -> Encoded:
        state = generator_state(generator)
        return Encoder(lambda value: None)._plain_tree(state)

    def _plain_tree(self, value: Any) -> Encoded:
        """Encode a state of a generator in one piece, since it has no parts that others hold."""
        if isinstance(value, dict):
            pairs = [[self._plain_tree(key), self._plain_tree(entry)] for key, entry in value.items()]
            return {"kind": "tree", "value": pairs}
        if isinstance(value, tuple):
            if len(value) > 100 and set(map(type, value)) == {int}:
                return {"kind": "integers", "value": torch.tensor(value, dtype=torch.int64)}
            return {"kind": "tuple", "value": [self._plain_tree(entry) for entry in value]}
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, torch.Tensor):
            return {
                "kind": "tensor",
                "value": value.clone(),
                "device": "cpu",
                "requires_grad": False,
                "parameter": False,
            }
        return self.value(value.item() if isinstance(value, np.generic) else value)

    def _bytes(self, value: bytes) -> torch.Tensor:
        self._take_bytes(len(value))
        return _as_tensor(value)

    def _take_bytes(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise NotPlainError(f"is too large: more than {MAX_BYTES // 2**20} MiB of state that no state_dict holds")


class Decoder:
    """Decodes the values of one checkpoint."""

    def __init__(
        self,
        table: list[dict[str, Any]],
        object_at: Callable[[str], Any],
        class_named: Callable[[str], type | None],
        device: torch.device,
    ) -> None:
        """Begin with no value decoded.

        Args:
            table: The table of the encoder.
            object_at: Returns the object of the run at a path; raises KeyError if there is none.
            class_named: Returns a class of the user by its path; None if the run has no such class.
            device: The device of tensors that were not on the CPU.
        """
        self.table = table
        self._object_at = object_at
        self._class_named = class_named
        self._device = device
        self._decoded: dict[int, Any] = {}

    def value(self, encoded: Encoded) -> Any:
        """Return a value.

        Args:
            encoded: The encoded value.

        Raises:
            KeyError: If an object or a class that it needs is not in this run.
            ValueError: If it is not an encoded value.
        """
        if type(encoded) in _SCALARS:
            return encoded
        kind = encoded["kind"]
        if kind == "at":
            return self._object_at(encoded["path"])
        if kind == "new":
            index = int(encoded["index"])
            if index not in self._decoded:
                self._build(index)
            return self._decoded[index]
        if kind in ("missing", "left out"):
            return MISSING
        if kind == "tuple":
            return tuple(map(self.value, encoded["value"]))
        if kind == "frozenset":
            return frozenset(map(self.value, encoded["value"]))
        if kind == "namedtuple":
            cls = self._class(encoded["class"])
            if not is_named_tuple(cls):
                raise KeyError(encoded["class"])
            return tuple.__new__(cls, map(self.value, encoded["value"]))
        if kind == "integers":
            return tuple(encoded["value"].tolist())
        if kind == "tree":
            return {self.value(key): self.value(entry) for key, entry in encoded["value"]}
        if kind in ("tensor", "array"):
            return self._leaf(encoded)
        return _simple_value(encoded, self._class)

    def _class(self, name: str) -> Any:
        found = self._class_named(name)
        if found is None:
            raise KeyError(name)
        return found

    def _build(self, index: int) -> None:
        """Build a value of the table. A container is entered before its entries, which may hold it."""
        entry = self.table[index]
        kind = entry["kind"]
        if kind in ("tensor", "array"):
            self._decoded[index] = self._leaf(entry)
        elif kind == "generator":
            self._decoded[index] = new_generator(entry["class"], self.value(entry["value"]))
        elif kind == "instance":
            cls = self._class(entry["class"])
            if not is_buildable(cls):
                raise KeyError(entry["class"])
            made = object.__new__(cls)
            self._decoded[index] = made
            vars(made).update(self._without_missing(entry["value"]))
        else:
            self._decoded[index] = empty = _empty(entry)
            fill(empty, self.filling(entry))

    def _without_missing(self, pairs: list[list[Encoded]]) -> list[tuple[Any, Any]]:
        return [(self.value(key), found) for key, each in pairs if (found := self.value(each)) is not MISSING]

    def _leaf(self, entry: Mapping[str, Any]) -> Any:
        if entry["kind"] == "array":
            data = entry["value"].numpy().tobytes()
            return np.frombuffer(data, dtype=np.dtype(entry["dtype"])).reshape(entry["shape"]).copy()
        tensor = entry["value"].detach().to("cpu" if entry["device"] == "cpu" else self._device, copy=True)
        if entry["parameter"]:
            return torch.nn.Parameter(tensor, requires_grad=entry["requires_grad"])
        return tensor.requires_grad_(entry["requires_grad"])

    def filling(self, entry: Mapping[str, Any]) -> Any:
        """Return what fills a container or another mutable value: its entries, a tensor, an array or a state.

        Args:
            entry: The contents, as `Encoder.contents` returns them.

        Raises:
            KeyError: If an object or a class that it needs is not in this run.
            ValueError: If these are no contents.
        """
        kind, value = entry["kind"], entry["value"]
        if kind in ("tensor", "array"):
            return self._leaf(entry)
        if kind == "bytearray":
            return value.numpy().tobytes()
        if kind == "generator":
            return self.value(value)
        if kind in ("list", "deque", "set"):
            return [found for each in value if (found := self.value(each)) is not MISSING]
        if kind in ("dict", "OrderedDict", "Counter", "defaultdict"):
            return self._without_missing(value)
        raise ValueError(f"{kind!r} is no kind of contents")


def fill(target: Any, filling: Any) -> None:
    """Replace the contents of a mutable value, in place.

    Args:
        target: A container, tensor, array or generator.
        filling: What `Decoder.filling` returned.
    """
    if isinstance(target, torch.Tensor):
        with torch.no_grad():
            if target.shape == filling.shape and target.dtype == filling.dtype:
                target.copy_(filling)
            else:
                target.data = filling.to(target.device)
    elif isinstance(target, np.ndarray):
        np.copyto(target, filling)
    elif isinstance(target, GENERATORS):
        set_generator_state(target, filling)
    elif isinstance(target, dict):
        kept = [(key, value) for key, value in dict.items(target) if is_left_out(kind_of(value))]
        dict.clear(target)
        for key, value in (*filling, *kept):
            dict.__setitem__(target, key, value)
    elif isinstance(target, collections.deque):
        collections.deque.clear(target)
        collections.deque.extend(target, filling)
    elif isinstance(target, set):
        set.clear(target)
        set.update(target, filling)
    elif isinstance(target, bytearray):
        bytearray.__setitem__(target, slice(None), filling)
    else:
        list.__setitem__(target, slice(None), filling)


def kind_of(value: Any) -> Any:
    """Return the class of a value, for functions that remember their results.

    Args:
        value: Any value.
    """
    return type(value)


def equal(one: Encoded, its_table: list[dict[str, Any]], other: Encoded, other_table: list[dict[str, Any]]) -> bool:
    """Return whether two encoded values are the same, bit for bit.

    Args:
        one: An encoded value.
        its_table: The table to which it belongs.
        other: Another encoded value.
        other_table: The table to which that belongs.
    """
    seen: set[tuple[int, int]] = set()

    def same(a: Any, b: Any) -> bool:
        if type(a) is not type(b):
            return False
        if isinstance(a, dict):
            if a.get("kind") == b.get("kind") == "new":
                pair = (a["index"], b["index"])
                if pair in seen:
                    return True
                seen.add(pair)
                return same(its_table[a["index"]], other_table[b["index"]])
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and _bytes_of(a) == _bytes_of(b)
        if isinstance(a, float):
            return struct.pack("d", a) == struct.pack("d", b)
        return bool(a == b)

    return same(one, other)


def digest(
    encoded: Encoded, table: list[dict[str, Any]], of_tensor: Callable[[torch.Tensor], bytes] | None = None
) -> str:
    """Return a digest of an encoded value, which is the same in every process.

    Args:
        encoded: The value.
        table: The table to which it belongs.
        of_tensor: Returns what counts of the values of a tensor; None for all of them.
    """
    found = hashlib.blake2b(digest_size=16)
    seen: set[int] = set()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("kind") == "new":
                found.update(f"new{value['index']}".encode())
                if value["index"] not in seen:
                    seen.add(value["index"])
                    add(table[value["index"]])
                return
            for key, entry in value.items():
                found.update(f"<{key}>".encode())
                add(entry)
        elif isinstance(value, list):
            found.update(f"[{len(value)}]".encode())
            for entry in value:
                add(entry)
        elif isinstance(value, torch.Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update((of_tensor or _bytes_of)(value))
        else:
            found.update(f"{type(value).__name__}:{value!r};".encode(errors="replace"))

    add(encoded)
    return found.hexdigest()


def generator_state(generator: Any) -> Any:
    """Return the state of a random generator, as a copy.

    Args:
        generator: One of `GENERATORS`.

    Raises:
        NotPlainError: If its state cannot be read.
    """
    try:
        if isinstance(generator, torch.Generator):
            return generator.get_state()
        if isinstance(generator, random.Random):
            return random.Random.getstate(generator)
        if isinstance(generator, np.random.Generator):
            return generator.bit_generator.state
        if isinstance(generator, np.random.RandomState):
            return generator.get_state(legacy=False)
        return generator.state
    except (NotImplementedError, AttributeError) as error:  # a generator of the operating system
        raise NotPlainError("is a generator whose state cannot be read") from error


def set_generator_state(generator: Any, state: Any) -> None:
    """Set the state of a random generator.

    Args:
        generator: One of `GENERATORS`.
        state: What `generator_state` returned, possibly encoded and decoded.
    """
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        random.Random.setstate(generator, state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.state = state


def new_generator(name: str, state: Any) -> Any:
    """Return a new random generator with a state.

    Args:
        name: The path of its class.
        state: Its state.

    Raises:
        KeyError: If generators of this class are not made.
    """
    made: Any
    if name == class_path(torch.Generator):
        made = torch.Generator()
    elif name == class_path(random.Random):
        made = random.Random()  # noqa: S311  # not for secrets
    elif name == class_path(np.random.RandomState):
        made = np.random.RandomState(0)
    elif name == class_path(np.random.Generator):
        kinds = {each.__name__: each for each in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937,
                                                  np.random.Philox, np.random.SFC64)}  # fmt: skip
        made = np.random.Generator(kinds[state["bit_generator"]](0))
    else:
        raise KeyError(name)
    set_generator_state(made, state)
    return made


@functools.lru_cache(maxsize=1000)
def is_named_tuple(kind: Any) -> bool:
    """Return whether a class of the user was made by `namedtuple`, so that a tuple of its fields makes an object.

    Args:
        kind: The class.
    """
    plain = issubclass(kind, tuple) and isinstance(vars(kind).get("_fields"), tuple)
    return plain and kind.__bases__ == (tuple,) and is_users(kind)


@functools.lru_cache(maxsize=1000)
def is_buildable(kind: Any) -> bool:
    """Return whether an object of a class of the user is no more than its attributes.

    Args:
        kind: The class.
    """
    if not is_users(kind) or has_hidden_state(kind) or issubclass(kind, torch.nn.Module):
        return False
    names = set().union(*(vars(each) for each in kind.__mro__ if each is not object))
    slots = any(isinstance(vars(each).get(name), types.MemberDescriptorType) for each in kind.__mro__ for name in names)
    return not slots and "__del__" not in names and kind.__new__ is object.__new__


def sorted_entries(entries: Iterable[Any]) -> list[Any]:
    """Return the entries of a set in an order that is the same in every process, if they are plain.

    Args:
        entries: The entries.
    """
    found = list(entries)
    parts = [part for each in found for part in (each if type(each) is tuple else (each,))]
    if set(map(type, parts)) <= _SCALARS:
        found.sort(key=repr)
    return found


def _simple(kind: type, value: Any) -> dict[str, Any] | None:
    """Return an encoded value of a type that does not change and holds no other objects; None for other types."""
    if kind is complex:
        return {"kind": "complex", "value": [value.real, value.imag]}
    if kind is bytes:
        return {"kind": "bytes", "value": _as_tensor(value)}
    if kind in (range, slice):
        parts = [value.start, value.stop, value.step]
        return {"kind": kind.__name__, "value": parts} if set(map(type, parts)) <= _SCALARS else None
    if kind is torch.dtype:
        return {"kind": "dtype", "value": str(value).removeprefix("torch.")}
    if kind is torch.device:
        return {"kind": "device", "value": str(value)}
    if kind is torch.Size:
        return {"kind": "size", "value": list(value)}
    if issubclass(kind, np.generic) and kind.__module__ == "numpy" and not value.dtype.hasobject:
        return {"kind": "scalar", "value": _as_tensor(value.tobytes()), "dtype": value.dtype.str}
    if issubclass(kind, enum.Enum):
        return {"kind": "enum", "class": class_path(kind), "value": value._name_}
    if issubclass(kind, pathlib.PurePath):
        return {"kind": "path", "value": str(value)}
    return None


def _simple_value(encoded: Mapping[str, Any], class_named: Callable[[str], Any]) -> Any:
    kind, value = encoded["kind"], encoded["value"]
    if kind == "int":
        return int(value, 16)
    if kind == "complex":
        return complex(*value)
    if kind == "bytes":
        return value.numpy().tobytes()
    if kind in ("range", "slice"):
        return (range if kind == "range" else slice)(*value)
    if kind == "dtype" and isinstance(found := getattr(torch, value, None), torch.dtype):
        return found
    if kind == "device":
        return torch.device(value)
    if kind == "size":
        return torch.Size(value)
    if kind == "scalar":
        return np.frombuffer(value.numpy().tobytes(), dtype=np.dtype(encoded["dtype"]))[0]
    if kind == "path":
        return pathlib.Path(value)
    if kind == "enum":
        cls = class_named(encoded["class"])
        if isinstance(cls, enum.EnumMeta):
            return cls.__members__[value]
    raise ValueError(f"{kind!r} is no kind of value")


def _empty(entry: Mapping[str, Any]) -> Any:
    kind = entry["kind"]
    if kind == "deque":
        return collections.deque(maxlen=entry["maxlen"])
    if kind == "defaultdict":
        return collections.defaultdict(next(made for made, name in _FACTORIES.items() if name == entry["factory"]))
    kinds: dict[str, Callable[[], Any]] = {
        "list": list, "set": set, "dict": dict, "bytearray": bytearray, "OrderedDict": collections.OrderedDict,
        "Counter": collections.Counter,
    }  # fmt: skip
    if kind not in kinds:
        raise ValueError(f"{kind!r} is no kind of contents")
    return kinds[kind]()


def _has_been_used(node: Any) -> bool:
    """Return whether a graph of gradients was freed, as `backward` does, so that nothing can use it again."""
    waiting, seen = [node], 0
    while waiting and seen < 50:
        found = waiting.pop(0)
        seen += 1
        for name in dir(found):
            if name.startswith("_saved_"):
                try:
                    getattr(found, name)
                except RuntimeError:  # torch says so when the saved values were freed
                    return True
        waiting += [each for each, _ in found.next_functions if each is not None]
    return False


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
