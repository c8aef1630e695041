"""What happens before a run begins: how modules are made, what files and variables are read, and which seeds are set.

A Trainer's callbacks learn nothing of this, so this package observes torch itself, from the import of the callback on.
With `LIGHTNING_DTOOL_BASE_URI` set, it observes from the import of torch on (see `lightning_dtool.attach`). Nothing
here may import Lightning: it may not be loaded yet.
"""

from lightning_dtool.watch import construction, files, replaced, seeds, variables

_installed = False


def install() -> None:
    """Begin to observe. Later calls only add what has been imported since."""
    global _installed
    seeds.install()
    if _installed:
        return
    _installed = True
    construction.install()
    files.install()
    replaced.install()
    variables.install()


def is_installed() -> bool:
    """Return True if this process is observed."""
    return _installed
