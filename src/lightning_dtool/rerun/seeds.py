"""The random states, seeds and threads of a recorded training, for its rerun.

Without a plan (see `lightning_dtool.rerun.plan`) these functions do nothing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.rerun.plan import current_plan

_ORIGINAL = "lightning_dtool_original"
"""The attribute of a function that `reseed` has replaced."""

_SEED_VARIABLE = "PL_GLOBAL_SEED"

Restore = Callable[[Mapping[str, Any]], None]


def recorded_states(moment: str) -> dict[str, Any] | None:
    """Return the recorded states of the random generators at a moment. None without a plan, or if none were recorded.

    Args:
        moment: `import` or `fit_start`.
    """
    plan = current_plan()
    if plan is None or plan.random_states is None:
        return None
    content = json.loads(Path(plan.random_states).read_text(encoding="utf-8"))
    found = content.get("moments", {}).get(moment)
    return found if isinstance(found, dict) else None


def restore_import_state(restore: Restore) -> None:
    """Restore the threads and random states that the recorded training had when it imported this package.

    With other seeds, only the threads are restored: `reseed` has set the random states, or does so here in a process
    that Lightning has started for another rank.

    Args:
        restore: Sets the global generators to given states.
    """
    plan = current_plan()
    if plan is None:
        return
    set_threads()
    states = recorded_states("import")
    if plan.seed_offset is not None:
        if not hasattr(torch.manual_seed, _ORIGINAL):
            reseed(plan.seed_offset)
    elif states is not None:
        restore(states)


def reseed_samplers() -> None:
    """Derive another seed for the order of the samples in a training of several processes.

    Lightning's distributed samplers take the seed of `seed_everything` from the environment. Without a plan for other
    seeds, do nothing.
    """
    plan = current_plan()
    if plan is not None and plan.seed_offset is not None and plan.parent is None:
        os.environ[_SEED_VARIABLE] = str(derived_seed(os.environ.get(_SEED_VARIABLE, 0), plan.seed_offset))


def set_threads() -> None:
    """Set the number of torch's threads to the plan's."""
    plan = current_plan()
    if plan is not None and plan.threads is not None and torch.get_num_threads() != plan.threads:
        torch.set_num_threads(plan.threads)


def derived_seed(seed: object, offset: int) -> int:
    """Derive another seed from a seed, deterministically. It has 32 bits, which every generator accepts.

    Example:
        >>> derived_seed(1, 1) == derived_seed(1, 1) != derived_seed(1, 2)
        True
    """
    digest = hashlib.sha256(f"{seed}\0{offset}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def reseed(offset: int) -> None:
    """Replace the seeds of the global generators of Python, NumPy and torch, now and whenever they are set.

    This includes seeds set by `seed_everything`. A `torch.Generator` or NumPy `Generator` with its own seed is not
    affected, so that an explicit choice of the script, such as a split of its data, stays the same.

    Args:
        offset: Number of the rerun. Each number gives different seeds.
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
    if hasattr(original, _ORIGINAL):  # torch has the function in two places
        return

    parameter = "a" if module.__name__ == "random" else "seed"

    def derived(*args: Any, **kwargs: Any) -> Any:
        if args and args[0] is not None:
            args = (derived_seed(args[0], offset), *args[1:])
        elif kwargs.get(parameter) is not None:
            kwargs[parameter] = derived_seed(kwargs[parameter], offset)
        return original(*args, **kwargs)

    setattr(derived, _ORIGINAL, original)
    setattr(module, name, derived)
