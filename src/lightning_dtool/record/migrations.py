"""Older records, step by step to the current schema.

One function per step, `{version: function}`: each takes the content of a record of that version and
returns that of the next.
"""

from collections.abc import Callable
from typing import Any

from lightning_dtool.record.models import SCHEMA_VERSION

Migration = Callable[[dict[str, Any]], dict[str, Any]]


_NEW_IN_2 = (
    "loss",
    "model.architecture",
    "data.stages.transforms",
    "data.order",
    "randomness.states",
    "metrics.history",
)


def from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 says more, of callbacks and accelerators in another shape; what schema 1 never asked is a gap."""
    trainer, environment = content.get("trainer", {}), content["environment"]
    if not (
        isinstance(trainer, dict) and isinstance(environment, dict) and isinstance(trainer.get("callbacks", []), list)
    ):
        return content  # damaged: the models say where
    trainer = {**trainer, "callbacks": [{"class_path": path} for path in trainer.get("callbacks", [])]}
    environment = dict(environment)
    accelerator = environment.pop("accelerator", None)
    environment["accelerators"] = [accelerator] if accelerator else []
    unasked = [
        {
            "fact": fact,
            "reason": "the record was written with schema 1, which did not ask for it",
            "remedy": "train again with this version",
        }
        for fact in _NEW_IN_2
    ]
    gaps = [*content.get("gaps", []), *unasked]
    return {**content, "trainer": trainer, "environment": environment, "gaps": gaps}


MIGRATIONS: dict[int, Migration] = {1: from_1}


def migrate(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record's content in the current schema."""
    for version in range(content["schema_version"], SCHEMA_VERSION):
        content = {**MIGRATIONS[version](content), "schema_version": version + 1}
    return content
