"""The plan for a child process of `lightning-dtool reproduce`, and the events that the process reports.

The plan is a JSON file whose path is in an environment variable. Without that variable `current_plan()` returns None,
and the functions here change nothing. This module imports only the standard library, so any module may use it.
"""

import functools
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PLAN_VARIABLE = "LIGHTNING_DTOOL_RERUN"
"""The environment variable that names the plan's file."""

PROCESS_VARIABLE = "LIGHTNING_DTOOL_RERUN_PROCESS"
"""The environment variable with the id of the process that runs the script. Processes that it starts inherit it."""

REPRODUCE = "reproduce"
REPLICATE = "replicate"


class TargetReachedError(SystemExit):
    """Ends a rerun with exit code 0: the checkpoint is published, and the rest of the training is not needed."""

    def __init__(self) -> None:
        super().__init__(0)


@dataclass(frozen=True)
class Target:
    """The moment in a training at which the recorded checkpoint was saved.

    Attributes:
        fit_index: Number of the recorded `fit` within its process, from 0. None means the first, for a record without
            this number.
        epoch: Epoch, from 0.
        global_step: Number of optimizer steps.
        filename: Name of the file to which Lightning saved the checkpoint.
        arguments: The recorded arguments of the LightningModule. None if they are not known.
        data: What identifies the recorded training data. Empty if other data is used.
    """

    fit_index: int | None
    epoch: int
    global_step: int
    filename: str
    arguments: dict[str, Any] | None = None
    data: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """Instructions for the child process of a rerun.

    Attributes:
        original: The recorded checkpoint: `uri`, `uuid`, `name`, `content_digest`.
        kind: `reproduce`, or `replicate` with new data.
        into: Base URI for all checkpoints of the rerun.
        scratch: Folder for everything else that the training writes.
        report: File to which events are appended, one JSON object per line.
        target: The moment at which to stop.
        root: The project's folder: where the recorded source was unpacked.
        variables: Environment variables to set before the script runs; None unsets one.
        automatic: Whether the recorded callback had been attached automatically.
        random_states: Local file of the recorded item random_states.json, if there is one.
        initial_digest: Digest of the recorded initial weights.
        initial_weights: Local file with the initial weights, if they were stored.
        uris: URIs to read in place of recorded ones, by recorded URI. Both are normalized.
        data: URIs of the datasets of a replication, by stage.
        parent: URI of the checkpoint to resume from, instead of the one that the script names.
        checkpoint: Local file of the recorded checkpoint. It is loaded safely and evaluated on the same data.
        seed_offset: Number for deriving another seed from each seed of the script. None keeps the seeds.
        threads: Number of torch's threads. None keeps the default.
        threads_forced: Whether `threads` overrides what the script sets.
        device: Accelerator to use instead of the script's, if any.
        trace: Whether to write digests of all parameters after each optimizer step.
        recall: Whether to compute the recall of each class.
        parent_process: Id of the process that waits for the rerun. The rerun ends when that process ends.
        writable: Files and folders that it may write; None if nothing prevents it from writing elsewhere.
        network: Whether it may use the network.
    """

    original: dict[str, str]
    kind: str
    into: str
    scratch: str
    report: str
    target: Target
    root: str | None = None
    variables: dict[str, str | None] = field(default_factory=dict)
    automatic: bool = True
    random_states: str | None = None
    initial_digest: str | None = None
    initial_weights: str | None = None
    uris: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    checkpoint: str | None = None
    seed_offset: int | None = None
    threads: int | None = None
    threads_forced: bool = False
    device: str | None = None
    trace: bool = False
    recall: bool = False
    parent_process: int | None = None
    writable: list[str] | None = None
    network: bool = True

    def write(self, path: Path) -> None:
        """Write the plan to a file, as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Plan":
        """Read a file that `write` has written."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**content, "target": Target(**content["target"])})


@functools.cache
def current_plan() -> Plan | None:
    """Return the plan that this process follows. None if it is not a rerun."""
    path = os.environ.get(PLAN_VARIABLE)
    return Plan.read(path) if path else None


