"""The selection of items and their split into training, validation and test data."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_dtool.data.selection import (
    describe_values,
    select_by_overlays,
    selection_digest,
    split_by_fraction,
    split_by_overlay,
)
from lightning_dtool.errors import ConfigurationError, SelectionError

KEYS = st.lists(st.text(min_size=1, max_size=8), min_size=20, max_size=80, unique=True)


def names(count: int) -> list[str]:
    return [f"images/{number:03}.png" for number in range(count)]


@given(KEYS, st.integers(), st.sampled_from([0.1, 0.2, 0.29, 1 / 3]), st.sampled_from([0.1, 0.25, 0.5]))
def test_every_item_is_in_exactly_one_part(keys, seed, val, test):
    split = split_by_fraction(keys, val_split=val, test_split=test, seed=seed)
    assert sorted(split.train + split.val + split.test) == list(range(len(keys)))
    assert abs(len(split.val) - val * len(keys)) <= 0.5 + 1e-9
    assert abs(len(split.test) - test * len(keys)) <= 1 + 1e-9


@given(KEYS, st.integers())
def test_the_split_does_not_depend_on_the_order_of_the_items(keys, seed):
    def chosen(order):
        split = split_by_fraction(order, val_split=0.3, test_split=0.2, seed=seed)
        return {order[i] for i in split.val}, {order[i] for i in split.test}

    assert chosen(keys) == chosen(sorted(keys, reverse=True))


@given(st.lists(st.sampled_from("abc"), min_size=30, max_size=90), st.integers())
def test_stratified_parts_keep_the_proportions(labels, seed):
    split = split_by_fraction(names(len(labels)), val_split=0.2, test_split=0.2, seed=seed, labels=labels)
    for part, slack in ((split.val, 0.5 + 1e-9), (split.test, 1 + 1e-9)):
        there = Counter(labels[i] for i in part)
        assert all(abs(there[name] - 0.2 * count) <= slack for name, count in Counter(labels).items())
    assert {labels[i] for i in split.train} == set(labels)


def test_the_split_never_changes_between_versions():
    split = split_by_fraction(names(10), val_split=0.2, test_split=0.2, seed=0)
    assert (split.val, split.test) == ((3, 5), (1, 7))


def test_another_seed_gives_another_split():
    splits = {split_by_fraction(names(50), val_split=0.2, test_split=0.0, seed=seed).val for seed in range(5)}
    assert len(splits) == 5


def test_an_additional_item_moves_few_others():
    before = split_by_fraction(names(100), val_split=0.2, test_split=0.0, seed=0)
    after = split_by_fraction(names(101), val_split=0.2, test_split=0.0, seed=0)
    assert len(set(before.val) ^ set(after.val)) <= 2


def test_fractions_are_exact_as_decimals():
    assert len(split_by_fraction(names(100), val_split=0.29, test_split=0.0, seed=0).val) == 29


@pytest.mark.parametrize("fractions", [(-0.1, 0), (1.0, 0), (0.5, 0.5), (float("nan"), 0), ("0.2", 0), (True, 0)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(fractions):
    with pytest.raises(ConfigurationError, match="split"):
        split_by_fraction(names(10), val_split=fractions[0], test_split=fractions[1], seed=0)


def test_a_part_without_a_single_item_is_refused():
    with pytest.raises(SelectionError, match=r"s3://x: val_split=0.01 of the 10 items is less than one item"):
        split_by_fraction(names(10), val_split=0.01, test_split=0.0, seed=0, uri="s3://x")


OVERLAYS = {"plant": {"1": "oak", "2": "elm", "3": "oak"}, "good": {"1": True, "2": True, "3": False}}


def test_items_are_selected_by_one_and_by_several_overlays():
    ids = ["1", "2", "3"]
    assert select_by_overlays(ids, {}, OVERLAYS.__getitem__) == ids
    assert select_by_overlays(ids, {"plant": "oak"}, OVERLAYS.__getitem__) == ["1", "3"]
    assert select_by_overlays(ids, {"plant": ["oak", "elm"], "good": True}, OVERLAYS.__getitem__) == ["1", "2"]


def test_the_error_for_an_unknown_value_lists_the_known_ones():
    with pytest.raises(SelectionError, match=r"plant='ash'.*'oak' \(2\), 'elm' \(1\)"):
        select_by_overlays(["1", "2", "3"], {"plant": ["oak", "ash"]}, OVERLAYS.__getitem__, uri="s3://x")


def test_the_number_one_does_not_select_true():
    with pytest.raises(SelectionError, match="good=1"):
        select_by_overlays(["1"], {"good": 1}, OVERLAYS.__getitem__)


def test_an_empty_selection_is_refused():
    with pytest.raises(SelectionError, match="none of 3 items"):
        select_by_overlays(["1", "2", "3"], {"plant": "elm", "good": False}, OVERLAYS.__getitem__)


def test_an_overlay_splits_by_the_usual_names():
    parts = split_by_overlay(["Training", "valid", "test ", "predict", "dev"], overlay="usetype")
    assert parts == {"train": (0,), "val": (1, 4), "test": (2,), "predict": (3,)}


def test_a_value_that_names_no_stage_is_refused():
    with pytest.raises(SelectionError, match=r"'holdout'.*names of stages are train"):
        split_by_overlay(["train", "holdout"], overlay="usetype")


def test_the_digest_ignores_order_and_descriptions_are_short():
    assert selection_digest(["b", "a"]) == selection_digest(iter(["a", "b"])) != selection_digest(["a"])
    assert describe_values(range(30)).endswith("and 10 more")
    assert describe_values([]) == "none"
