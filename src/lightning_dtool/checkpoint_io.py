"""DtoolCheckpointIO: what the Trainer saves, loads and removes, as datasets.

The user's ModelCheckpoint decides what is kept, under which path, and for how long. This plugin lets each
of those paths lead to a dataset, and keeps the account of which path belongs to which.
"""

import inspect
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lightning_dtool import rerun
from lightning_dtool._public import public
from lightning_dtool.capture.provenance import Description, Observed, describe, observe_checkpoint
from lightning_dtool.checkpoint import DtoolCheckpoint
from lightning_dtool.errors import ConfigurationError, LightningDtoolError, ProvenanceWarning, PublishError
from lightning_dtool.items import CHECKPOINT_ITEM, SUPERSEDED_TAG
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.publishing.linking import duplicate, forget_link, free, link, reserve, write
from lightning_dtool.publishing.publisher import Staged, Worker, dataset_name, publish
from lightning_dtool.record import Provenance
from lightning_dtool.snapshot.copy import same_state, snapshot, storage_sizes
from lightning_dtool.snapshot.staging import Staging
from lightning_dtool.store import (
    FrozenDataset,
    WritingProcess,
    delete_dataset,
    is_dataset_uri,
    local_path,
    normalize_uri,
)
from lightning_dtool.store.names import fitting_name

Retention = Literal["mirror", "all"]
Describe = Callable[[Mapping[str, Any], str], Description]
Wanted = Callable[[Mapping[str, Any]], bool]

_TRANSIENT = (".lr_find_", ".scale_batch_size_")
"""The tuner's own checkpoints begin so: it saves, reloads and removes them."""

_LARGE = 32 * 2**20
"""Bytes of a state from which on a process is worth its start."""


@dataclass(eq=False)
class Publication:
    """One checkpoint on its way into a dataset, and the paths at which the Trainer knows it."""

    record: Provenance
    name: str
    paths: set[str]
    dataset: FrozenDataset | None = None
    file: Path | None = None
    """A plain file that holds it: beside a remote store, or because publishing failed."""
    failed: bool = False
    deleted: bool = False

    @property
    def available(self) -> bool:
        """True once it is a frozen dataset, as long as it is there."""
        return self.dataset is not None and not self.deleted


