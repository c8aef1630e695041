"""Where the weights came from with which a training began."""

import copy
import hashlib
import io
import os
import pickle
import tempfile
import types
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import safetensors
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.capture import source_description, weight_files
from lightning_dtool.capture.initial_weights import capture_initial_weights
from lightning_dtool.record import Gaps, InitialWeights, Provenance
from lightning_dtool.store import DatasetWriter
from lightning_dtool.values.digests import state_digest
from zoo import ZOO


class Net(TinyNet):
    """A backbone and a head."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__(hidden=hidden)
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x))


def fit(module: L.LightningModule, models: Path, *callbacks: L.Callback, **options: Any) -> DtoolCheckpoint:
    """Train with a record, and return the last checkpoint."""
    provenance = DtoolProvenanceCallback(str(models))
    arguments = {key: options.pop(key) for key in ("ckpt_path",) if key in options}
    trainer(models.parent, provenance, *callbacks, **{"max_epochs": 1, **options}).fit(module, loader(), **arguments)
    return DtoolCheckpoint.from_uri(provenance.last_uri)


def plain_fit(module: L.LightningModule, folder: Path) -> Path:
    """Train without a record, and return the checkpoint file."""
    plain = trainer(folder, max_epochs=1, enable_checkpointing=False)
    plain.fit(module, loader())
    plain.save_checkpoint(folder / "plain.ckpt")
    return folder / "plain.ckpt"


def origin_of(record: Provenance) -> InitialWeights:
    found = record.model.initial_weights
    assert found is not None
    return found


def gaps_of(record: Provenance) -> list[str]:
    return [gap.fact for gap in record.gaps if gap.fact.startswith("model.initial_weights")]


# -- made by the script ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ZOO))
def test_weights_made_by_the_script_are_recorded_as_such(name: str) -> None:
    L.seed_everything(3, verbose=False)
    module, _ = ZOO[name]()
    gaps = Gaps()
    versions = {key: value._version for key, value in module.state_dict().items()}
    random = torch.get_rng_state()
    found = capture_initial_weights(module, gaps)
    assert (found.origin, found.seeded, found.sources, list(gaps)) == ("script", True, [], [])
    assert found.digest == state_digest(module.state_dict())
    assert found.keys_total == len(versions)
    assert {key: value._version for key, value in module.state_dict().items()} == versions
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("seeding", "seeded"), [("", "False"), ("torch.manual_seed(7)", "True")])
def test_whether_the_generator_was_seeded_is_recorded(seeding: str, seeded: str) -> None:
    program = (
        "import torch\nfrom kit import TinyNet\nfrom lightning_dtool.record import Gaps\n"
        "from lightning_dtool.capture.initial_weights import capture_initial_weights\n"
        f"{seeding}\nprint(capture_initial_weights(TinyNet(), Gaps()).seeded)"
    )
    assert programs.run("-c", program, cwd=Path(__file__).parents[1]).stdout.split()[-1] == seeded


def test_layers_without_a_shape_yet_are_the_scripts(models: Path) -> None:
    class Lazy(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))

    module = Lazy()
    first, second = fit(module, models).record, fit(module, models).record
    assert [origin_of(record).origin for record in (first, second)] == ["script", "continued"]
    assert gaps_of(first) == gaps_of(second) == []


# -- continued --------------------------------------------------------------------------------------------


def test_a_second_fit_of_the_same_module_continues_the_first(models: Path) -> None:
    module = Net()
    first = fit(module, models)
    second = fit(module, models)
    found = origin_of(second.record)
    assert (found.origin, [source.keys for source in found.sources]) == ("continued", [["*"]])
    assert found.sources[0].run_uuid == first.record.run.uuid
    assert found.sources[0].dataset is not None
    assert found.sources[0].dataset.uuid == first.uuid
    lineage = second.record.lineage
    assert (lineage.parent_checkpoint, lineage.resumed) == (found.sources[0].dataset, False)
    assert second.annotations["parent_checkpoint_uuid"] == first.uuid
    assert f"derived_from:\n- name: {first.name}" in second.dataset.readme()


@pytest.mark.parametrize("way", ["load_state_dict", "deepcopy", "pickle"])
def test_a_copy_of_the_weights_of_a_run_continues_it(models: Path, way: str) -> None:
    module = Net()
    first = fit(module, models)
    other = Net()
    if way == "load_state_dict":
        other.load_state_dict(module.state_dict())
    else:
        module.trainer = None
        other = copy.deepcopy(module) if way == "deepcopy" else pickle.loads(pickle.dumps(module))
    found = origin_of(fit(other, models).record)
    assert (found.origin, found.sources[0].run_uuid) == ("continued", first.record.run.uuid)


def test_weights_kept_in_memory_from_the_middle_of_a_run_are_those_of_its_checkpoint(models: Path) -> None:
    class Keep(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 0:
                self.state = weights(pl_module)

    keep, module = Keep(), Net()
    provenance = DtoolProvenanceCallback(str(models), retention="all")
    trainer(models.parent, provenance, keep, max_epochs=2).fit(module, loader())
    module.load_state_dict(keep.state)
    record = fit(module, models).record
    assert origin_of(record).origin == "continued"
    assert record.lineage.parent_checkpoint is not None
    assert record.lineage.parent_checkpoint.uri == provenance.uris[0]


def test_a_module_continues_its_last_run_after_many_others(models: Path) -> None:
    """As the best model of a search is trained further."""
    best = Net()
    first = fit(best, models).record
    for _ in range(9):
        fit(Net(), models, limit_train_batches=1)
    found = origin_of(fit(best, models).record)
    assert (found.origin, found.sources[0].run_uuid) == ("continued", first.run.uuid)


def test_a_run_after_one_that_failed_continues_it(models: Path) -> None:
    class Fails(L.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            raise ArithmeticError

    module = Net()
    with pytest.raises(ArithmeticError):
        fit(module, models, Fails())
    checkpoint = fit(module, models)
    assert origin_of(checkpoint.record).origin == "continued"
    assert origin_of(checkpoint.record).sources[0].dataset is None  # it has published nothing
    assert checkpoint.record.lineage.parent_checkpoint is None


def test_a_head_that_was_replaced_after_a_run_is_the_scripts(models: Path) -> None:
    module = Net()
    fit(module, models)
    module.head.reset_parameters()
    record = fit(module, models).record
    found = origin_of(record)
    assert (found.origin, found.sources[0].keys, found.sources[0].keys_total) == ("continued", ["layers.*"], 4)
    assert gaps_of(record) == []


@pytest.mark.parametrize("way", ["in memory", "read"])
def test_the_same_seed_again_continues_nothing_although_frozen_weights_are_equal(models: Path, way: str) -> None:
    origins = []
    for _ in range(2):
        L.seed_everything(5, verbose=False)
        module = Net()
        module.layers.requires_grad_(False)
        checkpoint = fit(module, models)
        if way == "read":
            checkpoint.load_state_dict()
        origins.append(origin_of(checkpoint.record))
    assert [origin.origin for origin in origins] == ["script", "script"]
    assert origins[0].digest == origins[1].digest


@pytest.mark.parametrize("way", ["before the first fit", "after the first fit", "into new modules"])
def test_weights_of_the_script_that_are_put_in_again_are_the_scripts(models: Path, way: str) -> None:
    """As for each fold of a cross-validation."""
    module = Net()
    first = copy.deepcopy(module.state_dict())
    for fold in range(3):
        if fold or way == "before the first fit":
            module = Net() if way == "into new modules" else module
            module.load_state_dict(first)
        record = fit(module, models).record
        assert (origin_of(record).origin, gaps_of(record)) == ("script", [])


def test_a_part_that_starts_as_a_copy_of_another_part_has_the_same_origin(tmp_path: Path) -> None:
    """As the target network of reinforcement learning and the teacher of self-supervised learning."""

    class Target(Net):
        def __init__(self) -> None:
            super().__init__()
            self.target = nn.Linear(3, 3)
            self.target.load_state_dict(self.head.state_dict())

    gaps = Gaps()
    module = Target()
    found = capture_initial_weights(module, gaps)
    assert (found.origin, list(gaps)) == ("script", [])
    module.head.load_state_dict(Net().head.state_dict())
    module.target.load_state_dict(module.head.state_dict())
    capture_initial_weights(module, gaps)
    assert "head.*, target.*" in gaps[0].reason


def test_an_identity_matrix_says_nothing(tmp_path: Path) -> None:
    torch.load(_saved({"other": torch.eye(8), "mask": torch.ones(8, 8).tril()}, tmp_path / "data.pt"))
    module = Net()
    module.rotation = nn.Parameter(torch.eye(8))
    module.mask = nn.Parameter(torch.ones(8, 8).tril())
    assert capture_initial_weights(module, Gaps()).sources == []


# -- from a checkpoint dataset ------------------------------------------------------------------------------


def _load_module(first: DtoolCheckpoint) -> L.LightningModule:
    return first.load_module(Net)


def _load_state_dict(first: DtoolCheckpoint) -> L.LightningModule:
    module = Net()
    module.load_state_dict(first.load_state_dict())
    return module


def _load(first: DtoolCheckpoint) -> L.LightningModule:
    module = Net()
    module.load_state_dict(first.load()["state_dict"])
    return module


def _load_from_checkpoint(first: DtoolCheckpoint) -> L.LightningModule:
    return Net.load_from_checkpoint(first.path)


def _torch_load(first: DtoolCheckpoint) -> L.LightningModule:
    module = Net()
    with open(first.path, "rb") as file:
        module.load_state_dict(torch.load(file)["state_dict"])
    return module


WAYS = [_load_module, _load_state_dict, _load, _load_from_checkpoint, _torch_load]


@pytest.fixture
def recorded_elsewhere(models: Path) -> DtoolCheckpoint:
    """A checkpoint whose run this process does not know."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom capture.test_initial_weights import Net, fit\n"
        "print(fit(Net(), Path(sys.argv[1])).uri)"
    )
    out = programs.run("-c", program, str(models), cwd=Path(__file__).parents[1]).stdout
    return DtoolCheckpoint.from_uri(out.split()[-1])


