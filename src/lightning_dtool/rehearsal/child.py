"""The program of a rerun's child process, started by its path: `child.py script FILE ARGV0 ARGUMENTS…`.

It runs a script or a module as Python would. It also redirects what a Trainer writes to the scratch folder, reports
errors, and ends when the process that waits for it ends. It imports only the standard library before the script imports
more, because the recorded random states depend on when torch and this package are imported.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

TRAINER = "lightning.pytorch.trainer.trainer"


def main() -> int:
    """Run the script or module from the command line, and return the exit code."""
    kind, target, typed = sys.argv[1:4]
    # As Python sets it: the script's folder, or for a module the working directory.
    sys.path[0] = os.path.dirname(target) if kind == "script" else os.getcwd()
    sys.argv = [typed, *sys.argv[4:]]
    from lightning_dtool import rerun

    plan = rerun.current_plan()
    if plan is None:
        return 2
    if plan.parent_process is not None:
        threading.Thread(target=_end_with, args=(plan.parent_process,), daemon=True).start()
    sys.meta_path.insert(0, _After(TRAINER, _patch_trainer))
    os.environ[rerun.PROCESS_VARIABLE] = str(os.getpid())
    attempts = _watched(plan)
    for name, value in plan.variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    rerun.report("started")
    try:
        if plan.seed_offset is not None:
            from lightning_dtool.rerun.seeds import reseed

            reseed(plan.seed_offset)
        if kind == "script":
            _run_script(target)
        else:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        _report_last_checkpoint()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
        if code == 0 and not isinstance(ending, rerun.TargetReachedError):
            _report_last_checkpoint()
        elif code:
            rerun.report("error", chain=list(_chain(ending, attempts)))
            if not isinstance(ending.code, int):
                print(ending.code, file=sys.stderr)  # as Python does
        return code
    except BaseException as error:  # every error must be reported to the parent process
        traceback.print_exc()
        rerun.report("error", chain=list(_chain(error, attempts)))
        return 1
    return 0


def _run_script(path: str) -> None:
    main_module = types.ModuleType("__main__")
    main_module.__file__ = path
    main_module.__dict__["__builtins__"] = __builtins__
    main_module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    sys.modules["__main__"] = main_module
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, main_module.__dict__)  # noqa: S102  # the purpose of a rerun


def _report_last_checkpoint() -> None:
    callback = sys.modules.get("lightning_dtool.rehearsal.callback")
    if callback is not None:
        callback.report_last_checkpoint()


def _patch_trainer(module: types.ModuleType) -> None:
    from lightning_dtool.rehearsal.trainer_patch import patch_trainer

    patch_trainer(module.Trainer)


def _watched(plan: Any) -> Any:
    """Observe what the script tries outside its limits; None if it has no limits."""
    if plan.writable is None:
        return None
    from lightning_dtool import rerun
    from lightning_dtool.sandbox.attempts import Attempts

    attempts = Attempts(plan.writable, plan.network, rerun.report)
    attempts.watch()
    return attempts


def _chain(error: BaseException, attempts: Any) -> Iterator[dict[str, Any]]:
    """Yield an error and its causes, even if the script hides them with `from None`."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < 20:
        seen.add(id(current))
        facts: dict[str, Any] = {"type": type(current).__qualname__, "message": str(current)[:2000]}
        if isinstance(current, OSError) and current.filename is not None:
            facts["filename"] = str(current.filename)
        if isinstance(current, ImportError) and current.name is not None:
            facts["module"] = str(current.name)
        if attempts is not None:
            facts |= {"refused": attempts.refused(current), "disconnected": attempts.disconnected(current)}
        yield facts
        current = current.__cause__ or current.__context__


def _end_with(process: int) -> None:
    """End this process, and all processes that it has started, when another process ends."""
    while os.getppid() == process:
        time.sleep(0.5)
    if hasattr(os, "killpg"):
        os.killpg(os.getpgid(0), signal.SIGKILL)  # the parent process started this one in its own group
    os._exit(1)


class _After(importlib.abc.MetaPathFinder):
    """Import hook that calls a function after a module was imported."""

    def __init__(self, name: str, then: Callable[[types.ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the module, with a loader that calls the function after the import."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute: Callable[[types.ModuleType], None] = spec.loader.exec_module

        def execute_and_then(module: types.ModuleType) -> None:
            execute(module)
            self._then(module)

        spec.loader.exec_module = execute_and_then  # type: ignore[method-assign]
        return spec


if __name__ == "__main__":
    sys.exit(main())
