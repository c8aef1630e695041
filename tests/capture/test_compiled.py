"""The use of torch.compile in a process."""

import pytest
import torch

from kit import TinyNet
from lightning_dtool.capture.compiled import is_compiled


@pytest.mark.parametrize("how", ["child", "method", "function"])
def test_compiled_modules_are_recognised_after_a_reset_of_dynamo(how: str) -> None:
    module = TinyNet()
    assert not is_compiled(module)
    if how == "child":
        module.layers = torch.compile(module.layers, backend="eager")  # type: ignore[assignment]
    elif how == "method":
        module.layers.compile(backend="eager")
    else:
        module.shift = torch.compile(lambda x: x + 1, backend="eager")  # type: ignore[assignment]
    torch._dynamo.reset()
    assert is_compiled(module)
