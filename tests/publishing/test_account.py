"""The account of publications: a path leads to one of them, and one without a path is an orphan."""

import os
import threading
from pathlib import Path

import pytest

from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.standing import StandingFile
from record.samples import record


@pytest.fixture
def account() -> Account:
    return Account()


def opened(account: Account, path: str, name: str = "net") -> Publication:
    publication = account.open(record(), name, path)
    assert account.claim(path, publication) is None
    return publication


def test_a_path_leads_to_the_publication_that_claimed_it(account: Account) -> None:
    publication = opened(account, "/run/a.ckpt")
    assert account.publication_for("/run/a.ckpt") is publication
    assert account.has_path("/run/a.ckpt")
    assert account.publication_for("/run/b.ckpt") is None
    assert account.publications == [publication]


def test_an_opened_publication_does_not_have_its_path_until_it_claims_it(account: Account) -> None:
    before = opened(account, "/run/last.ckpt")
    after = account.open(record(), "net", "/run/last.ckpt")
    assert account.publication_for("/run/last.ckpt") is before
    assert account.claim("/run/last.ckpt", after) is before
    assert account.publication_for("/run/last.ckpt") is after


def test_a_publication_is_an_orphan_when_its_last_path_is_gone(account: Account) -> None:
    publication = opened(account, "/run/best.ckpt")
    account.claim("/run/last.ckpt", publication)
    assert account.release("/run/best.ckpt") is None
    assert account.release("/run/last.ckpt") is publication
    assert account.release("/run/last.ckpt") is None
    assert publication.paths == set()


def test_a_path_that_is_claimed_twice_makes_no_orphan(account: Account) -> None:
    publication = opened(account, "/run/a.ckpt")
    assert account.claim("/run/a.ckpt", publication) is None
    assert publication.paths == {"/run/a.ckpt"}


def test_two_publications_never_have_one_name(account: Account) -> None:
    names = [account.new_name(name) for name in ("net", "net", "n" * 80, "n" * 80, "net")]
    assert names == ["net", "net-v1", "n" * 80, "n" * 77 + "-v1", "net-v2"]


def test_a_link_between_paths_is_followed(account: Account, tmp_path: Path) -> None:
    publication = opened(account, str(tmp_path / "best.ckpt"))
    (tmp_path / "last.ckpt").symlink_to("best.ckpt")
    (tmp_path / "latest.ckpt").symlink_to(tmp_path / "last.ckpt")
    assert account.publication_for(tmp_path / "latest.ckpt") is publication


def test_links_in_a_circle_lead_nowhere(account: Account, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert account.publication_for(tmp_path / "a") is None


def test_a_relative_path_is_the_same_path(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publication = opened(account, str(tmp_path / "a.ckpt"))
    monkeypatch.chdir(tmp_path)
    assert account.publication_for(os.path.join("x", "..", "a.ckpt")) is publication


def test_a_remote_address_is_kept_as_it_is(account: Account) -> None:
    publication = opened(account, "s3://bucket/a.ckpt")
    assert account.publication_for("s3://bucket/a.ckpt") is publication


def test_a_path_is_not_released_while_it_is_filled(account: Account) -> None:
    publication = opened(account, "/run/a.ckpt")
    released = threading.Event()

    def release() -> None:
        account.release("/run/a.ckpt")
        released.set()

    with account.path_held("/run/a.ckpt", publication) as held:
        assert held
        thread = threading.Thread(target=release)
        thread.start()
        assert not released.wait(0.2)
    thread.join()
    assert released.is_set()
    with account.path_held("/run/a.ckpt", publication) as held:
        assert not held


def test_a_file_counts_only_while_it_stands_unchanged(account: Account, tmp_path: Path) -> None:
    publication = opened(account, str(tmp_path / "a.ckpt"))
    assert publication.local_file is None
    (tmp_path / "a.ckpt").write_bytes(b"one")
    publication.standing = StandingFile.at(tmp_path / "a.ckpt")
    assert publication.local_file == tmp_path / "a.ckpt"
    (tmp_path / "other").write_bytes(b"two")
    (tmp_path / "other").replace(tmp_path / "a.ckpt")
    assert publication.local_file is None
    publication.item = tmp_path / "item"
    assert publication.local_file == tmp_path / "item"


def test_a_publication_without_a_dataset_has_no_uri(account: Account) -> None:
    assert opened(account, "/a").uri is None