def test_weights_of_a_checkpoint_dataset_name_it_as_parent(models: Path, recorded_elsewhere: DtoolCheckpoint) -> None:
    for way in WAYS:
        record = fit(way(recorded_elsewhere), models).record
        found = origin_of(record)
        assert (found.origin, [source.keys for source in found.sources]) == ("checkpoint", [["*"]]), way
        assert record.lineage.parent_checkpoint is not None
        assert record.lineage.parent_checkpoint.uuid == recorded_elsewhere.uuid
        assert not record.lineage.resumed
        assert gaps_of(record) == []


def test_a_run_that_resumes_names_the_checkpoint_as_parent(models: Path, recorded_elsewhere: DtoolCheckpoint) -> None:
    for path in (recorded_elsewhere.uri, recorded_elsewhere.path):
        record = fit(Net(), models, ckpt_path=path, max_epochs=2).record
        assert origin_of(record).origin == "checkpoint"
        assert record.lineage.parent_checkpoint is not None
        assert record.lineage.parent_checkpoint.uuid == recorded_elsewhere.uuid
        assert record.lineage.resumed


# -- from a file --------------------------------------------------------------------------------------------


def _saved(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.filterwarnings("ignore:Training resumes, but may differ")
def test_a_plain_lightning_checkpoint_is_a_file(models: Path, tmp_path: Path) -> None:
    path = plain_fit(Net(), tmp_path)
    loaded = Net.load_from_checkpoint(path)
    for record in (fit(loaded, models).record, fit(Net(), models, ckpt_path=path, max_epochs=2).record):
        found = origin_of(record)
        source = found.sources[0]
        assert (found.origin, source.path, len(source.sha256 or "")) == ("file", str(path), 64)
        assert record.lineage.parent_checkpoint is None
        assert gaps_of(record) == []
    assert record.lineage.resumed


@pytest.mark.parametrize("form", ["zip", "old", "inside", "whole module"])
def test_weights_from_torch_load_are_recorded_with_the_file(models: Path, tmp_path: Path, form: str) -> None:
    module, state = Net(), Net().state_dict()
    path = tmp_path / "weights.pt"
    if form == "whole module":
        _saved(Net(), path)
        module = torch.load(path, weights_only=False)
    else:
        nested = {"epoch": 3, "models": [{"student": state}], "since": Path("x")} if form == "inside" else state
        _saved(nested, path, _use_new_zipfile_serialization=form != "old")
        loaded = torch.load(path, weights_only=False)
        module.load_state_dict(loaded["models"][0]["student"] if form == "inside" else loaded)
    record = fit(module, models).record
    found = origin_of(record)
    assert (found.origin, found.sources[0].path, found.sources[0].keys) == ("file", str(path), ["*"])
    assert gaps_of(record) == []


@pytest.mark.parametrize("form", ["npy", "npz", "of JAX"])
def test_weights_from_a_numpy_file_are_recorded_with_the_file(tmp_path: Path, form: str) -> None:
    state = {key: value.numpy() for key, value in Net().state_dict().items()}
    path = tmp_path / ("weights.npy" if form == "npy" else "weights.npz")
    if form == "npy":
        np.save(path, state["layers.0.weight"])
        read = {"layers.0.weight": np.load(path)}
    else:
        # JAX and TensorFlow keep the weights of linear layers transposed.
        np.savez_compressed(
            path, strings=np.array(["x"]), **{k: v.T if form == "of JAX" else v for k, v in state.items()}
        )
        with np.load(path) as archive:
            read = {key: archive[key].T if form == "of JAX" else archive[key] for key in state}
    module, gaps = Net(), Gaps()
    with torch.no_grad():
        for key, value in read.items():
            module.state_dict()[key].copy_(torch.from_numpy(value))
    found = capture_initial_weights(module, gaps)
    assert (found.origin, found.sources[0].path, list(gaps)) == ("file", str(path), [])
    assert found.sources[0].keys == (["layers.0.weight"] if form == "npy" else ["*"])


def test_arrays_of_other_shapes_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((50, 7)), objects=np.array([{}], dtype=object))
    np.load(tmp_path / "data.npz").close()
    module, gaps = Net(), Gaps()
    reads = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda self, key: reads.append(key))
        assert capture_initial_weights(module, gaps).origin == "script"
    assert (reads.count("x"), reads.count("objects"), list(gaps)) == (0, 0, [])


