"""The use of torch.compile in a process."""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from lightning_dtool.capture.loss_code import LIBRARIES

_COMPILED = "_torchdynamo_orig_callable"


def is_compiled(module: LightningModule) -> bool:
    """Return True if torch.compile was applied to the module, a part of it, or any function in this process.

    A compiled function may be referenced from anywhere. Under a mode, its code would be split differently, and its
    results might differ in the last bits. Therefore no call is watched if anything may be compiled.

    Args:
        module: The LightningModule.
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    # torch.compile registers its backends here when it is called. None stands for torch's own wrappers.
    if any(backend is not None for backend in getattr(compiler, "cached_backends", {}).values()):
        return True
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    if any(getattr(child, "_compiled_call_impl", None) is not None for child in module.modules()):
        return True
    if any(type(child).__name__ == "OptimizedModule" for child in module.modules()):
        return True
    rooms: list[Mapping[str, Any]] = [vars(module)]
    for base in type(module).__mro__:
        if base.__module__.partition(".")[0] not in (*LIBRARIES, "builtins"):
            rooms.append(vars(base))
            if base.__module__ in sys.modules:
                rooms.append(vars(sys.modules[base.__module__]))
    return any(_is_compiled_function(value) for room in rooms for value in list(room.values()))


def _is_compiled_function(value: object) -> bool:
    # Not `hasattr`: a lazy module or a mock may have any attribute.
    return inspect.isroutine(value) and _COMPILED in getattr(value, "__dict__", {})
