"""A quick look at a run, which tells what parts of its record may have changed since the last look."""

import inspect
import os
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
from lightning_dtool.capture.randomness import capture_flags
from lightning_dtool.capture.tokens import Same, Token, TokenWalk
from lightning_dtool.capture.trainer import trainer_token
from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.record import Gaps
from lightning_dtool.values.attributes import OF_EVERY_MODULE
from lightning_dtool.watch.seeds import seed_calls

_OF_A_LOADER = (
    "dataset", "batch_size", "num_workers", "drop_last", "sampler", "batch_sampler", "collate_fn", "pin_memory",
    "pin_memory_device", "persistent_workers", "prefetch_factor", "timeout", "in_order", "worker_init_fn", "generator",
    "_DataLoader__multiprocessing_context",
)  # fmt: skip
"""Attributes of a DataLoader that a record describes."""

_OF_A_DATAMODULE = tuple(inspect.signature(DtoolDataModule).parameters)

_DEPENDENT = {
    "model": "optimizers",  # its parameters may have other names now
    "data": "randomness",  # its loaders may have workers that are seeded
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
    parts: list[Token] = []
    parameters: list[torch.Tensor] = []
    for name, child in module.named_modules():
        parts.append((name, type(child)))
        kept = vars(child)
        named = {key: value for key, value in child._parameters.items() if value is not None}
        parts += [(key, value.requires_grad, _shape(value)) for key, value in named.items()]
        parameters += named.values()
        if child is not module and not isinstance(child, Metric):  # a metric's attributes are its state
            parts += [
                (key, walk.token(value))
                for key, value in kept.items()
                if key not in OF_EVERY_MODULE and isinstance(value, str | int | float | tuple | list | None)
            ]
    return (parts, Same(parameters), walk.token(dict(module.hparams)))


def _shape(parameter: torch.Tensor) -> torch.Size | None:
    return parameter.shape if type(parameter) is torch.nn.Parameter or not is_lazy(parameter) else None


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
    replaced = {name: vars(owner)[name] for name in BATCH_HOOKS if name in vars(owner)}
    return [(name, walk.token(value)) for name, value in {**transforms_of(owner), **replaced}.items()]


def _loader_token(walk: TokenWalk, loader: Any) -> Token:
    if not isinstance(loader, DataLoader):
        return walk.token(loader)
    kept = vars(loader)
    own = [] if type(loader) is DataLoader else [name for name in kept if name not in OF_EVERY_LOADER]
    return (type(loader), own, [walk.token(kept.get(name)) for name in (*_OF_A_LOADER, *own)])


def _randomness_token(trainer: LightningTrainer, module: LightningModule) -> Token:
    return (
        os.environ.get("PL_GLOBAL_SEED"),
        os.environ.get("PL_SEED_WORKERS"),
        seed_calls(),
        capture_flags(Gaps()),
    )


_TOKENS: dict[str, Callable[[LightningTrainer, LightningModule], Token]] = {
    "model": _model_token,
    "optimizers": optimizers_token,
    # Their states are different after each step.
    "schedulers": lambda trainer, module: _CHANGED if trainer.lr_scheduler_configs else (),
    "data": _data_token,
    "randomness": _randomness_token,
    "trainer": trainer_token,
}
