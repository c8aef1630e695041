"""Inertness of recording: weights and random numbers are bitwise equal with and without the callback."""

import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback, pack


class NoisyNet(TinyNet):
    """A model that draws from every global generator during training."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x + 0.01 * torch.randn_like(x) + 0.001 * random.random() + 0.001 * float(np.random.rand())
        return super().training_step((x, y), batch_idx)


def run(folder: Path, callbacks: list[L.Callback], workers: int, validate: bool, seed: int | None = 11):
    if seed is not None:
        L.seed_everything(seed, workers=True)
    model = NoisyNet()
    policy = ModelCheckpoint(dirpath=folder / "ckpt", monitor="train_loss", save_top_k=2, save_last=True)
    t = trainer(folder, policy, *callbacks, max_epochs=3)
    t.fit(model, loader(shuffle=True, workers=workers), loader(workers=workers) if validate else None)
    stream = (torch.rand(4), np.random.rand(4).tolist(), random.random())
    return weights(model), t.optimizers[0].state_dict()["state"], stream


@pytest.mark.parametrize("validate", [True, False], ids=["validation", "no validation"])
@pytest.mark.parametrize("workers", [0, 2])
def test_recording_changes_no_weight_optimizer_state_or_random_number(
    tmp_path: Path, workers: int, validate: bool
) -> None:
    (tmp_path / "models").mkdir()
    plain = run(tmp_path / "plain", [], workers, validate)
    recorded = run(tmp_path / "recorded", [DtoolProvenanceCallback(str(tmp_path / "models"))], workers, validate)

    assert same(plain[0], recorded[0])
    for index, state in plain[1].items():
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(recorded[1][index][key]))
            for key, value in state.items()
        )
    assert torch.equal(plain[2][0], recorded[2][0])
    assert plain[2][1:] == recorded[2][1:]


def test_recording_loads_during_training_changes_nothing(tmp_path: Path) -> None:
    class Loading(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch:
                pl_module.load_state_dict(torch.load(path))

    class DrawingNet(NoisyNet):
        def state_dict(self, *args, **kwargs):
            found = super().state_dict(*args, **kwargs)
            return found if not self.draws else {**found, "drawn": torch.randn(2)}

        draws = False

        def on_train_batch_start(self, batch, batch_idx):
            self.draws = True

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.draws = False

    path = tmp_path / "weights.pt"
    torch.save(NoisyNet().state_dict(), path)
    (tmp_path / "models").mkdir()

    def once(*callbacks: L.Callback):
        L.seed_everything(11)
        model = DrawingNet()
        trainer(tmp_path, *callbacks, Loading(), max_epochs=3).fit(model, loader(shuffle=True))
        return weights(model), torch.rand(4)

    plain, recorded = once(), once(DtoolProvenanceCallback(str(tmp_path / "models")))
    assert same(plain[0], recorded[0])
    assert torch.equal(plain[1], recorded[1])


def test_recording_a_dtool_datamodule_changes_nothing(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("oak", "elm", "yew"):
        (tmp_path / "leaves" / label).mkdir(parents=True)
        for number in range(8):
            pixels = np.random.default_rng(number).integers(0, 255, (2, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "leaves" / label / f"{number}.png")
    (tmp_path / "base").mkdir()
    (tmp_path / "models").mkdir()
    uri = pack(tmp_path / "leaves", str(tmp_path / "base"), "leaves", progress=False)

    class LeafNet(TinyNet):
        def forward(self, x):
            return super().forward(x.flatten(1))

    def once(*callbacks: L.Callback) -> dict[str, torch.Tensor]:
        L.seed_everything(5)
        model = LeafNet()
        data = DtoolDataModule(uri, val_split=0.25, batch_size=4)
        trainer(tmp_path, *callbacks, max_epochs=2, enable_checkpointing=bool(callbacks)).fit(model, data)
        return weights(model)

    assert same(once(), once(DtoolProvenanceCallback(str(tmp_path / "models"))))


def draw() -> float:
    """Draw from every global generator, as a careless property might."""
    return random.random() + float(np.random.rand()) + float(torch.rand(()))


class Drawing:
    """An object whose every description draws random numbers."""

    def __init__(self, size: float = 1.0) -> None:
        self.size = size
        self.seen = 0

    def __repr__(self) -> str:
        return f"Drawing({draw()})"

    def __len__(self) -> int:
        draw()
        return 3

    def __getattr__(self, name: str) -> float:
        if name.startswith("__"):
            raise AttributeError(name)
        return draw()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @property
    def total(self) -> float:
        return draw()


class DrawingLayer(torch.nn.Module):
    def extra_repr(self) -> str:
        return f"{draw()}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class DrawingNet(NoisyNet):
    """A model that draws when it is printed, and whose hyperparameters draw when they are described."""

    def __init__(self, helper: object = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers.append(DrawingLayer())
        self.augment = Drawing()

    def __repr__(self) -> str:
        return f"{super().__repr__()}{draw()}"

    @property
    def example(self) -> float:
        return draw()

    def on_train_epoch_start(self) -> None:
        self.hparams["helper"] = Drawing(self.current_epoch)
        self.augment.size = float(self.current_epoch)


class DrawingData(TensorDataset):
    """Data that draws when it is asked for its length or an unknown attribute."""

    def __init__(self) -> None:
        super().__init__(*loader().dataset.tensors)
        self.transform = Drawing()

    def __len__(self) -> int:
        draw()
        return super().__len__()

    def __getattr__(self, name: str) -> float:
        if name.startswith("__"):
            raise AttributeError(name)
        return draw()


class DrawingCallback(L.Callback):
    def __init__(self, helper: object) -> None:
        self.helper = helper

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.helper = Drawing(trainer.current_epoch)


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_recording_is_inert_where_the_users_objects_draw_when_they_are_described(tmp_path: Path, every: str) -> None:
    def once(folder: Path, *callbacks: L.Callback):
        L.seed_everything(3)
        # Saves draw too, with and without recording: only states that are saved or described count.
        policy = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=2 if every == "step" else None)
        model = DrawingNet(Drawing())
        data = DataLoader(DrawingData(), batch_size=8, shuffle=True)
        trainer(folder, policy, DrawingCallback(Drawing()), *callbacks, max_epochs=3).fit(model, data)
        return weights(model), (torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random())

    (tmp_path / "models").mkdir()
    plain = once(tmp_path / "plain")
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    recorded = once(tmp_path / "recorded", provenance)
    assert same(plain[0], recorded[0])
    assert plain[1] == recorded[1]
    assert provenance.uris
