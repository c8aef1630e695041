"""The canonical form of URIs, and the errors for those that cannot be read."""

import os
import socket
from pathlib import Path

import pytest

from lightning_dtool.errors import InvalidURIError
from lightning_dtool.store import is_dataset_uri, local_path, normalize_uri


def test_every_way_to_write_a_path_gives_the_same_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = f"file://{socket.gethostname()}{tmp_path}/x"
    ways = ["x", "./x/", tmp_path / "x", f"{tmp_path}/x", f"file://{tmp_path}/x", f"file://elsewhere{tmp_path}/y/../x"]
    assert {normalize_uri(way) for way in ways} == {expected}
    assert normalize_uri(expected) == expected


@pytest.mark.parametrize(
    ("uri", "expected"), [("s3://lab/", "s3://lab"), ("S3://lab/x", "s3://lab/x"), ("s3://Lab/x/", "s3://Lab/x")]
)
def test_a_remote_uri_loses_only_its_trailing_slash(uri: str, expected: str) -> None:
    assert normalize_uri(uri) == expected


@pytest.mark.parametrize(
    "wrong", ["", "   ", None, 3, b"/x", "file://", "file://host", "s3://", "s3:///x", "a\0b", "/a\nb"]
)
def test_what_is_not_a_uri_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidURIError, match="expected"):
        normalize_uri(wrong)  # type: ignore[arg-type]


def test_an_unknown_scheme_lists_those_that_are_installed() -> None:
    with pytest.raises(InvalidURIError, match=r"\(file, .*s3.*found 'foo'"):
        normalize_uri("foo://x/y")


def test_a_known_scheme_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_dtool.store.brokers._entry_points", dict)
    with pytest.raises(InvalidURIError, match=r"pip install 'lightning-dtool\[s3\]'"):
        normalize_uri("s3://lab/x")


@pytest.mark.parametrize("uri", ["/data/a#b", "file:///data/a?b"])
def test_characters_that_dtool_misreads_are_refused(uri: str) -> None:
    with pytest.raises(InvalidURIError, match="misreads"):
        normalize_uri(uri)


def test_a_uri_that_went_through_pathlib_is_explained() -> None:
    with pytest.raises(InvalidURIError, match="pathlib"):
        normalize_uri(Path("s3://lab/x"))


def test_local_path(tmp_path: Path) -> None:
    assert local_path(f"file://elsewhere{tmp_path}/a b") == tmp_path / "a b"
    assert local_path("s3://lab/x") is None


def test_datasets_and_checkpoint_files_are_distinguished(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    directory = local_path(dataset.uri)
    file = tmp_path / "last.ckpt"
    file.touch()
    yes = [
        dataset.uri,
        directory,
        str(directory),
        os.path.relpath(str(directory)),
        "s3://lab/7bb1",
        "file:///not/there",
    ]
    no = [
        str(file),
        file,
        f"file://{file}",
        "best",
        "last",
        "hpc",
        "a/b.ckpt",
        str(tmp_path),
        "gs://b/c",
        "s3://b/c.ckpt",
    ]
    no += ["", None, 3, b"x", Path("s3://lab/x"), "a\0b", "file://x"]
    assert [value for value in yes if not is_dataset_uri(value)] == []
    assert [value for value in no if is_dataset_uri(value)] == []
