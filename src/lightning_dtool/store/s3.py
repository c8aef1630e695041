"""The storage broker for datasets on S3."""

import base64
import contextlib
import io
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from dtool_s3.storagebroker import S3StorageBroker

from lightning_dtool import limits
from lightning_dtool.errors import StoreError, UnsafeDatasetError
from lightning_dtool.store.bounded_metadata import BoundedMetadata
from lightning_dtool.store.digest import CHUNK, generate_identifier, hash_bytes, hash_file, new_hash
from lightning_dtool.store.faults import kind_of
from lightning_dtool.store.item import Item
from lightning_dtool.store.leftovers import with_owner
from lightning_dtool.store.parallel import THREADS, run_all
from lightning_dtool.store.s3_connections import ATTEMPTS, connections
from lightning_dtool.store.s3_leftovers import S3Leftovers
from lightning_dtool.store.s3_objects import REGISTRATION, bucket_of, chunks, configured_prefix, listed
from lightning_dtool.store.s3_unregistered import DATASET
from lightning_dtool.store.waiting import hurried

PART = 16 * 1024 * 1024
"""Larger items are sent and fetched in parts of this size, in bytes, several at a time."""
_DELETED_AT_ONCE = 1000


@dataclass(frozen=True)
class _Uploaded:
    """An object that was uploaded, with the ETag that the server should report."""

    size: int
    md5: str
    etag: str


