"""What happens before a run begins: how LightningModules are made, and which files weights are loaded from.

A Trainer's callbacks learn neither, so this package observes torch itself, from the import of the callback on. With
`LIGHTNING_DTOOL_BASE_URI` set, it observes from the import of torch on (see `lightning_dtool.attach`). Nothing here may
import Lightning: it may not be loaded yet.
"""

from lightning_dtool.watch import construction, files, replaced

_installed = False


def install() -> None:
    """Begin to observe. Later calls do nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    construction.install()
    files.install()
    replaced.install()


def is_installed() -> bool:
    """Return True if this process is observed."""
    return _installed
