"""The files and earlier runs from which weights of a model came."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from lightning.pytorch import LightningModule

from lightning_dtool.capture.ended_runs import EndedRun, ended_runs, published_as
from lightning_dtool.capture.tensor_match import Candidate, Matches, ModelTensors, named_tensors
from lightning_dtool.capture.weight_files import UnreadableError, is_library_file, tensors_in, torchvision_files
from lightning_dtool.watch import files, replaced

_MAX_FILES = 100
"""Maximum number of files that are compared with the model."""


@dataclass
class Source:
    """A file or an earlier run that may hold weights of the model.

    Attributes:
        read: Returns its tensors.
        path: The file, also if it is a checkpoint of an earlier run.
        run: The earlier run of the same process.
        uri: The dataset that the file was published as by the earlier run.
        same_module: Whether the earlier run had the same LightningModule.
        matches: The model's weights that it holds.
    """

    read: Callable[[], Sequence[Candidate]]
    path: str | None = None
    run: EndedRun | None = None
    uri: str | None = None
    same_module: bool = False
    matches: Matches = field(default_factory=Matches)


def possible_sources(module: LightningModule, published: bool) -> list[Source]:
    """Return everything that may hold weights of the model; of sources with equal weights, the first one counts.

    Args:
        module: The LightningModule.
        published: Include the checkpoints of earlier runs. These may be many, and are needed for weights that were put
            into the model from memory.
    """
    ended = ended_runs(module)
    runs = [Source(partial(getattr, run, "candidates"), run=run, same_module=run.module() is module) for run in ended]
    read = [file.path for file in files.read_files() if files.file_state(file.path) is not None][:_MAX_FILES]
    library = [path for path in torchvision_files(module) if path not in read] if replaced.older(module) else []
    checkpoints = [
        Source(partial(tensors_in, path), path=path, run=run, uri=uri)
        for run in (ended if published else ())
        for uri, path in run.checkpoints
    ]
    return [
        *(run for run in runs if run.same_module),
        *(Source(partial(tensors_in, path), path=path) for path in [*read, *library]),
        *(run for run in runs if not run.same_module),
        *checkpoints,
    ]


def choose_sources(
    module: LightningModule, model: ModelTensors, sources: list[Source], put_in: set[int], problems: list[str]
) -> list[Source]:
    """Return the sources of the weights: first the one that holds most of them, then the one with most of the rest.

    Args:
        module: The LightningModule.
        model: Its weights.
        sources: What may hold them, the most likely first.
        put_in: The `id` of each tensor into which values were put.
        problems: Receives what cannot be read, and why.
    """
    tensors = named_tensors(module)
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
    chosen: list[Source] = []
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


def _is_telling(source: Source, matches: Matches, put_in: set[str], trainable: set[str]) -> bool:
    """Return False if the weights may be equal only because the same seed made them twice, and nothing trained them."""
    names = matches.names()
    if source.same_module or names & put_in:
        return True
    published = published_as(source.path) if source.path is not None else None
    run = source.run or (published[0] if published is not None else None)
    if run is not None:
        return any(name.removeprefix("state_dict.") in run.changed for name in matches.pairs.values())
    path = source.path or ""
    return bool(names & trainable) or files.is_older(path) or is_library_file(path)
