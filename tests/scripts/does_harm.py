"""A seeded training that, while it runs, tries to delete and overwrite what it is given the path of."""

import os
import shutil
import sqlite3
import subprocess
import sys

import lightning as L
import numpy as np
import torch
from seeded import Net, loader
from torch.utils.data import DataLoader

from lightning_dtool import DtoolProvenanceCallback

models, harm = sys.argv[1:3]


def attempt(action, *arguments, **options):
    try:
        action(*arguments, **options)
    except Exception as error:
        print(f"kept from it: {error}", flush=True)


def try_all():
    """Try to harm the folder. The first training runs this, too, on a folder that does not exist yet."""
    if not os.path.isdir(harm):
        return
    for path in [os.path.join(folder, name) for folder, _, names in os.walk(harm) for name in names]:
        attempt(open, path, "w")
        attempt(torch.save, {}, path)
        attempt(np.memmap, path, mode="r+")
        attempt(os.chmod, path, 0o777)
        attempt(os.utime, path, (1, 1))
        attempt(os.truncate, path, 0)
        attempt(os.link, path, "hard")
        attempt(os.rename, path, "moved")
        attempt(os.remove, path)
    attempt(lambda: sqlite3.connect(f"{harm}/new.db").execute("create table x (y)"))
    os.symlink(harm, "link")
    attempt(shutil.rmtree, "link/.")
    subprocess.run(["rm", "-rf", harm], check=False)
    subprocess.run(f"touch {harm}/new", shell=True, check=False)
    shutil.rmtree(harm, ignore_errors=True)


class Harmful(torch.utils.data.Dataset):
    """Samples whose worker tries to do harm as well."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if index == 3:
            shutil.rmtree(harm, ignore_errors=True)
        return self.dataset[index]


if __name__ == "__main__":
    try_all()
    L.seed_everything(1)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        callbacks=[DtoolProvenanceCallback(models)],
    )  # fmt: skip
    data = DataLoader(Harmful(loader(1, shuffle=True).dataset), 8, num_workers=1, multiprocessing_context="fork")
    trainer.fit(Net(), data)
