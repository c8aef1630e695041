"""The status of a run, which is the annotation `run_status` of its checkpoint datasets."""

from lightning.pytorch.utilities.exceptions import SIGTERMException

RUNNING = "running"
"""Training has not ended, or its process was killed or lost power, so that nothing could be written."""

FINISHED = "finished"
"""Training ended as the script or a callback decided, for example by `max_epochs` or early stopping."""

INTERRUPTED = "interrupted"
"""Ctrl-C, SIGTERM, or an exit of the program without an error, such as `sys.exit(0)`, ended training."""

PRUNED = "pruned"
"""A hyperparameter search stopped the trial, with an exception such as Optuna's `TrialPruned`."""

FAILED = "failed"
"""Any other exception ended training."""


def status_after(exception: BaseException) -> str:
    """Return the status of a run that an exception has ended.

    Args:
        exception: The exception that left the Trainer.
    """
    if isinstance(exception, KeyboardInterrupt | SIGTERMException):
        return INTERRUPTED
    if isinstance(exception, SystemExit):
        return INTERRUPTED if exception.code in (None, 0) else FAILED
    # By name, as each library for hyperparameter search has a class of its own, and none of them is imported here.
    names = [kind.__name__ for kind in type(exception).__mro__]
    return PRUNED if any("Trial" in name and ("Prun" in name or "Stop" in name) for name in names) else FAILED
