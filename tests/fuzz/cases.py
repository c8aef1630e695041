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
                for sealed, number in _variants(relpath, mutation):
                    found.append(Case(kind, relpath, mutation, sealed, number))
    return found


def _variants(relpath: str, mutation: str) -> list[tuple[bool, int]]:
    """Return whether the hashes fit, and a number, for each case of a file and a mutation."""
    often = 4 if mutation == PLACE else _OFTEN.get(mutation, 1) if relpath.endswith(_STRUCTURED) else 1
    if not relpath.startswith("data/"):
        return [(False, number) for number in range(min(often, 3))]  # there are many of them
    if relpath.endswith("provenance.json") and mutation in _OFTEN:
        often *= 3
    return [(False, 0), *((True, number) for number in range(often))]


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
