"""The latest checkpoint of a run, whose dataset a save of the same state shares."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.publishing.account import Publication
from lightning_dtool.publishing.dataset import Staged
from lightning_dtool.publishing.final import has_no_file
from lightning_dtool.snapshot.copy import same_state, same_training
from lightning_dtool.watch.files import unobserved


class Latest:
    """The latest publication, and its state if that is in memory.

    Best and last of one step hold the same state, and become one dataset.
    """

    def __init__(self) -> None:
        self.forget()

    def remember(self, publication: Publication, staged: Staged | None) -> None:
        """Replace what was remembered.

        Args:
            publication: The latest publication.
            staged: Its copy in memory. None if there is none: then its file is read.
        """
        self._publication: Publication | None = publication
        self._state = None if staged is None else staged.content or staged.state
        self._wait: Callable[[], None] | None = None if staged is None else staged.wait

    def forget(self) -> None:
        """Forget it: its copy is about to be overwritten or released."""
        self._publication = self._state = self._wait = None

    def same_as(self, checkpoint: Mapping[str, Any], path: str) -> Publication | None:
        """Return the latest publication if it holds the same state, is whole and is still kept.

        Args:
            checkpoint: What Lightning's `dump_checkpoint` returns.
            path: The Trainer's path for it. For a checkpoint without a file, it is enough if training has gone no
                further.
        """
        latest = self._publication
        if latest is None or not latest.paths or latest.failed or latest.deleted or latest.omitted:
            return None
        if latest.global_step != checkpoint.get("global_step"):
            return None
        # The epoch is counted up between a checkpoint of its end and the end of training.
        if not has_no_file(path) and latest.epoch != checkpoint.get("epoch"):
            return None
        state = self._read(latest)
        same = same_training if has_no_file(path) else same_state
        return latest if state is not None and same(state, checkpoint) else None

    def _read(self, latest: Publication) -> Mapping[str, Any] | None:
        if isinstance(self._state, bytes):
            return _loaded(io.BytesIO(self._state), weights_only=False, mmap=False)
        if self._state is None:
            # Another program may have replaced the file.
            return None if latest.local_file is None else _loaded(latest.local_file, weights_only=True, mmap=True)
        if self._wait is not None:
            self._wait()
        return self._state


def _loaded(file: Path | io.BytesIO, **options: bool) -> Mapping[str, Any] | None:
    try:
        with unobserved():
            return dict(torch.load(file, map_location="cpu", **options))
    except Exception:  # anything in the state may refuse
        return None
