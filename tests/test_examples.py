"""The examples: they run, and another process gets the same metrics."""

import json
import re
import textwrap
from pathlib import Path

import pytest

import programs

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

RELOAD = textwrap.dedent("""
    import json
    import sys

    import lightning as L

    from lightning_dtool import DtoolCheckpoint, DtoolDataModule

    checkpoint = DtoolCheckpoint.from_uri(sys.argv[1])
    model = checkpoint.load_module(trust_source=True)
    data = DtoolDataModule.from_uri(sys.argv[1])
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [tested] = trainer.test(model, data, verbose=False)
    [validated] = trainer.validate(model, data, verbose=False)
    recorded = checkpoint.record.metrics.at_checkpoint
    print(json.dumps({
        "class": type(model).__qualname__,
        "now": {**tested, **validated},
        "recorded": {**checkpoint.annotations["test_metrics"], **recorded},
    }))
""")


def run(*arguments: str | Path, cwd: Path, fresh: bool = False) -> str:
    return programs.run(*arguments, cwd=cwd, fresh=fresh).stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the output of a run of the quickstart."""
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, run(EXAMPLES / "quickstart.py", cwd=folder, fresh=True)


def test_the_quickstart_prints_what_was_recorded(quickstart: tuple[Path, str]) -> None:
    _, output = quickstart
    facts = dict(re.findall(r"^(\S.*?)  +(\S.*)$", output, re.MULTILINE))
    assert re.fullmatch(r"file://.*/quickstart/models/DigitNet-epoch\d+-step\d+-\w{8}", facts["checkpoint"])
    assert facts["model"] == "__main__:DigitNet, 9930 parameters"
    assert facts["optimizer"] == "torch.optim.adamw:AdamW, lr 0.003"
    assert facts["training data"].startswith("digits, 1078 items, UUID ")
    assert facts["content"].startswith("sha256:")
    assert facts["seed"] == "1"
    assert facts["test accuracy after training"] == facts["test accuracy from the URI"]
    assert float(facts["test accuracy from the URI"]) > 0.9


def test_a_new_process_gets_the_recorded_metrics_exactly(quickstart: tuple[Path, str], tmp_path: Path) -> None:
    _, output = quickstart
    uri = re.search(r"^checkpoint +(\S+)$", output, re.MULTILINE)[1]  # type: ignore[index]
    script = tmp_path / "reload.py"
    script.write_text(RELOAD)
    # Runs in another folder, with the URI alone.
    result = json.loads(run(script, uri, cwd=tmp_path).splitlines()[-1])
    assert result["class"] == "DigitNet"
    assert result["now"] == result["recorded"]
    assert set(result["now"]) == {"test_accuracy", "val_accuracy"}


def test_the_quickstart_can_run_twice(quickstart: tuple[Path, str]) -> None:
    folder, first = quickstart
    second = run(EXAMPLES / "quickstart.py", "quickstart", cwd=folder)
    # Equal data, code and seed give equal accuracy.
    assert second.splitlines()[-2:] == first.splitlines()[-2:]
    assert len(list((folder / "quickstart" / "models").iterdir())) == 2
