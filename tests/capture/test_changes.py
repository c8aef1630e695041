"""What changed after training began: each checkpoint's record is true of that checkpoint, and lists the changes."""

import random
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
)
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolDataset, DtoolProvenanceCallback, pack
from lightning_dtool.capture.changes import MAX_CHANGES, MAX_LENGTH, MAX_OF_A_FACT, ChangeList
from lightning_dtool.errors import ProvenanceWarning
from lightning_dtool.evaluation.held_out import held_out
from lightning_dtool.record import Change, Provenance


class At(L.Callback):
    """Changes something when an epoch begins, or when it ends."""

    def __init__(self, change: Callable[[L.Trainer, Any], None], epoch: int = 1, hook: str = "start") -> None:
        self.change = change
        self.epoch = epoch
        self.hook = hook

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.hook == "start" and trainer.current_epoch == self.epoch:
            self.change(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.hook == "end" and trainer.current_epoch == self.epoch:
            self.change(trainer, pl_module)


def saved(
    folder: Path, module: L.LightningModule, *callbacks: L.Callback, data: Any = None, val: Any = None, **options: Any
) -> list[DtoolCheckpoint]:
    """Train with a checkpoint after each epoch, and return the checkpoints."""
    (folder / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all")
    policy = ModelCheckpoint(dirpath=folder / "local", save_top_k=-1)
    arguments = {"datamodule": data} if isinstance(data, L.LightningDataModule) else {"train_dataloaders": data}
    trainer(folder, *callbacks, policy, provenance, **{"max_epochs": 3, **options}).fit(
        module, **arguments, val_dataloaders=val
    )
    return [DtoolCheckpoint.from_uri(uri) for uri in provenance.uris]


def records(folder: Path, module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> list[Provenance]:
    return [each.record for each in saved(folder, module, *callbacks, **{"data": loader(), **options})]


def facts(record: Provenance) -> list[str]:
    return [change.fact for change in record.changes]


def value_at(record: Provenance, fact: str) -> Any:
    """Return the value at a path of a record."""
    found: Any = record.model_dump(mode="json")
    for part in fact.replace("[", ".[").split("."):
        found = found[int(part[1:-1])] if part.startswith("[") else found[part]
    return found


def same_as(record: Provenance, change: Change) -> bool:
    return bool(value_at(record, change.fact) == change.after)


# -- the model and the optimizers -----------------------------------------------------------------


class Unfreeze(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.layers[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.layers[0], optimizer, lr=0.01)


class Finetuned(TinyNet):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_unfreezing_in_mid_run_is_a_change(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, Finetuned(), Unfreeze(), data=loader())
    for each in checkpoints:
        groups = each.load()["optimizer_states"][0]["param_groups"]
        (recorded,) = each.record.optimizers
        assert len(recorded.param_groups) == len(groups)
        assert [group.options["lr"] for group in recorded.param_groups] == [group["lr"] for group in groups]
    first, second, third = (each.record for each in checkpoints)
    total = sum(parameter.numel() for parameter in TinyNet().parameters())
    assert first.model.frozen == ["layers.0.weight", "layers.0.bias"]
    assert first.changes == []
    assert second.model.frozen == []
    assert second.model.parameters_trainable == total
    by_fact = {change.fact: change for change in second.changes}
    frozen = by_fact["model.frozen"]
    assert (frozen.epoch, frozen.global_step) == (1, 6)
    assert (frozen.before, frozen.after) == (["layers.0.weight", "layers.0.bias"], [])
    assert by_fact["optimizers[0].param_groups[1]"].before is None
    assert by_fact["optimizers[0].param_groups[1]"].after["parameters"] == ["layers.0.weight", "layers.0.bias"]
    assert by_fact["model.parameters_trainable"].after == total
    assert third.changes == second.changes


def set_decay(trainer: L.Trainer, module: Any) -> None:
    trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.5


def set_rate(trainer: L.Trainer, module: Any) -> None:
    trainer.optimizers[0].param_groups[0]["lr"] = 0.001


def set_dropout(trainer: L.Trainer, module: Any) -> None:
    module.layers[2].p = 0.5


def replace_layer(trainer: L.Trainer, module: Any) -> None:
    module.layers[1] = torch.nn.GELU()


def set_hyperparameter(trainer: L.Trainer, module: Any) -> None:
    module.hparams["temperature"] = 2.0


def accumulate(trainer: L.Trainer, module: Any) -> None:
    trainer.accumulate_grad_batches = 2


def clip(trainer: L.Trainer, module: Any) -> None:
    trainer.gradient_clip_val = 0.5


def limit(trainer: L.Trainer, module: Any) -> None:
    trainer.limit_val_batches = 1


def be_patient(trainer: L.Trainer, module: Any) -> None:
    next(callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)).patience = 9


def seed(trainer: L.Trainer, module: Any) -> None:
    L.seed_everything(99, verbose=False)


def be_deterministic(trainer: L.Trainer, module: Any) -> None:
    torch.use_deterministic_algorithms(True)


def add_transform(trainer: L.Trainer, module: Any) -> None:
    trainer.train_dataloader.dataset.transform = torch.nn.ReLU()


def larger_batches(trainer: L.Trainer, module: Any) -> None:
    trainer.val_dataloaders.dataset.tensors = (torch.zeros(8, 8), torch.zeros(8, dtype=torch.long))


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore what belongs to the process."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    L.seed_everything(1, verbose=False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("hook", ["start", "end"])
@pytest.mark.parametrize(
    ("change", "fact", "before", "after"),
    [
        (set_decay, "optimizers[0].param_groups[0].options.weight_decay", 0, 0.5),
        (set_rate, "optimizers[0].param_groups[0].options.lr", 0.05, 0.001),
        (set_dropout, "model.architecture", "p=0.2", "p=0.5"),
        (replace_layer, "model.architecture", "ReLU", "GELU"),
        (set_hyperparameter, "model.hyperparameters.temperature", None, 2.0),
        (accumulate, "trainer.settings.accumulate_grad_batches", 1, 2),
        (clip, "trainer.settings.gradient_clip_val", None, 0.5),
        (limit, "trainer.settings.limit_val_batches", 1.0, 1),
        (be_patient, "trainer.callbacks[1].settings.patience", 3, 9),
        (seed, "randomness.global_seed", 1, 99),
        (be_deterministic, "randomness.flags.deterministic_algorithms", False, True),
        (add_transform, "data.stages.train[0].transforms.transform", None, "torch.nn.modules.activation:ReLU"),
        (larger_batches, "data.stages.val[0].count", 48, 8),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_change_is_seen_in_place(tmp_path: Path, change: Any, fact: str, before: Any, after: Any, hook: str) -> None:
    found = records(tmp_path, TinyNet(), At(change, hook=hook), EarlyStopping("val_loss"), val=loader())
    assert found[0].changes == []
    listed = [entry for entry in found[2].changes if entry.fact == fact]
    assert len(listed) == 1, facts(found[2])
    assert listed[0].epoch == 1
    for value, expected in ((listed[0].before, before), (listed[0].after, after)):
        if isinstance(expected, str):
            assert expected in str(value)
        else:
            assert (type(value), value) == (type(expected), expected)
    assert same_as(found[1], listed[0])
    assert same_as(found[2], listed[0])


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, x: Any) -> Any:
        return x * self.factor


def set_factor(trainer: L.Trainer, module: Any) -> None:
    module.layers[3].factor = 0.5


def test_settings_of_a_part_of_the_model_that_change_are_listed(tmp_path: Path) -> None:
    model = TinyNet()
    model.layers.insert(3, Scale())
    found = records(tmp_path, model, At(set_factor))
    assert found[0].model.settings == {"layers.3.factor": 1.0}
    (change,) = (entry for entry in found[2].changes if entry.fact.startswith("model.settings"))
    assert (change.before, change.after) == (1.0, 0.5)
    assert found[2].model.settings == {"layers.3.factor": 0.5}


class Saved(L.LightningDataModule):
    """Keeps its argument as a hyperparameter."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return loader()


def set_argument(trainer: L.Trainer, module: Any) -> None:
    trainer.datamodule.hparams["batch_size"] = 16  # type: ignore[attr-defined]


def augment(trainer: L.Trainer, module: Any) -> None:
    module.augmentation = torch.nn.Dropout(0.75)


def argument(record: Provenance) -> Any:
    assert record.data.datamodule is not None
    return record.data.datamodule.arguments["batch_size"]


def augmentation(record: Provenance) -> Any:
    return record.data.hooks.get("module.augmentation")


@pytest.mark.parametrize("hook", ["start", "end"])
@pytest.mark.parametrize(
    ("change", "fact", "recorded", "before", "after"),
    [
        (set_argument, "data.datamodule.arguments.batch_size", argument, "4", "16"),
        (augment, "data.hooks.module.augmentation", augmentation, "None", "0.75"),
    ],
)
def test_what_changes_beside_the_loaders_is_seen(
    tmp_path: Path, change: Any, fact: str, recorded: Callable[[Provenance], Any], before: str, after: str, hook: str
) -> None:
    found = records(tmp_path, TinyNet(), At(change, hook=hook), data=Saved())
    assert found[0].changes == []
    (listed,) = (entry for entry in found[2].changes if entry.fact == fact)
    assert [before in str(recorded(found[0])), before in str(listed.before)] == [True, True]
    assert [after in str(value) for value in (recorded(found[1]), recorded(found[2]), listed.after)] == [True] * 3


# -- data -----------------------------------------------------------------------------------------


def vectors(folder: Path, name: str, count: int) -> str:
    for number in range(count):
        path = folder / name / ("even", "odd")[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full(8, number, dtype=np.float32))
    (folder / "data").mkdir(exist_ok=True)
    return pack(folder / name, str(folder / "data"), name, progress=False)


class Curriculum(L.LightningDataModule):
    """Trains on another dataset from the second epoch on."""

    def __init__(self, uris: list[str]) -> None:
        super().__init__()
        self.uris = uris

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        stage = min(self.trainer.current_epoch, 1)
        return DataLoader(DtoolDataset(self.uris[stage]), batch_size=4 * (stage + 1), shuffle=True)


def test_every_dataset_that_was_trained_on_is_in_the_lineage(tmp_path: Path) -> None:
    uris = [vectors(tmp_path, "synthetic", 8), vectors(tmp_path, "real", 16)]
    found = saved(tmp_path, TinyNet(), data=Curriculum(uris), reload_dataloaders_every_n_epochs=1)
    first, second, third = (each.record for each in found)
    assert [source.name for source in first.lineage.source_datasets] == ["synthetic"]
    assert [source.name for source in third.lineage.source_datasets] == ["synthetic", "real"]
    assert found[2].annotations["source_dataset_name"] == ["synthetic", "real"]
    (source,) = second.data.stages["train"]
    assert source.dataset is not None
    assert source.loader is not None
    assert (source.dataset.name, source.count, source.loader.batch_size) == ("real", 16, 8)
    changed = {change.fact: (change.before, change.after) for change in second.changes}
    assert changed["data.stages.train[0].dataset.name"] == ("synthetic", "real")
    assert changed["data.stages.train[0].loader.batch_size"] == (4, 8)
    assert third.changes == second.changes
    (note,) = [note for note in held_out(third, found[2].uri, uris[0]).notes if "changed" in note]
    assert "unknown whether the model was trained on samples of" in note
    assert not any("changed" in note for note in held_out(first, found[0].uri, uris[1]).notes)


def test_data_without_a_uri_that_is_gone_is_a_gap_of_the_lineage(tmp_path: Path) -> None:
    uri = vectors(tmp_path, "real", 16)

    class Warm(Curriculum):
        def train_dataloader(self) -> Any:
            assert self.trainer is not None
            return loader() if self.trainer.current_epoch == 0 else super().train_dataloader()

    found = saved(tmp_path, TinyNet(), data=Warm([uri, uri]), reload_dataloaders_every_n_epochs=1)
    gaps = [[gap.fact for gap in each.record.gaps if "source_datasets" in gap.fact] for each in found]
    assert gaps == [[], ["lineage.source_datasets"], ["lineage.source_datasets"]]
    assert "data.stages.train[0].dataset" in [gap.fact for gap in found[0].record.gaps]
    assert "data.stages.train[0].dataset" not in [gap.fact for gap in found[2].record.gaps]


def test_what_the_script_saves_after_the_run_says_what_the_last_checkpoint_says(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    run = trainer(tmp_path, provenance, ModelCheckpoint(tmp_path / "local"), max_epochs=2)
    run.fit(TinyNet(), loader(), loader())
    run.save_checkpoint(tmp_path / "after.ckpt", weights_only=True)
    during, after = (DtoolCheckpoint.from_uri(uri).record for uri in provenance.uris[-2:])
    assert after.changes == during.changes == []
    for part in ("model", "optimizers", "data", "trainer", "loss", "randomness", "lineage"):
        assert getattr(after, part) == getattr(during, part), part


def test_equal_loaders_that_are_made_again_are_no_change(tmp_path: Path) -> None:
    class Again(TinyNet):
        def train_dataloader(self) -> Any:
            return loader(shuffle=True)

    found = records(tmp_path, Again(), data=None, reload_dataloaders_every_n_epochs=1)
    assert [facts(record) for record in found] == [[], [], []]


# -- hyperparameters ------------------------------------------------------------------------------


class SetLater(TinyNet):
    """A model that sets hyperparameters as users do: in `__init__`, in `setup` and during training."""

    def __init__(self, lr: float = 0.05, classes: int | None = None) -> None:
        super().__init__(lr=lr)
        self.save_hyperparameters()
        self.hparams["width"] = 32
        self.hparams.update({"encoder": {"depth": 3}})

    def setup(self, stage: str) -> None:
        self.hparams.classes = 3

    def on_train_epoch_start(self) -> None:
        self.hparams["phase"] = self.current_epoch


def test_hyperparameters_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    for each in saved(tmp_path, SetLater(), data=loader()):
        state = dict(each.load()["hyper_parameters"])
        assert each.record.model.hyperparameters == state
        assert each.annotations["model_parameters"] == state
        assert (state["width"], state["classes"], state["phase"]) == (32, 3, each.record.checkpoint.epoch)


# -- no change ------------------------------------------------------------------------------------


class Scheduled(TinyNet):
    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.scheduler = scheduler

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        how = {"interval": "step"} if self.scheduler is one_cycle else {"monitor": "val_loss"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), **how}}


def one_cycle(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=20)


def plateau(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)


def restarts(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 1, 2)


def two_phases(optimizer: Any) -> Any:
    kinds = torch.optim.lr_scheduler
    return kinds.SequentialLR(optimizer, [kinds.ConstantLR(optimizer), kinds.StepLR(optimizer, 1)], [1])


@pytest.mark.parametrize("scheduler", [one_cycle, plateau, restarts, two_phases])
def test_the_steps_of_a_scheduler_are_true_in_the_record_and_no_changes(tmp_path: Path, scheduler: Any) -> None:
    checkpoints = saved(tmp_path, Scheduled(scheduler), data=loader(), val=loader())
    for each in checkpoints:
        (group,) = each.load(weights_only=False)["optimizer_states"][0]["param_groups"]
        options = each.record.optimizers[0].param_groups[0].options
        assert (options["lr"], options["momentum"]) == (group["lr"], group["momentum"])
        (state,) = each.load(weights_only=False)["lr_schedulers"]
        assert each.record.schedulers[0].settings["last_epoch"] == state["last_epoch"]
        assert facts(each.record) == []
    rates = {each.record.optimizers[0].param_groups[0].options["lr"] for each in checkpoints}
    assert len(rates) > 1


def test_a_setting_of_a_scheduler_that_changes_is_a_change(tmp_path: Path) -> None:
    def slower(trainer: L.Trainer, module: Any) -> None:
        trainer.lr_scheduler_configs[0].scheduler.patience = 7

    found = records(tmp_path, Scheduled(plateau), At(slower), val=loader())
    assert facts(found[2]) == ["schedulers[0].settings.patience"]


class Counting(torch.optim.SGD):
    """An optimizer with a counter in its parameter groups, as the Lamb of timm has."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
        return super().step(closure)


class Counted(TinyNet):
    def configure_optimizers(self) -> Any:
        return Counting(self.parameters(), lr=0.1, momentum=0.5)


def test_a_counter_of_an_optimizer_is_true_in_the_record_and_no_change(tmp_path: Path) -> None:
    def slower(trainer: L.Trainer, module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["momentum"] = 0.25

    found = records(tmp_path, Counted(), At(slower))
    counts = [record.optimizers[0].param_groups[0].options["step"] for record in found]
    assert counts == [record.checkpoint.global_step for record in found]
    assert facts(found[2]) == ["optimizers[0].param_groups[0].options.momentum"]


def test_gradient_accumulation_that_is_scheduled_is_true_at_each_checkpoint(tmp_path: Path) -> None:
    found = records(tmp_path, TinyNet(), GradientAccumulationScheduler({1: 3}))
    assert [record.trainer.settings["accumulate_grad_batches"] for record in found] == [1, 3, 3]


def test_a_callback_that_moves_all_the_time_does_not_flood_the_list(tmp_path: Path) -> None:
    class Counting(L.Callback):
        def __init__(self, count: int = 0) -> None:
            self.count = count

        def on_train_batch_end(self, *_: Any) -> None:
            self.count += 1

    data = DataLoader(TensorDataset(torch.zeros(2, 8), torch.zeros(2, dtype=torch.long)), 1)
    found = records(tmp_path, TinyNet(), Counting(), data=data, max_epochs=4)
    assert [record.trainer.callbacks[0].settings["count"] for record in found] == [2, 4, 6, 8]
    assert facts(found[-1]) == ["trainer.callbacks[0].settings.count"] * 4


class Reloading(L.LightningDataModule):
    """A DataModule whose loaders have a worker."""

    def train_dataloader(self) -> Any:
        return DataLoader(loader().dataset, batch_size=6, num_workers=1)


@pytest.mark.parametrize("reload", [False, True])
def test_workers_are_seeded_only_in_loaders_that_are_set_up_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reload: bool
) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "")  # restored after the test
    L.seed_everything(7, workers=False, verbose=False)
    found = records(
        tmp_path,
        TinyNet(),
        At(lambda *_: L.seed_everything(7, workers=True, verbose=False)),
        data=Reloading(),
        reload_dataloaders_every_n_epochs=int(reload),
    )
    assert [record.randomness.seed_workers for record in found] == [False, False, reload]
    functions = "data.stages.train[0].loader.settings.worker_init_fn"
    assert facts(found[-1]) == ([functions, "randomness.seed_workers"] if reload else [])


def test_a_seed_of_the_operating_system_in_mid_run_is_repeatable_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "")
    L.seed_everything(7, verbose=False)
    found = records(tmp_path, TinyNet(), At(lambda *_: random.seed()))
    assert [record.randomness.repeatable_by for record in found] == ["seed", None, None]
    for record in found[1:]:
        (gap,) = [gap for gap in record.gaps if gap.fact == "randomness.repeatable_by"]
        assert gap.reason == "a generator was seeded by the operating system during training: python"
    assert facts(found[-1]) == ["randomness.seeds.python", "randomness.repeatable_by"]


class Parts(L.Callback):
    """A callback that keeps parts of the LightningModule."""

    def __init__(self, parts: Any) -> None:
        self.parts = parts


def test_an_optimizer_that_replaces_another_is_compared_with_that_in_its_place() -> None:
    def optimizer(name: str, lr: float) -> dict[str, Any]:
        return {"class_path": f"torch.optim:{name}", "defaults": {"lr": lr}}

    changes = ChangeList()
    before = [optimizer("Adam", 0.25), optimizer("Adam", 0.5)]
    changes.add("optimizers", before, [optimizer("SGD", 0.125), before[1]], epoch=1, global_step=2)
    assert [(found.fact, found.before, found.after) for found in changes.all()] == [
        ("optimizers[0].class_path", "torch.optim:Adam", "torch.optim:SGD"),
        ("optimizers[0].defaults.lr", 0.25, 0.125),
    ]


def test_a_callback_that_is_removed_is_one_change(tmp_path: Path) -> None:
    def remove(trainer: Any, _: Any) -> None:
        trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, Parts)]

    found = records(tmp_path, TinyNet(), At(remove), Parts(1), EarlyStopping("a", patience=3, strict=False))
    (change,) = found[-1].changes
    assert (change.fact, change.epoch, change.after) == ("trainer.callbacks[1]", 1, None)
    assert change.before == found[0].trainer.callbacks[1].model_dump(mode="json")
    assert [part.class_path for part in found[-1].trainer.callbacks] == [
        part.class_path for index, part in enumerate(found[0].trainer.callbacks) if index != 1
    ]


