"""What is left out of the plain state of a run, because it does not decide how training continues."""

import datetime
import dis
import functools
import inspect
import io
import logging
import sys
import types
import warnings
import weakref
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from lightning_dtool.values.definitions import names_used

_RESOURCES = frozenset(
    {
        "IPython", "_asyncio", "_io", "_ssl", "_thread", "aim", "asyncio", "av", "bokeh", "boto3", "botocore",
        "clearml", "comet_ml", "concurrent", "cv2", "decord", "dtoolcore", "dvclive", "fsspec", "h5py", "http", "io",
        "ipykernel", "jsonargparse", "lmdb", "logging", "matplotlib", "mlflow", "mmap", "neptune", "netCDF4", "pdb",
        "plotly", "queue", "rasterio", "redis", "requests", "rich", "s3fs", "select", "shutil", "socket", "soundfile",
        "sqlite3", "ssl", "subprocess", "swanlab", "tables", "tarfile", "tempfile", "tensorboard", "tensorboardX",
        "threading", "tqdm", "unittest", "urllib3", "wandb", "zarr", "zipfile", "zmq",
    }
)  # fmt: skip
"""Packages of files, connections, loggers, threads and progress bars."""

_RESOURCE_MODULES = (
    "lightning.pytorch.loggers", "lightning.fabric.loggers", "lightning.pytorch.profilers", "torch.utils.tensorboard",
    "torch.profiler", "torch.distributed", "torch.utils.data._utils", "torch._dynamo", "torch._C._profiler",
    "torch.cuda",
)  # fmt: skip

_RESOURCE_TYPES = (
    io.IOBase, logging.Logger, logging.Handler, np.memmap, weakref.ReferenceType, weakref.ProxyType,
    weakref.CallableProxyType, types.ModuleType, types.CodeType, types.FrameType, types.TracebackType, BaseException,
    datetime.tzinfo, property, classmethod, staticmethod,
    functools.cached_property, warnings.WarningMessage,
)  # fmt: skip

_OF_LIGHTNING = frozenset({"lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning"})

_OURS = "lightning_dtool"

_OF_A_MODULE = frozenset(
    {
        "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called",
        "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_is_full_backward_hook",
        "_load_state_dict_post_hooks", "_load_state_dict_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
        "_non_persistent_buffers_set", "_compiled_call_impl",
    }
)  # fmt: skip

_OF_A_LIGHTNING_MODULE = frozenset(
    {
        "_trainer", "_fabric", "_fabric_optimizers", "_current_fx_name", "_metric_attributes", "_device", "_dtype",
        "_device_mesh", "_compiler_ctx", "_param_requires_grad_state", "_jit_is_scripting", "_hparams_initial",
    }
)  # fmt: skip

_OF_A_LOADER = frozenset(
    {
        "_iterator", "_IterableDataset_len_called", "_DataLoader__initialized",
        "_DataLoader__multiprocessing_context",
    }
)  # fmt: skip

_OF_AN_OPTIMIZER = frozenset(
    {
        "step", "_opt_called", "_step_count", "_zero_grad_profile_name",
        "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_optimizer_state_dict_pre_hooks",
        "_optimizer_state_dict_post_hooks", "_optimizer_load_state_dict_pre_hooks",
        "_optimizer_load_state_dict_post_hooks", "_params", "_numel_cache",
    }
)  # fmt: skip
"""What torch keeps in every optimizer, or what schedulers replace to count its steps."""

_SAVED_BY_LIGHTNING = frozenset({"state", "param_groups"})
"""What Lightning saves of the optimizers that `configure_optimizers` returns."""

_BOOKKEEPING = frozenset({"__weakref__", "__dict__", "_item_cache", "_is_hf_initialized", "__orig_class__"})

_OUR_PARTS = frozenset(
    {
        "train_transform",
        "eval_transform",
        "transform",
        "target_transform",
        "collate_fn",
        "dataset",
        "datasets",
        "sampler",
        "batch_sampler",
        "decoder",
        "worker_init_fn",
    }
)
"""Attributes of this package's own objects that hold objects of the user."""

_PARTS_OF_A_SCHEDULER = frozenset({"anneal_func", "lr_lambdas", "optimizer", "_scale_fn_custom", "_schedulers"})
"""Attributes of schedulers that their `state_dict` leaves out, or holds only in part."""


@functools.lru_cache(maxsize=2000)
def is_left_out(kind: Any) -> bool:
    """Return whether objects of a class hold no state of a training: files, loggers, locks, clocks, Lightning's loops.

    Args:
        kind: The class.
    """
    if issubclass(kind, (pl.Trainer, *_RESOURCE_TYPES)):
        return True
    if issubclass(kind, pl.LightningModule | pl.LightningDataModule | pl.Callback):
        return False
    name = str(kind.__module__)
    package = name.partition(".")[0]
    if package in _RESOURCES or name.startswith(_RESOURCE_MODULES):
        return True
    if package == _OURS:
        return name.startswith((f"{_OURS}.store", f"{_OURS}.publishing", f"{_OURS}.capture", f"{_OURS}.rehearsal"))
    if package in _OF_LIGHTNING:
        # Containers of hyperparameters are the user's, and so is what a CombinedLoader holds.
        return not issubclass(kind, dict | pl.utilities.CombinedLoader)
    return False


