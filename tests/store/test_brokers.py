"""The search for installed storage brokers."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from lightning_dtool.errors import StoreError
from lightning_dtool.store import brokers


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Return a list that stands for the installed brokers."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(brokers, "entry_points", lambda **_: points)
    monkeypatch.setattr(brokers, "_entry_points", brokers._entry_points.__wrapped__)
    return points


def test_a_scheme_follows_from_the_conventional_name(plug_ins: list[EntryPoint]) -> None:
    for name in ("DiskStorageBroker", "S3StorageBroker", "HTTPSStorageBroker", "SymLinkStorageBroker"):
        plug_ins.append(EntryPoint(name, "not.there:x", "dtool.storage_brokers"))
    assert brokers.installed_schemes() == ["file", "https", "s3", "symlink"]


def test_a_broker_of_another_name_is_asked_and_a_broken_one_left_out(plug_ins: list[EntryPoint]) -> None:
    plug_ins.append(EntryPoint("strange", "dtoolcore.storagebroker:DiskStorageBroker", "dtool.storage_brokers"))
    plug_ins.append(EntryPoint("broken", "not.there:x", "dtool.storage_brokers"))
    assert brokers.installed_schemes() == ["file"]


def test_a_broker_that_cannot_be_loaded(plug_ins: list[EntryPoint]) -> None:
    plug_ins.append(EntryPoint("GoneStorageBroker", "not.there:x", "dtool.storage_brokers"))
    with pytest.raises(StoreError, match="gone://x: cannot reach the store"):
        brokers.open_broker("gone://x")


def test_importing_and_using_the_disk_imports_nothing_heavy(make_dataset) -> None:
    script = f"""
import sys
from lightning_dtool.store import FrozenDataset, is_dataset_uri, normalize_uri
normalize_uri("s3://lab")
is_dataset_uri("s3://lab/x")
dataset = FrozenDataset.from_uri({make_dataset().uri!r})
dataset.verify()
heavy = {{"torch", "lightning", "boto3", "dtool_s3", "requests", "numpy"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_entry_points_are_scanned_once_per_process(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_dtool.store import FrozenDataset, normalize_uri

    normalize_uri("s3://x")
    monkeypatch.setattr(brokers, "entry_points", lambda **_: pytest.fail("scanned again"))
    normalize_uri("s3://x")
    FrozenDataset.from_uri(make_dataset().uri).verify()
