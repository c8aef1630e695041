"""Who writes something, and whether that process still runs."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from lightning_dtool.store import ownership
from lightning_dtool.store.ownership import current_owner, describe, is_alive, owner_from_json, owner_to_json


def owner_of_a_child(code: str) -> ownership.Owner | None:
    script = "from lightning_dtool.store.ownership import current_owner, owner_to_json\n"
    script += f"print(owner_to_json(current_owner()), flush=True)\n{code}"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        owner = owner_from_json(child.stdout.readline().decode())
        assert owner is not None
        assert owner.pid == child.pid
        if "input" in code:
            assert is_alive(owner) is True
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert is_alive(owner) is False, "a process that was killed, and that nobody has waited for"
    return owner


def test_a_process_lives_until_it_ends() -> None:
    assert is_alive(current_owner()) is True
    owner = owner_of_a_child("input()")
    assert owner is not None
    assert is_alive(owner) is False


def test_another_process_with_the_number_of_an_owner_is_not_the_owner() -> None:
    assert is_alive(replace(current_owner(), started="1")) is False


def test_an_owner_that_cannot_be_asked_is_neither_alive_nor_dead() -> None:
    mine = current_owner()
    assert is_alive(replace(mine, host="elsewhere")) is None
    assert is_alive(replace(mine, machine="another")) is None
    assert is_alive(replace(mine, namespace="pid:[1]")) is None
    assert is_alive(replace(mine, started="")) is None
    assert is_alive(replace(mine, pid=2**70)) is None


def test_an_owner_from_before_a_restart_of_the_machine_is_dead() -> None:
    assert is_alive(replace(current_owner(), boot="before")) is False


def test_an_owner_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    assert is_alive(current_owner()) is True
    monkeypatch.setattr(ownership, "_start_of", lambda _: "")  # hidden, too
    assert is_alive(current_owner()) is None


def test_without_proc_the_start_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership.platform, "system", lambda: "Darwin")
    asked: list[list[str]] = []

    def ps(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="Mon Nov 30 19:00:00 2026 \n")

    monkeypatch.setattr(subprocess, "run", ps)
    ownership._own_start.cache_clear()
    try:
        assert is_alive(current_owner()) is True
        assert current_owner().started == "Mon Nov 30 19:00:00 2026"
        assert is_alive(replace(current_owner(), started="Mon Nov 30 18:00:00 2026")) is False
    finally:
        ownership._own_start.cache_clear()
    assert asked[0][-1] == str(os.getpid())


def test_a_forked_child_is_another_process() -> None:
    mine = current_owner()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, owner_to_json(current_owner()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = owner_from_json(os.read(reader, 4096).decode())
    os.close(reader)
    os.close(writer)
    assert theirs is not None
    assert theirs.pid == child != mine.pid
    assert is_alive(mine) is True
    assert is_alive(theirs) is False


def test_an_owner_is_read_back_from_json_and_anything_else_is_none() -> None:
    owner = current_owner()
    assert owner_from_json(owner_to_json(owner)) == owner
    for text in ("", "[]", "{}", "null", '"x"', owner_to_json(replace(owner, pid=-1)), "[" * 100_000):
        assert owner_from_json(text) is None
    assert str(owner.pid) in describe(owner)
    assert describe(None) == "an unknown process"
