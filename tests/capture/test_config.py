"""The configuration of LightningCLI and of Hydra: complete, usable in another run, without secrets."""

import importlib.util
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

import programs
from kit import TinyNet, trainer
from lightning_dtool.capture.config import capture_config
from lightning_dtool.record import Gaps

PROGRAM = """
import json, sys
from pathlib import Path
import lightning as L
from lightning.pytorch.cli import LightningCLI
from kit import TinyNet, loader
from lightning_dtool.capture.config import capture_config
from lightning_dtool.record import Gaps
from lightning_dtool.capture.trainer import capture_trainer

class Data(L.LightningDataModule):
    def __init__(self, samples: int = 16, api_key: str = ""):
        super().__init__()
        self.samples = samples
    def train_dataloader(self): return loader(self.samples)
    def val_dataloader(self): return loader(self.samples)

class Keep(L.Callback):
    def __init__(self, folder: str):
        self.folder = folder
    def on_train_start(self, trainer, pl_module):
        gaps = Gaps()
        config, path, content = capture_config(trainer, gaps)
        Path(self.folder, path).write_bytes(content)
        Path(self.folder, "facts.json").write_text(json.dumps({
            "kind": config.kind, "file": config.file, "gaps": [gap.fact for gap in gaps],
            "trainer": capture_trainer(trainer, Gaps()).model_dump(), "lr": pl_module.hparams["lr"],
            "weights": float(sum(p.sum() for p in pl_module.parameters()))}))

if __name__ == "__main__":
    LightningCLI(TinyNet, Data, save_config_kwargs={"overwrite": True}, seed_everything_default=3)
"""


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    (folder / "train.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "", "HOME": str(folder)}
    programs.run("train.py", "fit", *arguments, cwd=folder, env=environment)
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return found


QUIET = ["--trainer.max_epochs=1", "--trainer.logger=false", "--trainer.enable_progress_bar=false",
         "--trainer.enable_checkpointing=false", "--trainer.enable_model_summary=false"]  # fmt: skip


def test_the_recorded_configuration_of_lightning_cli_can_be_run(tmp_path: Path) -> None:
    keep = ["--trainer.callbacks+=__main__.Keep", f"--trainer.callbacks.folder={tmp_path}"]
    first = run(tmp_path, *QUIET, *keep, "--model.lr=0.25", "--trainer.limit_train_batches=1")
    assert (first["kind"], first["file"], first["gaps"]) == ("LightningCLI", "config.yaml", [])
    again = tmp_path / "again.yaml"
    content = (tmp_path / "config.yaml").read_bytes()
    again.write_bytes(content)
    second = run(tmp_path, "--config", str(again))
    assert second == first
    assert second["lr"] == 0.25
    assert (tmp_path / "config.yaml").read_bytes() == content
    # LightningCLI's SaveConfigCallback holds the configuration, which its description leaves out.
    assert "api_key" not in json.dumps(first["trainer"])


def test_a_secret_in_the_configuration_is_redacted(tmp_path: Path) -> None:
    keep = ["--trainer.callbacks+=__main__.Keep", f"--trainer.callbacks.folder={tmp_path}"]
    facts = run(tmp_path, *QUIET, *keep, "--data.api_key=hunter2-secret", "--trainer.limit_train_batches=1")
    assert facts["gaps"] == ["trainer.config.data.api_key"]
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert content["data"]["api_key"] == "[redacted]"
    assert content["trainer"]["limit_train_batches"] == 1


def test_without_a_configuration_nothing_is_recorded(tmp_path: Path) -> None:
    gaps = Gaps()
    run_without = trainer(tmp_path)
    run_without.strategy.connect(TinyNet())
    assert capture_config(run_without, gaps) is None
    assert not gaps


HYDRA = """
import sys
from types import SimpleNamespace
import hydra
from lightning_dtool.capture.config import capture_config
from lightning_dtool.record import Gaps

@hydra.main(config_path=".", config_name="conf", version_base="1.3")
def main(config):
    gaps = Gaps()
    found = capture_config(SimpleNamespace(callbacks=[]), gaps)
    sys.stdout.write(found[0].kind + "\\n" + found[2].decode() + "\\n".join(gap.fact for gap in gaps))

main()
"""


@pytest.mark.skipif(importlib.util.find_spec("hydra") is None, reason="Hydra is not installed")
def test_the_configuration_of_hydra_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HYDRA)
    (tmp_path / "conf.yaml").write_text("lr: 0.1\nsize: ${lr}\ndb:\n  password: hunter2\n")
    done = programs.run("app.py", "lr=0.5", cwd=tmp_path)
    expected = """
        Hydra
        lr: 0.5
        size: ${lr}
        db:
          password: '[redacted]'
        trainer.config.db.password"""
    assert done.stdout.strip() == textwrap.dedent(expected).strip()


def test_hydra_without_a_stored_configuration_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    class HydraConfig:
        @staticmethod
        def initialized() -> bool:
            return True

        @staticmethod
        def get() -> Any:
            raise ValueError("nowhere")

    module = type(sys)("hydra.core.hydra_config")
    module.HydraConfig = HydraConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hydra.core.hydra_config", module)

    class Bare:
        callbacks: list[Any] = []

    gaps = Gaps()
    assert capture_config(Bare(), gaps) is None  # type: ignore[arg-type]
    assert [gap.fact for gap in gaps] == ["trainer.config"]
