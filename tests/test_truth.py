"""Each statement of a record equals what the Trainer holds at that save, also after facts have changed in mid-run.

A witness reads the Trainer in its own, simple way at each save. Afterwards, each record is compared with it.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kit import trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback, Provenance
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.reading import decode
from zoo import ZOO

Facts = dict[str, Any]


# -- what the Trainer holds ---------------------------------------------------------------------


def loaders_of(found: Any) -> list[Any]:
    if found is None:
        return []
    return list((found if isinstance(found, CombinedLoader) else CombinedLoader(found)).flattened)


def held(t: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> Facts:
    """Return what the Trainer holds, by the path of the fact in the record."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    facts: Facts = {
        "checkpoint.epoch": t.current_epoch,
        "checkpoint.global_step": t.global_step,
        "checkpoint.weights_only": "optimizer_states" not in checkpoint,
        "model.class_path": class_path(type(module)),
        "model.parameters_total": sum(parameter.numel() for parameter in module.parameters()),
        "model.parameters_trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "model.frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        "model.children": [
            (name, class_path(type(child)), sum(p.numel() for p in child.parameters()))
            for name, child in module.named_children()
        ],
        "model.architecture": repr(module),
        "model.hyperparameters": dict(checkpoint.get("hyper_parameters", {})),
        "optimizers": [
            (
                class_path(type(optimizer)),
                [
                    (
                        {key: plain(value) for key, value in group.items() if key not in ("params", "param_names")},
                        [names[id(parameter)] for parameter in group["params"]],
                    )
                    for group in optimizer.param_groups
                ],
            )
            for optimizer in t.optimizers
        ],
        "schedulers": [
            (
                class_path(type(config.scheduler)),
                config.interval,
                config.frequency,
                config.monitor,
                config.scheduler.last_epoch,
                getattr(config.scheduler, "gamma", None),
                getattr(config.scheduler, "patience", None),
            )
            for config in t.lr_scheduler_configs
        ],
        "trainer.callbacks": [
            (class_path(type(callback)), callback.patience if isinstance(callback, EarlyStopping) else None)
            for callback in t.callbacks
        ],
        "randomness.num_threads": torch.get_num_threads(),
    }
    for stage, found in (("train", t.train_dataloader), ("val", t.val_dataloaders)):
        facts[f"data.{stage}"] = [
            (
                class_path(type(loader.dataset)),
                len(loader.dataset),
                loader.batch_size,
                loader.num_workers,
                loader.drop_last,
                class_path(type(loader.sampler)),
                getattr(loader.dataset, "transform", None) is not None,
            )
            for loader in loaders_of(found)
        ]
    for name in (
        "max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches",
        "limit_val_batches", "val_check_interval", "check_val_every_n_epoch", "log_every_n_steps",
        "reload_dataloaders_every_n_epochs", "precision",
    ):  # fmt: skip
        facts[f"trainer.settings.{name}"] = getattr(t, name)
    return facts


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


# -- what the record says ---------------------------------------------------------------------


