"""The entry points: every training is recorded if `LIGHTNING_DTOOL_BASE_URI` is set, and none overwrites a dataset.

Lightning calls the entry points of `lightning.pytorch.callbacks_factory` whenever a Trainer is created, and those of
`lightning.fabric.callbacks_factory` for a Fabric. torch calls those of `torch.backends` when it has been imported.
Without the variable, nothing is recorded, and they install only the guard of links into datasets. An error never ends
the script, which did not ask for a record.
"""

import contextlib
import os
import warnings
from typing import Any

from lightning_dtool import guard

BASE_URI_VARIABLE = "LIGHTNING_DTOOL_BASE_URI"
RETENTION_VARIABLE = "LIGHTNING_DTOOL_RETENTION"
SAVE_INITIAL_WEIGHTS_VARIABLE = "LIGHTNING_DTOOL_SAVE_INITIAL_WEIGHTS"
FINAL_VARIABLE = "LIGHTNING_DTOOL_FINAL"

_FLAGS = {"": False, "0": False, "false": False, "no": False, "off": False}
_FLAGS |= {"1": True, "true": True, "yes": True, "on": True}


def callbacks() -> list[Any]:
    """Return the callbacks to add to a Trainer: one if the variable is set, otherwise none.

    From now on, saves to a link into a dataset replace the link, whether or not the Trainer is recorded. If a variable
    has an invalid value, there is a warning, and the Trainer is not recorded.
    """
    no_callbacks()
    base_uri = os.environ.get(BASE_URI_VARIABLE)
    if not base_uri:
        return []
    try:
        from lightning_dtool.automatic_callback import AutomaticProvenanceCallback

        retention: Any = os.environ.get(RETENTION_VARIABLE) or "mirror"
        return [
            AutomaticProvenanceCallback(
                base_uri,
                retention,
                save_initial_weights=_flag(SAVE_INITIAL_WEIGHTS_VARIABLE),
                final=_flag(FINAL_VARIABLE),
            )
        ]
    except Exception as error:
        from lightning_dtool.errors import ProvenanceWarning

        message = f"This Trainer is not recorded, because of the environment variables LIGHTNING_DTOOL_*. {error}"
        with contextlib.suppress(ProvenanceWarning):  # where warnings are errors
            warnings.warn(message, ProvenanceWarning, stacklevel=2)
        return []


def no_callbacks() -> list[Any]:
    """Return no callbacks, for what is never recorded: a Fabric, and the Trainer of `pytorch_lightning`.

    Their saves to a link into a dataset replace the link from now on.
    """
    with contextlib.suppress(Exception):  # a later version of Lightning may differ
        guard.install()
    return []


def _flag(variable: str) -> bool:
    value = os.environ.get(variable, "").strip().lower()
    if value not in _FLAGS:
        from lightning_dtool.errors import ConfigurationError

        raise ConfigurationError(f"{variable}={value!r}: expected 1 or 0.")
    return _FLAGS[value]


def watch() -> None:
    """Begin to observe how models are made and where their weights come from."""
    if os.environ.get(BASE_URI_VARIABLE):
        from lightning_dtool import watch as room

        # An error here would make `import torch` fail.
        with contextlib.suppress(Exception):
            room.install()
