"""Any Python value as strict JSON, with nothing silently dropped.

JSON's own values stand as they are. Every other value becomes `{"type": "module:qualname", …}` with its
content where that is plain, else with its repr; then the caller is told, so that the record can say so.
"""

import dataclasses
import enum
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_dtool.record import MAX_INTEGER, Gap

MAX_REPR = 1000
"""Characters of a repr that a record keeps."""

MAX_ITEMS = 1000
"""Entries of one container that a record keeps; the rest is counted."""


def class_path(obj: object) -> str:
    """Return `module:qualname` of a class, a function, or an object's class.

    >>> class_path(torch.nn.Linear)
    'torch.nn.modules.linear:Linear'
    """
    named = obj if isinstance(obj, type) or hasattr(obj, "__qualname__") else type(obj)
    return f"{getattr(named, '__module__', None) or 'builtins'}:{getattr(named, '__qualname__', repr(named))}"


def encode(value: Any, where: str, gaps: list[Gap]) -> Any:
    """Return a value as strict JSON.

    Args:
        value: Anything.
        where: The value's place in the record, such as `model.hyperparameters.act`; gaps name it.
        gaps: Receives an entry for whatever could not be kept whole.

    Returns:
        A value that `json.dumps(..., allow_nan=False)` takes, with no integer beyond 8 bytes.
    """
    return _Encoder(gaps).encode(value, where, ())


class _Encoder:
    """One walk through a value; it remembers which containers it is inside of, for those that hold themselves."""

    def __init__(self, gaps: list[Gap]) -> None:
        self._gaps = gaps

    def encode(self, value: Any, where: str, inside: tuple[int, ...]) -> Any:
        if value is None or type(value) in (bool, str):
            return value
        if type(value) is int:
            return value if abs(value) <= MAX_INTEGER else {"type": "builtins:int", "value": str(value)}
        if type(value) is float:
            return value if math.isfinite(value) else {"type": "builtins:float", "value": str(value)}
        if id(value) in inside:
            self._gap(where, "it contains itself", "")
            return {"type": class_path(value), "repr": "..."}
        inside = (*inside, id(value))
        if type(value) in (list, dict):
            return self._container(value, where, inside)
        return {"type": class_path(type(value)), **self._content(value, where, inside)}

    def _content(self, value: Any, where: str, inside: tuple[int, ...]) -> dict[str, Any]:
        if isinstance(value, enum.Enum):
            return {"name": value.name, "value": self.encode(value.value, where, inside)}
        if isinstance(value, bool | str | int | float | complex | bytes | os.PathLike):
            return {"value": str(value)}
        if isinstance(value, torch.dtype | torch.device | torch.Size):
            return {"value": str(value) if not isinstance(value, torch.Size) else list(value)}
        if isinstance(value, torch.Tensor):
            return self._tensor(value, where)
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return {"value": self._container(value, where, inside)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return {"value": self._container(fields, where, inside)}
        if isinstance(value, type) or inspect.isroutine(value):
            return self._definition(value, where)
        if isinstance(getattr(value, "item", None), Callable) and getattr(value, "shape", None) == ():  # type: ignore[arg-type]
            return {"value": self.encode(value.item(), where, inside)}  # a NumPy scalar
        self._gap(
            where,
            f"a {class_path(value)} is known by its repr only",
            "pass plain values and build the object in __init__",
        )
        return {"repr": _short_repr(value)}

    def _container(self, value: Any, where: str, inside: tuple[int, ...]) -> Any:
        if len(value) > MAX_ITEMS:
            self._gap(
                where, f"of its {len(value)} entries the first {MAX_ITEMS} are recorded", "keep long lists in a dataset"
            )
        if isinstance(value, Mapping):
            return {
                str(key): self.encode(value[key], f"{where}.{key}", inside)
                for key, _ in zip(value, range(MAX_ITEMS), strict=False)
            }
        ordered = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [
            self.encode(item, f"{where}[{index}]", inside)
            for index, item in zip(range(MAX_ITEMS), ordered, strict=False)
        ]

    def _tensor(self, value: torch.Tensor, where: str) -> dict[str, Any]:
        described: dict[str, Any] = {"dtype": str(value.dtype), "shape": list(value.shape)}
        if value.numel() > MAX_ITEMS or value.is_meta:
            self._gap(where, f"a tensor of {value.numel()} elements is known by its shape only", "keep it as a buffer")
            return described
        return {**described, "value": self.encode(value.detach().cpu().tolist(), where, ())}

    def _definition(self, value: Any, where: str) -> dict[str, Any]:
        described = {"name": class_path(value)}
        if "<lambda>" in described["name"] or "<locals>" in described["name"]:
            self._gap(
                where, "a lambda or a local function cannot be imported again", "define it at the top of a module"
            )
            source = source_of(value)
            return {**described, "source": source} if source else described
        return described

    def _gap(self, where: str, reason: str, remedy: str) -> None:
        self._gaps.append(Gap(fact=where, reason=reason, remedy=remedy))


def source_of(obj: Any) -> str | None:
    """Return an object's source code, or None where there is none (built-in, or typed at a prompt)."""
    try:
        return inspect.getsource(obj)
    except (OSError, TypeError):
        return None


def _short_repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # somebody else's __repr__ may do anything
        return f"<repr failed: {type(error).__name__}>"
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}… ({len(text)} characters)"
