"""Atomic metadata files on disk."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lightning_dtool.store import local_path
from lightning_dtool.store.brokers import open_broker
from lightning_dtool.store.disk import files_below


def test_a_file_that_cannot_be_replaced_keeps_its_content(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset()
    dataset.put_annotation("a", 1)

    def fails(*_: object) -> None:
        raise OSError("I/O error")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="I/O error"):
        dataset.put_annotation("a", 2)
    monkeypatch.undo()
    assert dataset.annotation("a") == 1
    assert sorted(os.listdir(f"{local_path(dataset.uri)}/.dtool/annotations")) == ["a.json"]
    assert not [name for name in os.listdir(f"{local_path(dataset.uri)}/.dtool") if name.startswith(".tmp")]


def test_readers_never_see_half_a_file(make_dataset) -> None:
    dataset = make_dataset(annotations={"a": ["x"] * 10_000})
    seen = []
    writer = threading.Thread(target=lambda: [dataset.put_annotation("a", [str(n)] * 10_000) for n in range(20)])
    writer.start()
    while writer.is_alive():
        seen.append(len(dataset.annotation("a")))
    writer.join()
    assert set(seen) <= {10_000}


def test_text_is_utf8_whatever_the_locale(base_uri: str) -> None:
    script = f"""
from lightning_dtool.store import DatasetWriter, FrozenDataset
assert open("/dev/null").encoding.lower() not in {{"utf-8", "utf8"}}, "this locale shows nothing"
with DatasetWriter("x", {base_uri!r}) as writer:
    writer.put_readme("B\\u00e4ume\\r\\n")
    dataset = writer.commit()
assert dataset.readme().startswith("B\\u00e4ume")
"""
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script], check=True, env=ascii_only)
    assert Path(f"{local_path(base_uri)}/x/README.yml").read_bytes() == "Bäume\r\n".encode()


def test_files_below(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("12")
    (tmp_path / "link").symlink_to("a")
    assert {relpath: status.st_size for relpath, status in files_below(tmp_path)} == {"a/b/c": 2, "link": 1}


def test_the_time_of_a_file_is_returned_without_a_warning(make_dataset) -> None:
    dataset = make_dataset()
    broker = open_broker(dataset.uri)
    assert broker.get_utc_timestamp("oak/1.txt") == dataset.path(dataset.item("oak/1.txt").identifier).stat().st_mtime
