"""The targets of samples: classes and numbers."""

import pytest
import torch

from lightning_dtool.data.targets import encode, targets_of
from lightning_dtool.errors import ConfigurationError, DecodeError, MetadataKeyError

FILES = {"elm/1.txt": b"", "oak/1.txt": b"", "oak/2.txt": b""}


def values(*given):
    return dict(zip(FILES, given, strict=True))


def targets(dataset, target=None, **arguments):
    return targets_of(dataset, list(dataset.relpaths), list(dataset.relpaths.values()), target, **arguments)


@pytest.mark.parametrize(
    ("given", "indices", "classes"),
    [
        (["oak", "elm", "oak"], [1, 0, 1], {"elm": 0, "oak": 1}),
        ([7, 3, 7], [1, 0, 1], {3: 0, 7: 1}),
        ([True, False, True], [1, 0, 1], {False: 0, True: 1}),
    ],
)
def test_strings_ints_and_bools_are_classes(given, indices, classes):
    result = encode(given, list(FILES))
    assert result.values == indices
    assert result.class_to_idx == classes
    assert result.class_counts == {given[1]: 1, given[0]: 2}


def test_floats_are_regression_targets():
    result = encode([1.5, 2, -3.0], list(FILES))
    assert result.class_to_idx is None
    assert result.class_counts is None
    assert torch.stack(result.values).tolist() == [1.5, 2.0, -3.0]
    assert result.values[0].dtype == torch.float32


def test_lists_of_numbers_are_regression_targets():
    assert torch.stack(encode([[1, 2.5], [0, 1], [3, 4]], list(FILES)).values).shape == (3, 2)


@pytest.mark.parametrize(
    "given",
    [
        ["oak", None, "oak"],
        [1.0, None, 2.0],
        [1.0, float("nan"), 2.0],
        [1.0, "oak", 2.0],
        [1, "oak", 2],
        [1, True, 2],
        [[1, 2], [1], [1, 2]],
        ["oak", {"a": 1}, "oak"],
        [1.0, [1.0], 2.0],
    ],
)
def test_the_error_names_an_invalid_target(given):
    with pytest.raises(DecodeError, match=r"s3://x: overlay 'y' gives .* for item oak/1.txt"):
        encode(given, list(FILES), source="overlay 'y'", uri="s3://x")


def test_given_class_numbers_are_kept():
    result = encode(["oak", "elm"], ["1", "2"], {"oak": 5, "elm": 2, "ash": 0})
    assert result.values == [5, 2]
    assert list(result.class_to_idx) == ["ash", "elm", "oak"]
    assert result.class_counts == {"ash": 0, "elm": 1, "oak": 1}
    with pytest.raises(DecodeError, match="none of the classes 'elm'"):
        encode(["oak"], ["1"], {"elm": 0})


def test_the_overlay_category_is_the_default(make_dataset):
    assert targets(make_dataset(FILES)) is None
    dataset = make_dataset(FILES, "b", overlays={"category": values("elm", "oak", "oak")})
    assert targets(dataset).values == [0, 1, 1]
    assert targets(dataset, "none") is None


def test_category_encoding_gives_the_class_numbers(make_dataset):
    dataset = make_dataset(
        FILES,
        overlays={"category": values("elm", "oak", "oak"), "other": values("elm", "oak", "oak")},
        annotations={"category_encoding": {"oak": 0, "elm": 1}},
    )
    assert targets(dataset).values == [1, 0, 0]
    assert targets(dataset, "other").values == [0, 1, 1]
    assert targets(dataset, class_to_idx={"elm": 4, "oak": 5}).values == [4, 5, 5]


@pytest.mark.parametrize("encoding", [{"oak": 0, "elm": 0}, {"oak": "0"}, ["oak"], {"oak": -1, "elm": 0}])
def test_an_invalid_encoding_is_refused(make_dataset, encoding):
    dataset = make_dataset(
        FILES, overlays={"category": values("elm", "oak", "oak")}, annotations={"category_encoding": encoding}
    )
    with pytest.raises(DecodeError, match="category_encoding"):
        targets(dataset)


def test_targets_come_from_folders_or_a_function(make_dataset):
    dataset = make_dataset(FILES)
    assert targets(dataset, "folder").class_to_idx == {"elm": 0, "oak": 1}
    assert targets(dataset, lambda item: item.relpath[-5]).class_to_idx == {"1": 0, "2": 1}
    assert torch.stack(targets(dataset, lambda item: float(item.size_in_bytes)).values).tolist() == [0, 0, 0]
    with pytest.raises(ConfigurationError, match=r"x.txt is in no folder"):
        targets(make_dataset({"x.txt": b""}, "flat"), "folder")


def test_the_error_names_a_missing_overlay(make_dataset):
    with pytest.raises(MetadataKeyError, match="height"):
        targets(make_dataset(FILES), "height")
