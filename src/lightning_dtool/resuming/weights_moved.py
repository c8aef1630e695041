"""Whether weights and buffers have changed between two moments of a run."""

from typing import Any

from torch import nn

from lightning_dtool.resuming.delivered import state_tensors


def versions(module: nn.Module) -> dict[str, Any]:
    """Return what torch counts of each weight and persistent buffer: its changes in place. This reads no values.

    Args:
        module: The LightningModule.
    """
    return {
        name: (id(tensor), None if tensor.is_inference() else tensor._version) for name, tensor in state_tensors(module)
    }


def moved(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return the name of the first tensor that differs between two results of `versions`.

    Args:
        before: The earlier result.
        now: The later result.
    """
    return next((name for name in {**before, **now} if before.get(name) != now.get(name)), None)
