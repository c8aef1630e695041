"""The files that are read during training, and the tensors in them that may be weights."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch

from lightning_dtool.capture.tensor_match import Candidate, is_plain, sampled_candidate
from lightning_dtool.capture.weight_files import SKIPPED, UnreadableError, tensors_in
from lightning_dtool.watch import files

_MAX_OPENED = 200
"""Maximum number of files that are opened for a look. With more, they are data."""

_ARRAYS = (".npy", ".npz")

_WEIGHTS = ".safetensors"
"""Ending of the files that hold nothing but tensors. What `torch.load` has returned is known without opening them."""

Key = tuple[Any, ...]
"""What is equal for tensors that are probably equal."""

Expected = Collection[tuple[str, tuple[int, ...]]]
"""The last part of the names of weights, with their shapes."""


class _InFile(NamedTuple):
    name: str
    shape: tuple[int, ...]
    key: Key


class ReadWeights:
    """The tensors in files that were read.

    What `torch.load` returns is sampled when it is loaded. Other files are opened, once, when it matters.
    """

    def __init__(self) -> None:
        self._opened: dict[str, tuple[Any, list[_InFile]]] = {}
        self._arrays = 0

    def holds(self, key: Key) -> bool:
        """Return True if a tensor that was read is probably equal to one with this key."""
        return files.loaded_as(key) is not None or self.file_with(key) is not None

    def file_with(self, key: Key) -> str | None:
        """Return a file from which a tensor was read that is probably equal to one with this key."""
        loaded = files.loaded_as(key)
        if loaded is not None and loaded.path is not None:
            return loaded.path
        holding = (file.path for file in _others() if any(each.key == key for each in self._tensors_in(file)))
        return next(holding, None)

    def keys_of(self, path: str) -> set[Key]:
        """Return the keys of the tensors in a file, as far as they are known."""
        loaded = {key_of(sampled(each)) for each in files.loaded_tensors() if each.path == path}
        return loaded | {each.key for each in self._opened.get(path, (None, []))[1]}

    def unsampled(self, since: int) -> bool:
        """Return True if a file was read whose tensors are not known yet.

        Args:
            since: The result of `files.reads` before.
        """
        loaded = {each.path for each in files.loaded_tensors(since)}
        return any(file.path not in loaded for file in files.read_files(since))

    def with_names_and_shapes(self, expected: Expected, since: int) -> dict[str, Sequence[str]]:
        """Return the files that hold tensors with the names and shapes of weights, with the names in the file.

        Args:
            expected: The names and shapes.
            since: The result of `files.reads` before.
        """
        found: dict[str, list[str]] = {}
        for loaded in files.loaded_tensors(since):
            is_expected = (last_part(loaded.name), loaded.shape) in expected
            if is_expected and loaded.path is not None and loaded.name.partition(".")[0] not in SKIPPED:
                found.setdefault(loaded.path, []).append(loaded.name)
        for file in files.read_files(since):
            if file.path.endswith(_WEIGHTS):
                names = [each.name for each in self._tensors_in(file) if (last_part(each.name), each.shape) in expected]
                if names:
                    found[file.path] = names
        return dict(found)

    def with_keys(self, keys: set[Key], since: int) -> list[str]:
        """Return the files, read by other functions than `torch.load`, that hold some tensors or were read just now.

        Args:
            keys: The keys of the tensors.
            since: The result of `files.reads` before.
        """
        fresh = {file.path for file in files.read_files(since)}
        held = [
            file for file in _others() if file.path in fresh or keys & {each.key for each in self._tensors_in(file)}
        ]
        arrays = [path for path in fresh if path.endswith(_ARRAYS)][: _MAX_OPENED - self._arrays]
        self._arrays += len(arrays)
        return [*(file.path for file in held), *arrays]

    def _tensors_in(self, file: files.ReadFile) -> list[_InFile]:
        known = self._opened.get(file.path)
        if known is None or known[0] != file.state:
            if len(self._opened) >= _MAX_OPENED:
                return []
            known = self._opened[file.path] = file.state, _read(file.path)
        return known[1]


def _others() -> list[files.ReadFile]:
    """Return the files that other functions than `torch.load` have read, without arrays, which are mostly data."""
    loaded = {each.path for each in files.loaded_tensors()}
    return [file for file in files.read_files() if file.path not in loaded and not file.path.endswith(_ARRAYS)]


def _read(path: str) -> list[_InFile]:
    try:
        return [_InFile(each.name, each.shape, key_of(each)) for each in tensors_in(path)]
    except UnreadableError:
        return []


def has_elements(tensor: torch.Tensor) -> bool:
    """Return True for a tensor of floating point numbers that can be compared."""
    return is_plain(tensor) and tensor.is_floating_point()


def key_for(tensor: torch.Tensor) -> Key:
    """Return the key of a tensor."""
    return files.sample_key(tensor, files.sample_of(tensor))


def key_of(candidate: Candidate) -> Key:
    """Return the key of a tensor in a file or of an earlier run."""
    sample = candidate.sample()
    return (candidate.shape, *files.sample_key(sample, sample)[1:])


def sampled(loaded: files.LoadedTensor) -> Candidate:
    """Return a tensor that `torch.load` has returned, of which only a sample is known."""
    return sampled_candidate(loaded.name, loaded.shape, loaded.sample, lambda _: True)


def last_part(name: str) -> str:
    """Return the part of a dotted name after the last dot."""
    return name.rpartition(".")[2]
