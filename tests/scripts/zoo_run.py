"""A training of one kind of the zoo, as a script."""

import sys
from pathlib import Path

import lightning as L

from lightning_dtool import DtoolProvenanceCallback
from zoo import ZOO

if __name__ == "__main__":
    kind, models = sys.argv[1:]
    L.seed_everything(5, workers=True)
    module, options = ZOO[kind]()
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "default_root_dir": Path(models).parent / "logs",
        **options,
    }
    settings["callbacks"] = [*settings.get("callbacks", []), DtoolProvenanceCallback(models)]
    L.Trainer(**settings).fit(module)
