"""A reference to a dtool dataset."""

from typing import Protocol

from pydantic import Field

from lightning_dtool.record.section import Section


class Identified(Protocol):
    """An object with the identity of a dtool dataset."""

    @property
    def uri(self) -> str:
        """URI of the dataset."""

    @property
    def uuid(self) -> str:
        """UUID of the dataset."""

    @property
    def name(self) -> str:
        """Name of the dataset."""

    @property
    def content_digest(self) -> str:
        """Digest of the items."""


class DatasetReference(Section):
    """A reference to a dtool dataset, by its URI, its UUID and its content."""

    uri: str = Field(description="URI at which the dataset was used.")
    uuid: str = Field(description="UUID of the dataset. Copies have the same UUID.")
    name: str = Field(description="Name of the dataset.")
    content_digest: str = Field(description="`sha256:…` over the sorted relpaths, sizes and hashes of the items.")

    @classmethod
    def of(cls, dataset: Identified) -> "DatasetReference":
        """Return a reference to an open dataset."""
        return cls(uri=dataset.uri, uuid=dataset.uuid, name=dataset.name, content_digest=dataset.content_digest)
