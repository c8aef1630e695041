"""Methods of Lightning's objects that are replaced for the time of a fit."""

from collections.abc import Callable
from functools import partial
from typing import Any


def replace_method(owner: Any, name: str, substitute: Callable[..., Any]) -> None:
    """Replace a method of an object, not of its class. A replacement by an earlier fit is dropped.

    Args:
        owner: The object.
        name: The name of the method.
        substitute: Called with the original method as the first argument, and then the arguments of the call.
    """
    vars(owner).pop(name, None)
    setattr(owner, name, partial(substitute, getattr(owner, name)))
