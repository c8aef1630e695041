"""What people and databases search for."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dtool.export.annotations import annotations, searchable, source_annotations
from lightning_dtool.record import (
    Data,
    DatasetReference,
    DataSource,
    Git,
    Lineage,
    Metrics,
    Model,
    Monitor,
    Optimizer,
    ParameterGroup,
)
from record.samples import record

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
def test_every_key_is_one_that_mongo_takes_and_nothing_is_lost(value: Any) -> None:
    found = searchable(value)
    assert all("." not in key and "\0" not in key and not key.startswith("$") for key in keys(found))
    assert leaves(found) == leaves(value)
    assert len(keys(found)) == len(keys(value))


def test_two_metrics_whose_names_differ_by_a_dot() -> None:
    assert searchable({"val.loss": 1, "val_loss": 2}) == {"val_loss": 2, "val_loss_": 1}


def reference(name: str) -> DatasetReference:
    return DatasetReference(uri=f"s3://lab/{name}", uuid=f"uuid-{name}", name=name, content_digest="sha256:0")


def test_one_source_is_a_string_and_several_are_a_list() -> None:
    assert source_annotations([reference("a")]) == {
        "source_dataset_name": "a", "source_dataset_uri": "s3://lab/a", "source_dataset_uuid": "uuid-a",
    }  # fmt: skip
    assert source_annotations([reference("a"), reference("b")])["source_dataset_uuid"] == ["uuid-a", "uuid-b"]
    assert "source_dataset_uuid" not in annotations(record(), "running")


def test_what_is_annotated() -> None:
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
    assert found["optimizer"] == ["Adam"]
    assert found["learning_rate"] == [0.1]
    assert found["metrics"] == {"val_loss": 0.5}
    assert found["monitor"] == {"name": "val.loss", "mode": "min", "value": 0.5}
    assert found["category_encoding"] == {"a_b": 0, "a_b_": 1}
    assert (found["run_status"], found["git_commit"], found["parent_checkpoint_uuid"]) == ("finished", "abc", "uuid-p")
    json.dumps(found, allow_nan=False)
    assert all("." not in key for key in keys(found))
