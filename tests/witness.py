"""A witness that reads a Trainer in its own, simple way at each save, and a record in the same form.

Facts have the names of `docs/facts.yml` (`Optimizer.defaults`). The value of each is a list with one entry for each
part of the record (each optimizer), in order. The witness uses nothing of the package.
"""

import enum
import hashlib
import inspect
import json
import os
import struct
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dtoolcore
import lightning as L
import torch
import torchmetrics
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import TensorDataset

Facts = dict[str, list[Any]]

SEED = 17

STAGES = ("train", "val")


def name_of(definition: Any) -> str:
    return f"{definition.__module__}:{definition.__qualname__}"


def plain(value: Any) -> Any:
    """Return a value as it can be compared: definitions by their names, tensors as numbers, objects as dicts."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, str | bool | int | type(None)):
        return value
    if isinstance(value, float):
        return str(value) if value in (float("inf"), float("-inf")) else value
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, tuple):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, Path | torch.device):
        return str(value)
    if isinstance(value, LRScheduler | ReduceLROnPlateau):
        return attributes(value)
    if inspect.isroutine(value) or isinstance(value, type):
        return name_of(value)
    return name_of(type(value))


def plainly(value: Any) -> Any:
    """Return a value of a record in the form of `plain`."""
    if isinstance(value, list):
        return [plainly(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if kind is None:
        return {name: plainly(entry) for name, entry in value.items()}
    if kind == "builtins:tuple":
        return tuple(plainly(value["value"]))
    for key in ("name", "attributes", "value"):
        if key in value:
            return plainly(value[key])
    return kind


# -- what the Trainer holds ---------------------------------------------------------------------


def loaders_of(found: Any) -> list[Any]:
    if found is None:
        return []
    return list((found if isinstance(found, CombinedLoader) else CombinedLoader(found)).flattened)


def attributes(scheduler: Any) -> dict[str, Any]:
    """Return what configures a scheduler, without its optimizer and its counters of calls."""
    counters = {
        "_step_count", "_last_lr", "_get_lr_called_within_step", "_get_lr_called", "_is_initial", "_initial_step",
    }  # fmt: skip
    return {
        name: plain(value) for name, value in vars(scheduler).items() if name not in counters and name != "optimizer"
    }


def kept(part: object) -> dict[str, Any]:
    """Return the parameters of a constructor that an object keeps, as `name` or `_name`."""
    found, values = {}, vars(part)
    for cls in type(part).__mro__:
        parameters = inspect.signature(cls).parameters
        for name in parameters.keys() - found.keys() - {"trainer"}:
            for attribute in (name, f"_{name}"):
                if attribute in values:
                    found[name] = plain(values[attribute])
                    break
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return found


def text_of(obj: Any) -> str:
    """Read source code, also if another thread parses (https://github.com/python/cpython/issues/106905)."""
    for _ in range(20):
        try:
            return inspect.getsource(obj)
        except SystemError:
            continue
    return inspect.getsource(obj)


def source_of(function: Any) -> str:
    return textwrap.dedent(text_of(function))


def operations_of(loss: torch.Tensor) -> list[str]:
    """Return the names of the operations behind a loss, sorted."""
    queue, seen = [loss.grad_fn], {loss.grad_fn}
    for node in queue:
        following = [each for each, _ in node.next_functions if each is not None and each not in seen]
        seen |= set(following)
        queue += dict.fromkeys(following)
    return sorted(node.name() for node in queue if "AccumulateGrad" not in node.name())


LOSSES: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "Cnn": [(functional.cross_entropy, {"label_smoothing": 0.1})],
    "Lstm": [("criterion", {})],
    "Transformer": [(functional.cross_entropy, {})],
    "Gan": [(functional.binary_cross_entropy_with_logits, {})] * 3,
    "Autoencoder": [],
    "FineTuning": [(functional.nll_loss, {})],
    "Lbfgs": [(functional.mse_loss, {})] * 2,
    "TinyNet": [(functional.cross_entropy, {})],
}
"""The functions that each model minimises, with what it passes; or the attributes that hold its loss modules."""

