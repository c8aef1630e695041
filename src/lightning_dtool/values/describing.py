"""Any value as structure: what a record says of a transform, and what `rebuilding` builds it again from.

A description is strict JSON, bounded in size, and the same in every process: no memory address, no order of
a hash table. `{"callable": "module:qualname"}` stands for a function or a class, `{"class": "module:qualname",
"init": {...}}` for an object that can be built from its init parameters. What cannot be described whole says
so (`"unknown"`, `"repr"`) and is never built again by guesswork.
"""

import base64
import collections
import enum
import hashlib
import inspect
import itertools
import json
import math
import os
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_dtool.record import MAX_INTEGER, Gaps, as_text
from lightning_dtool.values.definitions import (
    MAX_REPR,
    class_path,
    closure,
    defaults,
    digest_of_code,
    is_one_lambda,
    is_users,
    names_used,
    short_repr,
    source_of,
)
from lightning_dtool.values.digests import digest_of_numbers, nbytes

MAX_ITEMS = 10_000
"""Entries of one container that are kept."""

MAX_VALUES = 1000
"""Elements of a tensor or an array that are kept; a larger one is known by its hash."""

MAX_TEXT = 100_000
"""Characters of one text that are kept."""

MAX_SIZE = 300_000
"""Characters and entries that one description may cost in all."""

MAX_HASHED = 64 * 2**20
"""Bytes of tensors and arrays that one description may hash."""

MAX_DEPTH = 40
"""Containers within containers that are followed."""

_BOOKKEEPING = frozenset(vars(torch.nn.Module()))
"""What every `nn.Module` keeps; what is told of it (parameters, children, mode) is told otherwise."""

_KNOWN_BY_NAME = (pl.LightningModule, pl.LightningDataModule, pl.Trainer, Dataset, DataLoader)
"""What a transform may hold on to, and what other parts of a record describe."""


def describe(value: Any) -> Any:
    """Describe a value as strict JSON, by what it takes to build it again.

    Args:
        value: A plain value, a tensor or an array, a function, a class, or an object that keeps its init
            parameters as attributes of the same names, as transforms do.

    Returns:
        The value itself if it is plain (tuples and sets become lists, paths become strings), else a dict.

    Example:
        >>> describe(torch.nn.Dropout(0.25))
        {'class': 'torch.nn.modules.dropout:Dropout', 'init': {'p': 0.25, 'inplace': False}}
    """
    return _Describer(detailed=False).describe(value, Gaps(), ())


def describe_in_detail(value: Any, gaps: Gaps) -> Any:
    """Describe a value as `describe` does, and with all that decides about what it does.

    That is, for code that comes with no installed package, its source, and of a function also its defaults,
    the variables that it closes over and the constants of its module that it uses; of an object whose init
    parameters do not say all, its attributes; of an `nn.Module` its children, parameters and buffers.

    Args:
        value: Anything.
        gaps: Stands at the value's place in the record. Receives a gap for whatever could not be described whole.

    Returns:
        Strict JSON.
    """
    return _Describer(detailed=True).describe(value, gaps, ())


