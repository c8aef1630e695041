"""Items are verified when they are first read: in remote stores, in several processes, in distributed training."""

import functools
import http.server
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from kit import ImageNet, batches_of, trainer
from lightning_dtool import DtoolDataset, DtoolProvenanceCallback, pack
from lightning_dtool.errors import VerificationError
from lightning_dtool.store import FrozenDataset, generate_identifier, local_path
from lightning_dtool.store.verification import Recorded

FILES = {f"{number:02}.txt": b"%d" % number * number * 100 for number in range(12)}
"""The first one is empty."""
DAMAGED = "07.txt"


@pytest.fixture
def serve() -> Iterator[Callable[[FrozenDataset], str]]:
    """Return a function that serves a dataset on disk by HTTP, and returns its URI."""
    servers = []

    def serve(dataset: FrozenDataset) -> str:
        folder = local_path(dataset.uri)
        handler = functools.partial(Quiet, directory=str(folder.parent))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/{folder.name}"
        overlays = {path.stem: f"{uri}/.dtool/overlays/{path.name}" for path in folder.glob(".dtool/overlays/*.json")}
        listed = {
            "admin_metadata": dict(dataset.admin_metadata),
            "manifest_url": f"{uri}/.dtool/manifest.json",
            "readme_url": f"{uri}/README.yml",
            "overlays": overlays,
            "annotations": {},
            "tags": [],
            "item_urls": {identifier: f"{uri}/data/{item.relpath}" for identifier, item in dataset.items.items()},
        }
        (folder / "http_manifest.json").write_text(json.dumps(listed))
        return uri

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember files that were written only just now."""
    monkeypatch.setattr("lightning_dtool.store.verified._SETTLED_NS", 0)


def damage(dataset: FrozenDataset) -> None:
    file = local_path(dataset.uri) / "data" / DAMAGED
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def read_all(dataset: DtoolDataset, **options: Any) -> list[str]:
    return [text for batch in batches_of(DataLoader(dataset, batch_size=2, **options)) for text in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_items_by_http_are_verified(make_dataset, serve, workers: int) -> None:
    dataset = make_dataset(FILES)
    remote = DtoolDataset(serve(dataset))
    assert remote.is_verified
    assert read_all(remote, num_workers=workers) == [content.decode() for content in FILES.values()]
    damage(dataset)
    assert read_all(remote, num_workers=workers) == [content.decode() for content in FILES.values()]  # from the cache
    shutil.rmtree(os.environ["DTOOL_CACHE_DIRECTORY"])
    with pytest.raises(VerificationError, match=DAMAGED):
        read_all(remote, num_workers=workers)


def test_a_damaged_item_in_the_cache_of_an_http_dataset_is_fetched_again(make_dataset, serve, settled) -> None:
    remote = DtoolDataset(serve(make_dataset(FILES)))
    read_all(remote)
    cached = remote.dataset.path(generate_identifier(DAMAGED))
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    assert read_all(remote, num_workers=2) == [content.decode() for content in FILES.values()]


def _read(uri: str, results: Any) -> None:
    try:
        results.put(read_all(DtoolDataset(uri)))
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")


def test_processes_that_fetch_the_same_items_do_not_disturb_one_another(make_dataset, serve) -> None:
    uri = serve(make_dataset(FILES))
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        results = context.Queue()
        processes = [context.Process(target=_read, args=(uri, results)) for _ in range(3)]
        for process in processes:
            process.start()
        for _ in processes:
            assert results.get(timeout=60) == [content.decode() for content in FILES.values()]
        for process in processes:
            process.join()
        shutil.rmtree(os.environ["DTOOL_CACHE_DIRECTORY"])


@pytest.mark.parametrize("workers", [0, 2])
def test_items_on_s3_are_verified(make_dataset, s3_server, s3_base_uri: str, workers: int) -> None:
    remote = DtoolDataset(make_dataset(FILES, base=s3_base_uri))
    assert remote.is_verified
    assert read_all(remote, num_workers=workers) == [content.decode() for content in FILES.values()]
    key = f"{remote.dataset.uuid}/data/{generate_identifier(DAMAGED)}"
    client, bucket = s3_server.client(), s3_base_uri.removeprefix("s3://")
    metadata = client.head_object(Bucket=bucket, Key=key)["Metadata"]
    client.put_object(Bucket=bucket, Key=key, Body=FILES[DAMAGED][:-1] + b"x", Metadata=metadata)
    shutil.rmtree(os.environ["DTOOL_CACHE_DIRECTORY"])
    with pytest.raises(VerificationError, match=DAMAGED):
        read_all(remote, num_workers=workers)


@pytest.mark.slow
def test_spawned_workers_verify(make_dataset, settled) -> None:
    dataset = make_dataset(FILES)
    damage(dataset)
    with pytest.raises(VerificationError, match=DAMAGED):
        read_all(DtoolDataset(dataset), num_workers=1, multiprocessing_context="spawn")


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_cache_directory_items_are_compared_once(
    make_dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled, workers: int
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DTOOL_CACHE_DIRECTORY", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = DtoolDataset(make_dataset(FILES))
    read_all(dataset, num_workers=workers)

    def never(*arguments: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(Recorded, "difference", never)
    monkeypatch.setattr(Recorded, "is_same", never)
    read_all(dataset, num_workers=workers)


@pytest.mark.filterwarnings("ignore:.*use of fork.*may lead to deadlocks:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*sync_dist=True.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*process group has NOT been destroyed.*:UserWarning")
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_each_rank_verifies_what_it_reads(base_uri: str, tmp_path: Path) -> None:
    """The damaged image is read by the second rank only."""
    generator = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "folder" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{number}.png")
    uri = pack(tmp_path / "folder", base_uri, "images", progress=False)
    images = DtoolDataset(uri)
    relpath = images.relpaths[1]
    file = local_path(uri) / "data" / relpath
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
    with pytest.raises(Exception, match=relpath):
        trainer(tmp_path, provenance, devices=2, strategy="ddp_fork").fit(ImageNet(), DataLoader(images, batch_size=2))
    assert provenance.uris == []
