"""Each statement of a record equals what the Trainer holds at that save, also after facts have changed in mid-run.

A witness reads the Trainer in its own, simple way at each save. Afterwards, each record is compared with it.
"""

import inspect
import itertools
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kit import TinyNet, trainer
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback, Provenance, pack
from test_facts import FACTS, facts_of_the_schema
from witness import SEED, Witness, facts_of_dtool_data, loaders_of, recorded, reference_of
from zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden .on_after_batch_transfer.:UserWarning")

FIELDS = facts_of_the_schema()

ELSEWHERE: dict[str, dict[str, str]] = {
    "the Trainer does not hold it: it is the identity of the run, or its place in the process": {
        "Run.uuid": "test_callback.py::test_one_trainer_can_fit_twice_and_validate",
        "Run.creator_username": "test_facts.py::test_the_user_the_run_and_its_times_are_recorded",
        "Run.lightning_dtool_version": "test_facts.py::test_the_user_the_run_and_its_times_are_recorded",
        "Run.fit_index": "capture/test_repeatable.py::test_the_number_of_the_fit_in_its_process_is_recorded",
        "Provenance.schema_version": "record/test_reading.py::test_an_older_record_is_migrated",
    },
    "the Trainer does not hold it: it is what the script has read from its environment": {
        "Environment.variables_read": (
            "capture/test_variables_read.py::test_what_a_script_reads_is_recorded_with_its_first_value"
        ),
    },
    "a time or an amount of memory, which no second reading repeats": {
        "Run.started_at": "test_facts.py::test_the_user_the_run_and_its_times_are_recorded",
        "Checkpoint.saved_at": "test_facts.py::test_the_user_the_run_and_its_times_are_recorded",
        "Metrics.seconds": "capture/test_history.py::test_every_epoch_has_its_metrics_and_the_learning_rates_used",
        "Metrics.steps_per_second": (
            "capture/test_history.py::test_every_epoch_has_its_metrics_and_the_learning_rates_used"
        ),
        "Epoch.seconds": "capture/test_history.py::test_every_epoch_has_its_metrics_and_the_learning_rates_used",
        "Metrics.peak_memory_bytes": "capture/test_history.py::test_peak_memory_grows_with_allocations",
        "Metrics.peak_accelerator_memory_bytes": ("test_facts.py::test_the_peak_memory_of_an_accelerator_is_recorded"),
    },
    "it says which file or run the weights came from, and the Trainer holds only the weights": {
        "WeightsSource.kind": "capture/test_initial_weights.py::test_a_plain_lightning_checkpoint_is_a_file",
        "WeightsSource.keys": "capture/test_initial_weights.py::test_parts_from_several_files_are_told_apart",
        "WeightsSource.keys_total": (
            "capture/test_initial_weights.py::test_a_head_that_was_replaced_after_a_run_is_the_scripts"
        ),
        "WeightsSource.run_uuid": (
            "capture/test_initial_weights.py::test_a_second_fit_of_the_same_module_continues_the_first"
        ),
        "WeightsSource.path": (
            "capture/test_initial_weights.py::test_weights_from_torch_load_are_recorded_with_the_file"
        ),
        "WeightsSource.sha256": "capture/test_initial_weights.py::test_a_plain_lightning_checkpoint_is_a_file",
        "WeightsSource.repository": (
            "capture/test_initial_weights.py::test_a_file_of_the_hub_is_recorded_with_repository_and_revision"
        ),
        "WeightsSource.revision": (
            "capture/test_initial_weights.py::test_a_file_of_the_hub_is_recorded_with_repository_and_revision"
        ),
        "WeightsSource.name": (
            "capture/test_initial_weights.py::test_pretrained_weights_of_torchvision_are_recorded_by_name"
        ),
    },
    "the data of the zoo are in memory; for a dtool dataset, the last test compares it, too": {
        "DatasetReference.uri": "data/test_datamodule.py::test_a_relative_path_is_recorded_as_an_absolute_uri",
        "DatasetReference.uuid": "test_callback.py::test_resuming_by_uri_names_the_parent",
        "DatasetReference.name": ("capture/test_data.py::test_datasets_inside_subsets_and_concatenations_are_found"),
        "DatasetReference.content_digest": "store/test_digest.py::test_the_content_digest_is_fixed_for_ever",
    },
    "the digest of states of generators that the training has changed since": {
        "Randomness.states": "capture/test_randomness.py::test_each_generator_has_its_own_digest",
    },
    "no LightningCLI and no Hydra configures these trainings": {
        "Config.kind": "capture/test_config.py::test_the_configuration_of_hydra_is_recorded",
        "Config.file": "capture/test_config.py::test_a_secret_in_the_configuration_is_redacted",
    },
    "it describes the machine, not the Trainer": {
        "Environment.python": "test_facts.py::test_python_and_platform_are_recorded",
        "Environment.platform": "test_facts.py::test_python_and_platform_are_recorded",
        "Environment.versions": "capture/test_environment.py::test_the_machine_is_recorded",
        "Environment.cpu": "capture/test_environment.py::test_the_machine_is_recorded",
        "Environment.cpu_count": "capture/test_environment.py::test_the_machine_is_recorded",
        "Environment.memory_bytes": "capture/test_environment.py::test_the_machine_is_recorded",
        "Environment.accelerators": "capture/test_environment.py::test_recording_starts_no_accelerator",
        "Environment.drivers": "capture/test_environment.py::test_the_machine_is_recorded",
        "Environment.torch_build": "capture/test_environment.py::test_the_machine_is_recorded",
        "Environment.container": "capture/test_environment.py::test_a_batch_job_in_a_container_is_recorded",
        "Environment.scheduler": "capture/test_environment.py::test_a_batch_job_in_a_container_is_recorded",
        "Environment.variables": "capture/test_environment.py::test_a_batch_job_in_a_container_is_recorded",
    },
    "it describes the files of the code, not the Trainer": {
        "Code.argv": "redaction/test_text.py::test_the_rest_of_a_command_line_is_unchanged",
        "Code.working_directory": (
            "capture/test_code.py::test_undecodable_arguments_and_a_deleted_working_directory_are_recorded"
        ),
        "Code.entry_point": ("capture/test_code.py::test_a_script_in_a_git_repository_is_recorded_with_its_modules"),
        "Code.run_as_module": "capture/test_code.py::test_a_module_run_as_the_main_program_is_the_entry_point",
        "Code.patch": "capture/test_code.py::test_changed_and_untracked_files_are_recorded",
        "Code.untracked": "capture/test_code.py::test_changed_and_untracked_files_are_recorded",
        "Code.files": "capture/test_code.py::test_a_script_in_a_git_repository_is_recorded_with_its_modules",
        "Code.modules": "capture/test_code.py::test_a_script_in_a_git_repository_is_recorded_with_its_modules",
        "Git.remote": "capture/test_git.py::test_the_url_of_the_remote_holds_no_secret",
        "Git.commit": "capture/test_code.py::test_a_script_in_a_git_repository_is_recorded_with_its_modules",
        "Git.branch": "capture/test_code.py::test_a_script_in_a_git_repository_is_recorded_with_its_modules",
        "Git.dirty": "capture/test_git.py::test_a_tree_is_not_called_clean_when_git_does_not_answer",
    },
    "it describes what code of the user uses, which the witness would have to follow in the same way": {
        "Component.constants": ("capture/test_trainer.py::test_values_that_the_code_of_a_callback_uses_are_recorded"),
        "Model.settings": (
            "capture/test_model_settings.py::test_another_value_that_the_code_of_a_model_uses_is_recorded"
        ),
    },
    "it says what a record does not know": {
        "Gap.fact": "capture/test_provenance.py::test_a_checkpoint_without_a_run_has_a_record_with_gaps",
        "Gap.reason": "values/test_writing.py::test_an_incomplete_value_is_a_gap",
        "Gap.remedy": "record/test_gaps.py::test_gaps_of_a_part_are_included_at_its_place",
    },
}
"""Reason -> the fields that the witness does not read for this reason, each with a test of it."""

