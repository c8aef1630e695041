"""Packing a folder into a frozen dataset."""

import dtoolcore
import pytest
import yaml

from lightning_dtool import DtoolDataset, pack
from lightning_dtool.data.packing import typed
from lightning_dtool.errors import (
    ConfigurationError,
    DatasetExistsError,
    DatasetNotFoundError,
    InvalidNameError,
    MetadataKeyError,
    StoreError,
    UnsafeDatasetError,
)
from lightning_dtool.store import FrozenDataset, local_path


@pytest.fixture
def leaves(tmp_path):
    folder = tmp_path / "leaves"
    for relpath in ("oak/1.txt", "oak/young/2.txt", "elm/1.txt", ".git/config", "oak/.DS_Store"):
        path = folder / relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(relpath)
    return folder


def table(folder, text, name="table.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def nothing_left(base_uri):
    return not list(local_path(base_uri).iterdir())


def by_relpath(dataset, overlay):
    values = dataset.overlay(overlay)
    return {item.relpath: values[item.identifier] for item in dataset.items.values()}


def test_class_folders_become_categories(leaves, base_uri):
    uri = pack(leaves, base_uri, "leaves", tags=["raw"], annotations={"camera": "X100"})
    dataset = FrozenDataset.from_uri(uri)
    assert by_relpath(dataset, "category") == {"elm/1.txt": "elm", "oak/1.txt": "oak", "oak/young/2.txt": "oak"}
    assert (dataset.name, dataset.tags(), dataset.annotations()) == ("leaves", ["raw"], {"camera": "X100"})
    dataset.verify()
    assert DtoolDataset(uri)[0] == ("elm/1.txt", 0)
    assert len(dtoolcore.DataSet.from_uri(uri).identifiers) == 3


def test_the_readme_is_dtools_template(leaves, base_uri):
    uri = pack(
        leaves,
        base_uri,
        "leaves",
        description="Blätter: all of them",
        project="Trees",
        owner_name="Ada",
        owner_email="ada@example.org",
        owner_orcid="0000-0001",
        confidential=True,
    )
    readme = yaml.safe_load(FrozenDataset.from_uri(uri).readme())
    assert readme.pop("creation_date")
    assert readme == {
        "description": "Blätter: all of them",
        "project": "Trees",
        "confidential": True,
        "personally_identifiable_information": False,
        "owners": [{"name": "Ada", "email": "ada@example.org", "username": "", "orcid": "0000-0001"}],
        "funders": [],
    }


def test_columns_become_overlays(leaves, base_uri):
    rows = "height, relpath,good,note\n1,oak/1.txt,true,\n2.5,./elm/1.txt,False,x\n3,oak\\young\\2.txt,TRUE,007\n"
    dataset = FrozenDataset.from_uri(pack(leaves, base_uri, "leaves", csv=table(leaves, "\ufeff" + rows)))
    assert by_relpath(dataset, "height") == {"elm/1.txt": 2.5, "oak/1.txt": 1.0, "oak/young/2.txt": 3.0}
    assert by_relpath(dataset, "good") == {"elm/1.txt": False, "oak/1.txt": True, "oak/young/2.txt": True}
    assert by_relpath(dataset, "note") == {"elm/1.txt": "x", "oak/1.txt": None, "oak/young/2.txt": "007"}
    assert "category" not in dataset.overlay_names()


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-2", " 3 "], [1, -2, 3]),
        (["1", "2.5", ""], [1.0, 2.5, None]),
        (["1e3", "-.5"], [1000.0, -0.5]),
        (["007", "1"], ["007", "1"]),
        (["nan", "1.0"], ["nan", "1.0"]),
        (["1_000"], ["1_000"]),
        (["9" * 30], [1e30]),
        (["", ""], [None, None]),
        (["true", "no"], ["true", "no"]),
        (["٣"], ["٣"]),
        (["1e999"], ["1e999"]),
    ],
)
def test_all_values_of_a_column_have_one_type(texts, values):
    assert typed(texts) == values
    assert [type(value) for value in typed(texts)] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ("path,x\noak/1.txt,1\n", MetadataKeyError, r"leaves out 2 of the files .*elm/1.txt, oak/young/2.txt"),
        ("path,x\noak/1.txt,1\nelm/1.txt,1\noak/young/2.txt,2\nash.txt,3\n", MetadataKeyError, r"1 files .*ash.txt"),
        ("path,x\noak/1.txt,1\noak/1.txt,2\n", ConfigurationError, "two rows for oak/1.txt"),
        ("path,x\noak/1.txt\n", ConfigurationError, "row 2 has 1 fields and the header 2"),
        ("path,x,x\noak/1.txt,1,2\n", ConfigurationError, "without a name"),
        ("", ConfigurationError, "has 0 lines"),
        ("path,x.y\noak/1.txt,1\nelm/1.txt,1\noak/young/2.txt,2\n", InvalidNameError, "x.y"),
    ],
)
def test_a_mismatched_table_is_refused_and_leaves_nothing_behind(leaves, base_uri, rows, error, message):
    with pytest.raises(error, match=message):
        pack(leaves, base_uri, "leaves", csv=table(leaves, rows))
    assert nothing_left(base_uri)


