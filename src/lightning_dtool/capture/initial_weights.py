"""The origin of the weights with which training begins.

A statement rests on the content: a tensor came from a file or an earlier run only if it is bitwise equal to a tensor
there. What was put into the model and is found nowhere is unknown.
"""

import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch.utils.weak import WeakIdKeyDictionary

from lightning_dtool.capture import tensor_match
from lightning_dtool.capture.parents import dataset_of, reference_to
from lightning_dtool.capture.tensor_match import (
    Candidate,
    Matches,
    ModelTensors,
    is_plain,
    patterns,
)
from lightning_dtool.capture.weight_files import (
    UnreadableError,
    hub_repository,
    is_library_file,
    sha256,
    tensors_in,
    torchvision_files,
    torchvision_name,
)
from lightning_dtool.record import DatasetReference, Gaps, InitialWeights, WeightsSource, as_text
from lightning_dtool.values.digests import opaque_names, state_digest
from lightning_dtool.watch import files, replaced

_MAX_NAMES = 1000
"""Maximum number of names that are recorded for one source."""

_MAX_RUNS = 8
"""Number of earlier runs of the process whose last weights are known, besides the last run of each module."""

_MAX_FILES = 100
"""Maximum number of files that are compared with the model."""

_SEED_BITS = 32
"""Lightning, NumPy and people choose seeds below 2**32; torch's own first seed is a random number of up to 64 bits."""

_FIRST_SEED = torch.initial_seed()

_CONTINUED, _CHECKPOINT, _FILE, _SCRIPT, _UNKNOWN = "continued", "checkpoint", "file", "script", "unknown"


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


_made_by_script: deque[str | None] = deque(maxlen=100)
"""The digests of the weights of this process's runs that the script made."""


class _Beginning(NamedTuple):
    """The state of a module when fitting began.

    Attributes:
        versions: The `id` and version of each parameter.
        loads: How often values had been put into modules in this process.
    """

    versions: dict[str, tuple[int, int]]
    loads: int


_begun: MutableMapping[LightningModule, _Beginning] = WeakIdKeyDictionary()


@dataclass
class _Source:
    """A file or an earlier run that may hold weights of the model."""

    kind: str
    read: Callable[[], Sequence[Candidate]]
    path: str | None = None
    run: EndedRun | None = None
    uri: str | None = None
    same_module: bool = False
    matches: Matches = field(default_factory=Matches)


def capture_initial_weights(module: LightningModule, gaps: Gaps, stored: bool = False) -> InitialWeights:
    """Return the origin and the digest of the weights. To be called when fitting starts.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        gaps: Receives a gap for everything that could not be determined.
        stored: Whether the dataset contains the weights.
    """
    _begun[module] = _Beginning(_versions(module), replaced.loads())
    seeded = _seeded()
    digest = _digest(module, gaps)
    state: Mapping[str, Any] | None = None
    sources: list[WeightsSource] = []
    origin = _UNKNOWN
    try:
        state = _state(module)
        origin, sources = _origin(module, state, digest, gaps.at("model.initial_weights"))
    except Exception as error:  # for example an unknown tensor class, or a state_dict of the user's
        reason = f"comparing the weights with the files that were read raised {type(error).__name__}"
        gaps.at("model.initial_weights.origin").add(reason)
    return InitialWeights(
        origin=origin,
        seeded=seeded,
        sources=sources,
        keys_total=len(state) if state is not None else None,
        digest=digest,
        stored=stored,
    )


def capture_replaced_weights(module: LightningModule, first: InitialWeights, gaps: Gaps) -> InitialWeights | None:
    """Return the origin of the weights if they have changed since fitting started, as a user's hook may change them.

    To be called when the first batch begins.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        first: What `capture_initial_weights` returned. Its digest stays that of the weights when fitting started.
        gaps: Receives a gap for everything that could not be determined.

    Returns:
        None if they have not changed.
    """
    begun = _begun.get(module)
    # Without a look at the content, because a large model takes seconds to read. DDP writes all weights in place.
    if begun is not None and begun.loads == replaced.loads() and (_is_ddp() or begun.versions == _versions(module)):
        return None
    if _digest(module, Gaps()) == first.digest:
        return None
    again = capture_initial_weights(module, gaps, first.stored)
    return again.model_copy(update={"digest": first.digest, "seeded": first.seeded})


