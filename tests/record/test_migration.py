"""A record that an older schema wrote is read by the present one, and says what that schema never asked."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_dtool.errors import NewerSchemaError, RecordError
from lightning_dtool.record import SCHEMA_VERSION, from_json, json_schema, to_json

OLD = Path(__file__).with_name("provenance-v1.json")
OLD_2 = Path(__file__).with_name("provenance-v2.json")
URI = "s3://lab-models/6a1cf62e-0f2c-4b0f-8f0b-0a54a4a1e111"


def missing(before: Any, after: Any, where: str) -> list[str]:
    if isinstance(before, dict):
        return [
            place
            for key, value in before.items()
            for place in (missing(value, after[key], f"{where}.{key}") if key in after else [f"{where}.{key}"])
        ]
    if isinstance(before, list) and before and isinstance(before[0], dict):
        return [
            place for index, value in enumerate(before) for place in missing(value, after[index], f"{where}[{index}]")
        ]
    return [] if before == after else [where]


def old() -> dict[str, Any]:
    return json.loads(OLD.read_text(encoding="utf-8"))


def test_a_record_of_schema_1_is_read() -> None:
    content = old()
    assert content["schema_version"] == 1
    record = from_json(OLD.read_bytes(), URI)
    assert record.schema_version == SCHEMA_VERSION
    # The two fields that have another shape now.
    assert [callback.class_path for callback in record.trainer.callbacks] == content["trainer"]["callbacks"]
    assert record.environment.accelerators == [content["environment"]["accelerator"]]


def test_nothing_that_schema_1_knew_is_lost() -> None:
    content = old()
    record = json.loads(to_json(from_json(json.dumps(content), URI)))
    callbacks, accelerator = content["trainer"].pop("callbacks"), content["environment"].pop("accelerator")
    assert [found["class_path"] for found in record["trainer"].pop("callbacks")] == callbacks
    assert record["environment"].pop("accelerators") == [accelerator]
    del content["schema_version"]

    assert missing(content, record, "") == []


def test_what_schema_1_never_asked_is_a_gap_and_not_a_guess() -> None:
    before, record = old(), from_json(OLD.read_bytes(), URI)
    assert record.loss.calls == []
    assert record.data.order == {}
    added = record.gaps[len(before["gaps"]) :]
    assert {"loss", "model.architecture", "randomness.states", "metrics.history"} <= {gap.fact for gap in added}
    assert all(re.search("schema [12]", gap.reason) and gap.remedy for gap in added)


def test_a_record_of_schema_2_is_read_and_loses_nothing() -> None:
    content = json.loads(OLD_2.read_text(encoding="utf-8"))
    assert content["schema_version"] == 2
    record = from_json(OLD_2.read_bytes(), URI)
    assert record.schema_version == SCHEMA_VERSION
    assert record.run.fit_index is None
    assert record.randomness.repeatable_by == "seed"  # it follows from the seed, which schema 2 knew
    assert [gap.fact for gap in record.gaps[len(content["gaps"]) :]] == ["run.fit_index"]
    again = json.loads(to_json(record))
    for part in content.keys() - {"schema_version", "gaps"}:
        assert missing(content[part], again[part], part) == []


def test_a_record_of_schema_2_without_a_seed_does_not_guess() -> None:
    content = json.loads(OLD_2.read_text(encoding="utf-8"))
    content["randomness"]["global_seed"] = None
    record = from_json(json.dumps(content), URI)
    assert record.randomness.repeatable_by is None
    assert {"run.fit_index", "randomness.repeatable_by"} <= {gap.fact for gap in record.gaps}


def test_a_migrated_record_is_one_of_the_present_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    text = to_json(from_json(OLD.read_bytes(), URI))
    jsonschema.validate(json.loads(text), json_schema())
    assert to_json(from_json(text, URI)) == text  # and is not migrated twice


@pytest.mark.parametrize("accelerator", [None, ""])
def test_no_accelerator_is_an_empty_list(accelerator: str | None) -> None:
    content = old()
    content["environment"]["accelerator"] = accelerator
    assert from_json(json.dumps(content), URI).environment.accelerators == []


@pytest.mark.parametrize(
    "damage", [{"trainer": 1}, {"environment": None}, {"trainer": {"callbacks": 1}}, {"gaps": 1}, {"surprise": 1}]
)
def test_a_damaged_record_of_schema_1_is_refused_by_name(damage: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=URI):
        from_json(json.dumps({**old(), **damage}), URI)


def test_a_record_of_the_next_schema_is_refused() -> None:
    with pytest.raises(NewerSchemaError, match=rf"{URI}.*version {SCHEMA_VERSION + 1}.*pip install --upgrade"):
        from_json(json.dumps({**old(), "schema_version": SCHEMA_VERSION + 1}), URI)
