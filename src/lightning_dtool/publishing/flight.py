"""The paths of checkpoints in flight, and the removals that wait until those are whole."""

import threading
from collections.abc import Callable


class Flight:
    """Which paths wait for their checkpoint, and which files go only after that.

    While a large checkpoint is in flight, its path holds what it held before. If the program is killed then, an older
    checkpoint is the newest that is whole. So whatever ModelCheckpoint removes meanwhile stays until the new checkpoint
    is whole at its path. The same holds after a path could not be filled, until the next one is.

    Any thread may call the methods.
    """

    def __init__(self) -> None:
        self._awaited: dict[str, object] = {}
        self._removals: dict[str, Callable[[], None]] = {}
        self._unfilled = False
        self._lock = threading.RLock()

    @property
    def holds_back(self) -> bool:
        """True while older checkpoints must stay."""
        with self._lock:
            return self._unfilled or bool(self._awaited)

    def expect(self, path: str, checkpoint: object) -> None:
        """Note that a checkpoint is in flight to a path, in place of any other.

        Args:
            path: The path. A removal of it that waits is forgotten: it will be overwritten.
            checkpoint: What stands for the checkpoint.
        """
        with self._lock:
            self._awaited[path] = checkpoint
            self._removals.pop(path, None)

    def filled(self, path: str, checkpoint: object | None = None) -> None:
        """Note that a checkpoint is whole at a path. Carry out removals unless others are in flight.

        Args:
            path: The path. A removal of it that waits is forgotten.
            checkpoint: What stands for the checkpoint, if a later one may be in flight to the path. Default: it is the
                latest one.
        """
        with self._lock:
            if checkpoint is not None and self._awaited.get(path, checkpoint) is not checkpoint:
                return
            self._awaited.pop(path, None)
            self._removals.pop(path, None)
            self._unfilled = False
            self._settle()

    def not_filled(self, path: str, checkpoint: object) -> None:
        """Note that a path could not be filled and holds what it held before.

        Args:
            path: The path.
            checkpoint: What stands for the checkpoint.
        """
        with self._lock:
            self._forget(path, checkpoint)
            self._unfilled = True

    def dropped(self, path: str, checkpoint: object) -> None:
        """Note that nobody wants a checkpoint at a path any more.

        Args:
            path: The path.
            checkpoint: What stands for the checkpoint.
        """
        with self._lock:
            self._forget(path, checkpoint)
            self._settle()

    def _forget(self, path: str, checkpoint: object) -> None:
        if self._awaited.get(path) is checkpoint:
            del self._awaited[path]

    def awaits(self, path: str) -> bool:
        """Return True if a checkpoint is in flight to a path."""
        with self._lock:
            return path in self._awaited

    def exists(self, path: str) -> bool | None:
        """Return whether a path counts as taken for the one who saves and removes there.

        Args:
            path: The path.

        Returns:
            True if a checkpoint is in flight to it, False if its removal waits, None if the file system knows.
        """
        with self._lock:
            if path in self._awaited:
                return True
            return False if path in self._removals else None

    def remove(self, path: str, removal: Callable[[], None]) -> None:
        """Remove what stands at a path, at once or when every checkpoint in flight is whole.

        Args:
            path: The path.
            removal: Removes it. If it runs later, its error is ignored, as nobody waits for it.
        """
        with self._lock:
            self._awaited.pop(path, None)
            if self.holds_back:
                self._removals[path] = removal
                return
        removal()

    def _settle(self) -> None:
        if self.holds_back:
            return
        removals, self._removals = self._removals, {}
        for removal in removals.values():
            try:
                removal()
            except OSError:  # a file that the user has removed or protected
                continue
