"""Datasets on S3: dtool-s3's layout, with failures reported and requests saved."""

import base64
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]
from boto3.session import Session  # type: ignore[import-untyped]
from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from dtool_s3.storagebroker import S3StorageBroker
from dtoolcore.utils import get_config_value

from lightning_dtool.errors import StoreError
from lightning_dtool.store.brokers import BrokerExtras
from lightning_dtool.store.digest import generate_identifier, new_hash
from lightning_dtool.store.faults import is_absent

if TYPE_CHECKING:
    from lightning_dtool.store.manifest import Item

# Bounded, so that a server that is down is an error within seconds and not a training run that hangs.
_LIMITS = Config(connect_timeout=3, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
_PART = 16 * 1024 * 1024
_TRANSFER = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART)
_REGISTRATION = re.compile(r"dtool-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_DELETED_AT_ONCE = 1000

# Making connections takes longer than using them. Each thread has its own: boto3's resources are not safe
# to share; and each process, because a forked one would talk through its parent's sockets.
_local = threading.local()


class S3Broker(BrokerExtras, S3StorageBroker):  # type: ignore[misc]
    """dtool-s3's broker, repaired where it hides failures.

    dtool-s3 takes an upload that was refused for a success, waits without bounds, makes new connections for
    each dataset, shares one record of the layout among all datasets, and fails on names with dots.
    """

    def __init__(self, uri: str, config_path: str | None = None) -> None:
        super().__init__(uri, config_path)
        # The original is one dictionary for the whole process, and changes with each dataset.
        self._structure_parameters: dict[str, Any] = dict(self._structure_parameters)
        # Path, MD5 and expected ETag of what was uploaded, by identifier.
        self._uploaded: dict[str, tuple[str, str, str]] = {}

    @classmethod
    def _get_resource_and_client(cls, bucket_name: str) -> tuple[Any, Any, Any]:
        settings = [f"DTOOL_S3_{key}_{bucket_name}" for key in ("ENDPOINT", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
        values = [get_config_value(setting) or None for setting in settings]
        if any(values) and not all(values):
            missing = ", ".join(setting for setting, value in zip(settings, values, strict=True) if not value)
            raise StoreError(
                f"s3://{bucket_name}: expected all of {', '.join(settings)} or none, found no {missing}. "
                "Set it in the environment or in dtool's configuration."
            )
        return _connections(*values)

    # -- items --------------------------------------------------------------------------------

    def put_item(self, fpath: str, relpath: str) -> str:
        """Upload an item; a refusal is an error, unlike in dtool-s3."""
        identifier = generate_identifier(relpath)
        checksum, etag = _checksum_and_etag(Path(fpath))
        metadata = {"handle": base64.b64encode(relpath.encode()).decode(), "checksum": checksum}
        self.s3client.upload_file(
            fpath, self.bucket, self.data_key_prefix + identifier, ExtraArgs={"Metadata": metadata}, Config=_TRANSFER
        )
        self._uploaded[identifier] = (relpath, checksum, etag)
        return relpath

    def download(self, item: "Item", destination: Path) -> None:
        """Download an item's content to a local path."""
        self.s3client.download_file(
            self.bucket, self.data_key_prefix + item.identifier, str(destination), Config=_TRANSFER
        )

    def forget(self, item: "Item") -> None:
        """Do nothing: dtool's own cache was not used."""

    def held_items(self) -> dict[str, tuple[int, str]]:
        """Return sizes and hashes by path; one request per thousand items where the server's tags serve."""
        held = {}
        for entry in self._objects(self.data_key_prefix):
            identifier = entry.key.removeprefix(self.data_key_prefix)
            relpath, checksum, etag = self._uploaded.get(identifier, (identifier, "", ""))
            # The server computes the tag from what it received. Where it is another one (some kinds of
            # encryption, other servers), only the content itself can tell.
            same = entry.e_tag.strip('"') == etag
            held[relpath] = (entry.size, checksum if same else self._hash_of(entry.key))
        return held

    def _hash_of(self, key: str) -> str:
        """Return the MD5 of an object's content, read from the server."""
        hasher = new_hash("md5")
        for chunk in self.s3client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(_PART):
            hasher.update(chunk)
        return hasher.hexdigest()

    # -- metadata -----------------------------------------------------------------------------

    def list_overlay_names(self) -> list[str]:
        """Return the names of the overlays; one with a dot is no reason to fail."""
        return self._names(self.overlays_key_prefix)

    def list_annotation_names(self) -> list[str]:
        """Return the names of the annotations; one with a dot is no reason to fail."""
        return self._names(self.annotations_key_prefix)

    def _names(self, prefix: str) -> list[str]:
        return [entry.key.removeprefix(prefix).removesuffix(".json") for entry in self._objects(prefix)]

    # -- the bucket ---------------------------------------------------------------------------

    @classmethod
    def list_dataset_uris(cls, base_uri: str, config_path: str | None) -> list[str]:
        """Return the URIs of all that is registered in the bucket, without opening any of it."""
        bucket_name = base_uri.removeprefix("s3://").split("/")[0]
        resource, _, _ = cls._get_resource_and_client(bucket_name)
        found = (
            _REGISTRATION.fullmatch(entry.key) for entry in resource.Bucket(bucket_name).objects.filter(Prefix="dtool-")
        )
        return [f"s3://{bucket_name}/{match[1]}" for match in found if match]

    def check_writable(self) -> None:
        """Ask whether the bucket is there and the credentials are good for it."""
        self.s3client.head_bucket(Bucket=self.bucket)

    def remove(self) -> None:
        """Remove every object of the dataset; from the first step on nobody takes it for a frozen one."""
        try:
            self.put_admin_metadata({**self.get_admin_metadata(), "type": "protodataset"})
        except ClientError as exc:
            if not is_absent(exc):
                raise
        marker = self.get_admin_metadata_key()
        keys = [entry.key for entry in self._objects(f"{self._get_prefix()}{self.uuid}/")]
        self._delete([key for key in keys if key != marker])
        # These two come last: as long as they are there, an interrupted removal can be repeated.
        self._delete([marker])
        self._delete([self.dataset_registration_key])

    def _delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]
            answer = self.s3client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                error = answer["Errors"][0]
                raise OSError(f"{len(answer['Errors'])} objects were not deleted; {error['Key']}: {error['Message']}")

    def _objects(self, prefix: str) -> Iterator[Any]:
        yield from self.s3resource.Bucket(self.bucket).objects.filter(Prefix=prefix)


def _connections(endpoint: str | None, key: str | None, secret: str | None) -> tuple[Any, Any, Any]:
    """Return boto3's resource and client, and a client that does not sign, made once per thread."""
    # AWS's own settings are read when a connection is made.
    aws = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    known: dict[Any, tuple[Any, Any, Any]] = _local.__dict__.setdefault("known", {})
    identity = (os.getpid(), endpoint, key, secret, aws)
    if identity not in known:
        session = Session(aws_access_key_id=key, aws_secret_access_key=secret)
        unsigned = _LIMITS.merge(Config(signature_version=UNSIGNED))
        known[identity] = (
            session.resource("s3", endpoint_url=endpoint, config=_LIMITS),
            session.client("s3", endpoint_url=endpoint, config=_LIMITS),
            session.client("s3", endpoint_url=endpoint, config=unsigned),
        )
    return known[identity]


def _checksum_and_etag(path: Path) -> tuple[str, str]:
    """Return a file's MD5 and the ETag that S3 gives it, which for one sent in parts is a hash of hashes."""
    whole, parts = new_hash("md5"), []
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_PART):
            whole.update(chunk)
            parts.append(new_hash("md5"))
            parts[-1].update(chunk)
    if path.stat().st_size < _PART:
        return whole.hexdigest(), whole.hexdigest()
    of_parts = new_hash("md5")
    of_parts.update(b"".join(part.digest() for part in parts))
    return whole.hexdigest(), f"{of_parts.hexdigest()}-{len(parts)}"
