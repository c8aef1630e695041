"""What happens on the way to an S3 server, or to the server, from outside the training."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from faulty_link import FaultyLink, Passing, answers, breaks_off, hangs_up, passes, stalls
from s3_server import S3Server

KILLED_SERVER = "the server is killed and restarted"


@dataclass(frozen=True)
class Bucket:
    """A bucket, and the way to it.

    Attributes:
        name: Its name.
        server: Where it is.
        link: Through which the training reaches it.
    """

    name: str
    server: S3Server
    link: FaultyLink

    def make(self) -> None:
        """Make the bucket, if it is not there."""
        client = self.server.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=self.name)

    def objects(self) -> list[str]:
        """Return the keys of all objects, and those of unfinished uploads."""
        client = self.server.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        objects = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        uploads = client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return objects + [entry["Key"] for entry in uploads]


def delete(bucket: Bucket) -> None:
    """Delete a bucket and what is in it, if it is there."""
    client = bucket.server.client()
    with contextlib.suppress(client.exceptions.NoSuchBucket):
        for key in bucket.objects():
            client.delete_object(Bucket=bucket.name, Key=key)
        client.delete_bucket(Bucket=bucket.name)


def _always(fault: Callable[[Passing], None]) -> Callable[[Bucket], None]:
    return lambda bucket: bucket.link.on("", "", fault)


def _slowly(passing: Passing) -> None:
    time.sleep(1.0)
    passes(passing)


def _reset(bucket: Bucket) -> None:
    bucket.link.on("GET", "", breaks_off(5))
    bucket.link.on("", "", hangs_up)


def _mend(bucket: Bucket) -> None:
    bucket.link.mend()


LINKS: dict[str, tuple[Callable[[Bucket], None], Callable[[Bucket], None]]] = {
    KILLED_SERVER: (lambda bucket: bucket.server.kill(), lambda bucket: bucket.server.start()),
    "a silent server": (_always(stalls), _mend),
    "a slow server": (_always(_slowly), _mend),
    "a server that answers 403": (_always(answers(403)), _mend),
    "a server that answers 404": (_always(answers(404, "NoSuchKey")), _mend),
    "a server that answers 500": (_always(answers(500, "InternalError")), _mend),
    "a server that answers 503": (_always(answers(503, "SlowDown")), _mend),
    "connections are reset": (_reset, _mend),
    "the bucket is deleted": (delete, Bucket.make),
}
"""How each fault is brought about, and how it is mended."""
