"""The search for a dataset by its URI, its UUID, or its content."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dtoolcore
import pytest

from lightning_dtool.errors import DatasetNotFoundError, VerificationError
from lightning_dtool.store import FrozenDataset, local_path, locate, normalize_uri

NOWHERE = "/nowhere/at/all"


def root_of(dataset: FrozenDataset) -> Path:
    path = local_path(dataset.uri)
    assert path is not None
    return path


def moved(dataset: FrozenDataset, place: Path) -> str:
    """Move a dataset to a new base URI and return that."""
    place.mkdir()
    shutil.move(root_of(dataset), place / "a-new-name")
    return normalize_uri(place)


def changed(dataset: FrozenDataset) -> FrozenDataset:
    """Replace an item and update the manifest, as a user might who repairs an image."""
    path = root_of(dataset) / ".dtool/manifest.json"
    manifest = json.loads(path.read_text())
    next(iter(manifest["items"].values()))["hash"] = "0" * 32
    path.write_text(json.dumps(manifest))
    return FrozenDataset.from_uri(dataset.uri)


@pytest.fixture
def no_dserver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dtool_lookup_api", None)


def dserver(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """Install a client of dserver that returns or raises an answer. Return the list of its queries."""
    asked: list[str] = []
    client = ModuleType("dtool_lookup_api")

    def get_datasets_by_uuid(uuid: str) -> Any:
        asked.append(uuid)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client.get_datasets_by_uuid = get_datasets_by_uuid  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dtool_lookup_api", client)
    return asked


def test_it_is_where_it_was(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset()
    asked = dserver(monkeypatch, [])
    for uuid, digest in ((dataset.uuid, None), (dataset.uuid, dataset.content_digest), (None, None)):
        assert locate(dataset.uri, uuid, content_digest=digest, search=[NOWHERE]).uri == dataset.uri
    assert asked == []


def test_a_path_will_do(make_dataset) -> None:
    dataset = make_dataset()
    assert locate(str(root_of(dataset)), dataset.uuid).uri == dataset.uri


def test_it_was_moved(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    base = moved(dataset, tmp_path / "elsewhere")
    found = locate(dataset.uri, dataset.uuid, content_digest=dataset.content_digest, search=[NOWHERE, base])
    assert found.uri == f"{base}/a-new-name"
    assert found.uuid == dataset.uuid
    assert locate(None, dataset.uuid, search=[str(tmp_path / "elsewhere")]).uri == found.uri


def test_it_was_copied_with_dtool(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    (tmp_path / "copies").mkdir()
    base = normalize_uri(tmp_path / "copies")
    copy = dtoolcore.copy(dataset.uri, base)
    shutil.rmtree(root_of(dataset))
    found = locate(dataset.uri, dataset.uuid, content_digest=dataset.content_digest, search=[base])
    assert (found.uri, found.uuid) == (normalize_uri(copy), dataset.uuid)


def test_it_was_packed_again(make_dataset, tmp_path: Path) -> None:
    """The UUID is another one and the content the same. A copy with the UUID is preferred, below any base URI."""
    dataset = make_dataset()
    (tmp_path / "again").mkdir()
    again = make_dataset(base=normalize_uri(tmp_path / "again"), name="leaves-2")
    assert again.uuid != dataset.uuid
    moved(dataset, tmp_path / "moved")
    places = [str(tmp_path / "again"), str(tmp_path / "moved")]
    digest = again.content_digest
    assert locate(dataset.uri, dataset.uuid, content_digest=digest, search=places).uuid == dataset.uuid
    shutil.rmtree(tmp_path / "moved")
    assert locate(dataset.uri, dataset.uuid, content_digest=digest, search=places).uri == again.uri
    assert locate(dataset.uri, None, content_digest=digest, search=places).uri == again.uri
    assert locate(again.uri, dataset.uuid, content_digest=digest).uri == again.uri
    with pytest.raises(DatasetNotFoundError, match="1 other datasets"):
        locate(dataset.uri, dataset.uuid, search=places)


def test_something_else_stands_there_now(make_dataset) -> None:
    dataset, other = make_dataset(), make_dataset({"x": b"x"}, name="other")
    with pytest.raises(DatasetNotFoundError, match=f"another dataset, with the UUID {other.uuid}"):
        locate(other.uri, dataset.uuid, content_digest=dataset.content_digest)


def test_a_changed_image(make_dataset, tmp_path: Path, no_dserver: None) -> None:
    dataset = make_dataset()
    digest = dataset.content_digest
    (tmp_path / "copies").mkdir()
    copy = dtoolcore.copy(dataset.uri, normalize_uri(tmp_path / "copies"))
    now = changed(dataset)
    with pytest.raises(VerificationError, match="expected the dataset") as caught:
        locate(dataset.uri, dataset.uuid, content_digest=digest)
    for part in (digest, now.content_digest, dataset.uuid, dataset.uri, "--search"):
        assert part in str(caught.value)
    found = locate(dataset.uri, dataset.uuid, content_digest=digest, search=[str(tmp_path / "copies")])
    assert found.uri == normalize_uri(copy)


def test_damaged_neighbours_are_passed_over_and_noted(make_dataset, tmp_path: Path, no_dserver: None) -> None:
    dataset, no_metadata, no_manifest = (make_dataset(name=name) for name in ("leaves", "a-broken", "b-broken"))
    (root_of(no_metadata) / ".dtool/dtool").write_text("{")
    (root_of(no_manifest) / ".dtool/manifest.json").write_text("{")
    base = str(root_of(dataset).parent)
    assert locate(None, dataset.uuid, search=[base]).uri == dataset.uri
    assert locate(None, None, content_digest=dataset.content_digest, search=[base]).uri == dataset.uri
    with pytest.raises(DatasetNotFoundError) as caught:
        locate(None, "no-such-uuid", content_digest="sha256:none", search=[base])
    for broken in (no_metadata, no_manifest):
        (line,) = (line for line in str(caught.value).split("\n") if broken.uri in line)
        assert line.endswith("(passed over)")


def test_the_error_says_everywhere_it_looked(tmp_path: Path, monkeypatch, no_dserver: None) -> None:
    (tmp_path / "empty").mkdir()
    places = [str(tmp_path / "empty"), NOWHERE, "unheard-of://x"]
    with pytest.raises(DatasetNotFoundError) as caught:
        locate(f"{tmp_path}/gone", "some-uuid", content_digest="sha256:1", search=places)
    text = str(caught.value)
    for part in (*places, f"{tmp_path}/gone", "some-uuid", "sha256:1", "--search BASE_URI", "--data OLD=NEW"):
        assert part in text
    assert "lightning-dtool[dserver]" in text
    with pytest.raises(DatasetNotFoundError, match="Looked in: nowhere"):
        locate(None, "some-uuid", lookup=False)


def test_dserver_knows_where(make_dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset()
    base = moved(dataset, tmp_path / "elsewhere")
    places = [{"uri": f"{NOWHERE}/x", "uuid": dataset.uuid}, {"uri": f"{base}/a-new-name", "uuid": dataset.uuid}]
    asked = dserver(monkeypatch, places)
    assert locate(dataset.uri, dataset.uuid).uri == f"{base}/a-new-name"
    assert asked == [dataset.uuid]
    with pytest.raises(DatasetNotFoundError):
        locate(dataset.uri, dataset.uuid, lookup=False)
    assert asked == [dataset.uuid]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (RuntimeError("no token in dtool.json"), "dserver: no token in dtool.json"),
        (ConnectionError(), "dserver: ConnectionError"),
        ([], "dserver: it does not know this UUID"),
        ({"error": "nope"}, "dserver: "),
        (None, "dserver: "),
        ([{"uri": "unheard-of://x/y"}], "unheard-of://x/y (as dserver says): "),
        ([{"uri": None}], "None (as dserver says): "),
    ],
)
def test_the_message_quotes_what_dserver_answers(monkeypatch, answer: Any, told: str) -> None:
    dserver(monkeypatch, answer)
    with pytest.raises(DatasetNotFoundError) as caught:
        locate(NOWHERE, "some-uuid")
    assert told in str(caught.value)


def test_a_client_of_dserver_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dtool_lookup_api.py").write_text("raise OSError('no settings')")
    monkeypatch.delitem(sys.modules, "dtool_lookup_api", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="dserver: not asked, no settings"):
        locate(NOWHERE, "some-uuid")
