"""Comparison of everything that two checkpoints hold."""

import copy
from typing import Any

import pytest
import torch
from lightning import seed_everything

import lightning_dtool.capture.generator_states as generator_states
from lightning_dtool.capture.generator_states import random_states
from lightning_dtool.reproduction.states import compare_states
from lightning_dtool.results.states import StateDifference

CHECKPOINT: dict[str, Any] = {
    "epoch": 1,
    "global_step": 12,
    "pytorch-lightning_version": "2.6",
    "state_dict": {"w": torch.zeros(2, 3), "b": torch.tensor(1.0)},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}],
    "lr_schedulers": [{"last_epoch": 1}],
    "callbacks": {
        "Timer": {"time_elapsed": {"train": 1.5}},
        "ModelCheckpoint{'monitor': None}": {
            "dirpath": "/a/ends",
            "best_model_path": "/a/ends/last.ckpt",
            "best_k_models": {"/a/ends/last.ckpt": torch.tensor(0.5)},
        },
        "EMA": {"shadow": {"w": torch.zeros(2)}},
    },
    "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 2}}}},
    "hyper_parameters": {"lr": 0.1},
    "DtoolDataModule": {"uri": "file:///a", "items": "sha256:1"},
    "mine": [1, 2],
    "lightning_dtool": {
        "version": 1,
        "moment": "epoch end",
        "inexact": [],
        "reloaded": {"train": 0},
        "ranks": [
            {"random": {"torch": {"words": "AAAAAAAA"}}, "measured": {"logged_metrics": {"loss": 0.5}}, "later": 1}
        ],
    },
}


def changed(*path: Any, value: Any) -> dict[str, Any]:
    """Return the checkpoint with another value at a place."""
    result = copy.deepcopy(CHECKPOINT)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "part", "where"),
    [
        (("state_dict", "w"), torch.zeros(2, 3, dtype=torch.float64), "weights", "w"),
        (("state_dict", "b"), torch.tensor(-1.0), "weights", "b"),
        (("state_dict", "more"), torch.zeros(1), "weights", "more"),
        (("optimizer_states", 0, "state", 0, "step"), torch.tensor(4.0), "optimizer states", "0.state.0.step"),
        (("lr_schedulers", 0, "last_epoch"), 2, "schedulers", "0.last_epoch"),
        (("callbacks", "EMA", "shadow", "w"), torch.tensor([0.0, -0.0]), "callbacks", "EMA.shadow.w"),
        (("loops", "fit_loop", "epoch_progress", "current", "ready"), 3, "loops", None),
        (("DtoolDataModule", "items"), "sha256:2", "DtoolDataModule", "items"),
        (("mine",), (1, 2), "mine", "mine"),
        (("lightning_dtool", "ranks", 0, "random", "torch", "words"), "AAAAAAAB", "random states", "random.torch"),
        (("lightning_dtool", "ranks", 0, "measured", "logged_metrics", "loss"), 0.25, "metrics", None),
        (("lightning_dtool", "ranks", 0, "later"), 2, "later", "later"),
        (("lightning_dtool", "reloaded", "train"), 1, "loaders", "reloaded.train"),
        (("lightning_dtool", "moment"), "batch end", "loops", "moment"),
    ],
)
def test_every_state_is_compared_bit_by_bit(path: tuple[Any, ...], value: Any, part: str, where: str | None) -> None:
    assert compare_states(CHECKPOINT, copy.deepcopy(CHECKPOINT)) == []
    (difference,) = compare_states(CHECKPOINT, changed(*path, value=value))
    assert difference.part == part
    assert where is None or difference.path == where


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("callbacks", "Timer", "time_elapsed", "train"), 2.5),
        (("DtoolDataModule", "uri"), "file:///b"),
        (("hyper_parameters", "lr"), 0.2),
        (("pytorch-lightning_version",), "2.7"),
        (("lightning_dtool", "inexact"), ["a reason"]),
        (
            ("callbacks", "ModelCheckpoint{'monitor': None}"),
            {
                "dirpath": "/b",
                "best_model_path": "/b/last-v1.ckpt",
                "best_k_models": {"/b/last-v1.ckpt": torch.tensor(0.5)},
            },
        ),
    ],
)
def test_what_is_no_state_of_the_training_is_left_out(path: tuple[Any, ...], value: Any) -> None:
    assert compare_states(CHECKPOINT, changed(*path, value=value)) == []


def test_a_difference_is_one_line() -> None:
    assert str(StateDifference("callbacks", "Ages.epochs", "4", "2")) == "callbacks: Ages.epochs (4 -> 2)"
    same = StateDifference("weights", "w", "float32 [2]", "float32 [2]")
    assert str(same) == "weights: w (float32 [2])"
    (absent,) = compare_states({"mine": {"a": 1}}, {"mine": {}})
    assert str(absent) == "mine: mine.a (1 -> absent)"


def test_a_state_is_the_same_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    seed_everything(3, verbose=False)
    short = random_states()
    monkeypatch.setattr(generator_states, "_seeds", lambda kind: iter(()))
    long = random_states()
    assert short != long
    one, two = (
        {"lightning_dtool": {"ranks": [{"random": states, "requests": {"train": states}}]}} for states in (short, long)
    )
    assert compare_states(one, two) == []