def test_a_callback_that_is_inserted_is_one_change_beside_those_of_others() -> None:
    def described(name: str, **settings: Any) -> dict[str, Any]:
        return {"class_path": f"m:{name}", "settings": settings}

    before = {"callbacks": [described("A", a=1), described("B", b=1), described("C")]}
    after = {"callbacks": [described("New"), described("A", a=1), described("B", b=2), described("C")]}
    changes = ChangeList()
    changes.add("trainer", before, after, epoch=1, global_step=2)
    assert [(change.fact, change.before, change.after) for change in changes.all()] == [
        ("trainer.callbacks[0]", None, described("New")),
        ("trainer.callbacks[1].settings.b", 1, 2),
    ]


def test_parts_of_the_module_that_a_callback_keeps_are_recorded_by_name(tmp_path: Path) -> None:
    module = TinyNet()
    other = torch.nn.Linear(1, 1)
    parts = {"layers": [module.layers, (module.layers[0], "weight")], "one": module.layers[0].bias, "other": other}
    found = records(tmp_path, module, Parts(parts), Parts(module))
    first, second = (part.settings["parts"] for part in found[-1].trainer.callbacks[:2])
    shown = str(first)
    assert all(f"'pl_module.{name}'" in shown for name in ("layers", "layers.0", "layers.0.bias"))
    assert "torch.nn.modules.linear:Linear" in shown
    assert second == "pl_module"
    assert facts(found[-1]) == []