class S3Broker(BoundedMetadata, S3StorageBroker, S3Leftovers):  # type: ignore[misc]
    """dtool-s3's broker with reported failures and fewer requests.

    dtool-s3 treats a refused upload as a success, waits without a time limit, makes new connections for each dataset,
    shares one record of the layout among all datasets, and fails on names with dots. Its boto3 resources are not
    thread-safe. Here all requests go through one client, which is thread-safe.
    """

    at_once = THREADS
    compares_metadata = True

    def __init__(self, uri: str, config_path: str | None = None, *, prefix: str | None = None) -> None:
        self._prefix = prefix
        super().__init__(uri, config_path)
        self.uri = uri
        # A copy: dtool-s3 has one dictionary for the whole process, and changes it for each dataset.
        self._structure_parameters: dict[str, Any] = {
            **self._structure_parameters,
            "dataset_registration_key": self.dataset_registration_key,
        }
        # Uploads by key, and paths of items by identifier.
        self._uploaded: dict[str, _Uploaded] = {}
        self._relpaths: dict[str, str] = {}
        self._is_new = False
        # None if it was not read, or if it is not certain what was written.
        self._known_admin_metadata: dict[str, Any] | None = None

    @classmethod
    def connect(cls, uri: str, *, new: bool = False) -> "S3Broker":
        """Return a broker for a dataset or a base URI; a new dataset gets the configured prefix."""
        if not new:
            return cls(uri)
        broker = cls(uri, prefix=configured_prefix(bucket_of(uri)))
        broker._is_new = True
        connections(broker.bucket).prefixes[broker.bucket, broker.uuid] = broker._get_prefix()
        return broker

    @classmethod
    def _get_resource_and_client(cls, bucket_name: str) -> tuple[Any, Any, Any]:
        # dtool-s3 seldom uses the other two, and making them takes a long time.
        return None, connections(bucket_name).client, None

    @property
    def s3resource(self) -> Any:
        """boto3's resource, made on demand. It is not thread-safe."""
        return connections(self.bucket).resource

    @s3resource.setter
    def s3resource(self, _: None) -> None:
        """Ignore the value: dtool-s3 assigns what `_get_resource_and_client` returns."""

    @property
    def unsigned_s3client(self) -> Any:
        """A client for unsigned requests, made on demand."""
        return connections(self.bucket).unsigned_client

    @unsigned_s3client.setter
    def unsigned_s3client(self, _: None) -> None:
        """Ignore the value: dtool-s3 assigns what `_get_resource_and_client` returns."""

    def _get_prefix(self) -> str:
        """Return the prefix of the dataset's keys, from its registration or else from the configuration."""
        if self._prefix is None:
            known, place = connections(self.bucket).prefixes, (self.bucket, self.uuid)
            try:
                if self.uuid and place not in known:
                    known[place] = self._get(self.dataset_registration_key, limits.MAX_ADMIN_METADATA)[0].decode()
            except ClientError as exc:
                # A bucket may be readable below a prefix only. Other errors say nothing about the prefix.
                if kind_of(exc) not in {"absent", "denied"}:
                    raise
            self._prefix = known.get(place, configured_prefix(self.bucket))
        return self._prefix

    # -- items --------------------------------------------------------------------------------

    def put_item(self, fpath: str, relpath: str) -> str:
        """Upload an item. A refusal is an error, unlike in dtool-s3."""
        self.send(Path(fpath), relpath, hash_file(fpath, "md5"))
        return relpath

    def send(self, content: Path | bytes, relpath: str, md5: str) -> None:
        """Upload an item.

        Args:
            content: A file, or its content.
            relpath: The item's path in the dataset.
            md5: The MD5 of the content, in hexadecimal digits.
        """
        identifier = generate_identifier(relpath)
        self._relpaths[identifier] = relpath
        key = self.data_key_prefix + identifier
        metadata = {"handle": base64.b64encode(relpath.encode()).decode(), "checksum": md5}
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size <= PART:
            self._put(key, content.read_bytes() if isinstance(content, Path) else content, md5, metadata)
            return
        options = {"ExtraArgs": {"Metadata": metadata}, "Config": _transfer_config()}
        if isinstance(content, Path):
            # By name, because boto3 reads whole parts of a file object into memory.
            upload = partial(self.s3client.upload_file, str(content), self.bucket, key, **options)
        else:
            upload = partial(self.s3client.upload_fileobj, io.BytesIO(content), self.bucket, key, **options)
        etag, _ = run_all([partial(_etag_of_parts, content), upload])
        self._uploaded[key] = _Uploaded(size, md5, etag)

    def download(self, item: Item, destination: BinaryIO) -> None:
        """Write an item's content to a file object as it arrives."""
        key = self.data_key_prefix + item.identifier
        if item.size_in_bytes > PART:
            self.s3client.download_fileobj(self.bucket, key, destination, Config=_transfer_config())
            return
        body = self.s3client.get_object(Bucket=self.bucket, Key=key)["Body"]
        with contextlib.closing(body):
            for chunk in chunks(body, CHUNK):
                destination.write(chunk)

    def held_items(self) -> dict[str, tuple[int, str]]:
        """Return sizes and hashes by path. If the server's ETags are MD5s, this takes one request per 1,000 objects.

        Raises:
            StoreError: If the metadata is not what was written.
        """
        held, unclear = {}, []
        for key, size, etag in self._objects(self._root):
            uploaded = self._uploaded.get(key)
            held[key] = (size, uploaded.md5 if uploaded and uploaded.etag == etag else "")
            # The server computes the ETag from what it received. If it is not an MD5 (with some kinds of encryption,
            # and on some servers), the content has to be read back.
            if uploaded and uploaded.size == size and uploaded.etag != etag:
                unclear.append(key)
        for key, md5 in zip(unclear, run_all([partial(self._hash_of, key) for key in unclear]), strict=True):
            held[key] = (held[key][0], md5)
        items = {key: value for key, value in held.items() if key.startswith(self.data_key_prefix)}
        sent = {key: (uploaded.size, uploaded.md5) for key, uploaded in self._uploaded.items()}
        metadata = {key for key in held.keys() | sent.keys() if self._is_metadata(key)}
        differing = sorted(key.removeprefix(self._root) for key in metadata if held.get(key) != sent.get(key))
        if differing:
            raise StoreError(
                f"expected the store to hold the metadata that was written, found {len(differing)} "
                f"differences: {', '.join(differing[:5])}. Nothing was frozen; try again.",
                uri=self.uri,
                kind="altered",
            )
        identified = {key.removeprefix(self.data_key_prefix): value for key, value in items.items()}
        return {self._relpaths.get(identifier, identifier): value for identifier, value in identified.items()}

    def _is_metadata(self, key: str) -> bool:
        return key.startswith(self._root) and not key.startswith(self.data_key_prefix)

    def _hash_of(self, key: str) -> str:
        """Return the MD5 of an object's content, read from the server."""
        hasher = new_hash("md5")
        for chunk in chunks(self.s3client.get_object(Bucket=self.bucket, Key=key)["Body"], PART):
            hasher.update(chunk)
        return hasher.hexdigest()

    # -- metadata -----------------------------------------------------------------------------

    def create_structure(self) -> None:
        """Do nothing: the dataset is registered together with its first administrative metadata."""

    def pre_freeze_hook(self) -> None:
        """Describe the layout."""
        structure = json.dumps(self._structure_parameters, indent=2, sort_keys=True)
        texts = {self.get_structure_key(): structure, self.get_dtool_readme_key(): self._dtool_readme_txt}
        run_all([partial(self.put_text, key, text) for key, text in texts.items()])

    def put_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, which is the last object of the metadata, beside a digest of all the others."""
        text = json.dumps(manifest, indent=2, sort_keys=True)
        sent = {key: uploaded.md5 for key, uploaded in self._uploaded.items() if self._is_described(key)}
        self.put_text(self.get_manifest_key(), text, {_METADATA: _digest(sent), DATASET: self.uuid})

    def _is_described(self, key: str) -> bool:
        """Tell whether an object belongs to the metadata of which the manifest has a digest beside it."""
        return self._is_metadata(key) and key not in {self.get_manifest_key(), self.get_admin_metadata_key()}

    def _has_all_metadata(self) -> bool:
        """Tell whether an unfinished dataset has all of its metadata as it was written."""
        try:
            _, beside = self._get(self.get_manifest_key(), limits.MAX_MANIFEST)
        except ClientError as exc:
            if kind_of(exc) != "absent":
                raise
            return False
        keys = [key for key, _, _ in self._objects(self._root) if self._is_described(key)]
        # Read, because not every server's ETag is an MD5.
        held = dict(zip(keys, run_all([partial(self._hash_of, key) for key in keys]), strict=True))
        return beside.get(_METADATA) == _digest(held)

    def put_admin_metadata(self, admin_metadata: dict[str, Any]) -> None:
        """Write the administrative metadata as dtool-s3 does: as content and as metadata of the object.

        That of an unfinished dataset names its owner. When a dataset is begun, it is the metadata of the registration,
        which saves a request: dtool-s3 passes over a registered dataset without administrative metadata.
        """
        if admin_metadata["type"] != "dataset":
            admin_metadata = admin_metadata if "owner" in admin_metadata else with_owner(admin_metadata)
        beside = {name: str(value) for name, value in admin_metadata.items()}
        self._known_admin_metadata = None
        if self._is_new:
            self.put_text(self.dataset_registration_key, self._get_prefix(), beside)
            self._is_new = False
        else:
            self.put_text(self.get_admin_metadata_key(), json.dumps(admin_metadata), beside)
        self._known_admin_metadata = admin_metadata

    def get_admin_metadata(self) -> dict[str, Any]:
        """Read the administrative metadata from the metadata of its object, as dtool-s3 does.

        That of a dataset that was only begun is read from its registration.
        """
        try:
            _, beside = self._get(self.get_admin_metadata_key(), limits.MAX_ADMIN_METADATA)
        except ClientError as exc:
            beside = self._begun() if kind_of(exc) == "absent" else {}
            if "type" not in beside:
                raise
        found: dict[str, Any] = dict(beside)
        for name in _TIMES & beside.keys():
            with contextlib.suppress(ValueError):  # whoever needs the time says what is wrong with it
                found[name] = float(beside[name])
        self._known_admin_metadata = found
        return found

    def _begun(self) -> dict[str, str]:
        """Return the administrative metadata that was written when the dataset was begun; nothing if there is none."""
        if self._is_new:
            return {}
        try:
            return self._get(self.dataset_registration_key, limits.MAX_ADMIN_METADATA)[1]
        except ClientError:
            return {}

    def read(self, key: str, most: int) -> bytes:
        """Return an object's content."""
        return self._get(key, most)[0]

    def _get(self, key: str, most: int) -> tuple[bytes, dict[str, str]]:
        """Return an object's content, of at most so many bytes, and its metadata."""
        for remaining in reversed(range(ATTEMPTS)):
            answer = self.s3client.get_object(Bucket=self.bucket, Key=key)
            try:
                return self._content(key, answer, most), answer["Metadata"]
            except Exception as exc:
                # boto3 repeats a request, but not if its answer breaks off.
                if not (remaining and kind_of(exc) == "cut_off") or hurried():
                    raise
        raise AssertionError("unreachable")

    def _content(self, key: str, answer: Any, most: int) -> bytes:
        if answer["ContentLength"] > most:
            answer["Body"].close()
            raise self._too_much(f"{most} bytes in {key}", f"{answer['ContentLength']} bytes")
        return b"".join(chunks(answer["Body"], CHUNK))  # the client reads no more than the announced length

    def _too_much(self, expected: str, found: str) -> UnsafeDatasetError:
        return UnsafeDatasetError(
            f"expected at most {expected}, found {found}. Do not use this dataset; ask its author.", uri=self.uri
        )

    def put_text(self, key: str, text: str, beside: dict[str, str] | None = None) -> None:
        """Write an object. Its metadata says to which dataset it belongs, unless it says something else."""
        content = text.encode()
        hasher = new_hash("md5")
        hasher.update(content)
        self._put(key, content, hasher.hexdigest(), {DATASET: self.uuid} if beside is None else beside)

    def delete_key(self, key: str) -> None:
        """Remove an object. A missing object is not an error."""
        self.s3client.delete_object(Bucket=self.bucket, Key=key)

    def _put(self, key: str, content: bytes, md5: str, metadata: dict[str, str]) -> None:
        # The server refuses content with another MD5, so that nothing wrong is ever stored.
        encoded = base64.b64encode(bytes.fromhex(md5)).decode()
        self.s3client.put_object(Bucket=self.bucket, Key=key, Body=content, ContentMD5=encoded, Metadata=metadata)
        self._uploaded[key] = _Uploaded(len(content), md5, md5)

    def list_overlay_names(self) -> list[str]:
        """Return the names of the overlays, also of those with dots."""
        return [name.removesuffix(".json") for name in self._names(self.overlays_key_prefix)]

    def list_annotation_names(self) -> list[str]:
        """Return the names of the annotations, also of those with dots."""
        return [name.removesuffix(".json") for name in self._names(self.annotations_key_prefix)]

    def list_tags(self) -> list[str]:
        """Return the tags."""
        return self._names(self.tags_key_prefix)

    def _names(self, prefix: str) -> list[str]:
        names = [key.removeprefix(prefix) for key, _, _ in islice(self._objects(prefix), limits.MAX_NAMES + 1)]
        if len(names) > limits.MAX_NAMES:
            raise self._too_much(f"{limits.MAX_NAMES} objects in {prefix}", "more")
        return names

    def post_freeze_hook(self) -> None:
        """Do nothing: dtool-s3 would remove fragments, which were never written."""

    # -- the bucket ---------------------------------------------------------------------------

    @classmethod
    def list_dataset_uris(cls, base_uri: str, config_path: str | None) -> list[str]:
        """Return the URIs of all datasets that are registered in the bucket, without opening them."""
        bucket_name = bucket_of(base_uri)
        found = (
            REGISTRATION.fullmatch(key) for key, _, _ in listed(connections(bucket_name).client, bucket_name, "dtool-")
        )
        return [f"s3://{bucket_name}/{match[1]}" for match in found if match]

    def check_writable(self) -> None:
        """Begin an upload and abort it."""
        key = f"dtool-{uuid.uuid4()}"
        begun = self.s3client.create_multipart_upload(Bucket=self.bucket, Key=key)
        # The upload was never visible. A user may be allowed to write, but not to abort.
        with contextlib.suppress(ClientError):
            self.s3client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=begun["UploadId"])

    def remove(self) -> None:
        """Remove every object of the dataset. Readers see it as unfinished from the first step on."""
        try:
            known = self._known_admin_metadata or self.get_admin_metadata()
        except ClientError as exc:
            if kind_of(exc) != "absent":
                raise
            known = {}
        if known.get("type") == "dataset":
            self.put_admin_metadata(with_owner({**known, "type": "protodataset"}, "removing"))
        else:  # all uploads of a frozen dataset were completed
            self._abort_uploads(self._root)
        marker = self.get_admin_metadata_key()
        keys = [key for key, _, _ in self._objects(self._root)]
        self._delete([key for key in keys if key != marker])
        # These two are last: as long as one exists, an interrupted removal can be repeated.
        self._delete([marker, self.dataset_registration_key])
        connections(self.bucket).prefixes.pop((self.bucket, self.uuid), None)

    def _delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]
            answer = self.s3client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                error = answer["Errors"][0]
                raise OSError(f"{len(answer['Errors'])} objects were not deleted; {error['Key']}: {error['Message']}")

    @property
    def _root(self) -> str:
        return f"{self._get_prefix()}{self.uuid}/"

    def _objects(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        return listed(self.s3client, self.bucket, prefix)


_TIMES = {"frozen_at", "created_at"}
_METADATA = "lightning-dtool-metadata"
"""The name of the digest that stands beside a manifest."""


def _digest(hashes: Mapping[str, str]) -> str:
    """Return a hash of the names and hashes of objects."""
    return hash_bytes("".join(f"{hashes[key]} {key}\n" for key in sorted(hashes)).encode(), "sha256")


def _transfer_config() -> TransferConfig:
    return TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, num_download_attempts=ATTEMPTS)


# -- contents -------------------------------------------------------------------------------------------


def _etag_of_parts(content: Path | bytes) -> str:
    """Return the ETag that S3 gives to an object that was sent in parts: a hash of hashes."""
    of_parts, number = new_hash("md5"), 0
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        while part := file.read(PART):
            hasher = new_hash("md5")
            hasher.update(part)
            of_parts.update(hasher.digest())
            number += 1
    return f"{of_parts.hexdigest()}-{number}"
