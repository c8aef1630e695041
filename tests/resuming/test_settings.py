"""Settings of the Trainer that change while it trains."""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler

from kit import TinyNet, loader
from resuming.runs import assert_exact, at_step, dtool, fit, resumed, vectors

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

INSIDE = {"every_n_train_steps": 4}


@pytest.mark.parametrize("step", [4, 8])
def test_the_accumulation_of_an_epoch_goes_on_inside_it(tmp_path: Path, step: int) -> None:
    schedule = lambda: [GradientAccumulationScheduler({0: 1, 1: 2, 2: 3})]  # noqa: E731
    found = resumed(tmp_path, TinyNet, dtool(vectors(tmp_path)), step, callbacks=schedule, when=INSIDE)
    assert_exact(found)
    assert found.trainers[1].accumulate_grad_batches == 3


class Clips(L.Callback):
    """Clips gradients harder from the second epoch on."""

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.gradient_clip_val = 0.01


def test_a_gradient_clip_that_a_hook_has_set_stays(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}
    found = resumed(tmp_path, TinyNet, lambda: loader(shuffle=True), 12, callbacks=lambda: [Clips()], **options)
    assert_exact(found)
    assert found.trainers[1].gradient_clip_val == 0.01


class Stops(L.Callback):
    """Asks the Trainer to stop in the first epoch, as EarlyStopping would, and never again."""

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.should_stop = True


def test_a_stop_that_waits_for_min_epochs_is_not_forgotten(tmp_path: Path) -> None:
    found = resumed(
        tmp_path, TinyNet, lambda: loader(shuffle=True), 12, callbacks=lambda: [Stops()], min_epochs=3, max_epochs=6
    )
    assert_exact(found)
    assert [t.current_epoch for t in found.trainers] == [3, 3]


@pytest.mark.parametrize(
    ("option", "before", "now"),
    [
        ("limit_train_batches", 1.0, 3),
        ("gradient_clip_val", None, 0.5),
        ("accumulate_grad_batches", 1, 2),
    ],
)
def test_a_setting_that_differs_gives_a_warning(tmp_path: Path, option: str, before: Any, now: Any) -> None:
    _, _, provenance = fit(tmp_path / "whole", TinyNet, loader)
    with pytest.warns(match=rf"Trainer\({option}={before!r}\) saved the checkpoint, and {option} is {now!r} now"):
        fit(tmp_path / "rest", TinyNet, loader, ckpt=at_step(provenance, 12).uri, **{option: now})


def test_another_precision_gives_a_warning_and_trains(tmp_path: Path) -> None:
    _, _, provenance = fit(tmp_path / "whole", TinyNet, loader)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, t, _ = fit(tmp_path / "rest", TinyNet, loader, ckpt=at_step(provenance, 12).uri, precision="bf16-true")
    texts = [str(each.message) for each in caught]
    assert any(
        "Trainer(precision='32-true') saved the checkpoint, and precision is 'bf16-true' now" in text for text in texts
    )
    assert t.global_step == 18


def test_another_number_of_batches_gives_a_warning(tmp_path: Path) -> None:
    _, _, provenance = fit(tmp_path / "whole", TinyNet, loader)
    with pytest.warns(match="an epoch had 6 batches when the checkpoint was saved, and has 5 now"):
        fit(tmp_path / "rest", TinyNet, lambda: loader(samples=40), ckpt=at_step(provenance, 12).uri)


def test_a_longer_training_gives_no_warning(tmp_path: Path) -> None:
    assert_exact(resumed(tmp_path, TinyNet, loader, 18, longer={"max_epochs": 5}, callbacks=lambda: [
        EarlyStopping("train_loss", patience=9)
    ]))  # fmt: skip
