"""Plain values as types that a safe load accepts.

A value is encoded as itself if it is None or a bool, int, float or str. Any other is a dict with the key `kind`: an
object of the run is named by its path (`{"kind": "at"}`), and a mutable value is an entry of a table (`{"kind":
"new"}`), so that an object that is held in two places stays one object. Encoding runs no code of the values' classes.
"""

import array
import collections
import datetime
import enum
import pathlib
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from lightning_dtool.resuming.plain_state.generator_states import generator_state
from lightning_dtool.resuming.plain_state.kinds import (
    DATES,
    FACTORIES,
    GENERATORS,
    MISSING,
    SCALARS,
    NotPlainError,
    family_of,
    holds_objects,
    is_buffer,
    is_buildable,
    is_named_tuple,
    kind_of,
)
from lightning_dtool.resuming.plain_state.scope import is_left_out
from lightning_dtool.values.definitions import class_path

Encoded = Any
"""None, bool, int, float, str, or a dict with the key `kind`."""

MAX_BYTES = 256 * 2**20
"""Maximum number of bytes of the tensors, arrays and texts that one checkpoint remembers."""

MAX_ENTRIES = 1_000_000
"""Maximum number of entries of containers that one checkpoint remembers."""

MAX_READ = 2**20
"""Maximum number of bytes of a value that was computed when it was first read; a larger one is taken for data."""

_MAX_DEPTH = 50

