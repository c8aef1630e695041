"""Reproduction of the quickstart, which packs its own data: unchanged, with other seeds, and broken."""

import shutil
from pathlib import Path

import pytest

import lightning_dtool
from lightning_dtool import rerun
from lightning_dtool.results.reproduction import Verdict
from reproduction.runs import only_checkpoint, train

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of the quickstart's checkpoint."""
    folder = tmp_path_factory.mktemp("digits")
    made = folder / "project" / "examples"
    made.mkdir(parents=True)
    (made.parent / "pyproject.toml").touch()
    shutil.copy(QUICKSTART, made)
    train(folder, str(made / "quickstart.py"))
    return only_checkpoint(folder / "quickstart" / "models")


@pytest.mark.slow
def test_a_script_that_packs_its_dataset_is_reproduced(digits: str, tmp_path: Path) -> None:
    found = lightning_dtool.reproduce(digits, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    assert found.comparison is not None
    assert found.comparison.identical
    assert {row.name for row in found.metrics} == {"val_accuracy", *(f"recall[{digit}]" for digit in range(10))}


@pytest.mark.slow
def test_the_recorded_accuracy_lies_in_the_interval_of_other_seeds(digits: str, tmp_path: Path) -> None:
    found = lightning_dtool.reproduce(digits, into=tmp_path / "into", runs=8)
    assert found.verdict is Verdict.IDENTICAL, found
    assert found.runs == 8
    (accuracy,) = [row for row in found.metrics if row.name == "val_accuracy"]
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low < accuracy.recorded < accuracy.high
    assert accuracy.high - accuracy.low < 0.2


@pytest.mark.slow
def test_a_broken_script_is_outside_the_interval(digits: str, tmp_path: Path) -> None:
    broken = tmp_path / "project" / "examples"
    broken.mkdir(parents=True)
    text = QUICKSTART.read_text()
    assert "lr: float = 3e-3" in text
    (broken / "quickstart.py").write_text(text.replace("lr: float = 3e-3", "lr: float = 3e-6"))

    found = lightning_dtool.reproduce(digits, into=tmp_path / "into", source=broken.parent, runs=8)
    assert found.verdict is Verdict.DIFFERENT, found
    assert "val_accuracy" in found.reason
    (accuracy,) = [row for row in found.metrics if row.name == "val_accuracy"]
    assert accuracy.inside is False
    assert any("options.lr: 0.003 -> 3e-06" in factor for factor in found.factors), found.factors


def test_a_recorded_dataset_is_redirected_unless_the_rerun_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, absent = f"file://host{tmp_path}/made", f"file://host{tmp_path}/absent"
    (tmp_path / "made").mkdir()
    plan = rerun.Plan(
        original={}, kind=rerun.REPRODUCE, into="", scratch=str(tmp_path), report="",
        target=rerun.Target(0, 0, 0, ""), uris={made: "s3://lab/a", absent: "s3://lab/b"},
    )  # fmt: skip
    monkeypatch.setattr("lightning_dtool.rerun.plan.current_plan", lambda: plan)
    assert rerun.redirect_uri(made) == made
    assert rerun.redirect_uri(absent) == "s3://lab/b"
    assert rerun.redirect_uri("s3://lab/c") == "s3://lab/c"
