"""How much memory is left, in a machine and in a container."""

from pathlib import Path

import pytest

from lightning_dtool.snapshot import memory
from lightning_dtool.snapshot.memory import available_memory


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def test_it_is_unknown_where_the_system_does_not_report_it(machine: Path) -> None:
    assert available_memory() is None


def test_it_is_what_the_kernel_reports(machine: Path) -> None:
    (machine / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   5000 kB\nHugePages_Total:  0\n")
    assert available_memory() == 5000 * 1024
    (machine / "memory.max").write_text("max\n")
    assert available_memory() == 5000 * 1024


def test_in_a_container_it_is_the_rest_of_the_limit(machine: Path) -> None:
    (machine / "meminfo").write_text("MemAvailable: 5000 kB\n")
    (machine / "memory.max").write_text("4000000\n")
    (machine / "memory.current").write_text("3500000\n")
    (machine / "memory.stat").write_text("anon 1\ninactive_file 250000\n")
    assert available_memory() == 750_000
    (machine / "memory.current").write_text("9000000\n")
    assert available_memory() == 0
