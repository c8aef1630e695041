"""Tests for the tokens that show whether an object has changed."""

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lightning_dtool.capture.tokens import token_of

used: list[str] = []


def noting(base: Any) -> Any:
    """Return a class of containers that note when their methods are called."""

    class Noting(base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            used.append("__iter__")
            return iter(super().__iter__())

        def __len__(self) -> int:
            used.append("__len__")
            return int(super().__len__())

        def __getitem__(self, key: Any) -> Any:
            used.append("__getitem__")
            return super().__getitem__(key)

        def items(self) -> Any:
            used.append("items")
            return super().items()

    return Noting


@pytest.mark.parametrize("entries", [3, 2000])
@pytest.mark.parametrize("base", [list, tuple, set, frozenset, dict, OrderedDict, defaultdict])
def test_the_methods_of_a_users_container_are_not_called(base: Any, entries: int) -> None:
    kind = noting(base)
    content: Any = dict.fromkeys(range(entries), "a") if issubclass(base, dict) else range(entries)
    value = kind(int, content) if base is defaultdict else kind(content)
    used.clear()
    token = token_of(value)
    assert used == []
    value.scale = 2
    assert token_of(value) != token


def append(value: list[int]) -> None:
    value.append(3)


def replace_the_last(value: list[Any]) -> None:
    value[-1] = float(value[-1])


def move(value: OrderedDict[str, int]) -> None:
    value.move_to_end("a")


def add(value: dict[str, int]) -> None:
    value["c"] = 3


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (noting(list)([1, 2]), append),
        (noting(list)([1, 2]), replace_the_last),
        (noting(list)(range(2000)), replace_the_last),
        (OrderedDict(a=1, b=2), move),
        (noting(OrderedDict)(a=1, b=2), move),
        (defaultdict(int, a=1), add),
        (UserDict(a=1), add),
    ],
)
def test_a_change_in_a_container_is_seen(value: Any, change: Callable[[Any], None]) -> None:
    before = token_of(value)
    assert token_of(value) == before
    change(value)
    assert token_of(value) != before


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0.0, -0.0), (0.1, 0.2), (1.0, float("nan"))])
def test_equal_numbers_of_other_types_are_other_settings(before: Any, after: Any) -> None:
    assert token_of({"a": before}) != token_of({"a": after})
    assert token_of([before]) != token_of([after])


def test_a_number_that_is_none_stays_the_same() -> None:
    assert token_of([float("nan")]) == token_of([float("nan")])