def test_parts_from_several_files_are_told_apart(models: Path, tmp_path: Path) -> None:
    base, head = Net(), Net()
    prefixed = {f"module.backbone.{key}": value for key, value in base.layers.state_dict().items()}
    _saved({"state_dict": prefixed}, tmp_path / "base.pt")
    _saved(head.head.state_dict(), tmp_path / "head.pt")
    module = Net()
    read = torch.load(tmp_path / "base.pt")["state_dict"]
    module.layers.load_state_dict({key.removeprefix("module.backbone."): value for key, value in read.items()})
    part = origin_of(fit(copy.deepcopy(module), models).record)
    assert (part.origin, [(Path(s.path or "").name, s.keys) for s in part.sources]) == (
        "file",
        [("base.pt", ["layers.*"])],
    )
    module.head.load_state_dict(torch.load(tmp_path / "head.pt"))
    record = fit(module, models).record
    assert [(Path(source.path or "").name, source.keys) for source in origin_of(record).sources] == [
        ("base.pt", ["layers.*"]),
        ("head.pt", ["head.*"]),
    ]
    assert gaps_of(record) == []


def test_weights_converted_to_another_precision_are_recognised(tmp_path: Path) -> None:
    module = Net()
    module.load_state_dict(torch.load(_saved(Net().state_dict(), tmp_path / "weights.pt")))
    found = capture_initial_weights(module.to(torch.bfloat16), Gaps())
    assert (found.origin, found.sources[0].keys) == ("file", ["*"])


