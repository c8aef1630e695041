"""The annotations by which users and databases search for checkpoints."""

import ast
import json
import operator
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dtool.export.annotations import annotations, searchable, source_annotations
from lightning_dtool.record import (
    Data,
    DatasetReference,
    DataSource,
    Gap,
    Git,
    Lineage,
    Loss,
    LossCall,
    Metrics,
    Model,
    Monitor,
    Optimizer,
    ParameterGroup,
)
from record.samples import record

DATASET = DatasetReference(
    uri="s3://lab-data/1c10766c", uuid="1c10766c-c4a9-4a7f-8a22-3b7f2b1b9f60", name="leaves", content_digest="sha256:1"
)
KEYS = st.text(st.sampled_from(".$_a\0é"), max_size=4)
VALUES = st.recursive(
    st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)


def keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for item in value.values() for key in keys(item))]
    return [key for item in value for key in keys(item)] if isinstance(value, list) else []


def leaves(value: Any) -> list[int]:
    if isinstance(value, dict | list):
        return sorted(leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item))
    return [value]


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_every_key_is_valid_in_mongodb_and_no_value_is_lost(value: Any) -> None:
    found = searchable(value)
    assert all("." not in key and "\0" not in key and not key.startswith("$") for key in keys(found))
    assert leaves(found) == leaves(value)
    assert len(keys(found)) == len(keys(value))


def test_metrics_whose_names_differ_by_a_dot_are_both_kept() -> None:
    assert searchable({"val.loss": 1, "val_loss": 2}) == {"val_loss": 2, "val_loss_": 1}


def reference(name: str) -> DatasetReference:
    return DatasetReference(uri=f"s3://lab/{name}", uuid=f"uuid-{name}", name=name, content_digest="sha256:0")


def test_one_source_is_a_string_and_several_are_a_list() -> None:
    assert source_annotations([reference("a")]) == {
        "source_dataset_name": "a", "source_dataset_uri": "s3://lab/a", "source_dataset_uuid": "uuid-a",
    }  # fmt: skip
    assert source_annotations([reference("a"), reference("b")])["source_dataset_uuid"] == ["uuid-a", "uuid-b"]
    assert "source_dataset_uuid" not in annotations(record(), "running")


def test_a_record_becomes_annotations() -> None:
    found = annotations(
        record(
            model=Model(class_path="leaves.net:Outer.LeafNet", hyperparameters={"opt.lr": {"$x": 1}}),
            optimizers=[
                Optimizer(
                    class_path="torch.optim.adam:Adam",
                    defaults={},
                    param_groups=[
                        ParameterGroup(options={"lr": 0.1}, parameters=[]),
                        ParameterGroup(options={}, parameters=[]),
                    ],
                )
            ],
            data=Data(stages={"train": [DataSource(class_to_idx={"a.b": 1, "a_b": 0})]}),
            metrics=Metrics(at_checkpoint={"val.loss": 0.5}),
            lineage=Lineage(source_datasets=[reference("a")], parent_checkpoint=reference("p")),
            checkpoint=record().checkpoint.model_copy(
                update={"monitors": [Monitor(name="val.loss", mode="min", value=0.5)]}
            ),
            code=record().code.model_copy(update={"git": Git(commit="abc", dirty=False)}),
        ),
        "finished",
    )
    assert found["model_name"] == "Outer.LeafNet"
    assert found["model_parameters"] == {"opt_lr": {"_x": 1}}
    assert found["optimizer"] == "Adam"
    assert found["learning_rate"] == 0.1
    assert found["metrics"] == {"val_loss": 0.5}
    assert found["monitor"] == {"name": "val.loss", "mode": "min", "value": 0.5}
    assert found["category_encoding"] == {"a_b": 0, "a_b_": 1}
    assert (found["run_status"], found["git_commit"], found["parent_checkpoint_uuid"]) == ("finished", "abc", "uuid-p")
    json.dumps(found, allow_nan=False)
    assert all("." not in key for key in keys(found))


def optimizer(*rates: Any) -> Optimizer:
    groups = [ParameterGroup(options={"lr": rate}, parameters=[]) for rate in rates]
    return Optimizer(class_path="torch.optim.sgd:SGD", defaults={}, param_groups=groups)


