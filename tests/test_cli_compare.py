"""The `compare` command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from kit import TinyNet, trainer
from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback
from lightning_dtool.cli import model
from lightning_dtool.export.text.comparison import model_comparison
from lightning_dtool.export.text.values import MAX_ENTRIES
from lightning_dtool.results.comparison import (
    Comparison,
    MetricDifference,
    MetricsComparison,
    OrderComparison,
    State,
    Weights,
)
from lightning_dtool.results.differences import Difference

HOSTILE = "[red]x[bold]\x1b[2J\x9b31m\u202e:smile:"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(model, ["compare", *arguments])


def trained(tmp_path: Path, arrays: str, name: str, lr: float = 0.05) -> str:
    import lightning as L

    base = tmp_path / name
    base.mkdir()
    L.seed_everything(1, verbose=False)
    provenance = DtoolProvenanceCallback(str(base))
    trainer(base / "local", provenance, max_epochs=2).fit(TinyNet(lr=lr), DtoolDataModule(arrays, batch_size=8))
    assert provenance.last_uri is not None
    return provenance.last_uri


def test_identical_and_different_models_have_their_exit_codes(tmp_path: Path, arrays: str) -> None:
    a, same, other = (trained(tmp_path, arrays, name, lr) for name, lr in (("a", 0.05), ("b", 0.05), ("c", 0.01)))
    result = run(a, same)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("The two are identical.\n")
    assert "schedulers        not recorded" in result.stdout
    assert "order of samples  identical     2 epochs" in result.stdout
    result = run(a, other)
    assert result.exit_code == 1
    for part in (
        "weights           different     4 of 4 tensors; by at most ",
        "metrics           different     2 epochs, train_loss in epoch 0, ",
        "They first differ in epoch 0: the learning rates, train_loss.",
        "optimizers[0].param_groups[0].options.lr  0.05 -> 0.01",
        "The two are not identical.",
        a,
        other,
    ):
        assert part in result.stdout
    found = json.loads(run(a, other, "--json").stdout)
    assert found["uri_a"] == a
    assert found["identical"] is False
    assert json.loads(run(a, same, "--json").stdout)["identical"] is True


def test_errors_have_the_exit_codes_of_the_other_commands(tmp_path: Path, arrays: str) -> None:
    assert run(arrays, arrays).exit_code == 3
    result = run(f"{arrays}-gone", arrays, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["type"] == "DatasetNotFoundError"


def shown(found: Comparison, everything: bool = False) -> str:
    console = Console(width=1000, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(model_comparison(found, everything))
    return captured.get()


def comparison(**parts: object) -> Comparison:
    settings = {
        "uri_a": "a",
        "uri_b": "b",
        "weights": Weights("different", "1", "2", ("w",), 1, 1),
        "optimizers": State("identical", "1", "1"),
        "schedulers": State("not recorded", None, None),
        "metrics": MetricsComparison("not recorded", (), (), (), ()),
        "order": OrderComparison("not recorded", (), ()),
        "first_difference": None,
        "factors": (),
    }
    return Comparison(**{**settings, **parts})  # type: ignore[arg-type]


def test_unknown_causes_are_printed_as_unknown() -> None:
    text = shown(comparison())
    assert "No epoch that is in both records shows where they first differ." in text
    assert "No recorded factor differs, so the cause was not recorded. It may be a file" in text
    assert "1 of 1 tensor\n" in text


def test_long_lists_are_truncated_and_counted() -> None:
    text = shown(
        comparison(
            metrics=MetricsComparison(
                "different", (0,), tuple(MetricDifference("x", epoch, 1, 2) for epoch in range(9)), (), ()
            ),
            factors=tuple(Difference(f"model.a{number}", "changed", 1, 2) for number in range(MAX_ENTRIES + 3)),
        )
    )
    assert "and 6 more (--json shows all)" in text
    assert "and 3 more (--json shows all)" in text


def test_what_the_two_have_to_do_with_each_other_comes_first() -> None:
    text = shown(comparison(relation="two checkpoints of one run: epochs 3 and 7"))
    assert text.index("These are two checkpoints of one run: epochs 3 and 7.") < text.index("weights")
    assert "cause" not in text


def test_factors_without_an_effect_are_counted_and_listed_on_request() -> None:
    factors = tuple(Difference(f"environment.variables.V{number}", "changed", "1", "2") for number in range(129))
    same = comparison(weights=Weights("identical", "1", "1", tensor_count=4), factors=factors)
    assert "129 recorded factors that differ had no effect (--all lists them)." in shown(same)
    assert "V128" not in shown(same)
    assert "environment.variables.V128  1 -> 2" in shown(same, everything=True)

    bits = Difference("environment.variables.OMP_NUM_THREADS", "changed", "1", "2")
    text = shown(comparison(factors=(*factors, bits)))
    assert "environment.variables.OMP_NUM_THREADS  1 -> 2" in text
    assert "environment.variables  129 more differ (--all lists them)" in text
    assert "V128" not in text


def test_a_tensor_outside_the_state_dict_is_named() -> None:
    others = Weights("different", "1", "2", ("callbacks[Ema].w",), 1, 4, 0.5, 0.25)
    text = shown(comparison(weights=Weights("identical", "1", "1", tensor_count=4), other_tensors=others))
    assert (
        "other tensors     different     1 of 4 tensors; by at most 0.5, 25 % of the larger: callbacks[Ema].w" in text
    )
    assert "The two are not identical." in text
    assert "cannot be compared" in shown(comparison(weights=Weights("not recorded", None, None)))


@pytest.mark.parametrize("part", ["uri_a", "metric", "factor"])
def test_escape_sequences_in_records_are_not_printed(part: str) -> None:
    text = shown(
        comparison(
            uri_a=HOSTILE if part == "uri_a" else "a",
            metrics=MetricsComparison(
                "different", (0,), (MetricDifference(HOSTILE if part == "metric" else "x", 0, 1, 2),), (), ()
            ),
            factors=(Difference("model.x", "changed", HOSTILE if part == "factor" else "", 1),),
        )
    )
    assert "\x1b[2J" not in text
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert r"\x1b[2J" in text
