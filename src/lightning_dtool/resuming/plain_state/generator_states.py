"""States of random generators: read, set, and given to new generators."""

import random
from typing import Any

import numpy as np
import torch

from lightning_dtool.resuming.plain_state.kinds import NotPlainError
from lightning_dtool.values.definitions import class_path


def generator_state(generator: Any) -> Any:
    """Return the state of a random generator, as a copy.

    Args:
        generator: One of `GENERATORS`.

    Raises:
        NotPlainError: If its state cannot be read.
    """
    try:
        if isinstance(generator, torch.Generator):
            return generator.get_state()
        if isinstance(generator, random.Random):
            return random.Random.getstate(generator)
        if isinstance(generator, np.random.Generator):
            return generator.bit_generator.state
        if isinstance(generator, np.random.RandomState):
            return generator.get_state(legacy=False)
        return generator.state
    except (NotImplementedError, AttributeError) as error:  # a generator of the operating system
        raise NotPlainError("is a generator whose state cannot be read") from error


def set_generator_state(generator: Any, state: Any) -> None:
    """Set the state of a random generator.

    Args:
        generator: One of `GENERATORS`.
        state: What `generator_state` returned, possibly encoded and decoded.
    """
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        random.Random.setstate(generator, state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.state = state


def new_generator(name: str, state: Any) -> Any:
    """Return a new random generator with a state.

    Args:
        name: The path of its class.
        state: Its state.

    Raises:
        KeyError: If generators of this class are not made.
    """
    made: Any
    if name == class_path(torch.Generator):
        made = torch.Generator()
    elif name == class_path(random.Random):
        made = random.Random()  # noqa: S311  # not for secrets
    elif name == class_path(np.random.RandomState):
        made = np.random.RandomState(0)
    elif name == class_path(np.random.Generator):
        kinds = {each.__name__: each for each in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937,
                                                  np.random.Philox, np.random.SFC64)}  # fmt: skip
        made = np.random.Generator(kinds[state["bit_generator"]](0))
    else:
        raise KeyError(name)
    set_generator_state(made, state)
    return made