def in_worker_process() -> bool:
    """Return whether this process of a rerun is one that the script has started, such as one of a pool."""
    return os.environ.get(PROCESS_VARIABLE) != str(os.getpid())


def report(event: str, **facts: Any) -> None:
    """Append an event to the report file, which the parent process reads. Without a plan, do nothing.

    Args:
        event: Name of the event.
        **facts: Details, as strict JSON values.
    """
    plan = current_plan()
    if plan is not None:
        line = json.dumps({"event": event, "at": time.time(), **facts})
        with open(plan.report, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def redirect_base_uri(base_uri: Any) -> Any:
    """Return the plan's base URI for checkpoints. Without a plan, return the given one."""
    plan = current_plan()
    return base_uri if plan is None else plan.into


def redirect_uri(uri: str) -> str:
    """Return the URI of a dataset to read in place of a recorded one.

    A dataset that the script itself has created in the scratch folder, in place of the recorded one, is not replaced.

    Args:
        uri: A normalized URI.

    Returns:
        The plan's replacement, or `uri` if there is none.
    """
    plan = current_plan()
    if plan is None or uri not in plan.uris or _exists_in(uri, plan.scratch):
        return uri
    return plan.uris[uri]


def _exists_in(uri: str, folder: str) -> bool:
    scheme, _, rest = uri.partition("://")
    path = Path(f"/{rest.partition('/')[2]}")
    return scheme == "file" and path.is_relative_to(folder) and path.exists()


def redirect_path(path: str) -> str:
    """Return the path to which a rerun writes instead of a given one.

    Args:
        path: A local path, or a remote address, which is returned unchanged.

    Returns:
        A path in the scratch folder. Without a plan, `path` itself.
    """
    plan = current_plan()
    return path if plan is None or "://" in path else path_in_scratch(path, Path(plan.scratch))


def path_in_scratch(path: str | os.PathLike[str], scratch: Path) -> str:
    """Map a path into the scratch folder.

    Paths that differ only in `:` and `_`, in `://` and `/`, or in outer slashes share a place.

    Args:
        path: A local path or a remote address. A path that is in the scratch folder already is returned unchanged.
        scratch: The scratch folder.
    """
    text = os.fspath(path)
    if "://" not in text and Path(os.path.abspath(text)).is_relative_to(scratch):
        return text
    # Derived only from the path, because a logger and a ModelCheckpoint may share a folder.
    name = text.replace("://", "/").strip("/\\").replace(":", "_")
    return str(scratch / "outside" / name)


def order_seed_offset() -> int:
    """Return the number to add to the seed of the training order. It is 0 unless the plan asks for other seeds."""
    plan = current_plan()
    # A training that resumes within an epoch must keep the order of that epoch.
    return 0 if plan is None or plan.parent is not None else plan.seed_offset or 0


def redirect_data(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a DataModule, with the data of a replication in place of the recorded data.

    Args:
        arguments: `uri`, `train_uri`, `val_uri`, `test_uri`, `val_split`, `test_split` and `split_overlay`.

    Returns:
        The arguments by name. Without a plan for a replication, they are unchanged.
    """
    plan = current_plan()
    data = plan.data if plan is not None else {}
    if not data:
        return arguments
    found = dict(arguments)
    if found["uri"] is not None:
        found["uri"] = data["train"]
        own = [stage for stage in ("val", "test") if stage in data]
        if own and found["split_overlay"] is not None:  # the overlay divides a single dataset
            found |= {"uri": None, "train_uri": data["train"], "split_overlay": None}
        elif len(own) == 2 or (own and not found[f"{({'val', 'test'} - set(own)).pop()}_split"]):
            found |= {"uri": None, "train_uri": data["train"]}
    else:
        found["train_uri"] = data["train"]
    for stage in ("val", "test"):
        if stage in data:
            found[f"{stage}_uri"] = data[stage]
            found[f"{stage}_split"] = 0.0
    return found
