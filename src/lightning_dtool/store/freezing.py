"""The freezing of a dataset whose items have been sent."""

import contextlib
import time
from functools import partial
from typing import Any

from lightning_dtool.errors import StoreError
from lightning_dtool.store.broker import Broker
from lightning_dtool.store.contents import Contents
from lightning_dtool.store.dataset import FrozenDataset
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.parallel import run_all


def freeze(
    broker: Broker, admin_metadata: dict[str, Any], contents: Contents, overlays: dict[str, dict[str, Any]]
) -> FrozenDataset:
    """Write the metadata, check that the store holds exactly what was sent, and make the dataset visible as frozen.

    Args:
        broker: The dataset's broker.
        admin_metadata: The administrative metadata of the unfinished dataset.
        contents: What the dataset holds.
        overlays: Its overlays, by the items' identifiers.

    Returns:
        The frozen dataset, opened as a reader would.

    Raises:
        StoreError: If the store holds anything other than what was sent, or cannot be written. No frozen dataset is
            left behind, unless the store then refuses every write.
    """
    freezing = False
    try:
        with store_errors(contents.uri, "freeze the dataset"):
            _put_metadata(broker, admin_metadata["dtoolcore_version"], contents, overlays)
            contents.require_held(broker.held_items())
            freezing = True
            broker.freeze({**admin_metadata, "type": "dataset", "frozen_at": time.time()})
            broker.post_freeze_hook()
        return _reopened(broker, admin_metadata["uuid"], contents)
    except BaseException:
        if freezing:
            # The error that led here is the one that is raised.
            with contextlib.suppress(Exception):
                broker.unfreeze(admin_metadata)
        raise


def _put_metadata(
    broker: Broker, dtoolcore_version: str, contents: Contents, overlays: dict[str, dict[str, Any]]
) -> None:
    # dtool's layout has one object for each of these.
    run_all(
        [
            partial(broker.pre_freeze_hook),
            partial(broker.put_readme, contents.readme),
            *(partial(broker.put_overlay, name, values) for name, values in overlays.items()),
            *(partial(broker.put_annotation, name, value) for name, value in contents.annotations.items()),
            *(partial(broker.put_tag, tag) for tag in sorted(contents.tags)),
        ],
        broker.at_once,
    )
    # The last: where there is a manifest, all the rest was written, too.
    broker.put_manifest(contents.manifest(dtoolcore_version, broker.hasher.name))


def _reopened(broker: Broker, uuid: str, contents: Contents) -> FrozenDataset:
    """Open the dataset as a reader would, and compare its items with what was sent."""
    dataset = FrozenDataset.from_uri(contents.uri)
    sent = {sent.item.identifier: sent.item for sent in contents.items.values()}
    # If the broker has compared the stored manifest already, it is not read again.
    same_items = broker.compares_metadata or dict(dataset.items) == sent
    if dataset.uuid != uuid or not same_items:
        raise StoreError(
            "expected to find the dataset that was written, found another one. "
            "Is something else writing there? Try again.",
            uri=contents.uri,
            kind="altered",
        )
    return dataset
