"""The `reproduce` command: its output, which begins with the verdict, and its exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.cli import model
from lightning_dtool.export.text.verdict import document
from lightning_dtool.record import DatasetReference
from lightning_dtool.results.reproduction import MetricRow, Replication, Reproduction, Verdict
from reproduction.runs import only_checkpoint, places, project, train


@pytest.fixture
def without_a_program(tmp_path: Path) -> str:
    """Return the URI of a checkpoint whose program was an installed command, pytest."""
    places(tmp_path, "models")
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
    trainer(tmp_path, provenance, max_epochs=1).fit(TinyNet(), loader())
    return provenance.uris[0]


@pytest.mark.usefixtures("forked")
def test_an_identical_model_gives_exit_code_zero(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path, "seeded.py"), places(tmp_path, "models")
    train(made, "seeded.py", str(models), fresh=False)
    uri = only_checkpoint(models)
    result = CliRunner().invoke(model, ["reproduce", uri, "--into", str(tmp_path / "into")])
    assert result.exit_code == 0, result.output
    lines = result.output.split("\n")
    assert lines[0] == "IDENTICAL"
    assert lines[1].startswith("every bit of the 4 weight tensors")
    assert f"recorded  {uri}" in result.output
    assert "train_loss" in result.output


def test_a_training_that_could_not_run_has_an_exit_code_and_a_cause(without_a_program: str, tmp_path: Path) -> None:
    arguments = ["reproduce", without_a_program, "--into", str(tmp_path / "into")]
    result = CliRunner().invoke(model, arguments)
    assert result.exit_code == 5, result.output
    assert result.output.startswith("COULD NOT RUN\nthe record does not contain the program that ran")
    printed = json.loads(CliRunner().invoke(model, [*arguments, "--json"]).stdout)
    assert printed["verdict"] == "could not run"
    assert printed["original"]["uri"] == without_a_program
    assert (printed["cause"], printed["rerun"]) == ("no_program", None)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["reproduce", "/nowhere", "--data", "leaves"], 2, "expected OLD=NEW"),
        (["reproduce", "/nowhere", "--runs", "2"], 2, "at least 3"),
        (["replicate", "/nowhere"], 2, "--train"),
        (["replicate", "/nowhere", "--train", "/nowhere"], 3, "/nowhere"),
    ],
)
def test_invalid_options_are_usage_errors(
    arguments: list[str], code: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(model, arguments)
    assert result.exit_code == code, result.output
    assert expected in result.output


@pytest.mark.parametrize("command", ["reproduce", "replicate"])
def test_the_help_says_which_code_runs(command: str) -> None:
    result = CliRunner().invoke(model, [command, "--help"])
    assert "with your permissions" in " ".join(result.output.split())


def test_the_output_shows_every_finding() -> None:
    from rich.console import Console

    place = DatasetReference(uri="s3://a/b", uuid="b", name="net", content_digest="sha256:0")
    rows = (
        MetricRow("loss", 0.5, 0.6, 0.4, 0.8, True, values=(0.55, 0.6, 0.65)),
        MetricRow("recall[oak]", 0.9, 0.1, 0.8, 1.0, False, "below"),
        MetricRow("note", "x", None),
    )
    found = Replication(
        Verdict.DIFFERENT,
        "because",
        place,
        place,
        metrics=rows,
        factors=tuple(f"factor {number}" for number in range(40)),
        first_difference="epoch 3: loss",
        step="parted",
        notes=("a note",),
        environment=("torch: 1 -> 2",),
        runs=5,
        uri="s3://a/c",
    )
    console = Console(width=200)
    with console.capture() as captured:
        console.print(document(found))
    text = captured.get()
    assert "loss: 0.55, 0.6, 0.65" in text.partition("VALUES OF THE OTHER SEEDS")[2]
    assert found.to_dict()["metrics"][0]["values"] == [0.55, 0.6, 0.65]
    shown = [
        "DIFFERENT",
        "OUTSIDE; below",
        "epoch 3: loss",
        "factor 29",
        "and 10 more",
        "OUTSIDE",
        "inside",
        "0.4 … 0.8",
        "a note",
    ]
    for expected in [*shown, "torch: 1 -> 2", "5 OTHER SEEDS", "s3://a/c"]:
        assert expected in text
    assert isinstance(found, Reproduction)
    assert found.to_dict()["kind"] == "replication"
    json.dumps(found.to_dict(), allow_nan=False)


def test_differences_of_the_environment_without_an_effect_are_counted() -> None:
    from rich.console import Console

    place = DatasetReference(uri="s3://a/b", uuid="b", name="net", content_digest="sha256:0")
    found = Reproduction(Verdict.IDENTICAL, "", place, place, environment=tuple(f"v{number}" for number in range(129)))
    texts = []
    for everything in (False, True):
        console = Console(width=200)
        with console.capture() as captured:
            console.print(document(found, everything))
        texts.append(captured.get())
    assert "129 differences from the recorded environment had no effect (--all lists them)." in texts[0]
    assert "v128" not in texts[0]
    assert "v128" in texts[1]
