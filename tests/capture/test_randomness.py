"""The recorded random states and flags of determinism."""

import base64
import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

import lightning_dtool.capture.generator_states as generator_states
import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool.capture.generator_states import random_states, restore, state_digests
from lightning_dtool.capture.randomness import AT_IMPORT, capture_randomness, random_states_json
from lightning_dtool.record import Gaps, Randomness


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    states = random_states()
    yield
    restore(states)


def draw() -> list[Any]:
    return [
        random.gauss(0, 1),
        random.random(),
        np.random.normal(),
        np.random.rand(3).tolist(),
        torch.randn(5).tolist(),
    ]


@pytest.mark.parametrize("drawn", [0, 1, 700])
def test_random_states_survive_json_exactly(drawn: int) -> None:
    for _ in range(drawn):
        draw()
    states = json.loads(random_states_json({"x": random_states()}))["moments"]["x"]
    expected = [draw(), draw()]
    assert state_digests(random_states()) != state_digests(states)
    restore(states)
    assert random_states() == states
    assert [draw(), draw()] == expected


def test_recording_advances_no_generator(recwarn: pytest.WarningsRecorder) -> None:
    before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    gaps = Gaps()
    found = capture_randomness({"import": AT_IMPORT, "fit_start": random_states()}, gaps)
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == before
    assert not recwarn.list
    assert not torch.cuda.is_initialized()
    assert set(found.states) == {"import", "fit_start"}
    assert set(found.states["import"]) == {"python", "numpy", "torch"}
    assert [gap for gap in gaps if gap.fact.startswith("randomness.flags")] == []
    assert Randomness.model_validate_json(found.model_dump_json()) == found


def test_each_generator_has_its_own_digest() -> None:
    before = state_digests(random_states())
    torch.rand(1)
    after = state_digests(random_states())
    assert [name for name in before if before[name] != after[name]] == ["torch"]
    assert before["torch"].startswith("sha256:")


@pytest.mark.parametrize("workers", [False, True])
def test_the_seed_of_seed_everything_is_recorded(monkeypatch: pytest.MonkeyPatch, workers: bool) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "")  # restored after the test
    L.seed_everything(7, workers=workers, verbose=False)
    gaps = Gaps()
    found = capture_randomness({"fit_start": random_states()}, gaps)
    assert (found.global_seed, found.seed_workers, found.repeatable_by) == (7, workers, "seed")
    assert found.seeds == {"torch": 7, "numpy": 7, "python": 7}
    assert list(gaps) == []


