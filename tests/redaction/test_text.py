"""Redaction of secrets in text and on command lines; harmless text stays."""

# ruff: noqa: E501

import json

import pytest

from lightning_dtool.redaction.names import is_secret_name
from lightning_dtool.redaction.text import redact_argv

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "db_password", "passwd", "api_key", "apiKey", "API-KEY", "wandb.api_key", "token", "hf_token",
     "accessToken", "aws_secret_access_key", "aws_access_key_id", "client_secret", "secret_key", "private_key", "credentials",
     "auth", "Authorization", "passphrase", "--token", "+db.password", "pwd"],
)  # fmt: skip
def test_names_of_secrets_are_recognised(name: str) -> None:
    assert is_secret_name(name.lstrip("+-"))


@pytest.mark.parametrize(
    "name", ["num_tokens", "tokenizer", "pad_token", "eos_token", "author", "lr", "key", "passes", "", "mask_token"]
)
def test_harmless_names_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "argv",
    [
        ["--password", SECRET], [f"--password={SECRET}"], [f"--data.init_args.api_key={SECRET}"], [f"db.password={SECRET}"],
        [f"--url=postgres://me:{SECRET}@host/db"], [f"https://host/x?token={SECRET}&y=1"], ["--cfg", json.dumps({"password": SECRET})],
        [f"--header=Authorization: Bearer {SECRET}"], [f"s3://me:p@{SECRET}@host/bucket"], ["--opts", f"lr=1,token={SECRET}"],
    ],
)  # fmt: skip
def test_secrets_on_a_command_line_are_redacted(argv: list[str]) -> None:
    assert SECRET not in json.dumps(redact_argv(["train.py", *argv]))


def test_the_rest_of_a_command_line_is_unchanged() -> None:
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
