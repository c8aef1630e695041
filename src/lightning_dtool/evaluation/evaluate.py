"""A checkpoint, another dataset: how good is the model there? The answer may become a dataset itself."""

import csv
import io
import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_dtool._public import public
from lightning_dtool._version import __version__
from lightning_dtool.checkpoint import DtoolCheckpoint
from lightning_dtool.errors import ConfigurationError, EvaluationError, LightningDtoolError, ProvenanceWarning
from lightning_dtool.evaluation.held_out import HeldOut, held_out
from lightning_dtool.evaluation.picture import confusion_picture
from lightning_dtool.evaluation.scoring import Predictions, Scores, check_names, score
from lightning_dtool.export.annotations import evaluation_annotations
from lightning_dtool.export.readme import evaluation_readme
from lightning_dtool.items import CONFUSION_ITEM, EVALUATION_TAG, METRICS_ITEM, PICTURE_ITEM, PREDICTIONS_ITEM
from lightning_dtool.record import DatasetReference, Provenance
from lightning_dtool.results.evaluation import Evaluation, Task
from lightning_dtool.store import DatasetWriter, ensure_writable
from lightning_dtool.store.names import LONGEST_NAME, fitting_name

_ROWS = 20_000
"""Rows of a table that are written at once."""

_BETTER_FORWARD = (
    "Subclass the model, give it a forward that returns one tensor of scores, and pass the subclass as cls=..."
)


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
    trust_source: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Run a checkpoint's model over a dataset and measure how good it is.

    Samples are decoded and transformed as the record says that the model was evaluated in training, and classes have
    the numbers that they had there. The whole dataset is used; but of the one that the model was trained with, what
    was held out for testing, else for validation. That the model was trained on samples which it is evaluated on is a
    warning, also where they come in another dataset with the training data within reach.

    The model's `forward` is called with each batch, in evaluation mode and without gradients. A column per class is
    read as probabilities if it looks like it, else as logits. One column is the second of two classes, or a number.

    Args:
        uri: The checkpoint's URI, or its folder.
        data: The dataset's URI, or its folder.
        metrics: Names, or one text with commas. Classification: accuracy, balanced_accuracy, precision, recall, f1,
            auroc, cohen_kappa, matthews, calibration_error. Regression: mse, rmse, mae, r2, pearson, spearman. By
            default the usual ones. `Evaluation.settings` defines each of them.
        into: A base URI where the result is stored as a dataset derived from both. By default it is not stored.
        part: "test", "val" or "train" of the data that the model was trained with, or "whole". See above.
        select: Overlay names, each with the wanted value or a list of them; goes with the whole dataset.
        target: In place of the recorded one; like the next four see `DtoolDataModule`.
        decoder: In place of the recorded one.
        eval_transform: In place of the recorded one.
        target_transform: In place of the recorded one.
        collate_fn: In place of the recorded one.
        batch_size: Samples per batch. By default as in training.
        num_workers: Processes that load data; 0 loads in this one.
        device: Where the model runs.
        cls: The model's class. By default the one that the record names, imported.
        trust_source: Whether a class that cannot be imported is taken from the recorded source, and functions that the
            record names are imported. That runs code from the checkpoint. By default it is an error.
        progress: Whether to show a progress bar, on a terminal only.

    Returns:
        What was found. Every entry of its `warnings` is also a `ProvenanceWarning`.

    Raises:
        ConfigurationError: If a metric is not known or does not fit, if the data has no targets, or if a recorded
            function cannot be had.
        DecodeError: If a sample is of a class that the model does not know, or cannot be read.
        EvaluationError: If the model cannot be run on the data, or its output cannot be understood.
        ModuleLoadError, UnsafeCheckpointError: As `DtoolCheckpoint.load_module`.
        DatasetNotFoundError, NotACheckpointError, SelectionError, VerificationError, StoreError: If the checkpoint or
            the data is not there, or is not what it was.

    Example:
        ```python
        found = evaluate("s3://lab-models/6a1c…", "file:///data/leaves-2026", metrics="accuracy,f1", into="results")
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
        checkpoint.record, checkpoint.uri, data, part=part, select=select, readers=given, trust_source=trust_source
    )
    notes = list(chosen.notes)
    # A new module draws the random numbers of weights that it does not keep.
    with warnings.catch_warnings(record=True) as caught, isolate_rng():
        warnings.simplefilter("always", ProvenanceWarning)
        module = checkpoint.load_module(cls, trust_source=trust_source)
    for warning in caught:
        if issubclass(warning.category, ProvenanceWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    chosen.dataset.dataset.fetch(dict.fromkeys(chosen.dataset.identifiers), progress=progress)
    run = _Run(chosen, checkpoint.record, lambda task: check_names(metrics, task) or [])
    size = chosen.batch_size if batch_size is None else batch_size
    run.over(module, place, batch_size=size, workers=num_workers, progress=progress)
    predictions, output = run.predictions(notes)
    scores = score(predictions, run.metrics)
    notes += [f"The metric {name} has no value: {reason}" for name, reason in scores.undefined.items()]
    evaluation = _evaluation(checkpoint, chosen, predictions, scores, output, run.classes, notes)
    if base is not None:
        evaluation = _store(evaluation, checkpoint.record, chosen, predictions, base)
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


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"device={str(device)!r} cannot be used here: {reason} Use for instance 'cpu'."
        ) from error
    return place


# -- running the model ----------------------------------------------------------------------------


class _Run:
    """The model's output for every sample, in arrays that are made once: nothing is kept per sample but numbers."""

    def __init__(self, chosen: HeldOut, record: Provenance, metrics: Callable[[Task], list[str]]) -> None:
        self.chosen = chosen
        self.uri = chosen.dataset.dataset.uri
        self.count = len(chosen.dataset)
        self.losses = [call.name for call in record.loss.calls]
        self.metrics_of = metrics
        self.metrics: list[str] = []
        self.filled = 0

    def over(
        self, module: LightningModule, device: torch.device, batch_size: int, workers: int, progress: bool
    ) -> None:
        """Run the model over all samples."""
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size!r}; expected a whole number, at least 1.")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise ConfigurationError(f"num_workers is {workers!r}; expected a whole number, at least 0.")
        loader: DataLoader[Any] = DataLoader(
            self.chosen.dataset,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=self.chosen.collate_fn,
            generator=torch.Generator(),  # a loader without one of its own draws a global random number
        )
        module.to(device).eval()
        with torch.no_grad():
            for number, batch in enumerate(_with_progress(loader, enabled=progress)):
                inputs, targets = self._pair(self._transferred(module, batch, device, number))
                self._take(self._forward(module, inputs), targets)
        if self.filled != self.count:
            raise EvaluationError(
                f"expected an output for each of {self.count} samples, found {self.filled}: collate_fn"
                " makes other samples of them. Pass another collate_fn=...",
                uri=self.uri,
            )

    def _transferred(self, module: LightningModule, batch: Any, device: torch.device, number: int) -> Any:
        """Do with a batch what the Trainer does: some models normalise their input in these hooks."""
        try:
            batch = module.on_before_batch_transfer(batch, 0)
            batch = module.transfer_batch_to_device(batch, device, 0)
            return module.on_after_batch_transfer(batch, 0)
        except LightningDtoolError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"a hook of {type(module).__qualname__} that changes each batch failed on batch {number}:"
                f" {type(error).__name__}: {error}. Hooks that ask for a Trainer cannot run without one: override them"
                " in a subclass, and pass it as cls=...",
                uri=self.uri,
            ) from error

    def _pair(self, batch: Any) -> tuple[Any, torch.Tensor]:
        if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not isinstance(batch[1], torch.Tensor):
            raise EvaluationError(
                f"expected each batch to be a pair of inputs and a tensor of targets, found"
                f" {_kind(batch)}. Pass a collate_fn=... or target_transform=... that makes it one.",
                uri=self.uri,
            )
        return batch[0], batch[1]

    def _forward(self, module: LightningModule, inputs: Any) -> torch.Tensor:
        name = type(module).__qualname__
        try:
            output = module(inputs)
        except Exception as error:
            raise EvaluationError(
                f"{name} could not be run on {self.uri}: {type(error).__name__}: {error}. Its forward was called with"
                f" {_kind(inputs)}. Does the data have the shape of the training data? Pass eval_transform=... to give"
                " it that, or cls=... for a class whose forward takes it."
            ) from error
        if not isinstance(output, torch.Tensor):
            raise EvaluationError(
                f"{name}.forward returned {_kind(output)} on {self.uri}; expected one tensor: (samples, classes) or"
                f" (samples,). {_BETTER_FORWARD}"
            )
        if not output.is_floating_point() or output.ndim not in (1, 2) or 0 in output.shape[1:]:
            raise EvaluationError(
                f"{name}.forward returned {_kind(output)} on {self.uri}; expected floating-point scores of shape"
                f" (samples, classes), or (samples,) for one number each. {_BETTER_FORWARD}"
            )
        return output

    def _take(self, output: torch.Tensor, targets: torch.Tensor) -> None:
        # float32, or float64 where the model has that: NumPy has no bfloat16.
        scores = output.detach().to("cpu", torch.float64 if output.dtype == torch.float64 else torch.float32)
        scores = scores.reshape(len(scores), -1)
        truth = targets.detach().to("cpu")
        if len(truth) != len(scores) if truth.ndim else True:
            raise EvaluationError(
                f"The model returned {_kind(output)} for a batch of targets {_kind(targets)} of {self.uri}: there"
                f" should be as many of one as of the other. {_BETTER_FORWARD}"
            )
        truth = truth.reshape(len(truth), -1)
        if not self.filled:
            self.task = self._task(scores, truth)
            self.metrics = self.metrics_of(self.task)
            self.scores = np.empty((self.count, scores.shape[1]), scores.numpy().dtype)
            self.truth = np.empty((self.count, truth.shape[1]), np.float64 if self.task == "regression" else np.int64)
        end = self.filled + len(scores)
        same = scores.shape[1:] == self.scores.shape[1:] and truth.shape[1:] == self.truth.shape[1:]
        if not same or end > self.count:
            raise EvaluationError(
                f"the model returned {_kind(output)} for a batch after {self.filled} of {self.count}"
                f" samples with {self.scores.shape[1]} scores each: every sample needs as many. {_BETTER_FORWARD}",
                uri=self.uri,
            )
        self.scores[self.filled : end] = scores.numpy()
        self.truth[self.filled : end] = truth.numpy()
        self.filled = end

    def _task(self, scores: torch.Tensor, truth: torch.Tensor) -> Task:
        """Decide what the model does, by the first batch."""
        width, known = scores.shape[1], self.chosen.class_to_idx
        found = f"{width} scores for each sample, and targets {_kind(truth)}"
        if truth.is_floating_point():
            # A loss on probabilities wants 0 and 1 as floats, whatever they are called.
            by_loss = any("binary_cross_entropy" in name or "BCE" in name for name in self.losses)
            two = len(known) <= 2 if known is not None else by_loss and bool(((truth == 0) | (truth == 1)).all())
            if width == 1 and truth.shape[1] == 1 and two:
                return "binary"
            if width == truth.shape[1] and (known is None or width == 1):
                return "regression"
        elif truth.shape[1] == 1 and not truth.is_complex():
            if width > 1:
                return "multiclass"
            if known is None or len(known) <= 2:
                return "binary"
            found += f" of {len(known)} classes"
        raise EvaluationError(
            f"The model has {found} in {self.uri}. Understood are: a column of scores per class with class numbers as"
            " targets; one column with two classes; as many numbers as targets for regression."
            f" {_BETTER_FORWARD} Or pass target=... or target_transform=..."
        )

    @property
    def classes(self) -> list[str] | None:
        """The name of each class number; of one that the training had no class for, that it is an output."""
        if self.task == "regression":
            return None
        count = 2 if self.task == "binary" else self.scores.shape[1]
        names: dict[int, str] = {}
        if self.has_names:
            for name, number in (self.chosen.class_to_idx or {}).items():
                names[number] = f"{names[number]} or {name}" if number in names else str(name)
        return [names.get(number, f"output {number}" if self.has_names else str(number)) for number in range(count)]

    @property
    def has_names(self) -> bool:
        """Whether target numbers are the recorded ones: a target_transform may have made others of them."""
        known = self.chosen.class_to_idx
        if known is None or self.chosen.dataset.target_transform is None:
            return known is not None
        return bool(np.array_equal(np.asarray(self.chosen.dataset.targets), self.truth[:, 0]))

    def predictions(self, notes: list[str]) -> tuple[Predictions, str]:
        """Return what the model said, and how its output was read.

        Args:
            notes: Receives what is doubtful.
        """
        names = self.chosen.dataset.names
        lost = np.isnan(self.scores).any(1)
        if lost.any():
            raise EvaluationError(
                f"the model returned NaN for {int(lost.sum())} of {self.count} samples, the first of them"
                f" {names[int(lost.argmax())]}. Look at the sample, or at the weights, or leave it out with select=...",
                uri=self.uri,
            )
        if self.task == "regression":
            return Predictions("regression", self.truth, self.scores), "values"
        truth, scores, count = self.truth[:, 0], self.scores, 2 if self.task == "binary" else self.scores.shape[1]
        strange = (truth < 0) | (truth >= count)
        if strange.any():
            first = int(strange.argmax())
            raise EvaluationError(
                f"sample {names[first]} has the class number {int(truth[first])}, and the model has outputs"
                f" for 0 to {count - 1}. Leave it out with select=..., or pass a target_transform=...",
                uri=self.uri,
            )
        if self.chosen.class_to_idx is not None and not self.has_names:
            notes.append("target_transform changes the numbers of the classes: they are called by their new numbers.")
        inside = bool(((scores >= 0) & (scores <= 1)).all())
        if self.task == "binary":
            probabilities = scores if inside else _sigmoid(scores)
            predicted = (probabilities[:, 0] > 0.5).astype(np.int64)
            return Predictions("binary", truth, predicted, probabilities), "probabilities" if inside else "logits"
        predicted = scores.argmax(1)
        if inside and bool(np.allclose(scores.sum(1), 1, atol=1e-3)):
            return Predictions("multiclass", truth, predicted, scores), "probabilities"
        if inside:
            notes.append(
                "The model's outputs are between 0 and 1 and do not add up to 1 for each sample: they are taken for"
                " logits. Where a metric needs probabilities (calibration_error), that may be wrong."
            )
        return Predictions("multiclass", truth, predicted, _softmax(scores)), "logits"


def _sigmoid(scores: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return torch.sigmoid(torch.from_numpy(scores)).numpy()


def _softmax(scores: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return torch.softmax(torch.from_numpy(scores), dim=1).numpy()


def _kind(value: Any) -> str:
    """Say what a value is, without its content."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(repr, list(value)[:10]))}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(map(_kind, value[:3]))})"
    return f"a {type(value).__name__}"


def _with_progress(batches: "DataLoader[Any]", *, enabled: bool) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if enabled and console.is_terminal:
        return track(batches, "Evaluating", total=len(batches), console=console, transient=True)
    return batches


# -- storing what was found -----------------------------------------------------------------------


def _store(
    evaluation: Evaluation, record: Provenance, chosen: HeldOut, predictions: Predictions, base_uri: str
) -> Evaluation:
    """Write an evaluation as a frozen dataset, and return it with its address."""
    picture = None
    if evaluation.classes is not None and evaluation.confusion is not None:
        title = f"{evaluation.checkpoint['name']} on {evaluation.data['name']}"
        picture = confusion_picture(evaluation.confusion, evaluation.classes, title)
        if picture is None:
            note = f"{PICTURE_ITEM} is left out: matplotlib is not installed. pip install 'lightning-dtool[report]'"
            evaluation = replace(evaluation, warnings=[*evaluation.warnings, note])
    name = dataset_name(evaluation.checkpoint["name"], evaluation.data["name"])
    items = [METRICS_ITEM, PREDICTIONS_ITEM]
    with DatasetWriter(name, base_uri) as writer:
        with writer.open(PREDICTIONS_ITEM) as file:
            for block in _table(chosen.dataset.names, evaluation.classes, predictions):
                file.write(block)
        if evaluation.classes is not None and evaluation.confusion is not None:
            content: list[list[Any]] = [["true / predicted", *evaluation.classes]]
            content += [[name, *row] for name, row in zip(evaluation.classes, evaluation.confusion, strict=True)]
            writer.put_bytes(_csv(content), CONFUSION_ITEM)
            items.append(CONFUSION_ITEM)
        if picture is not None:
            writer.put_bytes(picture, PICTURE_ITEM)
            items.append(PICTURE_ITEM)
        evaluation = replace(evaluation, dataset_uri=writer.uri)
        writer.put_bytes(evaluation.to_json().encode(), METRICS_ITEM)
        model = record.model.class_path.rpartition(":")[2]
        writer.put_readme(evaluation_readme(evaluation, model, items))
        for key, value in evaluation_annotations(evaluation, model).items():
            writer.put_annotation(key, value)
        writer.put_tag(EVALUATION_TAG)
        writer.commit()
    return evaluation


def dataset_name(checkpoint: str, data: str) -> str:
    """Return a unique name that says what was evaluated on what.

    Args:
        checkpoint: The checkpoint's name.
        data: The dataset's name.
    """
    unique = f"-{uuid.uuid4().hex[:8]}"
    # Half of the room for each of the two names, and more if the other needs less.
    left = LONGEST_NAME - len(f"-on-{data}{unique}")
    start = fitting_name(f"evaluation-{checkpoint}", longest=max(39, left))
    return fitting_name(f"{start}-on-{data}", unique)


def _table(names: Sequence[str], classes: list[str] | None, predictions: Predictions) -> Iterator[bytes]:
    """Yield the predictions as CSV, block by block: a million samples as text would not be a small thing to hold."""
    truth, predicted = predictions.target, predictions.predicted
    if classes is None or predictions.probabilities is None:
        width = predicted.shape[1]
        numbers = [""] if width == 1 else [f"_{number}" for number in range(width)]
        yield _csv([["item", *(f"{column}{number}" for column in ("target", "prediction") for number in numbers)]])
        named = None
        values = np.concatenate([truth, predicted], axis=1)
    else:
        shown = classes if predictions.task == "multiclass" else classes[1:]
        yield _csv([["item", "target", "prediction", *(f"probability_{name}" for name in shown)]])
        named = np.array(classes, dtype=object)
        values = predictions.probabilities
    for start in range(0, len(names), _ROWS):
        rows = slice(start, start + _ROWS)
        # NumPy writes the shortest text that reads back as the same number.
        columns: list[Any] = [names[rows], *(() if named is None else (named[truth[rows]], named[predicted[rows]]))]
        columns += [column.astype(str).tolist() for column in values[rows].T]
        yield _csv(zip(*columns, strict=True))


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
