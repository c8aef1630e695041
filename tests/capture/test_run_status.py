"""The status of a run after an exception."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.capture.run_status import status_after


class OptunaError(Exception):
    pass


class TrialPruned(OptunaError):
    pass


class PrunedHere(TrialPruned):
    pass


class StopTrial(Exception):
    pass


class PruningFailed(Exception):
    """Not the end of a trial, but an error of a pruning library."""


@pytest.mark.parametrize(
    ("exception", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SIGTERMException(), "interrupted"),
        (SystemExit(), "interrupted"),
        (SystemExit(0), "interrupted"),
        (SystemExit(1), "failed"),
        (SystemExit("no data"), "failed"),
        (TrialPruned(), "pruned"),
        (PrunedHere("epoch 1"), "pruned"),
        (StopTrial(), "pruned"),
        (PruningFailed(), "failed"),
        (RuntimeError(), "failed"),
        (StopIteration(), "failed"),
    ],
    ids=repr,
)
def test_the_status_after_an_exception(exception: BaseException, status: str) -> None:
    assert status_after(exception) == status


@pytest.mark.parametrize(("raised", "status"), [(TrialPruned, "pruned"), (SystemExit, "interrupted")])
def test_the_datasets_of_a_run_have_its_status(tmp_path: Path, raised: Any, status: str) -> None:
    class Stopped(TinyNet):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                raise raised

    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
    with pytest.raises(raised):
        trainer(tmp_path, provenance, ModelCheckpoint(save_last=True)).fit(Stopped(), loader())
    assert DtoolCheckpoint.from_uri(provenance.last_uri).annotations["run_status"] == status