OF_A_LOSS_MODULE = ("weight", "reduction", "ignore_index", "label_smoothing")

OLD_ARGUMENTS = {"size_average", "reduce"}
"""Arguments of losses that PyTorch has replaced by `reduction`."""


def losses_of(module: L.LightningModule) -> Iterator[tuple[str, str, str | None, dict[str, Any]]]:
    for found, given in LOSSES[type(module).__name__]:
        if isinstance(found, str):
            criterion = getattr(module, found)
            settings = {name: plain(getattr(criterion, name)) for name in OF_A_LOSS_MODULE}
            yield name_of(type(criterion)), "module", found, settings
        else:
            parameters = inspect.signature(found).parameters.values()
            defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
            left = defaults.keys() - OLD_ARGUMENTS
            yield name_of(found), "function", None, {name: {**defaults, **given}[name] for name in left}


def step_of(module: L.LightningModule) -> Any:
    return vars(module).get("training_step", type(module).training_step)


def content_of(data: Any) -> str | None:
    """Return a digest of the tensors of a dataset. None if it holds no tensors."""
    if not hasattr(data, "tensors"):
        return None
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in data.tensors)).hexdigest()


def digest_of(state: dict[str, torch.Tensor]) -> str:
    """Return the digest of a state dict in the documented format."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        size = tensor.numel() * tensor.element_size()
        shape = ", ".join(map(str, tensor.shape))
        found.update(f'["{name}", "{tensor.dtype}", [{shape}], {size}]\n'.encode() + tensor.numpy().tobytes())
    return f"sha256:{found.hexdigest()}"


def transforms_of(data: Any) -> dict[str, Any]:
    found = {}
    if type(data) is not TensorDataset:
        found["dataset"] = name_of(type(data))
    if getattr(data, "transform", None) is not None:
        found["transform"] = name_of(type(data.transform))
    return found


def sampler_of(loader: Any) -> dict[str, Any]:
    settings = {name.lstrip("_"): plain(value) for name, value in vars(loader.sampler).items() if name != "data_source"}
    return {"class_path": name_of(type(loader.sampler)), **settings}


def hooks_of(t: L.Trainer, module: L.LightningModule) -> dict[str, str]:
    found = {}
    for prefix, owner in (("module", module), ("datamodule", getattr(t, "datamodule", None))):
        for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            hook = getattr(owner, name, None)
            if hook is not None and getattr(hook, "__func__", hook) is not getattr(DataHooks, name):
                found[f"{prefix}.{name}"] = source_of(hook)
    return found


def settings_of(t: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """Return the settings of a Trainer that trains on one device."""
    names = (
        "max_epochs", "min_epochs", "max_steps", "min_steps", "accumulate_grad_batches", "gradient_clip_val",
        "gradient_clip_algorithm", "limit_train_batches", "limit_val_batches", "limit_test_batches",
        "limit_predict_batches", "overfit_batches", "val_check_interval", "check_val_every_n_epoch",
        "num_sanity_val_steps", "log_every_n_steps", "reload_dataloaders_every_n_epochs", "num_devices", "num_nodes",
        "world_size", "precision", "fast_dev_run", "barebones",
    )  # fmt: skip
    return {
        **{name: plain(getattr(t, name)) for name in names},
        "detect_anomaly": torch.is_anomaly_enabled(),
        "inference_mode": t.validate_loop.inference_mode,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "use_distributed_sampler": True,
        "sync_batchnorm": False,
        "accelerator": name_of(type(t.accelerator)),
        "strategy": name_of(type(t.strategy)),
        "devices": [str(t.strategy.root_device)],
        "profiler": name_of(type(t.profiler)),
        "plugins": {
            "precision": name_of(type(t.precision_plugin)),
            "layer_sync": None,
            "cluster_environment": None,
        },
        "strategy_settings": {},
        "precision_settings": kept(t.precision_plugin),
        "automatic_optimization": module.automatic_optimization,
        "hooks_of_the_module": [],
    }


def precisions() -> dict[str, Any]:
    """Return the precision of float32 operations, from torch 2.9 on also in its new settings."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    found = {
        "cuda.matmul.allow_tf32": torch._C._get_cublas_allow_tf32(),
        "cudnn.allow_tf32": torch._C._get_cudnn_allow_tf32(),
    }
    new = {"": torch.backends, "cuda.matmul.": cuda.matmul}
    if hasattr(torch.backends, "fp32_precision"):
        new |= {"cudnn.conv.": cudnn.conv, "cudnn.rnn.": cudnn.rnn}
        new |= {"mkldnn.matmul.": mkldnn.matmul, "mkldnn.conv.": mkldnn.conv}
        found |= {f"{name}fp32_precision": str(owner.fp32_precision) for name, owner in new.items()}
    return found


