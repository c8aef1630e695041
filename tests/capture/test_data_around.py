"""Data that code takes from around it: class attributes, global variables and closures."""

from typing import Any

import torch

from lightning_dtool.capture.data_around import data_around_class, global_data

WEIGHTS = torch.ones(2)
SCALE = 2


class Base:
    """A base class with data of its own."""

    table = [1, 2]
    empty: list[int] = []

    @property
    def weighted(self) -> Any:
        return WEIGHTS * SCALE


def made(values: Any) -> type:
    class Around(Base):
        @staticmethod
        def get(index: int) -> Any:
            return values[index]

    return Around


def test_data_of_a_class_its_bases_and_its_methods_is_found() -> None:
    values = [3]
    assert data_around_class(made(values)) == {"table": [1, 2], "WEIGHTS": WEIGHTS, "values": values}


def test_classes_of_libraries_have_no_data_around_them() -> None:
    assert data_around_class(torch.utils.data.TensorDataset) == {}


def test_only_data_counts_among_global_variables() -> None:
    assert global_data(lambda: (WEIGHTS, SCALE, Base, torch)) == {"WEIGHTS": WEIGHTS}
    assert global_data(lambda: [WEIGHTS for _ in "a"]) == {"WEIGHTS": WEIGHTS}