OF_CHANGES = {f"Change.{name}" for name in FIELDS["Change"]}
"""Fields that are compared with the differences between records, by `untold`."""

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


def change_the_data_in_place(t: L.Trainer, module: L.LightningModule) -> None:
    samples = loaders_of(t.train_dataloader)[0].dataset.tensors[0]
    samples[0] = samples[1]


def set_a_hyperparameter_of_the_data(t: L.Trainer, module: L.LightningModule) -> None:
    t.datamodule.hparams["width"] = 9  # type: ignore[attr-defined]


def doubled(module: L.LightningModule, batch: Any, dataloader_idx: int) -> Any:
    return [tensor * 2 if tensor.is_floating_point() else tensor for tensor in batch]


def double_each_batch(t: L.Trainer, module: L.LightningModule) -> None:
    module.on_after_batch_transfer = types.MethodType(doubled, module)  # type: ignore[method-assign]


def weighted(self: L.LightningModule, batch: Any, batch_idx: int) -> torch.Tensor:
    found: Any = type(self).training_step(self, batch, batch_idx)
    return (found["loss"] if isinstance(found, dict) else found) * self.loss_weight


def weight_the_loss(t: L.Trainer, module: L.LightningModule) -> None:
    module.loss_weight = 0.25  # type: ignore[assignment]
    module.training_step = types.MethodType(weighted, module)  # type: ignore[method-assign]


