"""Random numbers that do not follow from the seed of a run: generators of the user's own, and streams of samples."""

import ast
import os
import random
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from lightning_dtool.capture.reachable import reachable
from lightning_dtool.capture.sample_code import SampleCode, code_of_methods, sample_code
from lightning_dtool.capture.seeds import seed_of
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.values.attributes import attributes_of
from lightning_dtool.values.definitions import class_path, is_users, names_used, source_of
from lightning_dtool.values.parsing import parse

_USUAL_SEEDS = (*range(101), 123, 1234, 12345, 1337, 2147483647, 3407, 31337, 123456, *range(1999, 2040))
"""Seeds of `random.Random`, which does not keep its seed, that are tried."""

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)

_SEEDED_BY_ARGUMENT = frozenset(
    {"Random", "default_rng", "RandomState", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64", "SeedSequence", "seed"}
)
"""Functions that take a seed from the operating system if they get none."""

_NEVER_SEEDED = frozenset(
    {
        "SystemRandom", "urandom", "uuid1", "uuid4", "token_bytes", "token_hex", "randbelow", "secrets", "as_completed",
        "imap_unordered",
    }
)  # fmt: skip
"""Names of functions whose results differ each time."""

_CLOCKS = frozenset({"time", "time_ns", "now", "perf_counter", "monotonic", "getpid", "urandom", "randbits"})

_CONTAINERS = (list, tuple, dict, range, torch.Tensor, np.ndarray)


def own_randomness(loader: Any) -> str | None:
    """Return why the samples of a loader, or their order, are not known to follow from the seed of the run.

    It finds generators that datasets, samplers, transforms or loaders hold, and looks at the code of the user's classes
    and functions. It neither draws a random number nor requests a sample.

    Args:
        loader: A DataLoader or another iterable.

    Returns:
        The reason; None if nothing was found.
    """
    held = [(place.removeprefix("."), value) for place, value in reachable(loader)]
    for place, value in held:
        reason = _of_generator(value, held) or _of_code(value)
        if reason is not None:
            return f"`{place}` {reason}" if place else f"the loader {reason}"
    dataset = getattr(loader, "dataset", None) if isinstance(loader, DataLoader) else loader
    if isinstance(dataset, _CONTAINERS) or (isinstance(dataset, Dataset) and not isinstance(dataset, IterableDataset)):
        return None
    if is_users(type(dataset)) or isinstance(dataset, types.GeneratorType):
        return None  # its code was looked at
    if isinstance(dataset, IterableDataset) and type(dataset).__module__.startswith("torch.utils.data"):
        return None  # the datasets inside were looked at
    return f"a {class_path(type(dataset))} yields samples in an order of its own"


def own_generators(root: Any) -> list[str]:
    """Return where an object holds random generators other than the global ones.

    Args:
        root: An object, such as a dataset.
    """
    held = reachable(root)
    return [
        place.removeprefix(".") for place, value in held if isinstance(value, _GENERATORS) and not _is_global(value)
    ]


# -- generators -----------------------------------------------------------------------------------


def _of_generator(value: Any, held: list[tuple[str, Any]]) -> str | None:
    if not isinstance(value, _GENERATORS) or _is_global(value) or _has_known_seed(value, held):
        return None
    return f"is a {class_path(type(value))} whose seed is not known"


def _is_global(value: Any) -> bool:
    shared = (getattr(random, "_inst", None), getattr(np.random.mtrand, "_rand", None), torch.default_generator)
    devices = getattr(getattr(torch, "cuda", None), "default_generators", ())
    return any(value is each for each in (*shared, *devices))


def _has_known_seed(value: Any, held: list[tuple[str, Any]]) -> bool:
    if isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState) and seed_of(value) is not None:
        return True
    if isinstance(value, torch.Generator):
        return value.initial_seed() in (torch.Generator().initial_seed(), torch.initial_seed())
    if isinstance(value, np.random.RandomState):  # an old way to seed, with a seed of the user's, leaves no sequence
        return getattr(value._bit_generator, "seed_seq", None) is None
    return type(value) is random.Random and any(_began_with(value, seed) for seed in _candidates(held))


def _began_with(value: random.Random, seed: Any) -> bool:
    """Return whether a generator has drawn at most 624 numbers of 32 bits since it got a seed."""
    state = value.getstate()[1]
    again = random.Random(seed)  # noqa: S311  # not for secrets
    if again.getstate()[1][:-1] == state[:-1]:
        return True
    again.getrandbits(32)  # now the numbers of its first block are computed
    return bool(again.getstate()[1][:-1] == state[:-1])


def _candidates(held: list[tuple[str, Any]]) -> Iterator[Any]:
    """Yield the seeds that users often take, that of the run, and numbers and texts beside the generator."""
    yield from _USUAL_SEEDS
    yield torch.initial_seed()
    yield int(os.environ.get("PL_GLOBAL_SEED", 0) or 0)
    for _, value in held:
        kept = value if isinstance(value, dict) else attributes_of(value) or {}
        yield from (each for each in kept.values() if type(each) in (int, str))


# -- code -----------------------------------------------------------------------------------------


def _of_code(value: Any) -> str | None:
    code = _code(value)
    if code is None:
        return None
    for name, each in sorted(code.globals.items()):
        if isinstance(each, _GENERATORS) and not _is_global(each) and not _has_known_seed(each, []):
            return f"uses `{name}`, a {class_path(type(each))} whose seed is not known"
    never = sorted(code.names & _NEVER_SEEDED)
    if never:
        return f"uses `{never[0]}`, which differs each time"
    if code.names & _SEEDED_BY_ARGUMENT:
        for function in code.functions:
            called = _unseeded_call(function)
            if called is not None:
                return f"calls `{called}` without a seed"
    return None


def _code(value: Any) -> SampleCode | None:
    if isinstance(value, DtoolDataset) and type(value) is DtoolDataset:
        return None
    if isinstance(value, types.FunctionType | types.MethodType | types.GeneratorType):
        return sample_code(value) if not isinstance(value, types.FunctionType) or is_users(value) else None
    if not is_users(type(value)) or isinstance(value, type):
        return None
    return sample_code(value) if isinstance(value, Dataset | Sampler) else code_of_methods(value)


def _unseeded_call(function: Any) -> str | None:
    """Return the name of a function that is called without a seed, or with one that differs each time."""
    source = source_of(function)
    try:
        tree = parse((source or "").strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        source = None
    if source is None:  # it was typed at a prompt
        used = names_used(getattr(function, "__code__", function))
        return next(iter(sorted((used & _SEEDED_BY_ARGUMENT) - {"seed"})), None)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _name(node.func)) in _SEEDED_BY_ARGUMENT:
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            if all(isinstance(each, ast.Constant) and each.value is None for each in arguments):
                return name
            if any(_name(each) in _CLOCKS for argument in arguments for each in ast.walk(argument)):
                return name
    return None


def _name(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
