"""What stays of a checkpoint that could not be published: its plain file, and a folder beside it with its record.

The folder is named as the file, with `.unpublished` at the end. `publish` makes the dataset of it later.
"""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.errors import RecordError
from lightning_dtool.items import RANDOM_STATES_ITEM, RECORD_ITEM, REQUIREMENTS_ITEM, SOURCE_ITEM
from lightning_dtool.publishing.dataset import Staged, write_dataset
from lightning_dtool.publishing.lightning_paths import UNPUBLISHED
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.record import from_json, to_json
from lightning_dtool.store import FrozenDataset
from lightning_dtool.store.digest import hash_file
from lightning_dtool.store.temporaries import temporary_beside

_PUBLICATION = "publication.json"
_ATTACHMENTS = "attachments"


def folder_of(path: Path) -> Path:
    """Return the folder beside a checkpoint file.

    Args:
        path: The file.
    """
    return path.with_name(f"{path.name}{UNPUBLISHED}")


def keep(staged: Staged, base_uri: str, name: str, standing: StandingFile) -> bool:
    """Write the folder beside a checkpoint file. It appears only when it is complete.

    Args:
        staged: The checkpoint and its record.
        base_uri: Where its dataset was to be.
        name: The dataset's name.
        standing: The file.

    Returns:
        False if the folder cannot be written; the file is still a checkpoint for Lightning.
    """
    target = folder_of(standing.path)
    temporary = temporary_beside(target)
    try:
        record, source = staged.sealed()
        (temporary / _ATTACHMENTS).mkdir(parents=True)
        (temporary / RECORD_ITEM).write_text(to_json(record), encoding="utf-8")
        (temporary / SOURCE_ITEM).write_bytes(source)
        (temporary / REQUIREMENTS_ITEM).write_text(staged.requirements, encoding="utf-8")
        (temporary / RANDOM_STATES_ITEM).write_text(staged.random_states, encoding="utf-8")
        for relpath, content in staged.attachments.items():
            place = temporary / _ATTACHMENTS / relpath
            place.write_bytes(content) if isinstance(content, bytes) else torch.save(content, place)
        facts = {
            "base_uri": base_uri,
            "name": name,
            "uuid": staged.uuid,
            "creator_username": staged.creator_username,
            "run_status": staged.run_status,
            "sha256": _sha256(staged, standing.path),
        }
        (temporary / _PUBLICATION).write_text(json.dumps(facts), encoding="utf-8")
        discard(standing.path)
        temporary.rename(target)
    except Exception:  # a full disk, or a record that cannot be made: that may be why publishing failed
        shutil.rmtree(temporary, ignore_errors=True)
        return False
    return True


def _sha256(staged: Staged, path: Path) -> str:
    if staged.content is not None:
        return hashlib.sha256(staged.content).hexdigest()
    return hash_file(path, "sha256")


def discard(path: Path) -> None:
    """Remove the folder beside a checkpoint file, if there is one: the file goes, or is overwritten or published.

    Args:
        path: The file, which need not exist.
    """
    with contextlib.suppress(OSError):
        folder = folder_of(path)
        if folder.is_dir():
            shutil.rmtree(folder)


def base_uri_of(path: Path) -> str:
    """Return where the dataset of a checkpoint file was to be.

    Args:
        path: The file.

    Raises:
        RecordError: If the folder beside it is damaged.
    """
    return str(_facts(path)["base_uri"])


def publish(path: Path, base_uri: str | None = None) -> FrozenDataset:
    """Publish a checkpoint file from the folder beside it, and remove the folder.

    Args:
        path: The file.
        base_uri: Where its dataset goes. By default where it was to be.

    Returns:
        The dataset.

    Raises:
        RecordError: If the file or the folder is damaged, or the file is another one by now.
        StoreError: If the dataset cannot be written. The folder stays.
    """
    facts, folder = _facts(path), folder_of(path)
    found = hash_file(path, "sha256") if path.is_file() else "no file"
    if found != facts["sha256"]:
        raise RecordError(
            f"expected the checkpoint with SHA-256 {facts['sha256']}, found {found}. If another one was saved there, "
            f"remove {folder}",
            path=path,
        )
    try:
        record = from_json((folder / RECORD_ITEM).read_bytes(), str(folder))
        source = (folder / SOURCE_ITEM).read_bytes()
        requirements = (folder / REQUIREMENTS_ITEM).read_text(encoding="utf-8")
        random_states = (folder / RANDOM_STATES_ITEM).read_text(encoding="utf-8")
        attachments = {item.name: item.read_bytes() for item in sorted((folder / _ATTACHMENTS).iterdir())}
    except OSError as error:
        raise RecordError(f"cannot be read: {error}. Restore it, or remove it", path=folder) from error
    with path.open("rb") as stream:
        staged = Staged(
            state=None,
            sealed=lambda: (record, source),
            creator_username=facts["creator_username"],
            requirements=requirements,
            random_states=random_states,
            run_status=facts["run_status"],
            attachments=attachments,
            stream=stream,
            standing=StandingFile.at(path),
            uuid=facts["uuid"],
        )
        dataset = write_dataset(staged, base_uri or facts["base_uri"], facts["name"])
    discard(path)
    return dataset


def _facts(path: Path) -> dict[str, Any]:
    place = folder_of(path) / _PUBLICATION
    try:
        facts = json.loads(place.read_text(encoding="utf-8"))
        for name in ("base_uri", "name", "creator_username", "run_status", "sha256", "uuid"):
            facts[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"expected the facts of a publication, found none: {error}. Remove it", path=place) from error
    return dict(facts)
