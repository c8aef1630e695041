"""The steps that convert an older record to the current schema.

Each change of the schema adds a step: a function that takes the content of a record of one version and returns its
content in the next version. A fact that the older schema did not have becomes a gap. It is never guessed.
"""

from collections.abc import Callable
from typing import Any

from lightning_dtool.record.provenance import SCHEMA_VERSION

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[int, Migration] = {}
"""The steps by the version that they convert from. The first version is 1."""


def migrate(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record's content in the current schema.

    Args:
        content: A record in the current schema or an older one, with its `schema_version`.
    """
    for version in range(content["schema_version"], SCHEMA_VERSION):
        content = {**MIGRATIONS[version](content), "schema_version": version + 1}
    return content
