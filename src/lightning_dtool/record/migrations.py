"""Older records, step by step to the current schema.

One function per step, `{version: function}`: each takes the content of a record of that version and
returns that of the next. Version 1 is the first, so there is no step yet.
"""

from collections.abc import Callable
from typing import Any

from lightning_dtool.record.models import SCHEMA_VERSION

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[int, Migration] = {}


def migrate(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record's content in the current schema."""
    for version in range(content["schema_version"], SCHEMA_VERSION):
        content = {**MIGRATIONS[version](content), "schema_version": version + 1}
    return content
