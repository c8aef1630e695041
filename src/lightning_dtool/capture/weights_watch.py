"""Weights that are put into a model after training began, and the files and runs from which they came."""

import heapq
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule

from lightning_dtool.capture.ended_runs import EndedRun, ended_runs
from lightning_dtool.capture.parents import run_of
from lightning_dtool.capture.read_weights import Key, ReadWeights, has_elements, key_for, key_of, last_part, sampled
from lightning_dtool.capture.source_description import describe_source
from lightning_dtool.capture.tensor_match import Matches, ModelTensors, named_tensors, patterns
from lightning_dtool.capture.unknown_weights import change_of
from lightning_dtool.capture.weight_files import tensors_in
from lightning_dtool.capture.weight_sources import Source, choose_sources
from lightning_dtool.random_states import random_states_kept
from lightning_dtool.record import Gaps, WeightsSource, as_text
from lightning_dtool.watch import files, replaced

MAX_LOADS = 1000
"""Maximum number of loads that are listed."""

_FACT = "model.loaded_weights"
"""The place in the record, also of the gaps."""

_SMALLEST = 8
"""Minimum number of elements of a tensor whose name and shape tell that a file holds weights of the model."""

_SAMPLED = 4
"""Number of tensors by which it is decided whether a load is worth a closer look."""

_MAX_UNSEEN = 20
"""Maximum number of files that are gaps."""

_CLOCK = 50_000_000
"""Nanoseconds by which the time of a file may be behind."""

_REMEDY = "put weights into the model with load_state_dict, from a file that is kept"


class _Held(NamedTuple):
    """A tensor at the last look.

    Attributes:
        key: The key of what it held.
        others: How often it had been changed in place by something else than loads.
    """

    key: Key
    others: int


