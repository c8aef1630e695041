"""The description of a source of weights: what it is, where it is, and what others call it."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from lightning_dtool.capture.ended_runs import EndedRun, published_as
from lightning_dtool.capture.parents import dataset_of, reference_to
from lightning_dtool.capture.tensor_match import Matches, ModelTensors, patterns
from lightning_dtool.capture.weight_files import UnreadableError, hub_repository, sha256, tensors_in, torchvision_name
from lightning_dtool.capture.weight_sources import Source
from lightning_dtool.record import DatasetReference, WeightsSource, as_text

_CONTINUED, _CHECKPOINT, _FILE = "continued", "checkpoint", "file"
"""The kinds of sources: an earlier run of the process, a checkpoint dataset, a file."""

_MAX_NAMES = 1000
"""Maximum number of names that are recorded for one source."""


def describe_source(
    module: LightningModule, source: Source, state: Mapping[str, Any], model: ModelTensors
) -> WeightsSource:
    """Return what the record says of a source of weights.

    Args:
        module: The LightningModule.
        source: A source of its weights.
        state: Its state dict.
        model: Its weights.
    """
    names = source.matches.names()
    described = WeightsSource(
        kind=_CONTINUED if source.run is not None else _FILE,
        keys=[as_text(name) for name in patterns(names, state)][:_MAX_NAMES],
        keys_total=len(names),
    )
    if source.run is not None:
        published = source.uri or _checkpoint_with(source.run, source.matches, model)
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


def _checkpoint_with(run: EndedRun, matches: Matches, model: ModelTensors) -> str | None:
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
    published = published_as(path)
    reference = reference_to(published[1]) if published is not None else None
    return (reference, True) if reference is not None else None


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
