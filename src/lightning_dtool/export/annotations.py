"""The annotations of the datasets that hold a checkpoint, an evaluation or the result of a rerun.

People search for datasets by their annotations, for example on a lab's dserver.

Where dtoolAI has a name for a fact (`model_name`, `model_parameters`, `source_dataset_*`), the annotation has the same
name. Neither a name nor a key inside a value contains a dot or begins with a dollar sign, because some stores and
databases refuse such keys.

A fact that usually has one value (learning rate, optimizer, loss, training dataset) is stored as that value, and as a
list if there are several. A Mongo query such as `{"annotations.learning_rate": {"$lt": 0.001}}` matches a single value
as well as any element of a list, and a table shows a number as a number.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning_dtool.record import DatasetReference, Provenance
from lightning_dtool.results.evaluation import Evaluation
from lightning_dtool.results.reproduction import Reproduction
from lightning_dtool.results.strict_json import strict_json


def annotations(record: Provenance, run_status: str) -> dict[str, Any]:
    """Return the annotations of a checkpoint's dataset.

    Args:
        record: The record.
        run_status: The status of the run. It is not part of the record, which never changes.

    Returns:
        Values by name. `source_dataset_uuid` is the UUID of the training data, or a list if there are several
        datasets: dserver draws lineage from it.
    """
    found: dict[str, Any] = {
        "model_name": _short(record.model.class_path),
        "model_parameters": searchable(record.model.hyperparameters),
        "optimizer": _one_or_all(_short(optimizer.class_path) for optimizer in record.optimizers),
        "learning_rate": _one_or_all(_learning_rates(record)),
        "loss": _one_or_all(dict.fromkeys(_short(call.name) for call in record.loss.calls)),
        "epoch": record.checkpoint.epoch,
        "global_step": record.checkpoint.global_step,
        "metrics": searchable(record.metrics.at_checkpoint),
        "run_uuid": record.run.uuid,
        "run_status": run_status,
        "gaps": len(record.gaps),
        "record_schema_version": record.schema_version,
        "lightning_dtool_version": record.run.lightning_dtool_version,
    }
    if record.checkpoint.monitors:
        monitor = record.checkpoint.monitors[0]
        found["monitor"] = {"name": monitor.name, "mode": monitor.mode, "value": monitor.value}
    if record.code.git is not None:
        found["git_commit"] = record.code.git.commit
    if record.lineage.source_datasets:
        sources = record.lineage.source_datasets
        found |= source_annotations(sources)
        found["source_dataset_content_digest"] = _one_or_all(source.content_digest for source in sources)
    parents = record.lineage.parents
    if parents:
        found["parent_checkpoint_uri"] = _one_or_all(parent.uri for parent in parents)
        found["parent_checkpoint_uuid"] = _one_or_all(parent.uuid for parent in parents)
    for name, original in (("reproduces", record.lineage.reproduces), ("replicates", record.lineage.replicates)):
        if original is not None:
            found |= {f"{name}_uri": original.uri, f"{name}_uuid": original.uuid}
    numbers = next((source.class_to_idx for source in record.data.stages.get("train", []) if source.class_to_idx), None)
    if numbers is not None:
        found["category_encoding"] = searchable(numbers)
    return found


def evaluation_annotations(evaluation: Evaluation, model: str) -> dict[str, Any]:
    """Return the annotations of an evaluation's dataset.

    Args:
        evaluation: The evaluation.
        model: The name of the model's class.

    Returns:
        Values by name. `source_dataset_uuid` lists the checkpoint and the data, in this order: dserver shows both
        as sources.
    """
    checkpoint, data = evaluation.checkpoint, evaluation.data
    return {
        **source_annotations([DatasetReference(**checkpoint), DatasetReference(**data)]),
        "model_name": model,
        "metrics": searchable(evaluation.metrics),
        "evaluated_checkpoint_uri": checkpoint["uri"],
        "evaluated_checkpoint_uuid": checkpoint["uuid"],
        "evaluated_part": evaluation.part,
        "evaluated_task": evaluation.task,
        "evaluated_samples": evaluation.count,
        "evaluated_training_items": evaluation.training_items,
        "evaluated_missing_weights": len(evaluation.missing_keys),
        "lightning_dtool_version": evaluation.versions["lightning_dtool"],
    }


def reproduction_annotations(found: Reproduction) -> dict[str, Any]:
    """Return the annotations of the dataset with the result of a rerun.

    Args:
        found: The result.

    Returns:
        Values by name. The source datasets are the recorded checkpoint and, if there are any, that of the rerun and the
        earlier one from which it resumed.
    """
    return {
        **source_annotations(found.checkpoints),
        "verdict": found.verdict.value,
        "metrics": searchable(
            {
                row.name: {"recorded": strict_json(row.recorded), "rerun": strict_json(row.rerun)}
                for row in found.metrics
            }
        ),
    }


def source_annotations(datasets: Sequence[DatasetReference]) -> dict[str, Any]:
    """Return dtool's annotations for a derived dataset. Each is a string, or a list if there are several sources."""
    columns = {
        "source_dataset_name": [dataset.name for dataset in datasets],
        "source_dataset_uri": [dataset.uri for dataset in datasets],
        "source_dataset_uuid": [dataset.uuid for dataset in datasets],
    }
    return {name: _one_or_all(values) for name, values in columns.items()}


def _one_or_all(values: Iterable[Any]) -> Any:
    found = list(values)
    return found[0] if len(found) == 1 else found


def _short(class_path: str) -> str:
    return class_path.rpartition(":")[2]


def _learning_rates(record: Provenance) -> list[float]:
    """Return the distinct learning rates, and instead of those that a scheduler has changed, their initial values."""
    groups = [group.options for optimizer in record.optimizers for group in optimizer.param_groups]
    rates = [options.get("initial_lr", options.get("lr")) for options in groups]
    # A learning rate that is a tensor is recorded with its type and its value.
    numbers = [rate.get("value") if isinstance(rate, dict) else rate for rate in rates]
    return list(dict.fromkeys(rate for rate in numbers if isinstance(rate, int | float) and not isinstance(rate, bool)))


def searchable(value: Any) -> Any:
    """Return strict JSON with keys that a Mongo database accepts."""
    if isinstance(value, dict):
        return _with_searchable_keys({key: searchable(item) for key, item in value.items()})
    return [searchable(item) for item in value] if isinstance(value, list) else value


def _with_searchable_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values under searchable keys. `a.b` and `a_b` remain two keys."""
    found: dict[str, Any] = {}
    # Keys that need no change are inserted first, so that they keep their names.
    for key in sorted(values, key=lambda key: searchable_key(key) != key):
        name = searchable_key(key)
        while name in found:
            name += "_"
        found[name] = values[key]
    return found


def searchable_key(key: str) -> str:
    """Return a key without dots and without a leading dollar sign.

    >>> searchable_key("optimizer.lr"), searchable_key("$ref")
    ('optimizer_lr', '_ref')
    """
    key = key.replace(".", "_").replace("\0", "_")
    return f"_{key[1:]}" if key.startswith("$") else key
