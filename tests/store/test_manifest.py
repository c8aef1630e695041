"""Manifests and administrative metadata from untrusted sources."""

import contextlib
import copy
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_dtool.errors import CorruptDatasetError, UnsafeDatasetError
from lightning_dtool.store import generate_identifier
from lightning_dtool.store.manifest import (
    _check_entry,
    _sound_relpaths,
    parse_admin_metadata,
    parse_manifest,
    parse_timestamp,
)

URI = "file://host/x"


def manifest(*relpaths: str) -> dict[str, Any]:
    entry = {"size_in_bytes": 1, "hash": "h", "utc_timestamp": 0.0}
    items = {generate_identifier(relpath): {**entry, "relpath": relpath} for relpath in relpaths}
    return {"items": items, "hash_function": "md5sum_hexdigest", "dtoolcore_version": "3"}


def test_items_are_in_order_of_their_paths() -> None:
    parsed = parse_manifest(URI, manifest("b", "a/z", "a/b"))
    assert [item.relpath for item in parsed.items.values()] == ["a/b", "a/z", "b"]
    assert all(item.identifier == identifier for identifier, item in parsed.items.items())


@pytest.mark.parametrize(
    "content", [None, [], "x", 3, {}, {"items": []}, {"items": {}}, {"items": {}, "hash_function": 3}]
)
def test_a_manifest_of_another_shape(content: object) -> None:
    with pytest.raises(CorruptDatasetError, match=r"file://host/x.*expected"):
        parse_manifest(URI, content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("relpath", wrong) for wrong in (None, 3)),
        *(("size_in_bytes", wrong) for wrong in ("1", -1, True, 1.0, None)),
        *(("hash", wrong) for wrong in (None, "", 3)),
    ],
)
def test_an_item_of_another_type(key: str, value: object) -> None:
    content = copy.deepcopy(manifest("a"))
    next(iter(content["items"].values()))[key] = value
    with pytest.raises(CorruptDatasetError, match="expected"):
        parse_manifest(URI, content)
    content["items"] = {"x": []}
    with pytest.raises(CorruptDatasetError, match="expected an object"):
        parse_manifest(URI, content)


@pytest.mark.parametrize("relpath", ["/etc/passwd", "../../x", "a//b", "a\\b", "a\0b", "", ".", "a/.."])
def test_a_path_that_leads_elsewhere(relpath: str) -> None:
    with pytest.raises(UnsafeDatasetError, match=r"expected item paths below.*found"):
        parse_manifest(URI, manifest(relpath))


def test_a_path_that_cannot_be_encoded() -> None:
    content = manifest("a")
    next(iter(content["items"].values()))["relpath"] = "\ud800"
    with pytest.raises(UnsafeDatasetError, match="UTF-8"):
        parse_manifest(URI, content)


def test_an_identifier_that_is_not_the_hash_of_its_path() -> None:
    content = manifest("a")
    content["items"]["0" * 40] = content["items"].pop(generate_identifier("a"))
    with pytest.raises(UnsafeDatasetError, match="identifier"):
        parse_manifest(URI, content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["items", "hash_function", "x"]), JSON) | JSON)
def test_any_manifest_gives_items_or_an_error_of_this_package(content: object) -> None:
    with contextlib.suppress(CorruptDatasetError):
        parse_manifest(URI, content)


@given(st.text(alphabet=st.characters() | st.sampled_from("./\\\0"), max_size=12))
def test_a_path_that_passes_stays_inside(relpath: str) -> None:
    try:
        content = manifest(relpath)
    except UnicodeEncodeError:
        return
    try:
        parse_manifest(URI, content)
    except UnsafeDatasetError:
        return
    assert not relpath.startswith("/")
    assert not {"", ".", ".."} & set(relpath.split("/"))
    assert "\\" not in relpath
    assert "\0" not in relpath


ADMIN = {"uuid": "1c10766c-4a29-4536-9648-2260202f3f3e", "name": "x", "type": "dataset"}


@pytest.mark.parametrize(
    "content", [None, [], {}, {**ADMIN, "uuid": "../x"}, {**ADMIN, "type": None}, {**ADMIN, "name": 3}]
)
def test_damaged_administrative_metadata(content: object) -> None:
    with pytest.raises(CorruptDatasetError, match="expected"):
        parse_admin_metadata(URI, content)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", ""])
def test_a_name_that_leads_elsewhere(name: str) -> None:
    with pytest.raises(UnsafeDatasetError, match="name"):
        parse_admin_metadata(URI, {**ADMIN, "name": name})


def test_timestamps() -> None:
    assert parse_timestamp(URI, "frozen_at", "1.5") == datetime(1970, 1, 1, 0, 0, 1, 500000, timezone.utc)
    for wrong in (None, "x", [], float("nan"), 1e300):
        with pytest.raises(CorruptDatasetError, match="seconds since 1970"):
            parse_timestamp(URI, "frozen_at", wrong)


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "relpath": st.text(alphabet="ab./\\\0é\ud800", max_size=5) | JSON,
        "size_in_bytes": st.integers(-1, 2) | JSON,
        "hash": st.sampled_from(["", "h"]) | JSON,
    },
)


@given(st.lists(ENTRY | JSON, max_size=3), st.integers(0, 3))
def test_the_fast_check_accepts_what_the_check_of_each_entry_accepts(entries: list[Any], wrong: int) -> None:
    def identifier(position: int, entry: Any) -> str:
        relpath = entry.get("relpath") if isinstance(entry, dict) else None
        sound = isinstance(relpath, str) and "\ud800" not in relpath and position != wrong
        return generate_identifier(relpath) if sound else str(position)

    content = {identifier(position, entry): entry for position, entry in enumerate(entries)}
    try:
        for name, entry in content.items():
            _check_entry(URI, name, entry)
        passes = True
    except CorruptDatasetError:
        passes = False
    assert (_sound_relpaths(content) is not None) == passes
