"""Searches for a learning rate or a batch size, and runs that resume after them."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.tuner.lr_finder import _lr_find

from kit import TinyNet, loader, trainer, weights
from lightning_dtool import DtoolProvenanceCallback
from resuming.runs import assert_exact, at_step, dtool, fit, resumed, vectors

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

INSIDE = {"every_n_train_steps": 2}


class Searched(TinyNet):
    """A module whose learning rate is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.05
        self.epochs: list[int] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append(self.current_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class AtEpochs(LearningRateFinder):
    """Searches when chosen epochs begin, as in Lightning's documentation."""

    def __init__(self, epochs: tuple[int, ...]) -> None:
        super().__init__(num_training_steps=15)
        self.milestones = epochs

    def on_fit_start(self, *_: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch in self.milestones:
            self.lr_find(trainer, pl_module)


class AtTrainStart(AtEpochs):
    """Searches in `on_train_start`."""

    def __init__(self) -> None:
        super().__init__(())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.lr_find(trainer, pl_module)


def lr_finder() -> list[L.Callback]:
    return [LearningRateFinder(num_training_steps=15)]


def batch_size_finder(**options: Any) -> list[L.Callback]:
    return [BatchSizeFinder(init_val=4, max_trials=2, steps_per_trial=1, **options)]


def test_a_run_that_resumes_after_an_epoch_takes_the_learning_rate_that_was_found(tmp_path: Path) -> None:
    found = resumed(tmp_path, Searched, lambda: loader(shuffle=True), step=12, callbacks=lr_finder)
    assert_exact(found)
    assert found.rest.epochs == found.whole.epochs
    assert found.rest.lr == found.whole.lr != 0.05
    searches = [t.callbacks[0].optimal_lr for t in found.trainers]
    assert searches[0].results == searches[1].results
    assert searches[0].suggestion() == searches[1].suggestion() == found.rest.lr


def test_a_run_resumes_inside_an_epoch_after_a_search(tmp_path: Path) -> None:
    uri = vectors(tmp_path)
    assert_exact(resumed(tmp_path, Searched, dtool(uri), step=8, callbacks=lr_finder, when=INSIDE))


@pytest.mark.parametrize("step", [6, 8, 12])
def test_a_finder_that_searches_at_later_epochs_searches_then(tmp_path: Path, step: int) -> None:
    uri = vectors(tmp_path)
    found = resumed(tmp_path, Searched, dtool(uri), step, callbacks=lambda: [AtEpochs((0, 1))], when=INSIDE)
    assert_exact(found)
    assert found.rest.lr == found.whole.lr


@pytest.mark.parametrize("step", [8, 12])
def test_a_finder_that_searches_when_training_starts_does_not_search_again(tmp_path: Path, step: int) -> None:
    uri = vectors(tmp_path)
    assert_exact(resumed(tmp_path, Searched, dtool(uri), step, callbacks=lambda: [AtTrainStart()], when=INSIDE))


@pytest.mark.parametrize("step", [4, 6])
def test_a_run_that_resumes_takes_the_batch_size_that_was_found(tmp_path: Path, step: int) -> None:
    uri = vectors(tmp_path, 32)
    found = resumed(
        tmp_path, TinyNet, dtool(uri, val_split=0.25), step, callbacks=batch_size_finder, when=INSIDE, max_epochs=4
    )
    assert_exact(found)
    assert [t.datamodule.batch_size for t in found.trainers] == [8, 8]
    assert [t.callbacks[0].optimal_batch_size for t in found.trainers] == [8, 8]


class Estimated(Searched):
    """Creates the loaders before the batch size is searched."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=2 * steps)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


@pytest.mark.parametrize("step", [4, 6])
def test_both_searches_with_loaders_that_exist_before(tmp_path: Path, step: int) -> None:
    uri = vectors(tmp_path, 32)
    both = lambda: [*batch_size_finder(), *lr_finder()]  # noqa: E731
    assert_exact(
        resumed(tmp_path, Estimated, dtool(uri, val_split=0.25), step, callbacks=both, when=INSIDE, max_epochs=4)
    )


def test_a_script_that_tunes_before_it_fits_resumes(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()

    class Tuned(Searched):
        def on_fit_start(self) -> None:
            self.epochs.clear()

    def tuned() -> Tuned:
        module = Tuned()
        Tuner(trainer(tmp_path, enable_checkpointing=False)).lr_find(module, loader(shuffle=True), num_training=15)
        return module

    assert_exact(resumed(tmp_path, tuned, lambda: loader(shuffle=True), step=12))


def test_a_finder_that_only_the_resumed_run_has_is_left_out_with_a_warning(tmp_path: Path) -> None:
    whole, _, provenance = fit(tmp_path / "whole", Searched, loader)
    with pytest.warns(match="LearningRateFinder did not search in the earlier run, and is left out in this one"):
        rest, _, _ = fit(tmp_path / "rest", Searched, loader, lr_finder, ckpt=at_step(provenance, 12).uri)
    assert rest.epochs == whole.epochs
    assert all(torch.equal(one, two) for one, two in zip(*(weights(m).values() for m in (whole, rest)), strict=True))


def test_a_batch_size_that_was_found_and_is_not_set_now_gives_a_warning(tmp_path: Path) -> None:
    uri = vectors(tmp_path, 32)
    _, _, provenance = fit(tmp_path / "whole", TinyNet, dtool(uri, val_split=0.25), batch_size_finder)
    with pytest.warns(match="BatchSizeFinder had set batch_size to 8, and without it that is 4"):
        fit(tmp_path / "rest", TinyNet, dtool(uri, val_split=0.25), ckpt=at_step(provenance, 3).uri)


def test_a_search_that_a_hook_makes_itself_does_not_replace_the_checkpoint(tmp_path: Path) -> None:
    class ByHand(Searched):
        def on_fit_start(self) -> None:
            _lr_find(self.trainer, self, num_training=15)

    found = resumed(tmp_path, ByHand, lambda: loader(shuffle=True), step=12)
    assert found.rest.epochs[-1:] == [2]
    assert found.trainers[1].global_step == 18
    assert "the tuner searched again before training went on" in found.reasons[0]


class Ends(Searched):
    """A module that acts when training ends, which trial steps do, too."""

    def on_train_end(self) -> None:
        pass


def test_the_end_of_a_search_is_not_the_end_of_training(tmp_path: Path) -> None:
    assert_exact(resumed(tmp_path, Ends, lambda: loader(shuffle=True), step=12, callbacks=lr_finder))


class SavesAtStart(L.Callback):
    """Saves before the first epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def test_a_checkpoint_after_a_search_begins_with_the_first_epoch(tmp_path: Path) -> None:
    path = tmp_path / "start.ckpt"
    both = lambda: [*lr_finder(), SavesAtStart(path)]  # noqa: E731
    whole, _, _ = fit(tmp_path / "whole", Searched, lambda: loader(shuffle=True), both)
    rest, _, _ = fit(tmp_path / "rest", Searched, lambda: loader(shuffle=True), lr_finder, ckpt=str(path), seed=2)
    assert rest.epochs == whole.epochs
    assert all(torch.equal(one, two) for one, two in zip(*(weights(m).values() for m in (whole, rest)), strict=True))


def test_a_trainer_that_tunes_and_then_resumes(tmp_path: Path) -> None:
    def tuned(folder: Path, ckpt: str | None = None) -> tuple[Searched, DtoolProvenanceCallback]:
        (folder / "models").mkdir(parents=True)
        L.seed_everything(1, verbose=False)
        module, data = Searched(), loader(shuffle=True)
        provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all")
        t = trainer(folder, ModelCheckpoint(folder / "ckpt", save_top_k=-1), provenance, max_epochs=3)
        Tuner(t).lr_find(module, data, num_training=15)
        t.fit(module, data, ckpt_path=ckpt)
        return module, provenance

    whole, provenance = tuned(tmp_path / "whole")
    rest, _ = tuned(tmp_path / "rest", at_step(provenance, 12).uri)
    assert rest.epochs[-1:] == [2]
    assert rest.lr == whole.lr != 0.05
    assert all(torch.equal(one, two) for one, two in zip(*(weights(m).values() for m in (whole, rest)), strict=True))
