"""Reruns of trainings that a signal or an exception has ended, and of checkpoints saved at unusual moments."""

import contextlib
from pathlib import Path

import pytest

from lightning_dtool import DtoolCheckpoint, Verdict, reproduce
from lightning_dtool.store import iter_datasets
from reproduction.runs import places, project, train


def interrupted(folder: Path, hook: str, how: str) -> tuple[str, Path]:
    """Train until the run is interrupted or ends. Return the URI of the checkpoint of that moment, and a folder."""
    models, into = places(folder, "models", "into")
    flag = folder / "flag"
    flag.touch()
    made = project(folder, "interrupted.py", "seeded.py")
    with contextlib.suppress(Exception):  # the exit code of an interrupted run
        train(made, "interrupted.py", str(models), str(flag), hook, how)
    found = [DtoolCheckpoint.from_uri(dataset.uri) for dataset in iter_datasets(str(models))]
    (checkpoint,) = [
        each for each in found if (each.record.checkpoint.epoch, each.record.checkpoint.global_step) == (1, 10)
    ]
    return checkpoint.uri, into


@pytest.mark.parametrize(
    ("hook", "how"),
    [
        ("on_train_batch_end", "sigterm"),
        pytest.param("on_train_batch_start", "interrupt", marks=pytest.mark.slow),
    ],
)
def test_the_checkpoint_of_an_interrupted_run_is_reproduced(tmp_path: Path, hook: str, how: str) -> None:
    uri, into = interrupted(tmp_path, hook, how)
    outcome = reproduce(uri, into=into)
    assert outcome.verdict is Verdict.IDENTICAL, outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_before_zero_grad"])
def test_a_checkpoint_that_a_hook_saves_is_reproduced(tmp_path: Path, hook: str) -> None:
    uri, into = interrupted(tmp_path, hook, "save")
    outcome = reproduce(uri, into=into)
    assert outcome.verdict is Verdict.IDENTICAL, outcome.reason
