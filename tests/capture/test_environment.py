"""The recorded machine, packages and batch job: known facts, gaps for unknown ones, and no secret."""

import json
import os
import re
from importlib import metadata
from pathlib import Path

import pytest
import torch

import lightning_dtool.capture.environment as environment
from lightning_dtool.capture.environment import capture_environment, requirements
from lightning_dtool.record import Environment, Gaps


def test_the_machine_is_recorded() -> None:
    gaps = Gaps()
    found = capture_environment(gaps)
    assert Environment.model_validate_json(found.model_dump_json()) == found
    assert found.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert found.cpu
    assert found.cpu_count is not None
    assert 1 <= found.cpu_count <= (os.cpu_count() or 1)
    assert found.memory_bytes is None or found.memory_bytes > 10**8
    assert found.torch_build is not None
    assert "PyTorch built with" in found.torch_build
    assert not torch.cuda.is_initialized()
    assert (found.drivers.get("cuda") is None) == (torch.version.cuda is None)


def test_the_installed_packages_are_requirements() -> None:
    # A comment gives the folder of a package that was installed from one.
    lines = [line for line in requirements().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+(==| @ )\S+", line) for line in lines)
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert names == sorted(set(names))
    assert "torch" in names


def test_a_batch_job_in_a_container_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ACCOUNT": "private", "PBS_JOBID": "5.pbs",
        "APPTAINER_CONTAINER": "/images/torch.sif", "OMP_NUM_THREADS": "3", "NCCL_DEBUG": "INFO", "HOME_TOWN": "Ulm",
        "LIGHTNING_CLOUD_API_KEY": "hunter2", "PL_URL": "https://me:hunter2@host/x", "WANDB_API_KEY": "hunter2",
        "CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": "/x",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    gaps = Gaps()
    found = capture_environment(gaps)
    assert {name: found.scheduler.get(name) for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "PBS_JOBID")} == {
        "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "PBS_JOBID": "5.pbs"}  # fmt: skip
    assert found.container == "Apptainer: /images/torch.sif"
    assert found.variables["OMP_NUM_THREADS"] == "3"
    assert found.variables["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert found.variables["NCCL_DEBUG"] == "INFO"
    assert found.variables["PYTHONPATH"] == "/x"
    text = found.model_dump_json()
    for hidden in ("hunter2", "private", "Ulm", "WANDB"):
        assert hidden not in text
    facts = [gap.fact for gap in gaps]
    assert "environment.variables.LIGHTNING_CLOUD_API_KEY" in facts
    assert "environment.variables.PL_URL" in facts


class Devices:
    """A stand-in for the module of an accelerator in torch."""

    def __init__(self, started: bool) -> None:
        self.started = started

    def device_count(self) -> int:
        return 2

    def is_initialized(self) -> bool:
        return self.started

    def get_device_name(self, index: int) -> str:
        assert self.started, "this would start the accelerator"
        return f"Tesla {index}"


@pytest.mark.parametrize("started", [True, False])
def test_recording_starts_no_accelerator(monkeypatch: pytest.MonkeyPatch, started: bool) -> None:
    monkeypatch.setattr(environment.torch, "cuda", Devices(started))
    gaps = Gaps()
    assert capture_environment(gaps).accelerators[:2] == (["Tesla 0", "Tesla 1"] if started else ["cuda:0", "cuda:1"])
    assert ("environment.accelerators" in [gap.fact for gap in gaps]) != started


def test_a_fact_that_the_system_does_not_give_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError

    monkeypatch.setattr(environment, "_memory", fail)
    gaps = Gaps()
    assert capture_environment(gaps).memory_bytes is None
    assert [gap.fact for gap in gaps if "memory" in gap.fact] == ["environment.memory_bytes"]


def test_every_package_is_pinned_as_its_metadata_says() -> None:
    pins = dict(line.split("==") for line in requirements().splitlines() if "==" in line)
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    expected: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        expected.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    assert found == expected


def test_the_origin_of_each_package_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str, origin: object = None) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if origin is not None:
            (folder / "direct_url.json").write_text(origin if isinstance(origin, str) else json.dumps(origin))

    installed("plain_one")
    vcs = {"vcs": "git", "commit_id": "abc123"}
    installed("cloned", {"url": "https://me:hunter2@git.example.org/x.git", "vcs_info": vcs})
    installed("edited", {"url": "file:///home/me/edited", "dir_info": {"editable": True}})
    installed("wheel", {"url": "https://example.org/wheel-1.0.whl", "archive_info": {}})
    installed("broken", "{")
    (tmp_path / "gone-2.0.dist-info").mkdir()
    old = tmp_path / "old.egg-info"
    old.mkdir()
    (old / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: old\nVersion: 0.1\n")
    monkeypatch.setattr("sys.path", [str(tmp_path), "/nowhere", str(tmp_path / "old.egg-info" / "PKG-INFO")])
    assert requirements().splitlines() == [
        "broken==1.0",
        "cloned @ git+https://[redacted]@git.example.org/x.git@abc123",
        "edited==1.0",
        "# edited is installed editable from file:///home/me/edited",
        "old==0.1",
        "plain-one==1.0",
        "wheel @ https://example.org/wheel-1.0.whl",
    ]


def test_requirements_are_read_from_folder_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        folder = tmp_path / f"package{number}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Name: other\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert sorted(requirements().splitlines()) == sorted(f"package{number}==1.0" for number in range(200))
