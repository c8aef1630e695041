"""The calls of PyTorch's functions, seen without changing them."""

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from lightning_dtool.capture.function_calls import LOSS_FUNCTIONS, FunctionCalls


class Seen:
    """Hands on calls, and notes what was called."""

    def __init__(self) -> None:
        self.mode = FunctionCalls(self.call, self.backward, self.called)
        self.functions: list[Any] = []
        self.losses: list[Any] = []

    def call(self, caller: Any, func: Any, args: Any, kwargs: Any) -> Any:
        assert caller is not None
        return func(*args, **kwargs)

    def backward(self, caller: Any, func: Any, args: Any, kwargs: Any) -> Any:
        self.losses.append(args[0])
        return func(*args, **kwargs)

    def called(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.functions.append((LOSS_FUNCTIONS.get(id(func)), result))


def test_calls_are_seen_with_their_results() -> None:
    seen, weight = Seen(), torch.ones(2, requires_grad=True)
    seen.mode.enter()
    loss = functional.mse_loss(weight, torch.zeros(2))
    loss.backward()
    assert seen.mode.leave()
    assert ("torch.nn.functional:mse_loss", loss) in seen.functions
    assert [found is loss for found in seen.losses] == [True]
    assert weight.grad is not None
    number = len(seen.functions)
    functional.mse_loss(weight, torch.zeros(2))
    assert len(seen.functions) == number


def test_a_mode_leaves_from_below_others() -> None:
    class Other(TorchFunctionMode):
        pass

    seen = Seen()
    seen.mode.enter()
    with Other() as one, Other() as two:
        assert seen.mode.leave()
        assert [each is other for each, other in zip(_get_current_function_mode_stack(), (one, two), strict=True)]
        assert not seen.mode.leave()
