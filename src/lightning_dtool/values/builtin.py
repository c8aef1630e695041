"""The JSON forms of Python's built-in and standard library types."""

import argparse
import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import json
import math
import operator
import os
import pathlib
import re
import types
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_dtool.record import Gaps, as_text
from lightning_dtool.values.definitions import MAX_REPR
from lightning_dtool.values.registry import Content, Read, Registry, Write

if TYPE_CHECKING:
    from lightning_dtool.values.reading import Reader
    from lightning_dtool.values.writing import Writer

_PATHS = (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)

_BUILTIN = (str, int, float, bytes, bytearray, list, tuple, set, frozenset, collections.deque, dict)

_MAX_ATTRIBUTES = 20
"""Maximum number of attributes that a gap names."""


def register(registry: Registry) -> None:
    """Register Python's built-in and standard library types, and the families of their subclasses."""
    registry.add(str, _write_str, lambda content, reader: _read_text(content))
    registry.add(int, _write_int, lambda content, reader: _read_int(content))
    registry.add(float, _write_float, lambda content, reader: float(content["value"]))
    registry.add(complex, _write_fields("real", "imag"), _read_complex)
    registry.add(bytes, _write_bytes, lambda content, reader: _read_bytes(content))
    registry.add(bytearray, _write_bytes, lambda content, reader: bytearray(_read_bytes(content)))
    registry.add(list, _write_entries, lambda content, reader: _read_entries(content, reader))
    registry.add(tuple, _write_entries, lambda content, reader: tuple(_read_entries(content, reader)))
    registry.add(set, _write_unordered, lambda content, reader: set(_read_entries(content, reader)))
    registry.add(frozenset, _write_unordered, lambda content, reader: frozenset(_read_entries(content, reader)))
    registry.add(collections.deque, _write_deque, _read_deque)
    registry.add(dict, _write_pairs, lambda content, reader: dict(_read_pairs(content, reader)))
    registry.add(
        collections.OrderedDict,
        _content_only(_write_pairs),
        lambda content, reader: collections.OrderedDict(_read_pairs(content, reader)),
    )
    registry.add(collections.defaultdict, _write_defaultdict, _read_defaultdict)
    registry.add(range, _write_fields("start", "stop", "step"), _read_positional(range, "start", "stop", "step"))
    registry.add(slice, _write_fields("start", "stop", "step"), _read_positional(slice, "start", "stop", "step"))
    registry.add(
        fractions.Fraction,
        _write_fields("numerator", "denominator"),
        _read_positional(fractions.Fraction, "numerator", "denominator"),
    )
    registry.add(
        datetime.timedelta,
        _write_fields("days", "seconds", "microseconds"),
        _read_positional(datetime.timedelta, "days", "seconds", "microseconds"),
    )
    registry.add(decimal.Decimal, _write_as_text(str), _read_from_text(decimal.Decimal))
    registry.add(uuid.UUID, _write_as_text(str), _read_from_text(uuid.UUID))
    registry.add(datetime.date, _write_as_text(datetime.date.isoformat), _read_from_text(datetime.date.fromisoformat))
    registry.add(datetime.time, _write_time, _read_from_text(datetime.time.fromisoformat))
    registry.add(datetime.datetime, _write_time, _read_from_text(datetime.datetime.fromisoformat))
    registry.add(type(...), lambda value, writer, gaps: {}, lambda content, reader: ...)
    for cls in _PATHS:
        # A fixed name, because the module of the class differs between versions of Python.
        registry.add(cls, _write_path, _read_path(cls), name=f"pathlib:{cls.__name__}")
    registry.add(argparse.Namespace, _write_namespace, _read_namespace(argparse.Namespace))
    registry.add(types.SimpleNamespace, _write_namespace, _read_namespace(types.SimpleNamespace))
    registry.add(re.Pattern, _write_fields("pattern", "flags"), _read_pattern)
    registry.add(functools.partial, _write_partial, _read_partial)
    for getter in (operator.itemgetter, operator.attrgetter):
        registry.add(getter, _write_getter, _read_getter(getter))
    registry.add_family("enum:Enum", _subclass_of(enum.Enum), _write_enum, _read_enum)
    registry.add_family("collections.abc:Mapping", _subclass_of(Mapping), _content_only(_write_pairs), _read_mapping)
    registry.add_family(
        "builtins:str",
        _subclass_of(str),
        _content_only(_write_str),
        lambda cls, content, _: cls(_read_text(content)),
    )
    registry.add_family(
        "builtins:int",
        _subclass_of(int),
        _content_only(_write_int),
        lambda cls, content, _: cls(_read_int(content)),
    )
    registry.add_family(
        "builtins:float",
        lambda cls: issubclass(cls, float) and cls.__module__ != "numpy",
        _content_only(_write_float),
        lambda cls, content, _: cls(float(content["value"])),
    )
    registry.add_family(
        "builtins:bytes",
        lambda cls: issubclass(cls, bytes | bytearray) and cls.__module__ != "numpy",
        _content_only(_write_bytes),
        lambda cls, content, _: cls(_read_bytes(content)),
    )
    registry.add_family(
        "builtins:tuple",
        _subclass_of(tuple, list, collections.deque),
        _content_only(_write_entries),
        _read_collection,
    )
    registry.add_family(
        "builtins:set",
        _subclass_of(set, frozenset),
        _content_only(_write_unordered),
        lambda cls, content, reader: cls(_read_entries(content, reader)),
    )
    registry.add_family(
        "os:PathLike", _subclass_of(os.PathLike), _write_path, lambda cls, content, _: cls(_read_text(content))
    )
    registry.add_family("dataclasses:dataclass", dataclasses.is_dataclass, _write_dataclass, _read_dataclass)


