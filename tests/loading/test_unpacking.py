"""Unpacking of source.zip within limits, and errors for damaged archives."""

import io
import zipfile
from typing import Any

import pytest

from lightning_dtool import limits
from lightning_dtool.errors import CorruptDatasetError, UnsafeDatasetError
from lightning_dtool.loading.unpacking import read_sources

URI = "s3://lab-models/6a1c"


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def test_sources_survive_packing() -> None:
    files = {"a.py": b"x", "../../etc/passwd": b"nothing is unpacked", "ü/b.py": b""}
    assert read_sources(archive(files), URI) == files


def test_an_archive_that_expands_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SOURCE_BYTES", 10_000)
    assert len(read_sources(archive({"a": bytes(10_000)}), URI)["a"]) == 10_000
    for files in ({"a": bytes(10_001)}, {"a": bytes(9_999), "b": bytes(2)}, {"bomb": bytes(50_000_000)}):
        with pytest.raises(UnsafeDatasetError, match=f"{URI}.*at most 20000 files of 10000 bytes"):
            read_sources(archive(files), URI)
    monkeypatch.setattr(limits, "MAX_SOURCE_FILES", 2)
    with pytest.raises(UnsafeDatasetError, match="holds 3 files"):
        read_sources(archive({"a": b"", "b": b"", "c": b""}), URI)


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"no zip", lambda it: it[:-30], lambda it: it.replace(b"x = 1", b"y = 1")]
)
def test_a_damaged_archive_is_refused_with_its_uri(damage: Any) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:  # stored uncompressed, so that a changed byte breaks only the checksum
        opened.writestr("a.py", b"x = 1")
    with pytest.raises(CorruptDatasetError, match=URI):
        read_sources(damage(buffer.getvalue()), URI)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_of_any_compression_that_is_damaged_is_refused_with_its_uri(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        opened.writestr("net.py", bytes(range(256)) * 40)
    content = bytearray(buffer.getvalue())
    content[50:90] = b"\xff" * 40
    with pytest.raises(CorruptDatasetError, match=URI):
        read_sources(bytes(content), URI)