def test_many_sample_files_do_not_displace_the_file_of_the_weights(tmp_path: Path) -> None:
    module = Net()
    module.load_state_dict(torch.load(_saved(Net().state_dict(), tmp_path / "weights.pt")))
    loaded = {key: value.clone() for key, value in torch.load(_saved(weights(Net()), tmp_path / "copied.pt")).items()}
    for number in range(400):
        os.link(
            _saved(torch.rand(3), tmp_path / "0.pt") if not number else tmp_path / "0.pt", tmp_path / f"s{number}.pt"
        )
        torch.load(tmp_path / f"s{number}.pt")
    assert capture_initial_weights(module, Gaps()).origin == "file"
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(loaded[name])
    assert capture_initial_weights(module, Gaps()).sources[0].path == str(tmp_path / "copied.pt")


def test_constants_and_unrelated_files_prove_nothing(tmp_path: Path) -> None:
    module = Net()
    nn.init.zeros_(module.layers[0].bias)
    other = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    torch.load(_saved({**other, "x": torch.rand(5)}, tmp_path / "data.pt"))
    gaps = Gaps()
    found = capture_initial_weights(module, gaps)
    assert (found.origin, found.sources, list(gaps)) == ("script", [], [])


def test_files_are_opened_again_only_if_the_model_may_hold_their_tensors(tmp_path: Path, monkeypatch: Any) -> None:
    """As in a search, where each trial is tested with its best checkpoint before the next one begins."""
    state = Net().state_dict()
    path = _saved(state, tmp_path / "weights.pt")
    torch.load(path)
    opened: list[str] = []
    read = weight_files._read
    monkeypatch.setattr(weight_files, "_read", lambda path: (opened.append(path), read(path))[1])
    for _ in range(3):
        assert capture_initial_weights(Net(), Gaps()).origin == "script"
    assert opened.count(str(path)) == 1
    module = Net()
    module.load_state_dict(state)
    found = capture_initial_weights(module, Gaps())
    assert (found.origin, found.sources[0].keys, opened.count(str(path))) == ("file", ["*"], 2)
    _saved(Net().state_dict(), path)
    assert capture_initial_weights(module, Gaps()).origin == "unknown"


def test_checkpoints_of_earlier_runs_are_not_opened_for_new_weights(models: Path, monkeypatch: Any) -> None:
    opened: list[str] = []
    read = weight_files._read
    monkeypatch.setattr(weight_files, "_read", lambda path: (opened.append(path), read(path))[1])
    for _ in range(3):
        assert origin_of(fit(Net(), models).record).origin == "script"
    assert [path for path in opened if path.startswith(str(models))] == []


# -- unknown --------------------------------------------------------------------------------------------------


