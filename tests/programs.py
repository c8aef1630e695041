"""Programs in processes of their own that do not wait for torch and Lightning to be imported: that takes seconds.

The process is a fork of one that has imported torch and Lightning, and nothing of ours. Folder, arguments, variables,
paths and `__main__` are as Python would have them. What is settled before a program begins is not: hash seeds, options,
threads, the order of imports. Tests of those say `fresh=True`, and so does one test for each way to start a program.
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
    """Run a script, `-m` and a module, or `-c` and a program, and see it succeed. Warnings are ignored.

    Args:
        arguments: What would stand behind `python`.
        cwd: The folder that it runs in.
        env: Its variables; those of this process by default.
        fresh: Start Python itself.
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
        assert code, "the process that forks has ended"
        return subprocess.CompletedProcess(arguments, int(code), out.read_text("utf-8"), err.read_text("utf-8"))


def _server() -> subprocess.Popen[str]:
    """Return this process's server; started when it is asked for first."""
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
    with server:  # which closes its pipes and waits for it
        server.kill()


# -- in the server --------------------------------------------------------------------------------


def _serve() -> dict[str, object] | None:
    """Answer each request with the exit code of a fork; return the request in the fork, and None at the end."""
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            request: dict[str, object] = json.loads(line)
            return request
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def _become(request: dict[str, object]) -> None:
    """Be the program, as if Python had just started it."""
    for number, path in enumerate((os.devnull, request["out"], request["err"])):
        file = os.open(str(path), os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    signal.alarm(_SECONDS)  # which ends it
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    if "numpy" in sys.modules:  # each process draws its own seed; Python's generator sees to it by itself
        sys.modules["numpy"].random.seed()
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    first, *rest = request["arguments"]  # type: ignore[misc]
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if first == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path[:0] = [os.getcwd(), *paths]
        runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]  # what Python itself calls
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
    del sys.path[0]  # this folder: what runs here knows nothing of the tests
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # or each fork looks through all of it when it ends, which takes seconds, too
    if (found := _serve()) is not None:
        _become(found)