def flags() -> dict[str, Any]:
    """Return the settings of torch that affect bits."""
    backends, cuda = torch.backends, torch.backends.cuda
    names = (
        "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    )  # fmt: skip
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic_algorithms_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill_uninitialized_memory": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn.enabled": backends.cudnn.enabled,
        "cudnn.deterministic": backends.cudnn.deterministic,
        "cudnn.benchmark": backends.cudnn.benchmark,
        "mkldnn.enabled": backends.mkldnn.enabled,
        "num_threads": torch.get_num_threads(),
        "num_interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "default_dtype": str(torch.get_default_dtype()),
        "cuda.matmul.allow_fp16_reduced_precision_reduction": cuda.matmul.allow_fp16_reduced_precision_reduction,
        "cuda.matmul.allow_bf16_reduced_precision_reduction": cuda.matmul.allow_bf16_reduced_precision_reduction,
        "sdp": {
            "flash": cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
            "mem_efficient": cuda.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
            "math": cuda.math_sdp_enabled(),  # type: ignore[no-untyped-call]
            "cudnn": cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
        },
        **precisions(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        **{name: os.environ.get(name) for name in names},
    }


def held(t: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> Facts:
    """Return what a Trainer holds at a save."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    children = [(name, child, list(child.parameters())) for name, child in module.named_children()]
    datamodule = getattr(t, "datamodule", None)
    sources = [
        (loader, loader.dataset) for found in (t.train_dataloader, t.val_dataloaders) for loader in loaders_of(found)
    ]
    monitors = [found for found in t.checkpoint_callbacks if isinstance(found, ModelCheckpoint) and found.monitor]
    missing = [name for name in module.state_dict() if name not in checkpoint["state_dict"]]
    losses = list(losses_of(module))
    metrics = [(name, each) for name, each in module.named_modules() if isinstance(each, torchmetrics.Metric)]
    step = source_of(step_of(module))
    return {
        "Checkpoint.epoch": [t.current_epoch],
        "Checkpoint.global_step": [t.global_step],
        "Checkpoint.weights_only": ["optimizer_states" not in checkpoint],
        "Checkpoint.missing_keys": [missing],
        "Checkpoint.missing_keys_total": [len(missing)],
        "Monitor.name": [found.monitor for found in monitors],
        "Monitor.mode": [found.mode for found in monitors],
        "Monitor.value": [plain(t.callback_metrics.get(found.monitor)) for found in monitors],  # type: ignore[arg-type]
        "Model.class_path": [name_of(type(module))],
        "Model.distribution": [None],  # no installed package has models of the tests
        "Model.source": [text_of(type(module))],
        "Model.source_sha256": [hashlib.sha256(text_of(type(module)).encode()).hexdigest()],
        "Model.hyperparameters": [plain(dict(checkpoint.get("hyper_parameters", {})))],
        "Model.arguments": [{p.name: p.default for p in inspect.signature(type(module)).parameters.values()}],
        "Model.parameters_total": [sum(p.numel() for p in module.parameters())],
        "Model.parameters_trainable": [sum(p.numel() for p in module.parameters() if p.requires_grad)],
        "Model.frozen": [[name for name, p in module.named_parameters() if not p.requires_grad]],
        "Model.architecture": [repr(module)],
        "Child.name": [name for name, _, _ in children],
        "Child.class_path": [name_of(type(child)) for _, child, _ in children],
        "Child.parameters_total": [sum(p.numel() for p in found) for _, _, found in children],
        "Child.parameters_trainable": [sum(p.numel() for p in found if p.requires_grad) for _, _, found in children],
        "LoadedWeights.epoch": [epoch for epoch, _ in getattr(module, "loaded_at", [])],
        "LoadedWeights.global_step": [step for _, step in getattr(module, "loaded_at", [])],
        "Lineage.resumed": [t.ckpt_path is not None],
        "Loss.training_step": [step],
        "Loss.constants": [{"self.loss_weight": module.loss_weight} if "loss_weight" in step else {}],
        "LossCall.name": [name for name, _, _, _ in losses],
        "LossCall.kind": [kind for _, kind, _, _ in losses],
        "LossCall.attribute": [attribute for _, _, attribute, _ in losses],
        "LossCall.arguments": [settings for _, _, _, settings in losses],
        "LossCall.source": [None for _ in losses],
        "LossCall.constants": [{} for _ in losses],
        "Optimizer.class_path": [name_of(type(optimizer)) for optimizer in t.optimizers],
        "Optimizer.defaults": [plain(optimizer.defaults) for optimizer in t.optimizers],
        "ParameterGroup.options": [
            {name: plain(value) for name, value in group.items() if name not in ("params", "param_names")}
            for optimizer in t.optimizers
            for group in optimizer.param_groups
        ],
        "ParameterGroup.parameters": [
            [names[id(p)] for p in group["params"]] for optimizer in t.optimizers for group in optimizer.param_groups
        ],
        "Scheduler.class_path": [name_of(type(found.scheduler)) for found in t.lr_scheduler_configs],
        "Scheduler.interval": [found.interval for found in t.lr_scheduler_configs],
        "Scheduler.frequency": [found.frequency for found in t.lr_scheduler_configs],
        "Scheduler.monitor": [found.monitor for found in t.lr_scheduler_configs],
        "Scheduler.settings": [attributes(found.scheduler) for found in t.lr_scheduler_configs],
        "DataModule.class_path": [name_of(type(datamodule))] if datamodule is not None else [],
        "DataModule.arguments": [plain(dict(datamodule.hparams))] if datamodule is not None else [],
        "Data.hooks": [hooks_of(t, module)],
        "Data.order": [{}],
        "DataSource.selection_digest": [None for _ in sources],
        "DataSource.targets_digest": [None for _ in sources],
        "DataSource.class_counts": [None for _ in sources],
        "DataSource.selection": [{} for _ in sources],
        "DataSource.class_path": [name_of(type(data)) for _, data in sources],
        "DataSource.count": [len(data) for _, data in sources],
        "DataSource.classes": [getattr(data, "classes", None) for _, data in sources],
        "DataSource.class_to_idx": [getattr(data, "class_to_idx", None) for _, data in sources],
        "DataSource.root": [getattr(data, "root", None) for _, data in sources],
        "DataSource.transforms": [transforms_of(data) for _, data in sources],
        "DataSource.fingerprint": [content_of(data) for _, data in sources],
        "DataSource.fingerprint_complete": [True for _ in sources],
        "Loader.class_path": [name_of(type(loader)) for loader, _ in sources],
        "Loader.batch_size": [loader.batch_size for loader, _ in sources],
        "Loader.num_workers": [loader.num_workers for loader, _ in sources],
        "Loader.drop_last": [loader.drop_last for loader, _ in sources],
        "Loader.sampler": [sampler_of(loader) for loader, _ in sources],
        "Loader.collate_fn": [name_of(loader.collate_fn) for loader, _ in sources],
        "Loader.settings": [
            {
                name: getattr(loader, name)
                for name in ("pin_memory", "pin_memory_device", "persistent_workers", "timeout", "in_order")
            }
            for loader, _ in sources
        ],
        "Randomness.global_seed": [int(os.environ["PL_GLOBAL_SEED"])],
        "Randomness.seeds": [dict.fromkeys(("torch", "numpy", "python"), torch.initial_seed())],
        "Randomness.seeded_before_model": [True],
        "Randomness.seed_workers": [os.environ["PL_SEED_WORKERS"] == "1"],
        "Randomness.flags": [flags()],
        "Randomness.repeatable_by": ["seed"],
        "Trainer.settings": [settings_of(t, module)],
        "Component.class_path": [name_of(type(part)) for part in (*t.callbacks, *t.loggers)],
        "Component.state_key": [*(part.state_key for part in t.callbacks), *(None for _ in t.loggers)],
        "Component.settings": [kept(part) for part in (*t.callbacks, *t.loggers)],
        "Metrics.at_checkpoint": [plain(t.callback_metrics)],
        "MetricObject.attribute": [name for name, _ in metrics],
        "MetricObject.class_path": [name_of(type(found)) for _, found in metrics],
        "MetricObject.settings": [
            {name: plain(getattr(found, name)) for name in ("nan_strategy", "state_name")} for _, found in metrics
        ],
    }


def reference_of(uri: str) -> dict[str, str]:
    """Return what identifies a dtool dataset, as dtool itself reads it."""
    dataset = dtoolcore.DataSet.from_uri(uri)
    items = [dataset.item_properties(identifier) for identifier in dataset.identifiers]
    lines = [
        json.dumps([item["relpath"], item["size_in_bytes"], item["hash"]]) + "\n"
        for item in sorted(items, key=lambda item: item["relpath"])
    ]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {"uri": dataset.uri, "uuid": dataset.uuid, "name": dataset.name, "content_digest": f"sha256:{digest}"}


def facts_of_dtool_data(t: L.Trainer, uris: list[str], arguments: dict[str, Any]) -> Facts:
    """Return what `held` cannot say of data from a DtoolDataModule whose vectors hold the numbers of their items.

    Args:
        t: The Trainer.
        uris: URIs of the datasets that a record refers to, in order.
        arguments: The arguments of the DataModule.
    """
    sources = [loaders_of(found)[0].dataset for found in (t.train_dataloader, t.val_dataloaders)]
    classes = ["even", "odd"]
    selections, targets, counts = [], [], []
    for data in sources:
        samples = sorted((f"{classes[label]}/{int(vector[0])}.npy", label) for vector, label in data)
        keys = [hashlib.sha1(relpath.encode()).hexdigest() for relpath, _ in samples]
        labels = [label for _, label in samples]
        head = json.dumps(["<i8", [len(labels)]]) + "\n" + "\n".join(keys) + "\n"
        content = head.encode() + struct.pack(f"<{len(labels)}q", *labels)
        selections.append("sha256:" + hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest())
        targets.append("sha256:" + hashlib.sha256(content).hexdigest())
        counts.append({name: labels.count(index) for index, name in enumerate(classes)})
    divided = {name: arguments[name] for name in ("val_split", "test_split", "seed", "stratify")}
    references = [reference_of(uri) for uri in uris]
    return {
        "DataModule.arguments": [arguments],
        "DataSource.selection_digest": selections,
        "DataSource.targets_digest": targets,
        "DataSource.class_counts": counts,
        "DataSource.classes": [classes, classes],
        "DataSource.class_to_idx": [{"even": 0, "odd": 1}] * 2,
        "DataSource.selection": [{"part": stage, "by": "fractions", **divided} for stage in STAGES],
        "DataSource.transforms": [{}, {}],
        "DataSource.fingerprint_complete": [None, None],
        **{f"DatasetReference.{name}": [each[name] for each in references] for name in references[0]},
    }


class Witness(L.Callback):
    """Reads the Trainer at each save, and the operations of a loss in the first batch of an epoch if it may be new."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], Facts] = {}
        self.operations: list[list[str]] = []
        self.loss: Any = None
        self.rates: dict[int, list[float]] = {}

    def on_fit_start(self, t: L.Trainer, module: L.LightningModule) -> None:
        state = module.state_dict()
        # Not in attributes of this object: a resumed run would get those of the run before.
        vars(t)["_epochs_witnessed"] = []
        vars(t)["_start_witnessed"] = {
            "InitialWeights.origin": ["script"],
            "InitialWeights.stored": [any(kept(part).get("save_initial_weights") for part in t.callbacks)],
            "InitialWeights.seeded": [torch.initial_seed() == SEED],
            "InitialWeights.keys_total": [len(state)],
            "InitialWeights.digest": [digest_of(state)],
        }

    def on_train_batch_start(self, t: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        loss = (list(losses_of(module)), source_of(step_of(module)))
        # Of a loss by hand, the operations are all that there is: they change, too, when a layer is frozen.
        self.reads = batch_idx == 0 and (loss != self.loss or not loss[0])
        if self.reads:
            self.loss, self.operations = loss, []

    def on_before_backward(self, t: L.Trainer, module: L.LightningModule, loss: torch.Tensor) -> None:
        operations = operations_of(loss)
        if self.reads and operations not in self.operations:  # LBFGS computes the loss more than once
            self.operations.append(operations)

    def on_before_optimizer_step(self, t: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        self.rates[id(optimizer)] = [plain(group["lr"]) for group in optimizer.param_groups]

    def on_train_epoch_end(self, t: L.Trainer, module: L.LightningModule) -> None:
        rates = [list(self.rates.get(id(optimizer), [])) for optimizer in t.optimizers]
        notes = (t.current_epoch, t.global_step, plain(t.callback_metrics), rates)
        vars(t)["_epochs_witnessed"].append(notes)

    def on_save_checkpoint(self, t: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        epochs, steps, metrics, rates = (list(column) for column in zip(*vars(t)["_epochs_witnessed"], strict=True))
        self.seen[t.current_epoch, t.global_step] = {
            **held(t, module, checkpoint),
            **vars(t)["_start_witnessed"],
            "Loss.operations": [list(self.operations)],
            "Epoch.epoch": epochs,
            "Epoch.global_step": steps,
            "Epoch.metrics": metrics,
            "Epoch.learning_rates": rates,
        }


# -- what the record says -----------------------------------------------------------------------


def _sections(value: Any) -> Iterator[Any]:
    if hasattr(type(value), "model_fields"):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _sections(entry)


def recorded(section: Any, fields: dict[str, list[str]]) -> Facts:
    """Return the fields of a record in the form of `held`.

    Args:
        section: The record, or a part of it.
        fields: The fields of each kind of part that hold no other parts.
    """
    found: Facts = defaultdict(list)
    kind = type(section).__name__
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name in fields.get(kind, ()):
            found[f"{kind}.{name}"].append(SAID.get(f"{kind}.{name}", plainly)(value))
        for part in _sections(value):
            for fact, values in recorded(part, fields).items():
                found[fact] += values
    return found


def _losses(operations: list[str]) -> list[list[str]]:
    """Return the operations of each loss, sorted."""
    found: dict[str, list[str]] = defaultdict(list)
    for operation in operations:
        first, _, rest = operation.rpartition(": ")
        found[first].append(rest)
    return [sorted(names) for names in found.values()]


def _settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a loss that are no data."""
    return {
        name: plainly(value)
        for name, value in arguments.items()
        if not (isinstance(value, dict) and "shape" in value and "value" not in value)
    }


SAID = {"Loss.operations": _losses, "LossCall.arguments": _settings}
"""How a field is compared, if not with `plainly`."""
