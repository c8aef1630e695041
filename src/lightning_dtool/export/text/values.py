"""Recorded values on one line, safe to print.

A stranger may have written a record. Whatever a terminal or rich would interpret is shown as an escape sequence. The
text that the modules of this folder add is ASCII, so that it reads the same in every locale.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lightning_dtool.printing import printable
from lightning_dtool.record import Child, Epoch

MAX_ENTRIES = 24
"""The largest number of entries of a list or dictionary that are shown. The others are only counted."""

MAX_TEXT = 300
"""The largest number of characters of a text that are shown."""


def shortened(value: object) -> str:
    """Return text on one line. A long text is shortened, and a note gives its length."""
    text = str(value)
    first, line_break, rest = text.partition("\n")
    if len(first) <= MAX_TEXT and not rest:
        return printable(text)
    size = f"{text.count(line_break) + 1} lines" if rest else f"{len(text)} characters"
    return f"{printable(first[:MAX_TEXT])} .. ({size}; --json shows all)"


def inline(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, Child):
        trainable = f"{value.parameters_trainable} of {value.parameters_total} parameters trainable"
        return f"{shortened(value.class_path)}, {trainable}"
    if isinstance(value, Epoch):
        rates = f"; learning rates {nested(value.learning_rates)}" if value.learning_rates else ""
        return f"step {value.global_step}, {value.seconds:.1f} s: {inline(value.metrics)}{rates}"
    if isinstance(value, float):
        text = f"{value:.6g}"
        # A whole float keeps its point: for Lightning, 1.0 means all batches, and 1 means one.
        return f"{text}.0" if text.lstrip("-").isdigit() else text
    if isinstance(value, list):
        return _joined([nested(item) for item in value])
    if isinstance(value, dict):
        return _typed(value) if "type" in value else _arguments(value)
    return shortened(value)


def nested(value: Any) -> str:
    """Return a value inside another one on one line, in brackets if it is a list or a dictionary."""
    if isinstance(value, list):
        return f"[{inline(value)}]"
    return f"{{{inline(value)}}}" if isinstance(value, dict) and "type" not in value else inline(value)


def _joined(parts: list[str]) -> str:
    shown = ", ".join(parts[:MAX_ENTRIES])
    more = len(parts) - MAX_ENTRIES
    return f"{shown}, and {more} more (--json shows all)" if more > 0 else shown


def _arguments(values: Mapping[str, Any]) -> str:
    return _joined([f"{printable(key)}={nested(value)}" for key, value in values.items()])


_BRACKETS = {
    "builtins:tuple": "()",
    "torch:Size": "()",
    "builtins:set": "{}",
    "builtins:frozenset": "{}",
}

_DEFINITIONS = ("builtins:function", "builtins:type", "builtins:method", "builtins:module", "numpy:ufunc")


def _typed(value: Mapping[str, Any]) -> str:
    """Return a value of a type that JSON lacks, as Python would show it: `(0.9, 0.999)`, `inf`, `Dropout(p=0.1)`."""
    path = str(value["type"])
    name = printable(path.rpartition(":")[2])
    content = {key: entry for key, entry in value.items() if key not in ("type", "source")}
    if "repr" in content:
        return shortened(content["repr"])
    if "name" in content:
        return shortened(content["name"]) if path in _DEFINITIONS else f"{name}.{shortened(content['name'])}"
    for key in ("init", "fields", "state"):
        if isinstance(content.get(key), dict) and content[key]:
            return f"{name}({_arguments(content[key])})"
    if "init" in content:
        return f"{name}()"
    if isinstance(content.get("items"), list):
        return f"{{{_joined([_pair(pair) for pair in content['items']])}}}"
    found = content.get("value")
    if isinstance(found, list):
        brackets = _BRACKETS.get(path, "[]")
        text = f"{brackets[0]}{inline(found)}{brackets[1]}"
        return f"{name}({text})" if "dtype" in content else text
    if isinstance(found, dict) and "type" not in found:
        return f"{name}({_arguments(found)})"
    if found is not None:
        return inline(found)
    return f"{name}({_arguments(content)})"


def _pair(pair: Any) -> str:
    return ": ".join(map(nested, pair)) if isinstance(pair, list) else nested(pair)
