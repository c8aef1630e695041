"""The memory of verified items: what is read again, and what is not."""

import hashlib
import io
import json
import os
import pickle
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import dtoolcore
import pytest

from kit import comparisons
from lightning_dtool.errors import CorruptDatasetError, MissingItemError, UnsafeDatasetError, VerificationError
from lightning_dtool.store import FrozenDataset, generate_identifier, local_path, verified
from lightning_dtool.store.verification import Recorded

FILES = {"a.txt": b"aaaa", "b.txt": b"bbbb"}
A, B = map(generate_identifier, FILES)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the items whose content was compared. A file may be remembered as soon as it is written."""
    monkeypatch.setattr(verified, "_SETTLED_NS", 0)
    return comparisons(monkeypatch)


def file_of(dataset: FrozenDataset, relpath: str) -> Path:
    return local_path(dataset.uri) / "data" / relpath


def content_of(dataset: FrozenDataset) -> bytes:
    with dataset.open_to_decode(A, verify=True) as file:
        return file.read()


def memory_of(dataset: FrozenDataset) -> Path:
    (folder,) = Path(os.environ["DTOOL_CACHE_DIRECTORY"], "lightning-dtool").glob("verified-*")
    (found,) = folder.glob(f"{dataset.uuid}-*")
    return found


def test_an_item_is_read_once_also_by_other_processes(make_dataset, read) -> None:
    dataset = make_dataset(FILES)
    assert not dataset.is_verified(A)
    assert content_of(dataset) == b"aaaa"
    assert dataset.is_verified(A)
    assert not dataset.is_verified(B)
    assert Path(dataset.verified_path(B)).read_bytes() == b"bbbb"
    for again in (FrozenDataset.from_uri(dataset.uri), pickle.loads(pickle.dumps(dataset))):
        assert again.is_verified(A)
        assert again.is_verified(B)
        again.verified_path(A)
        again.verify_once()
    assert read == [A, B]


def test_a_process_that_is_running_learns_what_another_has_verified(make_dataset, read) -> None:
    one = make_dataset(FILES)
    other = FrozenDataset.from_uri(one.uri)
    one.verified_path(A)
    assert other.is_verified(A)
    other.verified_path(B)
    assert one.is_verified(B)
    assert read == [A, B]


def test_verify_once_reads_the_rest_and_verify_reads_everything(make_dataset, read) -> None:
    dataset = make_dataset(FILES)
    dataset.verified_path(B)
    dataset.verify_once([A])
    assert sorted(read) == sorted([A, B])
    dataset.verify()
    assert sorted(read[2:]) == sorted([A, B])


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_is_read_again(make_dataset, read, keep_times) -> None:
    dataset = make_dataset(FILES)
    dataset.verify_once()
    file = file_of(dataset, "a.txt")
    before = file.stat()
    file.write_bytes(b"aaab")
    if keep_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for reader in (dataset, FrozenDataset.from_uri(dataset.uri)):
        for attempt in (
            partial(reader.open_to_decode, verify=True),
            reader.verified_path,
            lambda idn, reader=reader: reader.verify_once([idn]),
        ):
            with pytest.raises(VerificationError, match=r"a\.txt.*expected md5") as caught:
                attempt(A)
            assert (caught.value.uri, caught.value.item) == (dataset.uri, "a.txt")
    file.write_bytes(b"aaaa")
    assert content_of(dataset) == b"aaaa"
    assert dataset.is_verified(B)


def test_a_copy_is_verified_by_itself(make_dataset, tmp_path, read) -> None:
    dataset = make_dataset(FILES)
    dataset.verify_once()
    (tmp_path / "copies").mkdir()
    copy = FrozenDataset.from_uri(dtoolcore.copy(dataset.uri, str(tmp_path / "copies")))
    assert copy.uuid == dataset.uuid
    assert not copy.is_verified(A)
    file_of(copy, "a.txt").write_bytes(b"aaab")
    with pytest.raises(VerificationError, match=r"a\.txt"):
        content_of(copy)
    assert dataset.is_verified(A)


def test_a_file_that_has_just_been_changed_is_not_remembered(make_dataset, monkeypatch) -> None:
    monkeypatch.setattr(verified, "_SETTLED_NS", 10**18)
    dataset = make_dataset(FILES)
    dataset.verified_path(A)
    assert not dataset.is_verified(A)


def test_the_memory_belongs_to_the_user_alone(make_dataset, read) -> None:
    dataset = make_dataset(FILES)
    dataset.verify_once()
    memory = memory_of(dataset)
    assert (stat.S_IMODE(memory.stat().st_mode), stat.S_IMODE(memory.parent.stat().st_mode)) == (0o600, 0o700)
    memory.chmod(0o622)
    assert not FrozenDataset.from_uri(dataset.uri).is_verified(A)
    memory.chmod(0o600)
    assert FrozenDataset.from_uri(dataset.uri).is_verified(A)
    elsewhere = memory.rename(memory.with_name("elsewhere"))
    memory.symlink_to(elsewhere)
    assert not FrozenDataset.from_uri(dataset.uri).is_verified(A)


@pytest.mark.parametrize("content", [b"", b"x", bytes(1000)])
def test_a_damaged_memory_only_costs_time(make_dataset, read, content) -> None:
    dataset = make_dataset(FILES)
    dataset.verify_once()
    memory_of(dataset).write_bytes(content)
    again = FrozenDataset.from_uri(dataset.uri)
    assert not again.is_verified(A)
    again.verified_path(A)
    assert again.is_verified(A)


@pytest.fixture
def no_cache(tmp_path, monkeypatch) -> None:
    """Make the cache directory one that cannot be written, also by root."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DTOOL_CACHE_DIRECTORY", str(tmp_path / "file"))