@public
class DtoolCheckpointIO(CheckpointIO):
    """Write every checkpoint of a Trainer as a frozen dtool dataset, and load checkpoints by URI.

    `DtoolProvenanceCallback` installs it; use it alone, as a plugin, where a callback is not wanted. The
    record is then poorer: a bare checkpoint does not know its model's class, its data or its optimizers.

    Args:
        base_uri: Where the datasets go, for example `file:///models` or `s3://lab-models`.
        checkpoint_io: What writes and reads plain checkpoint files. Default: Lightning's own.
        retention: `"mirror"` (default): when ModelCheckpoint drops a checkpoint, its dataset goes too, after
            the next one is safe. `"all"`: every dataset stays. Datasets that this object did not write are
            never touched.
        name: Beginning of the datasets' names. Default: the name of the LightningModule's class.
        strict: Raise `PublishError` when a checkpoint could not be published. Default: warn, and keep a
            plain checkpoint file at Lightning's path.
        background: Publish while training goes on (default). `False` waits for each dataset, which is streamed into
            the store and needs no memory for a copy.
        staging_memory: The most bytes that the copy of a checkpoint may take, which is published in the background.
            One that is larger is published as with `background=False`. Default: what the machine, or the container,
            has available at the time. There is one copy at a time: when saving outruns the store, training waits.

    Example:
        ```python
        trainer = Trainer(plugins=[DtoolCheckpointIO("file:///models")])
        ```
    """

    def __init__(
        self,
        base_uri: str,
        checkpoint_io: CheckpointIO | None = None,
        retention: Retention = "mirror",
        name: str | None = None,
        strict: bool = False,
        background: bool = True,
        staging_memory: int | None = None,
    ) -> None:
        if retention not in ("mirror", "all"):
            raise ConfigurationError(f"retention={retention!r}: expected 'mirror' or 'all'.")
        if staging_memory is not None and staging_memory < 0:
            raise ConfigurationError(f"staging_memory={staging_memory!r}: expected a number of bytes.")
        if checkpoint_io is not None:
            refuse_other_namespace(checkpoint_io, "checkpoint_io")
        self.base_uri = normalize_uri(rerun.redirect_base_uri(base_uri))
        self.checkpoint_io = _without_async(checkpoint_io)
        self.retention = retention
        self.name = name
        self.strict = strict
        self.background = background
        self.staging_memory = staging_memory
        self._start()

    def _start(self) -> None:
        self.describe: Describe = self._describe
        """Says what is known of the run; the callback puts its own here, which knows more."""
        self.on_flushed: Callable[[], None] = _nothing
        """Called when everything is written, however the run ended."""
        self.wanted: Wanted = _always
        """Whether a checkpoint becomes a dataset; a rerun wants one of them."""
        self.instead: str | None = None
        """What the next load reads in place of what was asked for: in a rerun, the reproduced parent."""
        self.loaded: str | None = None
        """The URI or path that training was last resumed from."""
        self.transient = False
        """Whether what was loaded last is the tuner's own: not a run that goes on, but the state before a trial."""
        self.publications: list[Publication] = []
        self._failures: list[tuple[Exception, bool]] = []
        self._owner: dict[str, Publication] = {}
        self._latest: tuple[Publication, Mapping[str, Any] | None] | None = None
        self._staging = Staging(self.staging_memory)
        self._process: WritingProcess | None = None
        self._observed: Observed | None = None
        self._reported = 0
        self._lock = threading.Lock()
        self._worker = Worker()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: a spawned one begins anew."""
        kept = ("base_uri", "checkpoint_io", "retention", "name", "strict", "background", "staging_memory")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    # -- what the Trainer calls -----------------------------------------------------------------

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Publish a checkpoint, and let `path` lead to it.

        Args:
            checkpoint: What Lightning's `dump_checkpoint` gives. Anything else, and what the tuner saves for
                itself, is left to the plain checkpoint IO.
            path: Where the Trainer wants the checkpoint.
            storage_options: Passed on to the plain checkpoint IO.
        """
        path = rerun.redirect_path(_absolute(path))
        if not (_is_training_checkpoint(checkpoint, path) and self.wanted(checkpoint)):
            self._save_plainly(checkpoint, path, storage_options)
            return
        place = self._place(path) if storage_options is None else None
        if place is None:
            # A remote path, or a CheckpointIO with a format or options of its own: the user gets exactly that file.
            self._save_plainly(checkpoint, path, storage_options)
        same = self._same_as_latest(checkpoint)
        if same is None:
            # One copy in memory at a time: when saving outruns the disk, training waits here.
            self._worker.wait()
            self._report(raising=self.strict)
            self._publish_new(checkpoint, path, place)
        else:
            self._claim(path, same)
            if place is not None:
                reserve(place)
                self._worker.submit(self._show, same, path, place)
        if not self.background:
            self.flush()
            self._worker.close()

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint from a dataset's URI, or from a path as Lightning does.

        Args:
            path: A URI or a path.
            map_location: As in `torch.load`. Default: the CPU.
            weights_only: As in `torch.load`. For a URI `None` means `True`: a safe load.
        """
        if self.instead is not None:
            path, self.instead = self.instead, None
        self.transient = _is_transient(path)
        if not self.transient:
            self.loaded = os.fspath(path)
        if is_dataset_uri(path):
            checkpoint = DtoolCheckpoint.from_uri(path)
            return checkpoint.load(map_location=map_location or "cpu", weights_only=weights_only is not False)
        path = _absolute(path)
        inside = rerun.redirect_path(path)
        if Path(inside).exists():  # in a rerun, what it has saved itself
            path = inside
        if self._owner.get(path):
            self._worker.wait()
        options: dict[str, Any] = {} if map_location is None else {"map_location": map_location}
        # Lightning before 2.6 has no `weights_only` here.
        if "weights_only" in inspect.signature(self.checkpoint_io.load_checkpoint).parameters:
            options["weights_only"] = weights_only
        return _told_of_last(self.checkpoint_io.load_checkpoint(path, **options), path)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove what stands at a path, and with `retention="mirror"` its dataset if no other path leads there."""
        path = rerun.redirect_path(_absolute(path))
        place = self._place(path)
        if path not in self._owner or place is None:
            self.checkpoint_io.remove_checkpoint(path)
            self._release(path)
        else:
            self._release(path)
            place.unlink(missing_ok=True)

    def teardown(self) -> None:
        """Finish what is under way, whatever ended the run."""
        try:
            self.flush()
        finally:
            self.on_flushed()
            self._worker.close()
            self._latest = None
            self._staging.release()
            if self._process is not None:
                self._process.close()
                self._process = None
            # What is saved after a run has no end of a run that it could wait for.
            self.background = False
            self.checkpoint_io.teardown()

    # -- for the callback and for users ---------------------------------------------------------

    @property
    def errors(self) -> list[Exception]:
        """What kept checkpoints from being published, in order."""
        return [error for error, _ in self._failures]

    def expect(self, state: Any) -> None:
        """Prepare, in the background, the memory for a copy of a state like this one, and what will write it.

        Args:
            state: What a checkpoint will hold, or a part of it, in nested containers.
        """
        if self.background:
            sizes = storage_sizes(state)
            self._worker.submit(self._staging.reserve, sizes)
            self._worker.submit(self._ready_process, sum(sizes))

    def flush(self) -> None:
        """Wait until every checkpoint so far is a dataset.

        Raises:
            PublishError: With `strict=True`, if one could not be published.
        """
        self._worker.wait("Publishing checkpoints")
        # An exception that is on its way already must stay the one that the user sees.
        self._report(raising=self.strict and sys.exc_info()[0] is None)

    def publication_for(self, path: str | os.PathLike[str]) -> Publication | None:
        """Return what was published for one of the Trainer's checkpoint paths, following links between them."""
        place = Path(_absolute(path))
        for _ in range(40):  # as deep as an operating system goes
            if str(place) in self._owner or not place.is_symlink():
                break
            place = Path(os.path.normpath(place.parent / place.readlink()))
        return self._owner.get(str(place)) or self._owner.get(os.fspath(path))

    # -- in the training thread -----------------------------------------------------------------

    def _publish_new(self, checkpoint: dict[str, Any], path: str, place: Path | None) -> None:
        try:
            description = self.describe(checkpoint, path)
        except Exception as error:  # a fact that cannot be described
            self._note(error)
            self._release(path)
            if place is not None:
                self._save_plainly(checkpoint, path)
            self._report(raising=self.strict)
            return
        if place is not None:
            reserve(place)
        observed, record = description.observed, description.record
        publication = Publication(record, self._free_name(record), {path})
        self.publications.append(publication)
        self._latest = None  # its copy is about to be overwritten
        try:
            copied = self._copied(checkpoint)
        except BaseException:  # Ctrl-C: what takes the place of a file must not stay
            publication.failed = True
            if place is not None:
                free(place)
            raise
        staged = Staged(
            checkpoint if copied is None else copied,
            description.sealed,
            record.run.creator_username,
            observed.requirements,
            observed.random_states,
            observed.run_status,
            description.attachments,
        )
        if copied is not None:
            self._worker.submit(self._publish, publication, staged, path, place)
        else:
            # In this thread: as long as it is read, nobody else can change it.
            self._publish(publication, staged, path, place)
        self._latest = (publication, copied)
        self._claim(path, publication)

    def _copied(self, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a copy to publish while training goes on; None if there shall be none, or cannot be."""
        if not self.background:
            return None
        try:
            return snapshot(checkpoint, self._staging)
        except BaseException as error:
            self._staging.release()
            if isinstance(error, Exception):  # not enough memory, or an object of somebody else's that cannot be copied
                return None
            raise

    def _same_as_latest(self, checkpoint: Mapping[str, Any]) -> Publication | None:
        """Return the latest publication if it holds this very state: best and last of one step are one dataset."""
        if self._latest is None:
            return None
        publication, state = self._latest
        if not publication.paths or publication.failed or publication.deleted:
            return None
        if state is None:
            state = _stored(publication, checkpoint)
        else:
            self._staging.wait()
        return publication if state is not None and same_state(state, checkpoint) else None

    def _free_name(self, record: Provenance) -> str:
        name = dataset_name(record, self.name)
        taken = sum(publication.name.startswith(name) for publication in self.publications)
        version = f"-v{taken}" if taken else ""
        return fitting_name(name, version)

    def _place(self, path: str) -> Path | None:
        """Return a path of the local file system at which we may put a link; None if it is not ours to fill."""
        return None if "://" in path or type(self.checkpoint_io) is not TorchCheckpointIO else Path(path)

    def _claim(self, path: str, publication: Publication) -> None:
        """Let a path belong to a publication, and no longer to the one that had it."""
        if self._owner.get(path) is not publication:
            self._release(path, publication)
            with self._lock:
                publication.paths.add(path)
            self._owner[path] = publication

    def _release(self, path: str, successor: Publication | None = None) -> None:
        publication = self._owner.pop(path, None)
        if publication is None:
            return
        with self._lock:
            publication.paths.discard(path)
        if not publication.paths and self.retention == "mirror":
            # The worker takes its tasks in order: the successor is written by then, or has failed.
            self._worker.submit(self._retire, publication, successor or self.publications[-1])

    def _report(self, raising: bool) -> None:
        """Tell the user in her own thread what went wrong in the other."""
        new = self._failures[self._reported :]
        self._reported += len(new)
        for error, kept in new:
            message = f"{self.base_uri}: a checkpoint could not be published there. {type(error).__name__}: {error}"
            state = "The plain file at Lightning's path was kept" if kept else "Nor is there a file at Lightning's path"
            remedy = "" if kept else " Make room, or save elsewhere."
            _forget_frames(error)
            if raising:
                raise PublishError(f"{message} {state}.{remedy}") from error
            warnings.warn(
                f"{message} {state}, and training goes on.{remedy}",
                ProvenanceWarning,
                stacklevel=3,
            )

    def _note(self, error: Exception, kept: bool = True) -> None:
        """Keep what went wrong, and whether the checkpoint is there as a plain file."""
        self._failures.append((error, kept))

    def _describe(self, checkpoint: Mapping[str, Any], path: str) -> Description:
        if self._observed is None:
            self._observed = observe_checkpoint(checkpoint)
        return describe(self._observed, checkpoint, path)

    # -- in the worker --------------------------------------------------------------------------

    def _publish(self, publication: Publication, staged: Staged, path: str, place: Path | None) -> None:
        try:
            self._staging.wait()
            if place is not None and local_path(self.base_uri) is None:
                # The dataset goes to a remote store: the user's path holds a file, and the store gets that.
                publication.file = self._write_file(staged, place)
            process = self._ready_process(self._staging.nbytes)
            publication.dataset = publish(staged, self.base_uri, publication.name, publication.file, process)
            self._show(publication, path, place)
            if self.retention == "all":  # this one is there to stay; others are announced when the run has ended
                rank_zero_info(f"Published: {publication.dataset.uri}")
        except Exception as error:  # whatever a store may raise, training goes on
            publication.failed = True
            second = self._keep_file(publication, staged, place)
            self._note(error, kept=second is None)
            if second is not None:
                self._note(second, kept=False)
        except BaseException:  # Ctrl-C, where training waits for this: what takes the place of a file must not stay
            publication.failed = True
            if place is not None and publication.file is None:
                free(place)
            raise

    def _ready_process(self, nbytes: int) -> WritingProcess | None:
        """Return the process that writes copies of so many bytes; None where a thread will do, or has to."""
        if nbytes < _LARGE or local_path(self.base_uri) is None:
            return None
        if self._process is None:
            try:
                self._process = WritingProcess()
            except OSError:  # a system without shared memory, or without room for one more process
                return None
        # One that was killed is not started again: whatever killed it would do so once more.
        return self._process if self._process.usable else None

    def _keep_file(self, publication: Publication, staged: Staged, place: Path | None) -> Exception | None:
        """Write the plain file that Lightning would have written, as there is no dataset; return what went wrong."""
        if place is None or publication.file is not None:
            return None
        try:
            publication.file = self._write_file(staged, place)
        except Exception as error:
            free(place)
            return error
        return None

    def _write_file(self, staged: Staged, place: Path) -> Path:
        write(staged.state, place)
        return place

    def _save_plainly(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a file as Lightning does, but never through a link: behind it lies an item of a frozen dataset."""
        forget_link(path)
        self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)

    def _show(self, publication: Publication, path: str, place: Path | None) -> None:
        """Let a path lead to a publication, unless it was given up in the meantime."""
        with self._lock:
            if place is None or path not in publication.paths:
                return
            if publication.file is not None:
                if publication.file != place:
                    duplicate(publication.file, place)
            elif publication.dataset is not None:
                item = publication.dataset.item(CHECKPOINT_ITEM)
                link(publication.dataset.path(item.identifier), place)

    def _retire(self, publication: Publication, successor: Publication) -> None:
        """Delete a dataset that the Trainer has no more use for; keep it if its successor never came to be."""
        if publication.dataset is None:
            return
        try:
            if successor is publication or successor.dataset is not None:
                delete_dataset(publication.dataset.uri)
                publication.deleted = True
                return
        except LightningDtoolError:
            pass  # a store that cannot delete
        try:
            publication.dataset.put_tag(SUPERSEDED_TAG)
        except LightningDtoolError as error:
            self._note(error)


