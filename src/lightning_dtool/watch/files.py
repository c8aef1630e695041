"""Files that weights may have been read from.

Every file that `torch.load`, safetensors or `numpy.load` opens is noted, whatever it holds. Whether its tensors are in
a model is found out when fitting begins. Noting costs a few microseconds, and a bounded number of files is kept: a
dataset may read a hundred thousand sample files in the same way.
"""

import contextlib
import functools
import importlib.abc
import importlib.util
import itertools
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

TUNER_CHECKPOINTS = (".lr_find_", ".scale_batch_size_")
"""Beginnings of the names of the checkpoints that Lightning's tuner saves, loads again and removes."""

_MAX_RECENT = 64
_MAX_PINNED = 256
_MAX_LOADED = 8192
_MAX_DEPTH = 8

SAMPLES = 32
"""Number of elements of a tensor that its sample has."""

_recent: OrderedDict[str, "ReadFile"] = OrderedDict()
"""The last files that were read, by path. Of too many, the smallest are dropped."""

_pinned: OrderedDict[str, "ReadFile"] = OrderedDict()
"""The files that were read before values were put into a module. Later sample files do not displace them."""

_uris: OrderedDict[str, str] = OrderedDict()
"""The URI of the dataset that a local file was fetched from, by path."""

_loaded: OrderedDict[tuple[Any, ...], "LoadedTensor"] = OrderedDict()
"""The last tensors that `torch.load` returned, by `sample_key`: their source may be a stream, or vanish."""

_reads = 0
"""How often a file was opened."""

_thread = threading.local()

_began = time.time()


@dataclass(frozen=True)
class ReadFile:
    """A file as it was when a program opened it.

    Attributes:
        path: Absolute path, as the program gave it: links are not followed, because their names say where it is from.
        state: Size and time of the last change, or None if it could not be read.
        number: How often files had been opened before.
    """

    path: str
    state: tuple[int, int] | None
    number: int = 0

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.state[0] if self.state is not None else 0


@dataclass(frozen=True)
class LoadedTensor:
    """A tensor that `torch.load` returned.

    Attributes:
        name: Its place in what was loaded, such as `state_dict.head.weight`.
        shape: Its shape.
        sample: Some of its elements.
        path: The file. None if it came from a stream.
        number: How often files had been opened when it was returned.
    """

    name: str
    shape: tuple[int, ...]
    sample: Any
    path: str | None
    number: int


def note(path: str | os.PathLike[str], uri: str | None = None) -> None:
    """Note that a program may have read weights from a file.

    Args:
        path: The file.
        uri: The dataset that it is an item of, if it is a local copy of a remote item.
    """
    if getattr(_thread, "unobserved", False):
        return
    global _reads
    found = os.path.abspath(os.fspath(path))
    _recent[found] = ReadFile(found, file_state(found), _reads)
    _reads += 1
    _recent.move_to_end(found)
    if len(_recent) > _MAX_RECENT:
        # The smallest file is the least likely to hold a model's weights. Another thread may change the table.
        with contextlib.suppress(RuntimeError, KeyError, ValueError):
            del _recent[min(_recent.values(), key=lambda file: file.size).path]
    if uri is not None:
        _keep(_uris, found, uri, _MAX_PINNED)


def pin() -> None:
    """Keep the files that were read last, because values are put into a module."""
    while _recent:
        path, file = _recent.popitem(last=False)
        _keep(_pinned, path, file, _MAX_PINNED)


def read_files(since: int = 0) -> list[ReadFile]:
    """Return the files that were read, the last one first.

    Args:
        since: The result of `reads` before. Default: return all that are known.
    """
    latest = (_latest(table, lambda file: file.number >= since) for table in (_recent, _pinned))
    found = {file.path: file for file in itertools.chain.from_iterable(latest)}
    return list(found.values())


def reads() -> int:
    """Return how often files have been opened in this process."""
    return _reads


def loaded_tensors(since: int = 0) -> list[LoadedTensor]:
    """Return the last tensors that `torch.load` returned, from whatever source, the latest first.

    Args:
        since: The result of `reads` before. Default: return all that are known.
    """
    return _latest(_loaded, lambda tensor: tensor.number > since or not since)


def loaded_as(key: tuple[Any, ...]) -> LoadedTensor | None:
    """Return the tensor that is probably equal and that `torch.load` has returned last. None if there is none.

    Args:
        key: The result of `sample_key` for a tensor.
    """
    return _loaded.get(key)


def sample_key(tensor: Any, sample: Any) -> tuple[Any, ...]:
    """Return what tensors have in common that are probably equal.

    Args:
        tensor: A tensor.
        sample: The result of `sample_of` for it.
    """
    import torch

    return tuple(tensor.shape), tensor.dtype, sample.contiguous().view(torch.uint8).numpy().tobytes()


