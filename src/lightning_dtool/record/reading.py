"""The reading of records from JSON text, and their JSON Schema."""

import json
from typing import Any

from pydantic import ValidationError

from lightning_dtool import limits
from lightning_dtool.errors import NewerSchemaError, RecordError
from lightning_dtool.record.migrations import migrate
from lightning_dtool.record.provenance import SCHEMA_VERSION, Provenance


def from_json(text: str | bytes, source: str) -> Provenance:
    """Read a record that was stored as JSON.

    Args:
        text: The content of `provenance.json`.
        source: The URI that the text came from, used in errors.

    Returns:
        The record, migrated to the current schema if it was written by an older version.

    Raises:
        NewerSchemaError: If a newer version of this package wrote it.
        RecordError: If the text is not JSON, or not a record.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"provenance.json is not JSON ({error}). The dataset is damaged; restore it from a copy.", uri=source
        ) from error
    if limits.is_deeper(content, limits.MAX_JSON_DEPTH):
        raise RecordError("provenance.json is nested too deeply. It was not written by this package.", uri=source)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RecordError(
            "expected a record, found a provenance.json without a valid schema_version. "
            "It was not written by this package; look at the dataset's README.",
            uri=source,
        )
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"its record has schema version {str(version)[:20]}, this package reads up to {SCHEMA_VERSION}. "
            "Upgrade with: pip install --upgrade lightning-dtool",
            uri=source,
        )
    try:
        content = migrate(content)
    except Exception as error:  # a damaged record may have any content
        raise RecordError(
            f"provenance.json says schema version {version}, and cannot be brought to version "
            f"{SCHEMA_VERSION} ({type(error).__name__}: {error}). It is damaged, or was not written by this package.",
            uri=source,
        ) from error
    try:
        return Provenance.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"provenance.json is not a record of schema version {version}: {place}: {first['msg'][:_LONGEST]} "
            f"({error.error_count()} problems in all). "
            "It is damaged, or was not written by this package; restore it from a copy.",
            uri=source,
        ) from error


_LONGEST = 300
"""Maximum length of a problem in an error, which may repeat a value."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    schema = Provenance.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
