"""The storage broker for datasets on web servers, which can only be read."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from lightning_dtool.errors import StoreError
from lightning_dtool.store import dtool_broker
from lightning_dtool.store.broker import Broker
from lightning_dtool.store.digest import CHUNK
from lightning_dtool.store.dtool_broker import DtoolBroker
from lightning_dtool.store.hosts import is_link_local, is_loopback
from lightning_dtool.store.item import Item

CONNECT_SECONDS = 3.0
"""The time limit for a connection."""
SILENT_SECONDS = 20.0
"""The time limit for the next bytes of an answer."""
MAX_REDIRECTS = 3
MAX_TEXT = 256 * 1024 * 1024
"""The largest size of a text, such as a manifest."""

_elsewhere_only: ContextVar[bool] = ContextVar("_elsewhere_only", default=False)


@contextlib.contextmanager
def elsewhere_only() -> Iterator[None]:
    """Let brokers that are made in the block reach no loopback and link-local addresses, not even that of their URI."""
    token = _elsewhere_only.set(True)
    try:
        yield
    finally:
        _elsewhere_only.reset(token)


def wrapping(dtool_class: Any) -> type[Broker]:
    """Return a broker class for one of dtool's classes for web servers, whose requests have limits.

    dtool's own requests wait for ever, follow thirty redirects, and go wherever the server says.

    Args:
        dtool_class: `HTTPStorageBroker` or `HTTPSStorageBroker` of dtool-http.
    """
    limited = type(dtool_class.__name__, (_Limited, dtool_class), {})
    return type("HTTPBroker", (_HTTPBroker,), {"dtool_class": limited, "__module__": __name__})


class _HTTPBroker(DtoolBroker):
    def __init__(self, uri: str) -> None:
        # Here, because the wrapped broker is made in a thread of its own.
        parts = urlsplit(uri)
        session = _session(set() if _elsewhere_only.get() else {_place(parts)}, uri)
        self.uri = uri
        self._broker = dtool_broker.call(partial(_made, self.dtool_class, uri, session))

    def download(self, item: Item, destination: BinaryIO) -> None:
        """Write an item's content to a file object, without dtool's own cache."""
        dtool_broker.call(partial(self._broker.write_item, item.identifier, destination), size=item.size_in_bytes)

    def forget(self, item: Item) -> None:
        """Do nothing: there is no other copy."""


def _made(dtool_class: Any, uri: str, session: requests.Session) -> Any:
    made = dtool_class.__new__(dtool_class)
    made.session = session
    made.__init__(uri, None)
    return made


class _Limited:
    """The requests of dtool's broker, with limits."""

    session: requests.Session
    http_manifest: dict[str, Any]

    def _get_base_uri(self, parse_result: Any) -> str:
        with self.session.get(parse_result._replace(query="").geturl(), stream=True) as answer:
            return answer.url

    def _get_request(self, url: str, stream: bool = False) -> requests.Response:
        answer = self.session.get(url, stream=stream)
        if answer.status_code != 200:
            answer.close()
            raise HTTPError(answer.status_code)
        return answer

    def _get_text_from_url(self, url: str) -> str:
        with self._get_request(url, stream=True) as answer:
            content = b""
            for block in answer.iter_content(CHUNK):
                content += block
                if len(content) > MAX_TEXT:
                    raise ValueError(f"expected at most {MAX_TEXT} bytes of metadata, found more at {url}")
        return content.decode()

    def write_item(self, identifier: str, destination: BinaryIO) -> None:
        with self._get_request(self.http_manifest["item_urls"][identifier], stream=True) as answer:
            for block in answer.iter_content(CHUNK):
                destination.write(block)


class HTTPError(RuntimeError):
    """The status of an answer."""


def _session(origins: set[tuple[str | None, int | None]], uri: str) -> requests.Session:
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(origins, uri))
    return session


def _place(parts: SplitResult) -> tuple[str | None, int | None]:
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


class _Adapter(HTTPAdapter):
    """The requests of one session, each of which has a time limit, and is checked before anything is sent.

    Args:
        origins: The hosts and ports that may be on this machine.
        uri: The dataset, for messages.
    """

    def __init__(self, origins: set[tuple[str | None, int | None]], uri: str) -> None:
        self._origins = origins
        self._uri = uri
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **kwargs)
        check = {"check": self._check}
        http = type("CheckedHTTPConnection", (_Checked, HTTPConnection), check)
        https = type("CheckedHTTPSConnection", (_Checked, HTTPSConnection), check)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("CheckedHTTPPool", (HTTPConnectionPool,), {"ConnectionCls": http}),
            "https": type("CheckedHTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": https}),
        }

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request. Each redirect is another one."""
        parts = urlsplit(str(request.url))
        host = parts.hostname or ""
        # Also behind a proxy, which makes the connection.
        self._check(host, _place(parts)[1], "127.0.0.1" if host.endswith("localhost") else host)
        kwargs["timeout"] = (CONNECT_SECONDS, SILENT_SECONDS)
        return super().send(request, *args, **kwargs)

    def _check(self, host: str, port: int | None, address: str) -> None:
        """Raise an error for a loopback or link-local address, unless it is the host of the URI."""
        if (host, port) in self._origins:
            return
        try:
            is_near = is_loopback(address) or is_link_local(address)
        except ValueError:  # a name, which is looked up when the connection is made
            return
        if is_near:
            raise StoreError(
                f"leads to {host} ({address}), a loopback or link-local address, which is not opened."
                " Do not use this dataset; ask its author.",
                uri=self._uri,
                kind="denied",
            )


class _Checked:
    """A connection that is checked once it is known where it leads."""

    check: Any
    host: str
    port: int

    def _new_conn(self) -> Any:
        made = super()._new_conn()  # type: ignore[misc]
        try:
            type(self).check(self.host, self.port, made.getpeername()[0])
        except BaseException:
            made.close()
            raise
        return made
