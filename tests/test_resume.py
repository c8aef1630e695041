"""Runs resumed from the URI of a checkpoint: bitwise equal to an uninterrupted run, or with a warning.

`resume_matrix.py` runs the cases of `resume_cases/`. Some of them run here, and all of them with `-m slow`.
"""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner import Tuner

from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.errors import ProvenanceWarning, RecordError
from lightning_dtool.items import RESUMPTION_SECTION
from resume_cases.case import ANNOUNCED, ITS_OWN, Case
from resume_cases.kinds import combinations, training_of
from resume_cases.running import judge, run
from resume_cases.stops import STOPS
from resume_matrix import cases, kinds

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

AUGMENTED = "DtoolDataModule, random augmentation"

EXACT = [
    *(Case(where, AUGMENTED) for where in STOPS if where != "on exception in a batch" and "longer" not in where),
    Case("end of epoch", "DataLoader"),
    Case("end of validation", "DataLoader with generator"),
    Case("end of epoch", "DataLoader, random augmentation", workers="2"),
    Case("end of validation", "train_dataloader() that draws"),
    Case("inside an epoch", AUGMENTED, workers="2"),
    Case("end of epoch", AUGMENTED, workers="persistent"),
    Case("inside an epoch", AUGMENTED, workers="persistent"),
    Case("inside an epoch", model="gradient accumulation"),
    Case("inside an epoch", model="OneCycleLR"),
    Case("end of epoch", model="ReduceLROnPlateau"),
    Case("end of validation", model="ReduceLROnPlateau on validation"),
    Case("at the last batch", model="ReduceLROnPlateau by step"),
    Case("end of epoch", model="SWA"),
    Case("inside an epoch", model="GAN with two optimizers"),
    Case("end of epoch", model="LBFGS"),
    Case("end of epoch", model="max_steps"),
    Case("inside an epoch", processes=2),
    Case("end of epoch", AUGMENTED, workers="2", processes=2),
]  # fmt: skip


def _takes_long(case: Case) -> bool:
    return case.workers == "2" and (case.processes > 1 or case.where == "end of epoch")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if _takes_long(case) else []) for case in EXACT],
)
def test_resume_equals_an_uninterrupted_run(tmp_path: Path, case: Case) -> None:
    assert run(case, tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case("inside an epoch", "DataLoader"), "starts that epoch from its beginning"),
        (Case("end of epoch", "DataLoader, random augmentation", workers="persistent"), "has persistent workers"),
        (
            Case("on exception in a batch"),
            "saved inside a batch, which is repeated: changes that this batch had already made",
        ),
    ],
    ids=["plain loader inside an epoch", "persistent workers that draw", "exception inside a batch"],
)
def test_an_inexact_resume_gives_a_warning(tmp_path: Path, case: Case, reason: str) -> None:
    differing, reasons = run(case, tmp_path)
    assert "weights" in differing
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=[case.name for case in cases()])
def test_each_case_of_the_matrix_is_exact_or_gives_a_warning(case: Case) -> None:
    row = judge(case)
    assert row["verdict"] in ("equal", ANNOUNCED), row


# One in six of the trainings is stopped here, at one of the places. All are stopped, at both, with `-m slow`.
CHOSEN = [case for number, case in enumerate(kinds()) if number % 24 in (0, 7)]


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_state_that_lightning_does_not_save_is_restored_or_announced(case: Case) -> None:
    row = judge(case)
    assert row["verdict"] in ("equal", ANNOUNCED), row


@pytest.mark.slow
@pytest.mark.parametrize("name", combinations(seed=5, count=60))
@pytest.mark.parametrize("where", ["end of epoch", "inside an epoch"])
def test_two_kinds_of_state_at_once_are_restored_or_announced(name: str, where: str) -> None:
    row = judge(Case(where, ITS_OWN if training_of(name).data else "DtoolDataModule", name))
    assert row["verdict"] in ("equal", ANNOUNCED), row


# -- other ways to resume and save ----------------------------------------------------------------


