"""What belongs to the process and not to an object: environment variables, the working directory, settings of torch."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

_OF_THE_MACHINERY = re.compile(
    r"(CUDA|CUDNN|HIP|NVIDIA|NCCL|GLOO|OMP|MKL|KMP|GOMP|OPENBLAS|NUMEXPR|TORCH|TORCHELASTIC|TORCHINDUCTOR|TORCHDYNAMO|"
    r"PYTORCH|PL|LIGHTNING|TRITON|PYTHON|DTOOL|HF|TOKENIZERS|TRANSFORMERS|TQDM|WANDB|MLFLOW|COMET|NEPTUNE|CLEARML|SLURM|"
    r"RAY|MPL|QT|JPY|PYTEST|COV|SENTRY|OTEL|AWS|GIT)_\w*|"
    r"(WORLD_SIZE|(LOCAL_|GROUP_|NODE_|ROLE_)?RANK|LOCAL_WORLD_SIZE|ROLE_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)|"
    r"_|PWD|OLDPWD|SHLVL|COLUMNS|LINES|TMPDIR|TEMP|TMP|DISPLAY|TERM"
)
"""Variables that launchers, libraries and shells set."""


def of_the_process() -> dict[str, Any]:
    """Return the environment variables of this process, its working directory and global settings of torch.

    The values stay in memory: a variable may hold a credential.
    """
    # Not `dict(os.environ)`: what is read there counts as read by the user's code.
    variables = dict(getattr(os.environ, "_data"))  # noqa: B009  # typeshed does not know it
    return {"variables": variables, "settings": _settings()}


def changed_in_the_process(before: Mapping[str, Any]) -> list[str]:
    """Return a reason if something has changed that a resumed run begins without; else nothing.

    Args:
        before: What `of_the_process` returned when training began.
    """
    now = of_the_process()
    then, variables = before["variables"], now["variables"]
    names = {os.fsdecode(name) for name in then.keys() | variables.keys() if then.get(name) != variables.get(name)}
    found = [f"the environment variable {name}" for name in sorted(names) if not _OF_THE_MACHINERY.fullmatch(name)]
    found += [name for name, value in now["settings"].items() if before["settings"][name] != value]
    if not found:
        return []
    return [f"training has changed what a resumed run begins without: {', '.join(found)}"]


def _settings() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    getters: dict[str, Callable[[], Any]] = {
        "the working directory": os.getcwd,
        "torch.set_default_dtype": torch.get_default_dtype,
        "torch.set_float32_matmul_precision": torch.get_float32_matmul_precision,
        "torch.use_deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "torch.set_num_threads": torch.get_num_threads,
        "torch.backends.cudnn.benchmark": lambda: cudnn.benchmark,
        "torch.backends.cudnn.deterministic": lambda: cudnn.deterministic,
    }
    return {name: _read(getter) for name, getter in getters.items()}


def _read(getter: Callable[[], Any]) -> Any:
    try:
        return getter()
    except (OSError, RuntimeError):  # the folder was deleted; precision was set for each backend
        return None
