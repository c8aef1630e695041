"""A walk through what an object holds in memory, which gives a digest of its content."""

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import inspect
import io
import json
import logging
import operator
import os
import random
import re
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_dtool.capture.data_around import values_outside
from lightning_dtool.capture.named_files import MAX_FILES, NamedFiles, is_folder, is_path
from lightning_dtool.capture.parts import attributes_beside, elements, pairs, plain_part, settings_of
from lightning_dtool.capture.preprocessing import decoders_of, transforms_of
from lightning_dtool.capture.sample_code import SampleCode, code_of_methods, reading_of, sample_code
from lightning_dtool.capture.seeds import seed_of
from lightning_dtool.capture.tables import Block, blocks_of
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.record import as_text
from lightning_dtool.store import FrozenDataset
from lightning_dtool.values.attributes import attributes_of, has_hidden_state
from lightning_dtool.values.definitions import class_path, closure, defaults, digest_of_code, is_users
from lightning_dtool.values.digests import digest_of_numbers, nbytes, state_digest

MAX_BYTES = 64 * 2**20
"""Maximum size of data in memory that is read, in bytes."""

MAX_ENTRIES = 10_000
"""Maximum number of tensors, arrays, containers and objects of one attribute that are read."""

MAX_OMITTED = 20
"""Maximum number of omissions that are named."""

_BYTES_OF_A_VALUE = 200
"""Number of bytes that a plain value counts as. Writing a value as text takes as long as hashing this many bytes."""

_MAX_DEPTH = 40
"""Maximum depth of nested containers and objects."""

_MAX_QUOTED = 1000
"""Maximum length of a text that is not hashed."""

_PLAIN = (bool, int, float, str, type(None))

_PROXIES = (weakref.ProxyType, weakref.CallableProxyType)

_NO_CONTENT = (
    logging.Logger, logging.Handler, type(threading.Lock()), type(threading.RLock()), threading.Condition,
    threading.Event, threading.Thread, threading.local, inspect.Signature, random.Random, np.random.RandomState,
    np.random.BitGenerator, np.random.SeedSequence, pl.LightningModule, pl.LightningDataModule, pl.Trainer,
)  # fmt: skip
"""Objects that are no data, or that other parts of the record describe."""

_GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)

_VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))

_AS_TEXT = (
    complex, range, slice, decimal.Decimal, fractions.Fraction, uuid.UUID, datetime.date, datetime.time,
    datetime.timedelta, datetime.tzinfo, re.Pattern, torch.dtype, torch.device, torch.layout, torch.memory_format,
    torch.Size, np.dtype, type(...), type(NotImplemented), types.GenericAlias, types.UnionType,
)  # fmt: skip
"""Objects that their repr describes completely."""

_OF_PANDAS = frozenset(
    {"pandas._libs.missing:NAType", "pandas:Period", "pandas._libs.tslibs.period:Period",
     "pandas._libs.interval:Interval", "pandas:Interval"}
)  # fmt: skip
"""Classes of pandas whose objects their repr describes completely."""

_TOO_MANY = f"more than {MAX_ENTRIES} arrays, containers and objects"


class TooMuchError(Exception):
    """The content is too large."""


class FoundError(Exception):
    """A search has found data."""


