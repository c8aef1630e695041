"""Tests that a resumed run calls the hooks that were left to run at the save."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from interrupted import Resumed, Small, vectors
from lightning_dtool.resuming.bytecode import calls, nothing_left, raises_at, uses_argument

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    pytest.mark.filterwarnings("ignore:Nothing will be published:lightning_dtool.errors.ProvenanceWarning"),
]

STEPS = {"every_n_train_steps": 4}
VALIDATION = {"save_on_train_epoch_end": False}
NEVER = {"every_n_epochs": 100}


class Target(Small):
    """A target network that follows in a hook of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("follows", torch.zeros(2, 4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self.layer(batch[0]) + 0.1 * batch[0] @ self.follows.T
        loss = torch.nn.functional.cross_entropy(out, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss, "out": out}

    def follow(self, value: torch.Tensor) -> None:
        self.calls += 1
        self.follows.mul_(0.9).add_(value.detach(), alpha=0.1).add_(torch.rand(2, 4), alpha=0.01)


class FollowsBatch(Target):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.follow(self.layer.weight)


class FollowsOutputs(Target):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.follow(outputs["out"].T @ batch[0] + outputs["loss"] + batch_idx + self.global_step)


class Logs(Target):
    """Logs in two hooks, and lets the values of the epoch decide."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.follow(self.layer.weight)
        self.log("follows", self.follows.sum() + batch_idx, on_step=False, on_epoch=True)
        self.log("loss_again", outputs["loss"])

    def on_train_epoch_end(self) -> None:
        self.layer.bias.data += 0.01 * self.trainer.callback_metrics["loss_epoch"]

    def on_train_epoch_start(self) -> None:
        if self.current_epoch:
            self.layer.bias.data += 0.01 * self.trainer.callback_metrics["follows"]


class AfterValidation(Target):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.layer(batch[0]).mean())

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            assert not self.training
            self.follow(self.trainer.callback_metrics["val"] * self.layer.weight)


class SavesByHand(L.Callback):
    """Saves in a hook. The hooks of the callbacks behind it, and of the module, are left."""

    def __init__(self, hook: str, folder: Path) -> None:
        self.folder = folder
        setattr(self, hook, self.save)

    def save(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


class Behind(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.follow(outputs["out"].T @ batch[0])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.follow(pl_module.layer.weight + trainer.current_epoch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            pl_module.follow(2 * pl_module.layer.weight)


class AtEpochEnd(Target):
    """Computes a metric and logs in its own `on_train_epoch_end`, and has a scheduler that monitors it."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        result = super().training_step(batch, batch_idx)
        self.accuracy(result["out"], batch[1])
        return result

    def on_train_epoch_end(self) -> None:
        self.follow(self.layer.weight * self.accuracy.compute() + self.current_epoch)
        self.log("accuracy", self.accuracy.compute())
        self.accuracy.reset()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "accuracy"}}


@pytest.mark.parametrize("make", [FollowsBatch, FollowsOutputs, Logs])
@pytest.mark.parametrize("steps", [4, 6], ids=["inside an epoch", "last batch"])
def test_on_train_batch_end_of_the_module_runs_after_a_resume(tmp_path: Path, make: Any, steps: int) -> None:
    run = Resumed(tmp_path, make, {"every_n_train_steps": steps}, at=1 if steps == 4 else 0)
    assert run.equal


def test_on_validation_end_of_the_module_runs_after_a_resume(tmp_path: Path) -> None:
    assert Resumed(tmp_path, AfterValidation, VALIDATION, val=vectors).equal


@pytest.mark.parametrize(
    ("hook", "make"),
    [
        ("on_train_batch_end", FollowsOutputs),
        ("on_train_epoch_end", AtEpochEnd),
        ("on_validation_end", AfterValidation),
        ("on_train_epoch_end", Target),
    ],
)
def test_hooks_behind_a_save_by_hand_run_after_a_resume(tmp_path: Path, hook: str, make: Any) -> None:
    val = vectors if make is AfterValidation else None
    run = Resumed(
        tmp_path, make, NEVER, callbacks=lambda: [SavesByHand(hook, tmp_path), Behind()], val=val, at=1, max_epochs=3
    )
    assert run.equal


def test_early_stopping_behind_a_save_by_hand_counts_the_epoch(tmp_path: Path) -> None:
    def callbacks() -> list[L.Callback]:
        stop = L.pytorch.callbacks.EarlyStopping("accuracy", patience=2, mode="min", check_on_train_epoch_end=True)
        return [SavesByHand("on_train_epoch_end", tmp_path), stop]

    run = Resumed(tmp_path, AtEpochEnd, NEVER, callbacks=callbacks, at=1, max_epochs=8)
    assert run.equal


class DoesMore(SavesByHand):
    def save(self, trainer: L.Trainer, *_: Any) -> None:
        super().save(trainer)
        trainer.lightning_module.follow(torch.ones(2, 4))


def test_what_a_hook_does_after_its_save_is_announced(tmp_path: Path) -> None:
    run = Resumed(tmp_path, Target, NEVER, callbacks=lambda: [DoesMore("on_train_epoch_end", tmp_path)], at=1)
    assert "DoesMore saved the checkpoint in on_train_epoch_end and did more after it" in "".join(run.reasons)


