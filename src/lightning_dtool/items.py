"""The names of the items and tags in the datasets that this package writes, and of the section in a checkpoint."""

from collections.abc import Collection, Mapping
from typing import Any

CHECKPOINT_ITEM = "checkpoint.ckpt"
RECORD_ITEM = "provenance.json"
SOURCE_ITEM = "source.zip"
REQUIREMENTS_ITEM = "requirements.txt"
RANDOM_STATES_ITEM = "random_states.json"
INITIAL_WEIGHTS_ITEM = "initial_weights.ckpt"
TRACE_ITEM = "trace.jsonl"

VERDICT_ITEM = "verdict.json"
LOG_ITEM = "log.txt"

METRICS_ITEM = "metrics.json"
PREDICTIONS_ITEM = "predictions.csv"
CONFUSION_ITEM = "confusion_matrix.csv"
PICTURE_ITEM = "confusion_matrix.png"

_DESCRIPTIONS = {
    CHECKPOINT_ITEM: "the Lightning checkpoint, a plain torch file",
    RECORD_ITEM: "the provenance record: data, code, settings, environment and metrics of the training",
    SOURCE_ITEM: "the code that ran",
    REQUIREMENTS_ITEM: "the installed packages with their versions",
    RANDOM_STATES_ITEM: "the states of the random number generators at the moments that the record names",
    INITIAL_WEIGHTS_ITEM: "the weights before the first optimizer step, a plain torch file",
    TRACE_ITEM: "digests of the parameters after each optimizer step, a line each",
    VERDICT_ITEM: "the verdict and the whole comparison of the two checkpoints",
    LOG_ITEM: "the output of the training that was run again",
    METRICS_ITEM: "the metrics and the settings they were computed with",
    PREDICTIONS_ITEM: "the prediction for each sample",
    CONFUSION_ITEM: "the number of samples of each true class (row) that were predicted as each class (column)",
    PICTURE_ITEM: "the confusion matrix as a picture",
}

RESUMPTION_SECTION = "lightning_dtool"
"""The key in a Lightning checkpoint under which the additional state for an exact resume is stored."""

DATASET_KEY = "dataset"
"""The key in this section of the URI and the UUID of the checkpoint's dataset."""

CHECKPOINT_TAG = "lightning-checkpoint"
"""The tag of every checkpoint dataset."""

REPRODUCTION_TAG = "lightning-reproduction"
"""The tag of every dataset with the result of a rerun."""

EVALUATION_TAG = "lightning-evaluation"
"""The tag of every dataset with an evaluation."""

BEST_TAG = "best"
LAST_TAG = "last"
SUPERSEDED_TAG = "superseded"


def item_descriptions(relpaths: Collection[str]) -> dict[str, str]:
    """Return a description for people of each item of a dataset.

    Args:
        relpaths: The relative paths of the items that the dataset holds.

    Returns:
        The descriptions by relative path, the most important item first.

    Raises:
        KeyError: If this package writes no item of that name.

    Example:
        >>> item_descriptions(["source.zip", "checkpoint.ckpt"])
        {'checkpoint.ckpt': 'the Lightning checkpoint, a plain torch file', 'source.zip': 'the code that ran'}
    """
    unknown = set(relpaths) - _DESCRIPTIONS.keys()
    if unknown:
        raise KeyError(", ".join(sorted(unknown)))
    return {relpath: text for relpath, text in _DESCRIPTIONS.items() if relpath in relpaths}


def with_dataset(checkpoint: Mapping[str, Any], uri: str, uuid: str) -> dict[str, Any]:
    """Return a checkpoint whose section names its dataset, so that a copy of the file still leads there.

    Args:
        checkpoint: The checkpoint, which is not changed. If it has no section, none is added.
        uri: The dataset's URI.
        uuid: The dataset's UUID.
    """
    section = checkpoint.get(RESUMPTION_SECTION)
    if not isinstance(section, dict):
        return dict(checkpoint)
    return {**checkpoint, RESUMPTION_SECTION: {**section, DATASET_KEY: {"uri": uri, "uuid": uuid}}}


def without_dataset(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose section does not name its dataset, to compare states.

    Args:
        checkpoint: The checkpoint, which is not changed.
    """
    section = checkpoint.get(RESUMPTION_SECTION)
    if not isinstance(section, dict):
        return dict(checkpoint)
    return {**checkpoint, RESUMPTION_SECTION: {key: value for key, value in section.items() if key != DATASET_KEY}}
