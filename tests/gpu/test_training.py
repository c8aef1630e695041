"""Recording, resuming and reproducing on one device: the CPU, and a CUDA device where there is one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_dtool
from gpu.devices import ON_GPU
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.results.reproduction import Verdict
from lightning_dtool.store import iter_datasets
from reproduction.runs import only_checkpoint, places, project, train

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")


class NoisyNet(TinyNet):
    """A model that draws random numbers on its device: noise, and dropout."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return super().training_step((x + 0.01 * torch.randn_like(x), y), batch_idx)


@dataclass
class Fit:
    """What a fit leaves behind."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    drawn: list[torch.Tensor]
    provenance: DtoolProvenanceCallback | None

    def equals(self, other: "Fit") -> bool:
        """Return True if weights, optimizers and random streams are bitwise equal."""
        states = [[*each.values()] for fit in (self, other) for each in fit.optimizer["state"].values()]
        half = len(states) // 2
        return (
            same(self.weights, other.weights)
            and all(
                torch.equal(torch.as_tensor(a), torch.as_tensor(b))
                for one, two in zip(states[:half], states[half:], strict=True)
                for a, b in zip(one, two, strict=True)
            )
            and all(torch.equal(a, b) for a, b in zip(self.drawn, other.drawn, strict=True))
        )


def fit(folder: Path, settings: tuple[str, str], epochs: int, ckpt: str | None = None, recorded: bool = True) -> Fit:
    device, precision = settings
    (folder / "models").mkdir(parents=True, exist_ok=True)
    L.seed_everything(3, verbose=False)
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all") if recorded else None
    module = NoisyNet()
    t = trainer(
        folder,
        *([provenance] if provenance else []),
        ModelCheckpoint(dirpath=folder / "ckpt", save_last=True),
        max_epochs=epochs,
        accelerator=device,
        precision=precision,
        deterministic=True,
    )
    t.fit(module, loader(shuffle=True), loader(), ckpt_path=ckpt)
    drawn = [torch.rand(4), torch.rand(4, device=device).cpu()]
    return Fit(weights(module), t.optimizers[0].state_dict(), drawn, provenance)


def test_recording_changes_no_weight_optimizer_state_or_random_number(
    tmp_path: Path, settings: tuple[str, str]
) -> None:
    plain = fit(tmp_path / "plain", settings, 2, recorded=False)
    assert plain.equals(fit(tmp_path / "recorded", settings, 2))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, settings: tuple[str, str]) -> None:
    whole = fit(tmp_path / "whole", settings, 4)
    stopped = fit(tmp_path / "stopped", settings, 2)
    assert stopped.provenance is not None
    assert not whole.equals(stopped)
    resumed = fit(tmp_path / "resumed", settings, 4, ckpt=stopped.provenance.last_uri)
    assert whole.equals(resumed)


class WideNet(TinyNet):
    """A model whose state is large enough to be written while training continues."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Linear(2500, 2500, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.wide(x.repeat(1, 313)[:, :2500])[:, :3]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Noting(L.Callback):
    """Notes the weights at each save, before anything is copied in the background."""

    def __init__(self) -> None:
        self.noted: dict[int, dict[str, torch.Tensor]] = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        self.noted[trainer.global_step] = {name: value.cpu() for name, value in weights(pl_module).items()}


def test_each_checkpoint_holds_the_weights_of_its_own_step(tmp_path: Path, device: str) -> None:
    (tmp_path / "models").mkdir()
    noting = Noting()
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1)
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
    trainer(tmp_path, noting, policy, provenance, max_steps=3, accelerator=device).fit(WideNet(), loader())

    found = [DtoolCheckpoint.from_uri(dataset.uri) for dataset in iter_datasets(str(tmp_path / "models"))]
    assert len(found) == 3
    for checkpoint in found:
        checkpoint.verify()
        loaded = torch.load(checkpoint.path, weights_only=True, map_location="cpu")
        assert same(loaded["state_dict"], noting.noted[loaded["global_step"]])


def test_the_record_describes_the_device(tmp_path: Path, settings: tuple[str, str]) -> None:
    device, precision = settings
    provenance = fit(tmp_path, settings, 1).provenance
    assert provenance is not None
    assert provenance.last_uri is not None
    record = DtoolCheckpoint.from_uri(provenance.last_uri).record
    assert record.trainer.settings["precision"] == precision
    assert record.trainer.settings["num_devices"] == 1
    flags = record.randomness.flags
    assert flags["deterministic_algorithms"] is True
    assert flags["CUBLAS_WORKSPACE_CONFIG"] == os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert {"cudnn.deterministic", "cudnn.benchmark", "cuda.matmul.fp32_precision", "sdp"} <= set(flags)
    states = {moment: set(found) for moment, found in record.randomness.states.items()}
    if device == "cpu":
        assert record.trainer.settings["devices"] == ["cpu"]
        return
    assert record.trainer.settings["devices"] == ["cuda:0"]
    assert record.environment.accelerators == [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    assert record.environment.drivers["cuda"] == torch.version.cuda
    assert record.environment.drivers["cudnn"] == str(torch.backends.cudnn.version())
    assert "cuda:0" in states["fit_start"]
    assert (record.metrics.peak_accelerator_memory_bytes or 0) > 0


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        pytest.param("cpu", "bf16-mixed", marks=pytest.mark.slow),
        pytest.param("cuda", "32-true", marks=ON_GPU),
        pytest.param("cuda", "16-mixed", marks=ON_GPU),
    ],
)
def test_a_training_is_reproduced_bitwise(tmp_path: Path, device: str, precision: str) -> None:
    made, (models,) = project(tmp_path, "on_device.py"), places(tmp_path, "models")
    train(made, "on_device.py", str(models), device, precision, fresh=device != "cpu")
    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