def recorded(record: Provenance) -> Facts:
    """Return the same facts as `held`, from the record."""
    facts: Facts = {
        "checkpoint.epoch": record.checkpoint.epoch,
        "checkpoint.global_step": record.checkpoint.global_step,
        "checkpoint.weights_only": record.checkpoint.weights_only,
        "model.class_path": record.model.class_path,
        "model.parameters_total": record.model.parameters_total,
        "model.parameters_trainable": record.model.parameters_trainable,
        "model.frozen": record.model.frozen,
        "model.children": [(child.name, child.class_path, child.parameters_total) for child in record.model.children],
        "model.architecture": record.model.architecture,
        "model.hyperparameters": {
            name: decode(value, argument=name) for name, value in record.model.hyperparameters.items()
        },
        "optimizers": [
            (
                optimizer.class_path,
                [
                    (
                        {key: plain(decode(value, argument=key)) for key, value in group.options.items()},
                        group.parameters,
                    )
                    for group in optimizer.param_groups
                ],
            )
            for optimizer in record.optimizers
        ],
        "schedulers": [
            (
                scheduler.class_path,
                scheduler.interval,
                scheduler.frequency,
                scheduler.monitor,
                scheduler.settings["last_epoch"],
                scheduler.settings.get("gamma"),
                scheduler.settings.get("patience"),
            )
            for scheduler in record.schedulers
        ],
        "trainer.callbacks": [(found.class_path, found.settings.get("patience")) for found in record.trainer.callbacks],
        "randomness.num_threads": record.randomness.flags["num_threads"],
    }
    for stage in ("train", "val"):
        facts[f"data.{stage}"] = [
            (
                source.class_path,
                source.count,
                source.loader and source.loader.batch_size,
                source.loader and source.loader.num_workers,
                source.loader and source.loader.drop_last,
                source.loader and source.loader.sampler["class_path"],
                "transform" in source.transforms,
            )
            for source in record.data.stages.get(stage, [])
        ]
    for name, value in record.trainer.settings.items():
        facts[f"trainer.settings.{name}"] = value
    return facts


