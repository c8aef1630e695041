"""A proxy to the S3 server that injects faults: refused, cut off, stalled, changed or dropped requests."""

import contextlib
import hashlib
import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

_LONG = 60.0
_PIECE = 256 * 1024


@dataclass
class Passing:
    """A request in the proxy, with the actions that a fault can take."""

    handler: http.server.BaseHTTPRequestHandler
    body: bytes
    forward: Callable[[bytes], tuple[int, list[tuple[str, str]], bytes]]

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, upto: int | None = None) -> None:
        """Send an answer, or only the first `upto` bytes of its body."""
        handler = self.handler
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[:upto])
        handler.wfile.flush()
        handler.close_connection = handler.close_connection or upto is not None


Fault = Callable[[Passing], None]
"""What happens to a request in place of being passed on."""


def passes(passing: Passing) -> None:
    """Forward the request, and return the answer."""
    passing.answer(*passing.forward(passing.body))


def answers(status: int, code: str = "AccessDenied") -> Fault:
    """Answer instead of the server."""
    body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    return lambda passing: passing.answer(status, [("Content-Length", str(len(body)))], body)


def breaks_off(after: int = 0) -> Fault:
    """Close the connection after a number of bytes of the answer."""
    return lambda passing: passing.answer(*passing.forward(passing.body), upto=after)


def hangs_up(passing: Passing) -> None:
    """Close the connection without an answer."""
    passing.handler.close_connection = True


def stalls(passing: Passing) -> None:
    """Send nothing for a long time."""
    passing.handler.server.released.wait(_LONG)  # type: ignore[attr-defined]
    passing.handler.close_connection = True


def stalls_after(after: int) -> Fault:
    """Send a number of bytes of the answer, then nothing for a long time."""

    def fault(passing: Passing) -> None:
        passing.answer(*passing.forward(passing.body), upto=after)
        stalls(passing)

    return fault


def is_slow(piece: int, seconds: float) -> Fault:
    """Send the answer in small pieces with pauses between them."""

    def fault(passing: Passing) -> None:
        status, headers, body = passing.forward(passing.body)
        passing.answer(status, headers, body[:0])
        for start in range(0, len(body), piece):
            time.sleep(seconds)
            passing.handler.wfile.write(body[start : start + piece])
            passing.handler.wfile.flush()

    return fault


def changes_what_is_sent(passing: Passing) -> None:
    """Change the last byte of the request before forwarding it."""
    passing.answer(*passing.forward(_other_end(passing.body)))


def changes_the_answer(passing: Passing) -> None:
    """Change the last byte of the answer."""
    status, headers, body = passing.forward(passing.body)
    # Remove the checksum as well, since not every server sends one.
    kept = [(name, value) for name, value in headers if not name.lower().startswith("x-amz-checksum")]
    passing.answer(status, kept, _other_end(body))


def forgets(passing: Passing) -> None:
    """Report success without forwarding the request."""
    tag = hashlib.md5(passing.body).hexdigest()
    passing.answer(200, [("ETag", f'"{tag}"'), ("Content-Length", "0")], b"")


def _other_end(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1]) if body else body


class FaultyLink:
    """A proxy in front of the server that forwards requests unchanged unless a fault applies.

    Attributes:
        endpoint: The URL for clients.
        requests: All requests so far, such as "PUT /bucket/key?query".
    """

    def __init__(self, endpoint: str) -> None:
        self.requests: list[str] = []
        self._faults: list[tuple[str, str, Fault, list[bool]]] = []
        self._lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _handler(self, endpoint))
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def on(self, method: str, part: str, fault: Fault, *, skip: int = 0, times: int = 1_000_000) -> None:
        """Apply a fault to matching requests.

        Args:
            method: The HTTP method, or "" for any.
            part: A text that the path or query contains.
            fault: The fault.
            skip: The number of matching requests to forward before the first fault.
            times: The number of requests to which the fault applies.
        """
        self._faults.append((method, part, fault, [False] * skip + [True] * times))

    def mend(self) -> None:
        """Remove all faults."""
        self._faults.clear()
        self.requests.clear()
        self.server.released.set()
        self.server.released = threading.Event()

    def fault_for(self, request: str) -> Fault:
        """Return the fault for a request."""
        with self._lock:
            self.requests.append(request)
            for method, part, fault, plan in self._faults:
                if request.startswith(method) and part in request and plan and plan.pop(0):
                    return fault
        return passes


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type) -> None:
        super().__init__(address, handler)
        self.released = threading.Event()
        self.pause = 0.0
        """Seconds before each piece of a request's content is taken."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: tests expect clients to disconnect."""


def _handler(link: FaultyLink, endpoint: str) -> type:
    there = urlsplit(endpoint)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: send small answers without delay

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            # A new connection each time: the server closes those that a busy machine leaves idle for some seconds.
            with contextlib.closing(http.client.HTTPConnection(there.hostname, there.port, timeout=_LONG)) as upstream:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in {"expect", "connection"}:
                        upstream.putheader(name, value)
                upstream.endheaders(body or None)
                answer = upstream.getresponse()
                content = answer.read()
            headers = [
                (name, value)
                for name, value in answer.getheaders()
                if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}
            ]
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            return answer.status, [*headers, ("Content-Length", length or "0")], content

        def pieces(self, length: int) -> Iterator[bytes]:
            """Yield the content of the request, as slowly as the link is."""
            for start in range(0, length, _PIECE):
                time.sleep(link.server.pause)
                yield self.rfile.read(min(_PIECE, length - start))

        def pass_or_fail(self) -> None:
            fault = link.fault_for(f"{self.command} {self.path}")
            body = b"".join(self.pieces(int(self.headers.get("Content-Length", 0))))
            fault(Passing(self, body, self.forward))

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_or_fail

    return Handler


@contextlib.contextmanager
def faulty_link(endpoint: str) -> Iterator[FaultyLink]:
    """Run a proxy to a server."""
    link = FaultyLink(endpoint)
    thread = threading.Thread(target=link.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield link
    finally:
        link.mend()
        link.server.shutdown()
        link.server.server_close()
        thread.join()
