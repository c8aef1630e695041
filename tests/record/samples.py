"""Small records for the tests."""

from datetime import datetime, timezone
from typing import Any

from lightning_dtool.record import Checkpoint, Code, Environment, Model, Provenance, Run


def record(**parts: Any) -> Provenance:
    """Return a small record. Each of `parts` replaces a section."""
    settings: dict[str, Any] = {
        "run": Run(
            uuid="6a1cf62e-0f2c-4b0f-8f0b-0a54a4a1e111",
            started_at=datetime(2024, 5, 1, 12, tzinfo=timezone.utc),
            creator_username="ada",
            lightning_dtool_version="0.1.0",
        ),
        "checkpoint": Checkpoint(
            filename="epoch=0.ckpt",
            epoch=0,
            global_step=6,
            saved_at=datetime(2024, 5, 1, 13, tzinfo=timezone.utc),
            weights_only=False,
        ),
        "model": Model(class_path="leaves.net:LeafNet", hyperparameters={"lr": 0.1}),
        "environment": Environment(python="3.11", platform="Linux", versions={"torch": "2.6"}),
        "code": Code(argv=["train.py"], working_directory="/home/ada"),
    }
    return Provenance(**{**settings, **parts})
