"""Seeds, random states, and the settings that affect bits of the results.

The states are also read when this module is imported, which happens when the callback is imported. If a seed is set
between the import and the start of training, the states differ.
"""

import functools
import json
import os
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist

from lightning_dtool.capture.generator_states import RandomStates, random_states, restore, state_digests
from lightning_dtool.capture.loaders import workers_seeded
from lightning_dtool.capture.seeds import SEED_REMEDY, Seeds, integer, observe_seeds
from lightning_dtool.capture.tokens import Token
from lightning_dtool.record import Gaps, Randomness
from lightning_dtool.rerun.seeds import restore_import_state
from lightning_dtool.watch.construction import arguments_of
from lightning_dtool.watch.seeds import seed_calls

# torch 2.9 warns when the old names for TF32 are read. Not `catch_warnings` around the reading: it makes Python forget
# which warnings of the user it has shown, and show them again.
warnings.filterwarnings("ignore", module=r"lightning_dtool\.capture\.randomness")

Json = Any

_RICH_LINKS = 10_000
"""Number of links that rich may have counted since its import. Its counter is not recognised after more links."""

VERSION = 1
"""Version of the item random_states.json."""

_ENVIRONMENT = (
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTHONHASHSEED",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def random_states_json(moments: Mapping[str, RandomStates]) -> str:
    """Return the content of the item random_states.json.

    Args:
        moments: States by the moment when they were read (`import`, `fit_start`).
    """
    content = {"version": VERSION, "moments": moments}
    return json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":")) + "\n"


def capture_randomness(
    moments: Mapping[str, RandomStates],
    gaps: Gaps,
    weights_stored: bool = False,
    module: object = None,
    loaders: Iterable[Any] = (),
) -> Randomness:
    """Return the seeds, the digests of the states, and other settings that affect bits.

    Args:
        moments: States by the moment when they were read (`import`, `fit_start`).
        gaps: Receives a gap for everything that is not known.
        weights_stored: Whether the initial weights are stored.
        module: The LightningModule, if there is one.
        loaders: The Trainer's data loaders.
    """
    made = arguments_of(module) if module is not None else None
    found = observe_seeds(moments, DRAWN_BEFORE_IMPORT, made.torch_seed if made is not None else None)
    if found.unseeded:
        gaps.at("randomness.global_seed").add(found.description, SEED_REMEDY)
    source = _repeatable_by(found, moments, weights_stored)
    if source is None:
        gaps.at("randomness.repeatable_by").add(
            found.doubt or "these are the states of only one of several processes",
            "import DtoolProvenanceCallback first, call seed_everything, or save_initial_weights=True",
        )
    return Randomness(
        repeatable_by=source,
        global_seed=found.global_seed,
        seeds=found.seeds,
        seeded_before_model=found.before_model,
        seed_workers=_seed_workers(found.global_seed, loaders),
        states={moment: state_digests(states) for moment, states in moments.items()},
        flags=capture_flags(gaps),
    )


def randomness_now(before: Randomness, seeded: bool, loaders: Iterable[Any], gaps: Gaps) -> Randomness:
    """Observe the seeds and the flags again. What makes a rerun repeatable was decided when training began.

    Args:
        before: The section as it was observed before.
        seeded: Whether a generator was seeded since. Otherwise, states that were restored would look like other seeds.
        loaders: The Trainer's data loaders.
        gaps: Receives a gap for everything that is not known.
    """
    now: dict[str, Any] = {"flags": capture_flags(gaps)}
    if seeded:
        found = observe_seeds({}, DRAWN_BEFORE_IMPORT)
        now |= {"global_seed": found.global_seed, "seeds": found.seeds}
        unknown = [name for name in before.seeds if name not in found.seeds]
        if unknown and before.repeatable_by is not None:
            now["repeatable_by"] = None
            reason = f"a generator was seeded by the operating system during training: {', '.join(unknown)}"
            gaps.at("randomness.repeatable_by").add(reason, "pass a seed")
    after = before.model_copy(update=now)
    return after.model_copy(update={"seed_workers": _seed_workers(after.global_seed, loaders)})


