"""Records written and read, other texts refused, and older records migrated."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_dtool.record.migrations as migrations
import lightning_dtool.record.reading as reading
from lightning_dtool.errors import NewerSchemaError, RecordError
from lightning_dtool.record import (
    MAX_INTEGER,
    SCHEMA_VERSION,
    Gap,
    Metrics,
    Model,
    Provenance,
    from_json,
    json_schema,
    to_json,
)
from record.samples import record

URI = "s3://lab-models/6a1c"
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(
    hyperparameters=st.dictionaries(TEXT, JSON, max_size=4),
    metrics=st.dictionaries(TEXT, JSON, max_size=4),
    gaps=st.lists(st.builds(Gap, fact=TEXT, reason=TEXT, remedy=TEXT), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_a_record_survives_writing_and_reading(hyperparameters: Any, metrics: Any, gaps: list[Gap]) -> None:
    written = record(
        model=Model(class_path="a:B", hyperparameters=hyperparameters),
        metrics=Metrics(at_checkpoint=metrics),
        gaps=gaps,
    )
    text = to_json(written)
    assert from_json(text, URI) == written
    assert from_json(text.encode(), URI) == written
    assert to_json(from_json(text, URI)) == text


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "1", '"text"', "\x00", b"\xff\xfe\x00garbage", b"\x80", "{}", '{"schema_version": true}',
        '{"schema_version": 0}', '{"schema_version": "1"}', '{"schema_version": null}', '{"schema_version": 1}', DEEP,
        '{"schema_version": ' + DEEP + "}", '{"schema_version": 1, "run": ' + "[" * 900 + "]" * 900 + "}",
        to_json(record())[:200], '{"schema_version": ' + "9" * 5000 + "}",
    ],
    ids=range(20),
)  # fmt: skip
def test_text_that_is_not_a_record_is_refused_with_its_uri(text: str | bytes) -> None:
    with pytest.raises(RecordError, match=URI) as caught:
        from_json(text, URI)
    assert "provenance.json" in caught.value.reason
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("depth", [100, 300, 900, 5000])
def test_deeply_nested_text_is_read_or_refused_with_its_uri(depth: int) -> None:
    content = json.loads(to_json(record()))
    nested = json.dumps(content).replace('{"lr": 0.1}', '{"lr": ' + "[" * depth + "]" * depth + "}")
    try:
        found = from_json(nested, URI)
    except RecordError as error:
        assert URI in str(error)  # noqa: PT017  # it may also be read
    else:
        to_json(found)  # what can be read can be shown and compared


def changed(**parts: Any) -> str:
    return json.dumps({**json.loads(to_json(record())), **parts})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (changed(metrics={"at_checkpoint": {"loss": float("nan")}}), "metrics.at_checkpoint.loss"),
        (changed(metrics={"at_checkpoint": {"loss": 2**70}}), "metrics.at_checkpoint.loss"),
        (changed(metrics={"at_checkpoint": {"loss": "\ud800"}}), "metrics.at_checkpoint.loss"),
        (changed(surprise=1), "surprise"),
        (changed(model={}), "model.class_path"),
    ],
)
def test_the_error_names_the_place_of_an_invalid_value(text: str, place: str) -> None:
    with pytest.raises(RecordError, match=place) as caught:
        from_json(text, URI)
    assert caught.value.uri == URI


def test_the_error_for_a_newer_record_says_how_to_read_it() -> None:
    with pytest.raises(NewerSchemaError, match=r"schema version 99.*pip install --upgrade lightning-dtool") as caught:
        from_json(changed(schema_version=99, surprise=1), URI)
    assert URI in str(caught.value)


def test_an_older_record_is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(content: dict[str, Any]) -> dict[str, Any]:
        return {
            **{key: value for key, value in content.items() if key != "computer"},
            "environment": content["computer"],
        }

    old = json.loads(to_json(record()))
    old["computer"] = old.pop("environment")
    for room in (migrations, reading):
        monkeypatch.setattr(room, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setitem(migrations.MIGRATIONS, SCHEMA_VERSION, rename)
    read = from_json(json.dumps(old), URI)
    assert read.environment.python == "3.11"
    assert read.schema_version == SCHEMA_VERSION + 1
    del old["computer"]
    with pytest.raises(RecordError, match=URI):  # instead of a KeyError
        from_json(json.dumps(old), URI)
    monkeypatch.delitem(migrations.MIGRATIONS, SCHEMA_VERSION)
    with pytest.raises(RecordError, match=URI):
        from_json(to_json(record()), URI)


def test_every_older_schema_has_a_migration() -> None:
    assert sorted(migrations.MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_written_records_match_the_published_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(to_json(record())), schema)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(record(metrics=Metrics(seconds=number)))
    unchecked = record().metrics.model_copy(update={"at_checkpoint": {"loss": [number]}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(record(metrics=unchecked))


def test_a_text_may_say_what_a_number_may_not() -> None:
    written = record(metrics=Metrics(at_checkpoint={"loss": "NaN", "bound": "-Infinity"}))
    assert from_json(to_json(written), URI) == written


def test_each_field_of_a_record_is_one_line() -> None:
    lines = to_json(record()).splitlines()
    assert len(lines) == len(Provenance.model_fields)
