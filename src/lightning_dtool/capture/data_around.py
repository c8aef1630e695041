"""The data and the settings that code of the user takes from around it: from its class, its module or a closure."""

from typing import Any

import numpy as np
import torch

from lightning_dtool.capture.tables import blocks_of
from lightning_dtool.record import as_text
from lightning_dtool.values.attributes import is_constant
from lightning_dtool.values.surroundings import values_around


def values_outside(code: Any) -> dict[str, Any]:
    """Return data and settings that a class of the user holds itself, or that functions use from around them, by name.

    Args:
        code: A class or a function. Base classes and functions that it uses count, too.
    """
    around = values_around(code, kept=lambda value: is_data(value) or is_constant(value))
    return {as_text(name): value for name, value in around.items()}


def is_data(value: Any) -> bool:
    """Return whether a value is an array, a table, an image, or a container that is not empty."""
    if isinstance(value, list | tuple | dict | set | frozenset):
        return len(value) > 0
    return isinstance(value, torch.Tensor | np.ndarray) or (
        not isinstance(value, type) and blocks_of(value) is not None
    )
