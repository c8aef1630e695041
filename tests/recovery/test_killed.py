"""A process that is killed before any of its operations on files, and what `recover` makes of what is left."""

import subprocess
import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401 - the fixtures of all tests look at torch

SCRIPT = """
import os, shutil, signal, sys
from pathlib import Path
from lightning_dtool.recovery.recover import recover
from lightning_dtool.store import DatasetWriter, delete_dataset, iter_datasets

base = Path(sys.argv[1])
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod", "os.truncate"}


def write(name):
    with DatasetWriter(name, base) as writer:
        writer.put_file(base.with_name("linked"), "in/linked", link=True)
        writer.put_bytes(b"2", "b")
        writer.put_annotation("a", 1)
        writer.put_tag("t")
        return writer.commit()


def work():
    write("new")
    delete_dataset(base / "old")


def killed(number):
    operations = 0

    def count(event, arguments):
        nonlocal operations
        # Some name a file relative to an open folder.
        if event in OPERATIONS and not str(arguments[0]).startswith(("/proc", "/etc", "/usr", sys.prefix)):
            operations += 1
            if operations == number:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def names(verified=True):
    datasets = list(iter_datasets(base))
    for dataset in datasets:
        dataset.verify()
        assert dataset.tags() == ["t"] and len(dataset.items) == 2
    return {dataset.name for dataset in datasets}


base.with_name("linked").write_bytes(b"1" * 1000)
number, seen = 0, set()
while True:
    number += 1
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    write("old")
    if not killed(number):
        assert names() == {"new"}, names()
        break
    before = names()
    assert "old" in before or "new" in before, number
    found = recover(base, [])
    assert {each.outcome for each in found} <= {"finished", "removed"}, (number, found)
    seen |= {each.outcome for each in found}
    after = names()
    assert before <= after, (number, before, after)
    assert set(os.listdir(base)) == after, (number, os.listdir(base))
    assert base.with_name("linked").read_bytes() == b"1" * 1000
assert seen == {"finished", "removed"}, seen
print(number - 1)
"""


def test_a_kill_before_any_operation_leaves_nothing_that_recover_does_not_clear(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "models")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
