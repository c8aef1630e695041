"""Objects in a bucket, and where datasets are among them."""

import re
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ReadTimeoutError, ResponseStreamingError  # type: ignore[import-untyped]
from dtoolcore.utils import get_config_value

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
"""A regular expression for the UUIDs of datasets."""

REGISTRATION = re.compile(f"dtool-({UUID})")
"""The keys of the objects by which dtool-s3 lists datasets."""


def listed(client: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int, str]]:
    """Yield key, size and ETag of each object whose key begins with a prefix.

    Args:
        client: boto3's client.
        bucket: The bucket's name.
        prefix: The prefix.
    """
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            yield entry["Key"], entry["Size"], entry["ETag"].strip('"')


def bucket_of(uri: str) -> str:
    """Return the bucket of a URI.

    Args:
        uri: A dataset's URI or a base URI.
    """
    return uri.removeprefix("s3://").split("/")[0]


def configured_prefix(bucket: str) -> str:
    """Return the prefix of the keys of new datasets, from dtool's configuration.

    Args:
        bucket: The bucket's name.
    """
    return get_config_value(f"DTOOL_S3_DATASET_PREFIX_{bucket}") or ""


def chunks(body: Any, size: int) -> Iterator[bytes]:
    """Yield the content of an answer. A connection that falls silent raises the same error as one that is cut.

    Args:
        body: The body of the answer.
        size: Bytes of each piece.
    """
    try:
        yield from body.iter_chunks(size)
    except ReadTimeoutError as exc:
        raise ResponseStreamingError(error=exc) from exc
