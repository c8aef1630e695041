"""How was the training loop set up?"""

from typing import Any

from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dtool.capture.values import class_path, encode
from lightning_dtool.record import Component, Gap, Monitor, Trainer

_SETTINGS = (
    "max_epochs",
    "min_epochs",
    "max_steps",
    "min_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "reload_dataloaders_every_n_epochs",
    "num_devices",
    "num_nodes",
    "world_size",
    "precision",
)


def capture_trainer(trainer: LightningTrainer, gaps: list[Gap]) -> Trainer:
    """Return the Trainer's settings that change the result."""
    settings: dict[str, Any] = {
        name: encode(getattr(trainer, name, None), f"trainer.settings.{name}", gaps) for name in _SETTINGS
    }
    settings["strategy"] = class_path(type(trainer.strategy))
    settings["accelerator"] = class_path(type(trainer.accelerator))
    callbacks = [Component(class_path=class_path(type(callback))) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return Trainer(settings=settings, callbacks=callbacks)


def capture_monitors(trainer: LightningTrainer, gaps: list[Gap]) -> list[Monitor]:
    """Return what the Trainer's ModelCheckpoint callbacks watch, with the present values."""
    return [
        Monitor(
            name=callback.monitor,
            mode=callback.mode,
            value=_scalar(
                trainer.callback_metrics.get(callback.monitor), f"checkpoint.monitors.{callback.monitor}", gaps
            ),
        )
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    ]


def capture_metrics(trainer: LightningTrainer, gaps: list[Gap]) -> dict[str, Any]:
    """Return every logged metric's latest value."""
    return {
        name: _scalar(value, f"metrics.at_checkpoint.{name}", gaps) for name, value in trainer.callback_metrics.items()
    }


def _scalar(value: Any, where: str, gaps: list[Gap]) -> Any:
    """Return a logged metric as a number; one that is not finite as its name."""
    if value is None:
        return None
    number = float(value)
    return encode(number, where, gaps) if number == number and abs(number) != float("inf") else str(number)
