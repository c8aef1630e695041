"""The versions of parameters, by which a change is seen without a look at their content."""

from collections.abc import MutableMapping
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch.utils.weak import WeakIdKeyDictionary

from lightning_dtool.watch import replaced


class _Beginning(NamedTuple):
    """The state of a module when fitting began.

    Attributes:
        versions: The `id` and version of each parameter.
        loads: How often values had been put into modules in this process.
    """

    versions: dict[str, tuple[int, int]]
    loads: int


_begun: MutableMapping[LightningModule, _Beginning] = WeakIdKeyDictionary()


def note_versions(module: LightningModule) -> None:
    """Note the versions of a module's parameters, because fitting begins.

    Args:
        module: The LightningModule, not wrapped by a strategy.
    """
    _begun[module] = _Beginning(_versions(module), replaced.loads())


def changed_parameters(module: LightningModule) -> frozenset[str]:
    """Return the names of the parameters that have changed since fitting began; all of them if that is not known.

    Args:
        module: The LightningModule, not wrapped by a strategy.
    """
    begun = _begun.get(module)
    before = begun.versions if begun is not None else {}
    return frozenset(name for name, version in _versions(module).items() if before.get(name) != version)


def may_be_replaced(module: LightningModule) -> bool:
    """Return False if no weights of a module have changed since fitting began, and no training step was taken.

    Args:
        module: The LightningModule, not wrapped by a strategy.
    """
    begun = _begun.get(module)
    if begun is None or begun.loads != replaced.loads():
        return True
    # DDP writes all weights in place.
    return not _is_ddp() and begun.versions != _versions(module)


def _is_ddp() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _versions(module: LightningModule) -> dict[str, tuple[int, int]]:
    named = module.named_parameters(remove_duplicate=False)
    return {name: (id(parameter), replaced.version(parameter)) for name, parameter in named}