def _seed_workers(global_seed: int | None, loaders: Iterable[Any]) -> bool | None:
    asked = integer(os.environ.get("PL_SEED_WORKERS", ""))
    return workers_seeded(loaders, bool(asked)) if asked is not None and global_seed is not None else None


def drawn_from() -> frozenset[str]:
    """Return the names of the global generators of torch, Python and NumPy that have been drawn from since seeding.

    torch's generator is compared with a new one with the same seed. Python's and NumPy's generators produce blocks of
    624 numbers. Their states contain the position in the block, which is 624 after seeding, or 623 in NumPy if the seed
    came from the operating system.
    """
    fresh = torch.Generator().manual_seed(torch.initial_seed()).get_state()
    drawn = set()
    if not torch.equal(torch.get_rng_state(), fresh):
        drawn.add("torch")
    if not _python_untouched():
        drawn.add("python")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        _, _, position, has_gauss, _ = numpy.random.get_state()
        if position not in (623, 624) or has_gauss:
            drawn.add("numpy")
    return frozenset(drawn)


def _python_untouched() -> bool:
    """Return True if no number has been drawn from Python's generator, except by rich when it is imported."""
    version, numbers, _ = random.getstate()
    if numbers[-1] == 624:
        return True
    # rich 15, which Lightning's progress bar imports, draws 24 bits as the start of its counter of links.
    counter = re.fullmatch(r"count\((\d+)\)", repr(getattr(sys.modules.get("rich.style"), "_id_generator", None)))
    if numbers[-1] != 1 or counter is None:
        return False
    again = random.Random()  # noqa: S311  # not for secrets: it draws the same number again
    again.setstate((version, (*numbers[:-1], 0), None))
    return 0 <= int(counter[1]) - again.getrandbits(24) < _RICH_LINKS


def _repeatable_by(found: Seeds, moments: Mapping[str, RandomStates], weights_stored: bool) -> str | None:
    if not found.unseeded and not found.doubt and not found.by_states:
        return "seed"
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return None  # these are the states of only one process
    if not found.doubt and "import" in moments:
        return "states"
    return "initial_weights" if weights_stored and "fit_start" in moments else None


def capture_flags(gaps: Gaps) -> dict[str, Json]:
    """Return the settings that affect bits, apart from the generators. This changes nothing and emits no warning.

    Args:
        gaps: Receives a gap for every setting that this version of torch does not have.
    """
    flags: dict[str, Json] = {}
    _read(_FLAGS, flags, gaps)
    # From torch 2.9 on, reading the old settings raises an error if the new ones, which include them, have been used.
    if flags.get("cuda.matmul.fp32_precision", "none") == "none":
        _read(_OLD_FLAGS, flags, gaps)
    for name in _ENVIRONMENT:
        flags[name] = os.environ.get(name)
    return flags


def _read(readers: Mapping[str, Callable[[], Json]], flags: dict[str, Json], gaps: Gaps) -> None:
    for name, read in readers.items():
        try:
            flags[name] = read()
        except Exception as error:  # another version of torch, or a mix of old and new settings for TF32
            reason = f"reading it from torch raised {type(error).__name__}"
            gaps.at(f"randomness.flags.{name}").add(reason)


def randomness_token() -> Token:
    """Return a token of everything that `randomness_now` observes, apart from the data loaders."""
    variables: Any = os.environ
    # The mapping inside: `os.environ` itself encodes a name at each access. Where it has none, the look says "changed".
    read = variables._data.get
    return (seed_calls(), _flags_token(), [read(name) for name in _VARIABLES])


def _flags_token() -> Token:
    if None in _DIRECT:
        return capture_flags(Gaps())
    try:
        found = [read() for read in _DIRECT]
        precisions = [_precision(*operation) for operation in _OPERATIONS]
        if not precisions or precisions[0] == "none":
            found += [read() for read in _OLD_FLAGS.values()]
        return (found, precisions)
    except Exception:  # another version of torch, or a mix of old and new settings for TF32
        return capture_flags(Gaps())


