"""DtoolDataset: the samples of a frozen dataset."""

import io
import pickle

import dtoolcore
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from kit import batches_of
from lightning_dtool import DtoolDataset
from lightning_dtool.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    DecodeError,
    MetadataKeyError,
    MissingItemError,
    SelectionError,
)
from lightning_dtool.store import generate_identifier


def png(value=0, size=(4, 3), mode="L"):
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, "PNG")
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


IMAGES = {"oak/2.png": png(2), "elm/1.png": png(1), "oak/1.png": png(255)}
CATEGORY = {relpath: relpath[:3] for relpath in IMAGES}
USETYPE = {"oak/2.png": "train", "elm/1.png": "train", "oak/1.png": "test"}


@pytest.fixture
def leaves(make_dataset):
    return make_dataset(IMAGES, overlays={"category": CATEGORY, "usetype": USETYPE})


def test_items_come_in_order_of_their_relpaths(leaves):
    dataset = DtoolDataset(leaves.uri)
    assert len(dataset) == 3
    assert dataset.relpaths == ["elm/1.png", "oak/1.png", "oak/2.png"] == dataset.names
    assert dataset.identifiers == [generate_identifier(relpath) for relpath in dataset.relpaths]
    assert dataset.dataset.uuid == leaves.uuid
    assert (dataset.classes, dataset.class_to_idx) == (["elm", "oak"], {"elm": 0, "oak": 1})
    assert dataset.targets == [0, 1, 1]
    assert dataset.class_counts == {"elm": 1, "oak": 2}
    image, target = dataset[1]
    assert image.shape == (1, 3, 4)
    assert image.eq(1).all()
    assert target == 1
    assert torch.equal(dataset[-1][0], dataset[2][0])
    assert "3 samples" in repr(dataset)
    with pytest.raises(IndexError):
        dataset[3]


def test_classes_are_int64_and_numbers_float32(make_dataset):
    heights = {relpath: float(i) for i, relpath in enumerate(IMAGES)}
    dataset = make_dataset(IMAGES, overlays={"category": CATEGORY, "height": heights})
    images, targets = next(iter(DataLoader(DtoolDataset(dataset), batch_size=3)))
    assert images.shape == (3, 1, 3, 4)
    assert targets.dtype == torch.int64
    _, heights = next(iter(DataLoader(DtoolDataset(dataset, target="height"), batch_size=3)))
    assert heights.dtype == torch.float32


def test_without_a_target_a_sample_is_the_item_alone(make_dataset):
    dataset = DtoolDataset(make_dataset(IMAGES).uri)
    assert isinstance(dataset[0], torch.Tensor)
    assert (dataset.targets, dataset.classes, dataset.class_counts) == (None, None, None)


def test_a_path_is_accepted_in_place_of_a_uri(leaves):
    path = leaves.path(next(iter(leaves.items))).parents[2]
    assert DtoolDataset(path).dataset.uri == leaves.uri


def test_transforms_receive_a_pil_image_and_the_class(leaves):
    dataset = DtoolDataset(leaves, transform=lambda image: (image.mode, image.size), target_transform=str)
    assert dataset[0] == (("L", (4, 3)), "0")


def test_select_and_decoder_are_applied(leaves):
    dataset = DtoolDataset(leaves, select={"usetype": "train"}, decoder=lambda path: path.read_bytes()[:4])
    assert [dataset[i] for i in range(2)] == [(b"\x89PNG", 0), (b"\x89PNG", 1)]
    with pytest.raises(SelectionError, match="usetype='val'"):
        DtoolDataset(leaves, select={"usetype": "val"})
    with pytest.raises(MetadataKeyError, match="plot"):
        DtoolDataset(leaves, select={"plot": 1})


