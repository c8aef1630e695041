"""The facts that a rerun needs: the number of the fit, the source of random numbers, initial weights and traces."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch

import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.attach import callbacks
from lightning_dtool.capture import randomness, seeds
from lightning_dtool.capture.randomness import capture_randomness
from lightning_dtool.record import Gaps
from lightning_dtool.values.digests import state_digest
from lightning_dtool.watch.seeds import Seeding


def test_the_number_of_the_fit_in_its_process_is_recorded(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_dtool.capture.fits._begun", {"explicit": 0, "all": 0})
    indices = []
    for number in range(2):
        provenance = DtoolProvenanceCallback(str(models))
        trainer(tmp_path / str(number), provenance, max_epochs=1).fit(TinyNet(), loader())
        indices.append(DtoolCheckpoint.from_uri(provenance.uris[0]).record.run.fit_index)
    assert indices == [0, 1]
    # A callback that attaches itself counts every fit; a callback of the script counts the fits with such a callback.
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
    t = trainer(tmp_path / "automatic", max_epochs=1)
    t.fit(TinyNet(), loader())
    (automatic,) = [found for found in t.callbacks if isinstance(found, DtoolProvenanceCallback)]
    assert DtoolCheckpoint.from_uri(automatic.uris[0]).record.run.fit_index == 2


@pytest.mark.parametrize(
    ("seeded", "drawn", "stored", "expected"),
    [
        (True, {"torch", "python"}, False, "seed"),
        (False, {}, False, "states"),
        (False, {"torch"}, True, "initial_weights"),
        (False, {"numpy"}, False, None),
    ],
)
def test_the_basis_for_a_rerun_is_recorded_or_a_gap(
    monkeypatch: pytest.MonkeyPatch, seeded: bool, drawn: set[str], stored: bool, expected: str | None
) -> None:
    seedings = [Seeding(1, "__main__")] if seeded else []
    monkeypatch.setenv("PL_GLOBAL_SEED", "")
    monkeypatch.setattr(seeds, "seedings", lambda generator: seedings)
    monkeypatch.setattr(seeds, "_initial_seed", lambda states: 1 if seeded else 2**60)
    monkeypatch.setattr(randomness, "DRAWN_BEFORE_IMPORT", drawn)
    gaps = Gaps()
    moments = {"import": {}, "fit_start": {}}
    assert capture_randomness(moments, gaps, stored).repeatable_by == expected
    remedies = [gap.remedy for gap in gaps if gap.fact == "randomness.repeatable_by"]
    assert len(remedies) == (expected is None)
    assert all("save_initial_weights=True" in remedy for remedy in remedies)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", True),
        ("import torch; torch.manual_seed(1)", True),
        ("import lightning", True),
        ("import random; random.random()", False),
        ("import lightning, random; random.random()", False),
        ("import numpy; numpy.random.rand()", False),
        ("import numpy; numpy.random.normal()", False),
        ("import torch; torch.rand(1)", False),
    ],
)
def test_random_numbers_drawn_before_the_import_are_noticed(tmp_path: Path, before: str, expected: bool) -> None:
    code = (
        f"{before}\nfrom lightning_dtool.capture.randomness import DRAWN_BEFORE_IMPORT\nprint(not DRAWN_BEFORE_IMPORT)"
    )
    # rich draws a random number on import. It is imported before the fork, after which the generator is reseeded.
    done = programs.run("-c", code, cwd=tmp_path, fresh=before == "import lightning")
    assert done.stdout.strip() == str(expected)


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_initial_weights_are_kept_on_request(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "argument":
        provenance = DtoolProvenanceCallback(str(models), save_initial_weights=True)
    else:
        monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(models))
        monkeypatch.setenv("LIGHTNING_DTOOL_SAVE_INITIAL_WEIGHTS", "1")
        (provenance,) = callbacks()
        monkeypatch.delenv("LIGHTNING_DTOOL_BASE_URI")
    module = TinyNet()
    before = weights(module)
    trainer(tmp_path, provenance, max_epochs=1).fit(module, loader())
    checkpoint = DtoolCheckpoint.from_uri(provenance.uris[0])
    initial = checkpoint.record.model.initial_weights
    assert initial is not None
    assert initial.stored
    stored = torch.load(checkpoint.dataset.path(checkpoint.dataset.item("initial_weights.ckpt").identifier))
    assert same(stored, before)
    assert state_digest(stored) == initial.digest
    assert not same(weights(module), before)


def test_keeping_weights_and_traces_does_not_change_training(tmp_path: Path, models: Path) -> None:
    found = []
    for options in ({}, {"save_initial_weights": True, "trace": True}):
        L.seed_everything(1, verbose=False)
        module = TinyNet()
        provenance = DtoolProvenanceCallback(str(models), **options)
        trainer(tmp_path, provenance).fit(module, loader(shuffle=True))
        found.append((weights(module), torch.get_rng_state().tolist()))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_trace_has_a_line_for_each_step(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models), trace=True)
    module = TinyNet()
    trainer(tmp_path, provenance, accumulate_grad_batches=2).fit(module, loader())
    dataset = DtoolCheckpoint.from_uri(provenance.uris[0]).dataset
    lines = [json.loads(line) for line in dataset.path(dataset.item("trace.jsonl").identifier).read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6)]
    name, last = "layers.0.weight", module.state_dict()["layers.0.weight"]
    assert lines[-1]["parameters"][name] == state_digest({name: last})[:39]
    assert len({line["parameters"][name] for line in lines}) == 6
    assert float.fromhex(lines[0]["loss"]) > 0
