"""Checkpoints of real processes that end by Ctrl-C, SIGTERM or SIGKILL."""

import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import programs
from lightning_dtool import DtoolCheckpoint, iter_datasets, recover

SCRIPT = """
    import signal, sys, time
    from pathlib import Path
    from kit import TinyNet, loader, trainer
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning_dtool import DtoolProvenanceCallback

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a shell's background job ignores it
    folder = Path(sys.argv[1])

    class Slow(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            (folder / f"epoch{trainer.current_epoch}").touch()
        def on_train_batch_end(self, *args):
            time.sleep(0.02)

    if __name__ == "__main__":
        policy = ModelCheckpoint(dirpath=folder / "ckpt", save_last=True, save_top_k=-1, save_on_exception=True)
        provenance = DtoolProvenanceCallback(str(folder / "models"))
        trainer(folder, provenance, policy, Slow(), max_epochs=1000).fit(TinyNet(hidden=20_000), loader())
"""


@contextmanager
def training(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a training, wait until three epochs have ended, and always end the process."""
    (tmp_path / "models").mkdir()
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONWARNINGS": "ignore"}
    command = [programs.commands() / "python", script, tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            deadline = time.monotonic() + 180
            while not (tmp_path / "epoch2").exists():
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline, "training did not get to its third epoch"
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


# The exit codes come from Lightning: its SIGTERMException is a SystemExit without a code.
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_leaves_complete_datasets(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with training(tmp_path) as process:
        process.send_signal(number)
        _, stderr = process.communicate(timeout=180)

    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    found = [DtoolCheckpoint.from_uri(dataset.uri) for dataset in iter_datasets(str(tmp_path / "models"))]
    assert len(found) >= 3
    for checkpoint in found:
        checkpoint.verify()
        assert checkpoint.annotations["run_status"] == "interrupted"
    assert len(list((tmp_path / "models").iterdir())) == len(found)
    latest = max(found, key=lambda checkpoint: checkpoint.record.checkpoint.global_step)
    assert "last" in latest.tags
    for path in (tmp_path / "ckpt").iterdir():
        torch.load(path, weights_only=True)


def test_a_killed_run_leaves_no_partial_dataset(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        process.kill()
        process.communicate(timeout=180)

    found = list(iter_datasets(str(tmp_path / "models")))
    assert len(found) >= 2
    for dataset in found:
        DtoolCheckpoint.from_uri(dataset.uri).verify()
    recover(tmp_path / "models", [tmp_path / "ckpt"])
    names = {dataset.name for dataset in iter_datasets(tmp_path / "models")}
    assert names >= {dataset.name for dataset in found}
    assert names == {folder.name for folder in (tmp_path / "models").iterdir()}
    torch.load(tmp_path / "ckpt" / "last.ckpt", weights_only=True)
