"""Shared fixtures: base URIs, small datasets, the command line, and a real S3 server."""

import io
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from faulty_link import FaultyLink, faulty_link
from lightning_dtool.cli import model
from lightning_dtool.store import DatasetWriter, FrozenDataset, normalize_uri, relax
from s3_server import S3Server, running_s3_server
from web_server import Server

os.environ.setdefault("OMP_NUM_THREADS", "1")  # set before torch is imported, because one test runs on each core

collect_ignore = ["scripts"]
"""Programs that tests run: some import one another, from the folder that they are copied to."""

MakeDataset = Callable[..., FrozenDataset]
Run = Callable[..., Result]

_TAGGED = "___needs_generation_tag_patch"
"""The mark with which torch.compile remembers on `torch.nn.Module` that it has replaced its `__init__`."""

MAX_WORKERS = 8
"""Each takes a gigabyte of memory, and ten seconds until it has torch and the tests in it."""


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """Return the number of test processes: one per core, or 0 (this process alone) if files are named."""
    workers = yield
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    return min(workers, MAX_WORKERS)


@pytest.fixture(scope="session")
def _may_write_anywhere(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Return whether this user may write to read-only files, as root may."""
    path = tmp_path_factory.mktemp("rights") / "file"
    path.touch(0o444)
    return os.access(path, os.W_OK)


@pytest.fixture(autouse=True)
def _items_can_be_damaged(
    request: pytest.FixtureRequest, _may_write_anywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave the items of datasets writable, because many tests damage them; for root they are anyway."""
    if not _may_write_anywhere and request.node.get_closest_marker("read_only_items") is None:
        monkeypatch.setattr("lightning_dtool.store.disk._make_read_only", lambda _: None)


@pytest.fixture(autouse=True)
def _isolated_from_the_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's cache and credentials from the tests."""
    monkeypatch.setenv("DTOOL_CACHE_DIRECTORY", str(tmp_path_factory.mktemp("dtool-cache")))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_hurry_left_behind() -> Iterator[None]:
    """Wait for servers as usual after a test that was interrupted."""
    yield
    relax()


@pytest.fixture(autouse=True)
def _no_seed_left_behind() -> Iterator[None]:
    """Remove the seed that `seed_everything` leaves in the environment."""
    yield
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _no_file_noted_before() -> None:
    """Forget the files that earlier tests read, as a new process has read none."""
    noted = sys.modules.get("lightning_dtool.watch.files")
    if noted is not None:
        for table in (noted._recent, noted._pinned, noted._uris, noted._loaded):
            table.clear()


@pytest.fixture(autouse=True)
def _nothing_compiled_left_behind() -> Iterator[None]:
    """Undo what torch.compile changes for the whole process: its backends, and `torch.nn.Module.__init__`."""
    if "torch" not in sys.modules:  # tests of the store alone
        yield
        return
    module = sys.modules["torch"].nn.Module
    before = {name: vars(module)[name] for name in ("__init__", _TAGGED) if name in vars(module)}
    yield
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if getattr(compiler, "cached_backends", None):
        sys.modules["torch"]._dynamo.reset()
    if module.__init__ is not before["__init__"]:
        module.__init__ = before["__init__"]
        setattr(module, _TAGGED, before.get(_TAGGED, True))


@pytest.fixture
def base_uri(tmp_path: Path) -> str:
    """Return the URI of an empty directory for datasets."""
    directory = tmp_path / "datasets"
    directory.mkdir()
    return normalize_uri(directory)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return an empty folder for the datasets of checkpoints."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def make_dataset(base_uri: str) -> MakeDataset:
    """Return a function that makes a small frozen dataset.

    `make_dataset({"a.txt": b"text"}, name="leaves", base=None, overlays={}, annotations={}, tags=(), readme="")`;
    overlays are by relative path.
    """

    def make(
        files: Mapping[str, bytes] | None = None,
        name: str = "leaves",
        *,
        base: str | None = None,
        overlays: Mapping[str, Mapping[str, Any]] | None = None,
        annotations: Mapping[str, Any] | None = None,
        tags: tuple[str, ...] = (),
        readme: str = "---\ndescription: leaves\n",
    ) -> FrozenDataset:
        if files is None:
            files = {"oak/1.txt": b"one", "oak/2.txt": b"two", "elm/1.txt": b""}
        with DatasetWriter(name, base or base_uri, creator_username="tester") as writer:
            for relpath, content in files.items():
                writer.put_bytes(content, relpath)
            for overlay, values in (overlays or {}).items():
                writer.put_overlay(overlay, values)
            for annotation, value in (annotations or {}).items():
                writer.put_annotation(annotation, value)
            for tag in tags:
                writer.put_tag(tag)
            writer.put_readme(readme)
            return writer.commit()

    return make


@pytest.fixture
def web() -> Iterator[Server]:
    """Return a web server on this machine."""
    running = Server()
    yield running
    running.close()


@pytest.fixture
def run() -> Run:
    """Return a function that runs a command and asserts its exit code."""

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(model, [str(argument) for argument in arguments])
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    return run


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return a running S3 server."""
    try:
        with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
            yield server
    except FileNotFoundError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def s3_base_uri(s3_server: S3Server) -> Iterator[str]:
    """Return the URI of a bucket on a real S3 server, with dtool's settings for it in the environment."""
    bucket = "lab-models"
    s3_server.client().create_bucket(Bucket=bucket)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.settings(bucket).items():
            patch.setenv(name, value)
        yield f"s3://{bucket}"


@pytest.fixture
def emptied(s3_server: S3Server, s3_base_uri: str) -> str:
    """Return `s3_base_uri` once its bucket, in which tests of faults leave what they please, is empty."""
    client, bucket = s3_server.client(), s3_base_uri.removeprefix("s3://")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=entry["Key"])
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return s3_base_uri


@pytest.fixture(scope="session")
def _link_to_s3(s3_server: S3Server) -> Iterator[FaultyLink]:
    with faulty_link(s3_server.endpoint) as link:
        yield link


@pytest.fixture
def s3_link(_link_to_s3: FaultyLink, s3_base_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyLink]:
    """Return a proxy to the bucket of `s3_base_uri` that can inject faults. Timeouts of clients are short."""
    from lightning_dtool.store import s3, s3_connections

    monkeypatch.setenv(f"DTOOL_S3_ENDPOINT_{s3_base_uri.removeprefix('s3://')}", _link_to_s3.endpoint)
    monkeypatch.setattr(s3_connections, "SILENT_SECONDS", 1)
    for module in (s3, s3_connections):
        monkeypatch.setattr(module, "ATTEMPTS", 2)
    yield _link_to_s3
    _link_to_s3.mend()


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    """Return the URI of a dataset of two arrays, data and labels."""
    import numpy as np

    def content(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    x = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    (tmp_path / "base").mkdir()
    with DatasetWriter("arrays", str(tmp_path / "base")) as writer:
        writer.put_bytes(content(x), "data.npy")
        writer.put_bytes(content(x[:, :3].argmax(1)), "labels.npy")
        return writer.commit().uri
