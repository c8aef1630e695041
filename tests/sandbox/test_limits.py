"""Programs that try to change files outside their folder, and to reach the network, in each way that comes to mind."""

import json
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_dtool.sandbox import landlock, protection
from lightning_dtool.sandbox.protection import Limits, protected

needs_landlock = pytest.mark.skipif(landlock.version() < landlock.OLDEST, reason="this kernel has no Landlock")
needs_truncate = pytest.mark.skipif(landlock.version() < 3, reason="this version of Landlock permits truncate")

BEGIN = "import ctypes, mmap, os, shutil, socket, sqlite3, subprocess, sys, urllib.request\nout, own = sys.argv[1:3]\n"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder with an original: a file, a folder with files, a database, and a link to it in the own folder."""
    folder, own = tmp_path / "outside", tmp_path / "own"
    (folder / "data").mkdir(parents=True)
    own.mkdir()
    for name in ("file", "data/a", "data/b", "canary"):
        (folder / name).write_text(f"the original {name}")
    with sqlite3.connect(folder / "data.db") as database:
        database.execute("create table original (x)")
    database.close()
    (own / "link").symlink_to(folder)
    return folder


@pytest.fixture
def limits(outside: Path, tmp_path: Path) -> Limits:
    own = tmp_path / "own"
    report, canary = str(own / "report"), str(outside / "canary")
    return Limits("landlock", (str(own),), network=False, local_only=True, report=report, canary=canary)


def run(limits: Limits, program: str, outside: Path) -> "subprocess.CompletedProcess[str]":
    own = limits.writable[0]
    command = protected([sys.executable, "-I", "-c", BEGIN + program, str(outside), own], limits)
    return subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=60, check=False)


def event(limits: Limits) -> dict[str, object]:
    lines = Path(limits.report).read_text().splitlines()
    return json.loads(lines[0])


def state(folder: Path) -> dict[str, object]:
    """Return all that can be changed: names, contents, permissions and times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path)] = (content, stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink, status.st_uid)
    return found


HARM = {
    "by its path": "open(f'{out}/file', 'w').write('x')",
    "appending": "open(f'{out}/file', 'a').write('x')",
    "removing": "os.remove(f'{out}/file')",
    "removing a folder": "shutil.rmtree(f'{out}/data')",
    "making a file": "open(f'{out}/new', 'w')",
    "making a folder": "os.makedirs(f'{out}/new/folder')",
    "by a symbolic link": "open(f'{own}/link/file', 'w').write('x')",
    "removing through a symbolic link": "shutil.rmtree(f'{own}/link/data')",
    "by a relative path": "os.remove('../outside/file')",
    "by a link to a file": "os.symlink(f'{out}/file', f'{own}/to_file'); open(f'{own}/to_file', 'r+').write('x')",
    "by a hard link": "os.link(f'{out}/file', f'{own}/hard'); open(f'{own}/hard', 'w').write('x')",
    "moving it away": "os.rename(f'{out}/file', f'{own}/file')",
    "moving another file over it": "open(f'{own}/new', 'w').close(); os.replace(f'{own}/new', f'{out}/file')",
    "moving a folder away": "shutil.move(f'{out}/data', f'{own}/data')",
    "through a subprocess": "subprocess.run(['rm', '-rf', f'{out}/data'], check=True)",
    "through a shell": "subprocess.run(f'echo x > {out}/file', shell=True, check=True)",
    "through a forked process": (
        "pid = os.fork()\nif pid == 0: os.remove(f'{out}/file')\nelse: sys.exit(os.waitpid(pid, 0)[1] != 0)"
    ),
    "through a thread": (
        "import threading\nfailed = []\ndef f():\n try: os.remove(f'{out}/file')\n except OSError: failed.append(1)\n"
        "t = threading.Thread(target=f); t.start(); t.join(); sys.exit(bool(failed))"
    ),
    "by mmap": "file = open(f'{out}/file', 'r+b'); mmap.mmap(file.fileno(), 0)[:1] = b'x'",
    "in a database": "sqlite3.connect(f'{out}/data.db').execute('drop table original')",
    "through /proc": "file = os.open(f'{out}/file', os.O_RDONLY); open(f'/proc/self/fd/{file}', 'w').write('x')",
    "by C": (
        "libc = ctypes.CDLL(None, use_errno=True); libc.unlink.argtypes = [ctypes.c_char_p]\n"
        "sys.exit(libc.unlink(f'{out}/file'.encode()) != 0)"
    ),
}


