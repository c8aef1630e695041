"""Proofs that a run resumes exactly: it goes on from an earlier checkpoint and is compared with a later one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_dtool
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.cli import model
from lightning_dtool.data.packing import pack
from lightning_dtool.errors import ConfigurationError, DatasetNotFoundError
from lightning_dtool.reproduction.comparison import compare
from lightning_dtool.reproduction.original import Original
from lightning_dtool.reproduction.proof import check_earlier, prove
from lightning_dtool.results.reproduction import Verdict
from lightning_dtool.store import Addresses, FrozenDataset, iter_datasets
from reproduction.runs import SCRIPTS, places, project, train

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
    arguments = ["reproduce", made[3, 24], "--from", made[1, 12], "--into", str(tmp_path), "--trace"]
    result = CliRunner().invoke(model, arguments)
    assert result.exit_code == 1, result.output
    lines = result.output.split("\n")
    assert lines[0] == "DIFFERENT"
    assert "the resumed run is another one: weights" in lines[1]
    assert f"  earlier   {made[1, 12]}" in lines
    assert any(line.startswith("They first differ in epoch 2: ") for line in lines)
    step = "Step by step: first difference from a rerun that was not stopped at epoch 2, step 13: parameter "
    assert any(line.startswith(step) for line in lines)
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


@pytest.mark.slow
def test_a_distributed_run_is_proven(runs: Runs, tmp_path: Path) -> None:
    made = runs("nothing", "2")
    found = lightning_dtool.reproduce(made[3, 24], from_=made[1, 8], into=tmp_path / "into")
    assert found.verdict is Verdict.RESUME_EXACT, (found, found.resume)


@pytest.fixture(scope="module", params=["last", pytest.param("by path", marks=pytest.mark.slow)])
def resumed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Return URIs by epoch: of a run of two epochs, and of one that was resumed from it by hand."""
    folder = tmp_path_factory.mktemp("resumed")
    made, (models, kept) = project(folder, "resumable.py"), places(folder, "models", "kept")
    if request.param == "last":
        text = (made / "resumable.py").read_text()
        by_path = "str(last) if last.exists() else None"
        assert by_path in text
        (made / "resumable.py").write_text(text.replace(by_path, '"last" if last.exists() else None'))
    for epochs in ("2", "4"):
        train(made, "resumable.py", str(models), str(kept), epochs, fresh=False)
    shutil.rmtree(made)
    shutil.rmtree(kept)
    return {epoch: uri for (epoch, _), uri in by_moment(models).items()}


def test_a_run_that_was_resumed_by_hand_is_proven(resumed: dict[int, str], tmp_path: Path) -> None:
    assert DtoolCheckpoint.from_uri(resumed[3]).record.lineage.resumed
    within = lightning_dtool.reproduce(resumed[3], from_=resumed[2], into=tmp_path / "into")
    assert within.verdict is Verdict.RESUME_EXACT, (within, within.resume)
    # From the run before: it was stopped after epoch 1, and this one goes on without a stop.
    across = lightning_dtool.reproduce(resumed[3], from_=resumed[0], into=tmp_path / "into")
    assert across.verdict is Verdict.RESUME_EXACT, (across, across.resume)
    with pytest.raises(ConfigurationError, match=r"itself resumed here, and .* \(--from parent\)"):
        lightning_dtool.reproduce(resumed[3], from_=resumed[1], into=tmp_path / "into")
    with pytest.raises(ConfigurationError, match="another run"):
        lightning_dtool.reproduce(resumed[1], from_=resumed[2], into=tmp_path / "into")


def test_what_the_earlier_checkpoint_announced_is_in_the_verdict(tmp_path: Path) -> None:
    made, (models, outputs) = project(tmp_path, "in_the_middle.py", "seeded.py"), places(tmp_path, "models", "outputs")
    train(made, "in_the_middle.py", str(models), str(outputs), fresh=False)
    moments = by_moment(models)
    arguments = ["reproduce", moments[2, 18], "--from", moments[1, 8], "--into", str(tmp_path / "into")]
    result = CliRunner().invoke(model, arguments)
    assert result.exit_code == 1, result.output
    assert "Nothing announced it" not in result.output
    _, _, announced = result.output.partition("\nANNOUNCED\n")
    assert announced.startswith(
        "  the checkpoint was saved inside an epoch, and the DataLoader train[0] starts that epoch"
    )


def test_a_run_whose_data_depends_on_another_seed_each_time_is_not_exact(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path), places(tmp_path, "models")
    text = (SCRIPTS / "unseeded.py").read_text()
    text = text.replace("Callback(models)", 'Callback(models, retention="all")')
    by_time = '    torch.manual_seed(int.from_bytes(os.urandom(4), "big"))\n    data ='
    (made / "unseeded.py").write_text(
        text.replace("    data =", by_time).replace("import random", "import os\nimport random")
    )
    train(made, "unseeded.py", str(models), fresh=False)
    moments = by_moment(models)
    # `reproduce` from the start puts the recorded random states back; a run that a user resumes has other data.
    found = lightning_dtool.reproduce(moments[1, 8], from_=moments[0, 4], into=tmp_path / "into")
    assert found.verdict is Verdict.DIFFERENT
    assert found.resume is not None
    assert "weights" in {difference.part for difference in found.resume.differences}


@pytest.mark.slow
def test_a_run_of_lightning_cli_that_was_resumed_by_an_option_is_proven(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path, "classifier_cli.py"), places(tmp_path, "models")
    options = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    variables = {"LIGHTNING_DTOOL_BASE_URI": str(models), "LIGHTNING_DTOOL_RETENTION": "all"}
    train(made, "classifier_cli.py", "fit", "--trainer.max_epochs=2", *options, **variables)
    earlier = by_moment(models)
    (stop,) = [uri for (epoch, _), uri in earlier.items() if epoch == 1]
    (first,) = [uri for (epoch, _), uri in earlier.items() if epoch == 0]
    train(made, "classifier_cli.py", "fit", "--trainer.max_epochs=4", f"--ckpt_path={stop}", *options, **variables)
    shutil.rmtree(made)
    (last,) = [uri for (epoch, _), uri in by_moment(models).items() if epoch == 3]
    found = lightning_dtool.reproduce(last, from_=first, into=tmp_path / "into")
    assert found.verdict is Verdict.RESUME_EXACT, (found, found.resume)


def test_checkpoints_with_weights_only_are_compared_and_not_resumed(tmp_path: Path) -> None:
    places(tmp_path, "models", "whole", "weights")
    policies = [
        ModelCheckpoint(tmp_path / "whole", save_top_k=-1),
        ModelCheckpoint(tmp_path / "weights", monitor="train_loss", save_top_k=-1, save_weights_only=True),
    ]
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    trainer(tmp_path, provenance, *policies, max_epochs=2).fit(TinyNet(), loader())
    found = [Original.from_uri(uri) for uri in provenance.uris]
    (first, last), (only_first, only_last) = (
        [each for each in found if each.record.checkpoint.weights_only is only] for only in (False, True)
    )
    with pytest.raises(ConfigurationError, match="found one with weights only"):
        check_earlier(only_first, last, [], Addresses(last.uri))
    check_earlier(first, only_last, [], Addresses(last.uri))
    verdict, reason, proof = prove(first, only_last, last, compare(only_last.uri, last.uri), [])
    assert verdict is Verdict.RESUME_EXACT
    assert reason.endswith(
        "every bit of the 4 weight tensors is the same. The recorded checkpoint holds no other states"
    )
    assert proof.differing_count == 0
