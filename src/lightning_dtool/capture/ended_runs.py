"""The recorded runs of this process that have ended, with digests of their last weights."""

import os
import weakref
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from torch.utils.weak import WeakIdKeyDictionary

from lightning_dtool.capture import tensor_match
from lightning_dtool.capture.parameter_versions import changed_parameters
from lightning_dtool.capture.tensor_match import Candidate, is_plain
from lightning_dtool.watch import files, replaced

_MAX_RUNS = 8
"""Number of ended runs that are known, besides the last run of each module."""


@dataclass(frozen=True)
class EndedRun:
    """The last weights of a recorded run of this process.

    Attributes:
        uuid: UUID of the run.
        module: The LightningModule, while it exists.
        candidates: Its tensors. Only their digests are kept.
        changed: The names of the parameters that the run has changed.
        checkpoints: URI and local file of each checkpoint that the run has published, the best one first.
    """

    uuid: str
    module: Callable[[], LightningModule | None]
    candidates: Sequence[Candidate]
    changed: frozenset[str]
    checkpoints: Sequence[tuple[str, str]]


_ended: deque[EndedRun] = deque(maxlen=_MAX_RUNS)

_last_runs: MutableMapping[LightningModule, EndedRun] = WeakIdKeyDictionary()
"""The last run of each module that still exists, however many runs there were since."""


def remember_run(uuid: str, module: LightningModule, checkpoints: Sequence[tuple[str, str]]) -> None:
    """Keep the digests of a run's last weights, so that a later run of this process can be known to continue it.

    Args:
        uuid: UUID of the run.
        module: The LightningModule, not wrapped by a strategy.
        checkpoints: URI and local file of each checkpoint that the run has published, the best one first.
    """
    with torch.no_grad():
        candidates = [_by_digest(name, tensor) for name, tensor in module.state_dict().items() if is_plain(tensor)]
    run = EndedRun(uuid, weakref.ref(module), candidates, changed_parameters(module), checkpoints)
    _ended.append(run)
    _last_runs[module] = run
    replaced.accounted_for(module)


def ended_runs(module: LightningModule) -> list[EndedRun]:
    """Return the runs that have ended, the latest first, with the last one of a module, however long ago it was.

    Args:
        module: The LightningModule, not wrapped by a strategy.
    """
    ended = [*reversed(_ended)]
    last = _last_runs.get(module)
    return [*ended, last] if last is not None and last not in ended else ended


def published_as(path: str) -> tuple[EndedRun, str] | None:
    """Return the latest run that has published a file, and the URI of the dataset that it became.

    Args:
        path: The file, or a link to it.
    """
    real = os.path.realpath(path)
    published = ((run, uri, file) for run in reversed(_ended) for uri, file in run.checkpoints)
    return next(((run, uri) for run, uri, file in published if os.path.realpath(file) == real), None)


def _by_digest(name: str, tensor: torch.Tensor) -> Candidate:
    sample, sha = files.sample_of(tensor).clone(), tensor_match.digest(tensor)
    dtype, shape = tensor.dtype, tuple(tensor.shape)
    return tensor_match.sampled_candidate(
        name,
        shape,
        sample,
        lambda other: other.dtype == dtype and tuple(other.shape) == shape and tensor_match.digest(other) == sha,
    )
