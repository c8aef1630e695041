"""Credentials among hyperparameters are told before training begins, for the DataModule, too."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.errors import ProvenanceWarning


class Data(LightningDataModule):
    def __init__(self, db_pw: str) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return loader(8)


def test_those_of_a_datamodule_are_told(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    callback = DtoolProvenanceCallback(tmp_path / "models")
    with pytest.warns(ProvenanceWarning, match="hyperparameter of the DataModule 'db_pw' looks like a credential"):
        trainer(tmp_path, callback, max_epochs=1).fit(TinyNet(), datamodule=Data("hunter2-x"))
    assert callback.last_uri is not None
    record = DtoolCheckpoint.from_uri(callback.last_uri).record
    assert "checkpoint.datamodule_hyper_parameters.db_pw" in [gap.fact for gap in record.gaps]
    assert "hunter2-x" not in record.model_dump_json()
