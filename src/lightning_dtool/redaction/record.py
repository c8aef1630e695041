"""Credentials in the values and texts of a record."""

import textwrap
from typing import Any

from lightning_dtool.record import Gaps, Provenance
from lightning_dtool.redaction.source import is_credential, is_suspicious, redact_certain, redact_source
from lightning_dtool.redaction.text import REDACTED, is_secret_name, redact_text


def redact_mapping(values: dict[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return a nested mapping with the values of secret names replaced.

    Args:
        values: Strict JSON.
        gaps: Stands at the mapping's place in the record. Receives a gap for every value that was replaced.
    """
    return {key: redact_value(value, gaps.at(key), key) for key, value in values.items()}


def add_redaction(gaps: Gaps) -> None:
    """Add the gap that says of a value that it was replaced.

    Args:
        gaps: Stands at the value's place in the record.
    """
    gaps.add("it looks like a credential and was redacted", "read it from the environment")


def redact_value(value: Any, gaps: Gaps, name: str = "") -> Any:
    """Return a value without the credentials in it.

    Args:
        value: Strict JSON.
        gaps: Stands at the value's place in the record. Receives a gap for everything that was replaced.
        name: The value's name. If it is that of a credential, the whole value is replaced.
    """
    if is_secret_name(name) and value not in (None, "") and not isinstance(value, bool):
        add_redaction(gaps)
        return REDACTED
    if isinstance(value, dict):
        return redact_mapping(value, gaps)
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and is_secret_name(value[0]):  # a name and its value
            return [value[0], redact_value(value[1], gaps, value[0])]
        return [redact_value(item, gaps.at(f"[{index}]")) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    # A `source` is code, of a lambda for example.
    redacted = redact_source(value)[0] if name == "source" else redact_text(value)
    if redacted != value:
        add_redaction(gaps)
    return redacted


_PLAIN_SECTIONS = ("run", "checkpoint", "code", "lineage", "gaps")
"""Sections whose names are those of files or modules: `leaves.token` is no credential."""


def redact_record(record: Provenance) -> Provenance:
    """Return a record without credentials in any of its texts. This is the last step before a record is written.

    Args:
        record: The record. Its sections have been through their own redaction.

    Returns:
        The same record if there was nothing to hide; else a copy, with an entry in `gaps` for each place.
    """
    content = record.model_dump(mode="python")
    found = Gaps()
    redacted = {
        name: section if name in ("run", "checkpoint", "gaps") else _redact_texts(section, found.at(name), name, "")
        for name, section in content.items()
    }
    # A reason may quote an error's message, which may quote anything.
    gaps = [gap.model_copy(update={"reason": redact_text(gap.reason)}) for gap in record.gaps]
    if not found and gaps == record.gaps:
        return record
    known = {gap.fact for gap in gaps}
    gaps += [gap for gap in found if gap.fact not in known]
    return Provenance.model_validate({**redacted, "gaps": [gap.model_dump() for gap in gaps]})


def _redact_texts(value: Any, gaps: Gaps, section: str, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _redact_texts(item, gaps.at(key), section, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_texts(item, gaps.at(f"[{index}]"), section, name) for index, item in enumerate(value)]
    if not isinstance(value, str) or value == REDACTED:
        return value
    if section not in _PLAIN_SECTIONS and is_credential(name, value):
        redacted = REDACTED
    elif "\n" in value:
        redacted = redact_source(textwrap.dedent(value))[0] if is_suspicious(value) else value
        if redacted == textwrap.dedent(value):
            redacted = value
    else:
        redacted = redact_certain(value)
    if redacted != value:
        add_redaction(gaps)
    return redacted