def smooth_labels(t: L.Trainer, module: L.LightningModule) -> None:
    module.criterion.label_smoothing = 0.375  # type: ignore[union-attr]


def seed_again(t: L.Trainer, module: L.LightningModule) -> None:
    L.seed_everything(SEED + 1)


def log_elsewhere(t: L.Trainer, module: L.LightningModule) -> None:
    t.loggers[0]._prefix = "late"  # type: ignore[attr-defined]


def load_other_weights(t: L.Trainer, module: L.LightningModule) -> None:
    other = {name: value / 2 if value.is_floating_point() else value for name, value in module.state_dict().items()}
    torch.save(other, Path(t.default_root_dir, "other.pt"))
    module.load_state_dict(torch.load(Path(t.default_root_dir, "other.pt")))
    module.loaded_at = [(t.current_epoch, t.global_step)]  # type: ignore[assignment]


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
    "loaded weights": (load_other_weights, "model.loaded_weights[0]"),
    "threads": (use_other_threads, "randomness.flags.num_threads"),
    "data in place": (change_the_data_in_place, "data.stages.train[0].fingerprint"),
    "data hyperparameters": (set_a_hyperparameter_of_the_data, "data.datamodule.arguments"),
    "batch hook": (double_each_batch, "data.hooks"),
    "loss": (weight_the_loss, "loss"),
    "loss module": (smooth_labels, "loss.calls[0].arguments.label_smoothing"),
    "seed": (seed_again, "randomness.global_seed"),
    "logger": (log_elsewhere, "trainer.loggers[0].settings.prefix"),
}
"""Name -> the change, and the path of the fact that it changes."""

SCHEDULED = {"lstm", "transformer", "autoencoder", "swa"}
"""Trainings whose learning rates a scheduler moves."""

WITH_DATAMODULE = {"fine_tuning", "lbfgs", "bf16"}
"""Trainings whose data comes from a DataModule."""

