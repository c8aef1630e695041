"""Items that a stranger made: formats that the suffix does not say, files that unpack to gigabytes, broken headers."""

import io
import os
import resource
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kit import checkpoint_dataset
from lightning_dtool import DtoolDataset
from lightning_dtool.data.recorded_data import rebuilt
from lightning_dtool.errors import DecodeError, LightningDtoolError, RecordError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(hello) print\n%%EOF\n"


def encoded(image_format: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(stream, image_format)
    return stream.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "ppm", "webp", "gif", "bmp"])
def test_no_program_is_started_for_an_image(suffix: str, make_dataset, tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    data = DtoolDataset(make_dataset({f"oak.{suffix}": POSTSCRIPT}))
    with pytest.raises(DecodeError, match=f"cannot decode item oak.{suffix}") as caught:
        data[0]
    assert caught.value.item == f"oak.{suffix}"
    assert not (tmp_path / "called").exists()


def test_only_usual_formats_stand_in_for_one_another(make_dataset) -> None:
    data = DtoolDataset(make_dataset({"a.png": encoded("JPEG"), "b.jpg": encoded("PNG"), "c.tif": encoded("TIFF")}))
    assert [tuple(data[index].shape) for index in range(3)] == [(3, 4, 4)] * 3
    for name, image_format in (("a.png", "TIFF"), ("a.tif", "PNG"), ("a.jpg", "PCX"), ("a.ppm", "TIFF")):
        with pytest.raises(DecodeError, match="cannot identify image file"):
            DtoolDataset(make_dataset({name: encoded(image_format)}, name=f"{name}-{image_format}".replace(".", "-")))[
                0
            ]


def test_pillows_limit_of_pixels_holds_and_is_named(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with pytest.raises(DecodeError, match=r"DecompressionBombError.*exceeds limit of 14 pixels"):
        DtoolDataset(make_dataset({"a.png": encoded("PNG")}))[0]


def bomb(method: int, size: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, archive.open("a.npy", "w", force_zip64=True) as file:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
        file.write(head.getvalue())
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("method", "reason"),
    [(zipfile.ZIP_DEFLATED, "its arrays have 3145..... bytes"), (zipfile.ZIP_BZIP2, "compressed by method 12")],
)
def test_arrays_that_unpack_to_much_more_are_refused_before(method: int, reason: str, make_dataset) -> None:
    data = DtoolDataset(make_dataset({"x.npz": bomb(method, 300 * 2**20)}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError, match=reason):
        data[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # in KiB


def test_an_entry_that_is_longer_than_it_says_takes_no_more_memory(make_dataset) -> None:
    content = bytearray(bomb(zipfile.ZIP_DEFLATED, 200 * 2**20))
    place = content.rindex(b"PK\1\2") + 24  # the size in the directory
    content[place : place + 4] = (1000).to_bytes(4, "little")
    data = DtoolDataset(make_dataset({"x.npz": bytes(content)}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError, match=r"cannot decode item x\.npz"):
        data[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16


def test_arrays_are_read_as_before(make_dataset) -> None:
    for number, save in enumerate((np.savez, np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, a=np.arange(3), b=np.zeros((1000, 1000)))
        sample = DtoolDataset(make_dataset({"x.npz": stream.getvalue()}, name=f"arrays{number}"))[0]
        assert list(sample) == ["a", "b"]
        assert torch.equal(sample["a"], torch.arange(3))


HEADERS = {
    "a bracket too many": (b"(16, 4)", b"((16, 4"),
    "a negative size": (b"(16, 4)", b"(-6, 4)"),
    "a size beyond the file": (b"(16, 4), } ", b"(99999, 4)}"),
    "no dtype": (b"'<f4'", b"'<f?'"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_broken_header_of_an_array_is_an_error_of_decoding(what: str, make_dataset) -> None:
    content = npy(np.zeros((16, 4), np.float32)).replace(*HEADERS[what])
    assert content != npy(np.zeros((16, 4), np.float32))
    with pytest.raises(DecodeError, match=r"x\.npy"):
        DtoolDataset(make_dataset({"x.npy": content}))[0]
    rows = make_dataset({"data.npy": content, "labels.npy": npy(np.arange(16))}, name="rows")
    with pytest.raises(DecodeError, match=r"data\.npy"):
        DtoolDataset(rows)[0]


def test_a_torch_file_that_stands_for_more_than_it_holds_is_refused(make_dataset) -> None:
    stream, packed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(1).expand(2**40), stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    for name, content, reason in (("a", stream, "its tensors have"), ("b", packed, "compressed")):
        with pytest.raises(DecodeError, match=reason):
            DtoolDataset(make_dataset({"x.pt": content.getvalue()}, name=name))[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_source_archive_that_this_package_does_not_write(method: int, base_uri: str, run) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("net.py", os.urandom(5000))
    damaged = bytearray(stream.getvalue())
    damaged[300:340] = b"\xff" * 40
    uri = checkpoint_dataset(base_uri, {}, items={"source.zip": bytes(damaged)})
    assert "source.zip cannot be read: 'net.py' in it is compressed by method" in run("diff", uri, uri, code=3).stderr


def test_a_source_archive_is_unpacked_to_no_more_than_it_says() -> None:
    from lightning_dtool.loading.unpacking import read_sources

    content = bytearray(bomb(zipfile.ZIP_DEFLATED, 200 * 2**20))
    place = content.rindex(b"PK\1\2") + 24
    content[place : place + 4] = (1000).to_bytes(4, "little")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LightningDtoolError, match=r"source\.zip cannot be read"):
        read_sources(bytes(content), "file:///x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16


class Made:
    """A class with an argument."""

    def __init__(self, size: int) -> None:
        self.size = size + 1


def test_arguments_that_a_datamodule_does_not_have_or_cannot_take() -> None:
    assert rebuilt(Made, {"size": 1}, {}, "file:///x").size == 2
    with pytest.raises(RecordError, match="cannot make a Made with the recorded arguments"):
        rebuilt(Made, {"size": "a"}, {}, "file:///x")
    with pytest.raises(TypeError, match="unexpected keyword"):
        rebuilt(Made, {"size": 1}, {"colour": 1}, "file:///x")
