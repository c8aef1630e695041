"""What checkpoints deliver beside their state_dict: averaged models, ensembles, objects, counts."""

import collections
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_dtool.loading.weights import load_safely
from lightning_dtool.reproduction.delivered import compare_numbers, delivered
from lightning_dtool.reproduction.weights import compare_weights

PATH = "/first/checkpoints/epoch=1.ckpt"
MODEL_CHECKPOINT = {
    "monitor": "loss", "best_model_score": torch.tensor(0.5), "best_model_path": PATH, "current_score": None,
    "dirpath": "/first/checkpoints", "best_k_models": {PATH: torch.tensor(0.5)}, "kth_best_model_path": PATH,
    "kth_value": torch.tensor(0.5), "last_model_path": PATH,
}  # fmt: skip


class Ensemble:
    """An object of the user's that a checkpoint holds as a whole."""

    def __init__(self, scale: float) -> None:
        self.members = [torch.nn.Linear(2, 1) for _ in range(2)]
        for member in self.members:
            torch.nn.init.constant_(member.weight, scale)
        self.itself = self


def checkpoint(**parts: Any) -> dict[str, Any]:
    """Return a checkpoint as Lightning makes it, with parts of the user's."""
    return {
        "epoch": 1,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"w": torch.ones(2)},
        "loops": {"fit_loop": {"state": torch.ones(3)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "lr_schedulers": [],
        "hyper_parameters": {"weights": torch.ones(3)},
        "lightning_dtool": {"random": torch.ones(3)},
        **parts,
    }


def test_what_lightning_and_this_package_put_there_is_left_out() -> None:
    states = {"ModelCheckpoint{'monitor': 'loss'}": MODEL_CHECKPOINT, "Timer": {"time_elapsed": {"train": 1.5}}}
    found = delivered(checkpoint(callbacks=states))
    assert not found.tensors
    assert not found.numbers


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"callbacks": {"Ema": {"ema": {"w": torch.ones(2), "n": torch.tensor(3)}}}}, "callbacks[Ema].ema.w"),
        ({"callbacks": {"Keeps{'dir': '/x'}": {**MODEL_CHECKPOINT, "ema": torch.ones(2)}}}, "callbacks[Keeps].ema"),
        ({"members": [{"w": torch.ones(1)}, {"w": torch.ones(1)}]}, "members[1].w"),
        ({"temperature": torch.tensor(1.5)}, "temperature"),
        ({"means": {"x": np.ones(3)}}, "means.x"),
        ({"queue": collections.deque([torch.ones(5000)])}, "queue[0]"),
    ],
)
def test_tensors_are_found_by_their_places(parts: dict[str, Any], place: str) -> None:
    assert place in delivered(checkpoint(**parts)).tensors


def test_two_callbacks_of_one_class_are_told_apart_without_their_arguments() -> None:
    states = {f"Ema{{'folder': '/{name}'}}": {"w": torch.ones(2)} for name in "ab"}
    assert list(delivered(checkpoint(callbacks=states)).tensors) == ["callbacks[Ema].w", "callbacks[Ema #2].w"]


def test_single_numbers_of_a_callback_are_scores_and_no_model() -> None:
    state = {"wait_count": 2, "best_score": torch.tensor(0.5), "note": "text", "losses": [0.5, 0.25]}
    found = delivered(checkpoint(callbacks={"EarlyStopping": state}))
    assert not found.tensors
    place = "callbacks[EarlyStopping]"
    assert found.numbers == {f"{place}.wait_count": 2, f"{place}.best_score": 0.5, f"{place}.losses": [0.5, 0.25]}


def test_objects_are_compared_by_what_the_file_says(tmp_path: Path) -> None:
    found = []
    for scale in (1.0, 1.0, 2.0):
        torch.manual_seed(0)
        torch.save(checkpoint(ensemble=Ensemble(scale)), tmp_path / "object.ckpt")
        found.append(delivered(load_safely(tmp_path / "object.ckpt", mmap=False)).tensors)
    assert len(found[0]) == 4
    assert compare_weights(found[0], found[1]).agreement == "identical"
    other = compare_weights(found[0], found[2])
    assert (other.agreement, other.differing_count, other.tensor_count) == ("different", 2, 4)
    assert other.greatest_absolute == 1.0


def test_a_long_list_and_a_deep_value_are_read() -> None:
    value: Any = torch.ones(2)
    for _ in range(5000):
        value = [value]
    found = delivered(checkpoint(deep=value, long=list(range(100_000))))
    assert len(found.tensors) == 1
    assert list(found.numbers) == ["long"]


@pytest.mark.parametrize(
    ("a", "b", "agreement"),
    [
        (1, 1, "identical"),
        (1, 1.0, "different"),
        (0.0, -0.0, "different"),
        (math.nan, math.nan, "identical"),
        ([1, 2.5], (1, 2.5), "identical"),
        ([1, 2], [1, 2, 3], "different"),
        (np.float32(1), np.float32(1), "identical"),
    ],
)
def test_numbers_are_compared_bit_by_bit(a: Any, b: Any, agreement: str) -> None:
    assert compare_numbers({"x": a}, {"x": b}).agreement == agreement


def test_numbers_of_one_checkpoint_only_differ() -> None:
    found = compare_numbers({"a": 1, "b": 2}, {"b": 2, "c": 3})
    assert (found.agreement, found.differing, found.differing_count, found.count) == ("different", ("a", "c"), 2, 3)
    assert compare_numbers({}, {}).agreement == "not recorded"
