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
    gaps = [*content.get("gaps", []), *(_unasked(fact, 1) for fact in _NEW_IN_2)]
    return {**content, "trainer": trainer, "environment": environment, "gaps": gaps}


_NEW_IN_3 = ("run.fit_index", "randomness.repeatable_by")


def from_2(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 3 says what a rerun needs: which `fit` it was, and where the random numbers can come from."""
    randomness, gaps = content.get("randomness", {}), content.get("gaps", [])
    if not isinstance(randomness, dict) or not isinstance(gaps, list):
        return content  # damaged: the models say where
    unasked = [_unasked(fact, 2) for fact in _NEW_IN_3]
    if randomness.get("global_seed") is not None:  # this follows from what schema 2 knew
        content = {**content, "randomness": {**randomness, "repeatable_by": "seed"}}
        unasked = unasked[:1]
    return {**content, "gaps": [*gaps, *unasked]}


def _unasked(fact: str, version: int) -> dict[str, str]:
    return {
        "fact": fact,
        "reason": f"the record was written with schema {version}, which did not ask for it",
        "remedy": "train again with this version",
    }


MIGRATIONS: dict[int, Migration] = {1: from_1, 2: from_2}


def migrate(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record's content in the current schema."""
    for version in range(content["schema_version"], SCHEMA_VERSION):
        content = {**MIGRATIONS[version](content), "schema_version": version + 1}
    return content