class Strange(list):
    """A type that a safe load refuses."""


class StrangeBatches(Target):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return Strange(batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.follow(batch[0].T @ outputs["out"] if len(batch) > 2 else batch[0].mean(0))


class StrangeButUnused(StrangeBatches):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.follow(self.layer.weight)


def test_a_batch_that_cannot_be_saved_is_announced_if_a_hook_uses_it(tmp_path: Path) -> None:
    run = Resumed(tmp_path, StrangeBatches, STEPS)
    assert "on_train_batch_end of StrangeBatches runs after the save, and batch cannot be saved" in "".join(run.reasons)
    (tmp_path / "unused").mkdir()
    assert Resumed(tmp_path / "unused", StrangeButUnused, STEPS).equal


def test_a_large_batch_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_dtool.resuming.remaining_hooks.BATCH_LIMIT", 16)
    run = Resumed(tmp_path, FollowsOutputs, STEPS)
    assert "outputs cannot be saved for it, because it has more than" in "".join(run.reasons)


class MovedByValidation(Target):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.follow(batch[0].mean(0))
        if batch_idx == 1 and self.current_epoch == 2 and not self.trainer.sanity_checking:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/inside.ckpt")


def test_a_save_inside_a_validation_that_changes_buffers_is_announced(tmp_path: Path) -> None:
    run = Resumed(tmp_path, MovedByValidation, NEVER, val=vectors, at=0)
    assert "saved inside a validation, which had changed follows and is repeated" in "".join(run.reasons)


class Waits(L.pytorch.callbacks.EarlyStopping):
    """Counts in an attribute that EarlyStopping saves."""

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.wait_count += not trainer.sanity_checking


class WithWaits(Target):
    def configure_callbacks(self) -> Any:
        return [Waits("loss", patience=1000)]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and self.current_epoch == 2 and not self.trainer.sanity_checking:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/inside.ckpt")


def test_a_save_inside_a_validation_in_which_a_callback_counts_is_announced(tmp_path: Path) -> None:
    run = Resumed(tmp_path, WithWaits, NEVER, val=vectors, at=0)
    assert "has changed `callbacks[Waits].wait_count`" in "".join(run.reasons)


class MovedAtTheEnd(Target):
    def on_train_end(self) -> None:
        self.layer.weight.data.mul_(0.5)
        self.trainer.save_checkpoint(self.trainer.default_root_dir + "/end.ckpt")


def test_a_save_in_on_train_end_of_the_module_is_announced(tmp_path: Path) -> None:
    run = Resumed(tmp_path, MovedAtTheEnd, NEVER, at=0, max_epochs=2)
    assert "MovedAtTheEnd saved the checkpoint in its own on_train_end" in "".join(run.reasons)


# -- what code does ---------------------------------------------------------------------------------


def _frame_left(function: Callable[[Callable[[], Any]], Any]) -> bool:
    found: list[bool] = []
    function(lambda: found.append(nothing_left(sys._getframe(1))))
    return found[0]


def _ends(look: Callable[[], Any]) -> None:
    look()


def _ends_in_branch(look: Callable[[], Any], yes: bool = True) -> Any:
    result = 1
    if yes:
        look()
    return result


def _goes_on(look: Callable[[], Any]) -> None:
    look()
    _ends(print)


def _loops(look: Callable[[], Any]) -> None:
    for _ in range(1):
        look()


def _assigns(look: Callable[[], Any]) -> None:
    look()
    _assigns.done = True


def test_it_is_known_whether_a_function_does_more_after_a_call() -> None:
    assert [_frame_left(each) for each in (_ends, _ends_in_branch)] == [True, True]
    assert [_frame_left(each) for each in (_goes_on, _loops, _assigns)] == [False, False, False]


def test_it_is_known_which_arguments_a_function_uses() -> None:
    assert uses_argument(FollowsOutputs().on_train_batch_end, 1)
    assert not uses_argument(FollowsBatch().on_train_batch_end, 1)
    assert not uses_argument(Logs().on_train_batch_end, 1)
    assert uses_argument(Logs().on_train_batch_end, 0)
    assert uses_argument(lambda *everything: None, 0)
    assert uses_argument(lambda a: locals(), 0)
    assert uses_argument(lambda a: lambda: a, 0)
    assert uses_argument(print, 0)


def test_it_is_known_which_names_a_function_uses() -> None:
    assert calls(Logs().on_train_batch_end, "log", "log_dict")
    assert not calls(FollowsBatch().on_train_batch_end, "log", "log_dict")
    assert calls(print, "log")


def test_it_is_known_whether_a_function_raises_itself() -> None:
    def raises() -> None:
        raise KeyError

    with pytest.raises(KeyError) as caught:
        raises()
    last = caught.tb.tb_next
    assert last is not None
    assert raises_at(last.tb_frame.f_code, last.tb_lasti)
    with pytest.raises(ZeroDivisionError) as other:
        _ = 1 / 0
    assert not raises_at(other.tb.tb_frame.f_code, other.tb.tb_lasti)
