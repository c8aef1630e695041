"""dtool's own command line with datasets that this package has written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_dtool.store import DatasetWriter, FrozenDataset, delete_dataset, local_path

DTOOL = Path(sys.executable).with_name("dtool")


def dtool(*arguments: str) -> str:
    if not DTOOL.exists():
        pytest.skip("dtool's command line is not installed: pip install 'lightning-dtool[test]'")
    done = subprocess.run([DTOOL, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def dataset(make_dataset) -> FrozenDataset:
    categories = {"oak/1.txt": "oak", "oak/2.txt": "oak", "elm/1.txt": "elm"}
    return make_dataset(overlays={"category": categories}, annotations={"a": 1}, tags=("best",))


def test_it_is_listed_and_described(dataset: FrozenDataset, base_uri: str) -> None:
    assert dataset.uri in dtool("ls", base_uri)
    assert "oak/1.txt" in dtool("ls", dataset.uri)
    summary = dtool("summary", dataset.uri)
    assert dataset.uuid in summary
    assert "number_of_items: 3" in summary
    assert "description: leaves" in dtool("readme", "show", dataset.uri)


def test_it_verifies_until_it_is_damaged(dataset: FrozenDataset) -> None:
    assert "All good" in dtool("verify", "-f", dataset.uri)
    next(path for path in map(dataset.path, dataset.items) if path.stat().st_size).write_text("else")
    assert subprocess.run([DTOOL, "verify", "-f", dataset.uri], check=False, capture_output=True).returncode != 0


def test_a_copy_is_the_same_dataset(dataset: FrozenDataset, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    dtool("cp", dataset.uri, str(tmp_path / "copies"))
    # The copy stands on its own.
    shutil.rmtree(str(local_path(dataset.uri)))
    copy = FrozenDataset.from_uri(tmp_path / "copies/leaves")
    assert (copy.uuid, copy.content_digest) == (dataset.uuid, dataset.content_digest)
    assert copy.annotations() == {"a": 1}
    # dtoolcore copies tags since 3.18.3; before, a copy has none.
    assert copy.tags() in (["best"], [])
    assert set(copy.overlay("category").values()) == {"oak", "elm"}
    copy.verify()


def test_annotations_and_tags(dataset: FrozenDataset) -> None:
    assert dtool("annotation", "get", dataset.uri, "a").strip() == "1"
    assert dtool("tag", "ls", dataset.uri).split() == ["best"]


@pytest.mark.slow
def test_a_dataset_on_s3_beside_one_that_is_being_written(make_dataset, s3_base_uri: str, tmp_path: Path) -> None:
    dataset = make_dataset({"oak/ü.txt": b"one"}, base=s3_base_uri, annotations={"a": 1}, tags=("best",))
    with DatasetWriter("unfinished", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a")
        listed = dtool("ls", s3_base_uri)
    assert dataset.uri in listed
    assert writer.uri not in listed
    assert "oak/ü.txt" in dtool("ls", dataset.uri)
    assert "All good" in dtool("verify", "-f", dataset.uri)
    assert dtool("annotation", "get", dataset.uri, "a").strip() == "1"
    (tmp_path / "copies").mkdir()
    dtool("cp", dataset.uri, str(tmp_path / "copies"))
    FrozenDataset.from_uri(tmp_path / "copies/leaves").verify()
    delete_dataset(dataset.uri)