def test_without_a_cache_directory_the_memory_is_a_temporary_file(
    make_dataset, tmp_path, monkeypatch, read, no_cache
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = make_dataset(FILES)
    dataset.verify_once()
    assert FrozenDataset.from_uri(dataset.uri).is_verified(A)
    (folder,) = tmp_path.glob("lightning-dtool-verified-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")  # as somebody else could make it
    assert not FrozenDataset.from_uri(dataset.uri).is_verified(A)


def test_without_any_place_for_the_memory_a_process_remembers_by_itself(
    make_dataset, tmp_path, monkeypatch, read, no_cache
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    dataset = make_dataset(FILES)
    dataset.verify_once()
    assert dataset.is_verified(A)
    assert not FrozenDataset.from_uri(dataset.uri).is_verified(A)


@pytest.mark.parametrize("way", ["open_to_decode", "verified_path", "verify"])
def test_a_file_that_changes_while_it_is_compared_is_not_remembered(make_dataset, monkeypatch, way) -> None:
    dataset = make_dataset({"a.txt": b"aaaa"})
    changed = os.stat(file_of(dataset, "a.txt")).st_ctime_ns
    clock = [changed + verified._SETTLED_NS // 2]
    monkeypatch.setattr(verified.time, "time_ns", lambda: clock[0])

    def slow(compare: Any) -> Any:
        def compared(*arguments: Any) -> Any:
            clock[0] = changed + 10**10  # so long that another change in the same tick would seem old
            return compare(*arguments)

        return compared

    monkeypatch.setattr(Recorded, "difference", slow(Recorded.difference))
    monkeypatch.setattr(Recorded, "is_same", slow(Recorded.is_same))
    if way == "open_to_decode":
        dataset.open_to_decode(A, verify=True).close()
    else:
        getattr(dataset, way)(*([A] if way == "verified_path" else []))
    assert not dataset.is_verified(A)


@pytest.mark.parametrize(("nanoseconds", "is_settled"), [(1, True), (0, False)])
def test_a_file_system_that_keeps_seconds_needs_seconds(monkeypatch, nanoseconds, is_settled) -> None:
    changed = 1_700_000_000 * 10**9 + nanoseconds
    monkeypatch.setattr(verified.time, "time_ns", lambda: changed + 10**9)
    assert verified.is_settled((1, changed, changed, 1)) is is_settled
    monkeypatch.setattr(verified.time, "time_ns", lambda: changed + 3 * 10**9)
    assert verified.is_settled((1, changed, changed, 1))


def test_a_file_that_has_grown_is_not_read_into_memory(make_dataset) -> None:
    dataset = make_dataset(FILES)
    os.truncate(file_of(dataset, "a.txt"), 10**12)
    with pytest.raises(VerificationError, match="expected 4 bytes, found 1000000000000"):
        content_of(dataset)


def test_an_item_that_became_a_link_is_compared_by_its_content(make_dataset, tmp_path, read) -> None:
    dataset = make_dataset(FILES)
    dataset.verify_once()
    file = file_of(dataset, "a.txt")
    target = file.rename(tmp_path / "target")
    file.symlink_to(target)
    assert content_of(dataset) == b"aaaa"
    target.write_bytes(b"aaab")
    with pytest.raises(VerificationError, match=r"a\.txt"):
        content_of(dataset)
    with pytest.raises(UnsafeDatasetError, match="a link to"):
        content_of(FrozenDataset.from_uri(dataset.uri))


def test_an_empty_item_is_verified_like_any_other(make_dataset, read) -> None:
    dataset = make_dataset({"a.txt": b""})
    assert content_of(dataset) == b""
    assert dataset.is_verified(A)
    file_of(dataset, "a.txt").write_bytes(b"a")
    with pytest.raises(VerificationError, match="expected 0 bytes, found 1"):
        content_of(dataset)


@pytest.mark.parametrize("recorded", [None, ""])
def test_a_manifest_without_the_hash_of_an_item_is_damaged(make_dataset, recorded) -> None:
    dataset = make_dataset(FILES)
    manifest = local_path(dataset.uri) / ".dtool" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["items"][A]["hash"] = recorded
    manifest.write_text(json.dumps(content))
    with pytest.raises(CorruptDatasetError, match="hash"):
        content_of(FrozenDataset.from_uri(dataset.uri))


def test_a_dataset_of_dtool_is_verified_by_its_own_hashes(base_uri, tmp_path) -> None:
    (tmp_path / "a.txt").write_bytes(b"aaaa")
    with dtoolcore.DataSetCreator("plain", base_uri) as creator:
        creator.put_item(str(tmp_path / "a.txt"), "a.txt")
    dataset = FrozenDataset.from_uri(creator.uri)
    assert content_of(dataset) == b"aaaa"
    file_of(dataset, "a.txt").write_bytes(b"aaab")
    with pytest.raises(VerificationError, match="expected md5 "):
        content_of(dataset)
    file_of(dataset, "a.txt").write_bytes(b"aaa")
    with pytest.raises(VerificationError, match="expected 4 bytes, found 3"):
        dataset.verified_path(A)


def test_an_item_that_cannot_be_compared_is_refused(make_dataset) -> None:
    dataset = make_dataset(FILES)
    manifest = local_path(dataset.uri) / ".dtool" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("md5sum_hexdigest", "unheard_of"))
    (local_path(dataset.uri) / ".dtool" / "overlays" / "sha256.json").unlink()
    with pytest.raises(VerificationError, match="'unheard_of' is unknown"):
        content_of(FrozenDataset.from_uri(dataset.uri))


def test_a_missing_item_is_named_among_the_differences(make_dataset) -> None:
    dataset = make_dataset(FILES)
    file_of(dataset, "a.txt").unlink()
    with pytest.raises(VerificationError, match=r"a\.txt: missing"):
        dataset.verify_once()
    with pytest.raises(MissingItemError):
        content_of(dataset)


def test_without_a_known_hash_function_the_error_says_what_to_do(base_uri, make_dataset) -> None:
    dataset = make_dataset(FILES)
    folder = local_path(dataset.uri) / ".dtool"
    (folder / "overlays" / "sha256.json").unlink()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("md5sum_hexdigest", "xxh3_hexdigest"))
    again = FrozenDataset.from_uri(dataset.uri)
    with pytest.raises(VerificationError, match=r"xxh3_hexdigest.* is unknown\. .*sha256.*verify=False") as caught:
        again.verified_path(A)
    assert (caught.value.uri, caught.value.item) == (dataset.uri, "a.txt")


def test_a_large_file_that_is_known_is_not_read_as_a_whole(make_dataset, read, monkeypatch) -> None:
    dataset = make_dataset(FILES)
    monkeypatch.setattr("lightning_dtool.store.verified_reading._SMALL", 3)
    kinds = []
    for verify in (True, True, False):
        with dataset.open_to_decode(A, verify=verify) as file:
            assert file.read() == b"aaaa"
            kinds.append(isinstance(file, io.BytesIO))
    assert kinds == [True, False, False]
    assert read == [A]


def test_an_overlay_of_hashes_that_was_replaced_does_not_verify_other_data(make_dataset, read) -> None:
    """The content digest in a record is made of the manifest's hashes, and anybody may write an overlay."""
    dataset = make_dataset(FILES)
    file_of(dataset, "a.txt").write_bytes(b"aaab")
    overlay = local_path(dataset.uri) / ".dtool" / "overlays" / "sha256.json"
    hashes = json.loads(overlay.read_text())
    overlay.write_text(json.dumps({**hashes, A: hashlib.sha256(b"aaab").hexdigest()}))
    again = FrozenDataset.from_uri(dataset.uri)
    again.verify()  # compares with the overlay
    for attempt in (content_of, lambda each: each.verified_path(A), FrozenDataset.verify_once):
        with pytest.raises(VerificationError, match=r"a\.txt.*expected md5"):
            attempt(again)
