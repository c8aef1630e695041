"""The states of the global random number generators of Python, NumPy and torch, read and set without a draw."""

import contextlib
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def raw_states() -> dict[str, Any]:
    """Return the states of the generators, and of those of each accelerator in use, as copies that do not change.

    This neither imports NumPy nor initialises an accelerator.
    """
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = numpy.random.get_state()
    for kind, module in accelerators().items():
        for index in range(module.device_count()):
            states[f"{kind}:{index}"] = module.get_rng_state(index)
    if mps_in_use():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_raw_states(states: Mapping[str, Any]) -> None:
    """Set the generators to the result of `raw_states`. Generators that are not in it keep their states."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
    for kind, module in accelerators().items():
        for index in range(module.device_count()):
            if f"{kind}:{index}" in states:
                module.set_rng_state(states[f"{kind}:{index}"], index)
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore all states at the end of the block.

    Observing an object may run the user's code, such as a `__repr__` or a property, which may draw random numbers.

    Example:
        >>> with random_states_kept():
        ...     first = torch.rand(2)
        >>> torch.equal(first, torch.rand(2))
        True
    """
    states = raw_states()
    try:
        yield
    finally:
        set_raw_states(states)


def accelerators() -> dict[str, Any]:
    """Return torch's modules for the accelerators in use. This does not initialise an accelerator."""
    return {
        kind: module
        for kind in ("cuda", "xpu")
        if (module := getattr(torch, kind, None)) is not None and module.is_initialized()
    }


def mps_in_use() -> bool:
    """Return True if there is a GPU of Apple."""
    return torch.backends.mps.is_available()
