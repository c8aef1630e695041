"""The recorded fit among those of several processes, told by its arguments.

The fits of one process are told by their number. A pool of processes shares out the fits of a sweep as processes become
free, so the number of a fit in its process says nothing.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_dtool.capture.arguments import capture_arguments
from lightning_dtool.record import Gaps


def has_arguments(module: Any, recorded: Mapping[str, Any] | None) -> bool:
    """Return whether a LightningModule was made with the recorded arguments.

    Absolute paths are compared by their last part, because a rerun has other folders.

    Args:
        module: The LightningModule.
        recorded: The recorded arguments. None if they are not known, which every module matches.
    """
    if recorded is None:
        return True
    found = capture_arguments(module, Gaps(), "load_module")
    return found is not None and _comparable(found) == _comparable(recorded)


def claim(scratch: str) -> bool:
    """Claim for this process that its fit is the recorded one. Return False if another process has claimed it.

    Args:
        scratch: The scratch folder of the rerun.
    """
    try:
        os.close(os.open(Path(scratch) / "claimed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _comparable(value: Any) -> str:
    return json.dumps(_without_folders(value), sort_keys=True)


def _without_folders(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("/"):
        return os.path.basename(value)
    if isinstance(value, Mapping):
        return {str(key): _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    return value
