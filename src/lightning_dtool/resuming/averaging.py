"""StochasticWeightAveraging, which saves a function, and installs its scheduler only when an epoch begins."""

from typing import Any

from lightning.pytorch.callbacks import StochasticWeightAveraging


def remove_functions(checkpoint: dict[str, Any]) -> None:
    """Remove a function from SWALR's state, which a safe load refuses. Later releases of torch leave it out too.

    Args:
        checkpoint: The checkpoint that is about to be saved; changed in place.
    """
    callbacks = [state for state in checkpoint.get("callbacks", {}).values() if isinstance(state, dict)]
    for state in [*checkpoint.get("lr_schedulers", []), *(state.get("scheduler_state") for state in callbacks)]:
        if isinstance(state, dict) and callable(state.get("anneal_func")):
            del state["anneal_func"]


def begin_averaging(trainer: Any) -> None:
    """Let StochasticWeightAveraging install its scheduler, which it does only when an epoch begins.

    Args:
        trainer: The Trainer that resumes inside an epoch.
    """
    for callback in trainer.callbacks:
        if not isinstance(callback, StochasticWeightAveraging) or callback._initialized:
            continue
        if callback.swa_start <= trainer.current_epoch <= callback.swa_end:
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
            callback.on_train_epoch_start(trainer, trainer.lightning_module)
            for group, option in zip(groups, options, strict=True):
                group.update(option)  # creating a scheduler sets the learning rates
