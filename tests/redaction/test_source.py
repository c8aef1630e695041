"""Redaction of secrets in source code, notebooks and patches; harmless text stays."""

# ruff: noqa: E501

import ast
import json
from pathlib import Path

import lightning
import pytest

from lightning_dtool.redaction.source import redact_notebook, redact_patch, redact_source

SECRET = "hunter2-very-secret"


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
def test_redacted_source_still_parses(code: str) -> None:
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
        'ACCESS_KEY = "aws_access_key_id"', '{"auth0": "types-auth0-python"}', 'licence = "Apache-2.0"', 'image_key = "ResNet50V2Block3"', 'n_pass = 3',
        'password = ""', 'API_KEY = "WANDB_API_KEY"', "api_key=os.environ.get('COMET_API_KEY')", 'key = "encoder.layer.11.attention"',
    ],
)  # fmt: skip
def test_source_without_a_secret_is_unchanged(code: str) -> None:
    assert redact_source(code) == (code, [])


def test_invalid_python_is_redacted_as_text() -> None:
    text = f"class Net(\npassword = {SECRET}\n"
    assert redact_source(text) == ("class Net(\npassword = [redacted]\n", [2])


def test_the_sources_of_lightning_are_almost_unchanged() -> None:
    found = []
    for path in sorted((Path(lightning.__file__).parent / "pytorch").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        redacted, lines = redact_source(text)
        ast.parse(redacted)
        found += [f"{path.name}:{line}" for line in lines]
    assert len(found) <= 2, found


def test_secrets_in_a_patch_are_redacted() -> None:
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


def test_secrets_in_a_notebook_are_redacted() -> None:
    cells = [
        {"cell_type": "code", "source": ["import x\n", f'x.login(token="{SECRET}1")']},
        {"cell_type": "markdown", "source": f"password: {SECRET}"},
    ]
    redacted, lines = redact_notebook(json.dumps({"cells": cells}, indent=1, ensure_ascii=False))
    assert SECRET not in redacted
    assert len(lines) >= 2
    assert json.loads(redacted)["cells"][0]["source"] == ["import x\n", 'x.login(token="[redacted]")']
