"""A storage broker that this package knows nothing about, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint

import dtoolcore.storagebroker
import pytest

from lightning_dtool.store import brokers, dtool_broker


class BoxStorageBroker(dtoolcore.storagebroker.DiskStorageBroker):
    """A remote store, as far as its users can see; it lies in a directory."""

    key = "box"

    def item_at(self, identifier: str) -> str:
        return super().get_item_abspath(identifier)

    def get_utc_timestamp(self, handle: str) -> float:
        return 0.0


@contextmanager
def installed_box(*, remote: bool) -> Iterator[None]:
    """Make the scheme "box" one of the installed ones.

    Args:
        remote: Whether the package may not see that the items are files of this machine.
    """
    point = EntryPoint("BoxStorageBroker", "not.there:x", "dtool.storage_brokers")
    known = {**brokers._entry_points(), "box": point}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brokers, "_entry_points", lambda: known)
        patch.setattr(EntryPoint, "load", lambda self: BoxStorageBroker)
        if remote:
            patch.setattr(dtool_broker.DtoolBroker, "data_directory", lambda _: None)
        brokers.broker_class.cache_clear()
        yield
    brokers.broker_class.cache_clear()
