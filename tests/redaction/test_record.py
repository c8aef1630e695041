"""Redaction of secrets in the values of a record; harmless values stay."""

# ruff: noqa: E501

import json
from typing import Any

import pytest

from lightning_dtool.record import Epoch, Gaps, Metrics, Model, to_json
from lightning_dtool.redaction.record import RecordRedactor, redact_mapping
from lightning_dtool.redaction.text import redact_argv
from lightning_dtool.values.writing import encode_all
from record.samples import record

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "hparams",
    [
        {"password": SECRET}, {"logger": {"api_key": SECRET}}, {"db": [{"token": [SECRET]}]}, {1: 2, "password": SECRET},
        {"x": {1: 2, "password": SECRET}}, {"x": ("password", SECRET)}, {"url": f"https://me:{SECRET}@host/x"},
        {"note": f"login with password={SECRET} please"}, {"x": {"auth": {"value": SECRET}}},
        {"note": f"Client(token='{SECRET}')"},
    ],
)  # fmt: skip
def test_secrets_in_hyperparameters_are_redacted(hparams: dict[Any, Any]) -> None:
    found = Gaps()
    encoded = redact_mapping(encode_all(hparams, Gaps()), found.at("model.hyperparameters"))
    assert SECRET not in json.dumps(encoded)
    assert found
    assert all(gap.fact.startswith("model.hyperparameters.") for gap in found)


@pytest.mark.parametrize(
    "key",
    ["AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "a1" * 18, "hf_" + "Ab1" * 10, "sk-" + "a1B2" * 8, "glpat-" + "x" * 20, "xoxb-" + "1" * 12,
     "eyJ" + "a" * 20 + "." + "eyJ" + "b" * 20 + "." + "c" * 20, "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"],
)  # fmt: skip
def test_keys_of_a_known_format_are_redacted_under_any_name(key: str) -> None:
    found = Gaps()
    assert key not in json.dumps(redact_mapping({"x": f"see {key} here"}, found.at("m")))
    assert [gap.fact for gap in found] == ["m.x"]
    assert key not in redact_argv(["train.py", key])[1]


def test_harmless_values_stay() -> None:
    values = {
        "lr": 0.1,
        "use_auth": False,
        "auth": True,
        "pad_token": "[PAD]",
        "token": "",
        "password": None,
        "note": "the token: of trust"[:9],
    }
    assert redact_mapping(values, Gaps()) == values


def test_what_changes_during_a_run_is_searched_again() -> None:
    redactor = RecordRedactor()
    epochs = [Epoch(epoch=epoch, global_step=epoch, seconds=1.0) for epoch in range(3)]
    first = record(metrics=Metrics(history=epochs))
    assert redactor.redact(first) is first
    planted = Epoch(epoch=3, global_step=3, seconds=1.0, metrics={"api_key": SECRET})
    # One after epochs that were searched, one in the place of such an epoch, and one in another section.
    for history, place in (([*epochs, planted], 3), ([epochs[0], planted, epochs[2]], 1)):
        redacted = redactor.redact(record(metrics=Metrics(history=history)))
        assert SECRET not in to_json(redacted)
        assert redacted.gaps[-1].fact == f"metrics.history[{place}].metrics.api_key"
    redacted = redactor.redact(record(model=Model(class_path="a:Net", hyperparameters={"api_key": SECRET})))
    assert SECRET not in to_json(redacted)
    assert redacted.gaps[-1].fact == "model.hyperparameters.api_key"
    again = redactor.redact(record(metrics=Metrics(history=[*epochs, planted])))
    assert SECRET not in to_json(again)
