"""Credentials in the values and texts of a record."""

import textwrap
from typing import Any

from lightning_dtool.record import Gap, Provenance
from lightning_dtool.redaction.source import is_credential, is_suspicious, redact_certain, redact_source
from lightning_dtool.redaction.text import REDACTED, is_secret_name, redact_text


def redact_mapping(values: dict[str, Any], where: str, found: list[str]) -> dict[str, Any]:
    """Return a nested mapping with the values of secret names replaced.

    Args:
        values: Strict JSON.
        where: The mapping's place in the record.
        found: Receives the place of every value that was replaced.
    """
    return {key: _redact_value(key, value, f"{where}.{key}", found) for key, value in values.items()}


def redaction_gap(where: str) -> Gap:
    """Return the entry that says of a value that it was replaced."""
    return Gap(fact=where, reason="it looks like a credential and was redacted", remedy="read it from the environment")


def _redact_value(key: str, value: Any, where: str, found: list[str]) -> Any:
    if is_secret_name(key) and value not in (None, "") and not isinstance(value, bool):
        found.append(where)
        return REDACTED
    if isinstance(value, dict):
        return redact_mapping(value, where, found)
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and is_secret_name(value[0]):  # a name and its value
            return [value[0], _redact_value(value[0], value[1], where, found)]
        return [_redact_value("", item, f"{where}[{index}]", found) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    # A `source` is code: a lambda's, say.
    redacted = redact_source(value)[0] if key == "source" else redact_text(value)
    if redacted != value:
        found.append(where)
    return redacted


_PLAIN_SECTIONS = ("run", "checkpoint", "code", "lineage", "gaps")
"""Sections in which a name is a file's or a module's: `leaves.token` is no credential."""


def redact_record(record: Provenance) -> Provenance:
    """Return a record without credentials in any of its texts: the last look, before it is written.

    Args:
        record: The record, whose sections have been through their own redaction.

    Returns:
        The same record if there was nothing to hide; else a copy, with an entry in `gaps` for each place.
    """
    content = record.model_dump(mode="python")
    found: list[str] = []
    redacted = {
        name: section if name in ("run", "checkpoint", "gaps") else _redact_texts(section, name, "", found)
        for name, section in content.items()
    }
    if not found:
        return record
    known = {gap.fact for gap in record.gaps}
    gaps = [*record.gaps, *(redaction_gap(place) for place in found if place not in known)]
    return Provenance.model_validate({**redacted, "gaps": [gap.model_dump() for gap in gaps]})


def _redact_texts(value: Any, where: str, name: str, found: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _redact_texts(item, f"{where}.{key}", key, found) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_texts(item, f"{where}[{index}]", name, found) for index, item in enumerate(value)]
    if not isinstance(value, str) or value == REDACTED:
        return value
    if where.partition(".")[0] not in _PLAIN_SECTIONS and is_credential(name, value):
        redacted = REDACTED
    elif "\n" in value:
        redacted = redact_source(textwrap.dedent(value))[0] if is_suspicious(value) else value
        if redacted == textwrap.dedent(value):
            redacted = value
    else:
        redacted = redact_certain(value)
    if redacted != value:
        found.append(where)
    return redacted
