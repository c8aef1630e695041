"""Items on their way to a remote store, several at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_dtool.store.broker import ParallelBroker
from lightning_dtool.store.faults import store_errors

SMALL = 16 * 1024 * 1024
"""What is not larger is sent from memory, in the background."""
_WAITING = 4 * SMALL
"""How many bytes of them may be in memory; then the next one waits."""


class Uploads:
    """Sends items through a broker that takes several requests at once.

    A small item is sent in the background, from memory; a large one at once, because its parts go in parallel
    anyway. What has gone wrong is raised by the next call.

    Args:
        uri: The dataset, for messages.
        broker: Its broker.
    """

    def __init__(self, uri: str, broker: ParallelBroker) -> None:
        self._uri = uri
        self._broker = broker
        self._pool = ThreadPoolExecutor(broker.at_once, thread_name_prefix="lightning-dtool-upload")
        self._changed = threading.Condition()
        self._items = 0
        self._bytes = 0
        self._failure: BaseException | None = None

    def send(self, content: Path | bytes, relpath: str, md5: str) -> None:
        """Send an item, or see to it that it is sent before `finish` returns.

        Args:
            content: A file, which may be changed when this returns, or what is in it.
            relpath: The item's path.
            md5: Its MD5.

        Raises:
            StoreError: If this item, or one before it, could not be sent.
        """
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size > SMALL:
            self._raise()
            with store_errors(self._uri, f"write item {relpath!r}", item=relpath):
                self._broker.send(content, relpath, md5)
            return
        if isinstance(content, Path):
            content = content.read_bytes()
        with self._changed:
            self._changed.wait_for(lambda: self._bytes == 0 or self._bytes + size <= _WAITING)
            self._raise()
            self._items += 1
            self._bytes += size
        self._pool.submit(self._send, content, relpath, md5)

    def finish(self) -> None:
        """Wait until everything is sent.

        Raises:
            StoreError: If an item could not be sent.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items == 0 or self._failure is not None)
        self.cancel()
        self._raise()

    def cancel(self) -> None:
        """Send nothing more, and wait for what is under way."""
        self._pool.shutdown(cancel_futures=True)

    def _send(self, content: bytes, relpath: str, md5: str) -> None:
        try:
            if self._failure is None:
                with store_errors(self._uri, f"write item {relpath!r}", item=relpath):
                    self._broker.send(content, relpath, md5)
        except BaseException as exc:
            self._failure = self._failure or exc
        finally:
            with self._changed:
                self._items -= 1
                self._bytes -= len(content)
                self._changed.notify_all()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
