"""Each storage broker against the contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_dtool.store import FrozenDataset, generate_identifier, local_path
from s3_server import S3Server
from store.box import installed_box
from store.broker_contract import BrokerContract


def replace_file(directory: Path, relpath: str, content: bytes | None) -> None:
    path = directory / "data" / relpath
    path.unlink() if content is None else path.write_bytes(content)


class TestDisk(BrokerContract):
    @pytest.fixture
    def base(self, base_uri: str) -> str:
        return base_uri

    def replace_item(self, dataset: FrozenDataset, relpath: str, content: bytes | None) -> None:
        directory = local_path(dataset.uri)
        assert directory is not None
        replace_file(directory, relpath, content)


class TestS3(BrokerContract):
    @pytest.fixture
    def base(self, s3_server: S3Server, s3_base_uri: str) -> Iterator[str]:
        self.client, self.bucket = s3_server.client(), s3_base_uri.removeprefix("s3://")
        yield s3_base_uri
        for entry in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", []):
            self.client.delete_object(Bucket=self.bucket, Key=entry["Key"])

    def replace_item(self, dataset: FrozenDataset, relpath: str, content: bytes | None) -> None:
        place = {"Bucket": self.bucket, "Key": f"{dataset.uuid}/data/{generate_identifier(relpath)}"}
        if content is None:
            self.client.delete_object(**place)
        else:
            self.client.put_object(**place, Body=content)


class TestAnyRemoteBrokerOfDtools(BrokerContract):
    remote = True
    removes = False

    @pytest.fixture
    def base(self, base_uri: str) -> Iterator[str]:
        with installed_box(remote=self.remote):
            yield base_uri.replace("file://", "box://")

    def replace_item(self, dataset: FrozenDataset, relpath: str, content: bytes | None) -> None:
        directory = local_path(dataset.uri.replace("box://", "file://"))
        assert directory is not None
        replace_file(directory, relpath, content)


class TestAnyBrokerOfDtoolsOnDisk(TestAnyRemoteBrokerOfDtools):
    remote = False
