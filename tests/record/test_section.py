"""The parts of a record: strict JSON, immutable, with a description of every field."""

from datetime import datetime, timezone
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from lightning_dtool.record import Checkpoint, Gap, Model, Provenance, Run, Section


@pytest.mark.parametrize("section", Section.__subclasses__(), ids=lambda section: section.__name__)
def test_every_field_has_a_description(section: type[BaseModel]) -> None:
    assert section.__doc__
    assert [name for name, field in section.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1.0, float("nan")]}, r"a\[1\]"),
        ({"a": {"b": float("inf")}}, r"a\.b"),
        ({"a": 2**63}, "a: the integer"),
        ({"a": {1: 2}}, "a: the key 1"),
        ({"a": (1, 2)}, "a: a tuple"),
        ({"a": "\ud800"}, "a: .*UTF-8"),
        ({"a": {"\ud800": 1}}, "UTF-8"),
        ({"a": object()}, "a: a object"),
    ],
)
def test_the_error_names_the_place_of_a_value_that_is_not_json(value: Any, place: str) -> None:
    with pytest.raises(ValidationError, match=place):
        Model(class_path="a:B", hyperparameters={"x": value})


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(ValidationError, match="reson"):
        Gap(fact="x", reson="y")  # type: ignore[call-arg]


def test_a_record_is_immutable() -> None:
    gap = Gap(fact="x", reason="y")
    with pytest.raises(ValidationError, match="frozen"):
        gap.fact = "z"  # type: ignore[misc]


def test_a_time_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        Run(uuid="u", started_at=datetime(2024, 1, 1), creator_username="me", lightning_dtool_version="1")


def test_a_step_beyond_eight_bytes_is_refused() -> None:
    with pytest.raises(ValidationError, match="global_step"):
        Checkpoint(filename="a", epoch=0, global_step=2**63, saved_at=datetime.now(timezone.utc), weights_only=False)


def test_defaults_are_not_shared_between_records() -> None:
    one, two = Model(class_path="a:B"), Model(class_path="a:B")
    one.hyperparameters["x"] = 1
    assert two.hyperparameters == {}
    assert Provenance.model_fields["data"].default.stages == {}
