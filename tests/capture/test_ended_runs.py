"""The recorded runs of this process that have ended."""

from collections import deque
from pathlib import Path

import pytest
import torch

from kit import TinyNet
from lightning_dtool.capture import ended_runs
from lightning_dtool.capture.ended_runs import published_as, remember_run
from lightning_dtool.capture.parameter_versions import note_versions


@pytest.fixture(autouse=True)
def no_earlier_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended_runs, "_ended", deque(maxlen=2))


def test_the_last_run_of_a_module_is_known_after_many_others() -> None:
    first, others = TinyNet(), [TinyNet() for _ in range(3)]
    for number, module in enumerate([first, *others]):
        remember_run(str(number), module, [])
    assert [run.uuid for run in ended_runs.ended_runs(first)] == ["3", "2", "0"]
    assert [run.uuid for run in ended_runs.ended_runs(others[-1])] == ["3", "2"]


def test_a_file_that_two_runs_have_published_is_of_the_later_one(tmp_path: Path) -> None:
    path, link = tmp_path / "last.ckpt", tmp_path / "link.ckpt"
    path.touch()
    link.symlink_to(path)
    for number in range(2):
        remember_run(str(number), TinyNet(), [(f"file:///{number}", str(path))])
    found = published_as(str(link))
    assert found is not None
    assert (found[0].uuid, found[1]) == ("1", "file:///1")
    assert published_as(str(tmp_path / "other.ckpt")) is None


def test_a_run_keeps_no_weights_but_knows_which_it_has_changed() -> None:
    module = TinyNet()
    note_versions(module)
    name, parameter = next(iter(module.named_parameters()))
    with torch.no_grad():
        parameter.add_(1)
    remember_run("0", module, [])
    (run,) = ended_runs.ended_runs(module)
    assert run.changed == {name}
    candidate = next(candidate for candidate in run.candidates if candidate.name == name)
    assert candidate.equals(parameter)
    with torch.no_grad():
        parameter.add_(1)
    assert not candidate.equals(parameter)
