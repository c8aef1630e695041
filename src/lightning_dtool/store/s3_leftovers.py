"""What is unfinished in a bucket: datasets, uploads, and the notes of processes that write."""

import contextlib
import re
import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from lightning_dtool.errors import StoreError
from lightning_dtool.store.broker import ParallelBroker
from lightning_dtool.store.faults import kind_of
from lightning_dtool.store.leftovers import Leftover, leftover_of, without_owner
from lightning_dtool.store.parallel import run_all
from lightning_dtool.store.s3_objects import REGISTRATION, UUID, bucket_of, configured_prefix
from lightning_dtool.store.s3_unregistered import folders_of_datasets, objects_of_unfinished
from lightning_dtool.store.temporaries import is_being_written, is_temporary, temporary_beside

_ITEM_KEY = re.compile(f"(?:^|/){UUID}/data/[0-9a-f]{{40}}$")


class S3Leftovers(ParallelBroker):
    """The part of the broker for S3 that looks for what is unfinished in a bucket, and finishes or removes it.

    Attributes:
        s3client: boto3's client.
        bucket: The bucket's name.
        dataset_registration_key: The key of the object by which dtool lists the dataset.
    """

    s3client: Any
    bucket: str
    dataset_registration_key: str

    @classmethod
    @abstractmethod
    def connect(cls, uri: str, *, new: bool = False) -> "S3Leftovers":
        """Return a broker for a dataset or a base URI."""

    @abstractmethod
    def get_admin_metadata(self) -> dict[str, Any]:
        """Return the administrative metadata."""

    @property
    @abstractmethod
    def _root(self) -> str: ...

    @abstractmethod
    def _objects(self, prefix: str) -> Iterator[tuple[str, int, str]]: ...

    @abstractmethod
    def _has_all_metadata(self) -> bool: ...

    @abstractmethod
    def _delete(self, keys: list[str]) -> None: ...

    @classmethod
    def leftovers(cls, base_uri: str, *, quick: bool = False) -> Iterator[Leftover]:
        """Yield the unfinished datasets of the bucket, objects and uploads of others, and notes of processes.

        Only the notes are found quickly: each dataset has to be asked whether it is frozen. Notes of processes that
        run, which have nothing to be recovered, are left out.
        """
        bucket = bucket_of(base_uri)
        # Before the datasets: what a process leaves that ends meanwhile would otherwise be found by nobody.
        notes = [key for key in cls.connect(base_uri)._notes() if not is_being_written(PurePosixPath(key).name)]
        if not quick:
            yield from cls._unfinished(base_uri, bucket)
        yield from (Leftover("note", "", f"s3://{bucket}", key, None, 0.0) for key in notes)

    @classmethod
    def _unfinished(cls, base_uri: str, bucket: str) -> Iterator[Leftover]:
        # Before the registrations. Every writer registers a dataset before it writes anything else: that of a dataset
        # which is begun in between is then among those that are listed.
        folders = folders_of_datasets(cls.connect(base_uri).s3client, bucket, configured_prefix(bucket))
        uris = cls.list_dataset_uris(base_uri, None)
        found = [each for each in run_all([partial(cls._leftover, uri) for uri in uris]) if each is not None]
        yield from found
        unfinished = tuple(each.place for each in found)
        for upload in cls.connect(base_uri)._uploads(""):
            key = upload["Key"]
            if (REGISTRATION.fullmatch(key) or _ITEM_KEY.search(key)) and not key.startswith(unfinished):
                yield Leftover("upload", "", f"s3://{bucket}", key, None, upload["Initiated"].timestamp())
        yield from cls._unregistered(bucket, uris, folders)

    @classmethod
    def _unregistered(cls, bucket: str, uris: list[str], folders: dict[str, str]) -> Iterator[Leftover]:
        """Yield what is in the folders of datasets that are not among those that are registered."""
        uuids = sorted(folders.keys() - {uri.rpartition("/")[2] for uri in uris})
        client = cls.connect(f"s3://{bucket}").s3client
        found = run_all([partial(objects_of_unfinished, client, bucket, folders[uuid], uuid) for uuid in uuids])
        for uuid, objects in zip(uuids, found, strict=True):
            if objects:
                yield Leftover("objects", "", f"s3://{bucket}/{uuid}", folders[uuid], None, max(objects.values()))

    @classmethod
    def _leftover(cls, uri: str) -> Leftover | None:
        """Return what is left of a dataset; None if it is frozen, or gone meanwhile."""
        try:
            broker = cls.connect(uri)
            admin_metadata = broker.get_admin_metadata()
        except ClientError as exc:
            if kind_of(exc) != "absent":
                raise
            return cls._registration_alone(uri)
        found = leftover_of(uri, broker._root, admin_metadata)
        if found is not None and found.kind == "writing" and not found.is_owned and broker._has_all_metadata():
            return replace(found, whole=uri)
        return found

    @classmethod
    def _registration_alone(cls, uri: str) -> Leftover | None:
        """Return a registration without a dataset, which another program may just have begun."""
        broker = cls.connect(uri)
        for key, _, _ in broker._objects(broker.dataset_registration_key):
            return Leftover("proto", "", uri, key, None, 0.0)
        return None

    def leave_note(self) -> str:
        """Write an object whose name says which process writes to the bucket."""
        key = f"{self._notes_prefix}{temporary_beside(Path('note')).name}"
        self.s3client.put_object(Bucket=self.bucket, Key=key, Body=b"")
        return key

    def take_note(self, note: str) -> None:
        """Remove that object. A user who may not remove objects writes into it that it means nothing any more."""
        try:
            self.s3client.delete_object(Bucket=self.bucket, Key=note)
        except ClientError as exc:
            if kind_of(exc) != "denied":
                raise
            self.s3client.put_object(Bucket=self.bucket, Key=note, Body=b"ended")

    @property
    def _notes_prefix(self) -> str:
        prefix = configured_prefix(self.bucket).rstrip("/")
        return f"{prefix}/" if prefix else ""

    def _notes(self) -> list[str]:
        """Return the objects that processes have written with `leave_note`."""
        found = self._objects(f"{self._notes_prefix}.lightning-dtool-")
        return [key for key, size, _ in found if not size and is_temporary(PurePosixPath(key).name)]

    def restore(self, leftover: Leftover) -> None:
        """Freeze a dataset whose `whole` was verified, unless that was done meanwhile."""
        broker = self.connect(leftover.uri)
        admin_metadata = without_owner(broker.get_admin_metadata())
        if admin_metadata["type"] == "dataset":
            return
        broker.put_admin_metadata({**admin_metadata, "type": "dataset", "frozen_at": time.time()})
        if broker.get_admin_metadata()["type"] != "dataset":
            raise StoreError("expected the dataset to be frozen, found that it is not. Try again.", uri=leftover.uri)

    def discard(self, leftover: Leftover) -> None:
        """Remove an unfinished dataset, an unfinished upload, objects of no dataset, or the note of a process."""
        if leftover.kind == "note":
            self.take_note(leftover.place)
            return
        if leftover.kind == "upload":
            self._abort_uploads(leftover.place)
            return
        broker = self.connect(leftover.uri)
        if leftover.kind == "objects":
            broker._remove_unregistered(leftover)
        # It may have been finished since it was found.
        elif broker.get_admin_metadata().get("type") != "dataset":
            broker.remove()
            # A server may carry out requests of the killed process late.
            broker._delete([key for key, _, _ in broker._objects(broker._root)])

    def _remove_unregistered(self, leftover: Leftover) -> None:
        uuid = leftover.uri.rpartition("/")[2]
        objects = objects_of_unfinished(self.s3client, self.bucket, leftover.place, uuid)
        # The registration is looked for after the objects were listed, as when they were found.
        is_registered = any(self._objects(self.dataset_registration_key))
        if is_registered or max(objects.values(), default=None) != leftover.since:
            raise StoreError("expected what was found before, found a change.", uri=leftover.uri, kind="absent")
        self._delete(list(objects))

    def _abort_uploads(self, prefix: str) -> None:
        """Abort multipart uploads that were not completed. They take space, but listings of objects omit them."""
        for upload in self._uploads(prefix):
            with contextlib.suppress(ClientError):  # readers cannot see it, and its writer may have aborted it
                self.s3client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _uploads(self, prefix: str) -> list[dict[str, Any]]:
        """Return the multipart uploads that were not completed. Not every server lists them."""
        pages = self.s3client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        try:
            return [upload for page in pages for upload in page.get("Uploads", [])]
        except ClientError:
            return []
