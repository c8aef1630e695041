"""The guard of checkpoint files that are links to datasets, for Trainers without this package's callback.

Lightning writes a checkpoint to the folder of temporary files and moves it to its path. If that folder lies on another
file system, moving is copying, and what is copied to a link overwrites the file behind it: the item of a frozen
dataset. This module is imported whenever a Trainer is created, so it imports only the standard library.
"""

import functools
import os
import stat
import sys
import types
from pathlib import Path
from typing import Any

_MODULES = ("lightning.fabric.plugins.io.torch_io", "lightning_fabric.plugins.io.torch_io")
"""The modules of `TorchCheckpointIO` in Lightning's two distributions."""

_GUARDED = "lightning_dtool_guarded"
"""An attribute of methods that are guarded already."""

_LOCAL = ("file", "local")
"""The schemes of addresses that Lightning writes as local files."""


def install() -> None:
    """Guard the `save_checkpoint` of Lightning's `TorchCheckpointIO`, where it is loaded. Later calls change nothing.

    Saves to a path that is no link into a dataset are not changed.
    """
    for name in _MODULES:
        plugin = getattr(sys.modules.get(name), "TorchCheckpointIO", None)
        original = vars(plugin).get("save_checkpoint") if isinstance(plugin, type) else None
        # Not the substitute that a test has put there for a while: it is called as it is, or not at all.
        if isinstance(original, types.FunctionType) and not hasattr(original, _GUARDED):
            setattr(plugin, "save_checkpoint", _guarded(original))  # noqa: B010


def _guarded(original: Any) -> Any:
    @functools.wraps(original)
    def save_checkpoint(self: Any, checkpoint: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        place = linked(path)
        if place is None:
            return original(self, checkpoint, path, *args, **kwargs)
        from lightning_dtool.store.temporaries import temporary_beside  # takes time to import, and is rarely needed

        temporary = temporary_beside(place)
        try:
            result = original(self, checkpoint, str(temporary), *args, **kwargs)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        return result

    setattr(save_checkpoint, _GUARDED, True)
    return save_checkpoint


def linked(path: str | os.PathLike[str]) -> Path | None:
    """Return the path if what is written there would be written to a file that has other names.

    These are hard links, symbolic links to hard links, and symbolic links into a dataset, also into one that was
    deleted. A symbolic link that the user has made to another place for a checkpoint is left to Lightning.

    Args:
        path: A path, which need not exist, or an address. Remote addresses have no links.
    """
    scheme, separator, rest = os.fspath(path).partition("://")
    if separator and scheme not in _LOCAL:
        return None
    place = Path(os.path.expanduser(rest if separator else scheme))
    try:
        is_link = stat.S_ISLNK(place.lstat().st_mode)
    except OSError:  # nothing is there
        return None
    target = Path(os.path.realpath(place))
    try:
        status = target.stat()
    except OSError:
        return place if is_link and (not target.parent.is_dir() or _is_in_dataset(target)) else None
    if not stat.S_ISREG(status.st_mode):  # a folder: a sharded checkpoint
        return None
    return place if status.st_nlink > 1 or (is_link and _is_in_dataset(target)) else None


def _is_in_dataset(target: Path) -> bool:
    return any(folder.name == "data" and (folder.parent / ".dtool").is_dir() for folder in target.parents)