def remember_run(uuid: str, module: LightningModule, checkpoints: Sequence[tuple[str, str]]) -> None:
    """Keep the digests of a run's last weights, so that a later run of this process can be known to continue it.

    Args:
        uuid: UUID of the run.
        module: The LightningModule, not wrapped by a strategy.
        checkpoints: URI and local file of each checkpoint that the run has published, the best one first.
    """
    with torch.no_grad():
        candidates = [_by_digest(name, tensor) for name, tensor in module.state_dict().items() if is_plain(tensor)]
    begun = _begun.get(module)
    before = begun.versions if begun is not None else {}
    changed = frozenset(name for name, version in _versions(module).items() if before.get(name) != version)
    run = EndedRun(uuid, weakref.ref(module), candidates, changed, checkpoints)
    _ended.append(run)
    _last_runs[module] = run
    replaced.accounted_for(module)


# -- where the weights came from ---------------------------------------------------------------------


def _origin(
    module: LightningModule, state: Mapping[str, Any], digest: str | None, gaps: Gaps
) -> tuple[str, list[WeightsSource]]:
    suspects = {
        "put_in": replaced.put_in(module),
        "trained": replaced.trained(module),
        "older": replaced.older(module),
    }
    again = digest is not None and digest in _made_by_script  # as for each fold of a cross-validation
    candidates = _sources(module, published=bool(suspects["put_in"]) and not again)
    loaded = files.loaded_samples()
    if not candidates and not loaded and not any(suspects.values()):
        _made_by_script.append(digest)
        return _SCRIPT, []
    model = ModelTensors(state)
    problems: list[str] = []
    chosen = _choose(module, model, candidates, suspects["put_in"], problems)
    missing = model.entries.keys() - {name for source in chosen for name in source.matches.pairs}
    suspects["loaded"] = _loaded_and_lost(module, model, missing, loaded)
    unknown, reason, remedy = _unknown(module, model, missing, suspects, problems)
    described = [_describe(module, source, state, model) for source in chosen]
    if not model.significant(unknown):
        if not described:
            _made_by_script.append(digest)
        return (described[0].kind if described else _SCRIPT), described
    if again:
        return _SCRIPT, []
    most = not described or model.size(unknown) > model.size(chosen[0].matches.pairs)
    gaps.at("origin" if most else "sources").add(f"{reason}: {_listed(patterns(unknown, state))}", remedy)
    return (_UNKNOWN if most else described[0].kind), described


def _loaded_and_lost(
    module: LightningModule,
    model: ModelTensors,
    missing: set[str],
    loaded: Sequence[tuple[tuple[int, ...], torch.Tensor]],
) -> set[int]:
    """Return the `id` of each tensor that `torch.load` seems to have returned, though no file holds it now.

    Frozen weights may be equal because the same seed made them twice.
    """
    tensors = _tensors(module)
    # Only samples are known, so equal ones are not claimed to be a source.
    candidates = [Candidate("", shape, partial(_same, sample), lambda _: True) for shape, sample in loaded]
    found = model.matches(candidates).names() & missing & tensors.keys()
    return {id(tensors[name]) for name in found} if any(tensors[name].requires_grad for name in found) else set()


def _same(sample: torch.Tensor) -> torch.Tensor:
    return sample


def _sources(module: LightningModule, published: bool) -> list[_Source]:
    """Return everything that may hold weights of the model; of sources with equal weights, the first one counts.

    Args:
        module: The LightningModule.
        published: Include the checkpoints of earlier runs. These may be many, and are needed for weights that were put
            into the model from memory.
    """
    ended = [*reversed(_ended)]
    last = _last_runs.get(module)
    if last is not None and last not in ended:
        ended.append(last)
    runs = [
        _Source(_CONTINUED, partial(getattr, run, "candidates"), run=run, same_module=run.module() is module)
        for run in ended
    ]
    read = [file.path for file in files.read_files() if files.file_state(file.path) is not None][:_MAX_FILES]
    library = [path for path in torchvision_files(module) if path not in read] if replaced.older(module) else []
    checkpoints = [
        _Source(_CONTINUED, partial(tensors_in, path), path=path, run=run, uri=uri)
        for run in (ended if published else ())
        for uri, path in run.checkpoints
    ]
    return [
        *(run for run in runs if run.same_module),
        *(_Source(_FILE, partial(tensors_in, path), path=path) for path in [*read, *library]),
        *(run for run in runs if not run.same_module),
        *checkpoints,
    ]


