"""Weights that are loaded while a training goes on."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

import programs
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.record import Provenance
from lightning_dtool.store.digest import hash_file

Hook = Callable[[L.Trainer, "Net"], None]


class Net(TinyNet):
    """A backbone and a head, with something that happens in a hook or in the training step."""

    def __init__(self) -> None:
        super().__init__(hidden=16)
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x))


class At(L.Callback):
    """Calls a function once in a hook, or in the training step, of some epochs."""

    def __init__(self, hook: str, what: Hook, epochs: tuple[int, ...] = (1,)) -> None:
        self.hook, self.what, self.epochs = hook, what, list(epochs)
        if hook != "training_step":
            setattr(self, hook, lambda t, module, *_: self.happen(t, module))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.hook == "training_step":
            step = pl_module.training_step

            def training_step(*args: Any) -> Any:
                self.happen(trainer, pl_module)
                return step(*args)

            pl_module.training_step = training_step  # type: ignore[method-assign]

    def happen(self, t: L.Trainer, module: Any) -> None:
        if t.current_epoch in self.epochs:
            self.epochs.remove(t.current_epoch)
            self.what(t, module)


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def fit(
    models: Path, *callbacks: L.Callback, module: L.LightningModule | None = None, data: Any = None, **options: Any
) -> Provenance:
    """Train with a record, and return that of the last checkpoint."""
    provenance = DtoolProvenanceCallback(str(models))
    arguments = {key: options.pop(key) for key in ("ckpt_path",) if key in options}
    t = trainer(models.parent, provenance, *callbacks, **{"max_epochs": 3, **options})
    t.fit(module or Net(), *(data or [loader()]), **arguments)
    assert provenance.errors == []
    return DtoolCheckpoint.from_uri(provenance.last_uri).record


def loads_of(record: Provenance) -> list[tuple[int, int, str, list[str], str]]:
    found = record.model.loaded_weights
    listed = [change for change in record.changes if change.fact.startswith("model.loaded_weights")]
    assert [change.fact for change in listed] == [f"model.loaded_weights[{index}]" for index in range(len(found))]
    for change, each in zip(listed, found, strict=True):
        assert (change.epoch, change.global_step, change.before) == (each.epoch, each.global_step, None)
        assert change.after == each.model_dump(mode="json")
    return [
        (each.epoch, each.global_step, each.source.kind, each.source.keys, Path(each.source.path or "").name)
        for each in found
    ]


def gaps_of(record: Provenance) -> list[str]:
    return [gap.reason for gap in record.gaps if gap.fact.startswith(("model.loaded", "model.initial"))]


def load_whole(path: Path) -> Hook:
    return lambda t, module: module.load_state_dict(torch.load(path)) and None


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_fit_start", None), ("on_train_epoch_start", 6), ("on_train_batch_start", 6), ("training_step", 6),
        ("on_train_batch_end", 7), ("on_train_epoch_end", 12), ("on_validation_end", 12),
    ],
)  # fmt: skip
def test_a_load_in_a_hook_is_listed(models: Path, tmp_path: Path, hook: str, step: int | None) -> None:
    path = saved(Net().state_dict(), tmp_path / "weights.pt")
    data = [loader(), loader()]
    record = fit(models, At(hook, load_whole(path), (1,) if step else (0,)), data=data)
    assert gaps_of(record) == []
    if step is None:
        assert (origin_of(record).origin, loads_of(record)) == ("file", [])
        return
    assert [(found, *rest) for _, found, *rest in loads_of(record)] == [(step, "file", ["*"], "weights.pt")]
    assert record.model.loaded_weights[0].source.sha256 == hash_file(path, "sha256")
    assert (origin_of(record).origin, record.lineage.parents) == ("script", [])


def load_from_dataset(uri: str) -> Hook:
    return lambda t, module: module.load_state_dict(DtoolCheckpoint.from_uri(uri).load_state_dict()) and None


@pytest.fixture
def elsewhere(models: Path, tmp_path: Path) -> DtoolCheckpoint:
    """A checkpoint dataset that another process has made."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom capture.test_weights_watch import fit\n"
        "fit(Path(sys.argv[1]), max_epochs=1)"
    )
    (tmp_path / "other").mkdir()
    programs.run("-c", program, str(tmp_path / "other"), cwd=Path(__file__).parents[1])
    [folder] = (tmp_path / "other").iterdir()
    return DtoolCheckpoint.from_uri(folder)


