"""The cases of the campaign."""

import random
from pathlib import Path

from fuzz.forging import NOTHING, Case
from fuzz.mutations import CONTENTS, PLACE
from fuzz.originals import KINDS, original

_OFTEN = {"values of other types": 8, "keys removed": 4, "keys added": 4}
"""How many of each there are in files with a structure, where they differ most."""

_STRUCTURED = (".json", ".yml", ".ckpt", ".npy", ".zip", ".dtool/dtool")


def cases(originals: Path) -> list[Case]:
    """Return all cases.

    Args:
        originals: The folder of the datasets.
    """
    found = []
    for kind in KINDS:
        found.append(Case(kind))
        dataset = original(originals, kind)
        for path in sorted(each for each in dataset.rglob("*") if each.is_file()):
            relpath = path.relative_to(dataset).as_posix()
            for mutation in (*CONTENTS, PLACE):
                often = _OFTEN.get(mutation, 1) if relpath.endswith(_STRUCTURED) else 1
                if mutation == PLACE:
                    often = 4
                for number in range(often * 3 if often > 1 and relpath.endswith("provenance.json") else often):
                    if relpath.startswith("data/"):
                        found.append(Case(kind, relpath, mutation, True, number))
                    if number == 0:
                        found.append(Case(kind, relpath, mutation, False, number))
    return found


def short(originals: Path, seed: int) -> list[Case]:
    """Return a choice of the cases in which each kind of dataset and each mutation occurs."""
    chance = random.Random(seed)
    everything = [case for case in cases(originals) if case.mutation != NOTHING]
    chance.shuffle(everything)
    chosen: list[Case] = []
    for mutation in (*CONTENTS, PLACE):
        kind = KINDS[len(chosen) % len(KINDS)] if len(chosen) % 2 else KINDS[0]
        chosen.append(next(case for case in everything if case.mutation == mutation and case.kind == kind))
    return [Case(KINDS[0]), *chosen, *(case for case in everything[:3] if case not in chosen)]
