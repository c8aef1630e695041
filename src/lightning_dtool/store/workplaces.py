"""Hidden folders in a base URI on disk, in which a dataset is built before it is moved to its place, or is deleted.

```text
BASE/.writing-<uuid>/owner.json    the process that writes the dataset
BASE/.writing-<uuid>/NAME/         the dataset
BASE/NAME/                         an empty folder, which claims the name; the dataset replaces it
```
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning_dtool import limits
from lightning_dtool.errors import UnsafeDatasetError
from lightning_dtool.store.bounded_metadata import parse_json
from lightning_dtool.store.leftovers import Leftover
from lightning_dtool.store.ownership import Owner, current_owner, is_alive, owner_from_json, owner_to_json
from lightning_dtool.store.plain_files import read_plain
from lightning_dtool.store.small_files import write_small
from lightning_dtool.store.syncing import sync_path
from lightning_dtool.store.temporaries import is_temporary, temporary_beside

_WRITING = ".writing-"
_REMOVING = ".removing-"
_OWNER = "owner.json"


@dataclass(frozen=True, slots=True)
class Workplace:
    """A hidden folder for one dataset.

    Attributes:
        folder: The hidden folder.
        name: The dataset's name; empty if there is no dataset in the folder.
    """

    folder: Path
    name: str

    @property
    def dataset(self) -> Path:
        """The folder of the dataset, in the hidden one."""
        return self.folder / self.name

    @property
    def place(self) -> Path:
        """Where the dataset will be seen, or was."""
        return self.folder.parent / self.name

    @property
    def owner(self) -> Owner | None:
        """The process that made the hidden folder; None if that is not known."""
        try:
            return owner_from_json(_read(self.folder, _OWNER).decode())
        except (OSError, UnicodeDecodeError, UnsafeDatasetError):
            return None


def claim(place: Path) -> Workplace:
    """Claim the name of a new dataset, and make a workplace for it.

    Args:
        place: Where the dataset will be seen.

    Raises:
        FileExistsError: If something is there already, or another process may be writing a dataset of this name.
    """
    # Before the name is claimed, so that a claim without a workplace is nobody's.
    workplace = _begin(_WRITING, place)
    try:
        workplace.dataset.mkdir()
        try:
            place.mkdir()
        except FileExistsError:
            if not _is_left_empty(workplace):
                raise
    except BaseException:
        _close(workplace)
        raise
    return workplace


def deliver(workplace: Workplace) -> None:
    """Move a durable dataset to its place in one step, durably, and remove the workplace.

    Args:
        workplace: Where it was built, or was being removed.

    Raises:
        OSError: If something else than the claim is at its place.
    """
    place = workplace.place
    try:
        workplace.dataset.rename(place)
    except OSError:
        # Some file systems do not replace an empty folder.
        place.rmdir()
        workplace.dataset.rename(place)
    with contextlib.suppress(OSError):  # the dataset is at its place, whatever happens to the empty workplace
        _close(workplace)
    sync_path(place.parent)


def take_back(place: Path) -> Workplace:
    """Move a dataset from its place back to a workplace, and leave the claim of its name.

    Args:
        place: Where it is seen.
    """
    workplace = _begin(_WRITING, place)
    place.rename(workplace.dataset)
    with contextlib.suppress(FileExistsError):
        place.mkdir()
    return workplace


def give_up(workplace: Workplace) -> None:
    """Delete an unfinished dataset, the claim of its name, and the workplace.

    Args:
        workplace: Where it was built.
    """
    if workplace.name:
        # The owner and the empty folder go last: if this is interrupted, or the claim cannot be removed, what is left
        # still says whose it is, and which name is claimed.
        _empty(workplace.dataset)
        if not _is_claimed(workplace.place, but_not_by=workplace):
            try:
                workplace.place.rmdir()
            except OSError:  # a dataset, or nothing
                if _is_empty(workplace.place):
                    raise
    _close(workplace)


def remove(place: Path) -> None:
    """Rename a dataset out of sight, then delete it.

    Args:
        place: Where it is seen.
    """
    workplace = _begin(_REMOVING, place)
    try:
        place.rename(workplace.dataset)
    except BaseException:
        _close(workplace)
        raise
    _delete(workplace.dataset)
    _close(workplace)


def find(place: Path) -> Workplace | None:
    """Return the workplace of a dataset that is being written, or was left by a process that ended.

    Args:
        place: Where it will be seen.

    Returns:
        The workplace. None if something else than a claim is at that place.
    """
    if not _is_empty(place):
        return None
    found = list(_workplaces_of(place))
    return next((each for each in found if _may_be_at_work(each)), found[0] if found else None)


def leftovers(base_uri: str, base: Path, *, quick: bool) -> Iterator[Leftover]:
    """Yield what is being written or removed below a base URI.

    Args:
        base_uri: The normalized base URI.
        base: Its folder.
        quick: Whether to leave out what another program may be writing, for which each dataset has to be opened.
    """
    for folder in sorted(base.iterdir()):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it was finished meanwhile
            if folder.name.startswith((_WRITING, _REMOVING)) or is_temporary(folder.name):
                yield _leftover(base_uri, folder)
            elif not quick and _type_of(folder) == "protodataset":
                since = (folder / ".dtool" / "dtool").stat().st_mtime
                yield Leftover("proto", folder.name, f"{base_uri}/{folder.name}", str(folder), None, since)


def _leftover(base_uri: str, folder: Path) -> Leftover:
    workplace = Workplace(folder, next((child.name for child in folder.iterdir() if child.is_dir()), ""))
    owner = workplace.owner
    complete = workplace.name and _type_of(workplace.dataset) == "dataset"
    return Leftover(
        kind="removing" if folder.name.startswith(_REMOVING) else "writing",
        name=workplace.name,
        uri=f"{base_uri}/{workplace.name}" if workplace.name else base_uri,
        place=str(folder),
        owner=owner,
        since=folder.stat().st_mtime if owner is None else owner.since,
        # The administrative metadata is written last.
        whole=f"{base_uri}/{folder.name}/{workplace.name}" if complete else None,
    )


def workplace_of(leftover: Leftover) -> Workplace:
    """Return the workplace of a leftover.

    Args:
        leftover: What `leftovers` has yielded.
    """
    return Workplace(Path(leftover.place), leftover.name)


def require_free(workplace: Workplace) -> None:
    """Raise if another dataset has the name of the one in a workplace, or may be written under it.

    Args:
        workplace: The workplace.

    Raises:
        FileExistsError: If it does.
    """
    place = workplace.place
    if os.path.lexists(place) and not _is_left_empty(workplace):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))


def _begin(prefix: str, place: Path) -> Workplace:
    workplace = Workplace(place.parent / f"{prefix}{uuid.uuid4().hex}", place.name)
    # At no moment is there a folder that does not say whose it is: until then its name does.
    temporary = temporary_beside(workplace.folder)
    temporary.mkdir()
    try:
        write_small(temporary / _OWNER, owner_to_json(current_owner()).encode())
        temporary.rename(workplace.folder)
    except BaseException:
        _delete(temporary)
        raise
    return workplace


def _close(workplace: Workplace) -> None:
    """Delete a workplace. Another process may be deleting it, too."""
    temporary = temporary_beside(workplace.folder)
    with contextlib.suppress(FileNotFoundError):
        workplace.folder.rename(temporary)
    try:
        os.unlink(temporary / _OWNER)
        os.rmdir(temporary)
    except OSError:  # there is more in it, or less
        _delete(temporary)


def _workplaces_of(place: Path) -> Iterator[Workplace]:
    """Yield the workplaces in which a dataset for this place is written."""
    for folder in place.parent.iterdir():
        if folder.name.startswith(_WRITING) and (folder / place.name).is_dir():
            yield Workplace(folder, place.name)


def _is_left_empty(workplace: Workplace) -> bool:
    """Tell whether the place of a dataset is a claim of nobody else who may be at work."""
    place = workplace.place
    # In this order: another writer makes its workplace before it claims the place, and fills the place before its
    # workplace goes.
    return (
        not _is_claimed(place, but_not_by=workplace)
        and _is_empty(place)
        and not _is_claimed(place, but_not_by=workplace)
    )


def _is_claimed(place: Path, *, but_not_by: Workplace) -> bool:
    """Tell whether somebody else may be writing a dataset for a place."""
    return any(_may_be_at_work(each) for each in _workplaces_of(place) if each != but_not_by)


def _may_be_at_work(workplace: Workplace) -> bool:
    owner = workplace.owner
    return owner is None or is_alive(owner) is not False


def _is_empty(place: Path) -> bool:
    try:
        return not place.is_symlink() and not any(place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _type_of(dataset: Path) -> object:
    """Return what the administrative metadata in a folder says; None if there is none."""
    try:
        found = parse_json(_read(dataset, os.path.join(".dtool", "dtool")))
    except (OSError, ValueError, RecursionError):  # UnsafeDatasetError is a ValueError
        return None
    return found.get("type") if isinstance(found, dict) else None


def _read(folder: Path, relpath: str) -> bytes:
    return read_plain(str(folder), str(folder), relpath, limits.MAX_ADMIN_METADATA)


def _empty(folder: Path) -> None:
    """Delete the content of a folder, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        for child in list(folder.iterdir()):
            if child.is_dir() and not child.is_symlink():
                _delete(child)
            else:
                child.unlink(missing_ok=True)


def _delete(folder: Path) -> None:
    """Delete a folder and its content, if it is there. Another process may be deleting it, too."""
    while os.path.lexists(folder):
        with contextlib.suppress(FileNotFoundError):  # the other process was faster with a part of it
            shutil.rmtree(folder)
