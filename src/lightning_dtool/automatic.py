"""The callback that attaches itself: it steps back wherever a script, which knows nothing of it, would suffer."""

import warnings

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_dtool.callback import DtoolProvenanceCallback, _fits
from lightning_dtool.checkpoint_io import DtoolCheckpointIO
from lightning_dtool.errors import ProvenanceWarning, UnsupportedStrategyError


class AutomaticProvenanceCallback(DtoolProvenanceCallback):
    """A `DtoolProvenanceCallback` that no script has asked for; see `lightning_dtool.attach`."""

    @property
    def state_key(self) -> str:
        """A key of its own: two callbacks with one key are an error in Lightning."""
        return "AutomaticProvenanceCallback"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Step back for a callback that the user has added, and for a run that cannot be recorded."""
        present = trainer.strategy.checkpoint_io
        if isinstance(present, DtoolCheckpointIO):
            self.base_uri = present.base_uri  # the user's plug-in says where; this callback knows more to say
        if any(isinstance(found, DtoolProvenanceCallback) and found is not self for found in _callbacks(trainer)):
            self._step_back(trainer)
            return
        try:
            super().setup(trainer, pl_module, stage)
        except UnsupportedStrategyError as error:
            warnings.warn(f"Nothing is recorded of this run. {error}", ProvenanceWarning, stacklevel=2)
            self._step_back(trainer)

    def _count_fit(self) -> int:
        """Return which fit of this process it is, counted over all callbacks."""
        number = _fits["all"]
        _fits["all"] += 1
        return number

    def _step_back(self, trainer: Trainer) -> None:
        # Another list: Lightning is walking through this one.
        trainer.callbacks = [found for found in _callbacks(trainer) if found is not self]  # type: ignore[attr-defined]


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]