IMPOSSIBLE = {
    **{(name, "data hyperparameters"): "it has no DataModule" for name in ZOO if name not in WITH_DATAMODULE},
    **{(name, "loss module"): "its loss is a function" for name in ZOO if name != "lstm"},
    ("lstm", "batch hook"): "the data are tokens",
    ("gan", "loss"): "its step computes two losses and returns none",
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


class Measured(L.LightningDataModule):
    """A DataModule with hyperparameters, and with the loaders of a training."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


def prepared(name: str) -> tuple[L.LightningModule, L.LightningDataModule | None, dict[str, Any]]:
    """Return a training of the zoo with validation, a torchmetrics object, and data that can be replaced."""
    module, options = ZOO[name]()
    tensors = module.data()  # type: ignore[operator]
    module.extra_dropout = nn.Dropout(0.5)
    module.average = torchmetrics.MeanMetric(nan_strategy="error")
    data = Scaled(*tensors)
    shuffle = name in WITH_DATAMODULE

    def train_dataloader() -> DataLoader:
        if not hasattr(module, "data_of_the_epoch"):
            return DataLoader(data, batch_size=4, shuffle=shuffle)
        samples, batch_size = module.data_of_the_epoch()  # type: ignore[operator]
        return DataLoader(Scaled(*(tensor[:samples] for tensor in tensors)), batch_size=batch_size)

    def val_dataloader() -> DataLoader:
        size = getattr(module, "validation_size", 4)
        return DataLoader(TensorDataset(torch.ones(size, 1)), batch_size=2)

    def validation_step(batch: Any, batch_idx: int) -> None:
        module.average(batch[0] * (module.current_epoch + 1))  # type: ignore[operator]
        module.log("average", module.average)  # type: ignore[arg-type]

    datamodule = Measured() if name in WITH_DATAMODULE else None
    owner = module if datamodule is None else datamodule
    owner.train_dataloader = train_dataloader  # type: ignore[method-assign]
    owner.val_dataloader = val_dataloader  # type: ignore[method-assign]
    module.validation_step = validation_step  # type: ignore[method-assign]
    options = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1, "num_sanity_val_steps": 0, **options}
    return module, datamodule, options


def run(name: str, folder: Path, moment: str, *changes: str) -> tuple[list[Provenance], Witness]:
    (folder / "models").mkdir()
    L.seed_everything(SEED)
    threads = torch.get_num_threads()
    module, datamodule, options = prepared(name)
    witness = Witness()
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all")
    policy = ModelCheckpoint(dirpath=folder / "ckpt", save_top_k=-1, monitor="average", mode="max")
    early = EarlyStopping("absent", patience=5, strict=False)
    callbacks = [provenance, Changing(moment, *changes), witness, policy, early, *options.pop("callbacks", [])]
    try:
        trainer(folder, *callbacks, logger=CSVLogger(folder), **options).fit(module, datamodule=datamodule)
    finally:
        torch.set_num_threads(threads)
    assert provenance.errors == []
    for path in (folder / "ckpt").iterdir():
        state = torch.load(path, weights_only=False)
        witness.seen[state["epoch"], state["global_step"]]["Checkpoint.filename"] = [path.name]
    records = [DtoolCheckpoint.from_uri(uri).record for uri in provenance.uris]
    assert len(records) >= 3
    return records, witness


def pairs(record: Provenance, witness: Witness) -> Iterator[tuple[str, Any, Any]]:
    """Yield each field that the witness has seen, with what was held and what is recorded."""
    true = witness.seen[record.checkpoint.epoch, record.checkpoint.global_step]
    said = recorded(record, FIELDS)
    for field, values in true.items():
        yield field, values, said.get(field, [])


def different(place: str, true: Any, said: Any) -> Iterator[str]:
    """Yield the smallest parts that differ."""
    if isinstance(true, dict) and isinstance(said, dict) and true.keys() == said.keys():
        for name in true:
            yield from different(f"{place}.{name}", true[name], said[name])
    elif isinstance(true, list) and isinstance(said, list) and len(true) == len(said):
        for index, (one, other) in enumerate(zip(true, said, strict=True)):
            yield from different(f"{place}[{index}]", one, other)
    elif true != said:
        yield f"{place}: held {true!r}, recorded {said!r}"


def untrue(records: list[Provenance], witness: Witness) -> list[str]:
    """Return what differs from what the Trainer held."""
    wrong, contents = [], set()
    for record in records:
        for field, true, said in pairs(record, witness):
            if field == "DataSource.fingerprint":
                contents |= set(zip(true, said, strict=True))
            else:
                wrong += [f"epoch {record.checkpoint.epoch}, {found}" for found in different(field, true, said)]
    # Fingerprints differ exactly if the contents differ.
    if not len({true for true, _ in contents}) == len({said for _, said in contents}) == len(contents):
        wrong.append(f"DataSource.fingerprint: {contents}")
    return wrong


FOLLOWED = {
    "model": {"initial_weights"}, "loss": set(), "optimizers": set(), "schedulers": set(), "data": {"order"},
    "randomness": {"states"}, "trainer": set(),
}  # fmt: skip
"""The parts of a record whose differences are changes, without their fields that are not followed."""

MOVED_BY_SCHEDULERS = re.compile(r"schedulers\[|optimizers\[\d\]\.param_groups\[\d\]\.options\.(lr|momentum|betas)")


def differing(place: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the place of each smallest part that differs between two records, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            yield from differing(f"{place}.{name}", one.get(name), other.get(name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differing(f"{place}[{index}]", a, b)
    elif one != other:
        yield place, one, other


def covers(fact: str, place: str) -> bool:
    return place == fact or place.startswith((f"{fact}.", f"{fact}[")) or fact.startswith((f"{place}.", f"{place}["))


def untold(records: list[Provenance], scheduled: bool) -> list[str]:
    """Return the differences between successive records that are not among the changes of the later one."""
    wrong = []
    for before, after in itertools.pairwise(records):
        new = after.changes[len(before.changes) :]
        assert after.changes[: len(before.changes)] == before.changes
        steps = [before.checkpoint.global_step, *(found.global_step for found in new), after.checkpoint.global_step]
        assert steps == sorted(steps)
        for part, left_out in FOLLOWED.items():
            one, other = (record.model_dump(mode="json", include={part})[part] for record in (before, after))
            for place, was, now in differing(part, one, other):
                field = place.removeprefix(f"{part}.").partition(".")[0]
                if field in left_out or (scheduled and MOVED_BY_SCHEDULERS.match(place)):
                    continue
                noted = [found for found in new if covers(found.fact, place)]
                exact = [found for found in noted if found.fact == place]
                if not noted:
                    wrong.append(f"{place}: {was!r} became {now!r}, but is no change")
                elif exact and max(len(str(was)), len(str(now))) < 1000:  # longer values are cut
                    first, last = exact[0].before, exact[-1].after
                    if (first, last) != (was, now):
                        wrong.append(f"{place}: {was!r} became {now!r}, but {first!r} became {last!r} is listed")
    return wrong


def check(name: str, folder: Path, moment: str, *changes: str) -> None:
    records, witness = run(name, folder, moment, *changes)
    assert untrue(records, witness) == []
    if name != "swa":
        assert untold(records, name in SCHEDULED) == []
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


@pytest.mark.parametrize(("field", "test"), [row for rows in ELSEWHERE.values() for row in rows.items()])
def test_a_field_that_the_witness_does_not_read_has_a_test(field: str, test: str) -> None:
    part, _, name = field.partition(".")
    assert test in FACTS[part][name]["tests"]


@pytest.mark.parametrize("name", ZOO)
def test_every_record_of_an_undisturbed_training_is_true(tmp_path: Path, name: str) -> None:
    records, witness = run(name, tmp_path, "never")
    assert untrue(records, witness) == []
    elsewhere = [field for fields in ELSEWHERE.values() for field in fields]
    read = [*next(iter(witness.seen.values())), *OF_CHANGES, *elsewhere]
    assert sorted(read) == sorted(f"{part}.{field}" for part, fields in FIELDS.items() for field in fields)
    changes = {change.fact.partition(".")[0].partition("[")[0] for record in records for change in record.changes}
    # Stochastic weight averaging replaces the scheduler, and accumulates over an epoch in the end.
    assert changes <= ({"optimizers", "schedulers", "trainer", "model"} if name == "swa" else set())


# The loader of an epoch is made when it begins, so a change at the end of a batch is seen in the next epoch.
AT = {
    change: "epoch start" if number % 2 or change == "loader" else "batch end" for number, change in enumerate(CHANGES)
}


@pytest.mark.parametrize(("change", "moment"), AT.items())
def test_a_record_follows_each_change(tmp_path: Path, change: str, moment: str) -> None:
    check(next(name for name in ZOO if (name, change) not in IMPOSSIBLE), tmp_path, moment, change)


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


class WitnessOfDtoolData(Witness):
    """Reads also the data of a DtoolDataModule."""

    def __init__(self, data: str, parent: str | None) -> None:
        super().__init__()
        self.uris = [*filter(None, [parent]), data, data, data, *filter(None, [parent])]
        self.arguments = {name: p.default for name, p in inspect.signature(DtoolDataModule).parameters.items()}
        self.arguments |= {"uri": reference_of(data)["uri"], **DIVIDED}

    def on_save_checkpoint(self, t: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(t, module, checkpoint)
        facts = self.seen[t.current_epoch, t.global_step]
        facts |= facts_of_dtool_data(t, self.uris, self.arguments)
        del facts["Data.order"]  # its digests are those of the sampler
        facts["Loader.sampler"][0] = {
            "class_path": "lightning_dtool:ResumableSampler",
            **{"seed": 3, "shuffle": True, "drop_last": False, "num_replicas": 1, "rank": 0},
        }
        if len(self.uris) > 3:
            facts["InitialWeights.origin"] = facts["WeightsSource.kind"] = ["checkpoint"]
            facts["WeightsSource.keys"], facts["WeightsSource.keys_total"] = [["*"]], facts["InitialWeights.keys_total"]


DIVIDED = {"batch_size": 6, "val_split": 0.25, "seed": 3}


# The witness keeps its notes there because a resumed run would get those of the run before from any other place.
@pytest.mark.filterwarnings("ignore:.*attributes of the Trainer were set, which no checkpoint holds")
def test_every_record_of_a_training_on_a_dtool_dataset_is_true_also_if_it_resumes(tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / "vectors" / ("even", "odd")[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full(8, number, dtype=np.float32))
    for name in ("data", "models"):
        (tmp_path / name).mkdir()
    data = pack(tmp_path / "vectors", str(tmp_path / "data"), "vectors", progress=False)
    parent = None
    for epochs in (2, 4):
        L.seed_everything(SEED)
        witness = WitnessOfDtoolData(data, parent)
        provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
        policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_top_k=-1, monitor="val_loss", save_last=False)
        run = trainer(tmp_path, provenance, witness, policy, max_epochs=epochs)
        run.fit(TinyNet(), DtoolDataModule(data, **DIVIDED), ckpt_path=parent)
        records = [DtoolCheckpoint.from_uri(uri).record for uri in provenance.uris]
        assert [record.checkpoint.epoch for record in records] == list(range(epochs - 2, epochs))
        assert untrue(records, witness) == []
        parent = provenance.uris[-1]
