"""From a staged checkpoint to a frozen dataset, in one background worker."""

import atexit
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import torch
from rich.console import Console

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

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Staged:
    """A checkpoint that is ready to be published: nothing in it changes as long as this object is used."""

    state: Mapping[str, Any]
    sealed: Callable[[], tuple[Provenance, bytes]]
    """Returns the finished record and `source.zip`: packing the sources takes time, so it is done here."""
    creator_username: str
    requirements: str
    random_states: str
    run_status: str
    attachments: Mapping[str, Any] = field(default_factory=dict)
    """More items: bytes as they are, anything else as torch saves it."""


def publish(
    staged: Staged, base_uri: str, name: str, file: Path | None = None, process: WritingProcess | None = None
) -> FrozenDataset:
    """Write one checkpoint as a frozen dataset.

    Args:
        staged: The checkpoint and its record.
        base_uri: Where the dataset goes.
        name: The dataset's name.
        file: The state as a file, if it has been written already; then this file is stored.
        process: Where the state is hashed and written, so that training is disturbed less. If it comes to an end
            meanwhile, threads of this process do it instead. Default: in threads.

    Returns:
        The dataset, after it was read back and compared with what was sent.

    Raises:
        StoreError: If it could not be written; nothing is then visible as frozen.
    """
    try:
        return _publish(staged, base_uri, name, file, process)
    except Exception:
        if process is None or process.usable:
            raise
        return _publish(staged, base_uri, name, file, None)


def _publish(
    staged: Staged, base_uri: str, name: str, file: Path | None, process: WritingProcess | None
) -> FrozenDataset:
    with DatasetWriter(name, base_uri, creator_username=staged.creator_username, process=process) as writer:
        if file is not None:
            writer.put_file(file, CHECKPOINT_ITEM)
        else:
            with writer.open(CHECKPOINT_ITEM) as stream:
                torch.save(staged.state, stream)
        # Not first: training has only just been let go, and would have to wait for the interpreter.
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
    """Return a name for a checkpoint's dataset: the model, the epoch and step, and the run, which makes it unique."""
    model = prefix or record.model.class_path.rpartition(":")[2].rpartition(".")[2]
    tail = f"-epoch{record.checkpoint.epoch}-step{record.checkpoint.global_step}-{record.run.uuid[:8]}"
    return fitting_name(model, tail)


_at_work: "WeakSet[Worker]" = WeakSet()


def _wait_for_all() -> None:
    for worker in list(_at_work):
        worker.wait("Publishing checkpoints")


# Publishing uses threads of its own, and no executor takes work once Python has begun to end. This is called before
# that, which `atexit` is not: https://github.com/python/cpython/issues/86813
getattr(threading, "_register_atexit", atexit.register)(_wait_for_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_at_work.clear)  # it ends like a program, and has none of the threads


class Worker:
    """One background thread: what is submitted runs in order, while training goes on."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._running: set[Future[Any]] = set()

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Run a function after everything that was submitted before; a program does not end before it is done."""
        if self._executor is None:  # late, and so in the process that trains: a thread does not survive a fork
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lightning-dtool")
            _at_work.add(self)
        future = self._executor.submit(function, *args, **kwargs)
        self._running = {running for running in self._running if not running.done()} | {future}
        return future

    @property
    def busy(self) -> bool:
        """True while something waits or runs."""
        return any(not future.done() for future in self._running)

    def wait(self, message: str = "") -> None:
        """Wait until everything that was submitted is done.

        Args:
            message: Shown, on a terminal only, when that takes longer than half a second.
        """
        wait(self._running, timeout=0.5)
        if self.busy:
            console = Console(stderr=True)
            if message and console.is_terminal:
                with console.status(message):
                    wait(self._running)
            else:
                wait(self._running)
        self._running = set()

    def close(self) -> None:
        """Finish what was submitted and end the thread; `submit` starts another."""
        self.wait()
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