def _subclass_of(*bases: type) -> Any:
    return lambda cls: issubclass(cls, bases)


def _content_only(write: Write) -> Write:
    """Return a function that writes a value as `write` does, and adds a gap for the value's instance attributes."""

    def written(value: Any, writer: "Writer", gaps: Gaps) -> Content:
        content = write(value, writer, gaps)
        names = _attribute_names(value)
        if not names:
            return content
        gaps.add(f"its attributes are not recorded: {', '.join(names)}", "pass plain values")
        return {**content, "missing": names}

    return written


def _attribute_names(value: Any) -> list[str]:
    if not isinstance(value, _BUILTIN):  # other mappings keep their entries in their attributes
        return []
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    if isinstance(value, dict):  # some dicts offer their entries as attributes, too
        attributes = {name: kept for name, kept in attributes.items() if dict.get(value, name, value) is not kept}
    return sorted(as_text(name) for name in itertools.islice(attributes, _MAX_ATTRIBUTES))


# -- numbers and texts ----------------------------------------------------------------------------


def _write_str(value: str, writer: "Writer", gaps: Gaps) -> Content:
    return writer.text(str.__str__(value), gaps)


def _read_text(content: Mapping[str, Any]) -> str:
    text = json.loads(content["escaped"]) if "escaped" in content else content["value"]
    if not isinstance(text, str):
        raise ValueError("its value is not text")
    return text


def _write_int(value: int, writer: "Writer", gaps: Gaps) -> Content:
    # Python refuses to convert integers of more than a few thousand decimal digits to text and back.
    number = int(value)
    return writer.text(str(number) if number.bit_length() <= 4 * MAX_REPR else hex(number), gaps)


def _read_int(content: Mapping[str, Any]) -> int:
    return int(_read_text(content), 0)


def _write_float(value: float, writer: "Writer", gaps: Gaps) -> Content:
    number = float(value)
    return {"value": number if math.isfinite(number) else str(number)}


def _read_complex(content: Mapping[str, Any], reader: "Reader") -> complex:
    return complex(reader.decode(content["real"]), reader.decode(content["imag"]))


def _write_bytes(value: bytes, writer: "Writer", gaps: Gaps) -> Content:
    content = bytes(value)
    if content.isascii() and (text := content.decode("ascii")).isprintable():
        return writer.text(text, gaps)
    encoded = writer.text(base64.b64encode(content).decode(), gaps)
    return {"base64": encoded.pop("value"), **encoded}


def _read_bytes(content: Mapping[str, Any]) -> bytes:
    return base64.b64decode(content["base64"]) if "base64" in content else _read_text(content).encode("ascii")


def _write_as_text(to_text: Any) -> Write:
    return lambda value, writer, gaps: writer.text(to_text(value), gaps)


def _read_from_text(of_text: Any) -> Read:
    return lambda content, reader: of_text(_read_text(content))


