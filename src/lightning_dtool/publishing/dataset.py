"""The dataset of one checkpoint: what it holds, its name, and how it is written."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

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
from lightning_dtool.publishing.linking import Links
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.record import Provenance, to_json
from lightning_dtool.store import DatasetWriter, Digests, FrozenDataset, WritingProcess
from lightning_dtool.store.digest import hash_bytes
from lightning_dtool.store.names import fitting_name

_CHUNK = 2**20


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Staged:
    """A checkpoint that is ready to be published. Nothing in it changes while this object is used.

    The checkpoint is given as `content`, or as `stream`, or as `state`.

    Attributes:
        state: The checkpoint: a copy in memory, or the state itself if training waits.
        sealed: Returns the finished record and the content of `source.zip`. Packing the sources takes time, so the
            publishing thread calls it.
        creator_username: Who is named as the dataset's creator.
        requirements: Content of `requirements.txt`.
        random_states: Content of `random_states.json`.
        run_status: The annotation `run_status`.
        attachments: Further items by relpath. Bytes are stored as they are, anything else with `torch.save`.
        wait: Waits until the state has arrived in memory, and must be called before the state is read.
        nbytes: Bytes of the copy in memory. 0 if `state` is no copy.
        content: The checkpoint as the bytes of a file.
        stream: The checkpoint as an open file, which can be read even when its path has been removed.
        standing: The file of `content` or `stream` at Lightning's path. On the same file system, the dataset's item
            becomes a hard link to it.
        uuid: The dataset's UUID. Default: a new one.
    """

    state: Mapping[str, Any] | None
    sealed: Callable[[], tuple[Provenance, bytes]]
    creator_username: str
    requirements: str
    random_states: str
    run_status: str
    attachments: Mapping[str, Any] = field(default_factory=dict)
    wait: Callable[[], None] = _nothing
    nbytes: int = 0
    content: bytes | None = None
    stream: BinaryIO | None = None
    standing: StandingFile | None = None
    uuid: str | None = None

    def put_into(self, target: Any) -> None:
        """Write the checkpoint.

        Args:
            target: A binary file.
        """
        if self.content is not None:
            target.write(self.content)
        elif self.stream is not None:
            self.stream.seek(0)
            shutil.copyfileobj(self.stream, target, _CHUNK)
        else:
            torch.save(self.state, target)

    def close(self) -> None:
        """Close `stream`."""
        if self.stream is not None:
            self.stream.close()


class _MovedError(Exception):
    """The file at Lightning's path was replaced while it was being stored."""


def write_dataset(
    staged: Staged,
    base_uri: str,
    name: str,
    process: WritingProcess | None = None,
    links: Links = "auto",
    before: FrozenDataset | None = None,
) -> FrozenDataset:
    """Write one checkpoint as a frozen dataset.

    Args:
        staged: The checkpoint and its record.
        base_uri: Where the dataset goes.
        name: The dataset's name.
        process: A process that hashes and writes the state, which disturbs training less. If it dies meanwhile,
            threads of this process write the dataset. Default: threads of this process.
        links: `"copy"`: the item is no link to the file at Lightning's path.
        before: The dataset of an earlier checkpoint. On disk, items that do not change in a run, such as `source.zip`,
            become hard links to its items.

    Returns:
        The dataset, after it was read back and compared with what was sent.

    Raises:
        StoreError: If it could not be written; nothing is then visible as frozen.
    """
    if links == "copy":
        staged = replace(staged, standing=None)
    try:
        return _write(staged, base_uri, name, process, before)
    except _MovedError:
        return _write(replace(staged, standing=None), base_uri, name, process, before)
    except Exception:
        if process is None or process.usable:
            raise
        return _write(staged, base_uri, name, None, before)


def _write(
    staged: Staged, base_uri: str, name: str, process: WritingProcess | None, before: FrozenDataset | None
) -> FrozenDataset:
    with DatasetWriter(
        name, base_uri, creator_username=staged.creator_username, process=process, uuid=staged.uuid
    ) as writer:
        _put_checkpoint(writer, staged)
        # Not earlier: training has only just resumed, and would have to wait for the interpreter lock.
        record, source_zip = staged.sealed()
        writer.put_bytes(to_json(record).encode(), RECORD_ITEM)
        writer.put_bytes(source_zip, SOURCE_ITEM, like=before)
        writer.put_bytes(staged.requirements.encode(), REQUIREMENTS_ITEM, like=before)
        writer.put_bytes(staged.random_states.encode(), RANDOM_STATES_ITEM, like=before)
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


def _put_checkpoint(writer: DatasetWriter, staged: Staged) -> None:
    standing = staged.standing
    if standing is not None and standing.is_there():
        digests = None
        if staged.content is not None:
            digests = Digests(hash_bytes(staged.content, "md5"), hash_bytes(staged.content, "sha256"))
        try:
            writer.put_file(standing.path, CHECKPOINT_ITEM, link=True, digests=digests)
        except Exception as error:
            if standing.is_there():
                raise
            raise _MovedError from error
        if not standing.is_there():  # after the look, training or another program has removed or replaced it
            raise _MovedError
    elif staged.content is not None:
        writer.put_bytes(staged.content, CHECKPOINT_ITEM)
    else:
        with writer.open(CHECKPOINT_ITEM) as target:
            staged.put_into(target)


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
