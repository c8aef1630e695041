"""The seeds of the global random number generators of torch, NumPy and Python.

A generator does not tell with which seed it was initialised: NumPy's and Python's do not at all, and torch's does not
tell a given seed from a random one. The functions `torch.manual_seed`, `numpy.random.seed` and `random.seed` are
therefore replaced by functions that note the seed and pass it on. Lightning's `seed_everything`, and the corresponding
functions of other libraries, call them.
"""

import functools
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.jit import _builtins as builtins


@dataclass(frozen=True)
class Seeding:
    """One call of a function that seeds a generator.

    Attributes:
        seed: The seed. None if it is taken from the operating system.
        by: Name of the module whose code called the function.
        before: A number for the generator's state before (see `words`), which is the state again if code restores it.
    """

    seed: Any
    by: str
    before: int | None = None


_noted: dict[str, list[Seeding]] = {"torch": [], "numpy": [], "python": []}
_calls = 0

_MAX_NOTED = 100
"""Number of the latest seeds of each generator that are kept."""


def install() -> None:
    """Note seeds from now on. May be called again, for the case that NumPy has been imported since."""
    manual_seed = torch.manual_seed
    _replace(torch, "manual_seed", "torch")
    if torch.random.manual_seed is manual_seed:  # unless torch._dynamo has replaced one of them
        torch.random.manual_seed = torch.manual_seed
    else:
        _replace(torch.random, "manual_seed", "torch")
    _replace(random, "seed", "python")
    if "numpy" in sys.modules:
        _replace(sys.modules["numpy"].random, "seed", "numpy")


def seedings(generator: str) -> list[Seeding]:
    """Return the seeds of a generator so far, oldest first.

    Args:
        generator: `torch`, `numpy` or `python`.
    """
    return list(_noted[generator])


def seed_calls() -> int:
    """Return how often a generator was seeded so far."""
    return _calls


def words(generator: str) -> int | None:
    """Return a number for the state of NumPy's or Python's generator, which stays the same for the next few draws.

    Args:
        generator: `numpy` or `python`. For `torch`, which knows its initial seed, None is returned.
    """
    if generator == "torch":
        return None
    # The last number is the position in the block of random numbers.
    state = random.getstate()[1][:-1] if generator == "python" else sys.modules["numpy"].random.get_state()[1].tobytes()
    return hash(state)


def _replace(module: Any, name: str, generator: str) -> None:
    original: Callable[..., Any] = getattr(module, name)
    if getattr(original, "_lightning_dtool_notes", False):
        return

    @functools.wraps(original)
    def seed(*args: Any, **kwargs: Any) -> Any:
        before = words(generator)
        result = original(*args, **kwargs)
        given = next(iter((*args, *kwargs.values())), None)
        global _calls
        _calls += 1
        noted = _noted[generator]
        noted.append(Seeding(given, str(sys._getframe(1).f_globals.get("__name__")), before))
        del noted[:-_MAX_NOTED]
        return result

    seed._lightning_dtool_notes = True  # type: ignore[attr-defined]
    # A function that torch.jit compiles may call it.
    if (operator := builtins._find_builtin(original)) is not None:  # type: ignore[no-untyped-call]
        builtins._register_builtin(seed, operator)
    setattr(module, name, seed)
