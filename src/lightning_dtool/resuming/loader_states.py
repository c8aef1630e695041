"""The positions of training loaders inside an epoch, which Lightning does not always restore."""

from collections.abc import Sequence
from typing import Any

from lightning_dtool.data.loaders import StatefulDataLoader


def repeat_last_batch(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Change the states of loaders so that they repeat the batch that was not finished.

    Args:
        trainer: The Trainer that saves.
        checkpoint: The checkpoint; changed in place.
    """
    states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    for loader, state in zip(trainer.fit_loop._combined_loader.flattened, states, strict=False):
        if isinstance(loader, StatefulDataLoader) and loader.last_batch_started:
            state.update(loader.state_before_last_batch())


def restore_between_epochs(fit_loop: Any, states: Sequence[Any]) -> None:
    """Restore the loaders of DtoolDataModule between epochs. Lightning does so only inside an epoch.

    Args:
        fit_loop: The fit loop that resumes.
        states: The states in the checkpoint.
    """
    for loader, state in zip(fit_loop._combined_loader.flattened, states, strict=False):
        if isinstance(loader, StatefulDataLoader):
            loader.load_state_dict(state)


def restore_inside_epoch(fit_loop: Any) -> None:
    """Restore the loaders that were created before Lightning restored its loops, and begin their iteration again.

    Lightning restores the states of loaders only when it creates loaders afterwards. `configure_optimizers` that asks
    for `trainer.estimated_stepping_batches`, and searches of the tuner, create them before.

    Args:
        fit_loop: The fit loop that resumes.
    """
    states, fit_loop._combined_loader_states_to_load = fit_loop._combined_loader_states_to_load, []
    if states and fit_loop._combined_loader is not None:
        fit_loop._combined_loader._load_state_dicts(states)
        iter(fit_loop._data_fetcher)


def set_loaded_epochs(fit_loop: Any) -> None:
    """Set the samplers of the loaders to the epochs that they had in the run that saved.

    After a search of the tuner within an epoch, Lightning creates the loaders again, and does not set the epoch of the
    new samplers. In a run that resumes, it does.

    Args:
        fit_loop: The fit loop that resumes inside an epoch.
    """
    for loader in fit_loop._combined_loader.flattened:
        if isinstance(loader, StatefulDataLoader):
            loader.set_loaded_epoch()
