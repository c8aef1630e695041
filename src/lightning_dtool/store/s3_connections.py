"""Connections to S3 servers: shared by all threads of a process, with a limit for each wait."""

import os
import socket
import threading
import time
from collections.abc import Iterable
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from boto3.session import Session  # type: ignore[import-untyped]
from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore.awsrequest import (  # type: ignore[import-untyped]
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config  # type: ignore[import-untyped]
from dtoolcore.utils import get_config_value

from lightning_dtool.errors import StoreError
from lightning_dtool.store.parallel import THREADS
from lightning_dtool.store.waiting import NoAnswerError, Server, patience

CONNECT_SECONDS = 3
"""The time limit for a connection."""
SILENT_SECONDS = 20
"""The time limit for an answer to a request, and for the next bytes of an answer."""
ATTEMPTS = 3
"""The maximal number of times that a request is made."""
_BLOCK = 64 * 1024
_TICK = 0.25


class Connections:
    """boto3's client for one set of credentials. Other objects that dtool-s3 may use are made on demand.

    Making a client takes longer than a request, so all threads of a process share one.

    Args:
        seconds: How long the server is waited for while it does not answer.
        endpoint: The server's URL; None for AWS.
        key: The name of the access key.
        secret: The access key.

    Attributes:
        prefixes: The registered prefixes of datasets by bucket and UUID. They never change.
        server: What is known about whether the server answers.
    """

    def __init__(self, seconds: float, endpoint: str | None, key: str | None, secret: str | None) -> None:
        self.prefixes: dict[tuple[str, str], str] = {}
        self.server = Server(seconds, SILENT_SECONDS)
        self._watch = _Watch(self.server)
        self._session = Session(aws_access_key_id=key, aws_secret_access_key=secret)
        self._endpoint = endpoint
        self._limits = Config(
            connect_timeout=min(CONNECT_SECONDS, seconds),
            read_timeout=min(SILENT_SECONDS, seconds),
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=THREADS,
        )
        self.client = self._limited(self._session.client("s3", endpoint_url=endpoint, config=self._limits))

    @cached_property
    def resource(self) -> Any:
        """boto3's resource."""
        resource = self._session.resource("s3", endpoint_url=self._endpoint, config=self._limits)
        self._limited(resource.meta.client)
        return resource

    @cached_property
    def unsigned_client(self) -> Any:
        """A client for unsigned requests."""
        unsigned = self._limits.merge(Config(signature_version=UNSIGNED))
        return self._limited(self._session.client("s3", endpoint_url=self._endpoint, config=unsigned))

    def _limited(self, client: Any) -> Any:
        """Make a client end the requests for which a server takes too long, and say whether the server answers."""
        local = threading.local()

        def begin(request: Any, **_: object) -> None:
            if not self.server.is_asked(again=not _is_first_attempt(request)):
                raise NoAnswerError("it has not answered for as long as it is waited for")
            local.begun = time.monotonic()

        def end(response_dict: dict[str, Any] | None, **_: object) -> None:
            if response_dict is not None and response_dict["status_code"] < 500:
                self.server.answered()
            else:
                self.server.failed(getattr(local, "begun", time.monotonic()))

        client.meta.events.register("before-send.s3", begin)
        client.meta.events.register("response-received.s3", end)
        # boto3 limits the time between two bytes, but not that of a request, and no other thread can end one.
        session = client._endpoint.http_session
        session._manager.pool_classes_by_scheme = session._pool_classes_by_scheme = self._watch.pools
        return client


def _is_first_attempt(request: Any) -> bool:
    said = request.headers.get("amz-sdk-request", b"attempt=1")
    return (said if isinstance(said, bytes) else said.encode()).startswith(b"attempt=1")


class _Watch:
    """A thread that closes connections on which a request takes too long. It ends when no request is under way."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._begun: WeakKeyDictionary[Any, tuple[float, int]] = WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        watched = {"_watch": self}
        http = type("WatchedHTTPConnection", (_Watched, AWSHTTPConnection), watched)
        https = type("WatchedHTTPSConnection", (_Watched, AWSHTTPSConnection), watched)
        self.pools = {
            "http": type("WatchedHTTPPool", (_WatchedPool, AWSHTTPConnectionPool), {"ConnectionCls": http, **watched}),
            "https": type(
                "WatchedHTTPSPool", (_WatchedPool, AWSHTTPSConnectionPool), {"ConnectionCls": https, **watched}
            ),
        }

    def begin(self, connection: Any, size: int) -> None:
        """Note that a request, or the content of an answer, begins.

        Args:
            connection: The connection.
            size: The bytes of the content.
        """
        with self._lock:
            self._begun[connection] = (time.monotonic(), size)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lightning-dtool-s3-watch", daemon=True)
                self._thread.start()

    def end(self, connection: Any) -> None:
        """Note that nothing is under way on a connection."""
        with self._lock:
            self._begun.pop(connection, None)

    def _run(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                for connection, (begun, size) in list(self._begun.items()):
                    if now > self._server.limit(begun, size):
                        del self._begun[connection]
                        _cut(connection)
                if not self._begun:
                    self._thread = None
                    return
            time.sleep(_TICK)


def _cut(connection: Any) -> None:
    """End what a thread waits for on a connection."""
    sock = connection.sock
    if sock is not None:
        try:
            # Not the method of an encrypted socket, which another thread may be reading from.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return


class _Watched:
    """A connection whose requests have time limits."""

    _watch: _Watch
    sock: Any

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, *args: Any, **kwargs: Any) -> None:
        length = (headers or {}).get("Content-Length", 0)
        self._watch.begin(self, int(length or 0))
        if self.sock is not None:
            # The limit of the connection is far too short for content.
            self.sock.settimeout(SILENT_SECONDS)
        super().request(method, url, body, headers, *args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        # The limit of a socket is for all of the data that it is given at once.
        for block in _blocks(data) if isinstance(data, bytes | bytearray) and len(data) > _BLOCK else (data,):
            super().send(block)  # type: ignore[misc]

    def close(self) -> None:
        self._watch.end(self)  # a connection that breaks does not come back to the pool
        super().close()  # type: ignore[misc]

    def getresponse(self) -> Any:
        answer = super().getresponse()  # type: ignore[misc]
        length = answer.headers.get("Content-Length", "")
        self._watch.begin(self, int(length) if length.isdigit() else 0)
        return answer


class _WatchedPool:
    """The connections to one server. Connections come back when an answer has been read."""

    _watch: _Watch

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:  # None: the connection has broken, and is thrown away
            self._watch.end(conn)
        super()._put_conn(conn)  # type: ignore[misc]


def _blocks(data: bytes | bytearray) -> Iterable[memoryview]:
    view = memoryview(data)
    return (view[start : start + _BLOCK] for start in range(0, len(view), _BLOCK))


_known: dict[Any, Connections] = {}
_lock = threading.Lock()


def _forget_connections() -> None:
    """Forget all connections. A forked process would use its parent's sockets and wait for its parent's threads."""
    global _known, _lock
    _known, _lock = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_connections)


def connections(bucket: str) -> Connections:
    """Return the connections for a bucket, from dtool's settings or else from those of AWS.

    Args:
        bucket: The bucket's name.

    Raises:
        StoreError: If some of dtool's settings for it are missing.
        ConfigurationError: If the time limit is not a number.
    """
    settings = [f"DTOOL_S3_{key}_{bucket}" for key in ("ENDPOINT", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
    values = [get_config_value(setting) or None for setting in settings]
    if any(values) and not all(values):
        missing = ", ".join(setting for setting, value in zip(settings, values, strict=True) if not value)
        raise StoreError(
            f"expected all of {', '.join(settings)} or none, found no {missing}. "
            "Set it in the environment or in dtool's configuration.",
            uri=f"s3://{bucket}",
            kind="credentials",
        )
    # boto3 reads the settings of AWS when a client is made.
    aws = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    seconds = patience()
    identity = (*values, aws, seconds, CONNECT_SECONDS, SILENT_SECONDS, ATTEMPTS)
    with _lock:
        if identity not in _known:
            _known[identity] = Connections(seconds, *values)
        return _known[identity]
