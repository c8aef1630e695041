"""Reruns of trainings that a signal or an exception has ended, and of checkpoints saved at unusual moments."""

import contextlib
from pathlib import Path

import pytest

from lightning_dtool import Verdict, reproduce
from reproduction.runs import only_checkpoint, places, project, train


def interrupted(folder: Path, hook: str, how: str) -> tuple[str, Path]:
    """Train until the run is interrupted or ends. Return the URI of its only checkpoint, and a folder for reruns."""
    models, into = places(folder, "models", "into")
    flag = folder / "flag"
    flag.touch()
    made = project(folder, "interrupted.py", "seeded.py")
    with contextlib.suppress(Exception):  # the exit code of an interrupted run
        train(made, "interrupted.py", str(models), str(flag), hook, how)
    return only_checkpoint(models), into


@pytest.mark.parametrize(
    ("hook", "how"),
    [
        ("on_train_batch_end", "sigterm"),
        pytest.param("on_train_batch_start", "interrupt", marks=pytest.mark.slow),
        pytest.param("on_validation_batch_start", "interrupt", marks=pytest.mark.slow),
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