_LARGEST_INT = 2**63


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
        if kind in SCALARS:
            if kind is int and not -_LARGEST_INT <= value < _LARGEST_INT:
                return {"kind": "int", "value": hex(value)}
            if kind is str:
                return self._text(value)
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
        if issubclass(kind, DATES):
            return _date(kind, value)
        if kind is bytes:
            return {"kind": "bytes", "value": self._bytes(value)}
        simple = _simple(kind, value)
        if simple is not None:
            return simple
        if issubclass(kind, tuple):
            return self._tuple(kind, value)
        if issubclass(kind, frozenset):
            return {"kind": "frozenset", "value": self._several(_sorted_entries(frozenset.__iter__(value)))}
        index = len(self.table)
        self.table.append({})
        self._places[id(value)] = index
        self._alive.append(value)
        self.table[index] = self.contents(value)
        return {"kind": "new", "index": index}

    def attempt(self, value: Any, max_bytes: int = MAX_BYTES) -> Encoded:
        """Return an encoded value, like `value`. If it cannot be encoded, the table is as before.

        Args:
            value: Any value.
            max_bytes: Maximum number of its bytes; one entry counts as 64. Default: what one checkpoint remembers.

        Raises:
            NotPlainError: If the value is not plain, or too large.
        """
        left = self._bytes_left, self._entries_left
        given = min(left[0], max_bytes), min(left[1], max_bytes // 64)
        self._bytes_left, self._entries_left = given
        try:
            return self._undone(lambda: self.value(value))
        finally:
            self._bytes_left = left[0] - (given[0] - self._bytes_left)
            self._entries_left = left[1] - (given[1] - self._entries_left)

    def attempt_filling(self, value: Any) -> dict[str, Any]:
        """Return what `Decoder.filling` needs to fill an object of the run. If this fails, the table is as before.

        Unlike `contents`, this accepts any class that derives from a built-in container, since the object exists.

        Args:
            value: A container, a tensor, an array, or a generator.

        Raises:
            NotPlainError: If an entry is not plain, or if it is too large.
        """
        found: dict[str, Any] = self._undone(lambda: self._filling(value))
        return found

    def _filling(self, value: Any) -> dict[str, Any]:
        family = family_of(kind_of(value))
        if family is dict:
            return {"kind": "dict", "value": self.pairs(dict.items(value))}
        if family is set:
            return {"kind": "set", "value": self._several(_sorted_entries(set.__iter__(value)))}
        if family in (list, collections.deque):
            return {"kind": "list", "value": self._several(family.__iter__(value))}
        if is_buffer(kind_of(value)):
            return {"kind": "buffer", "value": self._bytes(memoryview(value).tobytes())}
        return self.contents(value)

    def _undone(self, encode: Callable[[], Any]) -> Any:
        length, left = len(self.table), (self._bytes_left, self._entries_left)
        try:
            return encode()
        except NotPlainError:
            del self.table[length:]
            self._bytes_left, self._entries_left = left
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
            return {"kind": "generator", "class": class_path(kind), "value": self._state(value)}
        if kind is collections.deque:
            return {"kind": "deque", "value": self._several(collections.deque.__iter__(value)), "maxlen": value.maxlen}
        if kind is list:
            return {"kind": "list", "value": self._several(value)}
        if kind is set:
            return {"kind": "set", "value": self._several(_sorted_entries(value))}
        if kind is bytearray:
            return {"kind": "bytearray", "value": self._bytes(bytes(value))}
        if kind is array.array:
            return {"kind": "array.array", "value": self._bytes(value.tobytes()), "typecode": value.typecode}
        if kind in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
            found: dict[str, Any] = {"kind": kind.__name__, "value": self.pairs(dict.items(value))}
            if kind is collections.defaultdict:
                factory = value.default_factory
                if factory not in FACTORIES:
                    raise NotPlainError("is a defaultdict with a function of its own")
                found["factory"] = FACTORIES[factory]
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
        if holds_objects(value):
            return {"kind": "objects", "value": self._several(value.reshape(-1).tolist()), "shape": list(value.shape)}
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

    def _state(self, generator: Any) -> Encoded:
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

    def _text(self, value: str) -> str:
        try:
            self._take_bytes(len(value.encode()))
        except UnicodeEncodeError as error:  # half of a surrogate pair, as in the name of a file that is no UTF-8
            raise NotPlainError("is a text that UTF-8 cannot encode") from error
        return value

    def _bytes(self, value: bytes) -> torch.Tensor:
        self._take_bytes(len(value))
        return _as_tensor(value)

    def _take_bytes(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise NotPlainError(f"is too large: more than {MAX_BYTES // 2**20} MiB of state that no state_dict holds")


def _sorted_entries(entries: Iterable[Any]) -> list[Any]:
    """Return the entries of a set in an order that is the same in every process, if they are plain.

    Args:
        entries: The entries.
    """
    found = list(entries)
    parts = [part for each in found for part in (each if type(each) is tuple else (each,))]
    if set(map(type, parts)) <= SCALARS:
        found.sort(key=repr)
    return found


def _simple(kind: type, value: Any) -> dict[str, Any] | None:
    """Return an encoded value of a type that does not change and holds no other objects; None for other types."""
    if kind is complex:
        return {"kind": "complex", "value": [value.real, value.imag]}
    if kind in (range, slice):
        parts = [value.start, value.stop, value.step]
        return {"kind": kind.__name__, "value": parts} if set(map(type, parts)) <= SCALARS else None
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


def _date(kind: type, value: Any) -> dict[str, Any]:
    """Return an encoded date, time of day or duration."""
    if kind is datetime.timedelta:
        return {"kind": "timedelta", "value": [value.days, value.seconds, value.microseconds]}
    if kind is datetime.date:
        return {"kind": "date", "value": value.isoformat()}
    if kind not in (datetime.datetime, datetime.time):
        raise NotPlainError(f"is a {class_path(kind)}, which cannot be saved as plain values")
    zone: Any = value.tzinfo
    if type(zone) is datetime.timezone:
        zone = zone.utcoffset(None).total_seconds()
    elif type(zone) is zoneinfo.ZoneInfo:
        zone = zone.key
    if zone is not None and type(zone) not in (float, str):
        raise NotPlainError(f"has a time zone of the class {class_path(type(zone))}, which cannot be saved")
    text = value.replace(tzinfo=None).isoformat()
    return {"kind": kind.__name__, "value": text, "zone": zone, "fold": value.fold}


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
