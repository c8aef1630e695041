"""The entry point: unchanged scripts leave records if an environment variable is set, and nothing otherwise."""

import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import yaml

import programs
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolCheckpointIO, DtoolProvenanceCallback
from lightning_dtool.attach import callbacks
from lightning_dtool.errors import ProvenanceWarning
from lightning_dtool.store import iter_datasets

SCRIPTS = Path(__file__).parent / "scripts"
CLI = ["fit", "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def run(script: str, folder: Path, base_uri: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
    environment.pop("LIGHTNING_DTOOL_BASE_URI", None)
    if base_uri is not None:
        environment["LIGHTNING_DTOOL_BASE_URI"] = base_uri
    project = folder / "project"
    project.mkdir()
    shutil.copy(SCRIPTS / script, project)
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    for arguments_ in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "train"]):
        subprocess.run(["git", *arguments_], cwd=project, check=True)
    return programs.run(project / script, *arguments, cwd=folder, env=environment)


# The gaps in the records of these scripts: their data has no URI and no observable order, and the
# GAN is not seeded.
FOREIGN_DATA = {"data.stages.train[0].dataset", "data.stages.val[0].dataset", "data.order"}


@pytest.mark.parametrize(
    ("script", "arguments", "unknown"),
    [
        ("autoencoder.py", [], FOREIGN_DATA),
        ("gan.py", [], FOREIGN_DATA | {"randomness.global_seed", "randomness.repeatable_by"}),
        ("classifier_cli.py", CLI, FOREIGN_DATA),
    ],
    ids=["autoencoder", "GAN", "LightningCLI"],
)
def test_an_unchanged_script_leaves_a_record(
    tmp_path: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    arguments: list[str],
    unknown: set[str],
) -> None:
    run(script, tmp_path, str(models), *arguments)

    (dataset,) = iter_datasets(str(models))
    checkpoint = DtoolCheckpoint.from_uri(dataset.uri)
    checkpoint.verify()
    record = checkpoint.record
    assert {gap.fact for gap in record.gaps} <= unknown, record.gaps
    assert checkpoint.annotations["run_status"] == "finished"
    assert record.code.entry_point == script
    assert record.code.git is not None
    assert record.code.git.dirty is False
    assert record.loss.calls or record.loss.operations
    assert record.optimizers
    assert len(record.metrics.history) == 2
    if script == "classifier_cli.py":
        assert record.trainer.config is not None
        with zipfile.ZipFile(dataset.path(dataset.item("source.zip").identifier)) as archive:
            config = yaml.safe_load(archive.read(record.trainer.config.file))
        assert config["trainer"]["max_epochs"] == 2
        assert config["model"]["gamma"] == 0.7
    monkeypatch.setenv(
        "JSONARGPARSE_DEPRECATION_WARNINGS", "off"
    )  # warnings about how Lightning itself calls jsonargparse
    assert checkpoint.load_module(trust_source=True) is not None


def test_nothing_happens_without_the_variable(tmp_path: Path) -> None:
    done = run("autoencoder.py", tmp_path, None)
    assert "dtool" not in done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "project"}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_without_the_variable_the_entry_point_loads_nothing() -> None:
    code = "import sys; from lightning_dtool.attach import callbacks; print(callbacks(), 'torch' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "LIGHTNING_DTOOL_BASE_URI"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[] False"