def test_a_subset_keeps_classes_and_targets(leaves):
    dataset = DtoolDataset(leaves)
    part = dataset.subset([2, 0]).subset([0])
    assert (part.relpaths, part.targets, part.classes) == (["oak/2.png"], [1], ["elm", "oak"])
    assert part.class_counts == {"elm": 0, "oak": 1}
    alone = dataset.subset([0], targets=False)
    assert isinstance(alone[0], torch.Tensor)
    assert dataset.targets is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_names_an_item_that_cannot_be_decoded(make_dataset, workers):
    dataset = make_dataset({"a.png": b"no image", "b.png": png()})
    loader = DataLoader(DtoolDataset(dataset), num_workers=workers)
    with pytest.raises(DecodeError) as caught:
        batches_of(loader)
    for part in (dataset.uri, "a.png", generate_identifier("a.png"), "UnidentifiedImageError"):
        assert part in str(caught.value)


def test_a_decode_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(DecodeError("which item")))
    assert isinstance(error, DecodeError)
    assert str(error) == "which item"


def test_the_error_names_an_item_whose_transform_fails(leaves):
    def fail(image):
        raise RuntimeError("too dark")

    with pytest.raises(DecodeError, match=r"cannot transform item elm/1.png .*RuntimeError: too dark") as caught:
        DtoolDataset(leaves, transform=fail)[0]
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_error_names_a_missing_item(leaves):
    dataset = DtoolDataset(leaves)
    assert len(dataset[0]) == 2
    leaves.path(dataset.identifiers[0]).unlink()
    with pytest.raises(MissingItemError, match=r"elm/1.png"):
        dataset[0]


def test_missing_and_empty_datasets_are_refused(tmp_path, make_dataset):
    with pytest.raises(DatasetNotFoundError, match="nothing"):
        DtoolDataset(tmp_path / "nothing")
    with pytest.raises(SelectionError, match="has no items"):
        DtoolDataset(make_dataset({}, "empty").uri)


def test_a_dataset_can_be_sent_to_another_process(leaves):
    dataset = pickle.loads(pickle.dumps(DtoolDataset(leaves)))
    assert dataset[1][1] == 1


def test_the_manifest_is_read_once_for_all_items(make_dataset, monkeypatch):
    from lightning_dtool.store import metadata as store

    frozen = make_dataset({f"{i:03}.txt": b"x" for i in range(200)})
    reads = []
    parse = store.parse_manifest
    monkeypatch.setattr(store, "parse_manifest", lambda *a: reads.append(1) or parse(*a))
    dataset = DtoolDataset(frozen.uri)
    assert [dataset[i] for i in range(200)] == ["x"] * 200
    assert len(reads) == 1


# -- pairs of arrays ------------------------------------------------------------------------------

DATA = np.arange(24, dtype=np.uint8).reshape(4, 6)


def pair(make_dataset, labels=(2, 0, 1, 2), data=DATA, name="arrays", **arguments):
    return make_dataset({"data.npy": npy(data), "labels.npy": npy(np.array(labels))}, name, **arguments)


def test_the_rows_of_two_arrays_are_samples(make_dataset):
    dataset = DtoolDataset(pair(make_dataset))
    assert len(dataset) == 4
    row, label = dataset[1]
    assert row.dtype == torch.uint8
    assert row.tolist() == [6, 7, 8, 9, 10, 11]
    assert label == 0
    assert dataset.names[1] == "data.npy[1]"
    assert (dataset.targets, dataset.classes) == ([2, 0, 1, 2], [0, 1, 2])
    assert dataset.relpaths == ["data.npy", "labels.npy"]
    assert dataset.subset([1, 3]).targets == [0, 2]
    _, labels = next(iter(DataLoader(dataset, batch_size=4, num_workers=2)))
    assert labels.dtype == torch.int64


def test_an_in_place_transform_does_not_change_the_next_epoch(make_dataset):
    dataset = DtoolDataset(pair(make_dataset), transform=lambda row: row.add_(1))
    assert dataset[0][0].tolist() == dataset[0][0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("labels", "dtype", "target"),
    [([0.5, 1, 2, 3], torch.float32, 0.5), ([[1, 2]] * 4, torch.int64, [1, 2]), ([[1.5]] * 4, torch.float32, [1.5])],
)
def test_labels_may_be_numbers_or_arrays(make_dataset, labels, dtype, target):
    dataset = DtoolDataset(pair(make_dataset, labels))
    assert dataset.classes is None
    assert dataset[0][1].dtype == dtype
    assert dataset[0][1].tolist() == target


