"""Reproduction with other code, where only what that code does counts."""

from pathlib import Path

import pytest

import lightning_dtool
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.results.reproduction import Verdict
from reproduction.runs import SCRIPTS, only_checkpoint, places, project, train


@pytest.fixture(scope="module")
def begins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of a checkpoint whose random states and initial weights are recorded."""
    folder = tmp_path_factory.mktemp("begins")
    made, (models,) = project(folder, "begins.py", "seeded.py"), places(folder, "models")
    train(made, "begins.py", str(models), fresh=False)
    return only_checkpoint(models)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ("seed_everything(1)", "seed_everything(2)", "code from"),
        ("SCALE = 0.3", "SCALE = 0.4", "the initial weights differ from the recorded ones"),
        pytest.param("set_num_threads(1)", "set_num_threads(2)", "code from", marks=pytest.mark.slow),
    ],
    ids=["another seed", "another initialisation", "another number of threads"],
)
def test_what_was_recorded_at_the_start_does_not_hide_what_other_code_does_there(
    begins: str, tmp_path: Path, before: str, after: str, note: str
) -> None:
    made = project(tmp_path, "begins.py", "seeded.py")
    text = (made / "begins.py").read_text()
    assert before in text
    (made / "begins.py").write_text(text.replace(before, after))

    found = lightning_dtool.reproduce(begins, into=tmp_path / "into", source=made)
    assert found.rerun is not None, found
    code = DtoolCheckpoint.from_uri(found.rerun.uri).record
    if "threads" in before:
        assert code.randomness.flags["num_threads"] == 2
    else:
        assert found.verdict is Verdict.DIFFERENT, found
    assert any(line.startswith(note) for line in found.notes), found.notes


@pytest.mark.slow
def test_code_without_a_seed_is_said_to_begin_differently_each_time(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path, "begins.py", "seeded.py"), places(tmp_path, "models")
    text = (SCRIPTS / "begins.py").read_text().replace("    L.seed_everything(1)\n", "")
    (made / "begins.py").write_text(text)
    train(made, "begins.py", str(models))
    uri = only_checkpoint(models)

    assert lightning_dtool.reproduce(uri, into=tmp_path / "into").verdict is Verdict.IDENTICAL
    found = lightning_dtool.reproduce(uri, into=tmp_path / "into", source=made)
    assert found.verdict is Verdict.DIFFERENT, found
    assert any("were not restored" in note and "without a seed" in note for note in found.notes), found.notes