def test_pruning_is_listed_by_the_names_of_the_parameters(tmp_path: Path) -> None:
    found = records(tmp_path, TinyNet(), ModelPruning("l1_unstructured", amount=0.3))
    assert facts(found[-1]) == ["optimizers[0].param_groups[0].parameters"]
    assert "layers.0.weight_orig" in found[-1].changes[0].after
    for record in found:
        assert record.checkpoint.missing_keys_total == 0
        assert not [gap for gap in record.gaps if gap.fact.startswith("checkpoint.state_dict")]


def test_pruning_that_stays_in_the_checkpoint_is_part_of_its_state(tmp_path: Path) -> None:
    found = records(tmp_path, TinyNet(), ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=False))
    assert [record.checkpoint.missing_keys_total for record in found] == [0, 0, 0]


# -- the loss -------------------------------------------------------------------------------------


class Criterion(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.criterion: torch.nn.Module = torch.nn.CrossEntropyLoss(weight=torch.ones(3))
        self.scale = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.scale * self.criterion(self(batch[0]), batch[1])


def smooth(trainer: L.Trainer, module: Any) -> None:
    module.criterion.label_smoothing = 0.25


def weigh(trainer: L.Trainer, module: Any) -> None:
    module.criterion.weight[2] = 5.0


def scale(trainer: L.Trainer, module: Any) -> None:
    module.scale = 3.0


@pytest.mark.parametrize("hook", ["start", "end"])
@pytest.mark.parametrize(
    ("change", "facts_changed"),
    [
        (smooth, ["loss.calls[0].arguments.label_smoothing"]),
        (weigh, ["loss.calls[0].arguments.weight.value"]),
        (scale, ["loss.constants.self.scale"]),
    ],
)
def test_a_loss_whose_settings_change_is_followed(
    tmp_path: Path, change: Any, facts_changed: list[str], hook: str
) -> None:
    found = records(tmp_path, Criterion(), At(change, hook=hook))
    assert found[0].changes == []
    assert facts(found[1])[:1] == facts_changed
    # Label smoothing adds an operation, which is seen in the first batch with it.
    assert set(facts(found[2])) <= {*facts_changed, "loss.operations"}
    (call,) = found[2].loss.calls
    assert (call.arguments["label_smoothing"] == 0.25) == (change is smooth)
    assert (call.arguments["weight"]["value"] == [1.0, 1.0, 5.0]) == (change is weigh)
    assert (found[2].loss.constants["self.scale"] == 3.0) == (change is scale)


@pytest.mark.parametrize("hook", ["start", "end"])
def test_a_loss_that_is_replaced_is_observed_again(tmp_path: Path, hook: str) -> None:
    def replace(trainer: L.Trainer, module: Any) -> None:
        module.criterion = torch.nn.MultiMarginLoss(margin=0.5)

    found = records(tmp_path, Criterion(), At(replace, hook=hook))
    assert [record.loss.calls[0].name.rpartition(":")[2] for record in found] == [
        "CrossEntropyLoss", "MultiMarginLoss", "MultiMarginLoss",
    ]  # fmt: skip
    assert found[2].loss.calls[0].arguments["margin"] == 0.5
    # The operations of the first batch with the new loss.
    assert not any("NllLoss" in operation for operation in found[2].loss.operations)
    assert [gap.fact for gap in found[2].gaps if gap.fact.startswith("loss")] == []


class Staged(TinyNet):
    """Another loss from the second epoch on, which no attribute tells. Some batches add a penalty."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        logits = self(batch[0])
        if self.current_epoch == 0:
            return torch.nn.functional.cross_entropy(logits, batch[1])
        loss = torch.nn.functional.multi_margin_loss(logits, batch[1], margin=0.7)
        return loss + torch.nn.functional.l1_loss(logits, batch[0][:, :3]) if batch_idx in self.penalised else loss

    penalised: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("penalised", "expected"),
    [
        ((), [["cross_entropy"], ["multi_margin_loss"], ["multi_margin_loss"]]),
        ((0, 3), [["cross_entropy"], ["cross_entropy"], ["multi_margin_loss", "l1_loss"]]),
    ],
)
def test_a_loss_that_the_code_changes_is_observed_again(tmp_path: Path, penalised: Any, expected: Any) -> None:
    module = Staged()
    module.penalised = penalised
    found = records(tmp_path, module)
    assert [[call.name.rpartition(":")[2] for call in record.loss.calls] for record in found] == expected
    assert found[2].loss.calls[0].arguments["margin"] == 0.7
    assert any(fact.startswith("loss.calls") for fact in facts(found[2]))
    # If the second batch is no example of the first one, the loss is the one before until the next epoch begins.
    gaps = [[gap.fact for gap in record.gaps if gap.fact.startswith("loss")] for record in found]
    assert gaps == [[], ["loss.calls"] if penalised else [], []]


class Alternating(TinyNet):
    """Two losses that take turns by the epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        name = "multi_margin_loss" if self.current_epoch % 2 else "cross_entropy"
        return getattr(torch.nn.functional, name)(self(batch[0]), batch[1])


def test_a_loss_that_comes_back_is_recorded_again(tmp_path: Path) -> None:
    found = records(tmp_path, Alternating(), max_epochs=4)
    names = ["cross_entropy", "multi_margin_loss"] * 2
    assert [[call.name.rpartition(":")[2] for call in record.loss.calls] for record in found] == [[n] for n in names]
    assert "loss" in facts(found[3])[-1]


def halved(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    return self.share * torch.nn.functional.multi_margin_loss(self(batch[0]), batch[1])


def assign_a_step(trainer: L.Trainer, module: Any) -> None:
    module.share = 0.5
    module.training_step = types.MethodType(halved, module)


@pytest.mark.parametrize("hook", ["start", "end"])
def test_a_training_step_that_is_replaced_is_observed_again(tmp_path: Path, hook: str) -> None:
    found = records(tmp_path, Criterion(), At(assign_a_step, hook=hook))
    steps = [(record.loss.training_step or "").partition("(")[0] for record in found]
    assert steps == ["def training_step", "def halved", "def halved"]
    assert [record.loss.constants for record in found[1:]] == [{"self.share": 0.5}] * 2
    assert "loss.training_step" in facts(found[1])
    # Until the next epoch begins, the calls are those of the step before.
    gaps = [{gap.fact for gap in record.gaps if gap.fact.startswith("loss")} for record in found]
    assert gaps == [set(), {"loss.calls", "loss.operations"} if hook == "end" else set(), set()]
    assert [call.name.rpartition(":")[2] for call in found[2].loss.calls] == ["multi_margin_loss"]
    assert any("MultiMargin" in operation for operation in found[2].loss.operations)


def test_a_training_step_that_is_assigned_to_the_object_is_recorded(tmp_path: Path) -> None:
    module = Criterion()
    assign_a_step(L.Trainer(logger=False, enable_checkpointing=False), module)
    record = records(tmp_path, module)[0]
    assert (record.loss.training_step or "").startswith("def halved")
    assert record.loss.constants == {"self.share": 0.5}
    assert [call.name for call in record.loss.calls] == ["torch.nn.functional:multi_margin_loss"]
    assert [gap.fact for gap in record.gaps if gap.fact.startswith("loss")] == []


# -- the list -------------------------------------------------------------------------------------


def test_the_list_is_bounded_and_says_so() -> None:
    changes = ChangeList()
    for step in range(MAX_OF_A_FACT + 2):
        changes.add("trainer", {"noise": step}, {"noise": step + 1}, epoch=0, global_step=step)
    assert len(changes.all()) == MAX_OF_A_FACT
    assert [gap.fact for gap in changes.gaps] == ["changes.trainer.noise"]
    many = {f"a{number}": 1 for number in range(2 * MAX_CHANGES)}
    changes.add("model", dict.fromkeys(many, 0), many, epoch=1, global_step=9)
    assert len(changes.all()) == MAX_CHANGES
    assert [gap.fact for gap in changes.gaps] == ["changes.trainer.noise", "changes"]


def test_a_long_value_is_cut_short() -> None:
    changes = ChangeList()
    changes.add("model", {"frozen": []}, {"frozen": ["x" * 9] * 1000}, epoch=0, global_step=1)
    (change,) = changes.all()
    assert change.before == []
    assert (change.after["length"], change.after["first"]) == (1000, ["x" * 9] * 3)
    assert len(str(change.after)) < MAX_LENGTH


# -- what a look must not overlook ------------------------------------------------------------------


def test_a_hyperparameter_that_is_deleted_is_not_recorded_and_one_that_cannot_be_saved_is(tmp_path: Path) -> None:
    class Net(TinyNet):
        def __init__(self, lr: float = 0.1, width: int = 4, act: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()

    def delete(trainer: L.Trainer, module: Any) -> None:
        del module.hparams["width"]

    with pytest.warns(UserWarning, match="cannot be pickled"):
        first, *_, last = saved(tmp_path, Net(act=lambda x: x), At(delete), data=loader())
    assert first.record.model.hyperparameters["width"] == 4
    held = set(last.load()["hyper_parameters"])
    assert not held & {"width", "act"}
    assert set(last.record.model.hyperparameters) == held | {"act"}


def test_a_credential_that_becomes_a_hyperparameter_is_a_gap_and_one_warning(tmp_path: Path) -> None:
    def set_key(trainer: L.Trainer, module: Any) -> None:
        module.hparams["api_key"] = "sk-abcdef1234567890abcdef"

    def count(trainer: L.Trainer, module: Any) -> None:
        module.hparams["phase"] = trainer.current_epoch

    with pytest.warns(ProvenanceWarning, match="'api_key' looks like a credential") as seen:
        first, second, third = records(tmp_path, TinyNet(), At(set_key), At(count, epoch=2))
    assert sum("credential" in str(warning.message) for warning in seen) == 1
    fact = "checkpoint.hyper_parameters.api_key"
    assert [fact in [gap.fact for gap in each.gaps] for each in (first, second, third)] == [False, True, True]


def test_a_momentum_is_a_change_unless_the_scheduler_moves_it(tmp_path: Path) -> None:
    def set_momentum(trainer: L.Trainer, module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["momentum"] = 0.5

    last = records(tmp_path, Scheduled(restarts), At(set_momentum), val=loader())[-1]
    assert facts(last) == ["optimizers[0].param_groups[0].options.momentum"]


def _label(data: Any, trainer: L.Trainer) -> None:
    data.dataset.labels[1001] += 1


def _append_edges(data: Any, trainer: L.Trainer) -> None:
    data.edges = torch.arange(12)


def _combine(data: Any, trainer: L.Trainer) -> None:
    trainer.fit_loop._combined_loader._mode = "min_size"


def _scale(data: Any, trainer: L.Trainer) -> None:
    global SCALE
    SCALE = 0.5


def _replace_hook(data: Any, trainer: L.Trainer) -> None:
    trainer.lightning_module.on_after_batch_transfer = lambda batch, index: batch  # type: ignore[method-assign]


SCALE = 1.0


def scaled(x: torch.Tensor) -> torch.Tensor:
    return x * SCALE


class Labelled(TensorDataset):
    def __init__(self) -> None:
        super().__init__(*loader().dataset.tensors)
        self.labels = np.zeros(60_000, dtype=np.int64)
        self.transform = scaled


class GraphLoader(DataLoader):
    """A loader that holds data beside its dataset."""

    edges = None


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (_label, "data.stages.train[0].fingerprint"),
        (_append_edges, "data.stages.train[0].fingerprint"),
        (_combine, "data.stages.train[0].loader.settings.combined_by"),
        (_scale, "data.stages.train[0].transforms.transform.globals.SCALE"),
        (_replace_hook, "data.hooks.module.on_after_batch_transfer"),
    ],
)
def test_a_change_of_the_data_is_seen(tmp_path: Path, monkeypatch: Any, change: Any, fact: str) -> None:
    class Net(TinyNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[0] if isinstance(batch[0], list) else batch, batch_idx)

    monkeypatch.setattr(__import__(__name__, fromlist=["SCALE"]), "SCALE", 1.0)
    data = GraphLoader(Labelled(), batch_size=16)
    data.edges = torch.arange(10)
    train = CombinedLoader([data, loader()], "max_size_cycle") if change is _combine else data
    changing = At(lambda trainer, module: change(data, trainer))
    first, *_, last = records(tmp_path, Net(), changing, data=train)
    assert first.changes == []
    assert fact in facts(last)
    (found,) = [found for found in last.changes if found.fact == fact]
    assert found.before != found.after


def test_evaluating_after_training_changes_neither_the_data_nor_the_model_of_a_record(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    t = trainer(tmp_path, provenance, max_epochs=1)
    module, other = TinyNet(lr=0.1), TinyNet(lr=0.7)
    other.layers.append(torch.nn.Identity())
    t.fit(module, loader(), loader(16))
    t.validate(module, loader(8), verbose=False)
    t.save_checkpoint(tmp_path / "validated.ckpt")
    t.validate(other, loader(8), verbose=False)
    t.save_checkpoint(tmp_path / "other.ckpt")
    trained, validated, of_other = (DtoolCheckpoint.from_uri(uri) for uri in provenance.uris)

    assert validated.record.data == trained.record.data
    assert validated.record.changes == []
    assert of_other.record.model.hyperparameters == of_other.load()["hyper_parameters"]
    assert of_other.record.model.hyperparameters["lr"] == 0.7
    assert of_other.record.model.architecture == repr(other)
    assert of_other.record.run.uuid != trained.record.run.uuid
    assert of_other.record.lineage.source_datasets == []
    assert validated.record.model.hyperparameters["lr"] == 0.1
