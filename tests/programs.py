"""Programs in separate processes that need not import torch and Lightning first, which takes seconds.

A process is forked from one that has imported torch and Lightning but not this package. Folder, arguments, variables,
paths and `__main__` are as in a new Python process. What Python sets up at its start differs: hash seeds, options,
threads, the order of imports. Tests of these pass `fresh=True`, as does one test for each way to start a program.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

HASH_SEED = "2"
"""That of forks: a test of another one starts Python itself."""

_PRELOADED = ("lightning.pytorch", "torch", "yaml", "rich", "pydantic")
_SECONDS = 180
_servers: list[subprocess.Popen[str]] = []


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
    start = _python if fresh else _fork
    done = start([str(argument) for argument in arguments], str(cwd), dict(os.environ if env is None else env))
    assert done.returncode == 0, done.stderr
    return done


def _python(arguments: list[str], cwd: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_SECONDS)


def _fork(arguments: list[str], cwd: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {"arguments": arguments, "cwd": cwd, "env": env, "out": str(out), "err": str(err)}
        print(json.dumps(request), file=server.stdin, flush=True)
        code = server.stdout.readline()
        assert code, "the fork server has ended"
        return subprocess.CompletedProcess(arguments, int(code), out.read_text("utf-8"), err.read_text("utf-8"))


def _server() -> subprocess.Popen[str]:
    """Return the fork server of this process, which starts on first use."""
    if not _servers:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PYTHONHASHSEED"] = HASH_SEED
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        _servers.append(server)
        atexit.register(_end, server)
    return _servers[0]


def _end(server: subprocess.Popen[str]) -> None:
    with server:  # closes the pipes and waits for the process
        server.kill()


# -- in the server --------------------------------------------------------------------------------


def _serve() -> dict[str, object] | None:
    """Answer each request with the exit code of a fork. Return the request in the fork, and None at the end."""
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            request: dict[str, object] = json.loads(line)
            return request
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def _become(request: dict[str, object]) -> None:
    """Run the program in this process, as if Python had just started it."""
    for number, path in enumerate((os.devnull, request["out"], request["err"])):
        file = os.open(str(path), os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    signal.alarm(_SECONDS)  # which ends the process
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    if "numpy" in sys.modules:  # each process needs its own seed; Python's own generator is reseeded after a fork
        sys.modules["numpy"].random.seed()
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    first, *rest = request["arguments"]  # type: ignore[misc]
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if first == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path[:0] = [os.getcwd(), *paths]
        runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]  # as Python itself does
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[:0] = ["", *paths]
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [first, *rest]
        sys.path[:0] = [os.path.dirname(os.path.realpath(first)), *paths]
        main.__file__ = os.path.abspath(first)
        exec(compile(Path(first).read_bytes(), main.__file__, "exec"), main.__dict__)


if __name__ == "__main__":
    del sys.path[0]  # the folder of the tests, which programs must not import from
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # otherwise each fork collects all objects when it ends, which takes seconds
    if (found := _serve()) is not None:
        _become(found)
