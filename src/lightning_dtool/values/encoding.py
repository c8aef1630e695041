"""Any Python value as strict JSON, with nothing silently dropped.

JSON's own values stand as they are. Every other value becomes `{"type": "module:qualname", …}` with its
content gaps that is plain, else with its repr; then the caller is told, so that the record can say so.
The same value gives the same text in every process: no memory address, no order of a hash table.
"""

import argparse
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import itertools
import json
import math
import os
import types
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from lightning_dtool.record import MAX_INTEGER, Gaps, as_text
from lightning_dtool.values.definitions import MAX_REPR, class_path, short_repr, source_of

MAX_ITEMS = 1000
"""Entries of one container that a record keeps; the rest is counted."""

MAX_TEXT = 100_000
"""Characters of one text that a record keeps."""

MAX_SIZE = 300_000
"""Characters and entries that one value may cost in all."""

MAX_DEPTH = 40
"""Containers within containers that a record follows."""

_PLAIN = datetime.date | datetime.time | datetime.timedelta | decimal.Decimal | fractions.Fraction | uuid.UUID | range
"""Types whose `str` says everything."""


def encode(value: Any, gaps: Gaps) -> Any:
    """Return a value as strict JSON.

    Args:
        value: Anything.
        gaps: Stands at the value's place in the record. Receives a gap for whatever could not be kept whole.

    Returns:
        A value that `json.dumps(..., allow_nan=False)` takes, with no integer beyond 8 bytes.
    """
    return _Encoder().encode(value, gaps, ())


def encode_all(values: Mapping[Any, Any], gaps: Gaps) -> dict[str, Any]:
    """Return named values as strict JSON; a name that is no text is written as one.

    Args:
        values: Values by name.
        gaps: Stands at the mapping's place in the record. Receives a gap for whatever could not be kept whole.
    """
    encoder = _Encoder()
    encoded: dict[str, Any] = {}
    for name, value in values.items():
        text = as_text(name) if isinstance(name, str) else short_repr(name)
        while text in encoded:  # 1 and "1" are two names
            text += "'"
        encoded[text] = encoder.encode(value, gaps.at(text), ())
    return encoded


