"""What a training changes in its process is named, without its values."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_dtool.resuming.of_the_process import changed_in_the_process, of_the_process


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    precision, default = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_default_dtype(default)
    torch.use_deterministic_algorithms(False)


def test_nothing_that_changed_gives_no_reason() -> None:
    assert changed_in_the_process(of_the_process()) == []


def test_variables_that_are_set_changed_and_deleted_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PHASE": "one", "GONE": "1", "SAME": "1"}.items():
        monkeypatch.setenv(name, value)
    before = of_the_process()
    monkeypatch.setenv("PHASE", "a secret")
    monkeypatch.setenv("NEW_ONE", "a secret")
    monkeypatch.delenv("GONE")
    monkeypatch.setenv("SAME", "1")
    (reason,) = changed_in_the_process(before)
    named = "the environment variable GONE, the environment variable NEW_ONE, the environment variable PHASE"
    assert reason.endswith(f": {named}")


@pytest.mark.parametrize("name", ["CUDA_MODULE_LOADING", "LOCAL_RANK", "MASTER_PORT", "WANDB_RUN_ID", "_", "COLUMNS"])
def test_variables_of_launchers_and_libraries_give_no_reason(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = of_the_process()
    monkeypatch.setenv(name, "7")
    assert os.environ[name] == "7"
    assert changed_in_the_process(before) == []


def test_settings_of_torch_and_the_working_directory_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = of_the_process()
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    monkeypatch.chdir(tmp_path)
    (reason,) = changed_in_the_process(before)
    for name in ("matmul_precision", "set_default_dtype", "deterministic_algorithms", "the working directory"):
        assert name in reason
