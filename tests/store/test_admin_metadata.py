"""The administrative metadata of a new dataset: who made it, in plain letters."""

import getpass

import pytest

from lightning_dtool.store.admin_metadata import new_admin_metadata


@pytest.mark.parametrize(
    ("name", "recorded"), [("Jörg Weiß", "Jorg Weiss"), ("太郎", "unknown"), ("x\ny", "xy"), ("me", "me")]
)
def test_user_names_are_plain(name: str, recorded: str) -> None:
    assert new_admin_metadata("x", name)["creator_username"] == recorded


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert new_admin_metadata("x")["creator_username"] == "unknown"


def test_a_new_dataset_is_not_frozen_and_has_a_uuid_of_its_own() -> None:
    one, other = new_admin_metadata("x"), new_admin_metadata("x")
    assert one["type"] == "protodataset"
    assert one["uuid"] != other["uuid"]


def test_the_creator_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DTOOL_CREATOR_USERNAME", " lab-4 ")
    assert new_admin_metadata("x")["creator_username"] == "lab-4"
    monkeypatch.setenv("LIGHTNING_DTOOL_CREATOR_USERNAME", "")
    assert new_admin_metadata("x")["creator_username"] == getpass.getuser()
