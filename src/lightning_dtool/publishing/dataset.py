"""The dataset of one checkpoint: what it holds, its name, and how it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.export.annotations import annotations
from lightning_dtool.export.readme import readme
from lightning_dtool.items import (
    CHECKPOINT_ITEM,
    CHECKPOINT_TAG,
    RANDOM_STATES_ITEM,
    RECORD_ITEM,
    REQUIREMENTS_ITEM,
    SOURCE_ITEM,
)
from lightning_dtool.record import Provenance, to_json
from lightning_dtool.store import DatasetWriter, FrozenDataset, WritingProcess
from lightning_dtool.store.names import fitting_name


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Staged:
    """A checkpoint that is ready to be published. Nothing in it changes while this object is used.

    Attributes:
        state: The checkpoint.
        sealed: Returns the finished record and the content of `source.zip`. Packing the sources takes time, so the
            publishing thread calls it.
        creator_username: Who is named as the dataset's creator.
        requirements: Content of `requirements.txt`.
        random_states: Content of `random_states.json`.
        run_status: The annotation `run_status`.
        attachments: Further items by relpath. Bytes are stored as they are, anything else with `torch.save`.
        wait: Waits until the state has arrived in memory, and must be called before the state is read.
        nbytes: Bytes of the copy in memory. 0 if `state` is no copy.
    """

    state: Mapping[str, Any]
    sealed: Callable[[], tuple[Provenance, bytes]]
    creator_username: str
    requirements: str
    random_states: str
    run_status: str
    attachments: Mapping[str, Any] = field(default_factory=dict)
    wait: Callable[[], None] = _nothing
    nbytes: int = 0


def write_dataset(
    staged: Staged, base_uri: str, name: str, file: Path | None = None, process: WritingProcess | None = None
) -> FrozenDataset:
    """Write one checkpoint as a frozen dataset.

    Args:
        staged: The checkpoint and its record.
        base_uri: Where the dataset goes.
        name: The dataset's name.
        file: The state as a file, if it has been written already. Then this file is stored.
        process: A process that hashes and writes the state, which disturbs training less. If it dies meanwhile,
            threads of this process write the dataset. Default: threads of this process.

    Returns:
        The dataset, after it was read back and compared with what was sent.

    Raises:
        StoreError: If it could not be written; nothing is then visible as frozen.
    """
    try:
        return _write(staged, base_uri, name, file, process)
    except Exception:
        if process is None or process.usable:
            raise
        return _write(staged, base_uri, name, file, None)


def _write(
    staged: Staged, base_uri: str, name: str, file: Path | None, process: WritingProcess | None
) -> FrozenDataset:
    with DatasetWriter(name, base_uri, creator_username=staged.creator_username, process=process) as writer:
        if file is not None:
            writer.put_file(file, CHECKPOINT_ITEM)
        else:
            with writer.open(CHECKPOINT_ITEM) as stream:
                torch.save(staged.state, stream)
        # Not earlier: training has only just resumed, and would have to wait for the interpreter lock.
        record, source_zip = staged.sealed()
        writer.put_bytes(to_json(record).encode(), RECORD_ITEM)
        writer.put_bytes(source_zip, SOURCE_ITEM)
        writer.put_bytes(staged.requirements.encode(), REQUIREMENTS_ITEM)
        writer.put_bytes(staged.random_states.encode(), RANDOM_STATES_ITEM)
        for relpath, content in staged.attachments.items():
            with writer.open(relpath) as stream:
                if isinstance(content, bytes):
                    stream.write(content)
                else:
                    torch.save(content, stream)
        writer.put_readme(readme(record, writer.uri, writer.relpaths))
        for key, value in annotations(record, staged.run_status).items():
            writer.put_annotation(key, value)
        writer.put_tag(CHECKPOINT_TAG)
        return writer.commit()


def dataset_name(record: Provenance, prefix: str | None = None) -> str:
    """Return a dataset's name: model, epoch, step and the beginning of the run's UUID.

    Args:
        record: The checkpoint's record.
        prefix: Beginning of the name. Default: the name of the model's class. Characters that dtool does not allow
            are replaced.
    """
    model = prefix or record.model.class_path.rpartition(":")[2].rpartition(".")[2]
    tail = f"-epoch{record.checkpoint.epoch}-step{record.checkpoint.global_step}-{record.run.uuid[:8]}"
    return fitting_name(model, tail)