def _scaled_dot_product() -> dict[str, bool]:
    cuda: Any = torch.backends.cuda
    return {
        "flash": cuda.flash_sdp_enabled(),
        "mem_efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
    }


def _precision_readers() -> dict[str, Callable[[], Json]]:
    """Return functions that read the precision of float32 operations. They exist from torch 2.9 on."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    if not hasattr(torch.backends, "fp32_precision"):
        return {}
    owners: dict[str, Any] = {
        "fp32_precision": torch.backends,
        "cuda.matmul.fp32_precision": cuda.matmul,
        "cudnn.conv.fp32_precision": getattr(cudnn, "conv", None),
        "cudnn.rnn.fp32_precision": getattr(cudnn, "rnn", None),
        "mkldnn.matmul.fp32_precision": getattr(mkldnn, "matmul", None),
        "mkldnn.conv.fp32_precision": getattr(mkldnn, "conv", None),
    }
    return {name: functools.partial(_fp32_precision, owner) for name, owner in owners.items() if owner is not None}


def _fp32_precision(owner: Any) -> str:
    return str(owner.fp32_precision)


# Made once, because the flags are read at each save.
_FLAGS: dict[str, Callable[[], Json]] = {
    "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
    "deterministic_algorithms_warn_only": torch.is_deterministic_algorithms_warn_only_enabled,
    "fill_uninitialized_memory": lambda: getattr(torch.utils.deterministic, "fill_uninitialized_memory", None),
    "cudnn.enabled": lambda: torch.backends.cudnn.enabled,
    "cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
    "cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
    "cuda.matmul.allow_fp16_reduced_precision_reduction": (
        lambda: torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    ),
    "cuda.matmul.allow_bf16_reduced_precision_reduction": (
        lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    ),
    "mkldnn.enabled": lambda: torch.backends.mkldnn.enabled,
    "num_threads": torch.get_num_threads,
    "num_interop_threads": torch.get_num_interop_threads,
    "cpu_capability": torch.backends.cpu.get_cpu_capability,
    "default_dtype": lambda: str(torch.get_default_dtype()),
    "sdp": _scaled_dot_product,
    **_precision_readers(),
}
"""Functions that read a setting of torch, by the name of the flag in the record."""

_OLD_FLAGS: dict[str, Callable[[], Json]] = {
    "float32_matmul_precision": torch.get_float32_matmul_precision,
    "cuda.matmul.allow_tf32": torch._C._get_cublas_allow_tf32,
    "cudnn.allow_tf32": torch._C._get_cudnn_allow_tf32,
}

_DIRECT: tuple[Any, ...] = (
    torch.get_num_threads,
    torch.get_num_interop_threads,
    torch.get_default_dtype,
    *(
        getattr(torch._C, f"_get_{name}", None)
        for name in (
            "deterministic_algorithms", "deterministic_algorithms_warn_only", "deterministic_fill_uninitialized_memory",
            "cudnn_enabled", "cudnn_deterministic", "cudnn_benchmark", "mkldnn_enabled",
            "cublas_allow_fp16_reduced_precision_reduction", "cublas_allow_bf16_reduced_precision_reduction",
            "flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled",
        )
    ),
)  # fmt: skip
"""What reads the settings of `_FLAGS` that may change, without Python code around it. None for what torch lacks."""

_precision: Any = getattr(torch._C, "_get_fp32_precision_getter", None)

_OPERATIONS = (
    (
        ("cuda", "matmul"), ("generic", "all"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "matmul"),
        ("mkldnn", "conv"),
    )
    if _precision is not None
    else ()
)  # fmt: skip
"""The operations whose precision `_FLAGS` reads, matrix products on CUDA first."""

_VARIABLES = [cast(Any, os.environ).encodekey(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", *_ENVIRONMENT)]
"""Names of environment variables, in the form of the mapping inside `os.environ`."""


restore_import_state(restore)  # in a rerun only

AT_IMPORT: RandomStates = random_states()
"""The states when this module was imported."""

DRAWN_BEFORE_IMPORT = drawn_from()
"""The generators that had been drawn from before this import. The states of the others determine all of their draws."""
