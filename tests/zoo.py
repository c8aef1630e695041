"""Ten kinds of small trainings: `ZOO` maps a name to a function that returns (module, options).

Each module defines its own training data (`train_dataloader`); the options are for `kit.trainer`. Nothing here uses
lightning_dtool: these are models as users write them.
"""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

Exhibit = tuple[L.LightningModule, dict[str, Any]]


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return numbers that do not depend on the global generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(count: int, number: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randint(0, number, (count,), generator=torch.Generator().manual_seed(seed))


class Exhibited(L.LightningModule):
    """A module with its training data: 12 samples in 3 batches."""

    def data(self) -> tuple[torch.Tensor, ...]:
        return numbers(12, 8), classes(12)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self.data()), batch_size=4)


class Cnn(Exhibited):
    """A CNN with a functional loss and label smoothing."""

    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
        self.head = nn.Linear(2 * 4 * 4, 3)

    def data(self) -> tuple[torch.Tensor, ...]:
        return numbers(12, 1, 6, 6), classes(12)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        logits = self.head(self.features(x))
        loss = functional.cross_entropy(logits, y, label_smoothing=0.1)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


class Lstm(Exhibited):
    """An LSTM with a loss module that ignores padding and weights classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.lstm = nn.LSTM(4, 6, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(6, 5)
        self.criterion = nn.CrossEntropyLoss(ignore_index=0, weight=torch.tensor([1.0, 1.0, 2.0, 2.0, 1.0]))

    def data(self) -> tuple[torch.Tensor, ...]:
        return (classes(12 * 7, 5).reshape(12, 7),)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        (tokens,) = batch
        states, _ = self.lstm(self.embed(tokens[:, :-1]))
        loss = self.criterion(self.head(states).transpose(1, 2), tokens[:, 1:])
        self.log("train_loss", loss)
        return {"loss": loss, "extra": loss.detach()}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.RMSprop(self.parameters(), lr=1e-2)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "train_loss"}}


class Transformer(Exhibited):
    """A transformer under OneCycleLR, with a frozen encoder in evaluation mode that takes PyTorch's fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
        self.frozen.requires_grad_(False)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def data(self) -> tuple[torch.Tensor, ...]:
        return numbers(12, 5, 8), classes(12)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        self.frozen.eval()
        with torch.no_grad():
            x = self.frozen(x)
        return functional.cross_entropy(self.head(self.layer(x).mean(1)), y)

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=20, pct_start=0.2)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class Gan(Exhibited):
    """A GAN with two optimizers and manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 8)
        self.discriminator = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real, _ = batch
        one, two = self.optimizers()  # type: ignore[misc]
        noise = torch.randn(len(real), 4)
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        self.toggle_optimizer(one)
        made = self.discriminator(self.generator(noise))
        self.manual_backward(functional.binary_cross_entropy_with_logits(made, ones))
        one.step()
        one.zero_grad()
        self.untoggle_optimizer(one)
        self.toggle_optimizer(two)
        seen = functional.binary_cross_entropy_with_logits(self.discriminator(real), ones)
        fake = functional.binary_cross_entropy_with_logits(self.discriminator(self.generator(noise).detach()), zeros)
        self.manual_backward((seen + fake) / 2)
        two.step()
        two.zero_grad()
        self.untoggle_optimizer(two)

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
            torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.5, 0.999)),
        ]


class Autoencoder(Exhibited):
    """An autoencoder with a loss from plain operations."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 2)
        self.decoder = nn.Linear(2, 8)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, _ = batch
        code = self.encoder(x)
        self.log("mae", functional.l1_loss(self.decoder(code), x))  # logged, not minimised
        return ((self.decoder(code) - x) ** 2).mean() + 0.01 * code.abs().sum()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        warmup = 3
        warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, decay], milestones=[3])]


class FineTuning(Exhibited):
    """A model with frozen layers and parameter groups."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.backbone[0].requires_grad_(False)
        self.head = nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return functional.nll_loss(functional.log_softmax(self.head(self.backbone(x)), -1), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        body = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(
            [{"params": body, "lr": 1e-4, "name": "body"}, {"params": self.head.parameters(), "name": "head"}], lr=1e-2
        )


class Lbfgs(Exhibited):
    """A model with LBFGS, which evaluates its closure many times per step."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return functional.mse_loss(self.head(x)[:, 0], y.float()) + functional.mse_loss(self.head(-x)[:, 0], -y.float())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=6)


def _plain(**options: Any) -> Callable[[], dict[str, Any]]:
    return lambda: dict(options)


def _swa() -> dict[str, Any]:
    return {"callbacks": [StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)], "max_epochs": 3}


def _exhibit(kind: type[L.LightningModule], options: Callable[[], dict[str, Any]]) -> Callable[[], Exhibit]:
    return lambda: (kind(), options())


ZOO: dict[str, Callable[[], Exhibit]] = {
    "cnn": _exhibit(Cnn, _plain()),
    "lstm": _exhibit(Lstm, _plain()),
    "transformer": _exhibit(Transformer, _plain()),
    "gan": _exhibit(Gan, _plain()),
    "autoencoder": _exhibit(Autoencoder, _plain()),
    "fine_tuning": _exhibit(FineTuning, _plain()),
    "lbfgs": _exhibit(Lbfgs, _plain()),
    "swa": _exhibit(Cnn, _swa),
    "accumulation": _exhibit(Cnn, _plain(accumulate_grad_batches=2, gradient_clip_val=0.5)),
    "bf16": _exhibit(Cnn, _plain(precision="bf16-mixed")),
}
"""Name -> a function that makes a new module and new Trainer options; `callbacks` among them are the zoo's own."""
