"""Weights that are put into a model after training began, and the files and runs from which they came."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule

from lightning_dtool.capture.ended_runs import EndedRun, ended_runs
from lightning_dtool.capture.parents import run_of
from lightning_dtool.capture.source_description import describe_source
from lightning_dtool.capture.tensor_match import (
    Candidate,
    Matches,
    ModelTensors,
    is_plain,
    named_tensors,
    patterns,
    sampled_candidate,
)
from lightning_dtool.capture.unknown_weights import change_of
from lightning_dtool.capture.weight_files import SKIPPED, UnreadableError, tensors_in
from lightning_dtool.capture.weight_sources import Source, choose_sources
from lightning_dtool.random_states import random_states_kept
from lightning_dtool.record import Gaps, WeightsSource, as_text
from lightning_dtool.watch import files, replaced

FACT = "model.loaded_weights"
"""The place in the record, also of its gaps."""

_SMALLEST = 8
"""Minimum number of elements of a tensor whose name and shape tell that a file holds weights of the model."""

_SAMPLED = 4
"""Number of tensors by which it is decided whether a load is worth a closer look."""

_MAX_OPENED = 200
"""Maximum number of files of safetensors or NumPy that are opened in a run. With more, they are data."""

MAX_LOADS = 1000
"""Maximum number of loads that are listed."""

_MAX_UNSEEN = 20
"""Maximum number of gaps."""

_CLOCK = 50_000_000
"""Nanoseconds by which the time of a file may be behind."""

_ARRAYS = (".npy", ".npz")

_WEIGHTS = ".safetensors"

_REMEDY = "put weights into the model with load_state_dict, from a file that is kept"


class _InFile(NamedTuple):
    """A tensor in a file."""

    name: str
    shape: tuple[int, ...]
    key: tuple[Any, ...]


class WeightsWatch:
    """Finds out which of a model's weights have been loaded since the last look.

    As for the initial weights, a tensor came from a file only if it is bitwise equal to a tensor there. Weights that
    are put in from memory, such as moving averages, have no other source than this training. A look costs a comparison
    of two numbers unless a file has been read, or `load_state_dict` called, since the last one.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        saver_of: Returns the UUID of the run of this process that has saved the file at a path.
    """

    def __init__(self, module: LightningModule, saver_of: Callable[[str], str | None] = lambda path: None) -> None:
        self._module = module
        self._saver_of = saver_of
        self._reads, self._loads = files.reads(), replaced.loads()
        self._held: dict[str, tuple[Any, ...]] = {}
        self._held_since = 0
        self._stepped: int | None = None
        self._runs: list[EndedRun] = []
        self._of_runs: frozenset[Any] = frozenset()
        self._files: dict[str, tuple[Any, list[_InFile]]] = {}
        self._expected: frozenset[tuple[str, tuple[int, ...]]] | None = None
        self._unseen: dict[str, str] = {}
        self._number = self._opened = 0
        self._gaps = Gaps()

    @property
    def gaps(self) -> Gaps:
        """What is not known of loaded weights."""
        found = Gaps()
        found.include(self._gaps)
        for reason in self._unseen.values():
            found.at(FACT).add(reason, _REMEDY)
        return found

    @property
    def has_news(self) -> bool:
        """Whether a file has been read, or values have been put into a module, since the last look."""
        return self._reads != files.reads() or self._loads != replaced.loads()

    def skip(self) -> None:
        """Take no notice of what has happened until now, because it is known as the initial weights."""
        self._reads, self._loads = files.reads(), replaced.loads()

    @torch.no_grad()
    def begin(self) -> None:
        """Note the weights with which training begins."""
        self._runs = ended_runs(self._module)
        self._of_runs = frozenset(_key_of(each) for run in self._runs for each in run.candidates)
        if self._runs or files.reads() or files.loaded_tensors():
            self._hold(0)

    def stepped(self) -> None:
        """Note that an optimizer takes a step."""
        self._stepped = time.time_ns()

    def epoch_start(self) -> None:
        """Note that the model may have other parts."""
        self._expected = None

    def look(self, run_uuid: str, epoch: int, global_step: int) -> list[WeightsSource]:
        """Return the sources of the weights that have been put in since the last look.

        Args:
            run_uuid: UUID of the run.
            epoch: The Trainer's current epoch.
            global_step: The number of optimizer steps.
        """
        reads, self._reads = self._reads, files.reads()
        loads, self._loads = self._loads, replaced.loads()
        with torch.no_grad():
            filled = self._filled(loads) if self._loads != loads else {}
            read = self._files_of_weights(reads) if self._reads != reads else {}
            is_known = bool(filled) and (bool(read) or self._may_be_known(filled, reads, global_step))
            if not is_known and not read:
                return []
            with random_states_kept():  # `state_dict` may be a method of the user's
                state = _state(self._module)
                seen: set[str | None] = set()
                chosen = self._arrived(state, filled, reads, global_step, seen) if is_known else []
                found = self._described(chosen, state, run_uuid)
                for path, names in read.items():
                    if path not in seen and not self._went_elsewhere(path, loads):
                        when = f"in epoch {epoch} after step {global_step}"
                        copied = self._copied(path, names, state, global_step, when)
                        found += self._described(copied, state, run_uuid)
                self._hold(global_step)
        return self._listed(found)

    def _listed(self, found: list[WeightsSource]) -> list[WeightsSource]:
        left = MAX_LOADS - self._number
        if len(found) > left:
            self._gaps.at(FACT).add(f"only the first {MAX_LOADS} loads are listed")
        self._number += len(found)
        return found[: max(left, 0)]

    # -- load_state_dict, and unpickled modules ----------------------------------------------------------

    def _filled(self, loads: int) -> dict[str, torch.Tensor]:
        """Return the tensors that were put in, by name."""
        filled = replaced.put_in(self._module, loads)
        if not filled:
            return {}
        return {name: tensor for name, tensor in named_tensors(self._module).items() if id(tensor) in filled}

    def _may_be_known(self, filled: Mapping[str, torch.Tensor], reads: int, global_step: int) -> bool:
        """Return False if the values that were put in are from memory: the largest are in no file or earlier run."""
        torch_load = {each.path for each in files.loaded_tensors(reads)} if self._reads != reads else set()
        if any(file.path not in torch_load for file in files.read_files(reads)):
            return True  # its tensors are not known yet
        largest = sorted(filled.items(), key=lambda entry: entry[1].numel(), reverse=True)
        for trainable in (True, False):
            some = [entry for entry in largest if entry[1].requires_grad is trainable and has_elements(entry[1])]
            for name, tensor in some[:_SAMPLED]:
                key = _key(tensor)
                if self._is_known(key) and self._is_new(name, key, trainable, global_step):
                    return True
        return False

    def _is_new(self, name: str, key: tuple[Any, ...], trainable: bool, global_step: int) -> bool:
        """Return False if a tensor had the same elements at the last look, and no step has changed it since."""
        if trainable:
            return self._held.get(name) != key or global_step > self._held_since
        return bool(self._held) and self._held.get(name) != key

    def _is_known(self, key: tuple[Any, ...]) -> bool:
        if files.was_loaded(key) or key in self._of_runs:
            return True
        return any(each.key == key for file in self._other_files() for each in self._tensors_in(file))

    def _arrived(
        self,
        state: Mapping[str, Any],
        filled: Mapping[str, torch.Tensor],
        reads: int,
        global_step: int,
        seen: set[str | None],
    ) -> list[Source]:
        """Return the sources of the tensors that were put in, and add to `seen` the files of which that is known."""
        model = ModelTensors({name: value for name, value in state.items() if name in filled})
        new = {name for name in model.significant(model.entries) if self._is_new_in(filled, name, global_step)}
        loaded = self._loaded_alike(model)
        fresh = {file.path for file in files.read_files(reads)}
        paths = dict.fromkeys(each.path for each in loaded if each.path is not None)
        mine = {_key(entry.tensor) for entry in model.entries.values() if entry.significant}
        for file in self._other_files():
            if file.path in fresh or mine & {each.key for each in self._tensors_in(file)}:
                paths[file.path] = None
        paths |= dict.fromkeys(self._arrays(fresh))
        sources = [Source(partial(tensors_in, path), path=path) for path in paths if files.file_state(path) is not None]
        runs = [Source(partial(getattr, run, "candidates"), run=run) for run in self._runs]
        put_in = {id(tensor) for tensor in filled.values()}
        problems: list[str] = []
        chosen = choose_sources(self._module, model, [*sources, *runs], put_in, problems)
        chosen = [each for each in chosen if each.path in fresh or each.matches.names() & new]
        seen |= {source.path for source in chosen}
        seen |= self._lost(loaded, model, chosen, new, problems, state)
        for source in chosen:
            self._unseen.pop(source.path or "", None)
        return chosen

    def _is_new_in(self, tensors: Mapping[str, torch.Tensor], name: str, global_step: int) -> bool:
        tensor = tensors.get(name)
        return tensor is not None and self._is_new(name, _key(tensor), tensor.requires_grad, global_step)

    def _loaded_alike(self, model: ModelTensors) -> list[files.LoadedTensor]:
        """Return the tensors that `torch.load` has returned and that may be equal to some of the model's."""
        shapes = {tuple(entry.tensor.shape) for entry in model.entries.values() if entry.significant}
        return [
            each for each in files.loaded_tensors() if each.shape in shapes and model.matches([_sampled(each)]).pairs
        ]

    def _other_files(self) -> list[files.ReadFile]:
        """Return the files that other functions than `torch.load` have read, without arrays, which are mostly data."""
        torch_load = {each.path for each in files.loaded_tensors()}
        return [file for file in files.read_files() if file.path not in torch_load and not file.path.endswith(_ARRAYS)]

    def _arrays(self, paths: Iterable[str]) -> list[str]:
        found = [path for path in paths if path.endswith(_ARRAYS)][: _MAX_OPENED - self._opened]
        self._opened += len(found)
        return found

    def _tensors_in(self, file: files.ReadFile) -> list[_InFile]:
        known = self._files.get(file.path)
        if known is None or known[0] != file.state:
            if len(self._files) >= _MAX_OPENED:
                return []
            known = self._files[file.path] = file.state, _read(file.path)
        return known[1]

    def _lost(
        self,
        loaded: Sequence[files.LoadedTensor],
        model: ModelTensors,
        chosen: Sequence[Source],
        new: set[str],
        problems: Sequence[str],
        state: Mapping[str, Any],
    ) -> set[str | None]:
        """Add a gap for values that `torch.load` has returned and that no file holds. Return where they were read."""
        found = {name for source in chosen for name in source.matches.names()}
        lost = model.significant((model.matches([_sampled(each) for each in loaded]).names() - found) & new)
        # Such as a target network, into which the weights of another part of the model were put.
        if not lost or any(model.copies(name) & found for name in lost):
            return set()
        paths = {each.path for each in loaded if model.matches([_sampled(each)]).names() & lost}
        read = [file for file in files.read_files() if file.path in paths]
        reasons = [*problems, *(f"{file.path} {change}" for file in read if (change := change_of(file)))]
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        reason = f"torch.load returned values that no file that was read holds{why}: {_in_words(lost, state)}"
        self._gaps.at(FACT).add(reason, _REMEDY)
        return paths

    def _described(self, chosen: Sequence[Source], state: Mapping[str, Any], run_uuid: str) -> list[WeightsSource]:
        if not chosen:
            return []
        model = ModelTensors(state)
        described = [describe_source(self._module, source, state, model) for source in chosen]
        return [
            each.model_copy(update={"run_uuid": run_uuid})
            if each.run_uuid is None and self._is_own(each, run_uuid)
            else each
            for each in described
        ]

    def _is_own(self, source: WeightsSource, run_uuid: str) -> bool:
        if source.path is not None and self._saver_of(source.path) == run_uuid:
            return True  # also if its dataset is not finished yet
        return source.dataset is not None and run_of(source.dataset.uri) == run_uuid

    def _hold(self, global_step: int) -> None:
        tensors = named_tensors(self._module)
        self._held = {name: _key(tensor) for name, tensor in tensors.items() if has_elements(tensor)}
        self._held_since = global_step

    # -- files whose content may have been copied by hand ------------------------------------------------

    def _copied(
        self, path: str, names: Sequence[str], state: Mapping[str, Any], global_step: int, when: str
    ) -> list[Source]:
        """Return a file as source if the model holds its values. Otherwise, note that it was only read."""
        model, tensors = ModelTensors(state), named_tensors(self._module)
        every = {id(tensor) for tensor in tensors.values()}
        found = choose_sources(self._module, model, [Source(partial(tensors_in, path), path=path)], every, [])
        matches = found[0].matches if found else Matches()
        if any(self._is_new_in(tensors, name, global_step) for name in model.significant(matches.names())):
            if self._stepped is not None and not _is_older(path, self._stepped):
                return []  # it may have been saved from the weights as they are
            self._unseen.pop(path, None)
            return found
        if not set(names) <= set(matches.pairs.values()) and len(self._unseen) < _MAX_UNSEEN:
            self._unseen[path] = (
                f"{as_text(path)}, which holds tensors with names and shapes of this model's, was read {when}, and "
                f"what became of its values is not known: {_in_words(names, names)}"
            )
        return []

    def _files_of_weights(self, reads: int) -> dict[str, list[str]]:
        """Return the files that were read and that hold tensors with names and shapes of the model's."""
        if self._expected is None:
            self._expected = frozenset(
                (_last(name), tuple(tensor.shape))
                for name, tensor in named_tensors(self._module).items()
                if has_elements(tensor) and tensor.numel() >= _SMALLEST
            )
        found: dict[str, list[str]] = {}
        for loaded in files.loaded_tensors(reads):
            is_expected = (_last(loaded.name), loaded.shape) in self._expected
            if is_expected and loaded.path is not None and loaded.name.partition(".")[0] not in SKIPPED:
                found.setdefault(loaded.path, []).append(loaded.name)
        for file in files.read_files(reads):
            if file.path.endswith(_WEIGHTS):
                tensors = self._tensors_in(file)
                names = [each.name for each in tensors if (_last(each.name), each.shape) in self._expected]
                if names:
                    found[file.path] = names
        return found

    def _went_elsewhere(self, path: str, loads: int) -> bool:
        loaded = [_key_of(_sampled(each)) for each in files.loaded_tensors() if each.path == path]
        others = [each.key for each in self._files.get(path, (None, []))[1]]
        return any(replaced.went_elsewhere(key, self._module, loads) for key in [*loaded, *others])


def has_elements(tensor: torch.Tensor) -> bool:
    """Return True for a tensor of numbers with a fraction, whose elements can be compared."""
    return is_plain(tensor) and tensor.is_floating_point()


def _state(module: LightningModule) -> Mapping[str, Any]:
    try:
        return module.state_dict()
    except Exception:  # for example an extra state of the user's
        return named_tensors(module)


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    return files.sample_key(tensor, files.sample_of(tensor))


def _key_of(candidate: Candidate) -> tuple[Any, ...]:
    sample = candidate.sample()
    return (candidate.shape, *files.sample_key(sample, sample)[1:])


def _read(path: str) -> list[_InFile]:
    try:
        return [_InFile(each.name, each.shape, _key_of(each)) for each in tensors_in(path)]
    except UnreadableError:
        return []


def _sampled(loaded: files.LoadedTensor) -> Candidate:
    return sampled_candidate(loaded.name, loaded.shape, loaded.sample, lambda _: True)


def _is_older(path: str, time_ns: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns < time_ns - _CLOCK
    except OSError:
        return False


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _in_words(names: Iterable[str], every: Iterable[str]) -> str:
    shown = [as_text(name) for name in patterns(set(names), every)]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