@pytest.mark.parametrize(
    ("optimizers", "rates", "names"),
    [
        ([optimizer(1e-4)], 1e-4, "SGD"),
        ([optimizer(1e-3, 1e-3)], 1e-3, "SGD"),  # groups with equal rates give one value
        ([optimizer(1e-3, 1e-4)], [1e-3, 1e-4], "SGD"),
        ([optimizer(1e-3), optimizer(1e-4)], [1e-3, 1e-4], ["SGD", "SGD"]),
        ([optimizer("nan", True, 1)], 1, "SGD"),  # text does not match a number
        ([optimizer({"type": "torch:Tensor", "value": 0.1})], 0.1, "SGD"),
        ([optimizer({"type": "torch:Tensor", "repr": "?"})], [], "SGD"),
        ([], [], []),
    ],
)
def test_one_learning_rate_is_a_number_and_several_are_a_list(
    optimizers: list[Optimizer], rates: Any, names: Any
) -> None:
    found = annotations(record(optimizers=optimizers), "running")
    assert (found["learning_rate"], found["optimizer"]) == (rates, names)


def test_names_of_losses_and_the_number_of_gaps_are_annotated() -> None:
    def call(name: str) -> LossCall:
        return LossCall(name=name, kind="function")

    entropy, distance = call("torch.nn.functional:cross_entropy"), call("torch.nn.functional:mse_loss")
    found = annotations(record(loss=Loss(calls=[entropy]), gaps=[Gap(fact="x", reason="y")]), "running")
    assert (found["loss"], found["gaps"]) == ("cross_entropy", 1)
    found = annotations(record(loss=Loss(calls=[entropy, distance, entropy])), "running")
    assert (found["loss"], found["gaps"]) == (["cross_entropy", "mse_loss"], 0)


def matches(document: dict[str, Any], query: dict[str, Any]) -> bool:
    """Match like MongoDB, as far as `docs/how-to/search.md` needs."""

    def values(part: Any, path: list[str]) -> list[Any]:
        if not path:
            return part if isinstance(part, list) else [part]
        return values(part[path[0]], path[1:]) if isinstance(part, dict) and path[0] in part else []

    def fits(value: Any, condition: Any) -> bool:
        if not isinstance(condition, dict):
            return bool(value == condition)
        compare = {"$lt": operator.lt, "$gte": operator.ge}
        # Only numbers are compared: the text that stands for NaN is not a number.
        return all(type(value) in (int, float) and compare[name](value, limit) for name, limit in condition.items())

    return all(
        any(fits(found, wanted) for found in values(document, path.split("."))) for path, wanted in query.items()
    )


def test_the_documented_queries_find_the_expected_models() -> None:
    """Run the queries of `docs/how-to/search.md` on the annotations of three models."""
    page = Path(__file__).parents[2].joinpath("docs", "how-to", "search.md").read_text(encoding="utf-8")
    queries = [ast.literal_eval(found) for found in re.findall(r"^query\((\{.*?\})\)", page, re.MULTILINE | re.DOTALL)]
    assert len(queries) >= 4

    def model(name: str, accuracy: Any, *rates: float) -> dict[str, Any]:
        return {
            "annotations": annotations(
                record(
                    optimizers=[optimizer(*rates)],
                    loss=Loss(calls=[LossCall(name="torch.nn.functional:cross_entropy", kind="function")]),
                    metrics=Metrics(at_checkpoint={"val_acc": accuracy}),
                    lineage=Lineage(source_datasets=[reference(name), reference("shared")]),
                ),
                "finished",
            )
        }

    good = model("a", 0.95, 1e-4)
    good["annotations"] |= source_annotations([DATASET])
    groups, broken = model("b", 0.7, 1e-2, 1e-4), model("c", "nan", 0.1)
    groups["annotations"] |= source_annotations([reference("b"), DATASET])
    answers = {repr(query): [matches(found, query) for found in (good, groups, broken)] for query in queries}
    assert answers[repr({"annotations.source_dataset_uuid": DATASET.uuid})] == [True, True, False]
    assert answers[repr({"annotations.learning_rate": {"$lt": 0.001}})] == [True, True, False]
    assert answers[repr({"annotations.metrics.val_acc": {"$gte": 0.9}})] == [True, False, False]
    assert answers[repr({"annotations.loss": "cross_entropy"})] == [True, True, True]
