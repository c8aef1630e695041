"""The callback and the DataModule by class path in LightningCLI."""

import sys
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from kit import TinyNet
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback


def test_class_paths_work_on_the_command_line(tmp_path: Path, arrays: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    arguments = [
        "--model=kit.TinyNet",
        "--model.lr=0.01",
        "--data=lightning_dtool.DtoolDataModule",
        f"--data.uri={arrays}",
        "--data.val_split=0.25",
        "--trainer.callbacks+=lightning_dtool.DtoolProvenanceCallback",
        f"--trainer.callbacks.base_uri={tmp_path / 'models'}",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    monkeypatch.setenv(
        "JSONARGPARSE_DEPRECATION_WARNINGS", "off"
    )  # warnings about how Lightning itself calls jsonargparse
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", *arguments])
    cli = LightningCLI(seed_everything_default=1, save_config_kwargs={"overwrite": True})

    (provenance,) = [found for found in cli.trainer.callbacks if isinstance(found, DtoolProvenanceCallback)]
    checkpoint = DtoolCheckpoint.from_uri(provenance.best_uri)
    # The keys that LightningCLI adds (_class_path, _instantiator) are not hyperparameters.
    assert checkpoint.record.model.hyperparameters == {"lr": 0.01, "hidden": 16, "dropout": 0.2}
    assert checkpoint.record.data.datamodule is not None
    assert checkpoint.record.data.datamodule.class_path == "lightning_dtool:DtoolDataModule"
    assert checkpoint.annotations["source_dataset_uuid"] == checkpoint.record.data.stages["train"][0].dataset.uuid
    assert isinstance(checkpoint.load_module(), TinyNet)
    assert DtoolDataModule.from_uri(checkpoint.uri).val_split == 0.25
