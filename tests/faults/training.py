"""The training of the campaign, in a process that begins with torch and this package imported."""

import contextlib
import gc
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from faults.ledger import note
from faults.operations import Operations
from faults.plan import EVERY, POLICIES, STATES, Plan
from faults.strikes import STRIKES
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.cli import model as command_line

CONTENT = "content"
"""The tensor of a checkpoint each element of which is the step of the checkpoint."""


class Stepping(L.LightningModule):
    """A module whose state says at which step it was: a state that mixes two steps is found out."""

    def __init__(self, elements: int, pause: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.pause = pause
        self.register_buffer(CONTENT, torch.zeros(elements))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.pause)
        self.log("progress", float(self.global_step))
        getattr(self, CONTENT).fill_(self.global_step + 1)
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Noting(Callback):
    """Notes saves in the ledger, and lets the fault strike."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.saving = plan, -1

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        note(self.plan.ledger_file, "resumed", trainer.global_step)

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.saving = trainer.global_step
        note(self.plan.ledger_file, "begun", self.saving)

    def on_train_batch_start(self, *_: Any) -> None:
        self._returned()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if self.plan.fault in STRIKES and trainer.global_step == self.plan.at:
            note(self.plan.ledger_file, "struck", trainer.global_step)
            STRIKES[self.plan.fault](self.plan)

    def on_train_end(self, *_: Any) -> None:
        self._returned()

    def _returned(self) -> None:
        if self.saving >= 0:
            note(self.plan.ledger_file, "returned", self.saving)
            self.saving = -1


def train(plan: Plan) -> None:
    """Train as planned."""
    operations = Operations([plan.paths, plan.base_uri], plan.at if plan.fault == "operation" else None, plan.folder)
    plan.paths.mkdir(exist_ok=True)
    policy = ModelCheckpoint(
        plan.paths, "{step}", monitor="progress", mode="max", every_n_train_steps=EVERY, **POLICIES[plan.policy]
    )
    recording = [DtoolProvenanceCallback(plan.base_uri, retention=plan.retention)] if plan.with_callback else []
    trainer = L.Trainer(
        max_steps=plan.steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=plan.folder,
        callbacks=[Noting(plan), policy, *recording],
    )
    data = DataLoader(TensorDataset(torch.ones(8 * plan.steps, 4)), batch_size=2)
    operations.begin()
    trainer.fit(Stepping(STATES[plan.state], plan.pause), data, ckpt_path=plan.ckpt_path)
    note(plan.ledger_file, "ended")
    note(plan.ledger_file, "operations", operations.count)


def recover(plan: Plan) -> None:
    """Run `lightning-dtool recover`."""
    sys.exit(command_line(["recover", plan.base_uri, str(plan.paths)], standalone_mode=False))


@contextlib.contextmanager
def begun(plan: Plan, log: str) -> Iterator[None]:
    """Make this process that of a program: with a log, variables and a session of its own."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(plan.folder / log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    plan.temporary.mkdir(exist_ok=True)
    os.environ.update(plan.variables)
    os.environ |= {"TMPDIR": str(plan.temporary), "DTOOL_CACHE_DIRECTORY": str(plan.folder / "cache")}
    tempfile.tempdir = None
    os.chdir(plan.folder)
    sys.argv = [str(Path(__file__)), "campaign"]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    yield


torch.set_num_threads(1)
gc.freeze()  # else each fork collects the objects of all these modules
