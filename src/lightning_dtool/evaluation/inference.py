"""A model's output for every sample of a dataset, and its interpretation."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from lightning_dtool.errors import ConfigurationError, EvaluationError, LightningDtoolError
from lightning_dtool.evaluation.held_out import HeldOut
from lightning_dtool.evaluation.scoring import Predictions
from lightning_dtool.record import Provenance
from lightning_dtool.results.evaluation import Task

_BETTER_FORWARD = (
    "Subclass the model, give it a forward that returns one tensor of scores, and pass the subclass as cls=..."
)


class Inference:
    """A model's output for every sample of a dataset.

    The outputs are written into arrays that are allocated once; no other object is kept for a sample.

    Args:
        chosen: The samples.
        record: The record of the model's checkpoint.
        metrics: A function that returns the names of the metrics for a task. It is called at the first batch, so that a
            metric that does not fit the task raises an error before the whole dataset is read.

    Attributes:
        task: The kind of problem that the model solves, decided by the first batch.
        metrics: The names of the metrics for this task.
    """

    def __init__(self, chosen: HeldOut, record: Provenance, metrics: Callable[[Task], list[str]]) -> None:
        self.chosen = chosen
        self.uri = chosen.dataset.dataset.uri
        self.count = len(chosen.dataset)
        self.losses = [call.name for call in record.loss.calls]
        self.metrics_of = metrics
        self.metrics: list[str] = []
        self.filled = 0

    def run(self, module: LightningModule, device: torch.device, batch_size: int, workers: int, progress: bool) -> None:
        """Run the model on all samples.

        Args:
            module: The model. It is moved to the device and set to evaluation mode.
            device: Where the model runs.
            batch_size: The number of samples per batch, at least 1.
            workers: The number of worker processes; with 0 this process loads the data.
            progress: Show a progress bar if the output is a terminal.

        Raises:
            ConfigurationError: If a number is invalid, or a metric does not fit the task.
            EvaluationError: If the model fails, or its output cannot be interpreted.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size!r}; expected a whole number, at least 1.")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise ConfigurationError(f"num_workers is {workers!r}; expected a whole number, at least 0.")
        loader: DataLoader[Any] = DataLoader(
            self.chosen.dataset,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=self.chosen.collate_fn,
            generator=torch.Generator(),  # without a generator of its own, the loader would draw a global random number
        )
        module.to(device).eval()
        with torch.no_grad():
            for number, batch in enumerate(_with_progress(loader, enabled=progress)):
                inputs, targets = self._pair(self._transferred(module, batch, device, number))
                self._take(self._forward(module, inputs), targets)
        if self.filled != self.count:
            raise EvaluationError(
                f"expected an output for each of {self.count} samples, found {self.filled}. collate_fn changes the"
                " number of samples; pass another collate_fn=...",
                uri=self.uri,
            )

    def _transferred(self, module: LightningModule, batch: Any, device: torch.device, number: int) -> Any:
        """Call the module's batch transfer hooks, as the Trainer does; some models normalise their input there."""
        try:
            batch = module.on_before_batch_transfer(batch, 0)
            batch = module.transfer_batch_to_device(batch, device, 0)
            return module.on_after_batch_transfer(batch, 0)
        except LightningDtoolError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"a batch transfer hook of {type(module).__qualname__} failed on batch {number}:"
                f" {type(error).__name__}: {error}. No Trainer is attached here. If the hook needs one, override it in"
                " a subclass, and pass the subclass as cls=...",
                uri=self.uri,
            ) from error

    def _pair(self, batch: Any) -> tuple[Any, torch.Tensor]:
        if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not isinstance(batch[1], torch.Tensor):
            raise EvaluationError(
                f"expected each batch to be a pair of inputs and a tensor of targets, found {_kind(batch)}."
                " Pass a collate_fn=... or target_transform=... that returns such a pair.",
                uri=self.uri,
            )
        return batch[0], batch[1]

    def _forward(self, module: LightningModule, inputs: Any) -> torch.Tensor:
        name = type(module).__qualname__
        try:
            output = module(inputs)
        except Exception as error:
            raise EvaluationError(
                f"{name}.forward failed on this dataset: {type(error).__name__}: {error}. It was called with"
                f" {_kind(inputs)}. If the data does not have the shape of the training data, pass eval_transform=...,"
                " or cls=... with a class whose forward accepts it.",
                uri=self.uri,
            ) from error
        if not isinstance(output, torch.Tensor):
            raise EvaluationError(
                f"{name}.forward returned {_kind(output)}; expected one tensor of shape (samples, classes) or"
                f" (samples,). {_BETTER_FORWARD}",
                uri=self.uri,
            )
        if not output.is_floating_point() or output.ndim not in (1, 2) or 0 in output.shape[1:]:
            raise EvaluationError(
                f"{name}.forward returned {_kind(output)}; expected floating-point scores of shape (samples, classes),"
                f" or (samples,) for one number each. {_BETTER_FORWARD}",
                uri=self.uri,
            )
        return output

    def _take(self, output: torch.Tensor, targets: torch.Tensor) -> None:
        # float32, or float64 where the model has that: NumPy has no bfloat16.
        scores = output.detach().to("cpu", torch.float64 if output.dtype == torch.float64 else torch.float32)
        scores = scores.reshape(len(scores), -1)
        truth = targets.detach().to("cpu")
        if len(truth) != len(scores) if truth.ndim else True:
            raise EvaluationError(
                f"the model returned {_kind(output)} for a batch whose targets are {_kind(targets)}; expected one"
                f" output per target. {_BETTER_FORWARD}",
                uri=self.uri,
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
                f"the model returned {_kind(output)} for a batch, after {self.filled} of {self.count} samples with"
                f" {self.scores.shape[1]} scores each; expected the same number for every sample. {_BETTER_FORWARD}",
                uri=self.uri,
            )
        self.scores[self.filled : end] = scores.numpy()
        self.truth[self.filled : end] = truth.numpy()
        self.filled = end

    def _task(self, scores: torch.Tensor, truth: torch.Tensor) -> Task:
        """Return the kind of problem that the model solves, decided by the first batch."""
        width, known = scores.shape[1], self.chosen.class_to_idx
        found = f"{width} scores for each sample, and targets {_kind(truth)}"
        if truth.is_floating_point():
            # A binary cross entropy takes the two classes as the floats 0 and 1.
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
            f"the model returned {found}. Supported are one column of scores per class, with class numbers as targets;"
            " one column with two classes; and, for regression, as many numbers as targets."
            f" {_BETTER_FORWARD} Or pass target=... or target_transform=...",
            uri=self.uri,
        )

    @property
    def classes(self) -> list[str] | None:
        """The name of each class number, or `output N` for an output that no class of the training has."""
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
        """Whether the targets are the recorded class numbers; a target_transform may change them."""
        known = self.chosen.class_to_idx
        if known is None or self.chosen.dataset.target_transform is None:
            return known is not None
        return bool(np.array_equal(np.asarray(self.chosen.dataset.targets), self.truth[:, 0]))

    def predictions(self, notes: list[str]) -> tuple[Predictions, str]:
        """Return the predictions, and how the model's output was interpreted.

        Args:
            notes: A list to which warnings about the interpretation are appended.

        Raises:
            EvaluationError: If an output is NaN, or a target is not one of the model's classes.
        """
        names = self.chosen.dataset.names
        lost = np.isnan(self.scores).any(1)
        if lost.any():
            raise EvaluationError(
                f"the model returned NaN for {int(lost.sum())} of {self.count} samples, the first of them"
                f" {names[int(lost.argmax())]}. Check the sample and the weights, or leave the sample out with"
                " select=...",
                uri=self.uri,
            )
        if self.task == "regression":
            return Predictions("regression", self.truth, self.scores), "values"
        truth, scores, count = self.truth[:, 0], self.scores, 2 if self.task == "binary" else self.scores.shape[1]
        strange = (truth < 0) | (truth >= count)
        if strange.any():
            first = int(strange.argmax())
            raise EvaluationError(
                f"sample {names[first]} has the class number {int(truth[first])}, but the model has outputs for 0 to"
                f" {count - 1}. Leave the sample out with select=..., or pass a target_transform=...",
                uri=self.uri,
            )
        if self.chosen.class_to_idx is not None and not self.has_names:
            notes.append("target_transform changes the class numbers, so the new numbers stand for the names.")
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
                "The model's outputs lie between 0 and 1, but do not add up to 1 for each sample. They are interpreted"
                " as logits, which may be wrong for a metric that needs probabilities (calibration_error)."
            )
        return Predictions("multiclass", truth, predicted, _softmax(scores)), "logits"


def _sigmoid(scores: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return torch.sigmoid(torch.from_numpy(scores)).numpy()


def _softmax(scores: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return torch.softmax(torch.from_numpy(scores), dim=1).numpy()


def _kind(value: Any) -> str:
    """Return a value's type and shape in words."""
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
