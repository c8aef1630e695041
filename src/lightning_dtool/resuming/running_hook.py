"""The hook in which a checkpoint is saved, and the work of it that is left."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.trainer import call

from lightning_dtool.resuming.bytecode import nothing_left, raises_at

MODULE = "module"
"""Stands for the LightningModule among the callbacks of a hook."""

_CALLBACKS = call._call_callback_hooks.__code__
_MODULE = call._call_lightning_module_hook.__code__
_OTHER = (call._call_strategy_hook.__code__, call._call_lightning_datamodule_hook.__code__)
_OWN = ("lightning", "lightning_utilities", "lightning_dtool", "contextlib")
"""Packages whose functions do nothing for training after they have saved a checkpoint."""


@dataclass(frozen=True)
class Hook:
    """The hook in which a checkpoint is saved.

    Attributes:
        name: The hook's name.
        owner: The callback whose hook runs, `MODULE`, or None if the hook is that of another object.
        arguments: The arguments of the hook, without the Trainer and the LightningModule.
        finished: Whether the owner's own hook is known to do nothing more.
    """

    name: str
    owner: Any
    arguments: tuple[Any, ...]
    finished: bool


def present_hook(trainer: Any, exception: BaseException | None) -> Hook | None:
    """Return the hook in which a checkpoint is saved; None if it is saved outside of any.

    Lightning tells its hooks nothing about one another, so this reads the call stack. It takes no time in a step.

    Args:
        trainer: The Trainer.
        exception: The exception that ended the run. Its traceback says in which hook it was raised.
    """
    found = _innermost(trainer, _callers(sys._getframe(1)))
    if found is None or found.name != "on_exception" or exception is None:
        return found
    places = [*_traceback(exception.__traceback__)][::-1]
    raised = _innermost(trainer, [place.tb_frame for place in places])
    if raised is None:
        return None
    # A hook that raises on purpose has done its work. One in which an exception arose may have done half of it.
    own = places[:1] if len(places) > 1 and _is_hook(trainer, places[1].tb_frame) else []
    deliberate = any(raises_at(place.tb_frame.f_code, place.tb_lasti) for place in own)
    return Hook(raised.name, raised.owner, raised.arguments, deliberate)


def left(trainer: Any, hook: Hook) -> list[Any]:
    """Return the callbacks, and `MODULE`, whose turn comes after the owner of a hook, in Lightning's order.

    Args:
        trainer: The Trainer.
        hook: The hook.
    """
    order: list[Any] = [*trainer.callbacks, MODULE]
    if hook.name == "on_train_epoch_end":  # in this one, callbacks that monitor a metric come last
        monitoring = [each for each in trainer.callbacks if isinstance(each, EarlyStopping | Checkpoint)]
        order = [*(each for each in trainer.callbacks if each not in monitoring), MODULE, *monitoring]
    places = [index for index, each in enumerate(order) if each is hook.owner]
    return order[places[0] + 1 :] if places else []


def is_overridden(callback: Callback, hook: str) -> bool:
    """Return True if a callback does something in a hook.

    Args:
        callback: A callback.
        hook: The hook's name.
    """
    return hook in vars(callback) or getattr(type(callback), hook, None) is not getattr(Callback, hook)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _traceback(place: TracebackType | None) -> Iterator[TracebackType]:
    while place is not None:
        yield place
        place = place.tb_next


def _is_hook(trainer: Any, frame: FrameType) -> bool:
    return frame.f_code in (_CALLBACKS, _MODULE, *_OTHER) and frame.f_locals.get("trainer") is trainer


def _innermost(trainer: Any, frames: Iterable[FrameType]) -> Hook | None:
    finished = True
    for frame in frames:
        if _is_hook(trainer, frame):
            values = frame.f_locals
            owner = values.get("callback") if frame.f_code is _CALLBACKS else None
            if frame.f_code is _MODULE:
                owner = MODULE
            return Hook(values["hook_name"], owner, tuple(values["args"]), finished)
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        finished = finished and (package in _OWN or nothing_left(frame))
    return None
