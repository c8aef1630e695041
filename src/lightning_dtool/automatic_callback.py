"""The callback that records Trainers whose scripts did not ask for it, and never ends a script."""

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_dtool import rerun
from lightning_dtool.callback import DtoolProvenanceCallback
from lightning_dtool.checkpoint_io import DtoolCheckpointIO
from lightning_dtool.errors import ProvenanceWarning


class AutomaticProvenanceCallback(DtoolProvenanceCallback):
    """The `DtoolProvenanceCallback` that `lightning_dtool.attach` adds to every Trainer.

    Nobody asked for it in the script. Therefore its errors become warnings, and the script continues.
    """

    _explicit = False

    @property
    def state_key(self) -> str:
        """A key that differs from that of the base class, because Lightning does not allow two equal keys."""
        return "AutomaticProvenanceCallback"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove this callback if the user has added one, or if the run cannot be recorded. Otherwise set it up."""
        present = trainer.strategy.checkpoint_io
        if isinstance(present, DtoolCheckpointIO):
            self.base_uri = present.base_uri  # the user's plugin decides where the datasets go
        if any(isinstance(found, DtoolProvenanceCallback) and found is not self for found in trainer.callbacks):  # type: ignore[attr-defined]
            self._remove(trainer)
            return
        try:
            super().setup(trainer, pl_module, stage)
        except Exception as error:
            if rerun.current_plan() is not None:  # the parent process reports it
                raise
            self._remove(trainer)
            if trainer.is_global_zero:
                _warn_only(f"This run is not recorded. {error}")

    @property
    def _how_to_publish(self) -> str:
        return (
            "Add a ModelCheckpoint, or set LIGHTNING_DTOOL_FINAL=1 to publish a checkpoint at the end of training. "
            "What the script saves with trainer.save_checkpoint is published, too."
        )

    def _note(self, hook: str, error: Exception) -> None:
        """Add an error to the record as a gap, and warn once."""
        gaps = self._hook_gaps.at(f"run.{hook}")
        if not any(gap.fact == f"run.{hook}" for gap in self._hook_gaps):
            gaps.add_error(error)
            _warn_only(f"This run is not recorded in full. {type(error).__name__} in {hook}: {error}")

    def _remove(self, trainer: Trainer) -> None:
        # A new list: Lightning is iterating over the present one.
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [found for found in callbacks if found is not self]  # type: ignore[attr-defined]


def _warn_only(message: str) -> None:
    """Warn, also where warnings are errors."""
    with contextlib.suppress(ProvenanceWarning):
        warnings.warn(message, ProvenanceWarning, stacklevel=3)


def _survived(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a hook of the callback that notes an error and does not raise it."""

    @functools.wraps(hook)
    def survived(self: AutomaticProvenanceCallback, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            if rerun.current_plan() is not None:  # a rerun ends with an exception, and its parent reports errors
                raise
            self._note(hook.__name__, error)

    return survived


for _name, _hook in list(vars(DtoolProvenanceCallback).items()):
    if _name.startswith("on_") or _name == "teardown":
        setattr(AutomaticProvenanceCallback, _name, _survived(_hook))
