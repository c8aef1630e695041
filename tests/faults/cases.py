"""The cases of the campaign."""

import random
from dataclasses import dataclass

from faults.links import LINKS
from faults.plan import EVERY
from faults.strikes import STRIKES

KILL = "SIGKILL"
KILL_ALL = "SIGKILL of all its processes"
KILL_AT = "SIGKILL between two file operations"
KILLS = (KILL, KILL_ALL, KILL_AT)

ONE, TWO, S3 = "one file system", "two file systems", "S3"

FULL_DISK = "one full disk for both"
"""Neither a dataset nor a file can be written."""

TROUBLE_AT_PATHS = (FULL_DISK, *(name for name in STRIKES if "Lightning's paths" in name))
"""Faults after which nothing more can be written at Lightning's paths."""


@dataclass(frozen=True)
class Case:
    """One training, what happens to it, and what comes after.

    Attributes:
        fault: What happens: one of `KILLS`, or a key of `STRIKES` or of `LINKS`.
        state: A key of `STATES`.
        policy: A key of `POLICIES`.
        retention: As in `DtoolProvenanceCallback`.
        place: Whether datasets and Lightning's paths lie on one file system, on two, or the datasets on S3.
        number: Seeds what is drawn by chance.
        moment: When the fault strikes, as a share of the training that nothing happens to.
    """

    fault: str
    state: str = "small"
    policy: str = "top 2 and last"
    retention: str = "mirror"
    place: str = ONE
    number: int = 0
    moment: float = 0.5

    @property
    def name(self) -> str:
        return f"{self.fault}, {self.state}, {self.policy}, {self.retention}, {self.place}, number {self.number}"

    @property
    def recovers_first(self) -> bool:
        """Whether `recover` comes before the next run, and not after it."""
        return self.number % 2 == 1

    @property
    def next_records(self) -> bool:
        """Whether the next run has the callback."""
        return self.number % 3 != 2

    @property
    def ends(self) -> bool:
        """Whether a fault on the way to a store ends while training continues."""
        return self.number % 2 == 1

    def step(self, steps: int) -> int:
        """Return the step at which a fault inside the training strikes, of that number of steps."""
        return EVERY + 1 + int(self.moment * (steps - EVERY - 2))


_SETTINGS = [
    ("small", "top 2 and last", "mirror", ONE),
    ("small", "all", "all", ONE),
    ("small", "top 1", "mirror", TWO),
    ("small", "top 2 and last", "mirror", TWO),
    ("large", "top 2 and last", "mirror", ONE),
    ("large", "top 1", "mirror", ONE),
    ("large", "last only", "mirror", ONE),
    ("large", "top 2 and last", "all", TWO),
]

_ON_S3 = [("small", "top 2 and last", "mirror", S3), ("large", "top 1", "mirror", S3)]


def cases(seed: int, share: float = 1.0) -> list[Case]:
    """Return the cases.

    Args:
        seed: Of the moments.
        share: How many of the kills.
    """
    chance = random.Random(seed)
    found = []

    def add(fault: str, number: int, setting: tuple[str, str, str, str], moment: float) -> None:
        state, policy, retention, place = setting
        found.append(Case(fault, state, policy, retention, place, number, moment))

    each = max(1, round(share * 25))
    for setting in _SETTINGS:
        for number in range(each):
            # Also after the last save, in teardown.
            add(KILL_ALL if number % 4 == 3 else KILL, number, setting, 1.05 * chance.random())
        some = each if setting[0] == "small" else max(1, each // 2)
        for number in range(some):
            add(KILL_AT, number, setting, (number + chance.random()) / some)
    for fault in STRIKES:
        for number, setting in enumerate((_SETTINGS[0], _SETTINGS[3], _SETTINGS[4], _SETTINGS[7])):
            if fault.endswith("is deleted") and setting[3] == TWO:
                continue  # a link to another file system cannot outlive it
            if fault == FULL_DISK and setting[3] == TWO:
                continue
            if fault == "the writing process is killed" and setting[0] == "small":
                continue  # it has none
            add(fault, number, setting, chance.random())
    for setting in _ON_S3:
        for number in range(max(1, round(share * 10))):
            add(KILL, number, setting, 1.05 * chance.random())
        for fault in LINKS:
            for number in range(2):
                add(fault, number, setting, chance.random())
    return found


def short(seed: int) -> list[Case]:
    """Return a choice of the cases that takes less than two minutes."""
    chance = random.Random(seed)
    kills = [Case(KILL, *setting, number, chance.random()) for number, setting in enumerate(_SETTINGS[::2])]
    at = [Case(KILL_AT, *_SETTINGS[0], number, (number + chance.random()) / 4) for number in range(4)]
    links = [Case(fault, place=S3, moment=chance.random()) for fault in ("a server that answers 503",)]
    some = ("the store is full", "the folder of Lightning's paths is full", "SIGTERM", "a file system without links")
    return [*kills, *at, *links, *(Case(fault, moment=chance.random()) for fault in some)]
