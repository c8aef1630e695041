"""The origin of the weights with which training begins.

A statement rests on the content: a tensor came from a file or an earlier run only if it is bitwise equal to a tensor
there. What was put into the model and is found nowhere is unknown.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule

from lightning_dtool.capture.parameter_versions import may_be_replaced, note_versions
from lightning_dtool.capture.seeds import torch_is_seeded
from lightning_dtool.capture.source_description import describe_source
from lightning_dtool.capture.tensor_match import ModelTensors, named_tensors, patterns
from lightning_dtool.capture.unknown_weights import loaded_and_lost, unknown_weights
from lightning_dtool.capture.weight_sources import choose_sources, possible_sources
from lightning_dtool.record import Gaps, InitialWeights, WeightsSource, as_text
from lightning_dtool.values.digests import opaque_names, state_digest
from lightning_dtool.watch import files, replaced

_SCRIPT, _UNKNOWN = "script", "unknown"

_made_by_script: deque[str | None] = deque(maxlen=100)
"""The digests of the weights of this process's runs that the script made."""


def capture_initial_weights(module: LightningModule, gaps: Gaps, stored: bool = False) -> InitialWeights:
    """Return the origin and the digest of the weights. To be called when fitting starts.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        gaps: Receives a gap for everything that could not be determined.
        stored: Whether the dataset contains the weights.
    """
    note_versions(module)
    seeded = torch_is_seeded()
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


def capture_replaced_weights(
    module: LightningModule, first: InitialWeights, gaps: Gaps, suspected: bool = False
) -> InitialWeights | None:
    """Return the origin of the weights if they have changed since fitting started, as a user's hook may change them.

    To be called when the first batch begins.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        first: What `capture_initial_weights` returned. Its digest stays that of the weights when fitting started.
        gaps: Receives a gap for everything that could not be determined.
        suspected: Whether they may have changed although the versions of the tensors have not. Default: no.

    Returns:
        None if they have not changed.
    """
    if not suspected and not may_be_replaced(
        module
    ):  # the content is not looked at, because a large model takes seconds to read
        return None
    if _digest(module, Gaps()) == first.digest:
        return None
    again = capture_initial_weights(module, gaps, first.stored)
    return again.model_copy(update={"digest": first.digest, "seeded": first.seeded})


def _origin(
    module: LightningModule, state: Mapping[str, Any], digest: str | None, gaps: Gaps
) -> tuple[str, list[WeightsSource]]:
    suspects = {
        "put_in": replaced.put_in(module),
        "trained": replaced.trained(module),
        "older": replaced.older(module),
    }
    again = digest is not None and digest in _made_by_script  # as for each fold of a cross-validation
    candidates = possible_sources(module, published=bool(suspects["put_in"]) and not again)
    loaded = files.loaded_tensors()
    if not candidates and not loaded and not any(suspects.values()):
        _made_by_script.append(digest)
        return _SCRIPT, []
    model = ModelTensors(state)
    problems: list[str] = []
    chosen = choose_sources(module, model, candidates, suspects["put_in"], problems)
    missing = model.entries.keys() - {name for source in chosen for name in source.matches.pairs}
    suspects["loaded"] = loaded_and_lost(module, model, missing, loaded)
    unknown, reason, remedy = unknown_weights(module, model, missing, suspects, problems)
    described = [describe_source(module, source, state, model) for source in chosen]
    if not model.significant(unknown):
        if not described:
            _made_by_script.append(digest)
        return (described[0].kind if described else _SCRIPT), described
    if again:
        return _SCRIPT, []
    most = not described or model.size(unknown) > model.size(chosen[0].matches.pairs)
    gaps.at("origin" if most else "sources").add(f"{reason}: {_listed(patterns(unknown, state))}", remedy)
    return (_UNKNOWN if most else described[0].kind), described


def _state(module: LightningModule) -> Mapping[str, Any]:
    try:
        return module.state_dict()
    except Exception:  # for example an extra state of the user's; the gap of the digest says so
        return named_tensors(module)


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


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(as_text(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
