"""A quick look at a run, which tells what parts of its record may have changed since the last look."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lightning_dtool.capture.loaders import OF_EVERY_LOADER, flat_loaders
from lightning_dtool.capture.optimizers import optimizers_token
from lightning_dtool.capture.preprocessing import BATCH_HOOKS, transforms_of
from lightning_dtool.capture.randomness import randomness_token
from lightning_dtool.capture.tokens import Same, Token, TokenWalk
from lightning_dtool.capture.trainer import trainer_token
from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.values.attributes import OF_EVERY_MODULE

_OF_A_LOADER = (
    "dataset", "batch_size", "num_workers", "drop_last", "sampler", "batch_sampler", "collate_fn", "pin_memory",
    "pin_memory_device", "persistent_workers", "prefetch_factor", "timeout", "in_order", "worker_init_fn", "generator",
    "_DataLoader__multiprocessing_context",
)  # fmt: skip
"""Attributes of a DataLoader that a record describes."""

_OF_A_MODULE = (str, int, float, tuple, list, type(None))
"""Types of the attributes of a module that are settings."""

_OF_A_DATAMODULE = tuple(inspect.signature(DtoolDataModule).parameters)

_DEPENDENT = {
    "model": "optimizers",  # its parameters may have other names now
    "data": "randomness",  # its loaders may have workers that are seeded
    "randomness": "trainer",  # the Trainer's `deterministic` is one of the flags
}
"""Parts that are observed again whenever another one is."""

_CHANGED: Token = float("nan")
"""A token that differs from every token, also from itself."""


class Look:
    """Compares a run with what it was at the last look.

    A token of each part of the record tells whether the part has to be observed again. It is quick to compute, and it
    may differ although the part does not. If it cannot be computed, the part counts as changed.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}

    def changed(self, trainer: LightningTrainer, module: LightningModule) -> list[str]:
        """Return the names of the parts of the record that may have changed since the last call.

        Args:
            trainer: The Trainer.
            module: The LightningModule, not wrapped by a strategy.
        """
        found = []
        for name, token in _TOKENS.items():
            try:
                now = token(trainer, module)
                same = bool(now == self._tokens.get(name, _CHANGED))
            except Exception:  # a user's object may raise anything
                now, same = _CHANGED, False
            if not same:
                self._tokens[name] = now
                found.append(name)
        for changed, more in _DEPENDENT.items():
            if changed in found and more not in found:
                found.append(more)
        return found


def _model_token(trainer: LightningTrainer, module: LightningModule) -> Token:
    walk = TokenWalk()
    found: list[Token] = []
    parameters: list[torch.Tensor] = []
    modules: list[torch.nn.Module] = [module]
    places = {id(module): 0}
    for child in modules:  # it grows
        kept = vars(child)
        of_child = child._parameters
        found += (type(child), len(of_child), *of_child)
        for parameter in of_child.values():
            if parameter is not None:
                lazy = type(parameter) is not torch.nn.Parameter and is_lazy(parameter)
                found += (parameter.requires_grad, None if lazy else parameter.shape)
                parameters.append(parameter)
        if child is not module and not issubclass(type(child), Metric):  # a metric's attributes are its state
            for name, value in kept.items():
                if name not in OF_EVERY_MODULE and isinstance(value, _OF_A_MODULE):
                    found += (name, walk.token(value))
        for name, below in child._modules.items():
            if below is not None:
                place = places.setdefault(id(below), len(modules))
                found += (name, place)
                if place == len(modules):
                    modules.append(below)
    return (found, Same(parameters), walk.token(dict(module.hparams)))


def _data_token(trainer: LightningTrainer, module: LightningModule) -> Token:
    walk = TokenWalk()
    datamodule: Any = getattr(trainer, "datamodule", None)
    combined = getattr(trainer.fit_loop, "_combined_loader", None)
    found: list[Token] = [getattr(combined, "_mode", None), _hooks_token(walk, module)]
    if datamodule is not None:
        found += [type(datamodule), _hooks_token(walk, datamodule), walk.token(dict(datamodule.hparams))]
    if isinstance(datamodule, DtoolDataModule):
        found += [walk.token(getattr(datamodule, name)) for name in _OF_A_DATAMODULE]
        found.append(frozenset(datamodule._set_up))
    for loaders in (trainer.train_dataloader, trainer.val_dataloaders):
        found.append([_loader_token(walk, loader) for loader in flat_loaders(loaders)])
    return found


def _hooks_token(walk: TokenWalk, owner: object) -> Token:
    kept, found = vars(owner), transforms_of(owner)
    found.update((name, kept[name]) for name in BATCH_HOOKS if name in kept)
    return (list(found), walk.tokens(found.values()))


def _loader_token(walk: TokenWalk, loader: Any) -> Token:
    if not isinstance(loader, DataLoader):
        return walk.token(loader)
    kept = vars(loader)
    own = [] if type(loader) is DataLoader else [name for name in kept if name not in OF_EVERY_LOADER]
    return (type(loader), own, walk.tokens([kept.get(name) for name in (*_OF_A_LOADER, *own)]))


_TOKENS: dict[str, Callable[[LightningTrainer, LightningModule], Token]] = {
    "model": _model_token,
    "optimizers": optimizers_token,
    # Their states are different after each step.
    "schedulers": lambda trainer, module: _CHANGED if trainer.lr_scheduler_configs else (),
    "data": _data_token,
    "randomness": lambda trainer, module: randomness_token(),
    "trainer": trainer_token,
}
