"""The CheckpointIO that writes a Trainer's checkpoints as datasets, and loads checkpoints by URI.

The user's ModelCheckpoint decides which checkpoints are kept, under which path, and for how long. This plugin makes
each of these paths lead to a dataset.
"""

import inspect
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lightning_dtool import guard, rerun
from lightning_dtool._public import public
from lightning_dtool.capture.provenance import Description, Observed, describe, observe_checkpoint
from lightning_dtool.checkpoint import DtoolCheckpoint
from lightning_dtool.errors import ConfigurationError
from lightning_dtool.items import with_dataset
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.publishing import unpublished
from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.dataset import Staged, dataset_name
from lightning_dtool.publishing.failures import Failures
from lightning_dtool.publishing.final import has_no_file
from lightning_dtool.publishing.flight import Flight
from lightning_dtool.publishing.lightning_paths import absolute, set_last_model_path
from lightning_dtool.publishing.linking import Links, detach
from lightning_dtool.publishing.publisher import Publisher, Retention
from lightning_dtool.publishing.saving import Saver, is_large, serialised
from lightning_dtool.publishing.worker import TIMEOUT, Worker, interruptible
from lightning_dtool.snapshot.pickling import pickle_error
from lightning_dtool.snapshot.staging import Staging
from lightning_dtool.store import is_dataset_uri, normalize_uri
from lightning_dtool.store.uris import uri_of_new
from lightning_dtool.watch.files import is_tuner_checkpoint


@dataclass(frozen=True)
class RunHooks:
    """What a callback adds to the saves and loads of one run.

    Attributes:
        describe: Returns the record of a checkpoint, and what belongs to it, for the path to which it is saved.
            Default: only what the checkpoint itself contains is recorded.
        is_wanted: Whether a checkpoint becomes a dataset, for the path to which it is saved. Default: each one does.
        on_flushed: Called in `teardown`, once every checkpoint is written, however the run ended.
        background: Overrides `DtoolCheckpointIO.background`, unless it is None.
        strict: Whether to raise `PublishError` even if the DtoolCheckpointIO is not strict.
        load_instead: Path or URI that the first load reads in place of the requested one.
    """

    describe: Callable[[Mapping[str, Any], str], Description] | None = None
    is_wanted: Callable[[Mapping[str, Any], str], bool] | None = None
    on_flushed: Callable[[], None] | None = None
    background: bool | None = None
    strict: bool = False
    load_instead: str | None = None


