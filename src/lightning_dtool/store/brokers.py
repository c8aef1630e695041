"""The installed storage brokers by the schemes that they serve."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lightning_dtool.store.broker import Broker
from lightning_dtool.store.faults import store_errors

_SUFFIX = "storagebroker"


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Return the installed brokers by scheme, most of them not yet imported.

    Entry points are scanned once per process: a scan takes tens of milliseconds. A broker's scheme is an
    attribute of its class, but importing every broker to read it takes far longer, so the conventional
    names ("S3StorageBroker") are trusted.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group="dtool.storage_brokers"):
        name = point.name.lower()
        if name == "diskstoragebroker":
            found["file"] = point
        elif name.endswith(_SUFFIX):
            found[name.removesuffix(_SUFFIX)] = point
        else:
            try:
                found[point.load().key] = point
            except Exception:  # noqa: S112 - a broken plug-in must not break the others
                continue
    return found


def installed_schemes() -> list[str]:
    """Return the schemes of URIs that can be read here, sorted."""
    return sorted({"file", *_entry_points()})


def is_installed(scheme: str) -> bool:
    """Tell whether a storage broker for a scheme is installed.

    Args:
        scheme: A scheme such as "s3", in lower case.
    """
    return scheme == "file" or scheme in _entry_points()


@cache
def broker_class(scheme: str) -> type[Broker]:
    """Return the class of the brokers that serve a scheme.

    Args:
        scheme: An installed scheme.
    """
    # Imported when they are used: dtoolcore and boto3 take a long time to import.
    if scheme == "file":
        from lightning_dtool.store.disk import DiskBroker

        return DiskBroker
    if scheme == "s3":
        from lightning_dtool.store.s3 import S3Broker

        return S3Broker
    loaded = _entry_points()[scheme].load()
    if scheme in ("http", "https") and loaded.__module__.startswith("dtool_http."):
        from lightning_dtool.store import http

        return http.wrapping(loaded)
    from lightning_dtool.store.dtool_broker import wrapping

    return wrapping(loaded)


def open_broker(uri: str, *, new: bool = False) -> Broker:
    """Return a broker for a dataset's URI or a base URI.

    Args:
        uri: A normalized URI.
        new: Whether it is known that there is no dataset yet, so that the store need not be asked.

    Raises:
        StoreError: If the broker cannot be loaded or cannot reach its store.
    """
    with store_errors(uri, "reach the store"):
        return broker_class(uri.split("://", 1)[0]).connect(uri, new=new)
