"""The callback and the DataModule by class path in LightningCLI."""

import os
import sys
import textwrap
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

import programs
from kit import TinyNet, same, weights
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback
from lightning_dtool.store import iter_datasets


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


SCRIPT = """
    import sys
    import torch
    from kit import TinyNet, loader
    from lightning.pytorch.cli import LightningCLI
    from lightning_dtool import DtoolProvenanceCallback

    class Net(TinyNet):
        def __init__(self, lr: float = 0.1, head: torch.nn.Module = None):
            super().__init__(lr)
            self.head = head

        def train_dataloader(self):
            return loader()

    if __name__ == "__main__":
        options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        options["callbacks"] = DtoolProvenanceCallback(sys.argv.pop())
        saving = {"save_config_kwargs": {"overwrite": True}}
        LightningCLI(TinyNet, subclass_mode_model=True, trainer_defaults=options, **saving)
"""


@pytest.mark.filterwarnings("ignore:Attribute 'head' is an instance of `nn.Module`")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, about Lightning
def test_a_class_of_the_script_in_subclass_mode_is_loaded_with_trust(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    head = ["--model.init_args.head=torch.nn.Linear", "--model.init_args.head.init_args.in_features=3"]
    arguments = ["fit", "--model=__main__.Net", *head, "--model.init_args.head.init_args.out_features=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
    programs.run(tmp_path / "train.py", *arguments, tmp_path / "models", cwd=tmp_path, env=environment)
    (dataset,) = iter_datasets(str(tmp_path / "models"))
    checkpoint = DtoolCheckpoint(dataset)
    loaded = checkpoint.load_module(trust_source=True)
    assert type(loaded).__name__ == "Net"
    assert same(weights(loaded), checkpoint.load_state_dict())
