"""A copy of a dataset with one file mutated, and hashes that fit."""

import hashlib
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutations import CONTENTS, PLACE, replace_by_something_else

NOTHING = "nothing"
"""The mutation that changes nothing."""


@dataclass(frozen=True)
class Case:
    """One mutated dataset.

    Attributes:
        kind: The kind of dataset.
        relpath: The file, in the folder of the dataset. "": none.
        mutation: One of `MUTATIONS`, or `NOTHING`.
        sealed: Whether the manifest and the overlay of SHA-256 fit the mutated item.
        number: Distinguishes cases that are alike otherwise.
    """

    kind: str
    relpath: str = ""
    mutation: str = NOTHING
    sealed: bool = False
    number: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.relpath}, {self.mutation}, {'sealed, ' if self.sealed else ''}{self.number}"


@dataclass(frozen=True)
class Forged:
    """A mutated dataset on disk.

    Attributes:
        dataset: Its folder.
        changed: Whether the mutation changed anything.
    """

    dataset: Path
    changed: bool


def forge(case: Case, original: Path, folder: Path, outside: Path, seed: int) -> Forged:
    """Copy a dataset and mutate it.

    Args:
        case: What to do.
        original: The dataset.
        folder: An empty folder, which becomes the only one in its base URI.
        outside: As for `replace_by_something_else`.
        seed: Of what is drawn by chance.
    """
    dataset = folder / original.name
    shutil.copytree(original, dataset)
    if case.mutation == NOTHING:
        return Forged(dataset, False)
    path = dataset / case.relpath
    chance = random.Random(f"{seed}, {case.name}")
    before = path.read_bytes()
    os.chmod(path, 0o644)
    if case.mutation == PLACE:
        replace_by_something_else(path, outside, chance)
    else:
        path.write_bytes(CONTENTS[case.mutation](before, case.relpath, chance))
    if case.sealed:
        _seal(dataset)
    return Forged(dataset, not path.is_file() or path.read_bytes() != before)


def _seal(dataset: Path) -> None:
    """Make the manifest and the overlay of SHA-256 fit the items that are files."""
    manifest, overlay = dataset / ".dtool" / "manifest.json", dataset / ".dtool" / "overlays" / "sha256.json"
    listed, digests = json.loads(manifest.read_text()), json.loads(overlay.read_text())
    for identifier, entry in listed["items"].items():
        path = dataset / "data" / entry["relpath"]
        if not path.is_file() or path.stat().st_size > 2**31 or str(path.resolve()).startswith("/dev/"):
            continue
        content = path.read_bytes()
        entry["size_in_bytes"], entry["hash"] = len(content), hashlib.md5(content).hexdigest()
        digests[identifier] = hashlib.sha256(content).hexdigest()
    for place, value in ((manifest, listed), (overlay, digests)):
        os.chmod(place, 0o644)
        place.write_text(json.dumps(value))