def fit(folder: Path, epochs: int, ckpt: str | None = None, callback: bool = True, **options: Any) -> Any:
    (folder / "models").mkdir(parents=True, exist_ok=True)
    L.seed_everything(3, verbose=False)
    provenance = [DtoolProvenanceCallback(str(folder / "models"), retention="all")] if callback else []
    module = TinyNet()
    t = trainer(folder, *provenance, max_epochs=epochs, **options)
    t.fit(module, loader(shuffle=True), ckpt_path=ckpt)
    return t, module, provenance[0] if provenance else None


def test_resuming_from_the_local_path_equals_resuming_from_the_uri(tmp_path: Path) -> None:
    _, whole, _ = fit(tmp_path / "whole", 4)
    stopped, _, provenance = fit(tmp_path / "stopped", 2)
    _, by_path, _ = fit(tmp_path / "path", 4, stopped.checkpoint_callback.best_model_path)
    _, by_uri, _ = fit(tmp_path / "uri", 4, provenance.last_uri)
    assert same(weights(whole), weights(by_path))
    assert same(weights(whole), weights(by_uri))


def test_without_the_callback_lightning_resumes_as_usual(tmp_path: Path) -> None:
    """Lightning must ignore the section in the checkpoint, without a warning or an error."""
    _, _, provenance = fit(tmp_path / "stopped", 2)
    path = DtoolCheckpoint.from_uri(provenance.last_uri).path
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path / "resumed", 3, str(path), callback=False)
    assert not any("Dtool" in str(each.message) for each in caught)


def test_a_checkpoint_without_a_section_gives_a_warning(tmp_path: Path) -> None:
    stopped, _, _ = fit(tmp_path / "stopped", 1, callback=False)
    with pytest.warns(ProvenanceWarning, match="may differ .* saved without DtoolProvenanceCallback"):
        fit(tmp_path / "resumed", 2, stopped.checkpoint_callback.best_model_path)


def test_weights_only_checkpoints_have_no_section(tmp_path: Path) -> None:
    policy = ModelCheckpoint(tmp_path / "ckpt", save_weights_only=True)
    _, _, provenance = fit(tmp_path, 1, callbacks=[policy, DtoolProvenanceCallback(str(tmp_path))], callback=False)
    assert provenance is None
    assert RESUMPTION_SECTION not in torch.load(policy.best_model_path, weights_only=True)


def changed(folder: Path, change: Any) -> str:
    """Return the path of a checkpoint whose section was changed."""
    _, _, provenance = fit(folder, 1)
    state = torch.load(DtoolCheckpoint.from_uri(provenance.last_uri).path, weights_only=True)
    state[RESUMPTION_SECTION] = change(state[RESUMPTION_SECTION])
    torch.save(state, folder / "changed.ckpt")
    return str(folder / "changed.ckpt")


@pytest.mark.parametrize("damage", [
    lambda section: "nothing", lambda section: {}, lambda section: {**section, "moment": "yesterday"},
    lambda section: {**section, "ranks": [{"random": {}}]},
])  # fmt: skip
def test_a_damaged_section_is_an_error_before_training(tmp_path: Path, damage: Any) -> None:
    path = changed(tmp_path / "stopped", damage)
    with pytest.raises(RecordError, match="delete this key"):
        fit(tmp_path / "resumed", 2, path)


def test_a_newer_section_gives_a_warning(tmp_path: Path) -> None:
    path = changed(tmp_path / "stopped", lambda section: {**section, "version": 99})
    with pytest.warns(ProvenanceWarning, match="has version 99, and this release of lightning-dtool reads version 1"):
        fit(tmp_path / "resumed", 2, path)


def test_another_number_of_processes_gives_a_warning(tmp_path: Path) -> None:
    path = changed(tmp_path / "stopped", lambda section: {**section, "ranks": section["ranks"] * 2})
    with pytest.warns(ProvenanceWarning, match="number of processes was 2 at the save and is 1 now"):
        fit(tmp_path / "resumed", 2, path)


