"""Two runs of one script that begin in the same second, in the same folder, while others read."""

import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import programs
from lightning_dtool import DtoolCheckpoint, FrozenDataset, iter_datasets, recover
from lightning_dtool.errors import DatasetNotFoundError, LightningDtoolError

SCRIPT = """
    from lightning.pytorch.callbacks import ModelCheckpoint
    from kit import TinyNet, loader, trainer
    from lightning_dtool import DtoolProvenanceCallback

    keep = ModelCheckpoint(dirpath="ckpt", monitor="val_loss", save_top_k=2, save_last=True)
    trainer("run", DtoolProvenanceCallback("models"), keep, max_epochs=6).fit(TinyNet(), loader(), loader())
"""


def test_two_runs_of_one_script_and_a_reader(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    programs.commands()  # started once, not by two threads
    wrong: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(programs.run, "train.py", cwd=tmp_path, env=environment) for _ in range(2)]
        while not all(run.done() for run in runs):
            for dataset in iter_datasets(tmp_path / "models", lambda _, error: wrong.append(str(error))):
                try:
                    dataset.verify()
                except LightningDtoolError as error:
                    try:
                        FrozenDataset.from_uri(dataset.uri).verify()
                        wrong.append(str(error))
                    except DatasetNotFoundError:
                        pass  # its run has retired it meanwhile
        for run in runs:
            run.result()
    assert wrong == []
    found = [DtoolCheckpoint.from_uri(dataset.uri) for dataset in iter_datasets(tmp_path / "models")]
    for checkpoint in found:
        checkpoint.verify()
        assert checkpoint.annotations["run_status"] == "finished"
    assert len({checkpoint.record.run.uuid for checkpoint in found}) == 2
    assert {checkpoint.uri.rpartition("/")[2] for checkpoint in found} == {
        p.name for p in (tmp_path / "models").iterdir()
    }
    paths = list((tmp_path / "ckpt").iterdir())
    assert {path.suffix for path in paths} == {".ckpt"}
    for path in paths:
        torch.load(path, weights_only=True)
    assert recover(tmp_path / "models", [tmp_path]) == []
