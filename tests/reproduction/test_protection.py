"""Reruns of trainings that clear their output folders, delete their data, or use the network."""

import shutil
from pathlib import Path

import pytest

import lightning_dtool
from lightning_dtool.errors import ConfigurationError
from lightning_dtool.record import Trainer
from lightning_dtool.reproduction import protecting
from lightning_dtool.reproduction.outputs import outputs_at_risk
from lightning_dtool.results.reproduction import Reproduction, Verdict
from lightning_dtool.sandbox import landlock
from lightning_dtool.store import local_path
from record.samples import record
from reproduction.runs import SCRIPTS, content, only_checkpoint, places, project, train

needs_landlock = pytest.mark.skipif(landlock.version() < landlock.OLDEST, reason="this kernel has no Landlock")


def changed(made: Path, begin: str) -> None:
    """Write `seeded.py` into a project, with lines before the seed."""
    text = (SCRIPTS / "seeded.py").read_text()
    text = text.replace("    L.seed_everything(1)\n", begin + "    L.seed_everything(1)\n")
    (made / "train.py").write_text("import os, shutil, subprocess\n" + text.replace("max_epochs=3", "max_epochs=1"))


def reason_of(found: Reproduction, cause: str) -> str:
    assert (found.verdict, found.cause) == (Verdict.COULD_NOT_RUN, cause), found
    return found.reason.partition("\n")[0]


@needs_landlock
def test_a_training_that_tries_to_do_harm_does_none_and_is_reproduced(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path, "does_harm.py", "seeded.py"), places(tmp_path, "models")
    harm = tmp_path / "harm"
    train(made, "does_harm.py", str(models), str(harm))
    # What the rerun will try to destroy: a copy of the original.
    shutil.copytree(models, harm)
    before, status = content(harm), {path: path.stat() for path in harm.rglob("*")}
    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    assert content(harm) == before
    (note,) = [note for note in found.notes if note.startswith("protected by: ")]
    assert "Landlock (files)" in note
    assert any(note.startswith("it was kept from writing to") and str(harm) in note for note in found.notes)
    if "read-only mounts" in note:
        for path, earlier in status.items():
            now = path.stat()
            assert (now.st_mode, now.st_mtime_ns) == (earlier.st_mode, earlier.st_mtime_ns)
            assert now.st_nlink == earlier.st_nlink


SLOW = dict.fromkeys(
    ("if it exists", "by a command", "by a command that may fail", "by torch", "and ends if that fails"),
    pytest.mark.slow,
)
WAYS_TO_CLEAR = {
    "ignoring errors": "    shutil.rmtree(OUT, ignore_errors=True)\n    os.makedirs(OUT + '/models')\n",
    "if it exists": "    if os.path.exists(OUT): shutil.rmtree(OUT)\n    os.makedirs(OUT + '/models')\n",
    "by a command": "    subprocess.run(['rm', '-rf', OUT], check=True)\n    os.makedirs(OUT + '/models')\n",
    "by a command that may fail": "    os.system(f'rm -rf {OUT}')\n    os.makedirs(OUT + '/models')\n",
    "by torch": "    os.makedirs(OUT + '/models', exist_ok=True)\n    torch.save({}, OUT + '/config.pt')\n",
    "and ends if that fails": (
        "    shutil.rmtree(OUT, ignore_errors=True)\n    if os.path.isdir(OUT): sys.exit(0)\n"
        "    os.makedirs(OUT + '/models')\n"
    ),
}


@needs_landlock
@pytest.mark.parametrize("way", [pytest.param(way, marks=SLOW.get(way, ())) for way in WAYS_TO_CLEAR])
def test_a_script_that_clears_its_absolute_folder_first_does_not_delete_the_original(way: str, tmp_path: Path) -> None:
    made, out = project(tmp_path), tmp_path / "out"
    changed(made, begin=f"    OUT = {str(out)!r}\n" + WAYS_TO_CLEAR[way])
    train(made, "train.py", str(out / "models"), fresh=False)
    before = content(out)
    uri = only_checkpoint(out / "models")

    found = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    reason = reason_of(found, "refused_write")
    if way == "by torch":  # its error does not name the path
        assert reason.startswith("it wants to write outside its own folders")
    else:
        assert reason.startswith(f"it wants to write to {out}")
        assert str(local_path(uri)) in reason
    assert "--allow-write" in reason
    assert content(out) == before