@pytest.mark.parametrize("left_over", ["", "²", "9" * 30, "43"])
def test_a_variable_without_a_call_of_seed_everything_is_no_seed(
    monkeypatch: pytest.MonkeyPatch, left_over: str
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", left_over)
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    found = capture_randomness({"fit_start": random_states()}, Gaps())
    assert (found.global_seed, found.seed_workers) == (None, None)


def test_the_flags_are_the_present_settings_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = capture_randomness({}, Gaps()).flags
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        torch.backends.cudnn.deterministic = True
        after = capture_randomness({}, Gaps()).flags
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
        torch.backends.cudnn.deterministic = False
    assert before["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert before["float32_matmul_precision"] == precision
    changed = {name: after[name] for name in after if after[name] != before[name]}
    expected = {
        "deterministic_algorithms": True,
        "deterministic_algorithms_warn_only": True,
        "num_threads": 1,
        "default_dtype": "torch.float64",
        "cudnn.deterministic": True,
    }
    assert {name: changed.get(name, after[name]) for name in expected} == expected
    assert set(changed) <= set(expected)


_CHANGES_OF_FLAGS = """
import os, torch
from lightning_dtool.capture.randomness import _ENVIRONMENT, capture_flags, randomness_token
from lightning_dtool.record import Gaps

cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
changes = [
    lambda: torch.use_deterministic_algorithms(True),
    lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
    lambda: setattr(cudnn, "enabled", False),
    lambda: setattr(cudnn, "deterministic", True),
    lambda: setattr(cudnn, "benchmark", True),
    lambda: setattr(cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    lambda: setattr(cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
    lambda: torch._C._set_mkldnn_enabled(False),
    lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    lambda: torch.set_num_interop_threads(torch.get_num_interop_threads() + 1),
    lambda: torch.set_default_dtype(torch.float64),
    lambda: cuda.enable_flash_sdp(False),
    lambda: cuda.enable_mem_efficient_sdp(False),
    lambda: cuda.enable_math_sdp(False),
    lambda: cuda.enable_cudnn_sdp(False),
    lambda: torch._C._set_cublas_allow_tf32(True),
    lambda: torch._C._set_cudnn_allow_tf32(False),
    lambda: torch.set_float32_matmul_precision("medium"),
]
names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", *_ENVIRONMENT)
changes += [lambda name=name: os.environ.update({name: "2"}) for name in names]
if hasattr(torch.backends, "fp32_precision"):
    operations = (torch.backends, cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)
    changes += [lambda owner=owner: setattr(owner, "fp32_precision", "ieee") for owner in operations]
    changes += [lambda owner=owner: setattr(owner, "fp32_precision", "tf32") for owner in operations]
facts = lambda: {**capture_flags(Gaps()), **{name: os.environ.get(name) for name in os.environ if name[:3] == "PL_"}}
changed = set()
before, flags = randomness_token(), facts()
for number, change in enumerate(changes):
    assert randomness_token() == before
    change()
    now, after = randomness_token(), facts()
    differing = {name for name in flags | after if flags.get(name) != after.get(name)}
    assert now != before or not differing, (number, differing)
    changed |= differing
    before, flags = now, after
print(set(facts()) - changed - {"cpu_capability"})
"""


def test_a_look_sees_each_change_of_a_setting_of_torch_and_of_a_variable(tmp_path: Path) -> None:
    out = programs.run("-c", _CHANGES_OF_FLAGS, cwd=tmp_path).stdout
    assert out.strip() == "set()", out


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 lacks the new setting")
def test_new_settings_for_tf32_are_read_without_an_error_or_a_warning(tmp_path: Path) -> None:
    program = (
        "import warnings\nwarnings.simplefilter('error')\nimport torch\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "from lightning_dtool.capture.randomness import capture_randomness\n"
        "from lightning_dtool.record import Gaps\ngaps = Gaps()\nflags = capture_randomness({}, gaps).flags\n"
        "print(flags['cuda.matmul.fp32_precision'], [g.fact for g in gaps])"
    )
    out = programs.run("-c", program, cwd=tmp_path).stdout
    assert out.split("\n")[0] == "tf32 ['randomness.global_seed', 'randomness.repeatable_by']"


def test_states_at_import_are_those_before_the_seed(tmp_path: Path) -> None:
    program = (
        "from lightning_dtool.capture.randomness import AT_IMPORT\n"
        "from lightning_dtool.capture.generator_states import random_states, restore, state_digests\n"
        "import random\nhere = random_states()\nassert here == AT_IMPORT\nrandom.seed(3)\n"
        "restore(AT_IMPORT)\nprint(random_states() == here)"
    )
    assert programs.run("-c", program, cwd=tmp_path).stdout.strip() == "True"


class Rewind(L.Callback):
    """Keeps the random states at the start of a fit, or restores given ones."""

    def __init__(self, states: Any = None) -> None:
        self.states = states

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.states is None:
            self.states = json.loads(json.dumps(random_states()))
        else:
            restore(self.states)


def test_an_unseeded_run_from_restored_states_gives_the_same_weights(tmp_path: Path) -> None:
    first, second, third = TinyNet(), TinyNet(), TinyNet()
    second.load_state_dict(weights(first))
    third.load_state_dict(weights(first))
    keep = Rewind()
    for net, rewound in ((first, False), (second, False), (third, True)):
        hook = Rewind(keep.states) if rewound else (keep if net is first else Rewind())
        trainer(tmp_path, hook, enable_checkpointing=False).fit(net, loader(shuffle=True))
    assert same(weights(first), weights(third))
    assert not same(weights(first), weights(second))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_generators_that_only_were_seeded_are_their_seeds(seed: int) -> None:
    L.seed_everything(seed, verbose=False)
    states = json.loads(json.dumps(random_states()))
    assert states == {kind: {"seed": seed} for kind in ("python", "numpy", "torch")}
    expected = [draw(), draw()]
    restore(states)
    assert [draw(), draw()] == expected


@pytest.mark.parametrize("kind", ["python", "numpy", "torch"])
def test_one_draw_after_the_seed_is_not_lost(kind: str) -> None:
    L.seed_everything(3, verbose=False)
    {"python": random.random, "numpy": np.random.normal, "torch": lambda: torch.rand(1)}[kind]()
    states = json.loads(json.dumps(random_states()))
    assert [name for name, state in states.items() if "seed" not in state] == [kind]
    expected = [draw(), draw()]
    L.seed_everything(4, verbose=False)
    restore(states)
    assert [draw(), draw()] == expected


def test_a_seed_that_a_generator_no_longer_has_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    L.seed_everything(3, verbose=False)
    other = random.Random(5), np.random.RandomState(5), torch.Generator().manual_seed(5)
    random.setstate(other[0].getstate())
    np.random.set_state(other[1].get_state())
    torch.set_rng_state(other[2].get_state())
    states = random_states()
    assert states["torch"] == {"seed": 5}  # torch's state contains its seed
    assert "seed" not in states["python"]
    assert "seed" not in states["numpy"]
    restore(states)
    assert random.random() == other[0].random()
    assert np.random.rand() == other[1].rand()


def test_a_state_has_one_digest_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    L.seed_everything(3, verbose=False)
    short = random_states()
    monkeypatch.setattr(generator_states, "_seeds", lambda kind: iter(()))
    long = random_states()
    assert not any("seed" in state for state in long.values())
    assert state_digests(long) == state_digests(short)


def test_states_are_short() -> None:
    draw()
    states = random_states()
    assert len(json.dumps(states["torch"])) < 0.75 * torch.get_rng_state().nbytes  # half of its bytes are zeros
    again = random_states()
    for kind in ("python", "numpy", "torch"):
        (name,) = states[kind].keys() & {"words", "columns"}
        assert again[kind][name] is states[kind][name]  # pickle writes one object once


def test_a_state_of_any_size_is_not_inflated() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(2**24))).decode()
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        restore({"torch": {"columns": bomb}})
