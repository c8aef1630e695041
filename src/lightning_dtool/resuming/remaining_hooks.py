"""The hooks that were left to run when a checkpoint was saved, and that a resumed run calls before it goes on.

A callback saves in its own hook. The same hook of later callbacks and of the LightningModule runs after it, and what
it does, such as moving a target network, is not in the checkpoint.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.model_helpers import is_overridden as module_overrides

from lightning_dtool.resuming.bytecode import calls, uses_argument
from lightning_dtool.resuming.moment import Moment
from lightning_dtool.resuming.running_hook import MODULE, Hook, is_overridden, left, present_hook

BATCH_LIMIT = 64 * 2**20
"""The maximum size of a batch, and of the outputs of its step, that is saved for a hook; in bytes."""

_HOOKS = {
    Moment.BATCH_END: "on_train_batch_end",
    Moment.VALIDATION_END: "on_validation_end",
    Moment.EPOCH_END: "on_train_epoch_end",
}
"""The hook in which Lightning's own callbacks save, for each moment at which hooks are left."""

_TRAINING = (
    "BaseFinetuning", "EarlyStopping", "LambdaCallback", "ModelPruning", "StochasticWeightAveraging", "WeightAveraging",
)  # fmt: skip
"""Lightning's callbacks that change training. The others show, log or save."""

_ARGUMENTS = ("outputs", "batch", "batch_idx")


@dataclass(frozen=True)
class Remaining:
    """The hooks that are left.

    Attributes:
        hook: The hook's name.
        owners: The callbacks, and `MODULE`, whose hook is left, in order.
        arguments: What they need of the hook's arguments, as tensors and plain values. None for those they do not use.
        first_batch: Whether the batch is the first of its epoch, which decides whether logged values are reset.
        batch_size: The size of the batch, by which logged values are weighted.
    """

    hook: str
    owners: list[Any]
    arguments: list[Any]
    first_batch: bool | None
    batch_size: int | None

    def saved(self) -> dict[str, Any]:
        """Return the hooks as tensors and plain values."""
        owners = [MODULE if owner is MODULE else _identity(owner) for owner in self.owners]
        return {**vars(self), "owners": owners}


def remaining(trainer: Any, moment: Moment, exception: BaseException | None) -> tuple[Remaining | None, list[str]]:
    """Return the hooks that are left at a save, and the reasons why a resumed run cannot call them as this one does.

    Args:
        trainer: The Trainer that saves a checkpoint.
        moment: The moment of the save.
        exception: The exception that ended the run.
    """
    hook = present_hook(trainer, exception)
    expected = _HOOKS.get(moment)
    if moment is Moment.BETWEEN_EPOCHS and hook is not None and hook.name == "on_train_start":
        expected = "on_train_start"
    if hook is not None and hook.name == "on_train_end" and hook.owner is MODULE:
        name = _name(trainer, MODULE)
        return None, [f"{name} saved the checkpoint in its own on_train_end, which a longer training omits"]
    if expected is None:
        return None, []
    if hook is None or hook.name != expected:
        where = f"in {hook.name}" if hook is not None else f"before or after {expected}"
        return None, [f"the checkpoint was saved {where}, and hooks that were left to run are not known"]
    reasons = []
    if not hook.finished:
        reasons.append(f"{_name(trainer, hook.owner)} saved the checkpoint in {hook.name} and did more after it")
    owners = [owner for owner in left(trainer, hook) if _works(trainer, owner, hook.name)]
    if not owners:
        return None, reasons
    owners, arguments, unknown = _arguments(trainer, hook, owners)
    reasons += unknown
    if not owners:
        return None, reasons
    size = _batch_size(trainer, [function for function, _ in _functions(trainer, owners, hook.name)])
    return Remaining(hook.name, owners, arguments, trainer._logger_connector._first_loop_iter, size), reasons


def run_remaining(trainer: Any, saved: dict[str, Any]) -> list[str]:
    """Call the hooks that were left, in a resumed run whose state is that of the save.

    Args:
        trainer: The Trainer.
        saved: What `Remaining.saved` returned.

    Returns:
        The reasons why some could not be called.
    """
    owners, reasons = _present(trainer, saved["hook"], saved["owners"])
    device = trainer.lightning_module.device
    arguments = [_decoded(value, device) for value in saved["arguments"]]

    def run() -> None:
        for owner in owners:
            _call(trainer, saved["hook"], owner, arguments)

    around: dict[str, Callable[[Any, dict[str, Any], Callable[[], None]], None]] = {
        "on_train_batch_end": _at_batch_end,
        "on_validation_end": _at_validation_end,
        "on_train_epoch_end": _at_epoch_end,
    }
    if saved["hook"] in around:
        around[saved["hook"]](trainer, saved, run)
    else:
        run()
    return reasons


# -- at the save ------------------------------------------------------------------------------------


def _works(trainer: Any, owner: Any, hook: str) -> bool:
    if owner is MODULE:
        return bool(module_overrides(hook, trainer.lightning_module))
    known = type(owner).__module__.partition(".")[0] in ("lightning", "lightning_dtool")
    changes = any(base.__name__ in _TRAINING for base in type(owner).__mro__)
    # What was saved at this moment is not saved again.
    return is_overridden(owner, hook) and not isinstance(owner, Checkpoint) and (not known or changes)


def _name(trainer: Any, owner: Any) -> str:
    return type(trainer.lightning_module if owner is MODULE or owner is None else owner).__name__


def _functions(trainer: Any, owners: list[Any], hook: str) -> list[tuple[Any, int]]:
    """Return the hooks, and how many arguments come before those of `_ARGUMENTS`."""
    module = trainer.lightning_module
    return [(getattr(module, hook), 0) if owner is MODULE else (getattr(owner, hook), 2) for owner in owners]


