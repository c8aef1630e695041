"""A sweep in a pool of processes: learning rates, or the folds of a cross-validation, which have the same arguments."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dtool import DtoolProvenanceCallback


class Net(L.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def train(job: tuple[float, int]) -> None:
    lr, fold = job
    L.seed_everything(1)
    x = torch.linspace(-3, 3, 96).sin().view(24, 4).roll(fold, 0)[:16]
    loader = DataLoader(TensorDataset(x, torch.arange(16) % 2), 4, shuffle=True)
    callback = DtoolProvenanceCallback("../models", retention="all")
    L.Trainer(max_epochs=1, accelerator="cpu", devices=1, logger=False, callbacks=[callback], **QUIET).fit(
        Net(lr), loader
    )


QUIET = {"enable_progress_bar": False, "enable_model_summary": False}

if __name__ == "__main__":
    method, workers = sys.argv[1], int(sys.argv[2])
    jobs = [(0.1, 0), (0.01, 0), (0.01, 3)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
        list(pool.map(train, jobs))
