"""Other seeds for a rerun: derived from the script's own, the same every time; generators of their own stay."""

import json
from pathlib import Path

import pytest

import programs
from lightning_dtool import rerun
from lightning_dtool.rerun.seeds import derived_seed

PROGRAM = """
import json, random, sys
import numpy as np
import torch
from lightning_dtool.rerun.seeds import reseed

if int(sys.argv[1]):
    reseed(int(sys.argv[1]))
unseeded = [float(torch.rand(1)), random.random(), np.random.rand()]
from lightning.pytorch import seed_everything
seed_everything(3, verbose=False)
seeded = [float(torch.rand(1)), random.random(), np.random.rand()]
torch.random.manual_seed(3)
again = float(torch.rand(1))
own = [float(torch.rand(1, generator=torch.Generator().manual_seed(1))), np.random.default_rng(1).random()]
print(json.dumps([unseeded, seeded, again, own]))
"""


def drawn(folder: Path, offset: int) -> list[object]:
    done = programs.run("-c", PROGRAM, str(offset), cwd=folder)
    found: list[object] = json.loads(done.stdout.strip().split("\n")[-1])
    return found


def test_every_seed_becomes_another_and_the_same_again(tmp_path: Path) -> None:
    plain, one, two = (drawn(tmp_path, offset) for offset in range(3))
    again = drawn(tmp_path, 1)
    assert one == again
    for place in (0, 1):
        values = [numbers[place] for numbers in (plain, one, two)]
        assert len({tuple(value) for value in values}) == 3  # type: ignore[arg-type]
    assert one[2] == one[1][0]  # type: ignore[index]
    assert plain[3] == one[3] == two[3]


def test_a_derived_seed_fits_every_generator() -> None:
    seeds = {derived_seed(seed, offset) for seed in (0, 1, "text", None) for offset in range(5)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derived_seed("text", 1) == 1861733952  # whatever the hash seed of the process


def test_the_order_of_a_rerun_with_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rerun.order_seed_offset() == 0
    target = rerun.Target(0, 0, 0, "")
    for parent, expected in ((None, 4), ("s3://parent", 0)):
        plan = rerun.Plan({}, rerun.REPRODUCE, "", "", "", target, seed_offset=4, parent=parent)
        monkeypatch.setattr("lightning_dtool.rerun.plan.current_plan", lambda plan=plan: plan)
        assert rerun.order_seed_offset() == expected