def _write_time(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    if value.tzinfo is not None and type(value.tzinfo) is not datetime.timezone:
        writer.add_unreadable(gaps, "its time zone is recorded as an offset", "use datetime.timezone")
    return writer.text(value.isoformat(), gaps)


def _write_path(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return writer.text(os.fsdecode(os.fspath(value)), gaps)


def _read_path(cls: Any) -> Read:
    return lambda content, reader: cls(_read_text(content))


def _read_pattern(content: Mapping[str, Any], reader: "Reader") -> Any:
    reader.demand_trust("re:compile")  # a malicious pattern can take forever to match
    return re.compile(reader.decode(content["pattern"]), reader.decode(content["flags"]))


# -- objects with a few fields --------------------------------------------------------------------


def _write_fields(*names: str) -> Write:
    return lambda value, writer, gaps: {name: writer.encode(getattr(value, name), gaps.at(name)) for name in names}


def _read_positional(cls: Any, *names: str) -> Read:
    return lambda content, reader: cls(*(reader.decode(content[name]) for name in names))


def _write_namespace(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return {"value": writer.encode(dict(vars(value)), gaps)}


def _read_namespace(cls: Any) -> Read:
    return lambda content, reader: cls(**reader.decode(content["value"]))


def _write_partial(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return {
        "func": writer.encode(value.func, gaps.at("func")),
        "args": writer.encode(list(value.args), gaps.at("args")),
        "keywords": writer.encode(dict(value.keywords), gaps.at("keywords")),
    }


def _read_partial(content: Mapping[str, Any], reader: "Reader") -> Any:
    reader.demand_trust("functools:partial")
    return functools.partial(
        reader.decode(content["func"]), *reader.decode(content["args"]), **reader.decode(content["keywords"])
    )


def _write_getter(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return {"args": writer.encode(list(value.__reduce__()[1]), gaps.at("args"))}


def _read_getter(cls: Any) -> Read:
    return lambda content, reader: cls(*reader.decode(content["args"]))


def _write_enum(value: enum.Enum, writer: "Writer", gaps: Gaps) -> Content:
    name = value.name  # None for some combinations of flags
    return {
        **({"name": name} if isinstance(name, str) else {}),
        "value": writer.encode(value.value, gaps),
    }


def _read_enum(cls: Any, content: Mapping[str, Any], reader: "Reader") -> Any:
    name = content.get("name")
    return cls[name] if name in cls.__members__ else cls(reader.decode(content["value"]))


def _write_dataclass(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return {"fields": {name: writer.encode(entry, gaps.at(name)) for name, entry in fields.items()}}


def _read_dataclass(cls: Any, content: Mapping[str, Any], reader: "Reader") -> Any:
    given = {field.name for field in dataclasses.fields(cls) if field.init}
    return cls(**{name: reader.decode(value) for name, value in content["fields"].items() if name in given})


# -- containers -----------------------------------------------------------------------------------


def _write_entries(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return writer.entries(value, gaps)


def _write_unordered(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return writer.unordered(value, gaps)


def _write_pairs(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return writer.pairs(value, gaps)


def _write_deque(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return {**writer.entries(value, gaps), "maxlen": value.maxlen}


def _read_deque(content: Mapping[str, Any], reader: "Reader") -> Any:
    return collections.deque(_read_entries(content, reader), reader.decode(content["maxlen"]))


def _write_defaultdict(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    factory = writer.encode(value.default_factory, gaps.at("default_factory"))
    return {"default_factory": factory, **writer.pairs(value, gaps)}


def _read_defaultdict(content: Mapping[str, Any], reader: "Reader") -> Any:
    return collections.defaultdict(reader.decode(content["default_factory"]), _read_pairs(content, reader))


def _read_entries(content: Mapping[str, Any], reader: "Reader") -> list[Any]:
    return [reader.decode(entry) for entry in content["value"]]


def _read_pairs(content: Mapping[str, Any], reader: "Reader") -> list[Any]:
    return [(reader.decode(key), reader.decode(value)) for key, value in content["items"]]


def _read_mapping(cls: Any, content: Mapping[str, Any], reader: "Reader") -> Any:
    return cls(dict(_read_pairs(content, reader)))


def _read_collection(cls: Any, content: Mapping[str, Any], reader: "Reader") -> Any:
    entries = _read_entries(content, reader)
    return cls(*entries) if hasattr(cls, "_fields") else cls(entries)  # a named tuple takes its fields as arguments
