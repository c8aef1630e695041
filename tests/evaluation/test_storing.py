"""The names of stored evaluations. The tests of `evaluate` cover their content."""

import pytest

from lightning_dtool.evaluation.storing import dataset_name


@pytest.mark.parametrize(
    ("checkpoint_name", "data_name"),
    [("a", "b"), ("c" * 80, "d" * 80), ("c" * 80, "d"), ("c", "d" * 80), ("ü/x", "y z")],
)
def test_names_are_short_and_unique(checkpoint_name: str, data_name: str) -> None:
    name = dataset_name(checkpoint_name, data_name)
    assert len(name) <= 80
    assert name.isascii()
    assert name != dataset_name(checkpoint_name, data_name)
    first, second = name.removeprefix("evaluation-").rsplit("-", 1)[0].split("-on-")
    assert len(first) >= min(len(checkpoint_name), 28)
    assert len(second) >= min(len(data_name), 28)
