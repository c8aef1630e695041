"""A verdict names what may explain a difference: variables that the script reads, and code of other folders."""

import os
import shutil
from pathlib import Path

import pytest

import lightning_dtool
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.results.reproduction import Verdict
from reproduction.runs import only_checkpoint, places, project, train

pytestmark = pytest.mark.usefixtures("forked")


def test_a_variable_that_the_script_reads_is_set_as_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, (models, into) = project(tmp_path, "reads_variables.py"), places(tmp_path, "models", "into")
    train(made, "reads_variables.py", str(models), fresh=False, STEP_SIZE="0.5", STORE_TOKEN="hunter2")
    uri = only_checkpoint(models)
    record = DtoolCheckpoint.from_uri(uri).record
    assert record.environment.variables_read == {"STEP_SIZE": "0.5", "LOSS_SCALE": None, "STORE_TOKEN": "[redacted]"}
    monkeypatch.setenv("STEP_SIZE", "0.1")
    monkeypatch.setenv("LOSS_SCALE", "3")
    monkeypatch.setenv("STORE_TOKEN", "another")
    found = lightning_dtool.reproduce(uri, into=into)
    assert found.verdict is Verdict.IDENTICAL, found
    assert "the variable STEP_SIZE is '0.5', as recorded, and not '0.1'" in found.notes
    assert "the variable LOSS_SCALE is unset, as recorded, and not '3'" in found.notes
    assert any("STORE_TOKEN, which is not recorded in clear" in note for note in found.notes)


HELPER = "def scaled(loss):\n    return loss * {scale}\n"


@pytest.mark.parametrize("how", ["inserted", "PYTHONPATH"])
def test_a_helper_outside_the_project_is_stored_and_used(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, (models, into, shared) = project(tmp_path, "uses_a_helper.py"), places(tmp_path, "models", "into", "shared")
    (shared / "helper.py").write_text(HELPER.format(scale=2))
    searched = {} if how == "inserted" else {"PYTHONPATH": str(shared)}
    train(made, "uses_a_helper.py", str(models), how, fresh=False, **searched)
    uri = only_checkpoint(models)
    record = DtoolCheckpoint.from_uri(uri).record
    assert record.code.modules["helper"] == "outside/helper.py"
    assert "outside/helper.py" in record.code.files
    assert "code.modules" not in [gap.fact for gap in record.gaps]
    shutil.rmtree(shared)
    found = lightning_dtool.reproduce(uri, into=into)
    assert found.verdict is Verdict.IDENTICAL, found


def test_a_changed_helper_is_named(tmp_path: Path) -> None:
    made, (models, into, shared) = project(tmp_path, "uses_a_helper.py"), places(tmp_path, "models", "into", "shared")
    script = made / "uses_a_helper.py"
    script.write_text(
        script.read_text().replace('os.path.join(os.path.dirname(__file__), "..", "shared")', f'"{shared}"')
    )
    (shared / "helper.py").write_text(HELPER.format(scale=2))
    train(made, "uses_a_helper.py", str(models), "inserted", fresh=False)
    (shared / "helper.py").write_text(HELPER.format(scale=3))
    os.utime(shared / "helper.py", (0, 0))  # Python takes a compiled file of the same time and size
    found = lightning_dtool.reproduce(only_checkpoint(models), into=into)
    assert found.verdict is Verdict.DIFFERENT
    assert found.factors[0] == "code.files[outside/helper.py]: -    return loss * 2 | +    return loss * 3"


def test_a_difference_without_a_recorded_cause_names_what_is_not_recorded(tmp_path: Path) -> None:
    made, (models, into) = project(tmp_path, "uses_a_helper.py"), places(tmp_path, "models", "into")
    script = made / "uses_a_helper.py"
    clock = "import time\n\n\ndef scaled(loss):\n    return loss * (time.time_ns() % 1000003)\n"
    (made / "helper.py").write_text(clock)
    script.write_text(script.read_text().replace("torch.ones(8, 2)", "[torch.ones(2)] * 8"))
    train(made, "uses_a_helper.py", str(models), fresh=False)
    found = lightning_dtool.reproduce(only_checkpoint(models), into=into)
    assert found.verdict is Verdict.DIFFERENT
    assert found.factors
    assert any("clock" in line for line in found.factors), found.factors
