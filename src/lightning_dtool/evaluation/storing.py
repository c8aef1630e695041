"""An evaluation as a frozen dataset: metrics, predictions and a confusion matrix."""

import csv
import io
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_dtool.evaluation.held_out import HeldOut
from lightning_dtool.evaluation.picture import confusion_picture
from lightning_dtool.evaluation.scoring import Predictions
from lightning_dtool.export.annotations import evaluation_annotations
from lightning_dtool.export.readme import evaluation_readme
from lightning_dtool.items import CONFUSION_ITEM, EVALUATION_TAG, METRICS_ITEM, PICTURE_ITEM, PREDICTIONS_ITEM
from lightning_dtool.record import Provenance
from lightning_dtool.results.evaluation import Evaluation
from lightning_dtool.store import DatasetWriter
from lightning_dtool.store.names import LONGEST_NAME, fitting_name

_ROWS = 20_000
"""The number of rows of the table of predictions that are written at once."""


def store(
    evaluation: Evaluation, record: Provenance, chosen: HeldOut, predictions: Predictions, base_uri: str
) -> Evaluation:
    """Write an evaluation and its predictions as a frozen dataset.

    Args:
        evaluation: The evaluation.
        record: The record of the evaluated checkpoint.
        chosen: The samples.
        predictions: The prediction for each sample.
        base_uri: Where the dataset is created.

    Returns:
        The evaluation with `dataset_uri`, and with a warning if the picture was left out.

    Raises:
        StoreError: If the dataset cannot be written; then nothing is left of it.
    """
    picture = None
    if evaluation.classes is not None and evaluation.confusion is not None:
        title = f"{evaluation.checkpoint['name']} on {evaluation.data['name']}"
        picture = confusion_picture(evaluation.confusion, evaluation.classes, title)
        if picture is None:
            note = (
                f"{PICTURE_ITEM} was left out, because matplotlib is not installed."
                " Install it with: pip install 'lightning-dtool[report]'"
            )
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
    """Return a unique name for an evaluation's dataset, which names the checkpoint and the data.

    Args:
        checkpoint: The checkpoint's name.
        data: The dataset's name.
    """
    unique = f"-{uuid.uuid4().hex[:8]}"
    # Each of the two names gets half of the length, or more if the other is shorter.
    left = LONGEST_NAME - len(f"-on-{data}{unique}")
    start = fitting_name(f"evaluation-{checkpoint}", longest=max(39, left))
    return fitting_name(f"{start}-on-{data}", unique)


def _table(names: Sequence[str], classes: list[str] | None, predictions: Predictions) -> Iterator[bytes]:
    """Yield the predictions as CSV, in blocks of rows, so that the whole text is never in memory at once."""
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