def _stored(publication: Publication, checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the state that a publication has written, mapped from its file, if it may be that of a checkpoint."""
    record = publication.record.checkpoint
    if (record.epoch, record.global_step) != (checkpoint.get("epoch"), checkpoint.get("global_step")):
        return None
    try:
        path = publication.file
        if path is None and publication.dataset is not None and local_path(publication.dataset.uri) is not None:
            path = publication.dataset.path(publication.dataset.item(CHECKPOINT_ITEM).identifier)
        return None if path is None else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # what cannot be read, or not safely, is written once more
        return None


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the functions that an error came through still hold, and those that called them: a whole state."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for found, _ in traceback.walk_tb(error.__traceback__):
            frame: FrameType | None = found
            while frame is not None:
                try:
                    frame.clear()
                except RuntimeError:  # it is running
                    break
                frame = frame.f_back
        error = error.__cause__ or error.__context__


def _nothing() -> None:
    """Do nothing."""


def _always(_: Mapping[str, Any]) -> bool:
    return True


def _without_async(checkpoint_io: CheckpointIO | None) -> CheckpointIO:
    """Return what does the writing: our own worker takes the place of Lightning's asynchronous wrapper."""
    if isinstance(checkpoint_io, AsyncCheckpointIO):
        checkpoint_io = checkpoint_io.checkpoint_io
    return checkpoint_io if checkpoint_io is not None else TorchCheckpointIO()


def _is_training_checkpoint(checkpoint: Mapping[str, Any], path: str) -> bool:
    """Return False for what the tuner saves for itself, and for the bare weights that a spawning strategy passes on."""
    return "pytorch-lightning_version" in checkpoint and not _is_transient(path)


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return the one name of a local path; a remote address as it is."""
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(path)


def _is_transient(path: str | os.PathLike[str]) -> bool:
    return Path(path).name.startswith(_TRANSIENT)


def _told_of_last(checkpoint: dict[str, Any], path: str) -> dict[str, Any]:
    """Let a ModelCheckpoint know that the file it resumes from is its own `last`.

    Best and last of one step are one dataset, written before the callback notes `last_model_path`. Without
    that note a resumed run would not overwrite `last.ckpt`, but begin a `last-v1.ckpt`.
    """
    if Path(path).name.startswith("last") and Path(path).is_symlink():
        for key, state in checkpoint.get("callbacks", {}).items():
            if key.startswith("ModelCheckpoint") and not state.get("last_model_path"):
                state["last_model_path"] = path
    return checkpoint
