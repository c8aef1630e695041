"""Any value as strict JSON."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel

from lightning_dtool.record import MAX_INTEGER


def strict_json(value: Any) -> Any:
    """Return a value as strict JSON: NaN, infinities and integers beyond 8 bytes become strings.

    Args:
        value: Dataclasses, pydantic models, enumerations, mappings, sequences and plain values. Anything else becomes
            its text.

    Example:
        >>> strict_json({"a": float("nan"), "b": (1, 2.5)})
        {'a': 'nan', 'b': [1, 2.5]}
    """
    if isinstance(value, Enum):
        return strict_json(value.value)
    if isinstance(value, BaseModel):
        return strict_json(value.model_dump(mode="json"))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: strict_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict_json(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INTEGER else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)