def test_given_overlays_are_written(leaves, base_uri):
    weights = {"elm/1.txt": 1, "oak/1.txt": 2, "oak/young/2.txt": 3}
    dataset = FrozenDataset.from_uri(pack(leaves, base_uri, "leaves", overlays={"weight": weights}))
    assert by_relpath(dataset, "weight") == weights
    with pytest.raises(MetadataKeyError, match=r"overlays\['w'\] leaves out 3"):
        pack(leaves, base_uri, "b", overlays={"w": {}})


def test_no_categories_if_files_lie_beside_the_folders(leaves, base_uri):
    (leaves / "notes.txt").write_text("x")
    assert "category" not in FrozenDataset.from_uri(pack(leaves, base_uri, "leaves")).overlay_names()


def test_links_are_followed_only_inside_the_folder(leaves, base_uri, tmp_path):
    (leaves / "oak/link.txt").symlink_to(leaves / "elm/1.txt")
    dataset = FrozenDataset.from_uri(pack(leaves, base_uri, "leaves"))
    assert dataset.read_bytes(dataset.item("oak/link.txt").identifier) == b"elm/1.txt"
    (tmp_path / "secret.txt").write_text("x")
    (leaves / "oak/out.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UnsafeDatasetError, match=r"oak/out.txt: is a symbolic link"):
        pack(leaves, base_uri, "b")
    (leaves / "oak/out.txt").unlink()
    (leaves / "oak/up").symlink_to(leaves)
    with pytest.raises(UnsafeDatasetError, match="contains the link"):
        pack(leaves, base_uri, "c")


def test_bad_folders_names_and_base_uris_are_refused(leaves, base_uri, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="not a folder"):
        pack(tmp_path / "nothing", base_uri, "leaves")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match="no files"):
        pack(tmp_path / "empty", base_uri, "leaves")
    with pytest.raises(InvalidNameError):
        pack(leaves, base_uri, "epoch=3")
    with pytest.raises(StoreError, match="nowhere"):
        pack(leaves, tmp_path / "nowhere", "leaves")
    assert nothing_left(base_uri)
    pack(leaves, base_uri, "leaves")
    with pytest.raises(DatasetExistsError):
        pack(leaves, base_uri, "leaves")


def test_an_unreadable_file_leaves_nothing_behind(leaves, base_uri, monkeypatch):
    from lightning_dtool.store import DatasetWriter

    def fail(self, paths, **options):
        raise StoreError("gone")

    monkeypatch.setattr(DatasetWriter, "put_files", fail)
    with pytest.raises(StoreError, match="gone"):
        pack(leaves, base_uri, "leaves")
    assert nothing_left(base_uri)