def test_an_inexact_resume_is_a_gap_in_the_record(tmp_path: Path) -> None:
    policy = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=2, save_top_k=-1)
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    trainer(tmp_path, provenance, policy, max_epochs=1).fit(TinyNet(), loader(samples=32))
    inside, last = (DtoolCheckpoint.from_uri(uri).record for uri in provenance.uris)
    assert (inside.checkpoint.global_step, last.checkpoint.global_step) == (2, 4)
    (gap,) = [gap for gap in inside.gaps if gap.fact == "checkpoint.resume"]
    assert "DataLoader train[0] starts that epoch from its beginning" in gap.reason
    assert not any(gap.fact == "checkpoint.resume" for gap in last.gaps)


class SavesInHook(L.Callback):
    """Calls `save_checkpoint` in a given hook."""

    def __init__(self, hook: str, path: Path) -> None:
        self.path = path
        setattr(self, hook, self.save)

    def save(self, t: L.Trainer, *_: Any) -> None:
        if not t.sanity_checking and t.current_epoch == 1 and not self.path.exists():
            t.save_checkpoint(self.path)


@pytest.mark.parametrize(
    "hook", ["on_validation_end", "on_validation_epoch_end", "on_validation_batch_end", "on_train_epoch_end"]
)
def test_a_checkpoint_saved_in_a_hook_of_the_user_resumes_exactly(tmp_path: Path, hook: str) -> None:
    def validated(folder: Path, *callbacks: L.Callback, ckpt: str | None = None) -> dict[str, torch.Tensor]:
        (folder / "models").mkdir(parents=True)
        L.seed_everything(3, verbose=False)
        module = TinyNet()
        t = trainer(folder, *callbacks, DtoolProvenanceCallback(str(folder / "models")), max_epochs=3)
        t.fit(module, loader(shuffle=True), loader(samples=16), ckpt_path=ckpt)
        return weights(module)

    path = tmp_path / "by-hand.ckpt"
    whole = validated(tmp_path / "whole", SavesInHook(hook, path))
    assert same(whole, validated(tmp_path / "resumed", ckpt=str(path)))


def test_a_checkpoint_saved_inside_a_batch_gives_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "by-hand.ckpt"
    (tmp_path / "models").mkdir()
    callbacks = [SavesInHook("on_train_batch_start", path), DtoolProvenanceCallback(str(tmp_path / "models"))]
    trainer(tmp_path, *callbacks).fit(TinyNet(), loader())
    with pytest.warns(ProvenanceWarning, match="inside a batch, which is repeated with other random numbers"):
        fit(tmp_path / "resumed", 3, str(path))


def test_the_tuner_loads_its_own_checkpoints_as_without_the_callback(tmp_path: Path) -> None:
    """`lr_find` saves, trains and restores: restoring random states there would change the training."""

    def tuned(*callbacks: L.Callback) -> dict[str, torch.Tensor]:
        L.seed_everything(4, verbose=False)
        module = TinyNet()
        module.lr = 0.1
        t = trainer(tmp_path, *callbacks, enable_checkpointing=bool(callbacks))
        data = loader(shuffle=True)
        Tuner(t).lr_find(module, data, num_training=5, max_lr=0.2)
        t.fit(module, data)
        return weights(module)

    (tmp_path / "models").mkdir()
    assert same(tuned(), tuned(DtoolProvenanceCallback(str(tmp_path / "models"))))


def test_a_trainer_that_fits_again_continues_from_its_present_state(tmp_path: Path) -> None:
    """The methods that an earlier fit replaced must not act in the second fit."""

    def twice(*callbacks: L.Callback) -> dict[str, torch.Tensor]:
        L.seed_everything(4, verbose=False)
        module, data = TinyNet(), loader(shuffle=True)
        t = trainer(tmp_path, *callbacks, max_epochs=1, enable_checkpointing=bool(callbacks))
        t.fit(module, data)
        t.fit_loop.max_epochs = 3
        t.fit(module, data)
        return weights(module)

    (tmp_path / "models").mkdir()
    assert same(twice(), twice(DtoolProvenanceCallback(str(tmp_path / "models"))))
