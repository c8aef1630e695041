"""What must hold at every instant of a training. None of this starts a process."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_dtool import DtoolCheckpoint
from lightning_dtool.errors import LightningDtoolError
from lightning_dtool.items import CHECKPOINT_ITEM
from lightning_dtool.store import iter_datasets, local_path

CONTENT = "content"

LOST = "lost"
WRONG = "wrong"
EMPTY = "empty"
DANGLING = "dangling"
HANGING = "hanging"
LEFT = "left behind"
FAILED = "failed"
KINDS = (LOST, WRONG, EMPTY, DANGLING, HANGING, LEFT, FAILED)
"""What can be found: a whole checkpoint that was there is gone; a content that was never saved; a path to an empty
file; a path to nothing; a process that does not end; something that nobody owns; a run that did not do its work."""


@dataclass(frozen=True)
class Finding:
    """Something that does not hold.

    Attributes:
        kind: One of `KINDS`.
        text: What it is.
    """

    kind: str
    text: str


Held = dict[str, int]
"""The steps of whole checkpoints, by path or URI."""


class NotWhole(Exception):
    """A file is not the checkpoint of one step."""


def step_of(file: str | os.PathLike[str]) -> int:
    """Return the step of a whole checkpoint, all of whose content is of that step.

    Raises:
        NotWhole: Otherwise.
    """
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        step = int(checkpoint["global_step"])
        whole = bool((checkpoint["state_dict"][CONTENT] == step).all())
    except Exception as error:
        raise NotWhole(f"{type(error).__name__}: {error}") from error
    if not whole:
        raise NotWhole(f"step {step}, but not all of its content is of that step")
    return step


def check_paths(folder: Path, saved: Iterable[int]) -> tuple[Held, list[Finding]]:
    """Check that each of Lightning's paths is a whole checkpoint of a step that was saved, and of the step in its name.

    Args:
        folder: The folder of Lightning's paths.
        saved: The steps whose saves have begun.
    """
    held: Held = {}
    findings = []
    for path in sorted(folder.glob("*.ckpt")) if folder.is_dir() else ():
        if not path.exists():
            findings.append(Finding(DANGLING, f"{path.name} -> {os.readlink(path)}"))
        elif not path.stat().st_size:
            findings.append(Finding(EMPTY, path.name))
        else:
            try:
                step = step_of(path)
            except NotWhole as error:
                findings.append(Finding(WRONG, f"{path.name}: {error}"))
                continue
            if step not in saved or path.stem not in (f"step={step}", f"step={step}-v1", "last", "last-v1"):
                findings.append(Finding(WRONG, f"{path.name} holds step {step}"))
            held[path.name] = step
    return held, findings


def check_datasets(
    base_uri: str, saved: Iterable[int], known: dict[str, str] | None = None
) -> tuple[Held, list[Finding]]:
    """Check that each frozen dataset verifies, and holds the checkpoint that its record tells of.

    Args:
        base_uri: Where the datasets are.
        saved: The steps whose saves have begun.
        known: What is known of the files of datasets that have verified, by URI: they are not hashed again as long as
            this is so. It is extended.
    """
    known = {} if known is None else known
    held: Held = {}
    findings: list[Finding] = []
    problems: list[LightningDtoolError] = []
    for dataset in iter_datasets(base_uri, on_error=lambda uri, error: problems.append(error)):
        try:
            checkpoint = DtoolCheckpoint.from_uri(dataset.uri)
            if not (files := _files(dataset.uri)) or known.get(dataset.uri) != files:
                checkpoint.verify()
                known[dataset.uri] = files
            step = step_of(dataset.path(dataset.item(CHECKPOINT_ITEM).identifier))
        except (LightningDtoolError, NotWhole) as error:
            findings.append(Finding(WRONG, f"{dataset.name}: {error}"))
            continue
        if step not in saved or step != checkpoint.record.checkpoint.global_step:
            findings.append(Finding(WRONG, f"{dataset.name} holds step {step}"))
        held[dataset.uri] = step
    findings += [Finding(WRONG, str(error)) for error in problems]
    return held, findings


def _files(uri: str) -> str:
    """Return size, time of change and number of each file of a dataset on disk. An empty text for other stores."""
    folder = local_path(uri)
    if folder is None:
        return ""
    found = [(str(file), file.stat()) for file in sorted(folder.rglob("*"))]
    return repr([(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found])


def check_kept(paths: Held, certain: Sequence[int], kept: int, has_last: bool) -> list[Finding]:
    """Check that no checkpoint that was whole is gone, unless ModelCheckpoint had as many newer ones.

    Args:
        paths: What Lightning's paths hold.
        certain: The steps of the saves that have ended, oldest first.
        kept: How many ModelCheckpoint keeps under their own names; -1 for all.
        has_last: Whether it keeps the newest as `last.ckpt`.
    """
    if not certain:
        return []
    findings = []
    newest = max(certain)
    own = {step for name, step in paths.items() if not name.startswith("last")}
    last = {step for name, step in paths.items() if name.startswith("last")}
    if max([*own, *last], default=-1) < newest:
        findings.append(Finding(LOST, f"step {newest} was whole, the paths hold {sorted(own | last)}"))
    if has_last and max(last, default=-1) < newest:
        findings.append(Finding(LOST, f"last.ckpt held step {newest}, and holds {sorted(last)}"))
    wanted = set(certain) if kept < 0 else set()
    if wanted - own:
        findings.append(Finding(LOST, f"the steps {sorted(wanted - own)} of those that are all kept"))
    if kept > 0 and len(own) < min(kept, len(certain)):
        findings.append(Finding(LOST, f"{kept} are kept of the steps {list(certain)}, the paths hold {sorted(own)}"))
    return findings


def check_nothing_gone(before: Mapping[str, int], after: Mapping[str, int], whose: str) -> list[Finding]:
    """Check that each dataset is still there after something that may remove none."""
    gone = sorted(before.keys() - after.keys())
    return [Finding(LOST, f"{whose} removed {', '.join(gone)}")] if gone else []


def check_resumed(resumed: int | None, paths: Held, certain: Sequence[int], has_last: bool) -> list[Finding]:
    """Check that a next run with `ckpt_path="last"` has begun at the newest checkpoint.

    Args:
        resumed: The step at which it began. None if it did not.
        paths: What Lightning's paths held before.
        certain: The steps of the saves that had ended.
        has_last: Whether there is a `last.ckpt`. Without, "last" finds nothing, as in Lightning.
    """
    if resumed is None:
        return [Finding(FAILED, 'a next run with ckpt_path="last" did not start')]
    newest = max((step for name, step in paths.items() if name.startswith("last")), default=0)
    if has_last and resumed < max([newest, *certain]):
        return [Finding(LOST, f"the next run began at step {resumed}, the paths held {dict(paths)}")]
    return []


def check_nothing_left(in_store: Iterable[str], paths: Path, temporary: Path) -> list[Finding]:
    """Check that there is nothing but datasets in the store, checkpoints at the paths, and nothing temporary.

    Args:
        in_store: What is in the store and belongs to no dataset.
        paths: The folder of Lightning's paths.
        temporary: The folder of temporary files.
    """
    left = [f"{name} in the store" for name in in_store]
    if paths.is_dir():
        left += [f"{entry.name} beside the checkpoints" for entry in paths.iterdir() if entry.suffix != ".ckpt"]
    if temporary.is_dir():
        left += [f"{entry.name} in TMPDIR" for entry in temporary.iterdir()]
    return [Finding(LEFT, text) for text in sorted(left)]


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [{"kind": finding.kind, "text": finding.text} for finding in findings]