class Witness(L.Callback):
    """Reads the Trainer at each save."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], Facts] = {}

    def on_save_checkpoint(self, t: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.seen[t.current_epoch, t.global_step] = held(t, module, checkpoint)


# -- what changes in mid-run --------------------------------------------------------------------


class Scaled(TensorDataset):
    """Data with a transform that may change."""

    transform: Any = None

    def __getitem__(self, index: Any) -> Any:
        first, *rest = super().__getitem__(index)
        return (first if self.transform is None else self.transform(first), *rest)


class Halve(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def freeze(t: L.Trainer, module: L.LightningModule) -> None:
    next(parameter for parameter in module.parameters() if parameter.requires_grad).requires_grad_(False)


def replace_a_child(t: L.Trainer, module: L.LightningModule) -> None:
    module.added = nn.Dropout(0.25)


def change_a_child(t: L.Trainer, module: L.LightningModule) -> None:
    module.extra_dropout.p = 0.75  # type: ignore[union-attr]


def set_weight_decay(t: L.Trainer, module: L.LightningModule) -> None:
    for optimizer in t.optimizers:
        optimizer.param_groups[0]["weight_decay"] = 0.125


def set_learning_rate(t: L.Trainer, module: L.LightningModule) -> None:
    for optimizer in t.optimizers:
        optimizer.param_groups[0]["lr"] = 0.0078125


def add_a_parameter_group(t: L.Trainer, module: L.LightningModule) -> None:
    module.late = nn.Parameter(torch.zeros(2))
    t.optimizers[0].add_param_group({"params": [module.late], "lr": 0.5})


def replace_the_optimizer(t: L.Trainer, module: L.LightningModule) -> None:
    t.optimizers = [torch.optim.SGD(module.parameters(), lr=0.001), *t.optimizers[1:]]


def set_hyperparameters(t: L.Trainer, module: L.LightningModule) -> None:
    module.hparams["found"] = {"width": 3}
    module.hparams["lr"] = 0.625


def accumulate(t: L.Trainer, module: L.LightningModule) -> None:
    t.accumulate_grad_batches = 3


def clip(t: L.Trainer, module: L.LightningModule) -> None:
    t.gradient_clip_val = 0.375


def train_longer(t: L.Trainer, module: L.LightningModule) -> None:
    t.fit_loop.max_epochs = 4  # type: ignore[misc]


def limit_batches(t: L.Trainer, module: L.LightningModule) -> None:
    t.limit_train_batches = 2


def be_patient(t: L.Trainer, module: L.LightningModule) -> None:
    next(found for found in t.callbacks if isinstance(found, EarlyStopping)).patience = 77


def set_a_transform(t: L.Trainer, module: L.LightningModule) -> None:
    loaders_of(t.train_dataloader)[0].dataset.transform = Halve()


def replace_the_loader(t: L.Trainer, module: L.LightningModule) -> None:
    module.data_of_the_epoch = lambda: (5, 2)  # the size of the data and of a batch


def replace_the_validation_data(t: L.Trainer, module: L.LightningModule) -> None:
    module.validation_size = 7


def use_other_threads(t: L.Trainer, module: L.LightningModule) -> None:
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)


CHANGES: dict[str, tuple[Callable[[L.Trainer, L.LightningModule], None], str]] = {
    "freeze": (freeze, "model.frozen"),
    "new child": (replace_a_child, "model"),
    "dropout rate": (change_a_child, "model.architecture"),
    "weight decay": (set_weight_decay, "optimizers[0].param_groups[0].options.weight_decay"),
    "learning rate": (set_learning_rate, "optimizers[0].param_groups[0].options.lr"),
    "parameter group": (add_a_parameter_group, "optimizers[0].param_groups"),
    "optimizer": (replace_the_optimizer, "optimizers[0]"),
    "hyperparameters": (set_hyperparameters, "model.hyperparameters"),
    "accumulation": (accumulate, "trainer.settings.accumulate_grad_batches"),
    "clipping": (clip, "trainer.settings.gradient_clip_val"),
    "longer": (train_longer, "trainer.settings.max_epochs"),
    "limit": (limit_batches, "trainer.settings.limit_train_batches"),
    "callback": (be_patient, "trainer.callbacks"),
    "transform": (set_a_transform, "data.stages.train[0].transforms"),
    "loader": (replace_the_loader, "data.stages.train[0]"),
    "validation data": (replace_the_validation_data, "data.stages.val[0]"),
    "threads": (use_other_threads, "randomness.flags.num_threads"),
}
"""Name -> the change, and the path of the fact that it changes."""

SCHEDULED = {"lstm", "transformer", "autoencoder", "swa"}
"""Trainings whose learning rates a scheduler moves."""

IMPOSSIBLE = {
    ("lbfgs", "parameter group"): "LBFGS has one group",
    ("lbfgs", "weight decay"): "LBFGS has no weight decay",
    ("gan", "clipping"): "manual optimization does not clip",
    ("gan", "accumulation"): "manual optimization does not accumulate",
    ("transformer", "optimizer"): "OneCycleLR keeps its own optimizer",
    ("lstm", "transform"): "the data are tokens",
    ("lstm", "parameter group"): "ReduceLROnPlateau keeps a limit for each group",
    ("autoencoder", "parameter group"): "LambdaLR keeps a function for each group",
    ("transformer", "parameter group"): "OneCycleLR keeps limits in each group",
    ("swa", "parameter group"): "SWA expects as many rates as groups",
    ("swa", "longer"): "SWA counts on max_epochs",
}


class Changing(L.Callback):
    """Makes changes at a moment of epoch 1."""

    def __init__(self, moment: str, *names: str) -> None:
        self.moment, self.names = moment, names
        self.done = False

    def on_train_epoch_start(self, t: L.Trainer, module: L.LightningModule) -> None:
        self._change("epoch start", t, module)

    def on_train_batch_end(self, t: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self._change("batch end", t, module)

    def on_validation_start(self, t: L.Trainer, module: L.LightningModule) -> None:
        self._change("validation", t, module)

    def _change(self, moment: str, t: L.Trainer, module: L.LightningModule) -> None:
        if moment == self.moment and t.current_epoch == 1 and not self.done:
            self.done = True
            for name in self.names:
                CHANGES[name][0](t, module)


def prepared(name: str) -> tuple[L.LightningModule, dict[str, Any]]:
    """Return a training of the zoo with validation, and with data that can be replaced."""
    module, options = ZOO[name]()
    tensors = module.data()  # type: ignore[operator]
    module.extra_dropout = nn.Dropout(0.5)
    data = Scaled(*tensors)

    def train_dataloader() -> DataLoader:
        if not hasattr(module, "data_of_the_epoch"):
            return DataLoader(data, batch_size=4)
        samples, batch_size = module.data_of_the_epoch()  # type: ignore[operator]
        return DataLoader(Scaled(*(tensor[:samples] for tensor in tensors)), batch_size=batch_size)

    def val_dataloader() -> DataLoader:
        size = getattr(module, "validation_size", 4)
        return DataLoader(TensorDataset(torch.zeros(size, 1)), batch_size=2)

    module.train_dataloader = train_dataloader  # type: ignore[method-assign]
    module.val_dataloader = val_dataloader  # type: ignore[method-assign]
    module.validation_step = lambda batch, batch_idx: None  # type: ignore[method-assign]
    return module, {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1, "num_sanity_val_steps": 0, **options}


def run(name: str, folder: Path, moment: str, *changes: str) -> tuple[list[Provenance], Witness]:
    (folder / "models").mkdir()
    L.seed_everything(17)
    threads = torch.get_num_threads()
    module, options = prepared(name)
    witness = Witness()
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all")
    policy = ModelCheckpoint(dirpath=folder / "ckpt", save_top_k=-1)
    early = EarlyStopping("absent", patience=5, strict=False)
    callbacks = [provenance, Changing(moment, *changes), witness, policy, early, *options.pop("callbacks", [])]
    try:
        trainer(folder, *callbacks, **options).fit(module)
    finally:
        torch.set_num_threads(threads)
    assert provenance.errors == []
    records = [DtoolCheckpoint.from_uri(uri).record for uri in provenance.uris]
    assert len(records) >= 3
    return records, witness


def differing(record: Provenance, witness: Witness) -> Iterator[str]:
    true, said = witness.seen[record.checkpoint.epoch, record.checkpoint.global_step], recorded(record)
    for fact, value in true.items():
        if said[fact] != value:
            yield f"epoch {record.checkpoint.epoch}, {fact}: held {value!r}, recorded {said[fact]!r}"


def check(name: str, folder: Path, moment: str, *changes: str) -> None:
    records, witness = run(name, folder, moment, *changes)
    wrong = [difference for record in records for difference in differing(record, witness)]
    assert wrong == []
    first, last = records[0], records[-1]
    if name != "swa":
        assert [change for change in first.changes if change.epoch == 0] == []
    for change in changes:
        fact = CHANGES[change][1]
        if change == "learning rate" and name in SCHEDULED:
            continue
        noted = [found for found in last.changes if found.fact.startswith(fact)]
        assert noted, (fact, [found.fact for found in last.changes])
        assert {1, 2} & {found.epoch for found in noted}, noted
        assert all(found.before != found.after for found in noted)


# -- tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_every_record_of_an_undisturbed_training_is_true(tmp_path: Path, name: str) -> None:
    records, witness = run(name, tmp_path, "never")
    assert [difference for record in records for difference in differing(record, witness)] == []
    changes = {change.fact.partition(".")[0].partition("[")[0] for record in records for change in record.changes}
    # Stochastic weight averaging replaces the scheduler, and accumulates over an epoch in the end.
    assert changes <= ({"optimizers", "schedulers", "trainer", "model"} if name == "swa" else set())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("moment", ["epoch start", "batch end"])
def test_a_record_follows_each_change(tmp_path: Path, moment: str, change: str) -> None:
    if moment == "batch end" and change == "loader":
        pytest.skip("the loader of an epoch is made when it begins; the next epoch has the new one")
    check("cnn", tmp_path, moment, change)


@pytest.mark.parametrize("name", ZOO)
def test_the_records_of_each_training_follow_all_changes_together(tmp_path: Path, name: str) -> None:
    possible = [change for change in CHANGES if (name, change) not in IMPOSSIBLE and change != "optimizer"]
    check(name, tmp_path, "epoch start", *possible)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "moment"), list(itertools.product(ZOO, CHANGES, ["epoch start", "batch end", "validation"]))
)
def test_the_records_of_each_training_follow_each_change(tmp_path: Path, name: str, change: str, moment: str) -> None:
    if (name, change) in IMPOSSIBLE:
        pytest.skip(IMPOSSIBLE[name, change])
    check(name, tmp_path, moment, change)
