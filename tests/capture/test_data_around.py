"""Data that code takes from around it: class attributes, global variables and closures."""

from typing import Any

import torch

from lightning_dtool.capture.data_around import values_outside

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


def test_data_and_settings_of_a_class_its_bases_and_its_methods_are_found() -> None:
    values = [3]
    assert values_outside(made(values)) == {
        "Base.empty": [], "Base.table": [1, 2], "SCALE": 2, "WEIGHTS": WEIGHTS, "values": values
    }  # fmt: skip


def test_classes_of_libraries_have_no_data_around_them() -> None:
    assert values_outside(torch.utils.data.TensorDataset) == {}


def helper(scale: int = 3) -> Any:
    return WEIGHTS * scale


def test_functions_and_classes_that_a_function_uses_are_followed() -> None:
    assert values_outside(lambda: (SCALE, torch)) == {"SCALE": 2}
    assert values_outside(lambda: [helper() for _ in "a"]) == {"WEIGHTS": WEIGHTS, "helper.scale": 3}
    assert values_outside(lambda: Base.table)["Base.table"] == [1, 2]
