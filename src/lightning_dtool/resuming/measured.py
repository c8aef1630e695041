"""The metrics of a run so far: logged values and torchmetrics objects, which Lightning does not save.

Schedulers and callbacks that monitor a metric need them, and so do the values that an unfinished epoch logs at its end.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import MetricTracker

_SETTINGS = (
    "fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx", "dataloader_idx",
    "metric_attribute",
)  # fmt: skip
"""The arguments of `self.log`, except those on how values are reduced."""

_INNER = ("_num_vals_seen", "min_val", "max_val")
"""The attributes in which torchmetrics' wrappers (Running, MinMaxMetric) keep state beside their states."""


def save_measured(trainer: Any, module: LightningModule, inside_epoch: bool, needed: bool = False) -> dict[str, Any]:
    """Return the metrics so far, as tensors and plain values.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        inside_epoch: Whether an epoch is under way. Otherwise its metrics are complete, and Lightning resets them.
        needed: Whether hooks are left that may use metrics which are complete. Default: no.
    """
    connector, results = trainer._logger_connector, trainer.fit_loop.epoch_loop._results
    validated = trainer.fit_loop.epoch_loop.val_loop._results
    # Lightning resets the values of a validation at its end, after any checkpoint that is saved in it. Later, they may
    # be values of the training, of a metric that is logged in both.
    validation = [result for result in validated.values() if not result.has_reset]
    reset = {id(result.value) for result in [*validation, *([] if inside_epoch else results.values())]}
    metrics = dict(_metrics(module))
    unfinished = inside_epoch or needed
    return {
        # Not the Trainer's property: it computes values, and in a distributed run waits for the other ranks.
        "callback_metrics": _copied(connector._callback_metrics),
        "logged_metrics": _copied(connector._logged_metrics),
        "current_fx": connector._current_fx,
        "results": {key: _result(result) for key, result in results.items() if not result.has_reset}
        if unfinished
        else {},
        "unfinished": unfinished,
        "metrics": {name: _metric(metric) for name, metric in metrics.items() if needed or id(metric) not in reset},
        "trackers": {name: len(tracker) for name, tracker in _trackers(module)},
        "ended": [name for name, metric in metrics.items() if id(metric) in reset],
    }


def restore_measured(trainer: Any, module: LightningModule, saved: Mapping[str, Any]) -> list[str]:
    """Restore what `save_measured` returned.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        saved: What was saved.

    Returns:
        The reasons why metrics could not be restored.
    """
    device = module.device
    for name, tracker in _trackers(module):
        while len(tracker) < saved["trackers"].get(name, 0):
            tracker.increment()
    missing = set(saved["metrics"])
    connector, results = trainer._logger_connector, trainer.fit_loop.epoch_loop._results
    connector._callback_metrics.update(_moved(saved["callback_metrics"], device))
    connector._logged_metrics.update(_moved(saved["logged_metrics"], device))
    for name, metric in _metrics(module):
        missing.discard(name)
        if name in saved["metrics"]:
            _set_metric(metric, saved["metrics"][name], device)
    if saved["unfinished"]:
        # Lightning resets logged values in the first batch of an epoch. The next batch is not the first.
        connector._first_loop_iter = True
        connector._current_fx = saved["current_fx"]
        for key, state in saved["results"].items():
            results[key] = _rebuilt(state, module, trainer.strategy.reduce, device)
    return [
        f"the metric {name} of the checkpoint is not part of the module when training begins"
        for name in sorted(missing)
    ]


def reset_ended(module: LightningModule, saved: Mapping[str, Any]) -> None:
    """Reset the metrics that were complete at the save. Lightning does so after the hooks that were left.

    Args:
        module: The LightningModule.
        saved: What `save_measured` returned.
    """
    for name, metric in _metrics(module):
        if name in saved["ended"]:
            metric.reset()


def _metrics(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    for _, child in module.named_modules():
        if isinstance(child, MetricCollection):
            # The first metric of a compute group keeps the state of all. This sets it on the others, too.
            child.items(copy_state=False)
    for name, child in module.named_modules():
        if isinstance(child, Metric):
            yield name, child


def _trackers(module: LightningModule) -> list[tuple[str, MetricTracker]]:
    """Return the trackers, which have one more metric after each `increment`."""
    return [(name, child) for name, child in module.named_modules() if isinstance(child, MetricTracker)]


def _metric(metric: Metric) -> dict[str, Any]:
    states = {name: _copied(getattr(metric, name)) for name in metric._defaults}
    inner = {name: _copied(value) for name, value in _inner(metric).items()}
    return {"states": states, "update_count": metric._update_count, "inner": inner}


def _inner(metric: nn.Module) -> dict[str, Any]:
    present = vars(metric)
    return {name: present[name] for name in _INNER if isinstance(present.get(name), int | float | torch.Tensor)}


def _set_metric(metric: Metric, saved: Mapping[str, Any], device: torch.device) -> None:
    for name in metric._defaults:
        if name in saved["states"]:
            setattr(metric, name, _moved(saved["states"][name], device))
    for name in _inner(metric):
        if name in saved["inner"]:
            setattr(metric, name, _moved(saved["inner"][name], device))
    metric._update_count = saved["update_count"]
    metric._computed = None


def _result(result: Any) -> dict[str, Any]:
    meta = result.meta
    state: dict[str, Any] = {name: getattr(meta, name) for name in _SETTINGS}
    state["reduce_fx"] = meta.reduce_fx.__name__
    state["sync"] = {"should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only}
    state["is_tensor"] = result.is_tensor
    state["forward_cache"] = _copied(result._forward_cache)
    state["update_count"] = result._update_count
    if result.is_tensor:
        state["states"] = {name: _copied(getattr(result, name)) for name in result._defaults}
    return state


def _rebuilt(
    state: Mapping[str, Any], module: LightningModule, reduce: Callable[..., Any], device: torch.device
) -> Any:
    # Private API, and the only way to restore a value that an unfinished epoch has logged. Tested with the oldest and
    # the newest supported Lightning.
    from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync

    meta = _Metadata(**{name: state[name] for name in _SETTINGS}, reduce_fx=state["reduce_fx"])
    meta.sync = _Sync(fn=reduce, _should=state["sync"]["should"], rank_zero_only=state["sync"]["rank_zero_only"])
    result = _ResultMetric(meta, state["is_tensor"])
    if state["is_tensor"]:
        for name in result._defaults:
            setattr(result, name, _moved(state["states"][name], device))
    else:
        result.value = module.get_submodule(state["metric_attribute"])
    result._forward_cache = _moved(state["forward_cache"], device)
    result._update_count = state["update_count"]
    result._computed = None
    result.has_reset = False
    return result


def _copied(value: Any) -> Any:
    return _mapped(value, lambda tensor: tensor.detach().cpu().clone())


def _moved(value: Any, device: torch.device) -> Any:
    return _mapped(value, lambda tensor: tensor.to(device, copy=True))


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value
