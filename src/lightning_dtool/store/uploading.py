"""Uploads of items to a remote store, several at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_dtool.store.broker import ParallelBroker
from lightning_dtool.store.faults import store_errors

SMALL = 16 * 1024 * 1024
"""Items up to this size, in bytes, are sent from memory in the background."""
_WAITING = 4 * SMALL
"""The number of bytes that may wait in memory. The next item waits until it fits."""


class Uploads:
    """Uploads through a broker that takes several requests at a time.

    A small item is sent from memory in the background. A large one is sent before `send` returns, because its parts
    are sent in parallel anyway. An error is raised by the next call.

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
        """Send an item, at the latest before `finish` returns.

        Args:
            content: The item's content, or a file with it. The file may change once this method has returned.
            relpath: The item's path.
            md5: The MD5 of the content, in hexadecimal digits.

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
        """Wait until all items are sent.

        Raises:
            StoreError: If an item could not be sent.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items == 0 or self._failure is not None)
        self.cancel()
        self._raise()

    def cancel(self) -> None:
        """Send no further items, and wait for those that are being sent."""
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