def _arguments(trainer: Any, hook: Hook, owners: list[Any]) -> tuple[list[Any], list[Any], list[str]]:
    """Return the owners that can be called again, their arguments, and the reasons for the owners that cannot."""
    values: list[Any] = []
    reasons: list[str] = []
    size = [0]
    for index, (name, value) in enumerate(zip(_ARGUMENTS, hook.arguments, strict=False)):
        functions = _functions(trainer, owners, hook.name)
        users = [
            owner
            for owner, (function, before) in zip(owners, functions, strict=True)
            if uses_argument(function, index + before)
        ]
        values.append(None)
        try:
            values[-1] = _encoded(value, size) if users else None
        except _NotPlainError as error:
            names = ", ".join(_name(trainer, owner) for owner in users)
            reasons.append(
                f"{hook.name} of {names} runs after the save, and {name} cannot be saved for it, because {error}"
            )
            owners = [owner for owner in owners if not any(owner is user for user in users)]
    return owners, values, reasons


def _batch_size(trainer: Any, functions: list[Any]) -> int | None:
    """Return the size of the batch if hooks that are left may log values, which are weighted by it."""
    results = trainer._results
    if (
        results.batch_size is None
        and results.batch is not None
        and any(calls(each, "log", "log_dict") for each in functions)
    ):
        with contextlib.suppress(MisconfigurationException), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning guesses the size, and warns when the hook itself logs
            return extract_batch_size(results.batch)
    size: int | None = results.batch_size
    return size


class _NotPlainError(Exception):
    """Says why a value is not saved."""


def _encoded(value: Any, size: list[int]) -> Any:
    """Return a value as tagged tensors and plain values. The size counts the bytes of tensors so far."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or kind not in (torch.Tensor, torch.nn.Parameter):
            raise _NotPlainError(f"it contains a {kind.__name__} with the layout {value.layout}")
        size[0] += value.nbytes
        if size[0] > BATCH_LIMIT:
            raise _NotPlainError(f"it has more than {BATCH_LIMIT >> 20} MiB")
        return ["tensor", value.detach().cpu().clone(), value.device.type != "cpu"]
    if kind in (list, tuple):
        return [kind.__name__, [_encoded(item, size) for item in value]]
    if kind is dict:
        return ["dict", [[_encoded(key, size), _encoded(item, size)] for key, item in value.items()]]
    if kind in (int, float, bool, str, type(None)):
        return ["value", value]
    raise _NotPlainError(f"it contains a {kind.__name__}")


# -- at the resume ----------------------------------------------------------------------------------


def _decoded(encoded: Any, device: torch.device) -> Any:
    if encoded is None:
        return None
    kind, value = encoded[0], encoded[1]
    if kind == "tensor":
        return move_data_to_device(value, device) if encoded[2] else value.clone()
    if kind in ("list", "tuple"):
        items = [_decoded(item, device) for item in value]
        return tuple(items) if kind == "tuple" else items
    if kind == "dict":
        return {_decoded(key, device): _decoded(item, device) for key, item in value}
    return value


def _identity(callback: Any) -> list[str]:
    return [f"{type(callback).__module__}.{type(callback).__qualname__}", str(callback.state_key)]


def _present(trainer: Any, hook: str, identities: list[Any]) -> tuple[list[Any], list[str]]:
    """Return the callbacks of this run that were left, and the reasons for those that it does not have."""
    callbacks, owners, reasons = list(trainer.callbacks), [], []
    for identity in identities:
        if identity == MODULE:
            owners.append(MODULE)
            continue
        found = next((callback for callback in callbacks if _identity(callback) == list(identity)), None)
        if found is None:
            reasons.append(f"{hook} of {identity[0]} was left to run, and this run has no such callback")
        else:
            callbacks.remove(found)
            owners.append(found)
    return owners, reasons


def _call(trainer: Any, hook: str, owner: Any, arguments: list[Any]) -> None:
    if owner is MODULE:
        call._call_lightning_module_hook(trainer, hook, *arguments)
        return
    module: LightningModule = trainer.lightning_module
    before, module._current_fx_name = module._current_fx_name, hook
    getattr(owner, hook)(trainer, module, *arguments)
    module._current_fx_name = before


def _at_batch_end(trainer: Any, saved: dict[str, Any], run: Callable[[], None]) -> None:
    connector = trainer._logger_connector
    connector._first_loop_iter = saved["first_batch"]
    trainer._results.batch_size = saved["batch_size"]
    with _not_completed(trainer.fit_loop.epoch_loop.batch_progress):
        run()
        connector.on_batch_end()
    connector._first_loop_iter = True  # the next batch is not the first


def _at_validation_end(trainer: Any, saved: dict[str, Any], run: Callable[[], None]) -> None:
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop.val_loop
    first, connector._first_loop_iter = connector._first_loop_iter, None
    trainer.validating = True
    loop._on_evaluation_model_eval()
    with torch.inference_mode() if loop.inference_mode else torch.no_grad():
        run()
    connector.reset_results()
    loop._on_evaluation_model_train()
    trainer.training = True
    connector._first_loop_iter = first


def _at_epoch_end(trainer: Any, saved: dict[str, Any], run: Callable[[], None]) -> None:
    connector = trainer._logger_connector
    connector.epoch_end_reached()
    with _not_completed(trainer.fit_loop.epoch_progress):
        run()
        connector.on_epoch_end()
    connector.reset_results()


@contextlib.contextmanager
def _not_completed(progress: Any) -> Iterator[None]:
    """Count the last batch or epoch as not completed, as at the save."""
    for counts in (progress.total, progress.current):
        counts.completed -= 1
    try:
        yield
    finally:
        for counts in (progress.total, progress.current):
            counts.completed += 1
