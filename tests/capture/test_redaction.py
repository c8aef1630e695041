"""No secret gets into a record, and what is none stays."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lightning_dtool.capture.code import capture_git
from lightning_dtool.capture.redaction import is_secret_name, redact_argv, redact_mapping, redact_text
from lightning_dtool.capture.values import encode_all

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "db_password", "passwd", "api_key", "apiKey", "API-KEY", "wandb.api_key", "token", "hf_token",  # noqa: E501
     "accessToken", "aws_secret_access_key", "aws_access_key_id", "client_secret", "secret_key", "private_key", "credentials",  # noqa: E501
     "auth", "Authorization", "passphrase", "--token", "+db.password", "pwd"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name.lstrip("+-"))


@pytest.mark.parametrize(
    "name", ["num_tokens", "tokenizer", "pad_token", "eos_token", "author", "lr", "key", "passes", "", "mask_token"]
)
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "argv",
    [
        ["--password", SECRET], [f"--password={SECRET}"], [f"--data.init_args.api_key={SECRET}"], [f"db.password={SECRET}"],  # noqa: E501
        [f"--url=postgres://me:{SECRET}@host/db"], [f"https://host/x?token={SECRET}&y=1"], ["--cfg", json.dumps({"password": SECRET})],  # noqa: E501
        [f"--header=Authorization: Bearer {SECRET}"], [f"s3://me:p@{SECRET}@host/bucket"], ["--opts", f"lr=1,token={SECRET}"],  # noqa: E501
    ],
)  # fmt: skip
def test_no_secret_in_the_command_line(argv: list[str]) -> None:
    assert SECRET not in json.dumps(redact_argv(["train.py", *argv]))


def test_the_rest_of_the_command_line_stays() -> None:
    argv = [
        "train.py",
        "--lr",
        "0.1",
        "--data=/x/y",
        "model.pad_token=[PAD]",
        "--tokenizer=bpe",
        "user@host",
        "--name",
        "a: b",
    ]
    assert redact_argv(argv) == argv


@pytest.mark.parametrize(
    "hparams",
    [
        {"password": SECRET}, {"logger": {"api_key": SECRET}}, {"db": [{"token": [SECRET]}]}, {1: 2, "password": SECRET},  # noqa: E501
        {"x": {1: 2, "password": SECRET}}, {"x": ("password", SECRET)}, {"url": f"https://me:{SECRET}@host/x"},
        {"note": f"login with password={SECRET} please"}, {"x": {"auth": {"value": SECRET}}},
        {"note": f"Client(token='{SECRET}')"},
    ],
)  # fmt: skip
def test_no_secret_in_the_hyperparameters(hparams: dict[Any, Any]) -> None:
    found: list[str] = []
    encoded = redact_mapping(encode_all(hparams, "model.hyperparameters", []), "model.hyperparameters", found)
    assert SECRET not in json.dumps(encoded)
    assert found
    assert all(place.startswith("model.hyperparameters.") for place in found)


@pytest.mark.parametrize(
    "key",
    ["AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "a1" * 18, "hf_" + "Ab1" * 10, "sk-" + "a1B2" * 8, "glpat-" + "x" * 20, "xoxb-" + "1" * 12,  # noqa: E501
     "eyJ" + "a" * 20 + "." + "eyJ" + "b" * 20 + "." + "c" * 20, "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"],  # noqa: E501
)  # fmt: skip
def test_keys_of_known_shape_are_hidden_under_any_name(key: str) -> None:
    found: list[str] = []
    assert key not in json.dumps(redact_mapping({"x": f"see {key} here"}, "m", found))
    assert found == ["m.x"]
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
    assert redact_mapping(values, "m", []) == values


def test_no_secret_in_the_remote(tmp_path: Path) -> None:
    for command in (
        ["init", "-q"], ["remote", "add", "origin", f"https://me:{SECRET}@git.example.org/lab/leaves.git"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):  # fmt: skip
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    git = capture_git(tmp_path, [])
    assert git is not None
    assert git.remote == "https://[redacted]@git.example.org/lab/leaves.git"
    assert redact_text("git@example.org:lab/leaves.git") == "git@example.org:lab/leaves.git"