def test_an_explicit_callback_takes_precedence(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    provenance = DtoolProvenanceCallback(str(tmp_path / "mine"))
    t = trainer(tmp_path, provenance)
    t.fit(TinyNet(), loader())
    t.validate(TinyNet(), loader(), verbose=False)

    assert len(provenance.uris) == len(list(iter_datasets(str(tmp_path / "mine")))) == 1
    assert list(models.iterdir()) == []


def test_a_plug_in_sets_the_base_uri_of_the_full_record(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    trainer(tmp_path, plugins=[DtoolCheckpointIO(str(tmp_path / "mine"))]).fit(TinyNet(), loader())

    (dataset,) = iter_datasets(str(tmp_path / "mine"))
    assert DtoolCheckpoint.from_uri(dataset.uri).record.model.class_path == "kit:TinyNet"
    assert list(models.iterdir()) == []


def test_each_of_several_trainers_leaves_its_records(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    monkeypatch.setenv("LIGHTNING_DTOOL_RETENTION", "all")
    t = trainer(tmp_path, max_epochs=1)
    t.validate(TinyNet(), loader(), verbose=False)
    t.fit(TinyNet(), loader())
    trainer(tmp_path / "again", max_epochs=2).fit(TinyNet(), loader())
    assert len(list(iter_datasets(str(models)))) == 3


def test_the_factory_returns_one_callback(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    (callback,) = callbacks()
    assert isinstance(callback, DtoolProvenanceCallback)
    assert callback.state_key != DtoolProvenanceCallback(str(models)).state_key


# -- errors never end the script ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"BASE_URI": "{tmp}/nowhere"}, "This run is not recorded. .*nowhere"),
        ({"BASE_URI": "{tmp}/file"}, "This run is not recorded. .*file"),
        ({"BASE_URI": "s3a://bucket"}, "This Trainer is not recorded.* s3a"),
        ({"BASE_URI": "{tmp}/models", "RETENTION": "some"}, "This Trainer is not recorded.*'some'"),
        (
            {"BASE_URI": "{tmp}/models", "SAVE_INITIAL_WEIGHTS": "perhaps"},
            "not recorded.*SAVE_INITIAL_WEIGHTS='perhaps'",
        ),
        ({"BASE_URI": "{tmp}/models", "FINAL": "2"}, "not recorded.*FINAL='2'"),
    ],
    ids=["missing folder", "a file", "unknown scheme", "retention", "initial weights", "final"],
)
@pytest.mark.parametrize("filters", ["default", "error"])
def test_an_invalid_setting_is_a_warning(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str, filters: str
) -> None:
    (tmp_path / "file").write_text("")
    for name, value in variables.items():
        monkeypatch.setenv(f"LIGHTNING_DTOOL_{name}", value.format(tmp=tmp_path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(filters)
        if filters == "error":
            warnings.filterwarnings("ignore", module="lightning.pytorch")
        t = trainer(tmp_path)
        t.fit(TinyNet(), loader())
    told = [str(warning.message) for warning in caught if isinstance(warning.message, ProvenanceWarning)]
    assert [bool(re.search(message, text)) for text in told] == ([True] if filters == "default" else [])
    assert t.global_step == 12
    assert Path(t.checkpoint_callback.best_model_path).is_file()
    assert not Path(t.checkpoint_callback.best_model_path).is_symlink()
    assert list(models.iterdir()) == []
    assert not any(isinstance(found, DtoolProvenanceCallback) for found in t.callbacks)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_warning(models: Path, tmp_path: Path, monkeypatch) -> None:
    models.chmod(0o500)
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    with pytest.warns(ProvenanceWarning, match="This run is not recorded"):
        trainer(tmp_path).fit(TinyNet(), loader())


@pytest.mark.parametrize("value", ["0", "false", "no", "off", ""])
def test_a_switch_can_be_off(models: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    monkeypatch.setenv("LIGHTNING_DTOOL_SAVE_INITIAL_WEIGHTS", value)
    (callback,) = callbacks()
    assert not callback.save_initial_weights


@pytest.mark.parametrize(
    ("broken", "hook"),
    [
        ("fit_start", "on_fit_start"),
        ("train_start", "on_train_start"),
        ("batch_start", "on_train_batch_start"),
        ("batch_end", "on_train_batch_end"),
        ("epoch_end", "on_train_epoch_end"),
    ],
)
def test_a_hook_that_fails_is_a_gap(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, broken: str, hook: str
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a surprise")

    monkeypatch.setattr(f"lightning_dtool.capture.recorder.Recorder.{broken}", fail)
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    t = trainer(tmp_path)
    with pytest.warns(ProvenanceWarning, match=f"not recorded in full. RuntimeError in {hook}: a surprise") as caught:
        t.fit(TinyNet(), loader())
    assert t.global_step == 12
    assert sum("a surprise" in str(warning.message) for warning in caught) == 1
    (dataset,) = iter_datasets(str(models))
    gaps = [gap for gap in DtoolCheckpoint.from_uri(dataset.uri).record.gaps if "a surprise" in gap.reason]
    assert [gap.fact for gap in gaps] == [f"run.{hook}"]
