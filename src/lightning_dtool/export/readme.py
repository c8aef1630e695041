"""README.yml of the datasets that hold a checkpoint, an evaluation or the result of a rerun."""

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from lightning_dtool.items import item_descriptions
from lightning_dtool.record import Provenance
from lightning_dtool.results.evaluation import Evaluation
from lightning_dtool.results.initial_weights import describe_origin
from lightning_dtool.results.reproduction import Reproduction


def readme(record: Provenance, uri: str, relpaths: Collection[str]) -> str:
    """Return the content of README.yml of a checkpoint's dataset.

    Args:
        record: The record.
        uri: The dataset's URI, for the lines that show how to load it.
        relpaths: The items of the dataset.
    """
    model = record.model.class_path.rpartition(":")[2]
    weights = record.model.initial_weights
    parents = [{"name": data.name, "uri": data.uri, "uuid": data.uuid} for data in record.lineage.parents]
    content: dict[str, Any] = {
        "description": (
            f"Checkpoint of {model} after {record.checkpoint.global_step} optimizer steps "
            f"(epoch {record.checkpoint.epoch}), written by lightning-dtool {record.run.lightning_dtool_version}."
        ),
        "creation_date": record.checkpoint.saved_at.date().isoformat(),
        "creator": {"username": record.run.creator_username},
        "model": {
            "class": record.model.class_path,
            "parameters": record.model.parameters_total,
            "hyperparameters": record.model.hyperparameters,
            **({"initial_weights": describe_origin(weights)} if weights is not None else {}),
        },
        "metrics": record.metrics.at_checkpoint,
        # dserver draws lineage from `derived_from.uuid`. The training data are in annotations that it reads, too.
        **({"derived_from": parents} if parents else {}),
        "training_data": [
            {"name": data.name, "uri": data.uri, "uuid": data.uuid} for data in record.lineage.source_datasets
        ],
        "not_recorded": [f"{gap.fact}: {gap.reason}" for gap in record.gaps],
        "how_to_load": (
            "from lightning_dtool import DtoolCheckpoint\n"
            f"checkpoint = DtoolCheckpoint.from_uri({uri!r})\n"
            "model = checkpoint.load_module()\n"
        ),
        "items": item_descriptions(relpaths),
    }
    return _dump(content)


_PARTS = {
    "whole": "all samples, or those that were selected",
    "test": "the samples that training held out for testing",
    "val": "the samples that training held out for validation",
    "train": "the samples that the model was trained on",
}


def evaluation_readme(evaluation: Evaluation, model: str, relpaths: Collection[str]) -> str:
    """Return the content of README.yml of an evaluation's dataset.

    Args:
        evaluation: The evaluation.
        model: The name of the model's class.
        relpaths: The items of the dataset.
    """
    checkpoint, data = (
        {key: source[key] for key in ("name", "uri", "uuid")} for source in (evaluation.checkpoint, evaluation.data)
    )
    trained_on = evaluation.training_items
    return _dump(
        {
            "description": (
                f"Evaluation of {model} on {evaluation.count} samples of {data['name']}, written by lightning-dtool"
                f" {evaluation.versions['lightning_dtool']}."
            ),
            "creation_date": evaluation.evaluated_at[:10],
            "checkpoint": checkpoint,
            "data": {
                **data,
                "part": f"{evaluation.part}: {_PARTS[evaluation.part]}",
                "read": evaluation.reading,
                "samples": evaluation.count,
                "of_these_trained_on": "unknown" if trained_on is None else trained_on,
            },
            "task": evaluation.task,
            "metrics": evaluation.metrics,
            "warnings": evaluation.warnings,
            "items": item_descriptions(relpaths),
        }
    )


def reproduction_readme(found: Reproduction, uri: str, relpaths: Collection[str]) -> str:
    """Return the content of README.yml of the dataset with the result of a rerun.

    Args:
        found: The result.
        uri: The dataset's URI.
        relpaths: The items of the dataset.
    """
    return _dump(
        {
            "description": f"Verdict of a {found.kind} of the checkpoint {found.original.name}: {found.verdict.value}.",
            "verdict": found.verdict.value,
            "reason": found.reason,
            "checkpoints": [{"name": entry.name, "uri": entry.uri, "uuid": entry.uuid} for entry in found.checkpoints],
            "items": item_descriptions(relpaths),
            "uri": uri,
        }
    )


def _dump(content: Mapping[str, Any]) -> str:
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


_OTHER_LINE_BREAKS = "\r\x85\u2028\u2029"


# If PyYAML was built with libyaml, `CSafeDumper` writes the same text in a fifth of the time.
class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A dumper of YAML for people: text of several lines is a block, and repeated values are written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if any(character in text for character in _OTHER_LINE_BREAKS):
        style = '"'  # readers turn these into spaces and ordinary line breaks, unless they are escaped
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
