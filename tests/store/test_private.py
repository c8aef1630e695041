"""The folders and files of the cache that nobody else may change."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.store.test_cache import Shelf, cache_of, item_of

from lightning_dtool.data.decoded_cache import DecodedImages
from lightning_dtool.errors import ConfigurationError, StoreError
from lightning_dtool.store import verified
from lightning_dtool.store.cache import Cache
from lightning_dtool.store.private import GROUP, cache_directory, make_private, open_private

NOBODY = 65534
needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files to another user"
)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for temporary files in which each user may make folders, as on a shared machine."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest-", "popen-")):  # pytest and its workers make them for one user alone
            folder.chmod(0o711)
    tmp_path.chmod(0o711)
    monkeypatch.setenv("DTOOL_CACHE_DIRECTORY", str(shared))
    return shared


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def fetched() -> tuple[Shelf, Path]:
    shelf = Shelf(**{"a.txt": b"text"})
    return shelf, cache_of(shelf).path(item_of("a.txt", b"text"))


def test_what_is_made_is_for_the_user_alone(base: Path, open_umask: None) -> None:
    _, path = fetched()
    folders = [folder for folder in path.parents if folder.is_relative_to(base / "lightning-dtool")]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


@needs_root
def test_a_folder_that_another_user_made_first_is_not_used(base: Path, open_umask: None) -> None:
    """Nobody lets the user write into it, and would exchange what arrives there."""
    theirs = base / "lightning-dtool" / "7bb1"
    theirs.mkdir(parents=True)
    for folder in (theirs, theirs.parent):
        os.chown(folder, NOBODY, NOBODY)
    shelf, path = fetched()
    assert path == base / "lightning-dtool-0" / "7bb1" / path.name
    assert os.listdir(theirs) == []
    assert cache_of(shelf).path(item_of("a.txt", b"text")) == path
    assert shelf.downloads == 1


def _exchange(base: Path, theirs: Path, writing: int) -> None:
    """Exchange each item as soon as it appears, until the process is killed."""
    os.umask(0)
    theirs.mkdir(parents=True)
    os.write(writing, b".")
    while True:
        for path in [*base.glob("*/*/*.bin")]:
            with contextlib.suppress(OSError):
                (theirs / "evil").write_bytes(b"replaced!")
                os.rename(theirs / "evil", path)


@needs_root
def test_nobody_can_exchange_an_item_after_it_was_verified(base: Path) -> None:
    """Another user tries for each item, in a process of its own, in the folders that it has made before."""
    contents = {f"{n}.bin": bytes([n]) * 9 for n in range(30)}
    shelf, items = Shelf(**contents), [item_of(relpath, content) for relpath, content in contents.items()]
    theirs = base / "lightning-dtool" / "7bb1"
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            _exchange(base, theirs, writing)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"."
        found = [Path(cache_of(shelf).path(item)).read_bytes() for item in items]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reading)
    assert found == list(contents.values())


def test_a_folder_that_others_may_write_is_not_used(base: Path) -> None:
    _, path = fetched()
    path.parent.chmod(0o777)
    with pytest.raises(
        StoreError, match=r"7bb1: the cache is not used.*mode 777\. Set DTOOL_CACHE_DIRECTORY"
    ) as caught:
        fetched()
    assert caught.value.kind == "denied"
    path.parent.chmod(0o700)
    assert fetched()[1] == path


def test_a_folder_in_which_others_may_rename_the_cache_is_not_used(base: Path) -> None:
    base.chmod(0o777)
    with pytest.raises(StoreError, match=r"others may rename what is in it.*chmod \+t"):
        fetched()
    base.chmod(0o1777)
    assert fetched()[1].read_bytes() == b"text"


def test_a_link_in_place_of_a_folder_is_not_used(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (base / "lightning-dtool").mkdir(mode=0o700)
    (base / "lightning-dtool" / "7bb1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot make the cache directory"):
        fetched()
    assert os.listdir(tmp_path / "elsewhere") == []


def _given_away(path: Path) -> None:
    os.chown(path, NOBODY, -1)


def _open_to_all(path: Path) -> None:
    path.chmod(0o666)


def _linked(path: Path) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize("change", [pytest.param(_given_away, marks=needs_root), _open_to_all, _linked])
def test_a_file_that_others_may_change_is_fetched_again(
    base: Path, monkeypatch: pytest.MonkeyPatch, change: object
) -> None:
    monkeypatch.setattr(verified, "_SETTLED_NS", 0)
    shelf, path = fetched()
    change(path)  # type: ignore[operator]
    assert cache_of(shelf).path(item_of("a.txt", b"text")) == path
    assert shelf.downloads == 2
    assert os.stat(path, follow_symlinks=False).st_uid == os.getuid()
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    change(path)  # type: ignore[operator]
    with pytest.raises(OSError):
        open_private(path)


@needs_root
def test_a_trusted_group_shares_the_cache(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GROUP, str(NOBODY))
    shelf, path = fetched()
    for folder in (path.parent, path.parent.parent):
        assert (folder.stat().st_gid, stat.S_IMODE(folder.stat().st_mode)) == (NOBODY, 0o2770)
    assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (NOBODY, 0o640)
    for place in (path, path.parent, path.parent.parent):
        os.chown(place, 1234, NOBODY)  # as if another member had made them
    monkeypatch.setattr(verified, "_SETTLED_NS", 0)
    assert cache_of(shelf).path(item_of("a.txt", b"text")) == path
    assert shelf.downloads == 1
    monkeypatch.delenv(GROUP)
    assert cache_of(shelf).path(item_of("a.txt", b"text")).parent.parent.name == "lightning-dtool-0"


def test_a_group_that_is_not_there(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GROUP, "no-such-group")
    with pytest.raises(ConfigurationError, match=r"LIGHTNING_DTOOL_CACHE_GROUP='no-such-group': expected a group"):
        fetched()


def test_a_decoded_cache_that_others_may_change_is_not_read(base: Path) -> None:
    path = cache_directory() / "decoded" / "7bb1" / "key.images"
    images = DecodedImages(path, 1)
    images.fill(lambda position: None)
    assert DecodedImages(path, 1).open()
    path.chmod(0o666)
    assert not DecodedImages(path, 1).open()
    DecodedImages(path, 1).fill(lambda position: None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_looking_into_the_cache_takes_microseconds(base: Path) -> None:
    make_private(cache_directory())
    shelf, _ = fetched()
    cache, item = cache_of(shelf), item_of("a.txt", b"text")
    assert isinstance(cache, Cache)
    cache.path(item)
    begun = time.process_time()
    for _ in range(1000):
        cache.path(item)
    assert time.process_time() - begun < 1
