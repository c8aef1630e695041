"""The process that hashes and writes large files."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lightning_dtool.store.hashing_file import BLOCK, HashingFile
from lightning_dtool.store.writing_process import WritingProcess, WritingProcessError

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system cannot share memory so")


@pytest.fixture
def process() -> Iterator[WritingProcess]:
    process = WritingProcess()
    yield process
    process.close()


def _ended(pid: int) -> bool:
    """Return whether a process has ended. A zombie that another process has to collect counts as ended."""
    for _ in range(3600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_it_ends_when_it_is_closed(process: WritingProcess) -> None:
    assert process.usable
    process.close()
    assert not process.usable
    assert _ended(process.pid)
    process.close()


def test_it_has_low_priority_and_ignores_the_signals_that_end_a_job(process: WritingProcess, tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process)
        file.write(bytes(5 * BLOCK))  # now it is ready
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.nice(0) + 10)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
        file.write(bytes(5 * BLOCK))
        file.finish()
    assert (tmp_path / "x").stat().st_size == 10 * BLOCK


@pytest.mark.parametrize("blocks", [1, 4, 20])
def test_if_it_is_killed_the_writer_raises(process: WritingProcess, tmp_path: Path, blocks: int) -> None:
    with (tmp_path / "x").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process)
        file.write(bytes(BLOCK + 1))
        os.kill(process.pid, signal.SIGKILL)

        def write() -> None:
            file.write(bytes(blocks * BLOCK))
            file.finish()

        with pytest.raises(WritingProcessError, match="killed, or out of memory"):
            write()
        file.discard()
    assert not process.usable


def test_discarding_a_file_after_its_end_is_not_an_error(process: WritingProcess, tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process)
        file.write(bytes(BLOCK + 1))
        os.kill(process.pid, signal.SIGKILL)
        file.discard()
    assert not process.usable


def test_without_it_threads_write(process: WritingProcess, tmp_path: Path) -> None:
    process.close()
    with (tmp_path / "x").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process)
        file.write(bytes(3 * BLOCK))
        file.finish()
    assert (tmp_path / "x").stat().st_size == 3 * BLOCK


def test_a_forked_process_leaves_it_alone(process: WritingProcess, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        usable = process.usable
        process.close()
        os._exit(int(usable))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with (tmp_path / "x").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process)
        file.write(bytes(3 * BLOCK))
        file.finish()
    assert (tmp_path / "x").stat().st_size == 3 * BLOCK


@pytest.mark.parametrize("end", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_it_does_not_outlive_the_program(end: str) -> None:
    program = (
        "from lightning_dtool.store.writing_process import WritingProcess\n"
        f"process = WritingProcess()\nprint(process.pid, flush=True)\n{end}"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=180)
    assert done.returncode == (-signal.SIGKILL if end else 0)
    assert _ended(int(done.stdout))


def test_a_system_that_cannot_share_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="no anonymous memory"):
        WritingProcess()


def test_nobody_forks_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a DataLoader would keep the pipe open through which `subprocess` waits for the start."""
    starting, start = threading.Event(), subprocess.Popen

    def slow(*arguments: Any, **options: Any) -> Any:
        starting.set()
        time.sleep(0.3)
        return start(*arguments, **options)

    monkeypatch.setattr("lightning_dtool.store.writing_process.subprocess.Popen", slow)
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(WritingProcess)
        assert starting.wait(180)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # later Pythons warn of a fork beside threads, as DataLoaders do it
            child = os.fork()
        if not child:
            os._exit(0)
        assert begun.done()
        os.waitpid(child, 0)
        begun.result().close()


def test_it_starts_in_a_forked_process_too(process: WritingProcess) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        code = 1
        try:  # whatever goes wrong here must not go on as a second run of the tests
            code = 0 if WritingProcess().usable and not process.usable else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
