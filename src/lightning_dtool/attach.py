"""Zero lines: with `LIGHTNING_DTOOL_BASE_URI` set, the callback attaches itself to every Trainer.

Lightning asks for callbacks through the entry point `lightning.pytorch.callbacks_factory` whenever a Trainer is made.
Without the variable this costs reading one environment variable, and nothing else happens.
"""

import os
from typing import Any

BASE_URI_VARIABLE = "LIGHTNING_DTOOL_BASE_URI"
RETENTION_VARIABLE = "LIGHTNING_DTOOL_RETENTION"
SAVE_INITIAL_WEIGHTS_VARIABLE = "LIGHTNING_DTOOL_SAVE_INITIAL_WEIGHTS"


def callbacks() -> list[Any]:
    """Return the callbacks that every Trainer gets: one if the variable is set, else none."""
    base_uri = os.environ.get(BASE_URI_VARIABLE)
    if not base_uri:
        return []
    from lightning_dtool.callback import AutomaticProvenanceCallback

    # A misspelt retention is an error when the callback is made.
    retention: Any = os.environ.get(RETENTION_VARIABLE) or "mirror"
    save_initial_weights = os.environ.get(SAVE_INITIAL_WEIGHTS_VARIABLE, "") not in ("", "0")
    return [AutomaticProvenanceCallback(base_uri, retention, save_initial_weights=save_initial_weights)]
