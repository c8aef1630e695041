"""A command like `python` whose programs run in forks of a process that has imported torch and Lightning.

The client starts in milliseconds. It sends its folder, arguments, variables, streams and parent to the server, which
forks. The client passes SIGINT and SIGTERM on, and ends with the exit code of the fork. When a client is killed, the
server kills the fork.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
from types import FrameType, ModuleType

_PRELOADED = ("lightning.pytorch", "torch", "yaml", "rich", "pydantic")


# -- the client -----------------------------------------------------------------------------------


def _ask(address: str, arguments: list[str]) -> int:
    """Run a program in a fork, and return its exit code, which is negative for a signal."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = {"arguments": arguments, "cwd": os.getcwd(), "env": dict(os.environ), "parent": os.getppid()}
        content = json.dumps(request).encode()
        socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(content)

        def pass_on(number: int, frame: FrameType | None) -> None:
            server.send(bytes([number]))

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        with server.makefile("r") as answer:
            return int(answer.readline())


def _end_as(code: int) -> None:
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


# -- the server -----------------------------------------------------------------------------------


def _serve(listener: socket.socket) -> dict[str, object] | None:
    """Fork for each client. Return its request in the fork, None in the server when its parent ends."""
    parent = os.getppid()
    listener.settimeout(1)
    attending: set[int] = set()
    while os.getppid() == parent:
        attending -= {process for process in attending if os.waitpid(process, os.WNOHANG) != (0, 0)}
        try:
            client, _ = listener.accept()
        except TimeoutError:
            continue
        process = os.fork()
        if process == 0:
            listener.close()
            return _attend(client)
        attending.add(process)
        client.close()
    return None


def _attend(client: socket.socket) -> dict[str, object]:
    """Fork again and wait. Return the client's request in the second fork."""
    client.setblocking(True)
    size, streams, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as file:
        request: dict[str, object] = json.loads(file.read(int.from_bytes(size, "big")))
    program = os.fork()
    if program == 0:
        client.close()
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return request
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    threading.Thread(target=_pass_on, args=(client, program), daemon=True).start()
    _, status = os.waitpid(program, 0)
    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _pass_on(client: socket.socket, program: int) -> None:
    while number := client.recv(1):
        os.kill(program, number[0])
    os.killpg(program, signal.SIGKILL)


def _become(request: dict[str, object]) -> None:
    """Run the program in this process, as if Python had just started it."""
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    if "LIGHTNING_DTOOL_BASE_URI" in os.environ:  # torch asked for this when it was imported, before it was set
        importlib.import_module("lightning_dtool.attach").watch()
    os.getppid = lambda: int(str(request["parent"]))
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
        with open(first, "rb") as file:
            content = file.read()
        exec(compile(content, main.__file__, "exec"), main.__dict__)


if __name__ == "__main__":
    if sys.argv[1:]:
        _end_as(_ask(sys.argv[1], sys.argv[2:]))
    del sys.path[0]  # the folder of the tests, which programs must not import from
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # otherwise each fork collects all objects when it ends, which takes seconds
    if (found := _serve(socket.socket(fileno=os.dup(0)))) is not None:
        _become(found)
