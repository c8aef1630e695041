"""Proofs that a run resumes exactly: it goes on from an earlier checkpoint and is compared with a later one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import lightning_dtool
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.cli import model
from lightning_dtool.data.packing import pack
from lightning_dtool.errors import ConfigurationError, DatasetNotFoundError
from lightning_dtool.results.reproduction import Verdict
from lightning_dtool.store import FrozenDataset, iter_datasets
from reproduction.runs import places, project, train

pytestmark = pytest.mark.usefixtures("forked")

Runs = Callable[..., dict[tuple[int, int], str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function that trains `goes_on.py` once for each planted fault, and returns URIs by epoch and step."""
    vectors = tmp_path_factory.mktemp("vectors")
    for number, row in enumerate(np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)):
        path = vectors / "raw" / "abc"[int(row[:3].argmax())] / f"{number:02}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, row)
    (vectors / "data").mkdir()
    data = pack(vectors / "raw", str(vectors / "data"), "vectors", progress=False)
    done: dict[tuple[str, ...], dict[tuple[int, int], str]] = {}

    def of(*arguments: str) -> dict[tuple[int, int], str]:
        if arguments not in done:
            folder = tmp_path_factory.mktemp("run")
            made, (models, kept) = project(folder, "goes_on.py"), places(folder, "models", "kept")
            train(made, "goes_on.py", str(models), data, str(kept), *arguments, fresh=False)
            shutil.rmtree(made)
            shutil.rmtree(kept)
            done[arguments] = by_moment(models)
        return done[arguments]

    return of


def by_moment(models: Path) -> dict[tuple[int, int], str]:
    """Return the last checkpoint of each epoch and step."""
    found = sorted(iter_datasets(str(models)), key=lambda dataset: dataset.frozen_at)
    return {(each.annotation("epoch"), each.annotation("global_step")): each.uri for each in found}


@pytest.mark.parametrize("earlier", [(1, 12), (1, 8)], ids=["end of an epoch", "inside an epoch"])
def test_an_exact_resume_is_proven(runs: Runs, tmp_path: Path, earlier: tuple[int, int]) -> None:
    made = runs("nothing")
    found = lightning_dtool.reproduce(made[3, 24], from_=made[earlier], into=tmp_path / "into")
    assert found.verdict is Verdict.RESUME_EXACT, (found, found.resume)
    assert found.successful
    assert found.reason.startswith(f"resumed at epoch 1, step {earlier[1]} and compared at epoch 3, step 24")
    assert found.resume is not None
    assert (found.resume.differences, found.resume.announced) == ((), ())
    assert found.rerun is not None
    again = DtoolCheckpoint.from_uri(found.rerun.uri).record
    assert again.lineage.resumed
    assert again.lineage.parent_checkpoint == found.resume.earlier
    assert found.uri is not None
    assert FrozenDataset.from_uri(found.uri).annotation("source_dataset_uuid") == [
        found.original.uuid, found.rerun.uuid, found.resume.earlier.uuid,
    ]  # fmt: skip


def test_a_state_outside_every_checkpoint_is_found_at_its_first_step(runs: Runs, tmp_path: Path) -> None:
    made = runs("file")
    found = lightning_dtool.reproduce(made[3, 24], from_=made[1, 12], into=tmp_path / "into")
    assert found.verdict is Verdict.DIFFERENT
    assert found.resume is not None
    assert (
        found.step
        == "first difference from the recorded training at epoch 2, step 13: parameter layers.0.weight and 5 more"
    )
    assert {"weights", "optimizer states"} <= {difference.part for difference in found.resume.differences}
    assert "optimizer states (12)" in found.reason
    assert ("Nothing announced it" in found.reason) == (not found.resume.announced)


def test_a_resumed_run_that_begins_otherwise_is_not_exact(runs: Runs, tmp_path: Path) -> None:
    made = runs("urandom")
    result = CliRunner().invoke(model, ["reproduce", made[3, 24], "--from", made[1, 12], "--into", str(tmp_path)])
    assert result.exit_code == 1, result.output
    lines = result.output.split("\n")
    assert lines[0] == "DIFFERENT"
    assert "the resumed run is another one: weights" in lines[1]
    assert f"  earlier   {made[1, 12]}" in lines
    assert any(line.startswith("They first differ in epoch 2: ") for line in lines)
    (heading,) = [number for number, line in enumerate(lines) if line.startswith("STATES THAT DIFFER")]
    assert lines[heading + 1].startswith("  weights: layers.0.weight (float32 [16, 8])")


def test_a_state_that_a_callback_does_not_restore_is_named(runs: Runs, tmp_path: Path) -> None:
    made = runs("state")
    arguments = ["reproduce", made[3, 24], "--from", made[1, 12], "--into", str(tmp_path), "--json"]
    result = CliRunner().invoke(model, arguments)
    assert result.exit_code == 1, result.output
    printed = json.loads(result.stdout)
    assert printed["verdict"] == "different"
    assert printed["comparison"]["weights_identical"] is True
    assert printed["resume"]["differences"] == [{"part": "callbacks", "path": "Ages.epochs", "a": "4", "b": "2"}]
    assert printed["resume"]["earlier"]["uri"] == made[1, 12]
    assert printed["factors"] == []


def test_only_an_earlier_checkpoint_of_the_same_run_is_accepted(runs: Runs, tmp_path: Path) -> None:
    one, other = runs("nothing"), runs("state")

    def refused(later: str, earlier: str, words: str) -> None:
        with pytest.raises(ConfigurationError, match=words) as caught:
            lightning_dtool.reproduce(later, from_=earlier, into=tmp_path / "into")
        assert caught.value.uri == earlier

    refused(
        one[3, 24], other[1, 12], r"expected an earlier checkpoint of the run that saved .*, found one of another run"
    )
    refused(one[1, 12], one[3, 24], r"saved before .* \(epoch 1, step 12\), found one of epoch 3, step 24\.")
    refused(one[3, 24], one[3, 24], r"found one of the same moment \(epoch 3, step 24\)")
    with pytest.raises(DatasetNotFoundError):
        lightning_dtool.reproduce(one[3, 24], from_=str(tmp_path / "nowhere"), into=tmp_path / "into")
    result = CliRunner().invoke(model, ["reproduce", one[3, 24], "--from", other[1, 12], "--into", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert "another run" in result.output