@functools.lru_cache(maxsize=2000)
def is_ours(kind: Any) -> bool:
    """Return whether a class belongs to this package, which saves its own state.

    Args:
        kind: The class.
    """
    return str(kind.__module__).partition(".")[0] == _OURS


@functools.lru_cache(maxsize=2000)
def parts_of_managed(kind: Any) -> frozenset[str]:
    """Return the attributes of an object that saves its own state which hold objects of the user.

    Args:
        kind: The class of the object.
    """
    if is_ours(kind):
        return _OUR_PARTS
    return _PARTS_OF_A_SCHEDULER if issubclass(kind, LRScheduler) else frozenset()


@functools.lru_cache(maxsize=2000)
def managed_by_others(kind: Any) -> frozenset[str] | None:
    """Return the attributes of a class's objects that Lightning or torch manage; None if these are all of them.

    Args:
        kind: The class.
    """
    names = set(_BOOKKEEPING)
    if issubclass(kind, torch.nn.Module):
        names |= _OF_A_MODULE
    if issubclass(kind, Metric):
        names |= {"_computed", "_cache", "_is_synced", "_update_called", "_update_signature", "update", "compute"}
    if issubclass(kind, pl.LightningModule):
        names |= _OF_A_LIGHTNING_MODULE
    elif issubclass(kind, pl.LightningDataModule):
        names |= {"_trainer", "trainer"}
    elif issubclass(kind, torch.utils.data.DataLoader):
        names |= _OF_A_LOADER
    elif issubclass(kind, torch.optim.Optimizer):
        names |= _OF_AN_OPTIMIZER | _SAVED_BY_LIGHTNING
    elif issubclass(kind, LRScheduler):
        if str(kind.state_dict.__module__).startswith("torch."):  # it saves all attributes
            return None
    elif issubclass(kind, pl.Callback):
        for each in kind.__mro__:
            if str(each.__module__).partition(".")[0] in _OF_LIGHTNING and each is not pl.Callback:
                if each is kind and each is not pl.callbacks.LambdaCallback:  # which holds functions of the user
                    return None
                names |= _assigned(each)
    return frozenset(names)


def hooks_of(value: Any) -> dict[str, list[Any]]:
    """Return the functions that are registered with a module or an optimizer, which may keep state in their closures.

    Args:
        value: Any object.
    """
    if isinstance(value, torch.nn.Module):
        names = [name for name in _OF_A_MODULE if name.endswith("_hooks")]
    elif isinstance(value, torch.optim.Optimizer):
        names = [name for name in _OF_AN_OPTIMIZER if name.endswith("_hooks")]
    else:
        return {}
    return {name: list(vars(value)[name].values()) for name in sorted(names) if vars(value).get(name)}


def set_by_the_user(trainer: Any) -> dict[str, Any]:
    """Return the attributes of a Trainer that are not Lightning's own.

    Args:
        trainer: The Trainer.
    """
    own = _of_the_trainer()
    return {
        name: value
        for name, value in vars(trainer).items()
        if name not in own and not (name.startswith("_") and name in _named_in_loops())
    }


@functools.cache
def _of_the_trainer() -> frozenset[str]:
    """Return the names of the attributes of every Trainer, without some that its loops and connectors set."""
    arguments = inspect.signature(pl.Trainer.__init__).parameters
    return (
        _assigned(pl.Trainer) | arguments.keys() | {"datamodule", "state", "val_check_batch", "enable_autolog_hparams"}
    )


@functools.cache
def _named_in_loops() -> frozenset[str]:
    """Return the names of attributes in the code of Lightning's loops and of the parts of the Trainer."""
    package = pl.__name__
    names: set[str] = set()
    for path, module in list(sys.modules.items()):
        if path.startswith((f"{package}.trainer", f"{package}.loops")):
            for entry in list(vars(module).values()):
                for each in vars(entry).values() if isinstance(entry, type) else (entry,):
                    function = getattr(each, "fget", getattr(each, "__func__", each))
                    if isinstance(function, types.FunctionType):
                        names |= names_used(function.__code__)
    return frozenset(names)


@functools.lru_cache(maxsize=2000)
def _assigned(cls: type) -> frozenset[str]:
    """Return the names of the attributes that a class's methods assign."""
    names: set[str] = set()
    for entry in vars(cls).values():
        function = getattr(entry, "fget", entry)
        if isinstance(function, types.FunctionType):
            names |= {each.argval for each in dis.get_instructions(function) if each.opname == "STORE_ATTR"}
    return frozenset(names)


def managed_by_torch(kind: Any) -> frozenset[str]:
    """Return the attributes that torch manages in an optimizer or scheduler that Lightning does not save.

    Args:
        kind: The class of the optimizer or scheduler.
    """
    return _BOOKKEEPING | (_OF_AN_OPTIMIZER if issubclass(kind, torch.optim.Optimizer) else frozenset())


def is_made_by_reading(kind: type, name: str) -> bool:
    """Return whether an attribute is computed when it is first read.

    Args:
        kind: The class of the object.
        name: The attribute.
    """
    if name == "_hparams":  # `hparams` makes an empty one
        return issubclass(kind, pl.LightningModule | pl.LightningDataModule)
    return any(isinstance(vars(each).get(name), functools.cached_property) for each in kind.__mro__)
