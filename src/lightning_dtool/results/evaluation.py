"""The result of an evaluation: a model's metrics on a dataset."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lightning_dtool._public import public

Task = Literal["multiclass", "binary", "regression"]
"""The kind of problem that a model solves, which decides which metrics apply."""


@public
@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: a model's metrics on a dataset.

    Attributes:
        checkpoint: The checkpoint: `uri`, `uuid`, `name` and `content_digest`.
        data: The dataset, likewise.
        part: Which of its samples: `test`, `val` or `train` as the record divided it, or `whole`.
        reading: How they were selected and read: `select`, and whichever of `decoder`, `target`, `eval_transform`,
            `target_transform` and `collate_fn` was recorded or given.
        count: The number of samples.
        training_items: How many of these samples the model was trained on; None if that is unknown.
        missing_keys: The names of the model's weights that the checkpoint does not hold.
        task: `multiclass`, `binary` or `regression`.
        metrics: The value of each metric by name; None if the metric is undefined for this data.
        settings: For each metric, the torchmetrics function and the arguments that it was called with.
        output: How the model's output was interpreted: `logits`, `probabilities` or `values`.
        classes: The names of the classes in the order of their numbers; None for regression.
        per_class: By class name: `accuracy` (the fraction of its samples that were predicted correctly, 0 to 1; None
            without samples), `count` (the number of its samples) and `predicted` (how often it was predicted). Empty
            for regression.
        confusion: The confusion matrix: a row for each true class, a column for each predicted class, both in the
            order of `classes`. None for regression.
        warnings: Messages that limit what the metrics mean.
        versions: The versions of the packages that computed them.
        evaluated_at: The time in UTC, in ISO 8601.
        dataset_uri: The dataset that stores this result and the predictions; None if it was not stored.
    """

    checkpoint: dict[str, str]
    data: dict[str, str]
    part: str
    reading: dict[str, Any]
    count: int
    training_items: int | None
    missing_keys: list[str]
    task: Task
    metrics: dict[str, float | None]
    settings: dict[str, dict[str, Any]]
    output: str
    classes: list[str] | None
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]] | None
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    evaluated_at: str = ""
    dataset_uri: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as values that strict JSON can hold."""
        return asdict(self)

    def to_json(self) -> str:
        """Return all attributes as strict JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
