"""The base class of every part of a record, and the types of its values.

Every value is strict JSON, so that programs in any language can read a record.
"""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_INTEGER = 2**63 - 1
"""The largest integer of 8 bytes. Some readers of JSON, such as MongoDB, hold no larger ones."""


def _check_json(value: Any, where: str = "") -> Any:
    """Raise a ValueError for a value that strict JSON or an integer of 8 bytes cannot hold."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _check_text(value, where)
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError(f"{where or 'value'}: the integer {value} exceeds 8 bytes; write it as a string")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where or 'value'}: {value} is not JSON; write it as a string")
        return value
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where or 'value'}: the key {key!r} is not a string")
            _check_text(key, where)
            _check_json(item, f"{where}.{key}" if where else key)
        return value
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]")
        return value
    raise ValueError(f"{where or 'value'}: a {type(value).__name__} is not JSON")


def _check_text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where or 'value'}: {text[:80]!a} cannot be encoded in UTF-8; escape it") from None
    return text


Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""An integer of at most 8 bytes."""

Json = Annotated[Any, AfterValidator(_check_json)]
"""Any strict JSON value: no NaN, no infinity, no integer of more than 8 bytes, only strings as keys."""


class Section(BaseModel):
    """Base class of every part of a record. It is immutable, and an unknown field is an error."""

    # Numbers that strict JSON does not have would silently become null. `field_to_json` looks for these constants.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
