"""What stays of a checkpoint that could not be published: its plain file, and a folder beside it with its record.

The folder is named as the file, with `.unpublished` at the end. `publish` makes the dataset of it later.
"""

import contextlib
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    MetadataKeyError,
    MissingItemError,
    NotFrozenError,
    RecordError,
)
from lightning_dtool.items import CHECKPOINT_ITEM, RANDOM_STATES_ITEM, RECORD_ITEM, REQUIREMENTS_ITEM, SOURCE_ITEM
from lightning_dtool.publishing.dataset import Staged, write_dataset
from lightning_dtool.publishing.lightning_paths import UNPUBLISHED
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.record import from_json, to_json
from lightning_dtool.store import FrozenDataset
from lightning_dtool.store.digest import hash_file
from lightning_dtool.store.locking import tried
from lightning_dtool.store.ownership import Owner, current_owner, owner_from_json, owner_to_json
from lightning_dtool.store.temporaries import temporary_beside
from lightning_dtool.store.uris import uri_of_new

_PUBLICATION = "publication.json"
_ATTACHMENTS = "attachments"
_OWNER = "owner.json"
_LOCK = "publishing.lock"
_NOT_THERE = (CorruptDatasetError, DatasetNotFoundError, MetadataKeyError, MissingItemError, NotFrozenError)


def folder_of(path: Path) -> Path:
    """Return the folder beside a checkpoint file.

    Args:
        path: The file.
    """
    return path.with_name(f"{path.name}{UNPUBLISHED}")


def keep(staged: Staged, base_uri: str, name: str, standing: StandingFile) -> bool:
    """Write the folder beside a checkpoint file. It appears only when it is complete.

    It belongs to this process, which may still remove or overwrite the file, until `release` is called.

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
        (temporary / _OWNER).write_text(owner_to_json(current_owner()), encoding="utf-8")
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


def release(path: Path) -> None:
    """Leave the folder beside a checkpoint file, if there is one, to whoever publishes it: the run has ended.

    Args:
        path: The file.
    """
    with contextlib.suppress(OSError):
        (folder_of(path) / _OWNER).unlink()


def owner_of(path: Path) -> Owner | None:
    """Return the process whose run keeps the folder beside a checkpoint file; None if its run has ended.

    Args:
        path: The file.
    """
    try:
        return owner_from_json((folder_of(path) / _OWNER).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def is_overwritten(path: Path) -> bool:
    """Tell whether another whole checkpoint has been saved at the path of one that was not published.

    Args:
        path: The file.

    Raises:
        RecordError: If the folder beside it is damaged.
    """
    facts = _facts(path)
    try:
        with zipfile.ZipFile(path) as file:
            is_whole = file.testzip() is None
    except (OSError, ValueError, zipfile.BadZipFile):
        return False  # damaged
    return is_whole and hash_file(path, "sha256") != facts["sha256"]


def base_uri_of(path: Path) -> str:
    """Return where the dataset of a checkpoint file was to be.

    Args:
        path: The file.

    Raises:
        RecordError: If the folder beside it is damaged.
    """
    return str(_facts(path)["base_uri"])


def publish(path: Path, base_uri: str | None = None) -> FrozenDataset | None:
    """Publish a checkpoint file from the folder beside it, and remove the folder.

    If its dataset is there already, because the process that published it was killed before it could remove the folder,
    nothing is written.

    Args:
        path: The file.
        base_uri: Where its dataset goes. By default where it was to be.

    Returns:
        The dataset. None if another process is publishing it, or has done so meanwhile.

    Raises:
        RecordError: If the file or the folder is damaged, or the file is another one by now.
        StoreError: If the dataset cannot be written. The folder stays.
    """
    with tried(folder_of(path) / _LOCK) as is_free:
        if not is_free or not folder_of(path).is_dir():
            return None
        facts = _facts(path)
        dataset = _written(facts, base_uri or facts["base_uri"]) or _publish(path, facts, base_uri)
    with contextlib.suppress(RecordError):  # removed meanwhile
        if _facts(path)["uuid"] == facts["uuid"]:  # else a later checkpoint could not be published there, either
            discard(path)
    return dataset


def _written(facts: dict[str, Any], base_uri: str) -> FrozenDataset | None:
    """Return the dataset of a checkpoint if it is there."""
    try:
        dataset = FrozenDataset.from_uri(uri_of_new(facts["name"], facts["uuid"], base_uri))
        item = dataset.item(CHECKPOINT_ITEM)
        same = dataset.uuid == facts["uuid"] and dataset.overlay("sha256")[item.identifier] == facts["sha256"]
    except _NOT_THERE:
        return None
    return dataset if same else None


def _publish(path: Path, facts: dict[str, Any], base_uri: str | None) -> FrozenDataset:
    folder = folder_of(path)
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
        return write_dataset(staged, base_uri or facts["base_uri"], facts["name"])


def _facts(path: Path) -> dict[str, Any]:
    place = folder_of(path) / _PUBLICATION
    try:
        facts = json.loads(place.read_text(encoding="utf-8"))
        for name in ("base_uri", "name", "creator_username", "run_status", "sha256", "uuid"):
            facts[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"expected the facts of a publication, found none: {error}. Remove it", path=place) from error
    return dict(facts)
