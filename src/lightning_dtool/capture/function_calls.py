"""The calls of PyTorch's functions, seen without changing them."""

import re
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import overrides
from torch.overrides import TorchFunctionMode

_NAME = re.compile(r"(^|_)(loss|loss_nd|kl_div|cross_entropy|binary_cross_entropy|binary_cross_entropy_with_logits)$")


def _loss_functions() -> dict[int, str]:
    """Return the names of PyTorch's loss functions by their ids, which never change."""
    found: dict[int, str] = {}
    # The last entry wins, so that public functions have their names from torch.nn.functional.
    for room in (torch._C._nn, torch, torch.nn.functional):
        for name, function in vars(room).items():
            if _NAME.search(name) and not name.startswith("_") and callable(function):
                found[id(function)] = f"{room.__name__}:{name}"
    return found


LOSS_FUNCTIONS = _loss_functions()
"""The names of PyTorch's loss functions, by their ids."""

_BACKWARDS = {id(torch.Tensor.backward), id(torch.autograd.backward)}

_Arguments = tuple[Any, ...]


class FunctionCalls(TorchFunctionMode):
    """A mode that hands on every call of a PyTorch function, while it is entered.

    Args:
        call: Calls a function for the frame that has called it, and returns the result.
        backward: As `call`, for `backward`, with the function's arguments.
        called: Called after any other function, with its arguments and its result.
    """

    def __init__(
        self,
        call: Callable[[FrameType, Any, _Arguments, Mapping[str, Any]], Any],
        backward: Callable[[FrameType, Any, _Arguments, Mapping[str, Any]], Any],
        called: Callable[[Any, _Arguments, Mapping[str, Any], Any], None],
    ) -> None:
        super().__init__()
        self._call = call
        self._backward = backward
        self._called = called

    def __torch_function__(
        self, func: Any, types: Any, args: _Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        caller, kwargs = sys._getframe(1), kwargs or {}
        if id(func) in _BACKWARDS:
            return self._backward(caller, func, args, kwargs)
        result = self._call(caller, func, args, kwargs)
        self._called(func, args, kwargs, result)
        return result

    def enter(self) -> None:
        """Put the mode on the stack of modes."""
        overrides._push_mode(self)  # type: ignore[no-untyped-call]

    def leave(self) -> bool:
        """Remove the mode from the stack of modes. The order of the others stays the same.

        Returns:
            True if it was in the stack.
        """
        if not any(other is self for other in overrides._get_current_function_mode_stack()):  # type: ignore[no-untyped-call]
            return False
        above = []
        while (top := overrides._pop_mode()) is not self:  # type: ignore[no-untyped-call]
            above.append(top)
        for other in reversed(above):
            overrides._push_mode(other)  # type: ignore[no-untyped-call]
        return True