@needs_landlock
@pytest.mark.slow
def test_what_is_allowed_can_be_written(tmp_path: Path) -> None:
    made, (models, out) = project(tmp_path), places(tmp_path, "models", "out")
    changed(made, begin=f"    open({str(out / 'log.txt')!r}, 'a').write('begun ')\n")
    train(made, "train.py", str(models), fresh=False)
    uri = only_checkpoint(models)
    refused = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    assert any(note.startswith("protected by: Landlock (files)") for note in refused.notes)
    assert f"--allow-write {out}" in reason_of(refused, "refused_write")
    assert "holds" not in refused.reason
    assert (out / "log.txt").read_text() == "begun "
    found = lightning_dtool.reproduce(uri, into=tmp_path / "into", allow_write=[out])
    assert found.verdict is Verdict.IDENTICAL, found
    assert (out / "log.txt").read_text() == "begun begun "
    assert f"it was allowed to write to {out}" in found.notes


@needs_landlock
def test_a_script_that_uses_the_network_is_told_so(tmp_path: Path) -> None:
    made, (models,), online = project(tmp_path), places(tmp_path, "models"), tmp_path / "online"
    fetch = "import urllib.request; urllib.request.urlopen('http://data.example/')"
    call = f"    if os.path.exists({str(online)!r}): {fetch}\n"
    changed(made, begin=call)
    train(made, "train.py", str(models), fresh=False)
    online.touch()
    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    if any("not restricted" in note for note in found.notes):
        pytest.skip("this system allows no network namespace")
    assert reason_of(found, "refused_network") == ("it wants to connect to data.example. To allow it: --allow-network")


def test_a_path_that_may_be_written_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Create it first"):
        lightning_dtool.reproduce("/nowhere", allow_write=[tmp_path / "absent"])


# -- where nothing can protect ------------------------------------------------------------------


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protecting, "means", lambda: None)


@pytest.mark.usefixtures("nothing")
def test_without_protection_a_training_that_would_clear_the_folder_is_not_started(tmp_path: Path) -> None:
    made, out = project(tmp_path), tmp_path / "out"
    changed(made, begin=f"    OUT = {str(out)!r}\n" + WAYS_TO_CLEAR["ignoring errors"])
    train(made, "train.py", str(out / "models"), fresh=False)
    before = content(out)
    found = lightning_dtool.reproduce(only_checkpoint(out / "models"), into=tmp_path / "into")
    reason = reason_of(found, "unprotected")
    assert str(out) in reason
    assert f"--allow-write {out}" in reason
    assert content(out) == before


@pytest.mark.usefixtures("nothing")
@pytest.mark.slow
def test_without_protection_a_training_in_relative_folders_is_reproduced(tmp_path: Path) -> None:
    made = project(tmp_path, "seeded.py")
    places(made, "models")
    train(made, "seeded.py", "models", fresh=False)
    found = lightning_dtool.reproduce(only_checkpoint(made / "models"), into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    assert "not protected: this system has neither Landlock nor bubblewrap" in found.notes


def test_outputs_at_risk_are_recorded_folders_that_exist_and_named_folders_that_hold_the_original(
    tmp_path: Path,
) -> None:
    source, runs, other = places(tmp_path, "source", "runs", "other")
    (source / "train.py").write_text(f"DATA = '{other}'\n")
    (source / "config.yaml").write_text(f"out: {runs}\n")
    at_risk = lambda **settings: outputs_at_risk(  # noqa: E731
        record(trainer=Trainer(settings=settings)), source, f"file://{runs}/net"
    )
    assert at_risk() == [str(runs)]
    assert at_risk(default_root_dir=str(other)) == [str(other), str(runs)]
    assert at_risk(default_root_dir=str(tmp_path / "gone")) == [str(runs)]
