"""Files of weights: their tensors, read without running code from them, and what their paths say."""

import os
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from lightning_dtool.capture.tensor_match import Candidate, candidate, is_plain, lazy_candidate, sampled_candidate
from lightning_dtool.items import RESUMPTION_SECTION
from lightning_dtool.loading.unread import Unread
from lightning_dtool.loading.weights import read_checkpoint
from lightning_dtool.store.digest import hash_file
from lightning_dtool.watch import files

_MAX_UNMAPPED = 2**30
"""Maximum size of a file that is read as a whole because it cannot be memory-mapped."""

_MAX_DEPTH = 50

_TRANSPOSED = {2: (1, 0), 3: (2, 0, 1), 4: (3, 2, 0, 1)}
"""The axes of torch's weights in the arrays of JAX and TensorFlow, by number: of linear layers and convolutions."""

_OF_A_MODULE = frozenset({"_parameters", "_buffers", "_modules"})
"""Attributes in which a module that was saved as a whole keeps its tensors and children."""

SKIPPED = frozenset({"optimizer_states", "optimizer", "optimizers", "lr_schedulers", "loops", RESUMPTION_SECTION})
"""Parts of a checkpoint that hold no weights of its own. What a run remembers may be copies of other weights."""

_HUB = re.compile(r"[/\\]models--([^/\\]+)[/\\]snapshots[/\\]([^/\\]+)[/\\]")
"""How the cache of the Hugging Face Hub names repositories and commits."""

_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")

_DIGEST = re.compile(r"[0-9a-f]{64}")

_MAX_FILES = 128
_MAX_SAMPLED = 4096
"""Maximum numbers of files of which samples are kept, and of tensors in one of them."""

_samples: OrderedDict[tuple[str, tuple[int, int] | None], list[tuple[str, tuple[int, ...], torch.Tensor]]] = (
    OrderedDict()
)
"""Name, shape and a sample of the tensors of the files that were read last, by path and state."""

_digests: dict[tuple[str, tuple[int, int] | None], str] = {}
"""SHA-256 by path and state, so that a large file is read only once."""


class UnreadableError(Exception):
    """A file's tensors cannot be read. The message says why."""


def tensors_in(path: str) -> list[Candidate]:
    """Return the tensors of a file, to be read when they are compared.

    A file whose samples are known from before is opened only if one of them is in the model.

    Args:
        path: A file of `torch.save`, safetensors or NumPy.

    Raises:
        UnreadableError: If the file cannot be read without running code from it.
    """
    key = (path, files.file_state(path))
    known = _samples.get(key)
    if known is None:
        found = _read(path)
        # Arrays of NumPy are read as a whole, also for a sample.
        if len(found) <= _MAX_SAMPLED and not _is_numpy(path):
            with torch.no_grad():
                _samples[key] = [(each.name, each.shape, each.sample().clone()) for each in found]
            if len(_samples) > _MAX_FILES:
                _samples.popitem(last=False)
        return found
    _samples.move_to_end(key)
    again = lru_cache(maxsize=1)(lambda: _read(path))
    return [
        sampled_candidate(name, shape, sample, partial(_equals, again, index))
        for index, (name, shape, sample) in enumerate(known)
    ]


def _of_old_format(path: str) -> Any:
    if os.path.getsize(path) > _MAX_UNMAPPED:
        raise UnreadableError("is large and of an old format that cannot be memory-mapped")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of the file, it said when the program read it
        return torch.load(path, map_location="cpu", weights_only=True)


def sha256(path: str) -> str | None:
    """Return the SHA-256 of a file. None if it cannot be read."""
    key = (path, files.file_state(path))
    if key not in _digests:
        try:
            _digests[key] = hash_file(path, "sha256")
        except OSError:
            return None
    return _digests[key]


def hub_repository(path: str, digest: str | None = None) -> tuple[str, str] | None:
    """Return the repository of the Hugging Face Hub and its commit that a path in its cache names.

    Args:
        path: The file.
        digest: SHA-256 of the file, if it is known. The cache names large files by theirs; one that has changed since
            is not the repository's.

    Example:
        >>> hub_repository("/cache/models--google--vit/snapshots/3f49/model.safetensors")
        ('google/vit', '3f49')
    """
    found = _HUB.search(path)
    if found is None or (digest is not None and _is_other(digest, os.path.basename(os.path.realpath(path)))):
        return None
    return found[1].replace("--", "/", 1), found[2]


def torchvision_name(path: str, digest: str | None) -> str | None:
    """Return torchvision's name for the weights in a file that it has downloaded.

    Args:
        path: The file.
        digest: Its SHA-256. The name of a file of torchvision's has the beginning of it.
    """
    name = os.path.basename(path)
    stated = _DIGEST_IN_NAME.search(name)
    if stated is not None and not (digest or "").startswith(stated[1]):
        return None
    for module in [module for key, module in list(sys.modules.items()) if key.startswith("torchvision.models")]:
        for kind, weights in _torchvision_weights(module):
            if os.path.basename(weights.url) == name:
                return f"{kind.__name__}.{weights.name}"
    return None


