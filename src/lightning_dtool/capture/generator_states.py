"""The states of the global random number generators as short, strict JSON, and back.

A checkpoint of a tiny model may be smaller than the states of three generators. Therefore, a generator that has not
been drawn from since it was seeded is written as its seed. This is only done if a new generator with that seed has the
very same state. Otherwise, its words are written.
"""

import base64
import functools
import hashlib
import json
import os
import random
import struct
import types
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lightning_dtool.random_states import accelerators, mps_in_use, raw_states
from lightning_dtool.record import MAX_INTEGER
from lightning_dtool.watch.seeds import seedings

Json = Any
RandomStates = dict[str, Json]
"""The state of each generator by name, as strict JSON."""

_WORD = 8
"""Bytes of a word in a state of torch's. Each holds 32 bits of the generator, so that half of the bytes are zeros."""

_LARGEST = 2**20
"""Maximum size of a state that is read, in bytes. A file that a stranger wrote may claim any."""

_restored_seeds: dict[str, int] = {}
"""The seeds that the latest states contained that were restored, as in a run that resumes."""


def random_states() -> RandomStates:
    """Return the states of the global generators of Python, NumPy and torch, and of each accelerator in use.

    This draws no number and initialises no accelerator.

    Example:
        >>> states = random_states()
        >>> first = torch.rand(2)
        >>> restore(states)
        >>> torch.equal(first, torch.rand(2))
        True
    """
    return encoded_states(raw_states())


def encoded_states(raw: Mapping[str, Any]) -> RandomStates:
    """Return states as strict JSON.

    Args:
        raw: The result of `raw_states`.
    """
    return {kind: _seeded(kind, state) or _written(kind, state) for kind, state in raw.items()}


def restore(states: Mapping[str, Json]) -> None:
    """Restore the states of the generators.

    Generators that do not exist, for example because this machine has other devices, are skipped.

    Args:
        states: The result of `random_states`, possibly written to JSON and read back.
    """
    _restored_seeds.update({kind: state["seed"] for kind, state in states.items() if "seed" in state})
    if "python" in states:
        random.setstate(read_state("python", states["python"]))
    if "numpy" in states:
        np.random.set_state(read_state("numpy", states["numpy"]))
    if "torch" in states:
        torch.set_rng_state(read_state("torch", states["torch"]))
    for kind, module in accelerators().items():
        for index in range(module.device_count()):
            device = f"{kind}:{index}"
            if device in states:
                module.set_rng_state(read_state(device, states[device]), index)
    if "mps" in states and mps_in_use():
        torch.mps.set_rng_state(read_state("mps", states["mps"]))


def read_state(kind: str, state: Json) -> Any:
    """Return a state in the form in which `raw_states` returns it.

    Args:
        kind: Name of the generator.
        state: Its state, as `random_states` returns it.
    """
    if "seed" in state:
        return _after_seeding(kind, state["seed"])
    content = _unpacked(state)
    if kind == "python":
        return state["version"], struct.unpack(f"<{len(content) // 4}I", content), state["gauss"]
    if kind == "numpy":
        keys = np.frombuffer(content, dtype="<u4").astype(np.uint32)
        return state["name"], keys, state["position"], state["has_gauss"], state["gauss"]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def state_digests(states: Mapping[str, Json]) -> dict[str, str]:
    """Return the digest of each generator's state, as `sha256:…`. It does not depend on how the state is written.

    Args:
        states: The result of `random_states`.
    """
    written = {kind: _written(kind, read_state(kind, state)) for kind, state in states.items()}
    return {
        kind: f"sha256:{hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}"
        for kind, state in written.items()
    }


def _written(kind: str, state: Any) -> Json:
    if kind == "python":
        version, numbers, gauss = state
        return {"version": version, **_packed(struct.pack(f"<{len(numbers)}I", *numbers)), "gauss": gauss}
    if kind == "numpy":
        name, keys, position, has_gauss, cached = state
        return {
            "name": str(name),
            **_packed(keys.astype("<u4").tobytes()),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        }
    return dict(_packed(state.numpy().tobytes()))


# Cached, so that equal states of one checkpoint are one text, which pickle writes once.
@functools.lru_cache(maxsize=16)
def _packed(content: bytes) -> Mapping[str, str]:
    """Return bytes as text: as `words`, or compressed as `columns`: the first bytes of all words come first."""
    columns = content
    if len(content) % _WORD == 0:
        columns = zlib.compress(np.frombuffer(content, np.uint8).reshape(-1, _WORD).T.tobytes(), 1)
    name, shorter = ("columns", columns) if len(columns) < len(content) else ("words", content)
    return types.MappingProxyType({name: base64.b64encode(shorter).decode()})


def _unpacked(state: Mapping[str, str]) -> bytes:
    if "words" in state:
        return base64.b64decode(state["words"])
    inflating = zlib.decompressobj()
    content = inflating.decompress(base64.b64decode(state["columns"]), _LARGEST)
    if not inflating.eof:
        raise ValueError(f"expected the state of a random generator, found more than {_LARGEST} bytes")
    words: bytes = np.frombuffer(content, np.uint8).reshape(_WORD, -1).T.tobytes()
    return words


def _seeded(kind: str, state: Any) -> Json | None:
    """Return the seed after which a generator has this state. None if it is unknown, or if numbers have been drawn."""
    return next(({"seed": seed} for seed in _seeds(kind) if _same(kind, state, _after_seeding(kind, seed))), None)


def _seeds(kind: str) -> Iterator[int]:
    """Yield the seeds that a generator may have been given last."""
    if kind == "torch" and torch.initial_seed() <= MAX_INTEGER:
        yield torch.initial_seed()
    elif kind in ("python", "numpy"):
        noted = [seeding.seed for seeding in seedings(kind)[-1:]]
        given = [*noted, _restored_seeds.get(kind, ""), os.environ.get("PL_GLOBAL_SEED", "")]
        yield from dict.fromkeys(int(seed) for seed in given if str(seed).isdecimal() and int(seed) < 2**32)


# A state is a tuple or a tensor that nobody changes.
@functools.lru_cache(maxsize=16)
def _after_seeding(kind: str, seed: int) -> Any:
    """Return the state of a new generator with a seed."""
    if kind == "python":
        return random.Random(seed).getstate()  # noqa: S311  # not for secrets
    if kind == "numpy":
        return np.random.RandomState(seed).get_state()
    return torch.Generator().manual_seed(seed).get_state()


def _same(kind: str, state: Any, other: Any) -> bool:
    if kind == "python":
        return bool(state == other)
    if kind == "numpy":
        return state[2:] == other[2:] and state[0] == other[0] and bool(np.array_equal(state[1], other[1]))
    return torch.equal(state, other)
