"""Whether weights and buffers have changed between two moments of a run."""

from collections.abc import Mapping

from torch import nn

from lightning_dtool.resuming.delivered import state_tensors
from lightning_dtool.watch.replaced import version


def versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return what torch counts of each weight and persistent buffer: its changes in place. This reads no values.

    Args:
        module: The LightningModule.
    """
    return {name: (id(tensor), version(tensor)) for name, tensor in state_tensors(module)}


def moved(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> str | None:
    """Return the name of the first tensor that differs between two results of `versions`.

    Args:
        before: The earlier result.
        now: The later result.
    """
    return next((name for name in {**before, **now} if before.get(name) != now.get(name)), None)