@needs_landlock
@pytest.mark.parametrize("way", HARM)
def test_files_outside_cannot_be_changed(way: str, limits: Limits, outside: Path) -> None:
    before = state(outside)
    done = run(limits, HARM[way], outside)
    assert state(outside) == before
    assert done.returncode != 0, done.stdout
    assert event(limits)["event"] == "protected"


@pytest.mark.parametrize("way", HARM)
def test_each_of_these_programs_does_harm_without_limits(way: str, outside: Path, tmp_path: Path) -> None:
    before = state(outside)
    command = [sys.executable, "-I", "-c", BEGIN + HARM[way], str(outside), str(tmp_path / "own")]
    subprocess.run(command, cwd=tmp_path / "own", capture_output=True, timeout=60, check=True)
    assert state(outside) != before


@needs_truncate
def test_a_file_outside_cannot_be_truncated(limits: Limits, outside: Path) -> None:
    before = state(outside)
    assert "Error" in run(limits, "os.truncate(f'{out}/file', 0)", outside).stderr
    assert "Error" in run(limits, "os.open(f'{out}/file', os.O_RDONLY | os.O_TRUNC)", outside).stderr
    assert state(outside) == before


METADATA = {
    "its permissions": "os.chmod(f'{out}/file', 0o600)",
    "its times": "os.utime(f'{out}/file', (1, 1))",
    "its owner": "os.chown(f'{out}/file', 1, 1)",
    "its permissions through a subprocess": "subprocess.run(['chmod', '-R', 'a-w', out], check=True)",
}


@needs_landlock
@pytest.mark.parametrize("what", METADATA)
def test_permissions_owners_and_times_outside_cannot_be_changed(what: str, limits: Limits, outside: Path) -> None:
    before = state(outside)
    done = run(limits, METADATA[what], outside)
    if "read-only mounts" not in event(limits)["files"]:
        pytest.skip("this system allows no mount namespace, and Landlock does not know permissions, owners and times")
    assert done.returncode != 0
    assert state(outside) == before


@needs_landlock
def test_mounts_cannot_be_changed_back(limits: Limits, outside: Path) -> None:
    before = state(outside)
    program = "subprocess.run(['mount', '-o', 'remount,bind,rw', '/']); open(f'{out}/file', 'w')"
    assert run(limits, program, outside).returncode != 0
    assert state(outside) == before


@needs_landlock
def test_a_process_does_what_it_likes_in_its_own_folder(limits: Limits, outside: Path, tmp_path: Path) -> None:
    program = """
os.makedirs('a/b'); open('a/file', 'w').write('x'); os.rename('a/file', 'a/b/file'); os.link('a/b/file', 'hard')
os.chmod('hard', 0o600); os.utime('hard'); os.truncate('hard', 0); shutil.rmtree('a'); os.symlink(out, 'other')
print(open('/dev/null', 'w').write('x'), open(f'{out}/file').read(), os.path.exists('link/file'))
import multiprocessing.shared_memory as shared
memory = shared.SharedMemory(create=True, size=8); memory.buf[0] = 1; memory.close(); memory.unlink()
import multiprocessing
print(multiprocessing.get_context('fork').Pool(2).map(abs, [-1, -2]), os.getuid())
"""
    done = run(limits, program, outside)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["1 the original file True", f"[1, 2] {os.getuid()}"]
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["hard", "link", "other", "report"]


@needs_landlock
def test_what_is_allowed_can_be_written(limits: Limits, outside: Path) -> None:
    allowed = replace(limits, writable=(*limits.writable, str(outside / "data")))
    assert run(allowed, "os.remove(f'{out}/data/a')", outside).returncode == 0
    assert not (outside / "data" / "a").exists()
    assert run(allowed, "os.remove(f'{out}/file')", outside).returncode != 0
    one_file = replace(limits, writable=(*limits.writable, str(outside / "file")))
    assert run(one_file, "open(f'{out}/file', 'w').write('new')", outside).returncode == 0
    assert (outside / "file").read_text() == "new"


