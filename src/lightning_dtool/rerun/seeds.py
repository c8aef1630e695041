"""How a rerun gets the random numbers, and the threads, of the recorded training.

Without a plan (see `lightning_dtool.rerun.plan`) nothing here does anything.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.rerun import plan as rerun

Restore = Callable[[Mapping[str, Any]], None]


def recorded_states(moment: str) -> dict[str, Any] | None:
    """Return the recorded states of the generators at a moment; None without a plan, or if they are not known.

    Args:
        moment: `import` or `fit_start`.
    """
    plan = rerun.plan()
    if plan is None or plan.random_states is None:
        return None
    content = json.loads(Path(plan.random_states).read_text(encoding="utf-8"))
    found = content.get("moments", {}).get(moment)
    return found if isinstance(found, dict) else None


def begin_as_recorded(restore: Restore) -> None:
    """Set threads and generators as they were when the recorded training came to this point.

    A rerun with other seeds has derived them already, see `reseed`.

    Args:
        restore: Sets the generators.
    """
    plan = rerun.plan()
    if plan is None:
        return
    set_threads()
    states = recorded_states("import")
    if states is not None and plan.seed_offset is None:
        restore(states)


def set_threads() -> None:
    """Let torch use as many threads as the recorded training, or as the user wants."""
    plan = rerun.plan()
    if plan is not None and plan.threads is not None and torch.get_num_threads() != plan.threads:
        torch.set_num_threads(plan.threads)


def derived_seed(seed: object, offset: int) -> int:
    """Return another seed for a seed: the same for the same two, and 32 bits, which every generator takes.

    Example:
        >>> derived_seed(1, 1) == derived_seed(1, 1) != derived_seed(1, 2)
        True
    """
    digest = hashlib.sha256(f"{seed}\0{offset}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def reseed(offset: int) -> None:
    """Let every seed that is set from now on, and those of the generators as they are, be another one.

    Python's, NumPy's and torch's global generators, and so `seed_everything`. A `torch.Generator` or a NumPy
    `Generator` with a seed of its own keeps it: what a script fixes by hand, a split of its data for instance, stays.

    Args:
        offset: The number of the rerun.
    """
    import random

    import numpy as np

    for module, name in ((random, "seed"), (np.random, "seed"), (torch, "manual_seed"), (torch.random, "manual_seed")):
        _derive(module, name, offset)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def _derive(module: Any, name: str, offset: int) -> None:
    original = getattr(module, name)
    if hasattr(original, "lightning_dtool_original"):  # torch has it in two places
        return

    parameter = "a" if module.__name__ == "random" else "seed"

    def derived(*args: Any, **kwargs: Any) -> Any:
        if args and args[0] is not None:
            args = (derived_seed(args[0], offset), *args[1:])
        elif kwargs.get(parameter) is not None:
            kwargs[parameter] = derived_seed(kwargs[parameter], offset)
        return original(*args, **kwargs)

    derived.lightning_dtool_original = original  # type: ignore[attr-defined]
    setattr(module, name, derived)
