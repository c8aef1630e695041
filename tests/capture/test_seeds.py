"""The recorded seeds of torch, NumPy and Python, whoever sets them, and what a rerun of the script can repeat."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import programs
from lightning_dtool.capture.seeds import torch_is_seeded
from lightning_dtool.watch.seeds import install

IMPORT = "import lightning_dtool.callback"
SEED_ALL = "torch.manual_seed(1); np.random.seed(2); random.seed(3)"
AT_THE_END = """
from lightning_dtool.capture.generator_states import random_states
from lightning_dtool.capture.randomness import AT_IMPORT, capture_randomness
from lightning_dtool.record import Gaps
import json
gaps = Gaps()
found = capture_randomness({"import": AT_IMPORT, "fit_start": random_states()}, gaps, module=globals().get("model"))
print(json.dumps({**found.model_dump(), "gaps": {gap.fact: gap.reason for gap in gaps}}))
"""


def recorded(folder: Path, *lines: str, **environment: str) -> dict[str, Any]:
    """Return the section of a program that ends when a training would begin."""
    setting = "".join(f"import os; os.environ[{name!r}] = {value!r}\n" for name, value in environment.items())
    program = "\n".join([f"{setting}import random, torch", "import numpy as np", *lines, AT_THE_END])
    done = programs.run("-c", program, cwd=folder)
    found: dict[str, Any] = json.loads(done.stdout.strip().split("\n")[-1])
    return found


def test_seeds_that_the_script_sets_itself_are_recorded_without_a_gap(tmp_path: Path) -> None:
    found = recorded(tmp_path, IMPORT, SEED_ALL, "torch.rand(1); random.random()")
    assert found["seeds"] == {"torch": 1, "numpy": 2, "python": 3}
    assert (found["global_seed"], found["repeatable_by"], found["gaps"]) == (None, "seed", {})


@pytest.mark.parametrize("seed", [7, 2**40, -5])
def test_a_seed_of_torch_alone_is_recorded_and_the_others_are_named(tmp_path: Path, seed: int) -> None:
    found = recorded(tmp_path, IMPORT, f"torch.manual_seed({seed})")
    assert (found["seeds"], found["repeatable_by"]) == ({"torch": seed}, "states")
    assert found["gaps"] == {
        "randomness.global_seed": f"torch was seeded with {seed}, but no seed of NumPy and Python was seen",
    }


@pytest.mark.parametrize("seed", [7, 2**40, -5])
def test_torch_is_known_to_be_seeded_whatever_the_seed(seed: int) -> None:
    install()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert torch_is_seeded() is True
        torch.seed()
        assert torch_is_seeded() is not True


def test_seeds_that_are_set_before_the_import_are_recorded_as_far_as_known(tmp_path: Path) -> None:
    found = recorded(tmp_path, SEED_ALL, IMPORT)
    assert found["seeds"] == {"torch": 1}
    assert found["repeatable_by"] == "states"  # nothing was drawn
    assert found["gaps"] == {
        "randomness.global_seed": "torch was seeded with 1, but no seed of NumPy and Python was seen",
    }


def test_a_generator_that_was_used_without_a_seed_is_named(tmp_path: Path) -> None:
    found = recorded(tmp_path, "random.random()", IMPORT, "torch.manual_seed(1)")
    assert found["repeatable_by"] is None
    assert found["gaps"]["randomness.repeatable_by"] == (
        "Python's generator was used before DtoolProvenanceCallback was imported, and no seed was seen"
    )
    seeded = recorded(tmp_path, "random.random()", IMPORT, "torch.manual_seed(1); random.seed(5)")
    assert (seeded["repeatable_by"], seeded["seeds"]) == ("states", {"torch": 1, "python": 5})


@pytest.mark.parametrize(("call", "name"), [("torch.seed()", "torch"), ("np.random.seed()", "NumPy"),
                                            ("random.seed()", "Python")])  # fmt: skip
def test_a_seed_of_the_operating_system_is_repeatable_by_nothing(tmp_path: Path, call: str, name: str) -> None:
    found = recorded(tmp_path, IMPORT, SEED_ALL, call)
    assert found["repeatable_by"] is None
    assert found["gaps"]["randomness.repeatable_by"] == f"{name}'s generator was seeded by the operating system"
    assert f"no seed of {name} was seen" in found["gaps"]["randomness.global_seed"]


def test_a_seed_that_is_set_for_a_moment_is_no_seed_of_the_run(tmp_path: Path) -> None:
    found = recorded(
        tmp_path,
        IMPORT,
        SEED_ALL,
        "with torch.random.fork_rng():\n    torch.manual_seed(9)\n    torch.rand(1)",
        "states = random.getstate(), np.random.get_state()",
        "random.seed(9); np.random.seed(9); random.random(); np.random.rand()",
        "random.setstate(states[0]); np.random.set_state(states[1])",
    )
    assert found["seeds"] == {"torch": 1, "numpy": 2, "python": 3}


def test_the_last_seed_counts(tmp_path: Path) -> None:
    found = recorded(
        tmp_path, IMPORT, "import lightning; lightning.seed_everything(4, workers=True)", "torch.manual_seed(5)"
    )
    assert (found["global_seed"], found["seeds"]) == (4, {"torch": 5, "numpy": 4, "python": 4})
    assert (found["repeatable_by"], found["seed_workers"], found["gaps"]) == ("seed", True, {})


def test_a_call_of_seed_everything_before_the_import_is_recognised(tmp_path: Path) -> None:
    found = recorded(
        tmp_path, "import lightning; lightning.seed_everything(4)", "torch.rand(1); random.random()", IMPORT
    )
    assert (found["global_seed"], found["seeds"]) == (4, {"torch": 4, "numpy": 4, "python": 4})
    assert (found["repeatable_by"], found["gaps"]) == ("seed", {})


@pytest.mark.parametrize("called", [False, True])
def test_a_variable_that_another_process_has_set_is_no_call_of_seed_everything(tmp_path: Path, called: bool) -> None:
    call = "import lightning; lightning.seed_everything()" if called else ""
    found = recorded(tmp_path, IMPORT, call, PL_GLOBAL_SEED="11")
    assert found["global_seed"] == (11 if called else None)
    if not called:
        assert "PL_GLOBAL_SEED is 11, but seed_everything was not called" in found["gaps"]["randomness.global_seed"]


MODEL = "import lightning as L\nclass Net(L.LightningModule): pass\nmodel = Net()"


@pytest.mark.parametrize(
    ("lines", "before", "repeatable_by"),
    [
        ([IMPORT, SEED_ALL, MODEL], True, "seed"),
        ([IMPORT, SEED_ALL, MODEL, SEED_ALL.replace("1", "8")], True, "seed"),
        ([IMPORT, MODEL, SEED_ALL], False, "states"),
        (["torch.rand(1)", IMPORT, MODEL, SEED_ALL], False, None),
        ([IMPORT, MODEL], None, "states"),
    ],
)
def test_a_seed_that_is_set_after_the_model_was_made_does_not_determine_its_weights(
    tmp_path: Path, lines: list[str], before: bool | None, repeatable_by: str | None
) -> None:
    found = recorded(tmp_path, *lines)
    assert (found["seeded_before_model"], found["repeatable_by"]) == (before, repeatable_by)
    if repeatable_by is None:
        reason = found["gaps"]["randomness.repeatable_by"]
        assert reason == "the model was made before torch's generator was seeded"


def seeds_itself() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.rand(1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_noting_seeds_changes_neither_numbers_nor_errors() -> None:
    install()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        assert isinstance(torch.manual_seed(3), torch.Generator)
        assert torch.equal(torch.jit.script(seeds_itself)(), seeds_itself())
        torch.manual_seed(3)
        random.seed(a="text", version=1)
        np.random.seed(seed=[1, 2])
        again = random.Random()
        again.seed("text", 1)
        assert float(torch.rand(1)) == float(torch.rand(1, generator=torch.Generator().manual_seed(3)))
        assert random.random() == again.random()
        assert np.random.rand() == np.random.RandomState([1, 2]).rand()
        with pytest.raises(TypeError, match="positional"):
            random.seed(1, 2, 3)
        with pytest.raises(ValueError, match="Seed must be between"):
            np.random.seed(-1)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
