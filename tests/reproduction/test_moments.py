"""The checkpoint that a rerun is compared by, where a script saves several at the recorded moment."""

import shutil
from pathlib import Path

import pytest

import lightning_dtool
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.rehearsal.likeness import Likeness, likeness_of
from lightning_dtool.results.reproduction import Verdict
from lightning_dtool.store import iter_datasets
from reproduction.runs import places, project, train


def saved_as(models: Path, filename: str) -> str:
    """Return the URI of the only checkpoint that was saved to a file of a name."""
    names = {data.uri: DtoolCheckpoint.from_uri(data.uri).record.checkpoint.filename for data in iter_datasets(models)}
    (uri,) = [uri for uri, name in names.items() if name == filename]
    return uri


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("options", "filename"),
    [
        pytest.param(["metric"], None, id="after the module's own hook at the end of an epoch"),
        pytest.param(["first"], "before-1.ckpt", id="before the module's own hook"),
        pytest.param(["pruned"], "pruned.ckpt", id="by hand after training"),
        pytest.param(["pruned"], "trained.ckpt", id="by hand before the weights change", marks=pytest.mark.slow),
        pytest.param(["bare"], "epoch=1-step=12.ckpt", id="weights only", marks=pytest.mark.slow),
    ],
)
def test_the_checkpoint_of_the_recorded_name_is_compared(
    tmp_path: Path, options: list[str], filename: str | None
) -> None:
    made, (models,) = project(tmp_path, "after_the_save.py", "seeded.py"), places(tmp_path, "models")
    train(made, "after_the_save.py", str(models), *options, fresh=False)
    shutil.rmtree(made)
    last = max(iter_datasets(models), key=lambda data: DtoolCheckpoint.from_uri(data.uri).record.checkpoint.saved_at)
    uri = last.uri if filename is None else saved_as(models, filename)

    found = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, (found, found.factors)
    assert found.comparison is not None
    assert found.comparison.identical, found.comparison


@pytest.mark.parametrize(
    ("name", "recorded", "likeness"),
    [
        ("epoch=1-step=12.ckpt", "epoch=1-step=12.ckpt", Likeness.SAME),
        ("best-v1.ckpt", "best.ckpt", Likeness.SAME),
        ("epoch=1-loss=0.52.ckpt", "epoch=1-loss=0.50.ckpt", Likeness.ALIKE),
        ("last.ckpt", "epoch=1-step=12.ckpt", Likeness.OTHER),
    ],
)
def test_names_that_differ_in_numbers_are_alike(name: str, recorded: str, likeness: Likeness) -> None:
    assert likeness_of(f"/folder/{name}", recorded) is likeness
