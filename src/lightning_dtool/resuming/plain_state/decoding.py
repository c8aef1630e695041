"""Encoded values as values again: built anew, or filled into the objects of the run."""

import array
import collections
import ctypes
import datetime
import enum
import pathlib
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lightning_dtool.resuming.plain_state.encoding import Encoded
from lightning_dtool.resuming.plain_state.generator_states import new_generator, set_generator_state
from lightning_dtool.resuming.plain_state.kinds import (
    FACTORIES,
    GENERATORS,
    MISSING,
    SCALARS,
    is_buffer,
    is_buildable,
    is_named_tuple,
    kind_of,
)
from lightning_dtool.resuming.plain_state.scope import is_left_out


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
        if type(encoded) in SCALARS:
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
        if kind in ("bytearray", "buffer", "array.array"):
            return value.numpy().tobytes()
        if kind == "objects":
            return list(map(self.value, value))
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
    elif isinstance(target, np.ndarray) and target.dtype == object:
        for index, value in enumerate(filling):
            if value is not MISSING:
                target.flat[index] = value
    elif isinstance(target, np.ndarray):
        np.copyto(target, filling)
    elif is_buffer(kind_of(target)):
        _fill_buffer(target, filling)
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


def _fill_buffer(target: Any, data: bytes) -> None:
    if isinstance(target, array.array):
        array.array.__setitem__(target, slice(None), array.array(target.typecode, data))
    elif ctypes.sizeof(target) == len(data):
        ctypes.memmove(ctypes.addressof(target), data, len(data))
    else:
        raise ValueError(f"{len(data)} bytes are too many or too few")


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
    if kind == "timedelta":
        return datetime.timedelta(*value)
    if kind == "date":
        return datetime.date.fromisoformat(value)
    if kind in ("datetime", "time"):
        zone = encoded["zone"]
        if isinstance(zone, float):
            zone = datetime.timezone(datetime.timedelta(seconds=zone))
        elif zone is not None:
            zone = zoneinfo.ZoneInfo(zone)
        read = datetime.datetime.fromisoformat if kind == "datetime" else datetime.time.fromisoformat
        return read(value).replace(tzinfo=zone, fold=encoded["fold"])
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
        return collections.defaultdict(next(made for made, name in FACTORIES.items() if name == entry["factory"]))
    if kind == "array.array":
        return array.array(entry["typecode"])
    if kind == "objects":
        return np.empty(entry["shape"], dtype=object)
    kinds: dict[str, Callable[[], Any]] = {
        "list": list, "set": set, "dict": dict, "bytearray": bytearray, "OrderedDict": collections.OrderedDict,
        "Counter": collections.Counter,
    }  # fmt: skip
    if kind not in kinds:
        raise ValueError(f"{kind!r} is no kind of contents")
    return kinds[kind]()
