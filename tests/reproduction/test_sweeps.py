"""Reruns of the fits of a sweep, of which a pool of processes or Hydra makes many in one run of the script."""

from pathlib import Path

import pytest

from lightning_dtool import DtoolCheckpoint, Verdict, reproduce
from lightning_dtool.store import iter_datasets
from reproduction.runs import places, project, train


@pytest.mark.parametrize(
    ("method", "workers", "chosen"),
    [
        ("fork", 1, slice(1, 2)),  # one fit of three: each rerun takes a process of its own
        pytest.param("fork", 1, slice(None), marks=pytest.mark.slow),
        pytest.param("spawn", 2, slice(None), marks=pytest.mark.slow),
    ],
)
def test_each_fit_of_a_pool_of_processes_is_reproduced(
    tmp_path: Path, method: str, workers: int, chosen: slice
) -> None:
    models, into = places(tmp_path, "models", "into")
    train(project(tmp_path, "sweep.py"), "sweep.py", method, str(workers))
    recorded = [DtoolCheckpoint.from_uri(dataset.uri) for dataset in iter_datasets(str(models))]
    assert len(recorded) == 3
    for checkpoint in recorded[chosen]:
        outcome = reproduce(checkpoint.uri, into=into)
        assert outcome.verdict is Verdict.IDENTICAL, (checkpoint.record.model.arguments, outcome.reason)
        again = DtoolCheckpoint.from_uri(outcome.rerun.uri).record
        assert again.model.arguments == checkpoint.record.model.arguments
        assert again.data.training_identity() == checkpoint.record.data.training_identity()


@pytest.mark.slow
def test_a_fit_that_no_process_of_a_pool_makes_is_not_compared_with_another(tmp_path: Path) -> None:
    models, into = places(tmp_path, "models", "into")
    folder = project(tmp_path, "sweep.py")
    train(folder, "sweep.py", "fork", "1")
    uri = next(
        dataset.uri
        for dataset in iter_datasets(str(models))
        if DtoolCheckpoint.from_uri(dataset.uri).record.model.arguments == {"lr": 0.1}
    )
    script = folder / "sweep.py"
    script.write_text(script.read_text().replace("(0.1, 0)", "(0.2, 0)"))
    outcome = reproduce(uri, into=into, source=folder)
    assert outcome.verdict is Verdict.COULD_NOT_RUN
    assert "none of them has the arguments and the data of the recorded one" in outcome.reason


HYDRA = """
import hydra
import lightning as L
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_dtool import DtoolProvenanceCallback


class Net(BoringModel):
    def __init__(self, lr):
        super().__init__()
        self.save_hyperparameters()


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    for _ in range(2):
        L.seed_everything(1)
        callback = DtoolProvenanceCallback(MODELS, name=f"net-{cfg.lr}")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = L.Trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0, callbacks=[callback], **quiet)
        trainer.fit(Net(cfg.lr))


main()
"""


@pytest.mark.slow
def test_a_job_of_a_hydra_sweep_is_reproduced(tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    models, into, folder = places(tmp_path, "models", "into", "project/conf")
    (folder / "config.yaml").write_text("lr: 0.1\n")
    (folder.parent / "train.py").write_text(HYDRA.replace("MODELS", repr(str(models))))
    train(folder.parent, "train.py", "--multirun", "lr=0.1,0.2")
    recorded = [DtoolCheckpoint.from_uri(dataset.uri) for dataset in iter_datasets(str(models))]
    assert sorted((c.record.run.fit_index, c.record.model.arguments["lr"]) for c in recorded) == [
        (0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2),
    ]  # fmt: skip
    for checkpoint in recorded:
        if checkpoint.record.model.arguments["lr"] == 0.2:
            outcome = reproduce(checkpoint.uri, into=into)
            assert outcome.verdict is Verdict.IDENTICAL, outcome.reason
            again = DtoolCheckpoint.from_uri(outcome.rerun.uri).record
            assert again.model.arguments == checkpoint.record.model.arguments
