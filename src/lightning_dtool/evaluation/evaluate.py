"""The evaluation of a checkpoint on a dataset."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_dtool._public import public
from lightning_dtool._version import __version__
from lightning_dtool.checkpoint import DtoolCheckpoint, build_to_run
from lightning_dtool.errors import (
    ConfigurationError,
    EvaluationError,
    ModuleLoadError,
    ProvenanceWarning,
    UnsafeCheckpointError,
)
from lightning_dtool.evaluation.held_out import HeldOut, held_out
from lightning_dtool.evaluation.inference import Inference
from lightning_dtool.evaluation.scoring import Predictions, Scores, check_names, score
from lightning_dtool.evaluation.storing import store
from lightning_dtool.loading.building import Built
from lightning_dtool.loading.caller import is_command_line
from lightning_dtool.loading.messages import listed
from lightning_dtool.record import DatasetReference
from lightning_dtool.results.evaluation import Evaluation
from lightning_dtool.store import ensure_writable


@public
def evaluate(
    uri: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    metrics: str | Sequence[str] | None = None,
    into: str | os.PathLike[str] | None = None,
    part: str | None = None,
    select: Mapping[str, Any] | None = None,
    target: str | Callable[[Any], Any] | None = None,
    decoder: Callable[[Any], Any] | None = None,
    eval_transform: Callable[[Any], Any] | None = None,
    target_transform: Callable[[Any], Any] | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    cls: type[LightningModule] | None = None,
    arguments: Mapping[str, Any] | None = None,
    allow_missing: bool = False,
    trust_source: bool = False,
    online: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a checkpoint's model on a dataset.

    Samples are decoded and transformed as they were for validation during training, according to the record. Classes
    keep the numbers that they had in training. By default the whole dataset is used. If the training used it
    through a DtoolDataModule, only the part that was held out for testing is used; without such a part, the one for
    validation; without either, the one for training. If the model was trained on some of the samples, you get a
    warning. Such samples are also detected in another dataset, as long as the training data can be read.

    The model runs in evaluation mode and without gradients: `forward` is called with each batch, after the module's
    batch transfer hooks. An output with one column per class is interpreted as probabilities if the values lie between
    0 and 1 and each row adds up to 1, and as logits otherwise. A single column is the score of the second of two
    classes, or a number for regression.

    `evaluate` does not call `test_step`. To compute the metrics that a module logs itself, use
    `Trainer.test(model, DtoolDataModule(...))`. Models whose `forward` does not return one tensor of scores, such as
    detectors or language models, cannot be evaluated.

    Args:
        uri: The checkpoint's URI, or its folder.
        data: The dataset's URI, or its folder.
        metrics: Names of metrics, as a list or as one string separated by commas. For classification: accuracy,
            balanced_accuracy, precision, recall, f1, auroc, cohen_kappa, matthews, calibration_error. For regression:
            mse, rmse, mae, r2, pearson, spearman. `Evaluation.settings` defines each of them. Default: accuracy,
            balanced_accuracy, f1, auroc and calibration_error (with two classes and one output also precision and
            recall); rmse, mae, r2 and pearson for regression.
        into: A base URI. The result is stored there as a dataset that is derived from both. Default: not stored.
        part: "test", "val" or "train" for a part of the dataset that the model was trained with, or "whole". Default:
            as described above.
        select: Overlay names, each with the wanted value or a list of values. Selects from the whole dataset, so it
            cannot be combined with another `part`.
        target: Replaces the recorded argument; see `DtoolDataModule` for this one and the next four.
        decoder: Replaces the recorded argument.
        eval_transform: Replaces the recorded argument.
        target_transform: Replaces the recorded argument.
        collate_fn: Replaces the recorded argument.
        batch_size: Samples per batch. Default: the recorded batch size for evaluation, or 32 if there is none. It
            changes the metrics only by rounding.
        num_workers: Processes that load data. Default: 0, which loads data in this process.
        device: Where the model runs. Default: "cpu".
        cls: The model's class. Default: the class that the record names, if `DtoolCheckpoint.load_module` imports it.
        arguments: Hyperparameters and arguments of the model's class that replace the saved ones or that were not
            saved, as `DtoolCheckpoint.load_module` takes them. Default: none.
        allow_missing: Evaluate even if the checkpoint does not hold all weights of the model, for example only those of
            an adapter. The others are as the constructor of the class makes them, so this is right only if it loads
            them. Default: such a checkpoint is an error.
        trust_source: Run code from the checkpoint: build classes that cannot be imported from the recorded source,
            unpickle what a safe load refuses, and import functions that the record names. Default: each of these is an
            error, except the transforms of torchvision.
        online: Open the recorded training data in whatever store it is, to find samples that the model was trained on.
            Default: only in the store of the checkpoint or of `data`, on disk if the checkpoint is there or in a store
            of yours, and in stores that you have configured.
        progress: Show progress bars if the output is a terminal. Default: no progress bars.

    Returns:
        The metrics, with everything that is needed to interpret them. Each of its `warnings` is also issued as a
        `ProvenanceWarning`.

    Raises:
        ConfigurationError: If a metric is unknown or does not fit the task, if the data has no targets or no such
            part, or if a recorded function cannot be imported.
        DecodeError: If a sample cannot be decoded, or has a class that the model does not know.
        EvaluationError: If the model fails on the data, its output cannot be interpreted, or the checkpoint does not
            hold all of its weights.
        ModuleLoadError: If the model's class cannot be loaded, or the model cannot be made.
        UnsafeCheckpointError: If a safe load refuses the checkpoint.
        DatasetNotFoundError: If there is no checkpoint or no dataset.
        NotACheckpointError: If `uri` is not a checkpoint.
        SelectionError: If no sample is selected.
        VerificationError: If content differs from its hash, or a recorded part from its recorded digest.
        StoreError: If a store cannot be read or written.

    Example:
        ```python
        found = evaluate("models/leafnet", "data/leaves-2026", metrics="accuracy,f1", into="results")
        print(found.metrics["accuracy"], found.per_class["oak"], found.dataset_uri)
        ```
    """
    check_names(metrics)
    base = None if into is None else ensure_writable(into)
    place = _device(device)
    checkpoint = DtoolCheckpoint.from_uri(uri)
    given = {
        "target": target,
        "decoder": decoder,
        "eval_transform": eval_transform,
        "target_transform": target_transform,
        "collate_fn": collate_fn,
    }
    chosen = held_out(
        checkpoint.record,
        checkpoint.uri,
        data,
        part=part,
        select=select,
        readers=given,
        trust_source=trust_source,
        online=online,
    )
    notes = list(chosen.notes)
    # A new module draws random numbers for initial weights, which are then replaced.
    with warnings.catch_warnings(record=True) as caught, isolate_rng():
        warnings.simplefilter("always", ProvenanceWarning)
        built = _built(checkpoint, cls, arguments or {}, trust_source)
    missing = _missing(checkpoint, built)
    if missing and not allow_missing:
        raise EvaluationError(
            f"the checkpoint does not hold all weights of {type(built.module).__qualname__}: {listed(missing)}. They"
            " would be as the constructor of the class makes them, and the metrics those of another model. If the"
            " constructor loads them from where the training had them, use allow_missing=True (--allow-missing).",
            uri=checkpoint.uri,
        )
    if built.by_class and missing:
        notes.append(f"The checkpoint does not hold these weights, which the class loads itself: {listed(missing)}.")
    for warning in caught:
        if issubclass(warning.category, ProvenanceWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    chosen.dataset.dataset.fetch(dict.fromkeys(chosen.dataset.identifiers), progress=progress)
    inference = Inference(chosen, checkpoint.record, lambda task: check_names(metrics, task) or [])
    size = chosen.batch_size if batch_size is None else batch_size
    inference.run(built.module, place, batch_size=size, workers=num_workers, progress=progress)
    predictions, output = inference.predictions(notes)
    scores = score(predictions, inference.metrics)
    notes += [f"The metric {name} is undefined: {reason}" for name, reason in scores.undefined.items()]
    evaluation = _evaluation(checkpoint, chosen, predictions, scores, output, inference.classes, missing, notes)
    if base is not None:
        evaluation = store(evaluation, checkpoint.record, chosen, predictions, base)
    for note in evaluation.warnings:
        warnings.warn(note, ProvenanceWarning, stacklevel=2)
    return evaluation


def _evaluation(
    checkpoint: DtoolCheckpoint,
    chosen: HeldOut,
    predictions: Predictions,
    scores: Scores,
    output: str,
    classes: list[str] | None,
    missing: list[str],
    notes: list[str],
) -> Evaluation:
    packages = {name: version(name) for name in ("lightning", "torch", "torchmetrics")}
    return Evaluation(
        checkpoint=DatasetReference.of(checkpoint.dataset).model_dump(),
        data=DatasetReference.of(chosen.dataset.dataset).model_dump(),
        part=chosen.part,
        reading=chosen.reading,
        count=len(predictions.target),
        training_items=chosen.training_items,
        missing_keys=missing,
        task=predictions.task,
        metrics=scores.metrics,
        settings=scores.settings,
        output=output,
        classes=classes,
        per_class=dict(zip(classes or [], scores.per_class, strict=True)),
        confusion=scores.confusion,
        warnings=notes,
        versions={"lightning_dtool": __version__, **packages},
        evaluated_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _built(
    checkpoint: DtoolCheckpoint, cls: type[LightningModule] | None, arguments: Mapping[str, Any], trust_source: bool
) -> Built:
    try:
        return build_to_run(checkpoint, cls, arguments, trust_source)
    except (ModuleLoadError, UnsafeCheckpointError) as error:
        if is_command_line():
            hint = "Arguments can be given only in Python: evaluate(..., arguments={...})."
            trust = " --trust-source allows all that needs trust."
        else:
            hint = "For evaluate, that is cls=... and arguments={...}."
            trust = " trust_source=True allows all that needs trust."
        raise type(error)(
            f"{error.reason} {hint}{'' if trust_source else trust}",
            uri=error.uri,
            path=error.path,
        ) from error


def _missing(checkpoint: DtoolCheckpoint, built: Built) -> list[str]:
    """Return the names of the weights that the checkpoint does not hold."""
    # What a class loads in its own way is not seen here. Then the record says what was missing when it was saved.
    return list(checkpoint.record.checkpoint.missing_keys if built.by_class else built.missing)


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise ConfigurationError(
            f"device={str(device)!r} cannot be used here: {reason}. Choose another one, such as 'cpu'."
        ) from error
    return place
