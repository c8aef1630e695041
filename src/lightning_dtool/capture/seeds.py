"""The seeds of random number generators, and what those of the global ones and their states leave undetermined."""

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightning_dtool.capture.generator_states import read_state
from lightning_dtool.record import MAX_INTEGER, Gaps
from lightning_dtool.values.writing import encode
from lightning_dtool.watch.seeds import Seeding, seedings, words

SEED_REMEDY = "call lightning.seed_everything(seed, workers=True) before you build the model"

_NAMES = {"torch": "torch", "numpy": "NumPy", "python": "Python"}

_RANDOM = 2**32
"""torch seeds itself with a random number of 53 to 64 bits. A smaller initial seed was given."""

_DRAWN_BY_NUMPY = 2**63
"""NumPy takes 128 bits from the operating system. Seeds of a user's are smaller."""

_AT_IMPORT = torch.initial_seed()


@dataclass(frozen=True)
class Seeds:
    """The seeds before a run.

    Attributes:
        seeds: The seed of each generator that was seeded, by its name.
        unseeded: The other generators. Another seed may have been set before the import.
        global_seed: The seed of `seed_everything`, if it was called in this process.
        description: Which generators were seeded and which were not, as far as is known.
        before_model: Whether torch was seeded before the model was made; None if this is not known, or if it was not
            seeded.
        by_states: Whether a generator was not seeded in time, but follows from its recorded state at the import.
        doubt: Why the seeds and the states at the import do not determine all random numbers. Empty if they do.
    """

    seeds: dict[str, Any]
    unseeded: tuple[str, ...]
    global_seed: int | None
    description: str
    before_model: bool | None
    by_states: bool
    doubt: str


def observe_seeds(
    moments: Mapping[str, Mapping[str, Any]], drawn_before_import: Collection[str], made_with: int | None = None
) -> Seeds:
    """Return the seeds of torch's, NumPy's and Python's generators.

    Args:
        moments: States by the moment when they were read (`import`, `fit_start`), as strict JSON.
        drawn_before_import: The generators that had been drawn from before the import.
        made_with: The initial seed of torch's generator when the model was made, if it is known.
    """
    seeds: dict[str, Any] = {}
    doubts: list[str] = []
    by_states = False
    global_seed, left_over = _global_seed(moments)
    names = {generator: name for generator, name in _NAMES.items() if generator != "numpy" or "numpy" in sys.modules}
    for generator, name in names.items():
        seeding = _torch_seeding(moments) if generator == "torch" else _last_seeding(generator, global_seed)
        if seeding is not None and seeding.seed is not None:
            seeds[generator] = encode(seeding.seed, Gaps())
            continue
        if seeding is not None:
            doubts.append(f"{name}'s generator was seeded by the operating system")
        elif generator in drawn_before_import:
            doubts.append(
                f"{name}'s generator was used before DtoolProvenanceCallback was imported, and no seed was seen"
            )
        else:
            by_states = True
    before_model = _is_given(made_with) if made_with is not None and "torch" in seeds else None
    if before_model is False:
        if made_with == _initial_seed(moments.get("import", {})) and "torch" not in drawn_before_import:
            by_states = True
        else:
            doubts.append("the model was made before torch's generator was seeded")
    unseeded = tuple(name for generator, name in names.items() if generator not in seeds)
    description = _described(seeds, unseeded, left_over)
    return Seeds(seeds, unseeded, global_seed, description, before_model, by_states, ", and ".join(doubts))


def torch_is_seeded() -> bool | None:
    """Return whether torch's generator has been seeded. None if it is not known."""
    seed = torch.initial_seed()
    if _is_given(seed):
        return True
    return False if seed == _AT_IMPORT else None


def seed_of(generator: torch.Generator | np.random.Generator | np.random.RandomState) -> Any:
    """Return the seed that a generator was given. None if it has drawn its seed itself, or if it does not keep it.

    Args:
        generator: Any generator of torch or NumPy.
    """
    if isinstance(generator, torch.Generator):
        seed = generator.initial_seed()
        return seed if _is_given(seed) else None
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator._bit_generator
    entropy = getattr(getattr(bits, "seed_seq", None), "entropy", None)
    return None if isinstance(entropy, int) and entropy >= _DRAWN_BY_NUMPY else entropy


def integer(text: str) -> int | None:
    """Return an integer of at most 8 bytes. None for any other text."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if abs(number) <= MAX_INTEGER else None


def _torch_seeding(moments: Mapping[str, Mapping[str, Any]]) -> Seeding | None:
    """Return how torch's generator was seeded. None if torch has seeded it when it was imported."""
    now, at_import = (_initial_seed(moments.get(moment, {})) for moment in ("fit_start", "import"))
    present = torch.initial_seed() if now is None else now
    for seeding in reversed(seedings("torch")):
        # A seeding is undone if a saved state is restored afterwards, as `torch.random.fork_rng` does.
        if isinstance(seeding.seed, int) and seeding.seed % 2**64 == present:
            return seeding
    if present < _RANDOM:
        return Seeding(present, "")
    return None if at_import in (None, present) else Seeding(None, "")


def _is_given(seed: int) -> bool:
    """Return whether an initial seed of torch's generator was given, and not drawn by torch."""
    return seed < _RANDOM or any(isinstance(each.seed, int) and each.seed % 2**64 == seed for each in seedings("torch"))


def _last_seeding(generator: str, global_seed: int | None) -> Seeding | None:
    """Return the last seeding of NumPy's or Python's generator that was not undone by restoring the state before it.

    If none was seen, it is that of `seed_everything`, which may have been called before seeds were observed.
    """
    present = words(generator)
    for seeding in reversed(seedings(generator)):
        if seeding.before != present:
            return seeding
    return None if global_seed is None else Seeding(global_seed, "")


def _initial_seed(states: Mapping[str, Any]) -> int | None:
    """Return the seed that a state of torch's generator contains."""
    if "torch" not in states:
        return None
    return torch.Generator().set_state(read_state("torch", states["torch"])).initial_seed()


def _global_seed(moments: Mapping[str, Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Return the seed of `seed_everything`, or else the value of `PL_GLOBAL_SEED` if that was not called."""
    seed = integer(os.environ.get("PL_GLOBAL_SEED", ""))
    if seed is None:
        return None, None
    noted = [each for each in seedings("torch") if each.seed == seed]
    if noted:
        called = any(each.by.endswith(".utilities.seed") for each in noted)
    else:  # perhaps before the import
        called = seed in {torch.initial_seed(), *(_initial_seed(states) for states in moments.values())}
    return (seed, None) if called else (None, seed)


def _described(seeds: Mapping[str, Any], unseeded: Collection[str], left_over: int | None) -> str:
    set_elsewhere = f"; PL_GLOBAL_SEED is {left_over}, but seed_everything was not called in this process"
    seeded = [f"{_NAMES[generator]} was seeded with {seed}" for generator, seed in seeds.items()]
    text = "seed_everything was not called before fit"
    if seeded:
        text = f"{', '.join(seeded)}, but no seed of {' and '.join(unseeded)} was seen"
    return text + (set_elsewhere if left_over is not None else "")