def sample_of(tensor: Any) -> Any:
    """Return some elements of a tensor, evenly spaced, on the CPU."""
    flat = tensor.detach().reshape(-1)
    count = flat.numel()
    if count <= SAMPLES:
        return flat.cpu()
    return flat[:: count // SAMPLES][:SAMPLES].cpu()


def restored_by_tuner() -> ReadFile | None:
    """Return the file that was read last, and forget it, if Lightning's tuner restores a model from it."""
    last = next(reversed(_recent), "")
    return _recent.pop(last, None) if is_tuner_checkpoint(last) else None


def uri_of(path: str) -> str | None:
    """Return the URI of the dataset that a local file was fetched from, if it is known."""
    return _uris.get(path)


def file_state(path: str) -> tuple[int, int] | None:
    """Return the size and the time of the last change of a file. None if it cannot be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def is_older(file: str) -> bool:
    """Return True if a file has not been written since observing began."""
    state = file_state(file)
    return state is not None and state[1] / 1e9 < _began


def is_tuner_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return True for the path of a checkpoint that Lightning's tuner saves for itself."""
    return os.path.basename(os.fspath(path)).startswith(TUNER_CHECKPOINTS)


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Note no files within, in this thread."""
    before = getattr(_thread, "unobserved", False)
    _thread.unobserved = True
    try:
        yield
    finally:
        _thread.unobserved = before


def install() -> None:
    """Begin to observe `torch.load`, safetensors, and `numpy.load` (torch imports NumPy if it is installed)."""
    import torch

    opening = torch.serialization._open_file_like

    @functools.wraps(opening)
    def open_file_like(name_or_buffer: Any, mode: str) -> Any:
        if "r" in mode:
            _thread.opened = note_opened(name_or_buffer)
        return opening(name_or_buffer, mode)

    torch.serialization._open_file_like = open_file_like
    for name in ("_load", "_legacy_load"):
        setattr(torch.serialization, name, _observed_load(getattr(torch.serialization, name)))
    if "numpy" in sys.modules:
        _observe_numpy(sys.modules["numpy"])
    if "safetensors" in sys.modules:
        _observe_safetensors(sys.modules["safetensors"])
    else:
        sys.meta_path.insert(0, _WhenImported("safetensors", _observe_safetensors))


def note_opened(name_or_buffer: Any) -> str | None:
    """Note a file by its path or by an open file, and return its path. None if it is not known."""
    # A buffer may be any object of the user's, and its name may be a number.
    with contextlib.suppress(Exception):
        path = name_or_buffer if isinstance(name_or_buffer, str | os.PathLike) else name_or_buffer.name
        if isinstance(path, str | os.PathLike):
            note(path)
            return os.path.abspath(os.fspath(path))
    return None


def _observed_load(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        # The result may be any object of the user's.
        with contextlib.suppress(Exception):
            # Lightning's tuner puts back what it has saved itself.
            if not getattr(_thread, "unobserved", False) and not is_tuner_checkpoint(next(reversed(_recent), "")):
                note_loaded(result, getattr(_thread, "opened", None))
        return result

    return load


def note_loaded(value: Any, path: str | None) -> None:
    """Note the tensors in what was read from a file.

    Args:
        value: A tensor, or nested containers of tensors.
        path: The file. None if it was a stream.
    """
    _note_loaded(value, "", path, 0, set())


def _note_loaded(value: Any, name: str, path: str | None, depth: int, seen: set[int]) -> None:
    import torch

    if type(value) in (torch.Tensor, torch.nn.Parameter):
        if value.is_floating_point() and value.layout is torch.strided and not value.is_meta and value.numel():
            sample = sample_of(value).clone()
            found = LoadedTensor(name, tuple(value.shape), sample, path, _reads)
            _keep(_loaded, sample_key(value, sample), found, _MAX_LOADED)
        return
    if isinstance(value, torch.nn.Module):
        value = {**dict(value.named_parameters()), **dict(value.named_buffers())}
    if isinstance(value, dict | list | tuple) and depth < _MAX_DEPTH and id(value) not in seen:
        seen.add(id(value))  # lists that hold one another many times over would take forever
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(items)[:_MAX_LOADED]:
            if isinstance(item, torch.Tensor | torch.nn.Module | dict | list | tuple):
                _note_loaded(item, f"{name}.{key}" if name else str(key), path, depth + 1, seen)


def _latest(table: OrderedDict[Any, T], is_wanted: Callable[[T], bool]) -> list[T]:
    """Return the last entries of a table, the latest first, up to the first one that is not wanted."""
    while True:
        # Another thread, such as one that reads samples, may change the table.
        with contextlib.suppress(RuntimeError, KeyError):
            return list(itertools.takewhile(is_wanted, reversed(table.values())))


def _keep(table: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > limit:
        # Another thread may have removed an entry.
        with contextlib.suppress(KeyError):
            table.popitem(last=False)


def _observe_numpy(package: Any) -> None:
    original = package.load

    @functools.wraps(original)
    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        note_opened(file)
        return original(file, *args, **kwargs)

    package.load = load


# -- safetensors ----------------------------------------------------------------------------------


def _observe_safetensors(package: ModuleType) -> None:
    """Replace `safe_open` wherever it is referenced: modules that are imported later take it from the package."""
    original = package.safe_open
    replacement = _observed_class(original)
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if type(names) is dict and names.get("safe_open") is original:
            names["safe_open"] = replacement


def _observed_class(original: Any) -> Any:
    """Return what stands for the class `safe_open`, which is written in Rust and has no subclasses."""

    class Observed(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            note_opened(args[0] if args else kwargs.get("filename"))
            pin()  # the format holds nothing but weights
            return original(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, original)

        def __getattr__(cls, name: str) -> Any:
            return getattr(original, name)

    details = {"__doc__": original.__doc__, "__module__": original.__module__, "__wrapped__": original}
    return Observed("safe_open", (), details)


class _WhenImported(importlib.abc.MetaPathFinder):
    """A finder that finds nothing itself, and calls a function once a module has been imported."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self._name:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            # The library may have changed, and its import must not fail.
            with contextlib.suppress(Exception):
                self._then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
