"""Benchmarks of writing and downloading datasets on S3, with a local server."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.s3_server import S3Server, running_s3_server

from benchmarks.measuring import Bar, Comparison, Settings, interleaved
from benchmarks.training import Wide, batches, quiet_trainer
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.store import DatasetWriter, FrozenDataset, delete_dataset, generate_identifier
from lightning_dtool.store.digest import hash_file

BUCKET = "benchmarks"
BASE = f"s3://{BUCKET}"
UPLOAD = "boto3's upload_file and MD5"
DOWNLOAD = "boto3's download_file and MD5"
DOWNLOADS = "boto3's download_file in 16 threads"
GETS = "boto3's get_object in 16 threads"
PUTS = "boto3's put_object in 16 threads"
OURS = "FrozenDataset.fetch"
WRITER = "DatasetWriter"
THREADS = 16


def run(settings: Settings) -> Iterator[Comparison]:
    """Measure transfers of one large item and of many small ones, and count requests. Skip all without a server."""
    (settings.folder / "server").mkdir()
    try:
        with running_s3_server(settings.folder / "server") as server:
            os.environ.update(server.settings(BUCKET))
            _client(server).create_bucket(Bucket=BUCKET)
            yield from _large(settings, server)
            yield from _small(settings, server)
            yield _requests(settings)
    except FileNotFoundError as exc:
        print(f"skipped: {exc}")


def _large(settings: Settings, server: S3Server) -> Iterator[Comparison]:
    megabytes, rounds = (20, 1) if settings.short else (100, 5)
    client, file, numbers = _client(server), settings.folder / "file", itertools.count()
    file.write_bytes(os.urandom(megabytes * 2**20))

    def upload() -> float:
        with _timed() as seconds:
            client.upload_file(str(file), BUCKET, "file")
            hash_file(file, "md5")
        client.delete_object(Bucket=BUCKET, Key="file")
        return seconds()

    def publish() -> float:
        with _timed() as seconds:
            uri = _written({"file": file})
        delete_dataset(uri)
        return seconds()

    yield Comparison(
        f"Writing {megabytes} MB as one item",
        "s",
        interleaved({UPLOAD: upload, WRITER: publish}, rounds),
        UPLOAD,
        [Bar(WRITER, 1.5)],
        ["The server runs on the same machine and uses part of its processors."],
    )

    client.upload_file(str(file), BUCKET, "file")
    uri = _written({"file": file})

    def download() -> float:
        path = settings.folder / f"file-{next(numbers)}"
        with _timed() as seconds:
            client.download_file(BUCKET, "file", str(path))
            hash_file(path, "md5")
        path.unlink()
        return seconds()

    yield Comparison(
        f"Downloading {megabytes} MB as one item",
        "s",
        interleaved({DOWNLOAD: download, OURS: _fetching(settings, uri, numbers)}, rounds),
        DOWNLOAD,
        [Bar(OURS, 1.3)],
    )


def _small(settings: Settings, server: S3Server) -> Iterator[Comparison]:
    count, rounds = (20, 1) if settings.short else (1000, 5)
    client, numbers = _client(server), itertools.count()
    folder = settings.folder / "small"
    folder.mkdir()
    files = {}
    for number in range(count):
        files[f"{number}.bin"] = folder / f"{number}.bin"
        files[f"{number}.bin"].write_bytes(os.urandom(4000))

    def put() -> float:
        def one(item: tuple[str, Path]) -> None:
            client.put_object(Bucket=BUCKET, Key=item[0], Body=item[1].read_bytes())

        with _timed() as seconds, ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(one, files.items()))
        return seconds()

    def publish() -> float:
        with _timed() as seconds:
            _written(files)
        return seconds()

    yield Comparison(f"Writing {count} items of 4 kB", "s", interleaved({PUTS: put, WRITER: publish}, rounds), PUTS)

    uri = _written(files)
    prefix = f"{uri.rpartition('/')[2]}/data/"
    keys = [prefix + generate_identifier(relpath) for relpath in files]

    def threads(one: Callable[[str, str], Any]) -> Callable[[], float]:
        def fetch() -> float:
            # A new folder each time, because removing files would take as long as the download.
            there = settings.folder / f"fetched-{next(numbers)}"
            there.mkdir()
            with _timed() as seconds, ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda key: one(key, str(there / key.removeprefix(prefix))), keys))
            return seconds()

        return fetch

    cases = {
        DOWNLOADS: threads(lambda key, path: client.download_file(BUCKET, key, path)),
        GETS: threads(
            lambda key, path: Path(path).write_bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        ),
        OURS: _fetching(settings, uri, numbers),
    }
    yield Comparison(
        f"Downloading {count} items of 4 kB",
        "s",
        interleaved(cases, rounds),
        DOWNLOADS,
        [Bar(OURS, 1.3), Bar(OURS, 1.3, against=GETS)],
        ["`FrozenDataset.fetch` compares each item with its hash. boto3 does not."],
    )


def _requests(settings: Settings) -> Comparison:
    """Count the requests to the server, except those for the content of items."""
    small, large = settings.folder / "one", settings.folder / "parts"
    small.write_bytes(b"1")
    large.write_bytes(os.urandom(20 * 2**20))
    asked: list[str] = []

    def note(model: Any, params: dict[str, Any], **_: Any) -> None:
        asked.append(f"{model.name} {params['url_path']}")

    def counted(work: Callable[[], object]) -> float:
        asked.clear()
        work()
        is_data = [name for name in asked if name.startswith(("UploadPart ", "PutObject ")) and "/data/" in name]
        return float(len(asked) - len(is_data))

    events = _events()
    events.register("before-call.s3", note)
    series = {
        "one item in one part": [counted(lambda: _written({"one": small}))],
        "one item in several parts, with starting and completing the upload": [
            counted(lambda: _written({"parts": large}))
        ],
    }

    def train(epochs: int) -> tuple[float, float]:
        """Return the requests of a run, and those of them that are for annotations and tags."""
        provenance = DtoolProvenanceCallback(BASE)
        policy = ModelCheckpoint(save_top_k=-1)
        L.seed_everything(1, verbose=False)
        trainer = quiet_trainer(settings.folder / "run", [provenance, policy], max_epochs=epochs)
        requests = counted(lambda: trainer.fit(Wide(1), batches(2)))
        return requests, float(sum("/annotations/" in name or "/tags/" in name for name in asked))

    runs = {epochs: train(epochs) for epochs in (1, 2)}
    events.unregister("before-call.s3", note)
    requests, annotations = (second - first for first, second in zip(runs[1], runs[2], strict=True))
    series["one more checkpoint of a Trainer, without its annotations and tags"] = [requests - annotations]
    series["one more checkpoint of a Trainer"] = [requests]
    return Comparison(
        "Requests for writing a dataset, without those for the content of items",
        "requests",
        series,
        "one item in one part",
        [Bar(name, 12, absolute=True) for name in list(series)[:3]],
        [
            f"For the checkpoint, {annotations:.0f} requests are for annotations and tags, with that for the status at "
            "the end of the run. dtool stores each as an object, so there are no fewer. They run in parallel."
        ],
    )


def _written(files: dict[str, Path]) -> str:
    with DatasetWriter("benchmark", BASE) as writer:
        for relpath, path in files.items():
            writer.put_file(path, relpath)
        return writer.commit().uri


def _fetching(settings: Settings, uri: str, numbers: "itertools.count[int]") -> Callable[[], float]:
    def fetch() -> float:
        os.environ["DTOOL_CACHE_DIRECTORY"] = str(settings.folder / f"cache-{next(numbers)}")
        with _timed() as seconds:
            FrozenDataset.from_uri(uri).fetch(progress=False)
        return seconds()

    return fetch


def _events() -> Any:
    """Return the event hooks of this package's S3 client."""
    from lightning_dtool.store.s3 import S3Broker

    return S3Broker(BASE).s3client.meta.events


def _client(server: S3Server) -> Any:
    """Return a boto3 client with a connection for each thread."""
    from boto3.session import Session
    from botocore.config import Config

    settings = server.settings(BUCKET)
    session = Session(
        aws_access_key_id=settings[f"DTOOL_S3_ACCESS_KEY_ID_{BUCKET}"],
        aws_secret_access_key=settings[f"DTOOL_S3_SECRET_ACCESS_KEY_{BUCKET}"],
        region_name="us-east-1",
    )
    return session.client("s3", endpoint_url=server.endpoint, config=Config(max_pool_connections=THREADS))


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Yield a function that returns how long the block took, in seconds. Call it after the block."""
    begun = time.perf_counter()
    ended: list[float] = []
    yield lambda: ended[0] - begun
    ended.append(time.perf_counter())