def _choose(
    module: LightningModule, model: ModelTensors, sources: list[_Source], put_in: set[int], problems: list[str]
) -> list[_Source]:
    """Return the sources of the weights: first the one that holds most of them, then the one with most of the rest."""
    tensors = _tensors(module)
    put = {name for name, tensor in tensors.items() if id(tensor) in put_in}
    trainable = {name for name, tensor in tensors.items() if tensor.requires_grad}
    left = set(model.entries)
    everything = model.significant(left)
    for source in sources:
        try:
            found = model.matches(source.read())
        except UnreadableError as error:
            problems.append(f"{source.path} {error}")
            continue
        if _is_telling(source, found, put, trainable):
            source.matches = found
        if everything <= source.matches.names():
            break  # the others can hold no more, and are less likely
    chosen: list[_Source] = []
    while True:
        best = max(
            sources, key=lambda source: model.size(model.significant(source.matches.names() & left)), default=None
        )
        if best is None or not model.significant(best.matches.names() & left):
            return chosen
        best.matches.pairs = {name: other for name, other in best.matches.pairs.items() if name in left}
        left -= best.matches.names()
        chosen.append(best)
        sources = [source for source in sources if source is not best]


def _is_telling(source: _Source, matches: Matches, put_in: set[str], trainable: set[str]) -> bool:
    """Return False if the weights may be equal only because the same seed made them twice, and nothing trained them."""
    names = matches.names()
    if source.same_module or names & put_in:
        return True
    run = source.run or _run_of(source.path or "")
    if run is not None:
        return any(name.removeprefix("state_dict.") in run.changed for name in matches.pairs.values())
    path = source.path or ""
    return bool(names & trainable) or files.is_older(path) or is_library_file(path)


def _run_of(path: str) -> EndedRun | None:
    """Return the run of this process that has published a file."""
    real = os.path.realpath(path)
    return next((run for run in _ended for _, file in run.checkpoints if os.path.realpath(file) == real), None)


def _describe(module: LightningModule, source: _Source, state: Mapping[str, Any], model: ModelTensors) -> WeightsSource:
    names = source.matches.names()
    described = WeightsSource(
        kind=source.kind, keys=[as_text(name) for name in patterns(names, state)][:_MAX_NAMES], keys_total=len(names)
    )
    if source.run is not None:
        published = source.uri or _published(source.run, source.matches, model)
        return described.model_copy(
            update={"run_uuid": source.run.uuid, "dataset": reference_to(published) if published else None}
        )
    path = source.path or ""
    found = dataset_of(path)
    publication = found or _publication_at(path)
    if publication is not None and publication[1]:
        return described.model_copy(update={"kind": _CHECKPOINT, "dataset": publication[0], "path": as_text(path)})
    digest = sha256(path)
    repository, revision = hub_repository(path, digest) or (None, None)
    return described.model_copy(
        update={
            "path": as_text(path),
            "sha256": digest,
            "repository": repository,
            "revision": revision,
            "name": torchvision_name(path, digest) or _timm_name(module, names, path, repository),
            "dataset": publication[0] if publication is not None else None,
        }
    )


def _published(run: EndedRun, matches: Matches, model: ModelTensors) -> str | None:
    """Return the URI of the first checkpoint of a run that holds the same weights."""
    wanted = model.significant(matches.names())
    for uri, path in run.checkpoints:
        try:
            if wanted <= model.matches(tensors_in(path)).names():
                return uri
        except UnreadableError:
            continue
    return None


def _publication_at(path: str) -> tuple[DatasetReference, bool] | None:
    """Return the dataset that a plain file of this process was published as: that of a remote store."""
    for run in _ended:
        for uri, published in run.checkpoints:
            if os.path.realpath(published) == os.path.realpath(path) and (found := reference_to(uri)) is not None:
                return found, True
    return None