@needs_landlock
def test_nothing_runs_if_the_protection_does_not_work(limits: Limits, outside: Path) -> None:
    writable = replace(limits, canary=str(Path(limits.writable[0], "canary")))
    Path(writable.canary or "").touch()
    done = run(writable, "open('ran', 'w')", outside)
    assert done.returncode == 1
    assert event(limits)["event"] == "unprotected"
    assert not Path(limits.writable[0], "ran").exists()


@needs_landlock
def test_no_code_of_the_environment_runs_before(limits: Limits, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / "sitecustomize.py").write_text(f"open({str(outside / 'made')!r}, 'w')")
    (tmp_path / "own" / "json.py").write_text(f"open({str(outside / 'made')!r}, 'w')")
    command = protected([sys.executable, "-c", "import os"], limits)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "own")}
    subprocess.run(command, cwd=tmp_path / "own", env=environment, capture_output=True, check=False)
    assert not (outside / "made").exists()


# -- the network --------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[int]:
    """Return the port of a server on this machine, which stands for any other: it is not in the namespace."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=lambda: _answer(listening), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def _answer(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        connection.close()


CALLS = {
    "urllib": "print(urllib.request.urlopen('http://127.0.0.1:PORT').read())",
    "a socket": "socket.create_connection(('127.0.0.1', PORT), 5)",
    "a subprocess": (
        "subprocess.run([sys.executable, '-c', 'import socket; socket.create_connection((\"127.0.0.1\", PORT), 5)'], "
        "check=True)"
    ),
}


@needs_landlock
@pytest.mark.parametrize("way", CALLS)
def test_the_network_cannot_be_reached(way: str, limits: Limits, outside: Path, server: int) -> None:
    program = CALLS[way].replace("PORT", str(server))
    closed = run(limits, program, outside)
    if not event(limits)["network"]:
        pytest.skip("this system allows no network namespace, and its Landlock does not know TCP")
    assert closed.returncode != 0
    opened = run(replace(limits, network=True), program, outside)
    assert opened.returncode == 0, opened.stderr


@needs_landlock
def test_processes_of_one_training_can_connect(limits: Limits, outside: Path) -> None:
    program = "a = socket.create_server(('127.0.0.1', 0)); socket.create_connection(a.getsockname(), 5)"
    assert run(replace(limits, local_only=False), program, outside).returncode == 0


@pytest.mark.skipif(protection._bubblewrap() is None, reason="bubblewrap is not installed, or not allowed")
def test_bubblewrap_protects_as_well(limits: Limits, outside: Path, server: int) -> None:
    before = state(outside)
    wrapped = replace(limits, means="bubblewrap")
    for program in [*HARM.values(), *METADATA.values(), CALLS["a socket"].replace("PORT", str(server))]:
        assert run(wrapped, program, outside).returncode != 0, program
        assert state(outside) == before, program
    assert event(limits)["files"] == ["bubblewrap"]


@needs_landlock
@pytest.mark.parametrize("version", range(1, 7))
def test_every_version_of_landlock_keeps_files(version: int, outside: Path, tmp_path: Path) -> None:
    if version > landlock.version():
        pytest.skip("this kernel's Landlock is older")
    before = state(outside)
    own = tmp_path / "own"
    program = (
        f"import sys; sys.path.append({str(Path(landlock.__file__).parents[2])!r})\n"
        f"from lightning_dtool.sandbox import landlock\n"
        f"landlock.restrict([{str(own)!r}], as_version={version})\n"
        f"import shutil; open({str(own / 'new')!r}, 'w').close()\n"
        f"shutil.rmtree({str(outside)!r}, ignore_errors=True); open({str(outside / 'file')!r}, 'w')"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr
    assert (own / "new").exists()
    assert state(outside) == before


def test_without_landlock_and_bubblewrap_there_is_no_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    protection._bubblewrap.cache_clear()
    try:
        assert protection.means() is None
    finally:
        protection._bubblewrap.cache_clear()
