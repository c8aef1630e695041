"""What a training notes of its saves in a file, which survives when it is killed."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path


def note(file: Path, event: str, value: int = 0) -> None:
    """Append an event, in one write: a killed process leaves no half of a line."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps([event, value]) + "\n").encode())
    finally:
        os.close(descriptor)


@dataclass
class Ledger:
    """The events of one training.

    Attributes:
        begun: The steps of the saves that have begun, in order.
        returned: The steps of the saves that have returned, in order.
        resumed: The step at which training began. None if it did not begin.
        struck: The step at which the fault struck. None before.
        ended: Whether training, and Lightning's teardown, have ended.
        operations: How many file operations the training had made when it ended.
    """

    begun: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    resumed: int | None = None
    struck: int | None = None
    ended: bool = False
    operations: int = 0

    @classmethod
    def read(cls, file: Path) -> "Ledger":
        """Read a ledger. It is empty if the file does not exist."""
        ledger = cls()
        for line in file.read_text().splitlines() if file.exists() else ():
            event, value = json.loads(line)
            if event in ("begun", "returned"):
                steps = getattr(ledger, event)
                if value not in steps:
                    steps.append(value)
            elif event == "ended":
                ledger.ended = True
            else:
                setattr(ledger, event, value)
        return ledger

    def certain(self, in_flight: int) -> list[int]:
        """Return the steps whose saves must have ended, oldest first.

        Args:
            in_flight: How many of the latest saves may have returned before their checkpoints were whole.
        """
        return self.returned if self.ended or not in_flight else self.returned[:-in_flight]
