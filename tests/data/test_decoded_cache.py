"""The cache of decoded images, which gives exactly what the decoder gives."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from lightning_dtool import DtoolDataModule, DtoolDataset
from lightning_dtool.data import decoding
from lightning_dtool.data import samples as samples_module
from lightning_dtool.data.decoded_cache import DecodedImages
from lightning_dtool.errors import ConfigurationError, DecodeError, VerificationError
from lightning_dtool.store import FrozenDataset
from lightning_dtool.store.private import cache_directory

MODES = {"1": "png", "L": "png", "LA": "png", "RGB": "png", "RGBA": "png", "I;16": "png", "F": "tiff", "I": "tiff"}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(mode: str, width: int = 5, height: int = 4, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    channels = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode)
    shape = (height, width) if channels is None else (height, width, channels)
    if mode == "F":
        return Image.fromarray(generator.normal(size=shape).astype(np.float32))
    if mode == "I":
        return Image.fromarray(generator.integers(-(2**31), 2**31, shape).astype(np.int32))
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 2**16, shape).astype(np.uint16))
    pixels = generator.integers(0, 256, shape).astype(np.uint8)
    return Image.fromarray(pixels).convert("1") if mode == "1" else Image.fromarray(pixels)


def facts(image: Image.Image) -> tuple[Any, ...]:
    # The tags of a TIFF file are not in `info`; Pillow applies the orientation when it loads the file.
    exif = None if image.format == "TIFF" else dict(image.getexif())
    return image.mode, image.size, image.tobytes(), image.format, dict(image.info), exif


def files() -> list[Path]:
    return sorted(cache_directory().glob("decoded/*/*.images"))


@pytest.fixture
def photos(make_dataset) -> FrozenDataset:
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = {f"{number}.{kind}": encoded(noise(mode), kind) for number, (mode, kind) in enumerate(MODES.items())}
    contents["palette.png"] = encoded(noise("RGB").quantize(16), "png")
    contents["turned.jpg"] = encoded(noise("RGB"), "jpeg", exif=exif, dpi=(72, 72), icc_profile=b"profile")
    contents["printed.tif"] = encoded(noise("RGB"), "tiff", dpi=(300.5, 72))
    contents["turned.tif"] = encoded(noise("RGB"), "tiff", tiffinfo={0x0112: 6})
    contents["clear.png"] = encoded(noise("RGB"), "png", transparency=(1, 2, 3))
    contents["frames.gif"] = encoded(noise("L"), "gif", save_all=True, append_images=[noise("L", seed=1)])
    contents["notes.txt"] = b"no image"
    return make_dataset(contents, overlays={"category": {relpath: relpath[-3:] for relpath in contents}})


def test_cached_images_and_their_metadata_equal_those_of_the_decoder(photos: FrozenDataset) -> None:
    plain = DtoolDataset(photos, transform=lambda value: value)
    cached = DtoolDataset(photos, transform=lambda value: value, decoded_cache=True)
    for (expected, target), (found, same_target), name in zip(plain, cached, plain.names, strict=True):
        assert target == same_target
        if isinstance(expected, Image.Image):
            assert facts(found) == facts(expected), name
            assert facts(ImageOps.exif_transpose(found)) == facts(ImageOps.exif_transpose(expected))
        else:
            assert found == expected
    held = [cached._samples.decoded.image(position) is not None for position in range(len(cached))]
    assert held.count(False) == 1
    found, _ = cached[0]
    found.putpixel((0, 0), 1)
    assert facts(cached[0][0]) == facts(plain[0][0])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(MODES)), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99)),
        min_size=1,
        max_size=5,
    )
)
def test_cached_tensors_equal_those_of_the_decoder(make_dataset, tmp_path_factory, images: Any) -> None:
    contents = {
        f"{number}.{MODES[mode]}": encoded(noise(mode, width, height, seed), MODES[mode])
        for number, (mode, width, height, seed) in enumerate(images)
        if mode != "I"
    } | {"last.png": encoded(noise("L"), "png")}
    frozen = make_dataset(contents, base=str(tmp_path_factory.mktemp("base")))
    plain, cached = DtoolDataset(frozen), DtoolDataset(frozen, decoded_cache=True)
    for expected, found in zip(plain, cached, strict=True):
        assert torch.equal(expected, found)
        assert expected.dtype == found.dtype
        assert expected.stride() == found.stride()
        # A training step may change a batch in place: the next epoch must still read the same values.
        found.mul_(0)
    assert all(torch.equal(expected, found) for expected, found in zip(plain, cached, strict=True))


def test_each_image_is_decoded_once(photos: FrozenDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    DtoolDataset(photos, decoded_cache=True, transform=str).fill_decoded_cache()
    assert len(files()) == 1
    decoded: list[str] = []
    choose = samples_module.decoder_for
    monkeypatch.setattr(samples_module, "decoder_for", lambda name: decoded.append(name) or choose(name))
    again = DtoolDataset(FrozenDataset.from_uri(photos.uri), decoded_cache=True, transform=str)
    assert len(list(again)) == len(again) > 10
    assert decoded == ["notes.txt"]


def test_other_content_and_versions_have_their_own_cache_file(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (make_dataset({"a.png": encoded(noise("L", seed=seed), "png")}, f"d{seed}") for seed in (1, 2))
    images = [DtoolDataset(frozen, decoded_cache=True)[0] for frozen in (one, other)]
    assert not torch.equal(*images)
    assert len(files()) == 2
    monkeypatch.setattr("PIL.__version__", "0.0")
    assert torch.equal(DtoolDataset(one, decoded_cache=True)[0], images[0])
    assert len(files()) == 3


def test_a_selection_has_its_own_cache_file_and_a_subset_does_not(make_dataset) -> None:
    contents = {f"{number}.png": encoded(noise("L", seed=number), "png") for number in range(4)}
    frozen = make_dataset(contents, overlays={"part": {relpath: relpath < "2" for relpath in contents}})
    whole = DtoolDataset(frozen, decoded_cache=True)
    part = DtoolDataset(frozen, select={"part": False}, decoded_cache=True)
    subset = whole.subset([3, 2], targets=False)
    assert torch.equal(part[1], subset[0])
    assert torch.equal(part[0], whole[2])
    assert len(files()) == 2


def test_damaged_content_is_not_cached(photos: FrozenDataset) -> None:
    path = photos.path(photos.item("3.png").identifier)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(VerificationError, match=r"3\.png"):
        DtoolDataset(photos, decoded_cache=True)[0]
    assert not files()


@pytest.mark.parametrize("keep", [0, 1, 20, 63, 64, 100, -1])
def test_a_truncated_cache_file_is_written_again(photos: FrozenDataset, keep: int) -> None:
    expected = DtoolDataset(photos, decoded_cache=True, transform=repr)
    expected.fill_decoded_cache()
    whole = files()[0].read_bytes()
    files()[0].write_bytes(whole[:keep])
    again = DtoolDataset(photos, decoded_cache=True)
    again.fill_decoded_cache()
    assert files()[0].read_bytes() == whole


def test_a_changed_bit_in_the_cache_is_noticed_on_use(photos: FrozenDataset, caplog: pytest.LogCaptureFixture) -> None:
    plain = DtoolDataset(photos, transform=facts_of_any)
    DtoolDataset(photos, decoded_cache=True).fill_decoded_cache()
    content = bytearray(files()[0].read_bytes())
    content[100] ^= 1
    files()[0].write_bytes(content)
    damaged = DtoolDataset(photos, decoded_cache=True, transform=facts_of_any)
    assert list(damaged) == list(plain)
    assert "is damaged" in caplog.text
    assert not files()


def facts_of_any(value: Any) -> Any:
    return facts(value) if isinstance(value, Image.Image) else value


def test_an_undecodable_image_is_an_error_only_on_use(make_dataset) -> None:
    frozen = make_dataset({"a.png": b"no image", "b.png": encoded(noise("L"), "png")})
    cached = DtoolDataset(frozen, decoded_cache=True)
    assert cached[1].shape == (1, 4, 5)
    with pytest.raises(DecodeError, match=r"a\.png"):
        cached[0]


def test_training_continues_if_the_cache_cannot_be_written(
    photos: FrozenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    plain = DtoolDataset(photos, transform=facts_of_any)
    monkeypatch.setattr(os, "fsync", full)
    cached = DtoolDataset(photos, decoded_cache=True, transform=facts_of_any)
    with pytest.warns(UserWarning, match=r"cannot be written .*No space left.*Free disk space"):
        cached[0]
    assert list(cached) == list(plain)
    decoded = cache_directory() / "decoded"
    assert [path for path in decoded.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def _fill(path: Path, start: Any, results: Any) -> None:
    start.wait()
    decoded: list[int] = []
    images = DecodedImages(path, 30)
    images.fill(lambda position: decoded.append(position) or noise("RGB", 200, 200, seed=position))
    same = all(
        facts(images.image(position))[2] == noise("RGB", 200, 200, seed=position).tobytes() for position in range(30)
    )
    results.put((len(decoded), same))


def test_only_one_of_several_processes_writes_the_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_fill, args=(tmp_path / "x.images", start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    found = [results.get(timeout=180) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found) == [(0, True)] * 3 + [(30, True)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.images", "x.lock"]


def test_a_cache_file_of_an_interrupted_process_is_not_used(tmp_path: Path) -> None:
    def interrupted(position: int) -> Image.Image:
        if position:
            raise KeyboardInterrupt
        return noise("L")

    images = DecodedImages(tmp_path / "x.images", 2)
    with pytest.raises(KeyboardInterrupt):
        images.fill(interrupted)
    assert not images.open()
    assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]
    images.fill(lambda position: noise("L", seed=position))
    assert facts(images.image(1))[2] == noise("L", seed=1).tobytes()
    copy = pickle.loads(pickle.dumps(images))
    assert len(pickle.dumps(images)) < 500
    assert copy.image(0) is None
    assert copy.open()
    assert facts(copy.image(0)) == facts(images.image(0))
    assert not DecodedImages(tmp_path / "x.images", 3).open()


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_cache(make_dataset, context: str) -> None:
    frozen = make_dataset({f"{number}.png": encoded(noise("L", seed=number), "png") for number in range(6)})
    cached = DtoolDataset(frozen, decoded_cache=True)
    loader = DataLoader(cached, batch_size=2, num_workers=2, multiprocessing_context=context)
    assert torch.equal(torch.cat(list(loader)), torch.stack(list(DtoolDataset(frozen))))


def test_a_custom_decoder_is_refused(photos: FrozenDataset) -> None:
    with pytest.raises(ConfigurationError, match="works only with the decoders of this package"):
        DtoolDataset(photos, decoded_cache=True, decoder=Image.open)
    with pytest.raises(ConfigurationError, match="works only with the decoders of this package"):
        DtoolDataModule(photos.uri, decoded_cache=True, decoder=Image.open)


def test_arrays_are_not_cached(arrays: str) -> None:
    cached = DtoolDataset(arrays, decoded_cache=True)
    cached.fill_decoded_cache()
    assert torch.equal(cached[3][0], DtoolDataset(arrays)[3][0])
    assert not files()


def test_cached_images_of_dtoolai_equal_those_of_the_decoder(make_dataset) -> None:
    contents = {"a.png": encoded(noise("L"), "png"), "b.png": encoded(noise("RGBA"), "png")}
    frozen = make_dataset(contents)
    # dtoolAI writes annotations with dots in their names, which this package does not.
    annotations = Path(str(frozen.path(frozen.item("a.png").identifier)).partition("/data/")[0]) / ".dtool/annotations"
    (annotations / "dtoolAI.inputtype.json").write_text(json.dumps("ImageDataSet"))
    plain, cached = DtoolDataset(frozen), DtoolDataset(frozen, decoded_cache=True)
    assert all(torch.equal(expected, found) for expected, found in zip(plain, cached, strict=True))
    assert cached[0].shape == (3, 256, 256)


def test_a_datamodule_fills_the_cache_and_gives_the_same_batches(make_dataset) -> None:
    contents = {f"{number % 2}/{number}.png": encoded(noise("RGB", seed=number), "png") for number in range(12)}
    frozen = make_dataset(contents, overlays={"category": {relpath: relpath[0] for relpath in contents}})

    def batches(**options: Any) -> list[torch.Tensor]:
        data = DtoolDataModule(frozen.uri, batch_size=3, val_split=0.25, **options)
        data.prepare_data()
        data.setup("fit")
        return [
            part for loader in (data.train_dataloader(), data.val_dataloader()) for batch in loader for part in batch
        ]

    plain = batches()
    assert not files()
    cached = batches(decoded_cache=True)
    assert len(files()) == 1
    shutil.rmtree(files()[0].parent)
    again = batches(decoded_cache=True, num_workers=1)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(plain, cached, again, strict=True))
    module = DtoolDataModule(frozen.uri, decoded_cache=True)
    assert module.description()["arguments"]["decoded_cache"] is True
    assert module.hparams["decoded_cache"] is True


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_transforms_that_begin_with_to_tensor_give_the_same_bits(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    frozen = make_dataset(
        {f"{mode.strip(';')}{seed}.png": encoded(noise(mode, 7, 5, seed), "png") for mode in MODES for seed in (1, 2)
         if MODES[mode] == "png" and mode != "I"} | {"palette.png": encoded(noise("RGB").quantize(), "png")}
    )  # fmt: skip

    class Mine(transforms.ToTensor):
        def __call__(self, picture: Any) -> torch.Tensor:
            return super().__call__(picture) + 1

    called: list[str] = []

    def halved(tensor: torch.Tensor) -> torch.Tensor:
        called.append("halved")
        return tensor / 2

    for transform in (
        transforms.ToTensor(),
        transforms.Compose([transforms.ToTensor(), halved, transforms.RandomErasing(p=1.0)]),
        transforms.Compose([transforms.RandomHorizontalFlip(p=1.0), transforms.ToTensor()]),
        transforms.Compose([]),
        Mine(),
    ):
        plain = DtoolDataset(frozen, transform=transform)
        cached = DtoolDataset(frozen, transform=transform, decoded_cache=True)
        for index in range(len(plain)):
            torch.manual_seed(index)
            expected = plain[index]
            torch.manual_seed(index)
            for found in (cached[index], *(cached.__getitems__([index]) if "Random" not in repr(transform) else ())):
                if isinstance(expected, Image.Image):
                    assert expected.tobytes() == found.tobytes()
                else:
                    assert torch.equal(expected, found)
                    assert (expected.dtype, found.is_contiguous()) == (found.dtype, expected.is_contiguous())
    assert called

    # ToTensor is not applied again to a stored tensor, and no tensor is stored in another precision.
    monkeypatch.setattr(
        transforms.ToTensor, "__call__", lambda self, picture: pytest.fail("ToTensor was applied again")
    )
    cached = DtoolDataset(frozen, transform=transforms.ToTensor(), decoded_cache=True)
    eight_bits = [number for number, name in enumerate(cached._samples.names) if name[0] in "LR"]
    assert len(eight_bits) >= 6
    for index in eight_bits:
        assert cached[index].dtype is torch.float32
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    assert decoding.after_to_tensor(transforms.ToTensor()) is None