class Content:
    """A walk through the content of several objects, up to a limit of bytes and entries.

    Args:
        search: Whether to raise a `FoundError` at the first data that is not in a dataset inside the objects.
    """

    def __init__(self, *, search: bool = False) -> None:
        self.omitted: dict[str, None] = {}
        """What is left out, and why."""
        self.reading: dict[str, None] = {}
        """What is read by code while training."""
        self.holds_data = False
        """Whether the objects hold data, and not only settings."""
        self.files = NamedFiles()
        """The files that the objects name."""
        self._search = search
        self._left = MAX_BYTES
        self._entries = MAX_ENTRIES
        self._inside: list[int] = []
        self._lists_of_files: dict[int, tuple[Any, str]] = {}  # with the list, as the id of one that is gone is reused

    def line_of(self, value: Any, name: str) -> str:
        """Return a line of text that depends on the content of a value, and on nothing else.

        Args:
            value: Any object. None of its methods is called, except those of known libraries.
            name: The name of its place, for what is left out.
        """
        self._entries = MAX_ENTRIES
        return self._guarded(value, name)

    def attributes_of(self, dataset: Any, place: str = "") -> dict[str, Any]:
        """Return the attributes of a dataset that may hold data, by name, and note what its code reads elsewhere.

        Args:
            dataset: The dataset.
            place: Its place.
        """
        kept = attributes_of(dataset) or {}
        preparing = {**transforms_of(dataset), **decoders_of(dataset)}  # recorded as `transforms`
        self.files.enter(kept)
        reads = self._look_at(sample_code(dataset), place, class_path(type(dataset)))
        for name, value in preparing.items():
            reading = reading_of(value)
            if reading is not None:
                reads = True
                self._note_reading(_at(place, name), f"what it reads with `{reading}`")
        outside = {} if self._search else values_outside(type(dataset))
        return {
            as_text(name): value
            for name, value in sorted({**outside, **kept}.items())
            # A file that the dataset does not read while training has been read already. Without a transform, its
            # attribute is None.
            if value is not None
            and not (name in preparing or is_folder(name, value) or (not reads and self.files.is_file(value)))
        }

    def _look_at(self, code: SampleCode, place: str, name: str) -> bool:
        """Note what code reads elsewhere while training. Return whether it does, as far as this can be seen."""
        if not code.is_visible:
            self._note_reading(place, f"what the code of {name} reads, which is not written in Python")
        elif code.reading is not None:
            self._note_reading(place, f"what the code of {name} reads with `{code.reading}`")
        return not code.is_visible or code.reading is not None

    def _note_reading(self, place: str, what: str) -> None:
        if self._search:
            raise FoundError
        self.reading[as_text(f"{place}: {what}" if place else what)] = None

    def _note_data(self) -> None:
        if self._search:
            raise FoundError
        self.holds_data = True

    def omit(self, place: str, what: str) -> str:
        """Note that something is left out, and return a line for it.

        Args:
            place: Where.
            what: What is left out, or why.
        """
        if self._search:
            raise FoundError
        if len(self.omitted) < MAX_OMITTED:
            self.omitted[as_text(f"{place}: {what}" if place else what)] = None
        return f"without {what}"

    # -- by kind ----------------------------------------------------------------------------------

    def _guarded(self, value: Any, place: str) -> str:
        """Return the line of a value that has a name of its own. If it is too large, it is left out alone."""
        try:
            return self._line(value, place, True)
        except TooMuchError as error:
            return self.omit(place, str(error))

    def _line(self, value: Any, place: str, has_name: bool = False) -> str:
        if type(value) in _PLAIN:
            return self._plain(value, place)
        if id(value) in self._inside:
            return "an enclosing object"
        if len(self._inside) >= _MAX_DEPTH:
            return self.omit(place, f"what is nested more than {_MAX_DEPTH} levels deep")
        self._entries -= 1
        if self._entries < 0:
            raise TooMuchError(_TOO_MANY)
        self._inside.append(id(value))
        try:
            line = self._compound(value, place, has_name)
            beside = attributes_beside(value)
            return self._by_name(line, beside, place, has_name) if beside else line
        finally:
            self._inside.pop()

    def _compound(self, value: Any, place: str, has_name: bool) -> str:
        if type(value) in (tuple, list):  # first, as there may be thousands
            return self._entries_of(value, place)
        if type(value) is dict:
            return self._pairs_of(value, place, has_name)
        if type(value) is torch.Tensor:
            return self._numbers(value, place)
        if type(value) in _PROXIES:
            return self._of_proxy(value, place)
        if isinstance(value, weakref.ReferenceType):
            return _joined("a reference", [self._line(weakref.ref.__call__(value), place)])
        if isinstance(value, types.ModuleType):
            return self._by_name(f"module {value.__name__}", settings_of(value), place, has_name)
        if isinstance(value, pl.LightningModule) and not self._search:
            return self.omit(place, f"the weights of a {class_path(type(value))}")
        if isinstance(value, torch.Generator | np.random.Generator):
            # Its state is not content, as it changes with each random number. A seed that was drawn differs each time.
            seed = seed_of(value)
            return f"a {class_path(type(value))} {'of no known seed' if seed is None else seed}"
        if isinstance(value, _NO_CONTENT):
            return f"a {class_path(type(value))}"
        if isinstance(value, torch.Tensor | np.ndarray | np.generic):
            return self._numbers(value, place)
        if isinstance(value, bytes | bytearray | memoryview | array.array):
            view = memoryview(value)
            header = f"{view.format} {view.shape}"
            return self._bytes(class_path(type(value)), Block(view.nbytes, header, view.tobytes), place)
        if isinstance(value, enum.Enum):
            line = self._line(value._value_, place)
            return _joined(f"{class_path(type(value))} {value._name_}", [line])
        if isinstance(value, _AS_TEXT):
            if isinstance(value, range):
                self._note_data()
            return f"{class_path(type(value))} {value!r}"
        if issubclass(type(value), bool | int | float | str):
            return _joined(class_path(type(value)), [self._plain(plain_part(value), place)])
        if isinstance(value, collections.deque):
            line = self._entries_of(elements(value), place)
            return _joined(f"{class_path(type(value))} {value.maxlen}", [line])
        if isinstance(value, list | tuple):
            return self._entries_of(elements(value), place, type(value))
        if isinstance(value, _VIEWS):
            return self._entries_of(list(value), place)
        if isinstance(value, set | frozenset):
            entries = elements(value)
            self._take_entries(entries)
            return _joined(class_path(type(value)), sorted(self._line(entry, f"{place}[…]") for entry in entries))
        if isinstance(value, dict):
            line = self._pairs_of(pairs(value), place, has_name, type(value))
            if not isinstance(value, collections.defaultdict):
                return line
            return _joined(line, [self._line(value.default_factory, f"{place}.default_factory")])
        if isinstance(value, types.MappingProxyType):
            return self._pairs_of(value, place, has_name)
        if isinstance(value, DtoolDataset):
            return f"a dtool dataset {value.dataset.content_digest}"
        if isinstance(value, FrozenDataset) or class_path(type(value)) == "dtoolcore:DataSet":
            return f"a dtool dataset {value.uuid}"
        if isinstance(value, type):
            return self._by_name(class_path(value), values_outside(value), place, has_name)
        if class_path(type(value)) in _OF_PANDAS:
            return f"{class_path(type(value))} {value!r}"
        if isinstance(value, functools.partial):
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
            return self._by_name("partial", parts, place, has_name)
        wrapped = value.__wrapped__ if isinstance(value, functools._lru_cache_wrapper) else value
        if inspect.isroutine(wrapped):
            return self._function(wrapped, place)
        if is_path(value):
            return self._path(os.fsdecode(os.fspath(value)), place)
        return self._object(value, place, has_name)

    def _plain(self, value: Any, place: str) -> str:
        if type(value) is int:
            return f"{value:#x}"
        if type(value) is not str:
            return json.dumps(value)
        if ("." in value or os.sep in value) and self.files.is_file(value):
            return self._path(value, place)
        self._take(len(value))
        return json.dumps(value) if len(value) < _MAX_QUOTED else f"str {_sha256(_encoded(value))}"

    def _numbers(self, value: Any, place: str) -> str:
        if isinstance(value, torch.Tensor):
            if value.is_meta or torch.nn.parameter.is_lazy(value):
                return self.omit(place, "the elements of a tensor that has none yet")
        elif value.dtype.hasobject:
            return _joined(_form(value), [self._entries_of(np.asarray(value).ravel().tolist(), place)])
        size = nbytes(value)
        if size > self._left:
            line = self.omit(place, f"{_megabytes(size)}, as the limit is {_megabytes(MAX_BYTES)} in all")
            return f"{line} {_form(value)}"
        self._take(size)
        self._note_data()
        if isinstance(value, np.ma.MaskedArray):
            parts = (np.ma.getdata(value), np.ma.getmaskarray(value), np.asarray(value.fill_value))
            return _joined(_form(value), [str(digest_of_numbers(part)) for part in parts])
        digest = digest_of_numbers(np.asarray(value) if isinstance(value, np.generic) else value)
        if digest is None:
            try:
                digest = state_digest({"": value})
            except Exception as error:  # a tensor that is spread over processes, or one of a user's class
                return self.omit(place, f"a {_form(value)}, as reading it raised {type(error).__name__}")
        return digest

    def _bytes(self, name: str, block: Block, place: str) -> str:
        """Return the line of a part of a table, an image or a buffer."""
        start = f"{name} {block.header}"
        if block.size > self._left:
            line = self.omit(place, f"{_megabytes(block.size)}, as the limit is {_megabytes(MAX_BYTES)} in all")
            return f"{line} {start}"
        self._note_data()
        content = block.read()
        if isinstance(content, bytes):
            self._take(len(content))
            return _joined(start, [_sha256(content)])
        return _joined(start, [self._line(content, place)])

    def _entries_of(self, value: Any, place: str, cls: type | None = None) -> str:
        """Return the line of a list or a tuple. A list of files is described by their names and sizes."""
        if id(value) in self._lists_of_files:  # torchvision's folders keep the same list twice
            return self._lists_of_files[id(value)][1]
        start = f"{_name(cls or type(value))} {len(value)}"
        if cls is not None and isinstance(fields := vars(cls).get("_fields"), tuple):  # a named tuple
            start += f" {fields!r}"
        self._take_entries(value)
        if self.files.lists(value):
            line = _joined(start, self._file_lines(value, place))
            self._lists_of_files[id(value)] = (value, line)
            return line
        if isinstance(value, list | tuple) and all(type(entry) in _PLAIN for entry in value):
            self._take(sum(len(entry) for entry in value if isinstance(entry, str)))
            try:
                return _joined(start, [json.dumps(value)])
            except ValueError:  # an integer of thousands of digits
                return _joined(start, [self._plain(entry, place) for entry in value])
        if len(value) > self._entries and type(value[0]) not in _PLAIN:
            raise TooMuchError(_TOO_MANY)
        return _joined(start, (self._line(entry, f"{place}[{index}]") for index, entry in enumerate(value)))

    def _pairs_of(self, value: Mapping[Any, Any], place: str, has_name: bool, cls: type | None = None) -> str:
        self._take_entries(value)
        named = has_name and len(value) <= MAX_OMITTED
        lines: list[str] = []
        for index, (key, entry) in enumerate(value.items()):
            name = f"{place}[{key!r}]" if type(key) in (str, int) else f"{place}[{index}]"
            lines += [self._line(key, name), self._guarded(entry, name) if named else self._line(entry, name)]
        return _joined(f"{_name(cls or type(value))} {len(value)}", lines)

    def _by_name(self, start: str, values: Mapping[str, Any], place: str, has_name: bool) -> str:
        lines = []
        for name, value in sorted(values.items()):
            where = _at(place, name)
            if is_folder(name, value):
                continue
            lines += [name, self._guarded(value, where) if has_name else self._line(value, where)]
        return _joined(start, lines)

    def _function(self, value: Any, place: str) -> str:
        owner = getattr(value, "__self__", None)
        function = getattr(value, "__func__", value)
        lines = [] if owner is None or isinstance(owner, types.ModuleType) else [self._line(owner, place)]
        if isinstance(function, types.FunctionType) and is_users(function):
            self._look_at(sample_code(function), place, class_path(function))
            own = {"defaults": defaults(function), "closure": closure(function)}
            known = {id(entry) for entries in own.values() for entry in entries.values()}
            others = {name: entry for name, entry in values_outside(function).items() if id(entry) not in known}
            around = {**own, "others": others}
            lines += [digest_of_code(function.__code__), self._by_name("", around, place, False)]
        return _joined(class_path(value), lines)

    def _object(self, value: Any, place: str, has_name: bool) -> str:
        """Return the line of a table, an image, a dataset or any other object that has attributes."""
        cls, name = type(value), class_path(type(value))
        blocks = blocks_of(value)
        if blocks is not None:
            return _joined(name, [self._bytes(part, block, f"{place} {part}") for part, block in blocks.items()])
        if isinstance(value, types.SimpleNamespace):
            return self._by_name(name, vars(value), place, has_name)
        if cls in _GETTERS:
            return _joined(name, [self._line(value.__reduce__()[1:], place)])
        kept = attributes_of(value)
        if kept is None and not has_hidden_state(cls):
            return self._by_name(f"a {name}", values_outside(cls), place, has_name)
        if kept is None or has_hidden_state(cls):
            what = "an open file" if isinstance(value, io.IOBase) else f"the content of a {name}"
            return self.omit(place, what)
        if isinstance(value, Dataset | DataLoader) and self._search:
            return "a dataset"
        if isinstance(value, torch.nn.Module):
            kept = {**kept, "training": value.training}
        if isinstance(value, DataLoader):
            return self._line(value.dataset, place, has_name)
        if isinstance(value, Dataset):
            kept = self.attributes_of(value, place)
        elif is_users(cls):
            self._look_at(code_of_methods(value), place, name)
            kept = {**values_outside(cls), **kept}
        else:
            for attribute, path in kept.items():
                if is_path(path) and (not isinstance(path, str) or (os.sep in path and os.path.exists(path))):
                    self.omit(_at(place, attribute), f"what a {name} reads from there")
        return self._by_name(name, {as_text(key): entry for key, entry in kept.items()}, place, has_name)

    def _of_proxy(self, value: Any, place: str) -> str:
        """Return the line of a weak proxy, which does not give what it stands for."""
        try:
            cls = value.__class__
        except ReferenceError:  # it is gone
            return "a proxy"
        if self._search or issubclass(cls, _NO_CONTENT):
            return "a proxy"
        return self.omit(place, f"the content of a {class_path(cls)} behind a weak proxy")

    # -- files ------------------------------------------------------------------------------------

    def _path(self, path: str, place: str) -> str:
        """Return the line of a path: for a file, its name and its size."""
        if not self.files.is_file(path):
            return f"path {os.path.basename(path) if os.path.isabs(path) else path}"
        self.omit(place, "the content of the file that it names")
        return json.dumps(self.files.describe(path))

    def _file_lines(self, entries: Any, place: str) -> Iterable[str]:
        """Yield a line for each file of a list, with its name, its size and what the list says of it."""
        sizes = "" if len(entries) <= MAX_FILES else " and their sizes"
        self.omit(place, f"the content of {len(entries)} files{sizes}")
        for index, (path, size) in enumerate(self.files.describe_all(entries)):
            entry = entries[index]
            rest = self._line(tuple(entry[1:]), f"{place}[{index}]") if isinstance(entry, tuple | list) else ""
            yield json.dumps([path, size, rest])

    # -- limits -----------------------------------------------------------------------------------

    def _take_entries(self, container: Any) -> None:
        self._take(_BYTES_OF_A_VALUE * len(container))
        entries = container.values() if isinstance(container, Mapping) else container
        if len(container) and not (self._search and all(isinstance(entry, Dataset | DataLoader) for entry in entries)):
            self._note_data()

    def _take(self, size: int) -> None:
        if size > self._left:
            raise TooMuchError(f"more than the limit of {_megabytes(MAX_BYTES)} in all")
        self._left -= size


_name: Callable[[Any], str] = functools.cache(class_path)


def _form(value: Any) -> str:
    return f"{class_path(type(value))} {value.dtype} {list(value.shape)}"


def _joined(start: str, lines: Iterable[str]) -> str:
    return _sha256(_encoded("\n".join((start, *lines))))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.4g} MB"
