"""No secret gets into a record, and what is none stays."""

# ruff: noqa: E501

import ast
import json
from pathlib import Path
from typing import Any

import lightning
import pytest

from lightning_dtool.redaction.text import (
    is_secret_name,
    redact_argv,
    redact_mapping,
    redact_notebook,
    redact_patch,
    redact_source,
)
from lightning_dtool.values.encoding import encode_all

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "db_password", "passwd", "api_key", "apiKey", "API-KEY", "wandb.api_key", "token", "hf_token",
     "accessToken", "aws_secret_access_key", "aws_access_key_id", "client_secret", "secret_key", "private_key", "credentials",
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
        ["--password", SECRET], [f"--password={SECRET}"], [f"--data.init_args.api_key={SECRET}"], [f"db.password={SECRET}"],
        [f"--url=postgres://me:{SECRET}@host/db"], [f"https://host/x?token={SECRET}&y=1"], ["--cfg", json.dumps({"password": SECRET})],
        [f"--header=Authorization: Bearer {SECRET}"], [f"s3://me:p@{SECRET}@host/bucket"], ["--opts", f"lr=1,token={SECRET}"],
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
        {"password": SECRET}, {"logger": {"api_key": SECRET}}, {"db": [{"token": [SECRET]}]}, {1: 2, "password": SECRET},
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
    ["AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "a1" * 18, "hf_" + "Ab1" * 10, "sk-" + "a1B2" * 8, "glpat-" + "x" * 20, "xoxb-" + "1" * 12,
     "eyJ" + "a" * 20 + "." + "eyJ" + "b" * 20 + "." + "c" * 20, "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"],
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


# -- source code --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        f'password = "{SECRET}"', f'PASSWORD: str = "{SECRET}"', f'x = dict(api_key="{SECRET}")', f"d = {{'password': '{SECRET}'}}",
        f'os.environ["WANDB_API_KEY"] = "{SECRET}"', f'os.environ.setdefault("HF_TOKEN", "{SECRET}")', f'token = (\n    "{SECRET}"\n)',
        f'client_secret = """\n{SECRET}\nabc"""\nx = 1', f'# password = "{SECRET}"\nx = 1', f"# db password={SECRET}\n",
        f'url = "postgres://me:{SECRET}@host/db"', f'h = {{"Authorization": "Bearer {SECRET}"}}', f'u = f"https://h/?token={SECRET}&x={{y}}"',
        f'c = "dbname=x password={SECRET} host=y"', f'wandb.login(key="{SECRET}")', f'if password == "{SECRET}": pass',
        f'f(password="a" "{SECRET}")', f'password = b"{SECRET}"', f'self.api_key: str | None = "{SECRET}"', f"# !export WANDB_API_KEY={SECRET}",
        f'def f(password="{SECRET}"): pass', f'keyring.set_password("svc", "me", "{SECRET}")', f'setattr(x, "api_key", "{SECRET}")',
        f'api_key = os.getenv("K") or "{SECRET}"', f'api_key = os.environ.get("MY_API_KEY", default="{SECRET}")', f'kw = [("password", "{SECRET}")]',
        f'parser.add_argument("--token", default="{SECRET}")', f"cfg = 'password: {SECRET}'", f"ä = 'ß'; passwort = password = 'ü{SECRET}'",
    ],
)  # fmt: skip
def test_source_without_its_secret_still_parses(code: str) -> None:
    redacted, lines = redact_source(code)
    assert SECRET not in redacted
    assert lines
    ast.parse(redacted)
    assert redacted.count("\n") == code.count("\n")
    assert redact_source(redacted) == (redacted, [])


@pytest.mark.parametrize(
    "code",
    [
        'pad_token = "[PAD]"', 'token = "the"', 'add_argument("--token", help="the API token to use")', 'key = "train_loss_epoch"',
        'password = os.environ["DB_PASSWORD"]', 'api_key = getenv("WANDB_API_KEY")', '"""Args:\n    token: The token to embed.\n"""',
        'auth = "basic"', 'tokens = {"a": "b"}', 'f"token={token}"', '"token=%s" % x', 'url = "s3://{user}:{password}@host"',
        'd = {"token": "[CLS]", "key": "value"}', 'token_type: str = "word"', 'key = "layer1.0.conv1"', 'name = "sk-learn-contrib-example"',
        'password = ""', 'API_KEY = "WANDB_API_KEY"', "api_key=os.environ.get('COMET_API_KEY')", 'key = "encoder.layer.11.attention"',
    ],
)  # fmt: skip
def test_source_without_a_secret_stays(code: str) -> None:
    assert redact_source(code) == (code, [])


def test_text_that_is_no_python_is_redacted_as_text() -> None:
    text = f"class Net(\npassword = {SECRET}\n"
    assert redact_source(text) == ("class Net(\npassword = [redacted]\n", [2])


def test_the_sources_of_lightning_are_left_alone() -> None:
    found = []
    for path in sorted((Path(lightning.__file__).parent / "pytorch").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        redacted, lines = redact_source(text)
        ast.parse(redacted)
        found += [f"{path.name}:{line}" for line in lines]
    assert len(found) <= 2, found


def test_a_patch() -> None:
    patch = (
        "diff --git a/x.py b/x.py\nindex 1..2 100644\n--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,6 @@\n def f():\n"
        f'-    password = "{SECRET}"\n+    return g(api_key="{SECRET}",\n+KEY = """-----BEGIN PRIVATE KEY-----\n+{SECRET}\n'
        "+-----END PRIVATE KEY-----\n"
        'diff --git a/y.ini b/y.ini\n--- a/y.ini\n+++ b/y.ini\n@@ -1 +1 @@\n-[a]\n'
        f"+password = {SECRET}\n"
        "diff --git a/z.bin b/z.bin\nindex 3..4\nGIT binary patch\nliteral 6\npassword=abcdefgh\n"
    )  # fmt: skip
    redacted, lines = redact_patch(patch)
    assert SECRET not in redacted
    assert lines == [7, 8, 9, 10, 11, 17]
    assert [line[:1] for line in redacted.split("\n")] == [line[:1] for line in patch.split("\n")]
    assert redacted.endswith("password=abcdefgh\n")


def test_a_notebook() -> None:
    cells = [
        {"cell_type": "code", "source": ["import x\n", f'x.login(token="{SECRET}1")']},
        {"cell_type": "markdown", "source": f"password: {SECRET}"},
    ]
    redacted, lines = redact_notebook(json.dumps({"cells": cells}, indent=1, ensure_ascii=False))
    assert SECRET not in redacted
    assert len(lines) >= 2
    assert json.loads(redacted)["cells"][0]["source"] == ["import x\n", 'x.login(token="[redacted]")']