def test_weights_from_a_stream_are_unknown(tmp_path: Path) -> None:
    module, gaps = Net(), Gaps()
    module.load_state_dict(torch.load(io.BytesIO(_saved(Net().state_dict(), tmp_path / "weights.pt").read_bytes())))
    assert capture_initial_weights(module, gaps).origin == "unknown"
    assert [gap.fact for gap in gaps] == ["model.initial_weights.origin"]


@pytest.mark.parametrize("way", ["stream", "deleted", "overwritten", "half"])
def test_values_that_torch_load_returned_are_unknown_however_they_get_into_the_model(tmp_path: Path, way: str) -> None:
    path = _saved(Net().state_dict(), tmp_path / "weights.pt")
    state = torch.load(io.BytesIO(path.read_bytes()) if way == "stream" else path)
    if way in ("deleted", "half"):
        path.unlink()
    elif way == "overwritten":
        _saved(Net().state_dict(), path)
    module, gaps = Net(), Gaps()
    module.head.weight = nn.Parameter(state["head.weight"])
    with torch.no_grad():
        module.layers[0].weight.copy_(state["layers.0.weight"])
    found = capture_initial_weights(module.half() if way == "half" else module, gaps)
    assert (found.origin, found.sources) == ("unknown", [])
    assert gaps[0].reason.startswith("torch.load returned values that no file that was read holds")
    assert gaps[0].reason.endswith(": layers.0.weight, head.weight")


def test_values_that_no_file_holds_are_unknown(models: Path) -> None:
    module = Net()
    module.load_state_dict({name: torch.rand_like(value) for name, value in module.state_dict().items()})
    checkpoint = fit(module, models)
    assert origin_of(checkpoint.record).origin == "unknown"
    assert gaps_of(checkpoint.record) == ["model.initial_weights.origin"]


@pytest.mark.parametrize(("change", "said"), [("gone", "is gone"), ("changed", "has changed")])
def test_a_file_that_is_gone_or_changed_is_a_gap_that_says_so(tmp_path: Path, change: str, said: str) -> None:
    module, path = Net(), _saved(Net().state_dict(), tmp_path / "weights.pt")
    module.load_state_dict(torch.load(path))
    path.unlink() if change == "gone" else _saved([1], path)
    gaps = Gaps()
    assert capture_initial_weights(module, gaps).origin == "unknown"
    assert f"{path} {said}" in gaps[0].reason
    assert gaps[0].remedy


def test_a_training_that_was_not_recorded_leaves_weights_of_unknown_origin(models: Path, tmp_path: Path) -> None:
    module = Net()
    plain_fit(module, tmp_path)
    record = fit(module, models).record
    assert origin_of(record).origin == "unknown"
    assert "an optimizer changed" in next(gap.reason for gap in record.gaps if gap.fact in gaps_of(record))


def test_the_tuner_leaves_the_origin_as_it_was(models: Path) -> None:
    record = fit(Net(), models, LearningRateFinder(num_training_steps=5, update_attr=False)).record
    assert (origin_of(record).origin, gaps_of(record)) == ("script", [])


def test_a_model_made_before_the_package_was_imported_has_an_unknown_origin() -> None:
    program = (
        "import lightning as L, torch\n"
        "class Net(L.LightningModule):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = torch.nn.Linear(4, 4)\n"
        "early = Net()\n"
        "from lightning_dtool import DtoolProvenanceCallback\n"
        "from lightning_dtool.record import Gaps\n"
        "from lightning_dtool.capture.initial_weights import capture_initial_weights\n"
        "gaps = Gaps()\nprint(capture_initial_weights(early, gaps).origin, len(gaps), gaps[0].remedy != '',"
        " capture_initial_weights(Net(), Gaps()).origin)"
    )
    out = programs.run("-c", program, cwd=Path(__file__).parents[1]).stdout
    assert out.split()[-4:] == ["unknown", "1", "True", "script"]


@pytest.mark.parametrize("copied", [False, True])
def test_a_test_run_that_is_not_recorded_changes_the_origin(models: Path, copied: bool) -> None:
    module = Net()
    trainer(models.parent, DtoolProvenanceCallback(str(models)), fast_dev_run=True).fit(module, loader())
    module.trainer = None
    record = fit(copy.deepcopy(module) if copied else module, models).record
    assert (origin_of(record).origin, gaps_of(record)) == ("unknown", ["model.initial_weights.origin"])