# -- what libraries say ------------------------------------------------------------------------------


def _timm_name(module: LightningModule, names: set[str], path: str, repository: str | None) -> str | None:
    """Return timm's name for weights, if the file is the one that timm downloads for the model."""
    for name, part in module.named_modules():
        configuration = part.__dict__.get("pretrained_cfg")
        if isinstance(configuration, Mapping) and _holds(name, names):
            # A model has the configuration also if other weights were put into it.
            url = os.path.basename(str(configuration.get("url") or ""))
            if repository != (configuration.get("hf_hub_id") or "") and os.path.basename(path) != url:
                continue
            parts = [str(configuration[key]) for key in ("architecture", "tag") if configuration.get(key)]
            return as_text(".".join(parts)) or None
    return None


def _holds(part: str, names: set[str]) -> bool:
    return not part or any(name.startswith(f"{part}.") for name in names)


# -- what is not known -------------------------------------------------------------------------------


def _unknown(
    module: LightningModule,
    model: ModelTensors,
    missing: set[str],
    suspects: Mapping[str, set[int]],
    problems: list[str],
) -> tuple[set[str], str, str]:
    """Return the names of the weights that have an unknown origin, the reason, and a remedy."""
    tensors = _tensors(module)
    found = {
        kind: {name for name in missing if name in tensors and id(tensors[name]) in ids}
        for kind, ids in suspects.items()
    }
    every = set().union(*found.values())
    # Such as a target network, into which the weights of another part of the model were put.
    copied = {name for name in model.significant(found["put_in"]) if model.copies(name) - every}
    found["put_in"] -= copied
    every = set().union(*found.values())
    if found["trained"]:
        reason = "an optimizer changed these weights before this run, in a training that was not recorded"
        return every, reason, "add DtoolProvenanceCallback to the Trainer of that training, too"
    if found["put_in"] or found["loaded"]:
        lost = [f"{file.path} {change}" for file in files.read_files() if (change := _change(file))]
        way = "load_state_dict or unpickling put in" if found["put_in"] else "torch.load returned"
        reason = f"{way} values that no file that was read holds"
        if lost or problems:
            reason += f" ({'; '.join([*problems, *lost][:3])})"
        return every, reason, "load the weights from a file, and keep it until training has begun"
    reason = "these weights were made before DtoolProvenanceCallback was imported, and may have been loaded"
    return every, reason, "import DtoolProvenanceCallback before you make the model"


def _change(file: files.ReadFile) -> str | None:
    now = files.file_state(file.path)
    if now is None:
        return "is gone"
    return "has changed since it was read" if now != file.state else None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(as_text(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _is_ddp() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _seeded() -> bool | None:
    seed = torch.initial_seed()
    if seed >> _SEED_BITS == 0:
        return True
    return False if seed == _FIRST_SEED else None


def _by_digest(name: str, tensor: torch.Tensor) -> Candidate:
    sample, sha = files.sample_of(tensor).clone(), tensor_match.digest(tensor)
    dtype, shape = tensor.dtype, tuple(tensor.shape)
    return Candidate(
        name,
        shape,
        lambda: sample,
        lambda other: other.dtype == dtype and tuple(other.shape) == shape and tensor_match.digest(other) == sha,
    )


def _tensors(module: LightningModule) -> dict[str, torch.Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def _versions(module: LightningModule) -> dict[str, tuple[int, int]]:
    named = module.named_parameters(remove_duplicate=False)
    return {name: (id(parameter), replaced.version(parameter)) for name, parameter in named}


def _state(module: LightningModule) -> Mapping[str, Any]:
    try:
        return module.state_dict()
    except Exception:  # for example an extra state of the user's; the gap of the digest says so
        return _tensors(module)


def _digest(module: LightningModule, gaps: Gaps) -> str | None:
    try:
        state = module.state_dict()
        for name in opaque_names(state):
            reason = "the digest covers only the repr of this extra state"
            gaps.at(f"model.initial_weights.digest.{as_text(name)}").add(reason, "keep tensors")
        return state_digest(state)
    except Exception as error:  # for example sharded tensors, or an unknown tensor class
        reason = f"computing it raised {type(error).__name__}"
        gaps.at("model.initial_weights.digest").add(reason)
        return None