def test_unsuitable_arrays_are_refused(make_dataset):
    with pytest.raises(ConfigurationError, match=r"shape \(4, 6\).*shape \(3,\)"):
        DtoolDataset(pair(make_dataset, [1, 2, 3]))
    with pytest.raises(DecodeError, match="expected numbers as labels"):
        DtoolDataset(pair(make_dataset, list("abcd"), name="b"))
    with pytest.raises(SelectionError, match="rows of arrays"):
        DtoolDataset(pair(make_dataset, name="c"), select={"x": 1})
    with pytest.raises(DecodeError, match=r"data.npy"):
        DtoolDataset(make_dataset({"data.npy": b"", "labels.npy": npy(DATA)}, "d"))


def test_with_an_explicit_decoder_each_array_is_one_item(make_dataset):
    dataset = DtoolDataset(pair(make_dataset), decoder=np.load)
    assert len(dataset) == 2


# -- datasets of dtoolAI --------------------------------------------------------------------------


def dtoolai_dataset(base_uri, name, files, annotations, overlays=None):
    with dtoolcore.DataSetCreator(name, base_uri) as creator:
        for relpath, content in files.items():
            path = creator.prepare_staging_abspath_promise(relpath)
            with open(path, "wb") as file:
                file.write(content)
        for annotation, value in annotations.items():
            creator.proto_dataset.put_annotation(annotation, value)
    dataset = dtoolcore.DataSet.from_uri(creator.uri)
    for overlay, values in (overlays or {}).items():
        dataset.put_overlay(overlay, {generate_identifier(relpath): value for relpath, value in values.items()})
    return creator.uri


def test_tensors_of_dtoolai_are_read(base_uri):
    uri = dtoolai_dataset(
        base_uri,
        "mnist",
        {"cifar.npy": npy(DATA), "labels.npy": npy(np.array([5, 0, 4, 1]))},
        {
            "tensor_file_idn": generate_identifier("cifar.npy"),
            "image_dimensions": [1, 2, 3],
            "dtoolAI.inputtype": "TensorDataSet",
        },
    )
    dataset = DtoolDataset(uri)
    image, label = dataset[1]
    assert np.array_equal(image.numpy(), (DATA[1].astype(np.float32) / 255).reshape(1, 2, 3))
    assert image.dtype == torch.float32
    assert label == 0
    assert dataset.classes == [0, 1, 4, 5]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_dtoolai_are_read(base_uri, mode):
    value = 128 if mode == "L" else (1, 2, 3)
    uri = dtoolai_dataset(
        base_uri,
        "leaves",
        {"oak/1.png": png(value, mode=mode), "elm/1.png": png(value, mode=mode)},
        {"category_encoding": {"oak": 0, "elm": 1}, "dtoolAI.inputtype": "ImageDataSet"},
        {"category": {"oak/1.png": "oak", "elm/1.png": "elm"}, "usetype": {"oak/1.png": "train", "elm/1.png": "test"}},
    )
    dataset = DtoolDataset(uri, select={"usetype": "train"})
    image, label = dataset[0]
    assert image.shape == (3, 256, 256)
    assert label == 0
    original = Image.open(dataset.dataset.path(dataset.identifiers[0])).resize((256, 256)).convert("RGB")
    assert np.array_equal(image.numpy(), np.moveaxis(np.array(original), 2, 0).astype(np.float32) / 255)
    assert dataset.usetype_overlay == "usetype"
    dataset.transform = lambda image: (image.mode, image.size)
    assert dataset[0][0] == ("RGB", (4, 3))


def test_an_image_from_a_custom_decoder_becomes_a_tensor(leaves):
    dataset = DtoolDataset(leaves, decoder=lambda path: Image.open(path).convert("RGB"))
    assert dataset[0][0].shape == (3, 3, 4)
