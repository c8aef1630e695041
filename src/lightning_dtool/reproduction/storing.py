"""The datasets that a reproduction stores: the checkpoint of the rerun, and the result, which refers to both."""

import json
import uuid
from pathlib import Path

from lightning_dtool.export.annotations import reproduction_annotations
from lightning_dtool.export.readme import reproduction_readme
from lightning_dtool.items import LOG_ITEM, REPRODUCTION_TAG, VERDICT_ITEM
from lightning_dtool.redaction.text import redact_text
from lightning_dtool.results.reproduction import Reproduction
from lightning_dtool.store import DatasetWriter, FrozenDataset
from lightning_dtool.store.names import fitting_name

MAX_LOG_BYTES = 10 * 2**20
"""The size in bytes up to which a log is stored whole. Of a longer log, only the end is stored."""


def store_result(found: Reproduction, base_uri: str, log: Path | None) -> FrozenDataset:
    """Store the result of a rerun as a frozen dataset.

    Args:
        found: The result.
        base_uri: The base URI of the new dataset.
        log: The output of the training; None if it did not start.
    """
    tail = f"-{found.kind}-{uuid.uuid4().hex[:8]}"  # the same checkpoint may be reproduced many times
    with DatasetWriter(fitting_name(found.original.name, tail), base_uri) as writer:
        content = {**found.to_dict(), "uri": writer.uri}
        writer.put_bytes((json.dumps(content, indent=1, allow_nan=False) + "\n").encode(), VERDICT_ITEM)
        writer.put_bytes(_without_secrets(_end_of(log)), LOG_ITEM)
        for key, value in reproduction_annotations(found).items():
            writer.put_annotation(key, value)
        writer.put_readme(reproduction_readme(found, writer.uri, writer.relpaths))
        writer.put_tag(REPRODUCTION_TAG)
        return writer.commit()


def store_copy(dataset: FrozenDataset, base_uri: str) -> FrozenDataset:
    """Store a checkpoint from the scratch folder under a new UUID, with a README that names the new URI.

    Args:
        dataset: The dataset in the scratch folder.
        base_uri: The base URI of the new dataset.
    """
    creator = dataset.admin_metadata.get("creator_username")
    with DatasetWriter(dataset.name, base_uri, creator_username=creator) as writer:
        for identifier, item in dataset.items.items():
            writer.put_file(dataset.path(identifier), item.relpath)
        for name, value in dataset.annotations().items():
            writer.put_annotation(name, value)
        for tag in dataset.tags():
            writer.put_tag(tag)
        writer.put_readme(dataset.readme().replace(dataset.uri, writer.uri))
        return writer.commit()


def _end_of(log: Path | None) -> bytes:
    if log is None or not log.is_file():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LOG_BYTES))
        return file.read()


def _without_secrets(log: bytes) -> bytes:
    """Return a log without credentials: a training script may print all its environment variables."""
    return redact_text(log.decode("utf-8", "replace")).encode()
