"""How much a checkpoint of a rerun is like the recorded one, by the names of their files."""

import re
from enum import IntEnum
from pathlib import Path


class Likeness(IntEnum):
    """How much a checkpoint is like the recorded one. At the recorded moment, the one that is most like it is taken."""

    NONE = 0
    """There is no checkpoint yet."""
    OWN = 1
    """The rerun saves it itself, because the script saves none."""
    OTHER = 2
    """Its file has another name."""
    ALIKE = 3
    """The names of the files differ in numbers only, such as metrics and times."""
    SAME = 4
    """The files have the same name."""


def likeness_of(path: str, recorded: str) -> Likeness:
    """Return how much the name of a checkpoint's file is like the recorded one.

    A suffix such as `-v1`, which ModelCheckpoint adds if another file has the name, does not count.

    Args:
        path: The path or address of the checkpoint.
        recorded: The recorded name.
    """
    names = [re.sub(r"-v\d+(?=\.ckpt$)", "", Path(name).name) for name in (path, recorded)]
    if names[0] == names[1]:
        return Likeness.SAME
    one, two = (re.sub(r"\d+", "#", name) for name in names)
    return Likeness.ALIKE if one == two else Likeness.OTHER
