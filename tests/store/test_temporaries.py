"""Temporary files whose names say who writes them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_dtool.store import temporaries
from lightning_dtool.store.ownership import current_owner
from lightning_dtool.store.temporaries import is_being_written, is_temporary, temporary_beside


def test_a_name_is_new_and_lies_beside_the_path(tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 250}.ckpt"
    one, other = temporary_beside(path), temporary_beside(path)
    assert one != other
    assert one.parent == tmp_path
    one.touch()


def test_the_process_that_gave_a_name_still_runs() -> None:
    name = temporary_beside(Path("last.ckpt")).name
    assert is_temporary(name)
    assert is_being_written(name) is True


def test_the_process_that_gave_a_name_has_ended() -> None:
    program = (
        "from pathlib import Path\nfrom lightning_dtool.store.temporaries import temporary_beside\n"
        "print(temporary_beside(Path('last.ckpt')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert is_being_written(done.stdout.strip()) is False


@pytest.mark.parametrize(
    ("other", "written"),
    [
        ({"machine": "another"}, None),
        ({"host": "another"}, None),
        ({"namespace": "another"}, None),
        ({"boot": "an earlier one"}, False),
        ({"started": "earlier"}, False),
    ],
)
def test_a_process_elsewhere_cannot_be_asked(
    other: dict[str, str], written: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = replace(current_owner(), **other)
    with monkeypatch.context() as patch:
        patch.setattr(temporaries, "current_owner", lambda: owner)
        name = temporary_beside(Path("last.ckpt")).name
    assert is_being_written(name) is written


@pytest.mark.parametrize("name", ["last.ckpt", ".0b81f58103de466f87bb16d738506a3a.tmp", ".lightning-dtool-1.tmp", ""])
def test_another_name_is_none(name: str) -> None:
    assert not is_temporary(name)
    assert is_being_written(name) is None
