"""The plan of a rerun: what a child process of `lightning-dtool reproduce` does differently, and what it tells.

The plan is a JSON file; an environment variable names it. Without that variable `plan()` is None, and nothing in this
package behaves in any other way. This module knows nothing but the standard library: every room may ask it.
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

REPRODUCE = "reproduce"
REPLICATE = "replicate"


class TargetReachedError(SystemExit):
    """Ends a rerun in peace: the checkpoint is published, and nobody needs the rest of the training."""

    def __init__(self) -> None:
        super().__init__(0)


@dataclass(frozen=True)
class Target:
    """The moment in a training at which the recorded checkpoint was saved.

    Attributes:
        fit_index: Which recorded `fit` of its process; None if the record does not say: the first.
        epoch: The epoch.
        global_step: Optimizer steps.
        filename: The file's name, as Lightning saw it.
        progress: The counters of Lightning's loops, from the checkpoint; empty if it has none.
    """

    fit_index: int | None
    epoch: int
    global_step: int
    filename: str
    progress: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a rerun has to do.

    Attributes:
        original: The recorded checkpoint: `uri`, `uuid`, `name`, `content_digest`.
        kind: `reproduce`, or `replicate` with new data.
        into: The base URI that all checkpoints go to.
        scratch: A folder for everything else that the training writes.
        report: The file that events are appended to.
        target: The moment to reach.
        root: Where the recorded source was unpacked: the project's folder.
        automatic: Whether the recorded callback had attached itself.
        random_states: The recorded item random_states.json, if there is one.
        initial_digest: The digest of the weights that the recorded training began with.
        initial_weights: A file with them, if they are stored.
        uris: Data by recorded URI: the URI to use. Both are normalized.
        data: For a replication: datasets by stage.
        parent: A checkpoint to resume from, in place of the one that the script names.
        checkpoint: A local file of the recorded checkpoint, to be loaded safely and judged on the same data.
        seed_offset: Another seed is derived from every seed of the script; None for the same.
        threads: Threads of torch; None leaves them alone.
        threads_forced: Whether the script's own choice of threads is overruled.
        device: The accelerator to use in place of the script's, if any.
        trace: Whether to write digests of all parameters after each optimizer step.
        recall: Whether to compute recall per class.
        parent_process: The process that waits for this one; without it the rerun ends.
    """

    original: dict[str, str]
    kind: str
    into: str
    scratch: str
    report: str
    target: Target
    root: str | None = None
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

    def write(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Plan":
        """Read what `write` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**content, "target": Target(**content["target"])})


@functools.cache
def plan() -> Plan | None:
    """Return the plan of this process; None in every process that is no rerun."""
    path = os.environ.get(PLAN_VARIABLE)
    return Plan.read(path) if path else None


def report(event: str, **facts: Any) -> None:
    """Tell the process that waits for this one what has happened; without a plan nothing.

    Args:
        event: Its name.
        **facts: Strict JSON.
    """
    present = plan()
    if present is not None:
        line = json.dumps({"event": event, "at": time.time(), **facts})
        with open(present.report, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def base_uri(asked: Any) -> Any:
    """Return where checkpoints go: what the script asks for, unless a plan says otherwise."""
    present = plan()
    return asked if present is None else present.into


def redirected(uri: str) -> str:
    """Return the URI to use in place of a normalized one; without a plan the very same.

    A script may make its dataset itself, at a place where the recorded one was: then it gets its own.
    """
    present = plan()
    if present is None or uri not in present.uris or _is_in(uri, present.scratch):
        return uri
    return present.uris[uri]


def _is_in(uri: str, folder: str) -> bool:
    """Return True if a URI names something that is there, in a folder of this machine."""
    scheme, _, rest = uri.partition("://")
    path = Path(f"/{rest.partition('/')[2]}")
    return scheme == "file" and path.is_relative_to(folder) and path.exists()


def kept_inside(path: str) -> str:
    """Return where a rerun writes instead of at a local path outside of its scratch folder.

    Args:
        path: A path or a remote address. Without a plan it is returned as it is.
    """
    present = plan()
    return path if present is None or "://" in path else inside(path, Path(present.scratch))


def inside(folder: str | os.PathLike[str], scratch: Path) -> str:
    """Return a path in the scratch folder: the very same one if it lies there, else one for it alone.

    Args:
        folder: A path or a remote address.
        scratch: The scratch folder.
    """
    text = os.fspath(folder)
    if "://" not in text and Path(os.path.abspath(text)).is_relative_to(scratch):
        return text
    # The same for the same: a logger and a ModelCheckpoint may share a folder.
    name = text.replace("://", "/").strip("/\\").replace(":", "_")
    return str(scratch / "outside" / name)


def order_offset() -> int:
    """Return what is added to the seed of a training order, for reruns with other seeds."""
    present = plan()
    # Training that stopped inside an epoch goes on in the order that it began with.
    return 0 if present is None or present.parent is not None else present.seed_offset or 0


def replaced_data(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return which data a DataModule reads: as it was asked to, unless a plan says that it is a replication.

    Args:
        arguments: `uri`, `train_uri`, `val_uri`, `test_uri`, `val_split`, `test_split` and `split_overlay`.

    Returns:
        The same names.
    """
    present = plan()
    data = present.data if present is not None else {}
    if not data:
        return arguments
    found = dict(arguments)
    if found["uri"] is not None:
        found["uri"] = data["train"]
        own = [stage for stage in ("val", "test") if stage in data]
        if own and found["split_overlay"] is not None:  # it divides the one dataset, and there are others now
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