class _Encoder:
    """One walk through a value; it knows which containers it is inside of, and how much it may still write."""

    def __init__(self, left: int = MAX_SIZE) -> None:
        self._left = left

    def encode(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> Any:
        self._left -= 1
        if value is None or type(value) is bool:
            return value
        if type(value) is str:
            return self._text(value, gaps)
        if type(value) is int:
            return value if abs(value) <= MAX_INTEGER else {"type": "builtins:int", "value": self._digits(value, gaps)}
        if type(value) is float:
            return value if math.isfinite(value) else {"type": "builtins:float", "value": str(value)}
        if id(value) in inside:
            gaps.add("it contains itself", "")
            return {"type": class_path(type(value)), "repr": "..."}
        if len(inside) >= MAX_DEPTH:
            gaps.add(f"it lies more than {MAX_DEPTH} containers deep", "use flatter values")
            return {"type": class_path(type(value)), "repr": "..."}
        inside = (*inside, id(value))
        if type(value) is list or (type(value) is dict and all(map(_is_plain_key, value))):
            return self._container(value, gaps, inside)
        try:
            return {"type": class_path(type(value)), **self._content(value, gaps, inside)}
        except Exception as error:  # somebody else's class may do anything when it is looked at
            gaps.add(f"looking at it raised {type(error).__name__}", "pass plain values")
            return {"type": class_path(type(value)), "repr": short_repr(value)}

    def _content(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> dict[str, Any]:
        if isinstance(value, enum.Enum):
            return {"name": value.name, "value": self.encode(value.value, gaps, inside)}
        if isinstance(value, torch.Size):
            return {"value": list(value)}
        if isinstance(value, torch.dtype | torch.device):
            return {"value": str(value)}
        if isinstance(value, torch.Tensor):
            return self._tensor(value, gaps, inside)
        if isinstance(value, np.ndarray):
            return self._array(value, gaps, inside)
        if isinstance(value, np.generic):
            item = value.item()
            # NumPy's long double has no counterpart in Python: its item is itself.
            plain = short_repr(value) if isinstance(item, np.generic) else item
            return {"value": self.encode(plain, gaps, inside)}
        if isinstance(value, str | int | float | complex | bytes | bytearray | os.PathLike | _PLAIN):
            return {"value": self._plain(value, gaps)}
        if isinstance(value, functools.partial):
            called = {"func": value.func, "args": list(value.args), "keywords": value.keywords}
            return {"value": self._container(called, gaps, inside)}
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            pairs = isinstance(value, Mapping) and not all(map(_is_plain_key, value))
            return {"items" if pairs else "value": self._container(value, gaps, inside)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return {"value": self._container(fields, gaps, inside)}
        if isinstance(value, argparse.Namespace | types.SimpleNamespace):
            return {"value": self._container(vars(value), gaps, inside)}
        if isinstance(value, type) or inspect.isroutine(value):
            return self._definition(value, gaps)
        gaps.add(
            f"a {class_path(value)} is known by its repr only",
            "pass plain values and build the object in __init__",
        )
        return {"repr": self._cut(short_repr(value))}

    def _plain(self, value: Any, gaps: Gaps) -> Any:
        """Return an object that is a text or a number by inheritance, whatever its class has made of `str`."""
        if isinstance(value, str):
            return self._text(str.__str__(value), gaps)
        if isinstance(value, int):
            return int(value) if abs(int(value)) <= MAX_INTEGER else self._digits(int(value), gaps)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, complex):
            return str(complex(value))
        if isinstance(value, bytes | bytearray):
            return self._text(repr(bytes(value[:MAX_TEXT])), gaps, len(value))
        if isinstance(value, os.PathLike):
            return self._text(os.fsdecode(os.fspath(value)), gaps)
        return self._text(str(value), gaps)

    def _text(self, text: str, gaps: Gaps, length: int | None = None) -> Any:
        """Return a text; one that UTF-8 cannot write as its Python literal."""
        length = len(text) if length is None else length
        limit = min(MAX_TEXT, max(self._left, MAX_REPR))
        if length > limit:
            gaps.add(f"of its {length} characters the first {limit} are recorded", "keep long texts in a file")
            text = text[:limit]
        self._left -= len(text)
        return text if _is_utf8(text) else {"type": "builtins:str", "repr": ascii(text)}

    def _digits(self, number: int, gaps: Gaps) -> str:
        """Return a large integer as text; Python refuses to write more than some thousand decimal digits."""
        if number.bit_length() <= 4 * MAX_REPR:
            return str(number)
        return str(self._text(hex(number), gaps))

    def _container(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> Any:
        """Return a mapping or a collection; a mapping whose keys are not all text as a list of pairs."""
        length = len(value)
        if isinstance(value, Mapping):
            entries: Iterable[Any] = value.items()
        else:
            entries = _sorted_set(value) if isinstance(value, set | frozenset) else value
        objects: dict[str, Any] = {}
        others: list[Any] = []
        named = isinstance(value, Mapping) and all(map(_is_plain_key, value))
        scratch: list[tuple[str, Any, Gaps]] = []
        taken = 0
        for index, entry in enumerate(itertools.islice(entries, MAX_ITEMS)):
            if self._left <= 0:
                break
            taken += 1
            if named:
                key, item = entry
                self._left -= len(key)
                objects[key] = self.encode(item, gaps.at(key), inside)
            elif isinstance(value, Mapping):
                key, item = entry
                place = gaps.at(f"[{index}]")
                others.append([self.encode(key, place, inside), self.encode(item, place, inside)])
            elif isinstance(value, set | frozenset):
                found = Gaps()
                encoder = _Encoder(self._left)
                encoded = encoder.encode(entry, found, inside)
                self._left = encoder._left
                scratch.append((json.dumps(encoded), encoded, found))
            else:
                others.append(self.encode(entry, gaps.at(f"[{index}]"), inside))
        # A set's own order changes from process to process: its entries are sorted by what is written of them.
        for index, (_, encoded, found) in enumerate(sorted(scratch, key=lambda entry: entry[0])):
            others.append(encoded)
            gaps.at(f"[{index}]").include(found)
        if taken < length:
            gaps.add(f"of its {length} entries the first {taken} are recorded", "keep long lists in a dataset")
        return objects if named else others

    def _tensor(self, value: torch.Tensor, gaps: Gaps, inside: tuple[int, ...]) -> dict[str, Any]:
        described: dict[str, Any] = {"dtype": str(value.dtype), "shape": list(value.shape)}
        if value.numel() == 0:
            return described
        if value.numel() > MAX_ITEMS or value.is_meta or value.layout is not torch.strided or value.is_quantized:
            gaps.add(f"a tensor of {value.numel()} elements is known by its shape only", "keep it as a buffer")
            return described
        return {**described, "value": self.encode(value.detach().cpu().tolist(), gaps, inside)}

    def _array(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> dict[str, Any]:
        described: dict[str, Any] = {"dtype": str(value.dtype), "shape": list(value.shape)}
        if value.size == 0:
            return described
        if value.size > MAX_ITEMS:
            gaps.add(f"an array of {value.size} elements is known by its shape only", "keep it in a dataset")
            return described
        content = value.tolist()
        if isinstance(content, np.generic) or (value.dtype.kind in "fc" and value.dtype.itemsize > 16):
            content = [short_repr(item) for item in value.ravel()]  # long doubles
        return {**described, "value": self.encode(content, gaps, inside)}

    def _definition(self, value: Any, gaps: Gaps) -> dict[str, Any]:
        described = {"name": class_path(value)}
        owner = getattr(value, "__self__", None)
        if "<lambda>" in described["name"] or "<locals>" in described["name"]:
            gaps.add("a lambda or a local function cannot be imported again", "define it at the top of a module")
            source = source_of(value)
            return {**described, "source": self._text(source, gaps)} if source else described
        if owner is not None and not isinstance(owner, type | types.ModuleType):
            gaps.add(f"a method is known by its name, not the {class_path(owner)} that it belongs to", "")
        return described

    def _cut(self, text: str) -> str:
        self._left -= len(text)
        return text


def _sorted_set(value: Iterable[Any]) -> Iterable[Any]:
    """Return a set's entries; of a large one, always the same come first."""
    entries = list(value)
    return entries if len(entries) <= MAX_ITEMS else sorted(entries, key=short_repr)


def _is_plain_key(key: object) -> bool:
    return type(key) is str and len(key) <= MAX_REPR and _is_utf8(key)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