def test_an_unpickled_module_has_an_unknown_origin_and_a_copy_has_none_of_its_own() -> None:
    module = Net()
    module.layers.append(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 2, enable_nested_tensor=False))
    assert capture_initial_weights(copy.deepcopy(module), Gaps()).origin == "script"
    module.head = pickle.loads(pickle.dumps(nn.Linear(3, 3)))
    gaps = Gaps()
    assert capture_initial_weights(copy.deepcopy(module), gaps).origin == "unknown"
    assert "head.*" in gaps[0].reason


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_a_file_that_cannot_be_read_safely(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.jit.script(nn.Linear(8, 8)).save(path)
    module = Net()
    module.program = torch.jit.load(path)
    gaps = Gaps()
    assert capture_initial_weights(module, gaps).origin == "unknown"
    assert f"{path} cannot be read" in gaps[0].reason


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_weights_that_a_hook_loads_are_recorded(models: Path, tmp_path: Path, hook: str) -> None:
    path = _saved(Net().layers.state_dict(), tmp_path / "weights.pt")

    class Late(Net):
        pass

    setattr(Late, hook, lambda self: self.layers.load_state_dict(torch.load(path)) and None)
    module = Late()
    before = state_digest(module.state_dict())
    record = fit(module, models).record
    found = origin_of(record)
    assert (found.origin, found.sources[0].keys, found.digest) == ("file", ["layers.*"], before)
    assert gaps_of(record) == []


def test_without_changes_to_the_script_loads_are_observed_from_its_first_line(models: Path, tmp_path: Path) -> None:
    _saved(Net().state_dict(), tmp_path / "weights.pt")
    program = (
        "import sys, torch\nfrom safetensors.torch import save_file, load_file\nstate = torch.load(sys.argv[1])\n"
        "import lightning as L\nfrom kit import loader\nfrom capture.test_initial_weights import Net\n"
        "module = Net()\nmodule.load_state_dict(state)\n"
        "L.Trainer(max_epochs=1, logger=False, accelerator='cpu', default_root_dir=sys.argv[2]).fit(module, loader())"
    )
    environment = {**os.environ, "LIGHTNING_DTOOL_BASE_URI": str(models)}
    arguments = (program, tmp_path / "weights.pt", tmp_path)
    programs.run("-c", *arguments, cwd=Path(__file__).parents[1], env=environment, fresh=True)
    (uri,) = [str(path) for path in models.iterdir()]
    found = origin_of(DtoolCheckpoint.from_uri(uri).record)
    assert (found.origin, found.sources[0].path) == ("file", str(tmp_path / "weights.pt"))


# -- libraries ------------------------------------------------------------------------------------------------


def _hub_file(folder: Path, state: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    """Write a file as the cache of the Hugging Face Hub keeps it."""
    blob = folder / "models--lab--leaf-net" / "blobs" / "d1"
    blob.parent.mkdir(parents=True)
    save_file(state, blob) if name.endswith("safetensors") else torch.save(state, blob)
    path = folder / "models--lab--leaf-net" / "snapshots" / "3f49" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(blob)
    return path


@pytest.mark.parametrize("way", ["load_file", "safe_open", "load_model", "torch.load"])
def test_a_file_of_the_hub_is_recorded_with_repository_and_revision(tmp_path: Path, way: str) -> None:
    name = "pytorch_model.bin" if way == "torch.load" else "model.safetensors"
    module, path = Net(), _hub_file(tmp_path, Net().state_dict(), name)
    if way == "load_file":
        module.load_state_dict(load_file(path))
    elif way == "load_model":
        load_model(module, path)
    elif way == "torch.load":
        module.load_state_dict(torch.load(path))
    else:
        with safetensors.safe_open(str(path), framework="pt") as file, torch.no_grad():
            for key, value in module.state_dict().items():
                value.copy_(file.get_tensor(key))
    gaps = Gaps()
    found = capture_initial_weights(module, gaps)
    assert (found.origin, found.sources[0].keys, list(gaps)) == ("file", ["*"], [])
    assert (found.sources[0].repository, found.sources[0].revision) == ("lab/leaf-net", "3f49")
    assert found.sources[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_is_observed_wherever_it_was_imported_from() -> None:
    """As in transformers, which imports `safe_open` into modules of its own."""
    program = (
        "import sys\n{first}\nfrom lightning_dtool import DtoolProvenanceCallback\n{then}\n"
        "import safetensors, torch\nfrom safetensors.torch import save_file\n"
        "from lightning_dtool.watch import files\n"
        "save_file({{'a': torch.ones(2)}}, sys.argv[1])\n"
        "with library.safe_open(sys.argv[1], framework='pt') as file:\n"
        "    assert isinstance(file, safetensors.safe_open)\n    assert file.keys() == ['a']\n"
        "try:\n    library.safe_open('none.safetensors', framework='pt')\n"
        "except FileNotFoundError:\n    print([file.path for file in files.read_files()])"
    )
    library = "import types\nlibrary = types.ModuleType('library')\nsys.modules['library'] = library\n"
    library += "exec('from safetensors import safe_open', vars(library))"
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.safetensors"
        for first, then in ((library, ""), ("", library)):
            out = programs.run("-c", program.format(first=first, then=then), path, cwd=Path(folder)).stdout
            assert path in out


def _of_library(module: str, net: nn.Module, **attributes: Any) -> nn.Module:
    """Return a network that looks like one of a library, which need not be installed."""
    made = type("Network", (nn.Sequential,), {"__module__": module})(net)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Holder(L.LightningModule):
    """A network of a library, and a head."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = nn.Linear(16, 4)


def test_pretrained_weights_of_timm_are_recorded_by_name(tmp_path: Path) -> None:
    # As timm does: the classifier of the file is left out, and the rest is loaded without `strict`.
    cfg = {"architecture": "vit_tiny", "tag": "augreg", "hf_hub_id": "lab/leaf-net", "url": ""}
    net = _of_library("timm.models.vit", nn.ModuleDict({"body": nn.Linear(8, 16), "head": nn.Linear(16, 3)}))
    gaps = Gaps()
    net.pretrained_cfg = cfg  # type: ignore[assignment]
    assert capture_initial_weights(Holder(net), gaps).origin == "script"  # `pretrained=False`
    file = _hub_file(tmp_path, {"0.body.weight": torch.rand(16, 8), "0.body.bias": torch.rand(16)})
    net.load_state_dict(load_file(file), strict=False)
    found = capture_initial_weights(Holder(net), gaps)
    assert (found.origin, found.sources[0].keys, found.sources[0].name) == ("file", ["net.0.body.*"], "vit_tiny.augreg")
    assert (found.keys_total, found.sources[0].keys_total, list(gaps)) == (6, 2, [])


def test_other_weights_in_a_model_of_timm_do_not_have_timms_name(tmp_path: Path) -> None:
    # `create_model("vit_tiny", checkpoint_path="mine.safetensors")`
    net = _of_library("timm.models.vit", nn.Linear(8, 16))
    net.pretrained_cfg = {"architecture": "vit_tiny", "tag": "augreg", "hf_hub_id": "timm/vit_tiny.augreg", "url": ""}  # type: ignore[assignment]
    save_file({"0.weight": torch.rand(16, 8), "0.bias": torch.rand(16)}, tmp_path / "mine.safetensors")
    net.load_state_dict(load_file(tmp_path / "mine.safetensors"))
    (source,) = capture_initial_weights(Holder(net), Gaps()).sources
    assert (source.path, source.name) == (str(tmp_path / "mine.safetensors"), None)


def _as_transformers_does(net: nn.Module, path: Path) -> None:
    with safetensors.safe_open(str(path), framework="pt") as file:
        net[0].weight = nn.Parameter(file.get_tensor("bert.weight"))  # type: ignore[index]
        net[0].bias = nn.Parameter(file.get_tensor("bert.bias"))  # type: ignore[index]


def _bert(**attributes: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    state = {"bert.weight": torch.rand(16, 8), "bert.bias": torch.rand(16)}
    return _of_library("transformers.models.bert", nn.Linear(8, 16), **attributes), state


def test_weights_of_the_script_in_a_model_of_transformers_are_of_no_repository(tmp_path: Path) -> None:
    # `from_config` keeps the name of the repository, too.
    net, state = _bert(config=types.SimpleNamespace(_name_or_path="lab/bert", _commit_hash="77aa"))
    assert capture_initial_weights(Holder(net), Gaps()).origin == "script"
    save_file(state, tmp_path / "mine.safetensors")
    _as_transformers_does(net, tmp_path / "mine.safetensors")
    (source,) = capture_initial_weights(Holder(net), Gaps()).sources
    assert (source.keys, source.repository, source.revision) == (["net.*"], None, None)


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_frozen_weights_that_were_downloaded_during_the_run_are_of_the_file(tmp_path: Path, place: str) -> None:
    # Adapters are trained, and the base model, which transformers reads without load_state_dict, is not.
    net, state = _bert()
    if place == "hub":
        path = _hub_file(tmp_path, state)
    else:
        path = tmp_path / "model.safetensors"
        save_file(state, path)
    _as_transformers_does(net, path)
    net.requires_grad_(False)
    gaps = Gaps()
    found = capture_initial_weights(Holder(net), gaps)
    assert (found.origin, found.sources[0].path, found.sources[0].keys) == ("file", str(path), ["net.*"])
    assert not gaps


def test_a_file_in_the_cache_that_has_changed_is_not_the_repositorys(tmp_path: Path) -> None:
    net, state = _bert()
    path = _hub_file(tmp_path, state)
    blob = path.resolve()
    named = blob.rename(blob.with_name(hashlib.sha256(blob.read_bytes()).hexdigest()))
    path.unlink()
    path.symlink_to(named)
    _as_transformers_does(net, path)
    assert capture_initial_weights(Holder(net), Gaps()).sources[0].repository == "lab/leaf-net"
    save_file({name: tensor + 1 for name, tensor in state.items()}, path.resolve())
    _as_transformers_does(net, path)
    assert capture_initial_weights(Holder(net), Gaps()).sources[0].repository is None


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def test_pretrained_weights_of_torchvision_are_recorded_by_name(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")
    chosen = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    torch.save(models.squeezenet1_1().state_dict(), hub / Path(chosen.url).name)
    module = L.LightningModule()
    module.backbone = models.squeezenet1_1(weights=chosen)
    module.backbone.classifier[1] = nn.Conv2d(512, 3, 1)
    gaps = Gaps()
    # The name of the file has the beginning of its SHA-256, and this is not that file.
    assert capture_initial_weights(module, gaps).sources[0].name is None
    monkeypatch.setattr(source_description, "sha256", lambda path: Path(path).stem.rpartition("-")[2] + 56 * "0")
    found = capture_initial_weights(module, gaps)
    source = found.sources[0]
    assert (found.origin, source.name, list(gaps)) == ("file", "SqueezeNet1_1_Weights.IMAGENET1K_V1", [])
    assert source.keys == ["backbone.features.*"]


def test_a_file_from_a_url_is_recorded(hub: Path, tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    module = Net()
    module.load_state_dict(torch.hub.load_state_dict_from_url((tmp_path / "net.pt").as_uri(), progress=False))
    assert capture_initial_weights(module, Gaps()).sources[0].path == str(hub / "net.pt")


def test_a_dataset_of_weights_that_is_no_checkpoint_is_a_parent(models: Path, tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "model.pt")
    with DatasetWriter("base", str(models), creator_username="tester") as writer:
        writer.put_bytes((tmp_path / "model.pt").read_bytes(), "model.pt")
        dataset = writer.commit()
    module = Net()
    module.load_state_dict(torch.load(dataset.path(dataset.item("model.pt").identifier)))
    checkpoint = fit(module, models)
    source = origin_of(checkpoint.record).sources[0]
    assert source.kind == "file"
    assert source.dataset is not None
    assert source.dataset.uuid == dataset.uuid
    lineage = checkpoint.record.lineage
    assert (lineage.parent_checkpoint, lineage.other_parents) == (None, [source.dataset])
    assert f"uuid: {dataset.uuid}" in checkpoint.dataset.readme()


# -- nothing changes ------------------------------------------------------------------------------------------


def test_observing_changes_neither_results_nor_errors(tmp_path: Path) -> None:
    module, path = Net(), _saved(Net().state_dict(), tmp_path / "weights.pt")
    state = torch.load(path)
    keys = module.load_state_dict({"head.weight": state["head.weight"], "x": state["head.bias"]}, strict=False)
    assert (len(keys.missing_keys), keys.unexpected_keys) == (5, ["x"])
    with pytest.raises(RuntimeError, match="Unexpected key"):
        module.load_state_dict({"x": state["head.bias"]})
    with pytest.raises(FileNotFoundError):
        torch.load(tmp_path / "none.pt")
    module.load_state_dict(state)
    assert same(weights(module), state)


def test_a_state_without_a_digest_is_a_gap() -> None:
    class Strange(TinyNet):
        def __init__(self, broken: bool) -> None:
            super().__init__()
            self.broken = broken

        def get_extra_state(self) -> Any:
            if self.broken:
                raise RuntimeError("no")
            return {"when": weakref.ref(type(self))}

        def set_extra_state(self, state: Any) -> None:
            pass

    gaps = Gaps()
    assert (capture_initial_weights(Strange(False), gaps).digest or "").startswith("sha256:")
    assert [gap.fact for gap in gaps] == ["model.initial_weights.digest._extra_state"]
    gaps = Gaps()
    assert capture_initial_weights(Strange(True), gaps).digest is None
    assert [gap.fact for gap in gaps] == ["model.initial_weights.digest"]


def test_recording_initial_weights_does_not_import_torchvision() -> None:
    program = (
        "import sys\nfrom kit import TinyNet\nfrom lightning_dtool.record import Gaps\n"
        "from lightning_dtool.capture.initial_weights import capture_initial_weights\n"
        "known = set(sys.modules)\ncapture_initial_weights(TinyNet(), Gaps())\n"
        "assert not [name for name in set(sys.modules) - known if name.startswith('torchvision')]"
    )
    programs.run("-c", program, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("old", [False, True])
def test_reading_a_noted_file_again_gives_no_warning(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save(Net().state_dict(), path, pickle_protocol=3, _use_new_zipfile_serialization=not old)
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a safe load by torch warns of the protocol
        module.load_state_dict(torch.load(path))
    assert capture_initial_weights(module, Gaps()).origin == "file"
