"""Programs in separate processes that need not import torch and Lightning first, which takes seconds.

A process is forked from one that has imported torch and Lightning but not this package. Folder, arguments, variables,
paths, streams, parent and `__main__` are as in a new Python process. What Python sets up at its start differs: hash
seeds, options, threads, the order of imports. Tests of these pass `fresh=True`, as does one test for each way to start
a program.
"""

import atexit
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HASH_SEED = "2"
"""The hash seed of all forks. A test of another one starts a new Python process."""

_SECONDS = 180


def run(
    *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a script, `-m` and a module, or `-c` and a program, and assert its success. Warnings are ignored.

    Args:
        arguments: The arguments after `python`.
        cwd: The working directory.
        env: The environment variables. Default: those of this process.
        fresh: Start a new Python process instead of a fork.
    """
    python = [sys.executable, "-W", "ignore"] if fresh else [str(commands() / "python")]
    command = [*python, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done


@cache
def commands() -> Path:
    """Return a folder with the commands `python` and `lightning-dtool`, which run in forks.

    Given an option other than `-m` and `-c`, this `python` starts a new Python process.
    """
    folder = Path(tempfile.mkdtemp(prefix="lightning-dtool-forks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, server = folder / "socket", Path(__file__).with_name("forks.py")
    python, installed = shlex.quote(sys.executable), Path(sys.executable).with_name("lightning-dtool")
    fork = f"exec {python} -IS {shlex.quote(str(server))} {shlex.quote(str(address))}"
    _command(folder / "python", f'case "$1" in -m|-c|[!-]*) {fork} "$@";; esac\nexec {python} "$@"')
    _command(folder / "lightning-dtool", f'{fork} {shlex.quote(str(installed))} "$@"')
    # Each program has variables of its own. With `LIGHTNING_DTOOL_BASE_URI`, all of them would be observed.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "LIGHTNING_", "PL_"))
    }
    environment["PYTHONHASHSEED"] = HASH_SEED
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        process = subprocess.Popen([sys.executable, "-W", "ignore", server], stdin=listener, env=environment)
    atexit.register(_end, process)
    return folder


def _command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