class _Describer:
    """One walk through a value; it knows which containers it is inside of, and how much it may still write."""

    def __init__(self, *, detailed: bool) -> None:
        self._detailed = detailed
        self._left = MAX_SIZE
        self._bytes_left = MAX_HASHED

    def describe(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> Any:
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if id(value) in inside:
            return self._cut_short(value, gaps, "it contains itself")
        if len(inside) >= MAX_DEPTH:
            return self._cut_short(value, gaps, f"it lies more than {MAX_DEPTH} containers deep")
        if self._left <= 0:
            return self._cut_short(value, gaps, "the description as a whole is too long")
        try:
            return self._content(value, gaps, (*inside, id(value)))
        except Exception as error:  # somebody else's class may do anything when it is looked at
            return self._cut_short(value, gaps, f"looking at it raised {type(error).__name__}", short_repr(value))

    def _content(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> Any:
        if isinstance(value, enum.Enum):
            named = isinstance(value.name, str)  # a combination of flags may have no name
            return {"enum": class_path(type(value)), "name": value.name} if named else {"repr": short_repr(value)}
        if isinstance(value, str | int | float | bytes | bytearray):
            return self._plain(value, gaps)
        if isinstance(value, list | tuple | collections.deque | set | frozenset | Mapping):
            return self._container(value, gaps, inside)
        if isinstance(value, os.PathLike):
            return self._plain(os.fsdecode(os.fspath(value)), gaps)
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if isinstance(value, torch.Tensor | np.ndarray | np.generic):
            return self._numbers(value, gaps, inside)
        if isinstance(value, torch.Generator):
            return {"repr": "torch.Generator", "initial_seed": self.describe(value.initial_seed(), gaps, inside)}
        if isinstance(value, types.ModuleType):
            return {"repr": f"module {as_text(value.__name__)}"}
        if isinstance(value, partial):
            init = {"func": value.func, "args": value.args, "keywords": dict(value.keywords)}
            described = {name: self.describe(entry, gaps.at(name), inside) for name, entry in init.items()}
            return {"class": "functools:partial", "init": described}
        if isinstance(value, type) or inspect.isroutine(value):
            return self._definition(value, gaps, inside)
        if isinstance(value, _KNOWN_BY_NAME):
            return {"class": class_path(value), "repr": type(value).__name__}
        if self._detailed and type(value).__module__.partition(".")[0] == "albumentations":
            return self._albumentation(value, gaps, inside)
        return self._object(value, gaps, inside)

    def _plain(self, value: Any, gaps: Gaps) -> Any:
        if isinstance(value, int):
            number = int(value)
            if abs(number) <= MAX_INTEGER:
                return number
            return {"int": hex(number)} if number.bit_length() <= 4 * MAX_REPR else self._long(hex(number), gaps)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, str):
            text = str.__str__(value)
            self._left -= min(len(text), MAX_TEXT)
            if len(text) > MAX_TEXT:
                return self._long(text, gaps)
            return text if as_text(text) == text else {"str": json.dumps(text)}
        content = bytes(value)
        self._left -= min(len(content), MAX_TEXT)
        return self._long(content, gaps) if len(content) > MAX_TEXT else {"bytes": base64.b64encode(content).decode()}

    def _long(self, value: str | bytes, gaps: Gaps) -> dict[str, Any]:
        """Describe a long text by its beginning and its hash."""
        gaps.add(f"of its {len(value)} characters the first {MAX_REPR} are recorded", "keep long texts in a file")
        content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return {"repr": short_repr(value[:MAX_REPR]), "sha256": hashlib.sha256(content).hexdigest()}

    def _container(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> Any:
        length = len(value)
        if length > MAX_ITEMS:
            kept: Iterable[Any] = value.items() if isinstance(value, Mapping) else value
            first = [] if isinstance(value, set | frozenset) else list(itertools.islice(kept, 3))
            gaps.add(f"a {type(value).__name__} of {length} entries is not recorded whole", "keep it in a file")
            short = {"class": class_path(value), "repr": short_repr(first), "length": length}
            digest = _digest_of_scalars(value)
            return {**short, "sha256": digest} if digest else short
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and as_text(key) == key and len(key) <= MAX_REPR for key in value):
                self._left -= sum(map(len, value))
                return {"dict": {str(key): self.describe(value[key], gaps.at(key), inside) for key in value}}
            pairs = [[key, entry] for key, entry in value.items()]
            return {
                "items": [
                    [self.describe(part, gaps.at(f"[{index}]"), inside) for part in pair]
                    for index, pair in enumerate(pairs)
                ]
            }
        if isinstance(value, set | frozenset):
            return self._set(value, gaps, inside)
        return [self.describe(entry, gaps.at(f"[{index}]"), inside) for index, entry in enumerate(value)]

    def _set(self, value: Iterable[Any], gaps: Gaps, inside: tuple[int, ...]) -> list[Any]:
        """Describe entries whose own order changes from process to process: they are sorted by what is written."""
        described = []
        found = Gaps()
        left, spent = self._left, 0
        for entry in value:
            self._left = left  # what is written of one must not depend on which came before
            described.append(self.describe(entry, found.at("[…]"), inside))
            spent += left - self._left
        self._left = left - spent
        gaps.include(sorted(found, key=lambda gap: (gap.fact, gap.reason)))
        return sorted(described, key=json.dumps)

    def _numbers(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> dict[str, Any]:
        """Describe a tensor, an array or a NumPy scalar: by its values if they are few, else by its hash."""
        if isinstance(value, torch.Tensor):
            kind, dtype, size = "tensor", str(value.dtype).removeprefix("torch."), value.numel()
            plain = value.layout is torch.strided and not (value.is_meta or value.is_quantized or value.is_complex())
        else:
            kind, dtype, size = "array", str(value.dtype), value.size
            plain = value.dtype.kind in "biuf" and value.dtype.itemsize <= 8
        if plain and 0 < size <= MAX_VALUES:
            content = value.detach().cpu().tolist() if isinstance(value, torch.Tensor) else value.tolist()
            self._left -= size
            scalar = isinstance(value, np.generic)
            return {"scalar" if scalar else kind: self.describe(content, gaps, inside), "dtype": dtype}
        known = {"class": class_path(value), "repr": kind, "dtype": dtype, "shape": list(value.shape)}
        digest = digest_of_numbers(value) if nbytes(value) <= self._bytes_left else None
        if digest is None:
            gaps.add(f"{kind}s of this kind and size ({size} elements) are known by their shape only", "")
            return known
        self._bytes_left -= nbytes(value)
        return {**known, "sha256": digest}

    def _definition(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> dict[str, Any]:
        """Describe a function, a method or a class."""
        owner = getattr(value, "__self__", None)
        if isinstance(owner, types.ModuleType):  # as that of a built-in function
            owner = None
        described: dict[str, Any] = {"callable": class_path(value)}
        if isinstance(owner, type):  # a class method is imported with its class
            described = {"callable": f"{class_path(owner)}.{as_text(value.__name__)}"}
        elif owner is not None:
            # A method belongs to an object, which its name alone does not bring back.
            described["unknown"] = ["__self__"]
        if not self._detailed:
            return described
        if owner is not None and not isinstance(owner, type):
            described["self"] = self.describe(owner, gaps.at("__self__"), inside)
        function = inspect.unwrap(value) if isinstance(value, types.FunctionType) else getattr(value, "__func__", value)
        if not is_users(function):
            return described
        source = source_of(value)
        if source is None:
            gaps.add(f"the source code of {described['callable']} is not to be had", "define it in a file")
        else:
            described["source"] = self._plain(source, gaps)
            if "<lambda>" in described["callable"] and not is_one_lambda(source):
                described["bytecode"] = f"sha256:{digest_of_code(function.__code__)}"
        for layer in (value, function) if value is not function else (function,):
            described.update(self._surroundings(layer, gaps, inside) if isinstance(layer, types.FunctionType) else {})
        return described

    def _surroundings(self, function: types.FunctionType, gaps: Gaps, inside: tuple[int, ...]) -> dict[str, Any]:
        """Describe the values that decide what a function does and that its source does not show."""
        parts = {
            "defaults": defaults(function),
            "closure": closure(function),
            "globals": {
                name: function.__globals__[name]
                for name in sorted(names_used(function.__code__) & set(function.__globals__))
                if _is_constant(function.__globals__[name])
            },
        }
        return {
            part: {name: self.describe(value, gaps.at(f"{part}.{name}"), inside) for name, value in values.items()}
            for part, values in parts.items()
            if values
        }

    def _albumentation(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> Any:
        """Describe a transform of albumentations in its own words, which its `from_dict` understands."""
        try:
            own_words = value.to_dict()
        except Exception:  # a Lambda without a name, for one
            return self._object(value, gaps, inside)
        return {"class": class_path(value), "albumentations": self.describe(own_words, gaps, inside)}

    def _object(self, value: Any, gaps: Gaps, inside: tuple[int, ...]) -> dict[str, Any]:
        """Describe an object by the init parameters that it keeps, and in detail by whatever else it keeps."""
        kept = _attributes(value)
        if kept is None and type(value).__init__ is object.__init__:
            gaps.add(f"a {class_path(value)} is known by its repr only", "build it from plain values")
            return {"class": class_path(value), "repr": short_repr(value)}
        kept = kept or {}
        init: dict[str, Any] = {}
        unknown = []
        used = set()
        for name, variadic in _init_parameters(type(value)):
            key = next((key for key in (name, f"_{name}") if key in kept), None)
            if variadic or key is None:
                unknown.append(name)
            else:
                used.add(key)
                init[name] = self.describe(kept[key], gaps.at(name), inside)
        described: dict[str, Any] = {"class": class_path(value), "init": init}
        if unknown:
            described["unknown"] = unknown
        if not self._detailed:
            return described
        own = [each for each in type(value).__mro__ if is_users(each)]
        sources = list(filter(None, map(source_of, own)))
        if sources:
            described["source"] = self._plain("\n".join(sources), gaps)
        if len(sources) < len(own):
            gaps.add(f"the source code of {class_path(value)} is not to be had", "define it in a file")
        if isinstance(value, torch.nn.Module):
            used |= set(value._modules)
            children = [name for name in value._modules if name not in init and f"_{name}" not in init]
            if children:  # in a list, because their order matters
                described["children"] = [
                    [name, self.describe(value._modules[name], gaps.at(name), inside)] for name in children
                ]
            if not value.training:
                described["training"] = False
        rest = {name: entry for name, entry in kept.items() if name not in used}
        if rest and (unknown or own or isinstance(value, torch.nn.Module)):
            if not (unknown or own):  # of a library's module only what is learned; the rest follows from `init`
                rest = {name: entry for name, entry in rest.items() if isinstance(entry, torch.Tensor)}
            attributes = {
                as_text(name): self.describe(entry, gaps.at(f"{as_text(name)}"), inside)
                for name, entry in sorted(rest.items())
            }
            if attributes:
                described["attributes"] = attributes
        elif unknown and not rest and not described.get("children"):
            gaps.add(f"{class_path(value)} does not keep all of: {', '.join(unknown)}", "keep them as attributes")
        return described

    def _cut_short(self, value: Any, gaps: Gaps, reason: str, text: str = "…") -> dict[str, Any]:
        gaps.add(reason, "use flatter, smaller values")
        return {"class": class_path(type(value)), "repr": text}


def _digest_of_scalars(values: Any) -> str | None:
    """Return the SHA-256 over the text of a long list of plain values; None if they are not plain."""
    if not isinstance(values, list | tuple) or not all(type(entry) in (bool, int, float, str) for entry in values):
        return None
    return hashlib.sha256(repr(list(values)).encode("utf-8", "surrogatepass")).hexdigest()


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return what an object keeps, by name; of an `nn.Module` without its bookkeeping. None if it keeps nothing."""
    kept: dict[str, Any] = {}
    # Not `getattr`: it may ask a `__getattr__`, which does as it likes.
    for each in reversed(type(value).__mro__):
        slots = vars(each).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(type(value), name):
                try:
                    kept[name] = object.__getattribute__(value, name)
                except AttributeError:  # never assigned
                    continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return kept or None
    if isinstance(value, torch.nn.Module):
        own = {name: entry for name, entry in own.items() if name not in _BOOKKEEPING}
        own = {**own, **value._parameters, **value._buffers, **value._modules}
    return {**kept, **{name: entry for name, entry in own.items() if isinstance(name, str)}}


def _init_parameters(cls: type) -> Iterator[tuple[str, bool]]:
    """Yield the parameters of a class's `__init__`, and whether each stands for any number of arguments."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return
    try:
        parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    except (ValueError, TypeError):  # written in C
        yield "arguments", True
        return
    for name, parameter in itertools.islice(parameters.items(), 1, None):
        yield name, parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _is_constant(value: Any) -> bool:
    """Tell whether a module's variable is a plain value, as a constant is."""
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) <= MAX_VALUES and all(map(_is_constant, value))
    if isinstance(value, dict):
        return len(value) <= MAX_VALUES and all(map(_is_constant, value.values()))
    return isinstance(value, bool | int | float | str | enum.Enum | torch.Tensor | np.ndarray | None)