def test_a_checkpoint_dataset_that_is_loaded_is_a_parent(models: Path, elsewhere: DtoolCheckpoint) -> None:
    record = fit(models, At("on_train_epoch_start", load_from_dataset(elsewhere.uri)))
    assert gaps_of(record) == []
    assert loads_of(record) == [(1, 6, "checkpoint", ["*"], "checkpoint.ckpt")]
    source = record.model.loaded_weights[0].source
    assert source.dataset is not None
    assert (source.dataset.uuid, source.dataset.uri, source.run_uuid) == (elsewhere.uuid, elsewhere.uri, None)
    assert (record.lineage.parent_checkpoint, record.lineage.other_parents) == (None, [source.dataset])


def test_a_checkpoint_of_the_same_run_is_listed_and_is_no_parent(models: Path) -> None:
    def restart(t: L.Trainer, module: Net) -> None:
        policy = t.checkpoint_callback
        assert isinstance(policy, ModelCheckpoint)
        module.load_state_dict(torch.load(policy.best_model_path, weights_only=False)["state_dict"])

    best = ModelCheckpoint(monitor="train_loss", mode="max")
    record = fit(models, At("on_train_epoch_start", restart, (1, 2)), best, ModelCheckpoint(save_top_k=-1))
    assert gaps_of(record) == []
    assert [(epoch, keys) for epoch, _, _, keys, _ in loads_of(record)] == [(1, ["*"]), (2, ["*"])]
    sources = [each.source for each in record.model.loaded_weights]
    assert {source.run_uuid for source in sources} == {record.run.uuid}
    assert all(source.dataset is None or source.kind == "checkpoint" for source in sources)
    assert record.lineage.parents == []


def partly(path: Path) -> Hook:
    return lambda t, module: module.load_state_dict(torch.load(path), strict=False) and None


def test_parts_are_told_apart(models: Path, tmp_path: Path) -> None:
    head = saved(Net().head.state_dict(), tmp_path / "head.pt")
    layers = saved({f"layers.{k}": v for k, v in Net().layers.state_dict().items()}, tmp_path / "layers.pt")
    save_file(Net().state_dict(), tmp_path / "all.safetensors")

    def load_head(t: L.Trainer, module: Net) -> None:
        module.head.load_state_dict(torch.load(head))

    def load_all(t: L.Trainer, module: Net) -> None:
        module.load_state_dict(load_file(tmp_path / "all.safetensors"))

    arrays = {name: value.numpy() for name, value in Net().head.state_dict().items()}
    np.savez(tmp_path / "arrays.npz", **arrays)

    def load_arrays(t: L.Trainer, module: Net) -> None:
        with np.load(tmp_path / "arrays.npz") as found:
            module.head.load_state_dict({name: torch.from_numpy(found[name]) for name in found.files})

    record = fit(
        models, At("on_train_epoch_start", load_arrays, (2,)), At("training_step", load_head, (0,)),
        At("on_train_epoch_start", partly(layers)),
        At("on_train_batch_end", load_all, (2,)), accumulate_grad_batches=2,
    )  # fmt: skip
    assert gaps_of(record) == []
    assert loads_of(record) == [
        (0, 0, "file", ["head.*"], "head.pt"),
        (1, 3, "file", ["layers.*"], "layers.pt"),
        (2, 6, "file", ["head.*"], "arrays.npz"),
        (2, 6, "file", ["*"], "all.safetensors"),
    ]


def copied(t: L.Trainer, module: Net, state: Any) -> None:
    for name, value in state.items():
        module.get_parameter(name).data.copy_(value)


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "training_step", "on_train_batch_end", "before"])
def test_tensors_that_are_copied_by_hand_are_found(models: Path, tmp_path: Path, hook: str) -> None:
    path = saved(Net().state_dict(), tmp_path / "weights.pt")
    if hook == "before":
        state = torch.load(path)
        record = fit(models, At("on_train_epoch_start", lambda t, module: copied(t, module, state)))
    else:
        record = fit(models, At(hook, lambda t, module: copied(t, module, torch.load(path))))
    assert gaps_of(record) == []
    assert [rest for _, _, *rest in loads_of(record)] == [["file", ["*"], "weights.pt"]]


