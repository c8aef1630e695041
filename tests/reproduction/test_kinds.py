"""Reproduction of every kind of training and of several ways to start one, and replication on new data."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import lightning_dtool
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.results.reproduction import Replication, Verdict
from lightning_dtool.store import DatasetWriter, FrozenDataset
from reproduction.runs import SCRIPTS, ZOO, only_checkpoint, places, project, train
from zoo import ZOO as KINDS

LOADERS = "loader(1, shuffle=True), loader(2, shuffle=False)"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training_is_reproduced(tmp_path: Path, kind: str) -> None:
    made, (models,) = project(tmp_path, "zoo_run.py"), places(tmp_path, "models")
    shutil.copy(ZOO, made)
    train(made, "zoo_run.py", kind, str(models))
    shutil.rmtree(made)
    logs = tmp_path / "logs"
    shutil.rmtree(logs)

    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)
    assert found.comparison is not None
    assert found.comparison.identical
    assert not logs.exists()


@pytest.mark.parametrize("logger", ["true", "false"])
def test_a_project_of_lightning_cli_is_reproduced(tmp_path: Path, logger: str) -> None:
    made, (models,) = project(tmp_path, "classifier_cli.py"), places(tmp_path, "models")
    options = [
        "--trainer.logger",
        logger,
        "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    train(made, "classifier_cli.py", "fit", *options, LIGHTNING_DTOOL_BASE_URI=str(models))

    # A default that the recorded configuration contains, too.
    (made / "classifier_cli.py").write_text(
        (made / "classifier_cli.py").read_text().replace("lr: float = 1.0", "lr: float = 0.5")
    )
    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into", source=made)
    assert found.verdict is Verdict.DIFFERENT, found
    assert any("hyperparameters.lr: 1.0 -> 0.5" in factor for factor in found.factors), found.factors
    assert any("made anew from the recorded arguments" in note for note in found.notes), found.notes

    shutil.rmtree(made)
    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)


def test_an_unseeded_script_without_the_callback_is_reproduced_from_saved_initial_weights(tmp_path: Path) -> None:
    made, (models, kept) = project(tmp_path, "never_seeds.py"), places(tmp_path, "models", "kept")
    train(made, "never_seeds.py", LIGHTNING_DTOOL_BASE_URI=str(models))
    uri = only_checkpoint(models)
    record = DtoolCheckpoint.from_uri(uri).record
    assert record.randomness.repeatable_by is None
    assert "randomness.repeatable_by" in [gap.fact for gap in record.gaps]
    found = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    assert found.verdict is Verdict.DIFFERENT
    assert any("was not seeded" in note and "save_initial_weights" in note for note in found.notes)

    variables = {"LIGHTNING_DTOOL_BASE_URI": str(kept), "LIGHTNING_DTOOL_SAVE_INITIAL_WEIGHTS": "1"}
    train(made, "never_seeds.py", **variables)
    uri = only_checkpoint(kept)
    assert DtoolCheckpoint.from_uri(uri).record.randomness.repeatable_by == "initial_weights"
    found = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)


def test_a_script_that_seeds_each_generator_itself_is_reproduced(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path), places(tmp_path, "models")
    text = (SCRIPTS / "seeded.py").read_text()
    by_hand = "torch.manual_seed(1)\n    np.random.seed(2)\n    random.seed(3)"
    drawn = "import random\n\nimport numpy as np\n\nrandom.random()\nnp.random.rand()\n"
    (made / "seeded.py").write_text(drawn + text.replace("L.seed_everything(1)", by_hand))
    train(made, "seeded.py", str(models))
    uri = only_checkpoint(models)
    record = DtoolCheckpoint.from_uri(uri).record
    assert record.randomness.repeatable_by == "seed"
    assert record.randomness.seeds == {"torch": 1, "numpy": 2, "python": 3}

    found = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)


def test_a_module_with_relative_imports_is_reproduced(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path), places(tmp_path, "models")
    package = made / "src" / "leaves"
    package.mkdir(parents=True)
    (made / "pyproject.toml").write_text("[project]\nname = 'leaves'\n")
    (package / "__init__.py").write_text("")
    text = (SCRIPTS / "seeded.py").read_text()
    net, main = text.split('if __name__ == "__main__":\n')
    (package / "net.py").write_text(net)
    lines = ["import sys", "import lightning as L", "from lightning_dtool import DtoolProvenanceCallback"]
    lines += ["from .net import Net, loader", 'if __name__ == "__main__":']
    (package / "train.py").write_text("\n".join(lines) + "\n" + main)
    train(made / "src", "-m", "leaves.train", str(models))
    shutil.rmtree(made)

    uri = only_checkpoint(models)
    found = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)
    assert found.rerun is not None
    before, after = (DtoolCheckpoint.from_uri(place).record.code for place in (uri, found.rerun.uri))
    assert after.files == before.files
    assert after.modules == before.modules
    assert after.run_as_module == before.run_as_module == "leaves.train"


def test_a_module_of_a_package_without_git_or_pyproject_is_reproduced(tmp_path: Path) -> None:
    models, made = places(tmp_path, "models", "project/package/part")
    for folder in (made, made.parent):
        (folder / "__init__.py").touch()
    text = (SCRIPTS / "seeded.py").read_text().replace("8, 16", "8, WIDTH").replace("16, 3", "WIDTH, 3")
    (made / "train.py").write_text(f"from ..sizes import WIDTH\n{text}")
    (made.parent / "sizes.py").write_text("WIDTH = 12\n")
    train(made.parent.parent, "-m", "package.part.train", str(models))
    shutil.rmtree(made.parent)
    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)


def test_the_cells_of_a_notebook_are_reproduced(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path), places(tmp_path, "models")
    cells = (SCRIPTS / "seeded.py").read_text().replace("sys.argv[1:]", f"[{str(models)!r}]")
    # As in IPython: `In` holds the cells, and `get_ipython` exists.
    runner = f"cells = {cells!r}\nIn = ['', cells]\nget_ipython = lambda: None\nimport linecache\n"
    runner += "linecache.cache['cell'] = (len(cells), None, cells.splitlines(True), 'cell')\n"
    runner += "exec(compile(cells, 'cell', 'exec'))\n"
    train(made, "-c", runner)
    shutil.rmtree(made)

    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)


def arrays(base: Path, name: str, seed: int, count: int = 48) -> FrozenDataset:
    numbers = np.random.default_rng(seed)
    x = numbers.normal(size=(count, 8)).astype(np.float32)
    with DatasetWriter(name, str(base)) as writer:
        for relpath, array in (("data.npy", x), ("labels.npy", x[:, :3].argmax(1))):
            with writer.open(relpath) as file:
                np.lib.format.write_array(file, array)
        return writer.commit()


@pytest.fixture
def on_arrays(tmp_path: Path) -> str:
    """Return the URI of a checkpoint that was trained with a DtoolDataModule."""
    made, (models, data) = project(tmp_path, "seeded.py"), places(tmp_path, "models", "data")
    dataset = arrays(data, "arrays", 1)
    text = (made / "seeded.py").read_text()
    text = text.replace("import DtoolProv", "import DtoolDataModule, DtoolProv")
    text = text.replace(LOADERS, "DtoolDataModule(options[0], val_split=0.25)")
    (made / "seeded.py").write_text(text)
    train(made, "seeded.py", str(models), dataset.uri)
    shutil.rmtree(made)
    return only_checkpoint(models)


def test_reruns_with_other_seeds_give_the_tolerance(on_arrays: str, tmp_path: Path) -> None:
    # The learning rate differs slightly: other bits, but metrics within the range of other seeds.
    made = project(tmp_path / "mine", "seeded.py")
    text = (made / "seeded.py").read_text().replace("lr: float = 0.01", "lr: float = 0.010001")
    text = text.replace("import DtoolProv", "import DtoolDataModule, DtoolProv")
    text = text.replace(LOADERS, "DtoolDataModule(options[0], val_split=0.25)")
    (made / "seeded.py").write_text(text)

    found = lightning_dtool.reproduce(on_arrays, into=tmp_path / "into", source=made, runs=4)
    assert found.runs == 4
    assert found.verdict is Verdict.WITHIN_TOLERANCE, found
    (loss,) = [row for row in found.metrics if row.name == "train_loss"]
    assert loss.low is not None
    assert loss.high is not None
    assert loss.low < loss.recorded < loss.high


def test_a_replication_trains_on_new_data(on_arrays: str, tmp_path: Path) -> None:
    places(tmp_path, "new")
    train_data = arrays(tmp_path / "new", "new", 2, count=64)
    val_data = arrays(tmp_path / "new", "val", 3, count=16)

    found = lightning_dtool.replicate(on_arrays, train_data.uri, val_data.uri, into=tmp_path / "into")
    assert isinstance(found, Replication)
    assert found.verdict is Verdict.DIFFERENT, found
    assert found.rerun is not None
    record = DtoolCheckpoint.from_uri(found.rerun.uri).record
    assert record.lineage.replicates == found.original
    assert record.lineage.reproduces is None
    stages = {stage: [source.dataset for source in sources] for stage, sources in record.data.stages.items()}
    assert [dataset.uuid for dataset in stages["train"] if dataset is not None] == [train_data.uuid]
    assert [dataset.uuid for dataset in stages["val"] if dataset is not None] == [val_data.uuid]
    assert record.data.stages["train"][0].count == 64
    assert FrozenDataset.from_uri(found.rerun.uri).annotation("replicates_uuid") == found.original.uuid


def test_a_training_of_two_processes_is_reproduced_with_other_seeds(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path, "on_two_processes.py", "seeded.py"), places(tmp_path, "models")
    train(made, "on_two_processes.py", str(models), OMP_NUM_THREADS="1")
    shutil.rmtree(made)

    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into", runs=3)
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)
    assert found.runs == 3
    (loss,) = [row for row in found.metrics if row.name == "both_loss"]
    assert len(set(loss.values)) == 3
    assert loss.recorded not in loss.values
    assert loss.low is not None
    assert loss.low >= 0  # as a cross-entropy is
