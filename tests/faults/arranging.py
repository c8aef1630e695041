"""Folders and file systems for a case, and their repair after the fault."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.cases import FULL_DISK, KILL_AT, S3, TWO, Case
from faults.links import KILLED_SERVER, LINKS, Bucket, delete
from faults.plan import Plan
from faults.strikes import FILLER, STRIKES
from faulty_link import faulty_link
from s3_server import S3Server, running_s3_server

_SIZE = {"small": "8m", "large": "512m"}
"""Of file systems that are filled up."""

_OTHER = Path("/dev/shm")
"""Another file system than that of temporary files."""


class CannotBeArranged(Exception):
    """This machine, or this user, cannot bring about the fault."""


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Arrangement:
    """What a case needs.

    Attributes:
        plan: Its training.
        strike: Brings about the fault from outside the training.
        relieve: Undoes what the fault did, as an administrator would.
        left: Returns what is in the store and belongs to none of the datasets of some URIs.
    """

    plan: Plan
    strike: Callable[[], None]
    relieve: Callable[[], None]
    left: Callable[[Iterable[str]], list[str]]


@contextlib.contextmanager
def arranged(case: Case, server: S3Server | None, keep: bool = False) -> Iterator[Arrangement]:
    """Make the folders of a case, mount what it needs, and remove all of it afterwards.

    Args:
        case: The case.
        server: The S3 server. None if there is none.
        keep: Leave the folders.

    Raises:
        CannotBeArranged: If the fault cannot be brought about here.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        if not keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if case.place == S3:
            yield _on_s3(case, stack, folder, server)
        else:
            yield _on_disk(case, stack, folder)


def _on_s3(case: Case, stack: contextlib.ExitStack, folder: Path, server: S3Server | None) -> Arrangement:
    if case.fault == KILLED_SERVER:
        (folder / "server").mkdir()
        server = stack.enter_context(running_s3_server(folder / "server"))
    if server is None:
        raise CannotBeArranged("there is no S3 server")
    bucket = Bucket(f"faults-{uuid.uuid4().hex}", server, stack.enter_context(faulty_link(server.endpoint)))
    bucket.make()
    if case.fault != KILLED_SERVER:  # else its server goes, too
        stack.callback(delete, bucket)  # the server has room for a limited number of volumes
    settings = server.settings(bucket.name) | {f"DTOOL_S3_ENDPOINT_{bucket.name}": bucket.link.endpoint}
    plan = _planned(case, folder, f"s3://{bucket.name}", folder / "ckpt", settings | {"AWS_EC2_METADATA_DISABLED": "1"})
    plan.paths.mkdir()
    strike, relieve = LINKS.get(case.fault, (lambda bucket: None, lambda bucket: None))

    def left(uris: Iterable[str]) -> list[str]:
        known = tuple(uri.rpartition("/")[2] for uri in uris)
        return [key for key in bucket.objects() if not key.startswith((*known, *(f"dtool-{each}" for each in known)))]

    return Arrangement(plan, lambda: strike(bucket), lambda: relieve(bucket), left)


def _on_disk(case: Case, stack: contextlib.ExitStack, folder: Path) -> Arrangement:
    other = folder
    if case.place == TWO:
        if not _OTHER.is_dir() or _OTHER.stat().st_dev == folder.stat().st_dev:
            raise CannotBeArranged("there is no other file system")
        other = Path(tempfile.mkdtemp(prefix="faults-", dir=_OTHER))
        stack.callback(shutil.rmtree, other, ignore_errors=True)
    base, paths = other / "models", folder / "ckpt"
    if case.fault == FULL_DISK:
        base, paths = folder / "disk" / "models", folder / "disk" / "ckpt"
        stack.enter_context(_mounted(folder / "disk", case.state))
    for place in (base, paths):
        place.mkdir()
    for place in _on_own_file_system(case.fault, base, paths):
        stack.enter_context(_mounted(place, case.state, few_files="inodes" in case.fault))
    if "immutable" in case.fault:
        _require_immutability(folder)
    relieve = functools.partial(_relieve, case.fault, base, paths)
    stack.callback(relieve)

    def left(uris: Iterable[str]) -> list[str]:
        known = {uri.rpartition("/")[2] for uri in uris}
        return [entry.name for entry in base.iterdir() if entry.name not in known] if base.is_dir() else []

    return Arrangement(_planned(case, folder, f"file://{base}", paths), _nothing, relieve, left)


def _planned(case: Case, folder: Path, base_uri: str, paths: Path, variables: dict[str, str] | None = None) -> Plan:
    inside = case.fault in STRIKES
    return Plan(
        folder,
        base_uri,
        paths,
        case.state,
        case.policy,
        case.retention,
        fault=case.fault if inside else "operation" if case.fault == KILL_AT else "",
        at=case.step(Plan.steps) if inside else 0,
        variables=variables or {},
    )


def _relieve(fault: str, base: Path, paths: Path) -> None:
    for place in (base, paths):
        place.mkdir(exist_ok=True)
        if "immutable" in fault:
            subprocess.run(["chattr", "-i", place], capture_output=True)
        if "read-only" in fault and os.path.ismount(place):
            subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        filler = place / FILLER
        if filler.is_dir():
            shutil.rmtree(filler)
        else:
            filler.unlink(missing_ok=True)


def _on_own_file_system(fault: str, base: Path, paths: Path) -> list[Path]:
    if not any(word in fault for word in ("full", "inodes", "read-only")) or fault == FULL_DISK:
        return []
    return [paths if "Lightning's paths" in fault else base]


@contextlib.contextmanager
def _mounted(place: Path, state: str, few_files: bool = False) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    options = f"size={_SIZE[state]}" + (",nr_inodes=200" if few_files else "")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        raise CannotBeArranged(f"mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@functools.cache
def _immutability_works(device: int, folder: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=folder) as probe:
        works = shutil.which("chattr") is not None and not subprocess.run(["chattr", "+i", probe]).returncode
        if works:
            subprocess.run(["chattr", "-i", probe], check=True)
    return works


def _require_immutability(folder: Path) -> None:
    if not _immutability_works(folder.stat().st_dev, folder.parent):
        raise CannotBeArranged("chattr: this file system, or this user, cannot make a folder immutable")
