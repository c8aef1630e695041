"""Objects in a bucket that were written for a dataset which is not registered, so that nobody lists it."""

import base64
import re
from typing import Any

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from lightning_dtool.store.digest import generate_identifier
from lightning_dtool.store.faults import kind_of
from lightning_dtool.store.s3_objects import UUID

DATASET = "lightning-dtool-dataset"
"""The name of the metadata by which an object that this package has written says to which dataset it belongs."""

_NAME = "[0-9A-Za-z_.-]+"
_OF_DATASET = re.compile(
    rf"data/[0-9a-f]{{40}}|(?:annotations|overlays)/{_NAME}\.json|tags/{_NAME}"
    r"|dtool|manifest\.json|structure\.json|README\.txt|README\.yml"
)


def folders_of_datasets(client: Any, bucket: str, prefix: str) -> dict[str, str]:
    """Return where objects of datasets may be, by the datasets' UUIDs.

    Args:
        client: boto3's client.
        bucket: The bucket's name.
        prefix: What stands before the UUIDs in the keys.

    Returns:
        The beginnings of the keys, with a slash at the end. Nothing if the user may not list them.
    """
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    try:
        folders = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
    except ClientError as exc:
        if kind_of(exc) != "denied":
            raise
        return {}
    named = ((folder.removeprefix(prefix).removesuffix("/"), folder) for folder in folders)
    return {uuid: folder for uuid, folder in named if re.fullmatch(UUID, uuid)}


def objects_of_unfinished(client: Any, bucket: str, folder: str, uuid: str) -> dict[str, float]:
    """Return the objects in a folder, if each of them was surely written for a dataset that was not frozen.

    Names do not suffice, because other programs, too, name folders by UUIDs. Each object has to say it.

    Args:
        client: boto3's client.
        bucket: The bucket's name.
        folder: The beginning of the keys.
        uuid: The dataset's UUID.

    Returns:
        When each object was written, in seconds since the epoch, by key. Nothing if any of them is something else.
    """
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        for entry in page.get("Contents", []):
            if not _OF_DATASET.fullmatch(entry["Key"].removeprefix(folder)):
                return {}
            found[entry["Key"]] = entry["LastModified"].timestamp()
    # The administrative metadata comes first: that of a frozen dataset answers for all.
    keys = sorted(found, key=lambda key: key != f"{folder}dtool")
    return found if all(_belongs(client, bucket, key, key.removeprefix(folder), uuid) for key in keys) else {}


def _belongs(client: Any, bucket: str, key: str, name: str, uuid: str) -> bool:
    """Tell whether an object says that it belongs to a dataset, which was not frozen as far as this object shows."""
    try:
        beside = client.head_object(Bucket=bucket, Key=key)["Metadata"]
    except ClientError as exc:
        if kind_of(exc) not in {"absent", "denied"}:
            raise
        return False
    if name == "dtool":  # whose owner only this package writes
        return "owner" in beside and beside.get("uuid") == uuid and beside.get("type") != "dataset"
    if not name.startswith("data/"):
        return bool(beside.get(DATASET) == uuid)
    try:  # as dtool-s3 writes all items
        relpath = base64.b64decode(beside.get("handle", ""), validate=True).decode()
    except ValueError:
        return False
    return "checksum" in beside and name == f"data/{generate_identifier(relpath)}"