def mixed(t: L.Trainer, module: Net, state: Any) -> None:
    for name, value in state.items():
        module.get_parameter(name).data.lerp_(value, 0.5)


@pytest.mark.parametrize("form", ["pt", "safetensors", "late"])
def test_a_file_of_weights_that_was_not_seen_to_arrive_is_a_gap(models: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_file(Net().state_dict(), path)
        what: Hook = lambda t, module: mixed(t, module, load_file(path))  # noqa: E731
    else:
        saved(Net().state_dict(), path)
        what = load_whole(path) if form == "late" else lambda t, module: mixed(t, module, torch.load(path))
    record = fit(models, At("on_before_optimizer_step" if form == "late" else "on_train_epoch_start", what))
    assert loads_of(record) == []
    [reason] = gaps_of(record)
    assert reason.startswith(f"{path}, which holds tensors with names and shapes of this model's, was read in epoch 1")


@pytest.mark.parametrize("form", ["stream", "gone"])
def test_values_that_are_in_no_file_are_a_gap(models: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "weights.pt"

    def load(t: L.Trainer, module: Net) -> None:
        saved(Net().state_dict(), path)
        module.load_state_dict(torch.load(io.BytesIO(path.read_bytes()) if form == "stream" else path))
        path.unlink()

    record = fit(models, At("on_train_epoch_start", load))
    assert loads_of(record) == []
    why = "" if form == "stream" else f" ({path} is gone)"
    [reason] = gaps_of(record)
    assert reason.startswith(f"values were loaded that no file that was read holds{why}: layers.0.")


# -- each way in each hook ---------------------------------------------------------------------------------------

PARTS = {"all": "", "layers": "layers.", "one": "head.weight"}


def put(module: Net, state: dict[str, torch.Tensor], way: str) -> None:
    if way == "by hand":
        for name, value in state.items():
            module.get_parameter(name).data.copy_(value)
    else:
        module.load_state_dict(state, strict=False, assign=way == "assign")


READERS: dict[str, Callable[[Path], Any]] = {
    "pt": torch.load,
    "mmap.pt": lambda path: torch.load(path, mmap=True),
    "safetensors": load_file,
    "npz": lambda path: {name: torch.from_numpy(value) for name, value in np.load(path).items()},
    "ckpt": lambda path: {
        name.removeprefix("net."): value.clone() for name, value in torch.load(path)["model"].items()
    },
}


def written(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.name.endswith("safetensors"):
        save_file(state, path)
    elif path.name.endswith("npz"):
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        nested = {"model": {f"net.{name}": value for name, value in state.items()}, "epoch": 3}
        saved(nested if path.name.endswith("ckpt") else state, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_train_epoch_start", "training_step", "on_train_batch_end", "on_validation_end"])
@pytest.mark.parametrize("way", ["load_state_dict", "assign", "by hand"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("form", READERS)
def test_each_load_is_listed_as_it_was(models: Path, tmp_path: Path, form: str, part: str, way: str, hook: str) -> None:
    if form == "npz" and way == "by hand":
        pytest.skip("NumPy files are looked at only for load_state_dict")
    state = {name: value for name, value in Net().state_dict().items() if name.startswith(PARTS[part])}
    path = written(state, tmp_path / f"weights.{form}")
    seen: list[tuple[int, int]] = []

    def load(t: L.Trainer, module: Net) -> None:
        put(module, READERS[form](path), way)
        assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())
        seen.append((t.current_epoch, t.global_step))

    policy = ModelCheckpoint(save_top_k=-1, every_n_train_steps=4)
    record = fit(models, At(hook, load, (0, 1)), policy, data=[loader(), loader()], num_sanity_val_steps=0)
    assert gaps_of(record) == []
    found = record.model.loaded_weights
    expected = {"all": ["*"], "layers": ["layers.*"], "one": ["head.weight"]}[part]
    # What the first batch begins with is the initial weights.
    if hook == "on_train_epoch_start" and origin_of(record).sources:
        assert origin_of(record).sources[0].keys == expected
        assert seen.pop(0) == (0, 0)
    assert [(each.global_step, each.source.keys, each.source.path) for each in found] == [
        (step, expected, str(path)) for _, step in seen
    ]
    assert {each.source.sha256 for each in found} == {hash_file(path, "sha256")}
    assert loads_of(record)


# -- what is no load from a file -----------------------------------------------------------------------------


class Files(Dataset[Any]):
    """Samples in files that the process of the training reads."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / f"{index}.pt" for index in range(16)]
        for path in self.paths:
            saved({"x": torch.randn(8), "y": torch.tensor(1), "weight": torch.rand(3)}, path)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        found = torch.load(self.paths[index])
        return found["x"], found["y"]


class Swapping(L.Callback):
    """Validates with an average of the weights, which it puts in from memory."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.average = copy.deepcopy(pl_module.state_dict())

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before = copy.deepcopy(pl_module.state_dict())
        self.average = {name: (value + self.before[name]) / 2 for name, value in self.average.items()}
        pl_module.load_state_dict(self.average)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.load_state_dict(self.before)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "kind",
    [
        "files",
        "swapping",
        "swa",
        "ema",
        "finder",
        "teacher",
        "whole teacher",
        "inspected",
        "evaluated",
        "resumed",
        "frozen",
        "unused",
    ],
)
def test_what_is_no_load_from_a_file_is_not_listed(models: Path, tmp_path: Path, kind: str) -> None:
    module = Net()
    data: Any = [loader(), loader()]
    callbacks: list[L.Callback] = [Swapping()]
    options: dict[str, Any] = {}
    path = saved(Net().state_dict(), tmp_path / "weights.pt")
    if kind == "files":
        data = [DataLoader(Files(tmp_path), batch_size=4), loader()]
    elif kind == "swa":
        callbacks = [StochasticWeightAveraging(0.01, swa_epoch_start=1)]
    elif kind == "ema":
        callbacks = [WeightAveraging()]
    elif kind == "finder":
        callbacks = [LearningRateFinder(num_training_steps=3)]
    elif kind == "teacher":
        other = Net()
        callbacks.append(At("on_train_epoch_start", lambda t, module: other.load_state_dict(torch.load(path)) and None))
    elif kind == "whole teacher":
        saved(Net(), path)
        callbacks.append(At("on_train_epoch_start", lambda t, module: torch.load(path, weights_only=False) and None))
    elif kind == "inspected":
        policy = ModelCheckpoint(monitor="train_loss", save_last=True)
        callbacks = [
            policy,
            At(
                "on_train_epoch_start",
                lambda t, module: torch.load(policy.last_model_path, weights_only=False) and None,
            ),
        ]
    elif kind == "evaluated":

        def evaluate(t: L.Trainer, module: Net) -> None:
            before = copy.deepcopy(module.state_dict())
            module.load_state_dict(torch.load(path))
            module.load_state_dict(before)

        callbacks = [At("on_train_epoch_end", evaluate)]
    elif kind == "resumed":
        fit(models, max_epochs=1)
        [folder] = models.iterdir()
        options = {"ckpt_path": str(folder)}
    elif kind == "frozen":
        module.layers.load_state_dict(Net().layers.state_dict())
        saved(module.layers.state_dict(), path)
        module.layers.load_state_dict(torch.load(path))
        module.layers.requires_grad_(False)
    elif kind == "unused":
        module.unused = nn.Linear(40, 40)
        saved(module.state_dict(), path)
        module.load_state_dict({name: value + 1 for name, value in torch.load(path).items()})
        module.load_state_dict(torch.load(path))
    record = fit(models, *callbacks, module=module, data=data, **options)
    assert loads_of(record) == []
    assert gaps_of(record) == []


def origin_of(record: Provenance) -> Any:
    assert record.model.initial_weights is not None
    return record.model.initial_weights