def is_library_file(path: str) -> bool:
    """Return whether a file was probably downloaded or written by a library of models, and not by a training.

    Args:
        path: The file.
    """
    return (
        path.endswith(".safetensors")
        or hub_repository(path) is not None
        or Path(path).is_relative_to(Path(torch.hub.get_dir()).absolute())
    )


def torchvision_files(module: torch.nn.Module) -> Iterator[str]:
    """Yield the files that torchvision has downloaded for the models in a module."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    kinds = {type(child).__module__ for child in module.modules()}
    for kind in sorted(name for name in kinds if name.startswith("torchvision.models.")):
        for _, weights in _torchvision_weights(sys.modules[kind]):
            file = folder / os.path.basename(weights.url)
            if file.is_file():
                yield str(file)


def _torchvision_weights(module: Any) -> Iterator[tuple[type, Any]]:
    # This does not import torchvision.
    api = sys.modules.get("torchvision.models._api")
    if api is None:
        return
    for kind in list(vars(module).values()):
        if isinstance(kind, type) and issubclass(kind, api.WeightsEnum):
            for weights in list(kind):  # type: ignore[call-overload]
                yield kind, weights


def _is_other(digest: str, name: str) -> bool:
    return _DIGEST.fullmatch(name) is not None and name != digest


def _collect(value: Any, parts: list[str], found: dict[str, torch.Tensor], seen: set[int]) -> None:
    if isinstance(value, torch.Tensor):
        if is_plain(value):
            found[".".join(parts)] = value
        return
    if not isinstance(value, Mapping | list | tuple) or id(value) in seen or len(parts) > _MAX_DEPTH:
        return
    seen.add(id(value))
    if isinstance(value, Unread):  # a module, saved as a whole, is an object with a state
        _collect(value.state, parts, found, seen)
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if parts or key not in SKIPPED:
            _collect(item, parts if key in _OF_A_MODULE else [*parts, str(key)], found, seen)


def _read(path: str) -> list[Candidate]:
    try:
        with files.unobserved():
            if "safetensors" in sys.modules and _is_safetensors(path):
                return list(_of_safetensors(path))
            if _is_numpy(path):
                return list(_of_numpy(path))
            content = read_checkpoint(Path(path)) if zipfile.is_zipfile(path) else _of_old_format(path)
    except UnreadableError:
        raise
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # the content may be anything
        raise UnreadableError("cannot be read without running code from it") from error
    found: dict[str, torch.Tensor] = {}
    _collect(content, [], found, set())
    return [candidate(name, tensor) for name, tensor in found.items()]


def _equals(read: Callable[[], Sequence[Candidate]], index: int, other: torch.Tensor) -> bool:
    try:
        return read()[index].equals(other)
    except (UnreadableError, IndexError):  # it was replaced at this moment
        return False


def _is_numpy(path: str) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return bool(names) and all(name.endswith(".npy") for name in names)
    with open(path, "rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _of_numpy(path: str) -> Iterator[Candidate]:
    """Yield the arrays of a file, read when they are compared, also in the orders of axes of other frameworks."""
    if not zipfile.is_zipfile(path):
        shape = np.load(path, mmap_mode="r").shape
        yield from _arrays("", shape, lambda: np.array(np.load(path, mmap_mode="r")))
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(npy.read_magic(file))
                shape = read(file)[0] if read is not None else ()
            name = member.removesuffix(".npy")
            yield from _arrays(name.replace("/", "."), shape, partial(_member, path, name))


def _member(path: str, name: str) -> Any:
    with np.load(path) as archive:
        return archive[name]


def _arrays(name: str, shape: tuple[int, ...], read: Callable[[], Any]) -> Iterator[Candidate]:
    @lru_cache(maxsize=1)
    def tensor() -> torch.Tensor:
        # An array of objects, or of a type that torch lacks, holds no weights.
        try:
            with files.unobserved():
                return torch.from_numpy(read())
        except (TypeError, ValueError):
            return torch.empty(0)

    for axes in (tuple(range(len(shape))), _TRANSPOSED.get(len(shape))):
        if axes is not None:
            yield lazy_candidate(name, tuple(shape[axis] for axis in axes), partial(_permuted, tensor, axes))


def _permuted(tensor: Callable[[], torch.Tensor], axes: tuple[int, ...]) -> torch.Tensor:
    found = tensor()
    return found.permute(axes) if found.dim() == len(axes) else found


def _is_safetensors(path: str) -> bool:
    # A header of JSON after its length in eight bytes.
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _of_safetensors(path: str) -> Iterator[Candidate]:
    opening = sys.modules["safetensors"].safe_open
    with files.unobserved():
        file = opening(path, framework="pt", device="cpu").__enter__()
    for name in file.keys():  # noqa: SIM118  # it is no mapping
        yield candidate(name, file.get_tensor(name))
