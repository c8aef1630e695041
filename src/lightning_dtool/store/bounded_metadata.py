"""The metadata of a dataset as dtool's brokers read it, within limits."""

import json
import os
from abc import abstractmethod
from typing import Any

from lightning_dtool import limits
from lightning_dtool.store.plain_files import plain_names, read_plain


class BoundedMetadata:
    """The reading of metadata for a class that inherits from this one first, and from one of dtool's brokers second."""

    @abstractmethod
    def read(self, key: str, most: int) -> bytes:
        """Return the content of a file or an object.

        Args:
            key: dtool's key of it.
            most: The largest size in bytes.

        Raises:
            UnsafeDatasetError: If it is larger, or not plain.
        """

    def get_text(self, key: str) -> str:
        """Return a text in UTF-8, independent of the locale."""
        return self.read(key, limits.MAX_README).decode()

    def get_readme_content(self) -> str:
        """Return the README."""
        return self.get_text(self.get_readme_key())  # type: ignore[attr-defined]

    def get_manifest(self) -> object:
        """Return the manifest. Its depth is not limited: only the entries that an item needs are used."""
        return parse_json(self.read(self.get_manifest_key(), limits.MAX_MANIFEST), depth=None)  # type: ignore[attr-defined]

    def get_overlay(self, overlay_name: str) -> object:
        """Return an overlay."""
        return parse_json(self.read(self.get_overlay_key(overlay_name), limits.MAX_OVERLAY))  # type: ignore[attr-defined]

    def get_annotation(self, annotation_name: str) -> Any:
        """Return an annotation."""
        return parse_json(self.read(self.get_annotation_key(annotation_name), limits.MAX_ANNOTATION))  # type: ignore[attr-defined]


class PlainMetadata(BoundedMetadata):
    """The same for a class that derives from dtool's disk broker.

    Attributes:
        uri: The dataset's URI, for errors.
    """

    uri: str
    _abspath: str
    _overlays_abspath: str
    _annotations_abspath: str
    _tags_abspath: str

    def read(self, key: str, most: int) -> bytes:
        """Return the content of a file that is no link."""
        return read_plain(self.uri, self._abspath, self.relpath_of(key), most)

    def relpath_of(self, key: str) -> str:
        """Return the path of a file or a folder below the folder of the dataset."""
        return key[len(self._abspath) :].lstrip(os.sep)  # `os.path.relpath` would take longer than the reading

    def get_admin_metadata(self) -> object:
        """Return the administrative metadata."""
        return parse_json(self.read(self.get_admin_metadata_key(), limits.MAX_ADMIN_METADATA))  # type: ignore[attr-defined]

    def list_overlay_names(self) -> list[str]:
        """Return the names of the overlays, without other files in their folder."""
        return self._names_of_json(self._overlays_abspath)

    def list_annotation_names(self) -> list[str]:
        """Return the names of the annotations, without other files in their folder."""
        return self._names_of_json(self._annotations_abspath)

    def list_tags(self) -> list[str]:
        """Return the tags, which are names of files."""
        return plain_names(self.uri, self._abspath, self.relpath_of(self._tags_abspath), lambda _: True)

    def _names_of_json(self, folder: str) -> list[str]:
        names = plain_names(self.uri, self._abspath, self.relpath_of(folder), _is_json)
        return [name.removesuffix(".json") for name in names]


def _is_json(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def parse_json(content: bytes, depth: int | None = limits.MAX_JSON_DEPTH) -> Any:
    """Return the value of a text in JSON.

    Args:
        content: The text in UTF-8.
        depth: The largest depth of nested containers; None for that of the parser.

    Raises:
        json.JSONDecodeError, UnicodeDecodeError: If it is something else.
        RecursionError: If it is nested too deeply.
    """
    text = content.decode()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError as exc:  # a number with thousands of digits
        raise json.JSONDecodeError(str(exc), text[:80], 0) from exc
    if depth is not None and limits.is_deeper(value, depth):
        raise RecursionError(f"containers are nested more than {depth} deep")
    return value
