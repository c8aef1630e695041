"""Data that was used is data that was recorded: items are verified when they are first read."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from kit import ImageNet, TinyNet, comparisons, same, trainer, weights
from lightning_dtool import DtoolDataModule, DtoolDataset, pack
from lightning_dtool.data import samples
from lightning_dtool.data.decoding import decoder_for
from lightning_dtool.errors import DecodeError, VerificationError
from lightning_dtool.store import FrozenDataset, generate_identifier, local_path, verified

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def saved(save, value):
    file = io.BytesIO()
    save(file, value)
    return file.getvalue()


def bmp(value):
    return saved(lambda file, image: image.save(file, "BMP"), Image.new("RGB", (8, 8), (value, 3, 200)))


PIXELS = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
FILES = {
    "image.bmp": bmp(7),
    "text.txt": b"four",
    "array.npy": saved(np.save, np.arange(5)),
    "arrays.npz": saved(lambda file, value: np.savez(file, x=value), np.arange(5)),
    "tensor.pt": saved(lambda file, value: torch.save(value, file), torch.arange(5)),
    "other.bin": b"four",
}


def flip(dataset, relpath):
    """Change the last bit of an item, with its times kept."""
    file = local_path(dataset.uri) / "data" / relpath
    content, before = bytearray(file.read_bytes()), file.stat()
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(verified, "_SETTLED_NS", 0)


@pytest.fixture
def compared(monkeypatch, settled):
    return comparisons(monkeypatch)


@pytest.fixture
def images(base_uri, tmp_path):
    folder = tmp_path / "folder"
    for number, pixels in enumerate(PIXELS):
        (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"class{number % 2}" / f"{number:02}.png")
    return FrozenDataset.from_uri(pack(folder, base_uri, "images", progress=False))


@pytest.mark.parametrize("relpath", FILES)
def test_a_flipped_bit_is_found_before_the_item_is_decoded(make_dataset, relpath, monkeypatch):
    dataset = make_dataset({relpath: FILES[relpath]})
    whole = repr(DtoolDataset(dataset.uri)[0])  # not the value, which may be memory-mapped
    flip(dataset, relpath)
    decoded = []
    monkeypatch.setattr(samples, "decoder_for", lambda name: lambda source: decoded.append(source))
    for reader in (DtoolDataset(dataset.uri), DtoolDataset(dataset.uri, decoder=decoded.append)):
        with pytest.raises(VerificationError, match=rf"{relpath}.*expected md5") as caught:
            reader[0]
        assert (caught.value.uri, caught.value.item, decoded) == (dataset.uri, relpath, [])
    monkeypatch.undo()
    unchecked = DtoolDataset(dataset.uri, verify=False)
    if relpath in ("image.bmp", "text.txt", "array.npy", "other.bin"):  # an archive finds the damage by itself
        assert repr(unchecked[0]) != whole


@pytest.mark.parametrize("relpath", FILES)
def test_the_first_reading_gives_the_same_value_as_the_next(make_dataset, relpath, settled):
    dataset = DtoolDataset(make_dataset({relpath: FILES[relpath]}), transform=lambda value: value)
    first, second = dataset[0], dataset[0]
    plain = decoder_for(relpath)(dataset.dataset.abspath(dataset.identifiers[0]))
    for value in (first, second):
        if isinstance(plain, Image.Image):
            assert (value.tobytes(), value.mode, value.format, value.info, value.filename) == (
                plain.tobytes(), plain.mode, plain.format, plain.info, plain.filename
            )  # fmt: skip
        elif isinstance(plain, dict):
            assert value.keys() == plain.keys()
            assert all(torch.equal(value[name], plain[name]) for name in plain)
        else:
            assert type(value) is type(plain)
            assert torch.equal(value, plain) if torch.is_tensor(plain) else value == plain


def test_a_batch_has_the_same_samples_as_one_at_a_time(make_dataset, settled):
    files = {f"{number}{relpath}": content for number in range(30) for relpath, content in FILES.items()}
    dataset = make_dataset({**files, "large.txt": b"x" * 100_000})
    for verify in (False, True, True):
        one, together = DtoolDataset(dataset.uri, verify=verify), DtoolDataset(dataset.uri, verify=verify)
        everything = range(len(one))
        assert repr(together.__getitems__(everything)) == repr([one[index] for index in everything])


def test_the_first_fault_of_a_batch_is_raised(make_dataset):
    dataset = make_dataset({"0.txt": b"zero", "1.txt": b"one", "2.png": b"no image", "3.txt": b"three"})
    flip(dataset, "1.txt")
    data = DtoolDataset(dataset.uri)
    for batch, error, item in (
        ([0, 1, 2], VerificationError, "1.txt"),
        ([2, 1, 0], DecodeError, "2.png"),
        ([3, 2, 1], DecodeError, "2.png"),
    ):
        with pytest.raises(error) as caught:
            data.__getitems__(batch)
        assert caught.value.item == item
    assert data.__getitems__([3, 0]) == ["three", "zero"]


def test_what_changes_after_the_items_of_a_batch_were_compared_is_not_decoded(make_dataset, settled):
    dataset = make_dataset({"0.txt": b"zero", "1.txt": b"one"})
    changed = []

    def transform(text):
        if not changed:  # while the first sample of the batch is made
            flip(dataset, "1.txt")
        changed.append(text)
        return text

    data = DtoolDataset(dataset.uri, transform=transform)
    assert data.__getitems__([0, 1]) == ["zero", "one"]
    with pytest.raises(VerificationError, match=r"1\.txt"):
        data.__getitems__([0, 1])


@pytest.mark.parametrize("workers", [0, 2])
def test_training_stops_at_a_damaged_image(images, tmp_path, workers):
    flip(images, "class1/07.png")
    data = DtoolDataModule(images.uri, batch_size=4, num_workers=workers)
    with pytest.raises(VerificationError, match=r"class1/07\.png.*expected md5") as caught:
        trainer(tmp_path).fit(ImageNet(), data)
    assert images.uri in str(caught.value)


@pytest.mark.parametrize("damaged", ["data.npy", "labels.npy"])
def test_damaged_arrays_are_found_when_they_are_opened(arrays, damaged):
    flip(FrozenDataset.from_uri(arrays), damaged)
    with pytest.raises(VerificationError, match=damaged):
        DtoolDataset(arrays)
    assert len(DtoolDataset(arrays, verify=False)) == 24


def test_nothing_is_read_again_in_later_epochs_runs_and_workers(images, tmp_path, compared):
    for workers in (0, 2):
        data = DtoolDataModule(images.uri, batch_size=4, num_workers=workers)
        trainer(tmp_path, max_epochs=2).fit(ImageNet(), data)
        list(DataLoader(DtoolDataset(images.uri, decoder=lambda path: 0), num_workers=workers))
    assert sorted(compared) == sorted(images.relpaths)


def test_what_a_worker_has_verified_is_known_to_the_main_process(images, compared):
    dataset = DtoolDataset(images.uri)
    list(DataLoader(dataset, batch_size=4, num_workers=2))
    list(dataset)
    assert compared == []


def test_arrays_are_read_once(arrays, compared):
    for workers in (0, 2):
        list(DataLoader(DtoolDataset(arrays), batch_size=4, num_workers=workers))
    assert sorted(compared) == sorted(map(generate_identifier, ["data.npy", "labels.npy"]))


def test_an_image_that_changes_between_two_epochs_is_found(images, settled):
    dataset = DtoolDataset(images.uri)
    list(dataset)
    flip(images, "class0/04.png")
    with pytest.raises(VerificationError, match=r"class0/04\.png"):
        list(dataset)


def test_an_array_that_changes_between_two_epochs_is_found(arrays, settled):
    dataset = DtoolDataset(arrays)
    list(dataset)
    frozen = dataset.dataset
    flip(frozen, "data.npy")
    with pytest.raises(VerificationError, match=r"data\.npy"):
        list(dataset)
    flip(frozen, "data.npy")
    assert len(list(dataset)) == 24


def test_an_item_that_changes_before_it_is_decoded_is_found(make_dataset, settled):
    dataset = make_dataset({"other.bin": b"four"})

    def decoder(path):
        flip(dataset, "other.bin")  # as another process could, between the comparison and the reading
        return path.read_bytes()

    with pytest.raises(VerificationError, match=r"other\.bin"):
        DtoolDataset(dataset.uri, decoder=decoder)[0]


def test_an_array_that_changes_before_it_is_opened_is_found(arrays, settled, monkeypatch):
    verified_path, changed = FrozenDataset.verified_path, []

    def changing(self, identifier):
        path = verified_path(self, identifier)
        if not changed:
            changed.append(path)
            flip(self, "data.npy")
        return path

    monkeypatch.setattr(FrozenDataset, "verified_path", changing)
    with pytest.raises(VerificationError, match=r"data\.npy"):
        DtoolDataset(arrays)


def test_an_image_that_changes_before_it_is_cached_is_not_in_the_decoded_cache(images, settled, monkeypatch):
    verify_once = FrozenDataset.verify_once

    def changing(self, *args, **options):
        verify_once(self, *args, **options)
        flip(self, "class0/04.png")

    with monkeypatch.context() as patch:
        patch.setattr(FrozenDataset, "verify_once", changing)
        DtoolDataset(images.uri, decoded_cache=True, verify=False).fill_decoded_cache(progress=False)
    later = DtoolDataset(images.uri, decoded_cache=True)
    position = later.relpaths.index("class0/04.png")
    with pytest.raises(VerificationError, match=r"class0/04\.png"):
        later[position]
    assert len([later[each] for each in range(len(later)) if each != position]) == len(PIXELS) - 1


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_verified_data_gives_the_same_weights(images, arrays, tmp_path, workers):
    for uri, model in ((images.uri, ImageNet), (arrays, TinyNet)):
        trained = []
        for verify in (False, True, True):
            torch.manual_seed(3)
            module = model()
            data = DtoolDataModule(uri, batch_size=4, num_workers=workers, verify=verify)
            trainer(tmp_path).fit(module, data)
            trained.append((weights(module), torch.get_rng_state()))
        for other, state in trained[1:]:
            assert same(other, trained[0][0])
            assert torch.equal(state, trained[0][1])


def test_the_decoded_cache_is_filled_with_verified_images_only(images, compared):
    dataset = DtoolDataset(images.uri, decoded_cache=True)
    dataset.fill_decoded_cache(progress=False)
    list(dataset)
    assert sorted(compared) == sorted(images.relpaths)
    Path(images.abspath(next(iter(images.items)))).write_bytes(b"")
    assert len(list(dataset)) == len(PIXELS)  # from the cache, whose key is the content


@pytest.mark.parametrize("verify", [False, True])
def test_what_is_no_image_is_named_by_its_path(make_dataset, verify):
    dataset = make_dataset({"image.png": b"no image"})
    with pytest.raises(DecodeError, match=r"cannot identify image file '/.*image\.png'"):
        DtoolDataset(dataset, verify=verify)[0]


def test_remote_items_with_an_unknown_hash_are_not_called_verified(images, monkeypatch):
    monkeypatch.setattr(FrozenDataset, "is_in_place", False)
    assert DtoolDataset(images, verify=False).is_verified
    monkeypatch.setattr(FrozenDataset, "hash_function", "xxh3_hexdigest")
    assert not DtoolDataset(images).is_verified
