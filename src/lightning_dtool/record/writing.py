"""The writing of records as JSON text."""

import json
from collections.abc import Sequence

from lightning_dtool.record.provenance import Provenance
from lightning_dtool.record.section import Section


def to_json(record: Provenance) -> str:
    """Return a record as strict JSON, ready to be stored as `provenance.json`.

    Each field of the record is one line, without spaces: a checkpoint may be tiny, and each has a record of its own.

    Args:
        record: The record.

    Raises:
        ValueError: If it contains a number that strict JSON does not have.
    """
    lines = (f'"{name}":{field_to_json(getattr(record, name))}' for name in Provenance.model_fields)
    return "{" + ",\n".join(lines) + "}\n"


def field_to_json(value: Section | Sequence[Section] | int) -> str:
    """Return the value of a field of a record as strict JSON, without spaces.

    Args:
        value: The value.

    Raises:
        ValueError: If it contains a number that strict JSON does not have.
    """
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, Section):
        return f"[{','.join(map(field_to_json, value))}]"
    text = value.model_dump_json()
    if "NaN" in text or "Infinity" in text:  # as a number, which is an error, or inside a text
        json.dumps(value.model_dump(mode="json"), allow_nan=False)
    return text
