"""The decoders: files to images, arrays, tensors and text."""

import gzip
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_dtool.data.decoding import decoder_for, image_to_tensor, read_array, read_image


def read(path):
    return decoder_for(path.name)(path)


def tensor(image, path):
    image.save(path)
    return image_to_tensor(read(path))


RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0].copy()


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif"])
def test_rgb_images_become_channels_first_in_zero_to_one(tmp_path, suffix):
    result = tensor(Image.fromarray(RGB), tmp_path / f"x{suffix}")
    assert result.dtype == torch.float32
    assert torch.equal(result, torch.from_numpy(RGB).permute(2, 0, 1).float() / 255)


def test_image_tensors_equal_those_of_torchvision(tmp_path):
    functional = pytest.importorskip("torchvision.transforms.functional")
    path = tmp_path / "x.jpg"
    Image.fromarray(RGB).save(path)
    assert torch.equal(image_to_tensor(read_image(path)), functional.to_tensor(Image.open(path)))


def test_grey_images_have_one_channel(tmp_path):
    assert torch.equal(tensor(Image.fromarray(GREY), tmp_path / "x.png"), torch.from_numpy(GREY)[None].float() / 255)
    black_and_white = tensor(Image.fromarray(GREY > 100), tmp_path / "bw.png")
    assert torch.equal(black_and_white, torch.from_numpy(GREY > 100)[None].float())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_images_are_scaled_by_their_maximum(tmp_path, suffix):
    values = np.array([[0, 256], [32768, 65535]], dtype=np.uint16)
    result = tensor(Image.fromarray(values), tmp_path / f"x{suffix}")
    assert torch.equal(result, torch.tensor(values.astype(np.float32))[None] / 65535)


def test_float_images_keep_their_values(tmp_path):
    values = np.array([[0.0, -3.5], [1e6, 0.25]], dtype=np.float32)
    assert torch.equal(tensor(Image.fromarray(values), tmp_path / "x.tif"), torch.tensor(values)[None])


def test_32_bit_integers_are_refused_for_lack_of_a_scale(tmp_path):
    with pytest.raises(ValueError, match="32-bit"):
        tensor(Image.fromarray(np.zeros((2, 2), np.int32)), tmp_path / "x.tif")


def test_alpha_is_a_channel_and_a_palette_becomes_rgb(tmp_path):
    rgba = np.dstack([RGB, GREY])
    assert torch.equal(
        tensor(Image.fromarray(rgba), tmp_path / "x.png"), torch.from_numpy(rgba).permute(2, 0, 1).float() / 255
    )
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png")
    assert read(tmp_path / "p.png").mode == "RGB"
    assert torch.equal(
        image_to_tensor(read(tmp_path / "p.png")),
        torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1).float() / 255,
    )
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "c.jpg")
    assert read(tmp_path / "c.jpg").mode == "RGB"


def test_the_first_of_several_frames_is_read(tmp_path):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    assert torch.equal(image_to_tensor(read(tmp_path / "x.tif")), torch.from_numpy(GREY)[None].float() / 255)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "?", ">i4", ">f8", ">u2"]
)
def test_arrays_keep_their_dtype(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    result = read(tmp_path / "x.npy")
    assert np.array_equal(result.numpy(), array)
    assert result.numpy().dtype == array.dtype.newbyteorder("=")
    assert len(torch.utils.data.default_collate([result, result])) == 2


@pytest.mark.parametrize("array", [np.array(3.5), np.zeros((0, 4)), np.asfortranarray(np.arange(6.0).reshape(2, 3))])
def test_arrays_of_any_shape_are_read(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(read(tmp_path / "x.npy").numpy(), array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array(["2026-01-01"], "M8[D]"), np.zeros(2, np.longdouble)])
def test_the_error_names_a_dtype_that_torch_lacks(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(TypeError, match="torch has no dtype for"):
        read(tmp_path / "x.npy")


def test_arrays_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"pickle|object|Python"):
        read(tmp_path / "x.npy")


def test_writing_to_a_memory_mapped_array_does_not_change_the_file(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    read_array(tmp_path / "x.npy").add_(1)
    assert not np.load(tmp_path / "x.npy").any()


def test_archives_of_arrays_are_read(tmp_path):
    np.savez(tmp_path / "x.npz", image=RGB, mask=GREY > 3)
    result = read(tmp_path / "x.npz")
    assert list(result) == ["image", "mask"]
    assert torch.equal(result["mask"], torch.from_numpy(GREY > 3))


class Payload:
    def __reduce__(self):
        return print, ("should never be called",)


@pytest.mark.parametrize("new", [True, False])
def test_pt_files_are_loaded_with_weights_only(tmp_path, new):
    torch.save({"x": torch.arange(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    assert torch.equal(read(tmp_path / "x.pt")["x"], torch.arange(3))
    torch.save(Payload(), tmp_path / "bad.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(pickle.UnpicklingError):
        read(tmp_path / "bad.pt")


def test_text_and_bytes_are_read(tmp_path):
    (tmp_path / "x.txt").write_bytes("Blätter\r\n".encode())
    assert read(tmp_path / "x.txt") == "Blätter\r\n"
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"abc"))
    assert gzip.decompress(read(tmp_path / "x.gz")) == b"abc"
    (tmp_path / "none").write_bytes(b"")
    assert read(tmp_path / "none") == b""
