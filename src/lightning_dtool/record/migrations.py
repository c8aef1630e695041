"""The steps that bring an older record to the current schema.

A change of the schema adds one: a function that takes the content of a record of the version before, and returns that
of the next. What the older schema did not have becomes a gap of the record, never a guess.
"""

from collections.abc import Callable
from typing import Any

from lightning_dtool.record.models import SCHEMA_VERSION

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[int, Migration] = {}
"""The steps by the version that they start from. Version 1 is the first one."""


def migrate(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record's content in the current schema.

    Args:
        content: A record of the current schema or an older one. Its `schema_version` says which.
    """
    for version in range(content["schema_version"], SCHEMA_VERSION):
        content = {**MIGRATIONS[version](content), "schema_version": version + 1}
    return content