@public
class DtoolCheckpointIO(CheckpointIO):
    """Write every checkpoint of a Trainer as a frozen dtool dataset, and load checkpoints by URI.

    `DtoolProvenanceCallback` installs it. Use it alone, as a plugin, only where a callback is not possible. The record
    then lacks the model's class, the data and the optimizers, which a checkpoint does not contain.

    Args:
        base_uri: Where the datasets go, for example `file:///models` or `s3://lab-models`.
        checkpoint_io: The CheckpointIO for plain checkpoint files. Default: Lightning's `TorchCheckpointIO`.
        retention: `"mirror"` (default): when ModelCheckpoint removes a checkpoint, its dataset is deleted, after the
            next one is published. `"all"`: every dataset stays. Datasets that this object did not write are never
            touched.
        name: Prefix of the datasets' names. Default: the name of the LightningModule's class.
        strict: Raise `PublishError` when a checkpoint could not be published. Default: warn, and keep a
            plain checkpoint file at Lightning's path.
        background: Publish a copy of the checkpoint while training continues (default). With `False`, each save waits
            until the dataset is written; the checkpoint is streamed into the store and not copied in memory.
        staging_memory: Maximum size of the copy of a checkpoint, in bytes. A larger checkpoint is published as with
            `background=False`. Default: the memory that the machine, or the container, has available at the save.
            There is only one copy at a time: if a checkpoint is saved before the last copy is written, training waits.
        links: `"auto"` (default): Lightning's paths and the datasets share one copy of each checkpoint, by a link of
            the best kind that the file system has. `"copy"`: each path is a file of its own, which takes the space of
            a second copy.
        publish_timeout: Seconds for which training waits for a store that does not get on with one checkpoint. After
            that, checkpoints are kept as plain files, for `lightning-dtool recover`. Default: 600.

    Example:
        ```python
        trainer = Trainer(plugins=[DtoolCheckpointIO("models")])
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
        links: Links = "auto",
        publish_timeout: float = TIMEOUT,
    ) -> None:
        if links not in ("auto", "copy"):
            raise ConfigurationError(f"links={links!r}: expected 'auto' or 'copy'.")
        if not publish_timeout > 0:
            raise ConfigurationError(f"publish_timeout={publish_timeout!r}: expected a number of seconds.")
        if retention not in ("mirror", "all"):
            raise ConfigurationError(f"retention={retention!r}: expected 'mirror' or 'all'.")
        if staging_memory is not None and staging_memory < 0:
            raise ConfigurationError(f"staging_memory={staging_memory!r}: expected a number of bytes.")
        if checkpoint_io is not None:
            refuse_other_namespace(checkpoint_io, "checkpoint_io")
        self.base_uri = normalize_uri(rerun.redirect_base_uri(base_uri))
        self.checkpoint_io = _without_async(checkpoint_io)
        self.retention: Retention = retention
        self.name = name
        self.strict = strict
        self.background = background
        self.staging_memory = staging_memory
        self.links: Links = links
        self.publish_timeout = publish_timeout
        self._start()

    def _start(self) -> None:
        guard.install()
        self._account = Account()
        self._failures = Failures(self.base_uri)
        self._flight = Flight()
        self._worker = Worker(self.publish_timeout)
        self._publisher = Publisher(
            self.base_uri, self._account, self._flight, self._failures, self._worker, self.retention, self.links
        )
        self._staging = Staging(self.staging_memory)
        self._saver = Saver(self._account, self._flight, self._worker, self._publisher, self._staging, self.links)
        self._observed: Observed | None = None
        self._hooks = RunHooks()
        self._load_instead: str | None = None
        self._resumed_from: str | None = None
        self._loads_tuner_state = False
        self._in_background = self.background

    def __getstate__(self) -> dict[str, Any]:
        """Keep only the arguments: a spawned process starts with an account and threads of its own."""
        arguments = inspect.signature(DtoolCheckpointIO.__init__).parameters
        return {name: value for name, value in self.__dict__.items() if name in arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    # -- what the Trainer calls -----------------------------------------------------------------

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Publish a checkpoint, and make `path` lead to it.

        Args:
            checkpoint: What Lightning's `dump_checkpoint` returns. Anything else, and the tuner's own checkpoints, are
                only saved by the plain CheckpointIO.
            path: Where the Trainer wants the checkpoint.
            storage_options: Passed on to the plain CheckpointIO.

        Raises:
            Exception: If the checkpoint cannot be pickled: the error that the plain CheckpointIO raises.
        """
        address = rerun.redirect_path(absolute(path))
        requested = path if address == absolute(path) else address  # as a plug-in would receive it
        if not (_is_training_checkpoint(checkpoint, address) and self._is_wanted(checkpoint, address)):
            if not has_no_file(address):
                self._save_plainly(checkpoint, requested, storage_options)
            return
        place = self._place(address) if storage_options is None else None
        if place is None and not has_no_file(address):
            # A remote path, or a CheckpointIO with a format or options of its own: the user gets exactly that file.
            self._save_plainly(checkpoint, requested, storage_options)
        if not self._saver.share(checkpoint, address, place, self._in_background):
            self._publish(checkpoint, address, place)
        if not self._in_background:
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
        if self._load_instead is not None:
            path, self._load_instead = self._load_instead, None
        self._loads_tuner_state = is_tuner_checkpoint(path)
        if not self._loads_tuner_state:
            self._resumed_from = os.fspath(path)
        if is_dataset_uri(path):
            checkpoint = DtoolCheckpoint.from_uri(path)
            return checkpoint.load(map_location=map_location or "cpu", weights_only=weights_only is not False)
        address = absolute(path)
        redirected = rerun.redirect_path(address)
        if Path(redirected).exists():  # a file that the rerun itself has saved
            address = redirected
        if self._flight.awaits(address):
            self._worker.wait("Publishing checkpoints")
        options: dict[str, Any] = {} if map_location is None else {"map_location": map_location}
        # Lightning before 2.6 has no `weights_only` here.
        if _takes(self.checkpoint_io.load_checkpoint, "weights_only"):
            options["weights_only"] = weights_only
        loaded = self.checkpoint_io.load_checkpoint(address, **options)
        set_last_model_path(loaded, address)
        return loaded

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint. With `retention="mirror"`, delete its dataset too if no other path leads there."""
        address = rerun.redirect_path(absolute(path))
        place = self._place(address)
        is_ours = place is not None and self._account.has_path(address)
        self._publisher.release(address)
        self._flight.remove(address, partial(self._remove, address, place if is_ours else None))

    def _remove(self, address: str, place: Path | None) -> None:
        if place is None:
            self.checkpoint_io.remove_checkpoint(address)
        else:
            place.unlink(missing_ok=True)
        if "://" not in address:
            unpublished.discard(Path(address))

    def teardown(self) -> None:
        """Finish what is under way, however the run ended, and release memory, thread and process."""
        interrupted = isinstance(sys.exc_info()[1], KeyboardInterrupt)
        try:
            with interruptible(interrupted):
                self.flush()
            if not self._worker.busy:
                self._publisher.settle()
        except KeyboardInterrupt:
            if not interrupted:
                raise
        finally:
            if self._hooks.on_flushed is not None:
                self._hooks.on_flushed()
            self._worker.close()
            self._saver.close()
            self._publisher.close()
            # After a run, nothing would wait for a checkpoint that is published in the background.
            self._in_background = False
            self.checkpoint_io.teardown()

    # -- what callbacks and users call ----------------------------------------------------------

    def begin_run(self, hooks: RunHooks) -> None:
        """Begin a run, with the hooks of a callback.

        Args:
            hooks: They replace those of the run before.
        """
        self._hooks = hooks
        self._load_instead = hooks.load_instead
        self._resumed_from = None
        if hooks.background is not None:
            self._in_background = hooks.background

    @property
    def resumed_from(self) -> str | None:
        """The URI or path from which the run has loaded a checkpoint. None before it has loaded one."""
        return self._resumed_from

    @property
    def loads_tuner_state(self) -> bool:
        """True if the last load was of the tuner's own checkpoint: it resets a trial, and resumes no run."""
        return self._loads_tuner_state

    @property
    def account(self) -> Account:
        """The account of which path leads to which dataset."""
        return self._account

    @property
    def failures(self) -> Failures:
        """The collected errors, which grow as long as checkpoints are saved."""
        return self._failures

    @property
    def publications(self) -> list[Publication]:
        """All publications, oldest first, including those that failed or whose dataset was deleted."""
        return self._account.publications

    @property
    def errors(self) -> list[Exception]:
        """Errors that prevented checkpoints from being published, oldest first."""
        return self._failures.errors

    def publication_for(self, path: str | os.PathLike[str]) -> Publication | None:
        """Return what was published for one of the Trainer's checkpoint paths, following links between them."""
        return self._account.publication_for(path)

    def prepare(self, state: Any) -> None:
        """Prepare, in the background, the memory for the copy of a state, and the process that writes it.

        Args:
            state: What a checkpoint will hold, or a part of it, in nested containers.
        """
        if self._in_background:
            self._saver.prepare(state)

    def flush(self) -> None:
        """Wait until every checkpoint so far has been published, or could not be.

        A checkpoint that takes longer than `publish_timeout`, or is waited for when Ctrl-C is pressed, is kept as a
        plain file.

        Raises:
            PublishError: With `strict=True`, if one could not be published.
        """
        try:
            done = self._worker.wait("Publishing checkpoints")
        except BaseException:  # Ctrl-C
            self._publisher.give_up()
            raise
        if not done:
            self._publisher.give_up()
        # If an exception is being handled, it must remain the one that the user sees.
        self._failures.report(raising=self._is_strict and sys.exc_info()[0] is None)

    # -- how a checkpoint is published ----------------------------------------------------------

    @property
    def _is_strict(self) -> bool:
        return self.strict or self._hooks.strict

    def _is_wanted(self, checkpoint: Mapping[str, Any], path: str) -> bool:
        return self._hooks.is_wanted is None or self._hooks.is_wanted(checkpoint, path)

    def _publish(self, checkpoint: dict[str, Any], path: str, place: Path | None) -> None:
        large = is_large(checkpoint)
        # Serialising a small state raises the same error.
        if large and (place is not None or has_no_file(path)) and pickle_error(checkpoint) is not None:
            self._raise_as_lightning(checkpoint, path)
        self._failures.report(raising=self._is_strict)
        try:
            description = self._describe(checkpoint, path)
        except Exception as error:  # for example, an object of the user that cannot be described
            self._failures.add(error, file_kept=None if has_no_file(path) else True)
            self._publisher.release(path)
            if place is not None:
                self._save_plainly(checkpoint, path)
            self._failures.report(raising=self._is_strict)
            return
        observed, record = description.observed, description.record
        name, identity = self._account.new_name(dataset_name(record, self.name)), str(uuid.uuid4())
        state = with_dataset(checkpoint, uri_of_new(name, identity, self.base_uri), identity)
        staged = Staged(
            state=state if large else None,
            content=None if large else serialised(state),
            sealed=description.sealed,
            creator_username=record.run.creator_username,
            requirements=observed.requirements,
            random_states=observed.random_states,
            run_status=observed.run_status,
            attachments=description.attachments,
            uuid=identity,
        )
        self._saver.save(record, name, staged, path, place, self._in_background)

    def _describe(self, checkpoint: Mapping[str, Any], path: str) -> Description:
        if self._hooks.describe is not None:
            return self._hooks.describe(checkpoint, path)
        if self._observed is None:
            self._observed = observe_checkpoint(checkpoint)
        return describe(self._observed, checkpoint, path)

    def _place(self, path: str) -> Path | None:
        """Return the path if it is local and this plugin fills it. None if another CheckpointIO fills it."""
        return None if "://" in path or type(self.checkpoint_io) is not TorchCheckpointIO else Path(path)

    def _save_plainly(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a file as Lightning does, but never through a link: its target is an item of a frozen dataset."""
        address = absolute(path)
        own = getattr(type(self.checkpoint_io), "save_checkpoint", None)
        if own is not TorchCheckpointIO.save_checkpoint:  # that one is guarded
            detach(address)
        self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)
        self._flight.filled(address)
        if "://" not in address:
            unpublished.discard(Path(address))

    def _raise_as_lightning(self, checkpoint: dict[str, Any], path: str) -> None:
        """Save a checkpoint that cannot be pickled as Lightning does, for its error. Its path is left alone."""
        with tempfile.TemporaryDirectory(prefix="lightning-dtool-") as folder:
            self.checkpoint_io.save_checkpoint(checkpoint, os.path.join(folder, os.path.basename(path)))


def _without_async(checkpoint_io: CheckpointIO | None) -> CheckpointIO:
    """Return the CheckpointIO that writes files: this plugin's own thread replaces Lightning's AsyncCheckpointIO."""
    if isinstance(checkpoint_io, AsyncCheckpointIO):
        checkpoint_io = checkpoint_io.checkpoint_io
    return checkpoint_io if checkpoint_io is not None else TorchCheckpointIO()


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Return True if a function takes a keyword argument, itself or among its `**options`."""
    found = inspect.signature(function).parameters
    return name in found or any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values())


def _is_training_checkpoint(checkpoint: Mapping[str, Any], path: str) -> bool:
    """Return False for the tuner's checkpoints, and for the bare weights that `ddp_spawn` passes to its parent."""
    return "pytorch-lightning_version" in checkpoint and not is_tuner_checkpoint(path)
