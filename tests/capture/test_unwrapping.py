"""Datasets without their wrappers."""

from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from lightning_dtool.capture.unwrapping import length_of, unwrap

DATA = TensorDataset(torch.arange(10))


class Wrapper(Dataset[Any]):
    """A dataset around another one."""

    def __init__(self, inner: Any, every: int = 1, transform: Any = None) -> None:
        self.inner = inner
        self.every = every
        self.transform = transform

    def __len__(self) -> int:
        return len(self.inner) // self.every


class Stream(IterableDataset[Any]):
    """A dataset without a length."""

    def __iter__(self) -> Any:
        yield 1


def test_nested_subsets_give_positions_in_the_innermost_dataset() -> None:
    found = unwrap(Subset(Subset(DATA, [4, 5, 6]), [2, 0]))
    assert (found.dataset, found.positions, found.is_known, found.wrappers) == (DATA, [6, 4], True, [])


def test_a_wrapper_that_keeps_the_number_of_samples_is_no_selection() -> None:
    wrapper = Wrapper(DATA)
    found = unwrap(wrapper)
    assert (found.dataset, found.positions, found.is_known, found.wrappers) == (DATA, None, True, [wrapper])


def test_a_wrapper_that_selects_in_its_own_way_makes_the_selection_unknown() -> None:
    for wrapped in (Wrapper(DATA, every=2), Subset(Wrapper(DATA), [1])):
        found = unwrap(wrapped)
        assert (found.dataset, found.positions, found.is_known) == (DATA, None, False)
    assert unwrap(Wrapper(Subset(DATA, [1, 2]))).positions == [1, 2]


def test_transforms_of_every_wrapper_are_found() -> None:
    found = unwrap(Wrapper(Wrapper(DATA, transform=str.lower), transform=str.upper))
    assert found.transforms["transform"] is str.upper
    assert found.transforms["Wrapper.transform"] is str.lower


def test_a_combination_is_no_wrapper() -> None:
    both = ConcatDataset([DATA, DATA])
    assert unwrap(Subset(both, [1])).dataset is both


def test_a_stream_has_no_length() -> None:
    assert length_of(Stream()) is None
    assert length_of(DATA) == 10
