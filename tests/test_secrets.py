"""Secrets of many kinds in many places of a real run, none of which may be published."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

import programs
from lightning_dtool.capture.recorder import secrets_in_hyperparameters
from lightning_dtool.record import Gap, Model, Provenance
from lightning_dtool.redaction.record import RecordRedactor
from record.samples import record as sample

SECRETS = {
    "remote": "remote-hunter2-a",
    "argv": "argv-hunter2-b",
    "environment": "environ-hunter2-c",
    "hparam": "hparam-hunter2-d",
    "nested": "nested-hunter2-e",
    "source": "source-hunter2-f",
    "module": "ghp_" + "q7" * 18,
    "patch": "patch-hunter2-g",
    "url": "url-hunter2-h",
    "aws": "AKIA" + "QWERTYUIOPASDFGH",
    "jwt": "eyJ" + "hbGciOiJI" * 2 + "." + "eyJ" + "zdWIiOiIx" * 2 + "." + "sig0nature",
    "comment": "comment-hunter2-i",
    "pem": "MIIEpAIBAAKCAQEA7bq",
    "class": "class-hunter2-j",
}

TRAIN = """
import sys
import lightning as L
import torch
import blocks
from lightning_dtool import DtoolProvenanceCallback

DB_PASSWORD = "{source}"
# token="{comment}"
URL = "postgres://me:{url}@db.example.org/leaves"
PEM = '''-----BEGIN RSA PRIVATE KEY-----
{pem}
-----END RSA PRIVATE KEY-----'''

class Net(L.LightningModule):
    def __init__(self, api_key="", options=None):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)
    def training_step(self, batch, batch_idx):
        password = "{class}"
        return self.layer(batch).pow(2).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

if __name__ == "__main__":
    callback = DtoolProvenanceCallback("models")
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback],
                        enable_model_summary=False)
    net = Net(api_key="hp" + "aram-hunter2-d", options={{"db": [{{"token": "nes" + "ted-hunter2-e", "dropout": 0.5}}]}})
    trainer.fit(net, torch.utils.data.DataLoader(torch.ones(4, 2)))
    print(callback.last_uri)
"""


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the dataset of a run with planted secrets, as a folder."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "models").mkdir()
    (folder / ".gitignore").write_text("models\ncheckpoints\n")
    (folder / "train.py").write_text(TRAIN.format(**SECRETS))
    (folder / "blocks.py").write_text(
        f"X = ['{SECRETS['module']}', b'{SECRETS['aws']}']\nY = 'Bearer {SECRETS['jwt']}'\n"
    )
    (folder / "settings.ini").write_text("[db]\n")
    git(folder, "init", "-q")
    git(folder, "remote", "add", "origin", f"https://me:{SECRETS['remote']}@git.example.org/leaves.git")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")
    (folder / "settings.ini").write_text(f"[db]\npassword = {SECRETS['patch']}\n")
    (folder / "blocks.py").write_text((folder / "blocks.py").read_text() + f'Z = dict(\n  api_key="{SECRETS["patch"]}",\n)\n')  # fmt: skip  # noqa: E501
    variables = {"NCCL_TOKEN": SECRETS["environment"], "TORCH_HOME": f"https://me:{SECRETS['environment']}@host/x"}
    programs.run("train.py", "--api-key", SECRETS["argv"], cwd=folder, env={**os.environ, **variables})
    (dataset,) = (folder / "models").iterdir()
    return dataset


def contents(dataset: Path) -> dict[str, bytes]:
    """Return all content of a dataset except the checkpoint, which must hold the hyperparameters."""
    found: dict[str, bytes] = {}
    for path in dataset.rglob("*"):
        if not path.is_file() or path.stat().st_size == 0:
            continue
        content = path.read_bytes()
        if content[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/data.pkl") for name in archive.namelist()):
                    continue
                found.update({f"source.zip/{name}": archive.read(name) for name in archive.namelist()})
        else:
            found[path.relative_to(dataset).as_posix()] = content
    return found


@pytest.mark.parametrize("kind", SECRETS)
def test_no_secret_is_published(published: Path, kind: str) -> None:
    files = contents(published)
    assert any(name.startswith("source.zip/") for name in files)
    assert len(files) > 6
    assert [name for name, content in files.items() if SECRETS[kind].encode() in content] == []


def test_redacted_source_compiles_and_each_redaction_is_a_gap(published: Path) -> None:
    files = contents(published)
    for name in ("train.py", "blocks.py"):
        original = (published.parents[1] / name).read_text()
        stored = files[f"source.zip/{name}"].decode()
        compile(stored, name, "exec")
        assert stored != original
        assert len(stored.splitlines()) == len(original.splitlines())
    assert b'"password": ' not in files["source.zip/git.patch"]
    assert b"+password = [redacted]" in files["source.zip/git.patch"]
    record = next(
        json.loads(content) for content in files.values() if content.startswith(b"{") and b'"gaps"' in content
    )
    gaps = {gap["fact"]: gap["reason"] for gap in record["gaps"]}
    for fact in ("code.files.train.py", "code.files.blocks.py", "code.files.git.patch", "model.hyperparameters.api_key",
                 "code.git.remote"):  # fmt: skip
        assert "redacted" in gaps[fact]
    assert "lines 8, 9, 10, 11" in gaps["code.files.train.py"]


def test_secrets_in_hyperparameters_are_gaps() -> None:
    hparams = {
        "lr": 0.1,
        "api_key": "x1",
        "db": {"password": "y"},
        "urls": ["https://me:z@host/x"],
        "pad_token": "[PAD]",
    }
    assert secrets_in_hyperparameters(hparams) == ["api_key", "db.password", "urls[0]"]
    assert secrets_in_hyperparameters({"lr": 0.1, "token": None}) == []


def test_a_complete_record_is_redacted_again() -> None:
    record: Provenance = sample()
    assert RecordRedactor().redact(record) is record
    source = 'class Net:\n    def step(self):\n        password = "hunter2"\n        return password\n'
    planted = record.model_copy(
        update={"model": Model(class_path="a:Net", source=source, hyperparameters={"x": {"api_key": "hunter2"}})}
    )
    redacted = RecordRedactor().redact(planted)
    assert "hunter2" not in redacted.model_dump_json()
    assert redacted.model.source == source.replace("hunter2", "[redacted]")
    facts = [gap.fact for gap in redacted.gaps]
    assert facts[-2:] == ["model.source", "model.hyperparameters.x.api_key"]


def test_an_error_that_quotes_a_secret_is_redacted() -> None:
    gap = Gap(fact="data", reason="it could not be observed: OSError: https://me:hunter2@host/x", remedy="x")
    (redacted,) = RecordRedactor().redact(sample().model_copy(update={"gaps": [gap]})).gaps
    assert (redacted.fact, redacted.remedy) == ("data", "x")
    assert redacted.reason == "it could not be observed: OSError: https://[redacted]@host/x"
