"""Redaction of credentials in the values and texts of a record."""

import textwrap
from typing import Any

from lightning_dtool.record import Gaps, Provenance
from lightning_dtool.redaction.source import is_credential, is_suspicious, redact_certain, redact_source
from lightning_dtool.redaction.text import REDACTED, is_secret_name, redact_text


def redact_mapping(values: dict[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return a nested mapping with its credentials replaced.

    Args:
        values: Strict JSON.
        gaps: Collector at the mapping's place in the record. Receives a gap for each value that is replaced.
    """
    return {key: redact_value(value, gaps.at(key), key) for key, value in values.items()}


def add_redaction(gaps: Gaps) -> None:
    """Add the gap for a redacted value.

    Args:
        gaps: Collector at the value's place in the record.
    """
    gaps.add("it looks like a credential and was redacted", "read it from the environment")


def redact_value(value: Any, gaps: Gaps, name: str = "") -> Any:
    """Return a value with its credentials replaced.

    Args:
        value: Strict JSON.
        gaps: Collector at the value's place in the record. Receives a gap for each part that is replaced.
        name: Name of the value. If it looks like the name of a credential, the whole value is replaced.
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
    # The value of `source` is code, such as that of a lambda.
    redacted = redact_source(value)[0] if name == "source" else redact_text(value)
    if redacted != value:
        add_redaction(gaps)
    return redacted


_PLAIN_SECTIONS = ("run", "checkpoint", "code", "lineage", "gaps")
"""Sections whose keys may be names of files or modules. There, a key such as `leaves.token` means no credential."""


def redact_record(record: Provenance) -> Provenance:
    """Return a record with the remaining credentials in its texts replaced. This is the last step before writing it.

    The sections `run` and `checkpoint` are not searched.

    Args:
        record: The record, after the redaction of its sections.

    Returns:
        The same record if it has no credentials, otherwise a copy with a gap for each place.
    """
    content = record.model_dump(mode="python")
    found = Gaps()
    redacted = {
        name: section if name in ("run", "checkpoint", "gaps") else _redact_texts(section, found.at(name), name, "")
        for name, section in content.items()
    }
    # A reason may quote an error message, which may contain a credential.
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
