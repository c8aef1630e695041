"""The entry points that record every training if `LIGHTNING_DTOOL_BASE_URI` is set.

Lightning calls the entry points of `lightning.pytorch.callbacks_factory` whenever a Trainer is created. torch calls
those of `torch.backends` when it has been imported. Without the variable, each reads one environment variable and does
nothing else.
"""

import contextlib
import os
from typing import Any

BASE_URI_VARIABLE = "LIGHTNING_DTOOL_BASE_URI"
RETENTION_VARIABLE = "LIGHTNING_DTOOL_RETENTION"
SAVE_INITIAL_WEIGHTS_VARIABLE = "LIGHTNING_DTOOL_SAVE_INITIAL_WEIGHTS"


def callbacks() -> list[Any]:
    """Return the callbacks to add to a Trainer: one if the variable is set, otherwise none."""
    base_uri = os.environ.get(BASE_URI_VARIABLE)
    if not base_uri:
        return []
    from lightning_dtool.callback import AutomaticProvenanceCallback

    # The callback refuses a misspelt retention.
    retention: Any = os.environ.get(RETENTION_VARIABLE) or "mirror"
    save_initial_weights = os.environ.get(SAVE_INITIAL_WEIGHTS_VARIABLE, "") not in ("", "0")
    return [AutomaticProvenanceCallback(base_uri, retention, save_initial_weights=save_initial_weights)]


def watch() -> None:
    """Begin to observe how models are made and where their weights come from."""
    if os.environ.get(BASE_URI_VARIABLE):
        from lightning_dtool import watch as room

        # An error here would make `import torch` fail.
        with contextlib.suppress(Exception):
            room.install()
