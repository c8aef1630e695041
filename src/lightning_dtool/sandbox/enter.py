"""The program that gives up rights and then becomes another one: `enter.py LIMITS COMMAND…`.

It is started with `python -I -S`, so that no code but this runs before, and it has a single thread, as the kernel
requires.
"""

import errno
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from lightning_dtool.sandbox.protection import Limits

_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def main() -> NoReturn:
    """Enter the limits and run the command, or end."""
    from lightning_dtool.sandbox.protection import Limits

    limits = Limits.from_json(sys.argv[1])
    command = sys.argv[2:]
    try:
        files, network = _enter(limits)
        if limits.canary is not None and not _is_refused(limits.canary):
            raise OSError(f"{limits.canary} can be written in spite of it")
    except OSError as error:
        _report(limits, event="unprotected", reason=f"{limits.means}: {error}")
        sys.exit(1)
    _report(limits, event="protected", files=files, network=network)
    os.execvpe(command[0], command, os.environ)  # noqa: S606  # the command of the rerun


def _enter(limits: "Limits") -> tuple[list[str], list[str]]:
    """Give up the rights, and return the names of what protects the files and the network."""
    from lightning_dtool.sandbox import landlock, namespaces
    from lightning_dtool.sandbox.protection import devices

    if limits.means == "bubblewrap":
        return ["bubblewrap"], [] if limits.network else ["bubblewrap"]
    closed = not limits.network
    files, network = [], []
    for mounts, net in ((True, closed), (False, True), (True, False)):
        if (net and not closed) or not namespaces.allows(limits.folders, files=mounts, network=net):
            continue
        namespaces.enter(limits.folders, files=mounts, network=net)
        files += ["read-only mounts"] if mounts else []
        network += ["network namespace"] if net else []
        break
    connects = not (closed and limits.local_only and not network)
    if files and landlock.version() < landlock.RENAMING:
        return files, network
    landlock.restrict([*limits.folders, *devices()], connections=connects)
    if not connects and landlock.version() >= landlock.NETWORK:
        network.append("Landlock (TCP)")
    return ["Landlock", *files], network


def _is_refused(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    except OSError as error:
        return error.errno in _REFUSED
    return False


def _report(limits: "Limits", **event: Any) -> None:
    with open(limits.report, "a", encoding="utf-8") as file:
        file.write(json.dumps({**event, "at": time.time()}) + "\n")


if __name__ == "__main__":
    # Last, so that no package can replace a module of the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    main()
