"""What one training of the campaign does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLICIES: dict[str, dict[str, Any]] = {
    "top 2 and last": {"save_top_k": 2, "save_last": True},
    "top 1": {"save_top_k": 1},
    "last only": {"save_top_k": 0, "save_last": True},
    "all": {"save_top_k": -1, "save_last": True},
}
"""Arguments of ModelCheckpoint. The monitored metric improves with each step."""

STATES = {"small": 256, "large": 15_000_000}
"""Elements of 4 bytes in the state."""

EVERY = 3
"""Steps between two saves."""


@dataclass(frozen=True)
class Plan:
    """One training.

    Attributes:
        folder: Holds all that is not elsewhere: the ledger, the log, temporary files.
        base_uri: Where the datasets go.
        paths: The folder of Lightning's paths.
        state: A key of `STATES`.
        policy: A key of `POLICIES`.
        retention: As in `DtoolProvenanceCallback`.
        steps: Where training ends.
        ckpt_path: As in `Trainer.fit`.
        with_callback: Whether the training records anything.
        fault: What strikes inside the training, a key of `STRIKES`, or "".
        at: The step at which it strikes; or the number of the file operation before which the training kills itself.
        pause: Seconds of each step.
        variables: Environment variables.
        ledger: The name of the ledger's file.
    """

    folder: Path
    base_uri: str
    paths: Path
    state: str = "small"
    policy: str = "top 2 and last"
    retention: str = "mirror"
    steps: int = 8 * EVERY
    ckpt_path: str | None = None
    with_callback: bool = True
    fault: str = ""
    at: int = 0
    pause: float = 0.01
    variables: dict[str, str] = field(default_factory=dict)
    ledger: str = "ledger.jsonl"

    @property
    def ledger_file(self) -> Path:
        return self.folder / self.ledger

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def kept(self) -> int:
        """How many checkpoints ModelCheckpoint keeps under their own names; -1 for all."""
        return int(POLICIES[self.policy]["save_top_k"])

    @property
    def has_last(self) -> bool:
        return bool(POLICIES[self.policy].get("save_last"))
