"""Trainings that stop inside an epoch, and then go on longer."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer
from torchmetrics.classification import MulticlassAccuracy

from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolProvenanceCallback
from resuming.runs import assert_exact, dtool, fit, resumed, state_of, vectors

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

LONGER = {"max_steps": -1, "max_epochs": 3}
STEPS = {"max_steps": 9, "max_epochs": -1}


class Measured(TinyNet):
    """A module that logs values of an epoch, and draws random numbers in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(3)
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch_idx))
        out = self(batch[0])
        loss = torch.nn.functional.cross_entropy(out, batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.accuracy(out, batch[1])
        self.log("train_acc", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]) + torch.rand(()))


class TimeIsUp(L.Callback):
    """Asks the Trainer to stop, as Timer does when the time is over."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 8 and trainer.max_epochs == 2:
            trainer.should_stop = True


def same_metrics(trainers: tuple[L.Trainer, L.Trainer]) -> bool:
    one, two = (t.callback_metrics for t in trainers)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}], ids=["plain", "accumulation"])
def test_a_longer_training_goes_on_inside_the_epoch_that_max_steps_ended(tmp_path: Path, options: Any) -> None:
    uri = vectors(tmp_path)
    steps = 5 if options else 9
    stopped = {"max_steps": steps, "max_epochs": -1, **options}
    found = resumed(tmp_path, Measured, dtool(uri), steps, longer={**options, **LONGER}, **stopped)
    assert_exact(found)
    assert found.rest.seen == found.whole.seen
    assert same_metrics(found.trainers)
    assert [t.current_epoch for t in found.trainers] == [3, 3]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_validation_that_only_the_stop_caused_changes_nothing(tmp_path: Path, accumulate: int) -> None:
    uri = vectors(tmp_path, 32)
    found = resumed(
        tmp_path, Measured, dtool(uri, val_split=0.25), 9 if accumulate == 1 else 4, longer={"max_epochs": 3},
        callbacks=lambda: [TimeIsUp()], max_epochs=2, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    assert_exact(found)
    assert found.rest.seen == found.whole.seen
    assert same_metrics(found.trainers)


def test_a_validation_that_was_due_is_part_of_the_training(tmp_path: Path) -> None:
    uri = vectors(tmp_path, 32)
    found = resumed(
        tmp_path, Measured, dtool(uri, val_split=0.25), 9, longer={"max_epochs": 3},
        callbacks=lambda: [TimeIsUp()], max_epochs=2, val_check_interval=3,
    )  # fmt: skip
    assert_exact(found)
    assert same_metrics(found.trainers)


class SavesAfterwards(L.Callback):
    """Saves when training ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def test_checkpoints_that_are_saved_after_the_stop_go_on_inside_the_epoch(tmp_path: Path) -> None:
    uri, path = vectors(tmp_path), tmp_path / "after.ckpt"
    whole, _, _ = fit(tmp_path / "whole", Measured, dtool(uri), **LONGER)
    fit(tmp_path / "stopped", Measured, dtool(uri), lambda: [SavesAfterwards(path)], **STEPS)
    rest, _, _ = fit(tmp_path / "rest", Measured, dtool(uri), ckpt=str(path), seed=2, **LONGER)
    assert same(weights(whole), weights(rest))
    assert rest.seen == whole.seen


def test_a_final_checkpoint_goes_on_inside_the_epoch(tmp_path: Path) -> None:
    uri = vectors(tmp_path)
    whole, _, _ = fit(tmp_path / "whole", Measured, dtool(uri), **LONGER)
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), final=True)
    L.seed_everything(1, verbose=False)
    module, data = Measured(), dtool(uri)()
    L.seed_everything(1, verbose=False)
    trainer(tmp_path, provenance, enable_checkpointing=False, **STEPS).fit(module, data)
    rest, _, _ = fit(tmp_path / "rest", Measured, dtool(uri), ckpt=provenance.last_uri, seed=2, **LONGER)
    assert same(weights(whole), weights(rest))


class Decays(TinyNet):
    """A module that changes its weights when an epoch ends."""

    def on_train_epoch_end(self) -> None:
        with torch.no_grad():
            self.layers[0].weight.mul_(0.9)


def test_a_hook_of_the_end_of_the_epoch_gives_a_warning(tmp_path: Path) -> None:
    found = resumed(tmp_path, Decays, dtool(vectors(tmp_path)), 9, longer=LONGER, **STEPS)
    assert not found.equal
    assert len(found.reasons) == len(found.gaps) == 1
    assert "training stopped, and on_train_epoch_end of Decays has run, which a longer training omits" in found.gaps[0]


def test_a_plain_loader_gives_a_warning(tmp_path: Path) -> None:
    found = resumed(tmp_path, TinyNet, lambda: loader(shuffle=True), 9, longer=LONGER, **STEPS)
    assert len(found.reasons) == len(found.gaps) == 1
    assert "the DataLoader train[0] starts that epoch from its beginning" in found.gaps[0]


def test_early_stopping_in_a_validation_that_only_the_stop_caused_gives_a_warning(tmp_path: Path) -> None:
    stops = lambda: [TimeIsUp(), EarlyStopping("val_loss", patience=9)]  # noqa: E731
    found = resumed(
        tmp_path, Measured, dtool(vectors(tmp_path, 32), val_split=0.25), 9, longer={"max_epochs": 3},
        callbacks=stops, max_epochs=2,
    )  # fmt: skip
    assert "on_train_epoch_end of EarlyStopping has run" in found.gaps[0]
    assert "on_train_epoch_end of EarlyStopping has run" in found.reasons[0]


class Averages(L.Callback):
    """Replaces the weights when training ends, as callbacks that average weights do."""

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.5)


def test_weights_that_were_replaced_when_training_ended_give_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "after.ckpt"
    fit(tmp_path / "stopped", TinyNet, loader, lambda: [Averages(), SavesAfterwards(path)], max_epochs=1)
    with pytest.warns(match="training stopped, and on_train_end of Averages has run, which a longer training omits"):
        fit(tmp_path / "rest", TinyNet, loader, lambda: [Averages()], ckpt=str(path), max_epochs=2)


def test_a_training_that_ended_with_its_epoch_goes_on_with_the_next(tmp_path: Path) -> None:
    steps = {"max_steps": 12, "max_epochs": -1}
    found = resumed(tmp_path, TinyNet, lambda: loader(shuffle=True), 12, longer=LONGER, **steps)
    assert_exact(found)


class Clock(Timer):
    """A Timer whose time is over after some batches."""

    def time_elapsed(self, stage: Any = "train") -> float:
        return 1e9 if self.batches >= 9 else 0.0

    batches = 0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.batches += 1
        super().on_train_batch_end(trainer, *args, **kwargs)


def test_max_time_goes_on_inside_the_epoch(tmp_path: Path) -> None:
    uri = vectors(tmp_path)
    whole, _, _ = fit(tmp_path / "whole", Measured, dtool(uri))
    _, _, provenance = fit(tmp_path / "stopped", Measured, dtool(uri), lambda: [Clock({"days": 1})])
    rest, _, _ = fit(tmp_path / "rest", Measured, dtool(uri), lambda: [Clock()], ckpt=provenance.last_uri, seed=2)
    assert state_of(provenance.last_uri)["global_step"] == 9
    assert same(weights(whole), weights(rest))
    assert rest.seen == whole.seen