class _Moment(NamedTuple):
    """What is known of a look.

    Attributes:
        reads: How often files had been opened at the last look.
        loads: How often values had been put into modules.
        state: The state dict.
        when: The epoch and the step, in words.
        explained: The files of which it is known what became of them.
    """

    reads: int
    loads: int
    state: Mapping[str, Any]
    when: str
    explained: set[str | None]


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
        self._read = ReadWeights()
        self._runs: list[EndedRun] = []
        self._of_runs: frozenset[Key] = frozenset()
        self._held: dict[str, _Held] = {}
        self._stepped: int | None = None
        self._expected: frozenset[tuple[str, tuple[int, ...]]] | None = None
        self._unseen: dict[str, str] = {}
        self._number = 0
        self._gaps = Gaps()

    @property
    def gaps(self) -> Gaps:
        """What is not known of loaded weights."""
        found = Gaps()
        found.include(self._gaps)
        for reason in self._unseen.values():
            found.at(_FACT).add(reason, _REMEDY)
        return found

    @property
    def has_news(self) -> bool:
        """Whether a file has been read, or values have been put into a module, since the last look."""
        return self._reads != files.reads() or self._loads != replaced.loads()

    @property
    def has_read_weights(self) -> bool:
        """Whether a file with tensors of names and shapes of the model's has been read since the last look."""
        return self._reads != files.reads() and bool(self._files_of_weights(self._reads))

    @torch.no_grad()
    def begin(self) -> None:
        """Take no notice of what has happened until now, because it is known as the initial weights."""
        self._reads, self._loads = files.reads(), replaced.loads()
        self._runs = ended_runs(self._module)
        self._of_runs = frozenset(key_of(each) for run in self._runs for each in run.candidates)
        if self._runs or files.reads() or files.loaded_tensors():
            self._hold()

    @torch.no_grad()
    def first_batch(self) -> None:
        """Forget changes in place that have changed nothing: a resumed run puts back what a sanity check has moved."""
        tensors = named_tensors(self._module)
        for name, held in self._held.items():
            if name in tensors and has_elements(tensors[name]) and held.key == key_for(tensors[name]):
                self._held[name] = held._replace(others=_other_changes(tensors[name]))

    @torch.no_grad()
    def epoch_start(self) -> bool:
        """Return True if the largest weights have become those of a file that was read earlier: someone copied them."""
        self._expected = None  # the model may have other parts
        return bool(self._held) and bool(self._files_of_largest())

    def stepped(self) -> None:
        """Note that an optimizer takes a step."""
        self._stepped = time.time_ns()

    @torch.no_grad()
    def look(self, run_uuid: str, epoch: int, global_step: int, copied: bool = False) -> list[WeightsSource]:
        """Return the sources of the weights that have been put in since the last look.

        Args:
            run_uuid: UUID of the run.
            epoch: The Trainer's current epoch.
            global_step: The number of optimizer steps.
            copied: The result of `epoch_start`.
        """
        reads, self._reads = self._reads, files.reads()
        loads, self._loads = self._loads, replaced.loads()
        filled = self._filled(loads) if self._loads != loads else {}
        read = self._files_of_weights(reads) if self._reads != reads else {}
        if copied and not filled:
            read = {**dict.fromkeys(self._files_of_largest(), ()), **read}
        if not read and not (filled and self._may_be_known(filled, reads)):
            return []
        with random_states_kept():  # `state_dict` may be a method of the user's
            when = f"in epoch {epoch} after step {global_step}"
            moment = _Moment(reads, loads, _state(self._module), when, set())
            found = self._arrived(filled, moment) if filled else []
            for path, names in read.items():
                if path not in moment.explained:
                    found += self._copied(path, names, moment)
            described = self._described(found, moment.state, run_uuid)
            self._hold()
        return self._listed(described)

    # -- what the model held at the last look ------------------------------------------------------------

    def _hold(self) -> None:
        tensors = named_tensors(self._module)
        self._held = {
            name: _Held(key_for(tensor), _other_changes(tensor))
            for name, tensor in tensors.items()
            if has_elements(tensor)
        }

    def _is_new(self, name: str, tensor: torch.Tensor) -> bool:
        """Return False if a tensor has held the same elements all the time since the last look."""
        held = self._held.get(name)
        if held is None:
            return tensor.requires_grad or bool(self._held)
        return held.key != key_for(tensor) or held.others != _other_changes(tensor)

    # -- load_state_dict, and unpickled modules ----------------------------------------------------------

    def _filled(self, loads: int) -> dict[str, torch.Tensor]:
        """Return the tensors that were put in, by name."""
        filled = replaced.put_in(self._module, loads)
        if not filled:
            return {}
        return {name: tensor for name, tensor in named_tensors(self._module).items() if id(tensor) in filled}

    def _may_be_known(self, filled: Mapping[str, torch.Tensor], reads: int) -> bool:
        """Return False if the values that were put in are from memory: the largest are in no file or earlier run."""
        if self._reads != reads and self._read.unsampled(reads):
            return True
        largest = sorted(filled.items(), key=lambda entry: entry[1].numel(), reverse=True)
        for trainable in (True, False):
            some = [entry for entry in largest if entry[1].requires_grad is trainable and has_elements(entry[1])]
            for name, tensor in some[:_SAMPLED]:
                key = key_for(tensor)
                if (key in self._of_runs or self._read.holds(key)) and self._is_new(name, tensor):
                    return True
        return False

    def _arrived(self, filled: Mapping[str, torch.Tensor], moment: _Moment) -> list[Source]:
        """Return the sources of the tensors that were put in."""
        model = ModelTensors({name: value for name, value in moment.state.items() if name in filled})
        significant = model.significant(model.entries)
        new = {name for name in significant if name in filled and self._is_new(name, filled[name])}
        shapes = {tuple(model.entries[name].tensor.shape) for name in significant}
        alike = [each for each in files.loaded_tensors() if each.shape in shapes]
        loaded = [(each, names) for each in alike if (names := model.matches([sampled(each)]).names())]
        keys = {key_for(model.entries[name].tensor) for name in significant}
        paths = dict.fromkeys(each.path for each, _ in loaded if each.path is not None)
        paths |= dict.fromkeys(self._read.with_keys(keys, moment.reads))
        sources = [_of_file(path) for path in paths if files.file_state(path) is not None]
        sources += [Source(partial(getattr, run, "candidates"), run=run) for run in self._runs]
        put_in = {id(tensor) for tensor in filled.values()}
        problems: list[str] = []
        chosen = choose_sources(self._module, model, sources, put_in, problems)
        fresh = {file.path for file in files.read_files(moment.reads)}
        chosen = [source for source in chosen if source.path in fresh or source.matches.names() & new]
        found = {name for source in chosen for name in source.matches.names()}
        lost = model.significant({name for _, names in loaded for name in names} - found) & new
        # A target network, for example, has its weights from another part of the model.
        if lost and not any(model.copies(name) & found for name in lost):
            from_paths = {each.path for each, names in loaded if names & lost}
            self._note_lost(lost, from_paths, problems, moment)
        for source in chosen:
            moment.explained.add(source.path)
            self._unseen.pop(source.path or "", None)
        return chosen

    def _note_lost(self, lost: set[str], paths: set[str | None], problems: Sequence[str], moment: _Moment) -> None:
        """Add a gap for values that were loaded and that no file holds."""
        read = [file for file in files.read_files() if file.path in paths]
        reasons = [*problems, *(f"{file.path} {change}" for file in read if (change := change_of(file)))]
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        reason = f"values were loaded that no file that was read holds{why}: {_in_words(lost, moment.state)}"
        self._gaps.at(_FACT).add(reason, _REMEDY)
        moment.explained.update(paths)

    # -- files whose content may have been copied by hand ------------------------------------------------

    def _files_of_largest(self) -> list[str]:
        """Return the files that hold the largest trainable weights, if these have changed since the last look."""
        trainable = [entry for entry in self._module.named_parameters() if entry[1].requires_grad]
        largest = heapq.nlargest(_SAMPLED, trainable, key=lambda entry: entry[1].numel())
        new = [tensor for name, tensor in largest if has_elements(tensor) and self._is_new(name, tensor)]
        paths = [self._read.file_with(key_for(tensor)) for tensor in new]
        return [path for path in dict.fromkeys(paths) if path is not None and files.file_state(path) is not None]

    def _files_of_weights(self, reads: int) -> dict[str, Sequence[str]]:
        """Return the files that were read and that hold tensors with names and shapes of the model's."""
        if self._expected is None:
            self._expected = frozenset(
                (last_part(name), tuple(tensor.shape))
                for name, tensor in named_tensors(self._module).items()
                if has_elements(tensor) and tensor.numel() >= _SMALLEST
            )
        return self._read.with_names_and_shapes(self._expected, reads)

    def _copied(self, path: str, names: Sequence[str], moment: _Moment) -> list[Source]:
        """Return a file as source if the model holds its values. Otherwise, note that it was only read."""
        model, tensors = ModelTensors(moment.state), named_tensors(self._module)
        every = {id(tensor) for tensor in tensors.values()}
        found = choose_sources(self._module, model, [_of_file(path)], every, [])
        matches = found[0].matches if found else Matches()
        if any(name in tensors and self._is_new(name, tensors[name]) for name in model.significant(matches.names())):
            if self._stepped is not None and not _is_older(path, self._stepped):
                return []  # it may have been saved from the weights as they are
            self._unseen.pop(path, None)
            return found
        is_whole = set(names) <= set(matches.pairs.values())
        if is_whole or len(self._unseen) >= _MAX_UNSEEN or self._went_elsewhere(path, moment.loads):
            return []
        self._unseen[path] = (
            f"{as_text(path)}, which holds tensors with names and shapes of this model's, was read {moment.when}, and "
            f"what became of its values is not known: {_in_words(names, names)}"
        )
        return []

    def _went_elsewhere(self, path: str, loads: int) -> bool:
        return any(replaced.went_elsewhere(key, self._module, loads) for key in self._read.keys_of(path))

    # -- the description ----------------------------------------------------------------------------------

    def _described(self, found: Sequence[Source], state: Mapping[str, Any], run_uuid: str) -> list[WeightsSource]:
        if not found:
            return []
        model = ModelTensors(state)
        described = [describe_source(self._module, source, state, model) for source in found]
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

    def _listed(self, found: list[WeightsSource]) -> list[WeightsSource]:
        left = max(MAX_LOADS - self._number, 0)
        if len(found) > left:
            self._gaps.at(_FACT).add(f"only the first {MAX_LOADS} loads are listed")
        self._number += len(found)
        return found[:left]


def _state(module: LightningModule) -> Mapping[str, Any]:
    try:
        return module.state_dict()
    except Exception:  # for example an extra state of the user's
        return named_tensors(module)


def _of_file(path: str) -> Source:
    return Source(partial(tensors_in, path), path=path)


def _other_changes(tensor: torch.Tensor) -> int:
    return replaced.version(tensor) - replaced.times_filled(tensor)


def _is_older(path: str, time_ns: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns < time_ns - _CLOCK
    except OSError:
        return False


def _in_words(names: Iterable[str], every: Iterable[str]) -> str:
    shown = [as_text(name) for name in patterns(set(names), every)]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
