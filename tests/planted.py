"""Marked credentials in more than 200 places of a project, and the search for each in every byte that a training writes.

`python tests/planted.py docs/secrets.json` writes the table for the documentation.
"""

# ruff: noqa: E501

import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

UNNAMED = "patch shell: echo {} # without a name"
REASONS = {
    "checkpoint": "Lightning's checkpoint must contain the hyperparameters; a warning names them before the first save",
    UNNAMED: "no name, shape or place says that it is a credential",
}
"""Why a credential may be found."""

SHELL = r"""
sshpass -p {} ssh me@host
sshpass -p'{}' scp a b
curl --user me:{} https://x
curl -u "me:{}" https://x
curl -H "X-API-Key: {}" https://x
curl -H 'PRIVATE-TOKEN: {}' https://x
curl -H "Authorization: token {}" https://x
curl -H "Cookie: session={}" https://x
curl "https://x/y?token={}&a=1"
curl "https://acc.blob.core.windows.net/c?sv=2022&sig={}%3D&se=2030"
curl "https://b.s3.amazonaws.com/k?X-Amz-Credential=x&X-Amz-Signature={}"
curl "https://b.s3.amazonaws.com/k?X-Amz-Security-Token={}"
curl "https://storage.googleapis.com/b/o?X-Goog-Signature={}"
curl "https://x/y?api_key={}"
curl "https://x/y?access_token={}"
curl -u me:{}@x ftp://x
wget --user me --password {} https://x
wget --http-password={} https://x
mysql -u root -p{} db
mysqldump --password={} db
mariadb -p{} db
PGPASSWORD={} psql
MYSQL_PWD={} mysql
redis-cli -a {} ping
docker login -u me -p {} registry
docker run -e DB_PASSWORD={} image
az storage blob list --sas-token {}
az login --service-principal --password {}
openssl enc -aes-256-cbc -pass pass:{}
htpasswd -b file me {}
wandb login {}
huggingface-cli login --token {}
export HF_TOKEN={}
export NEPTUNE_API_TOKEN="{}"
set -x COMET_API_KEY {}
git clone https://me:{}@github.com/x/y
git clone https://oauth2:{}@gitlab.com/x/y
pip install --index-url https://me:{}@pypi.example.org/simple x
psql postgresql://me:{}@host/db
mongosh mongodb+srv://me:{}@host/db
redis://:{}@host:6379/0
amqp://me:{}@host//
python train.py --db_pw {}
python train.py --wandb-key={}
python train.py +secrets.db={}
# the password is {}
echo {} # without a name
"""

CONFIG = r"""
secrets:
  db: {}
  other: "{}"
credentials:
  user_a: {}
password: >
  {}
api_key: |
  {}
client_secret: "{}"
clientSecret: {}
dbPassword: {}
smtp-pass: {}
encryption_key: {}
"passphrase": "{}",
"private_key":
  "{}"
connectionString: Server=x;Uid=me;Pwd={};Database=d
dsn: https://{}@o1.ingest.sentry.io/1
webhook_url: {}
passwort: {}
auth_token = {}
machine x login me password {}
"""


def plant(folder: Path) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Write a project with marked credentials.

    Returns:
        The name of the place by the credential, the environment and the arguments of the training.
    """
    F = folder / "project"
    F.mkdir(parents=True)
    (F / "models").mkdir()
    where: dict[str, str] = {}

    def s(place: str, shape: str = "{}") -> str:
        core = f"Zq{len(where) + 1:03d}Kx8fT3"
        where[core] = place
        return shape.format(core)

    def filled(text: str, kind: str) -> str:
        lines = []
        before = ""
        for line in text.strip().split("\n"):
            shown = line.strip() if line.strip(' "') != "{}" else f"{before.strip()} {line.strip()}"
            lines.append(line.replace("{}", s(f"{kind}: {shown}")) if "{}" in line else line)
            before = line
        return "\n".join(lines) + "\n"

    SRC = f'''
import os, sys, argparse, logging
from dataclasses import dataclass
import torch, lightning as L
from lightning_dtool import DtoolProvenanceCallback
from lightning.pytorch.loggers import CSVLogger
DB_PASSWORD = "{s("src NAME_PASSWORD = ")}"
PASSWD = '{s("src PASSWD")}'
secret_key = """{s("src triple quoted secret_key")}"""
os.environ["AWS_SECRET_ACCESS_KEY"] = "{s("src os.environ[..] =")}"
os.environ.setdefault("WANDB_API_KEY", "{s("src environ.setdefault")}")
os.environ.update(HF_TOKEN="{s("src environ.update(kw)")}")
os.environ |= {{"MY_TOKEN": "{s("src environ |= dict")}"}}
CONFIG = {{"password": "{s("src dict password")}", "db": {{"pass": "{s("src dict pass")}", "pwd": "{s("src dict pwd")}"}}, "auth": ("user", "{s("src auth tuple")}"), "api-key": "{s("src dict api-key")}"}}
headers = {{"Authorization": "Bearer {s("src Bearer header")}", "X-API-Key": "{s("src X-API-Key header")}", "PRIVATE-TOKEN": "{s("src PRIVATE-TOKEN")}", "Cookie": "session={s("src cookie session")}"}}
headers2 = {{"Authorization": "token {s("src Authorization token")}"}}
headers3 = {{"Authorization": f"Bearer {s("src f-string bearer")}"}}
URL = "postgresql://me:{s("src url")}@db.example.org/x"
DSN = "dbname=x user=y password={s("src dsn password=")} host=z"
ODBC = "Server=x;Uid=me;Pwd={s("src odbc Pwd=")};Database=d"
AZ = "DefaultEndpointsProtocol=https;AccountName=x;AccountKey={s("src azure AccountKey", "{}abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ01234567==")}"
SAS = "https://x.blob.core.windows.net/c?sv=2022&sig={s("src azure sas sig=", "{}%2Babcdefghijklmnop%3D")}"
PRESIGNED = "https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature={s("src presigned signature", "{}0123456789abcdef0123456789abcdef")}"
GH = "{s("src ghp_", "ghp_{}abcdefghijklmnopqrstuvwx")}"
SK = ["{s("src sk-", "sk-{}abcdefghijklmnopqrstuvwx")}"]
XX = "{s("src aws AKIA", "AKIA{}").upper()[:20]}"
def f(password="{s("src default argument")}", *, token: str = "{s("src kw default")}"): pass
@dataclass
class Cfg:
    api_token: str = "{s("src dataclass field")}"
class Secrets:
    wandb = "{s("src class Secrets attr wandb")}"
    db = "{s("src class Secrets attr db")}"
# password: {s("src comment password:")}
# my wandb key is {s("src comment prose")}
# export WANDB_API_KEY={s("src comment export")}
# curl -u me:{s("src comment curl -u")} https://x
#SMTP_PASS={s("src comment SMTP_PASS=")}
cmd = ["curl", "-u", "me:{s("src list curl -u")}"]
shell = "mysql -u root -p{s("src mysql -p")} db"
sshp = "sshpass -p {s("src sshpass -p")} ssh x"
exp = "export SMTP_PASS={s("src export SMTP_PASS=")}; PGPASSWORD={s("src PGPASSWORD=")} psql"
def connect(*a, **k): pass
connect("host", "user", "{s("src positional password")}")
connect(user="me", passwd="{s("src kw passwd")}", pw="{s("src kw pw")}")
class wandb:
    login = staticmethod(connect)
wandb.login("anonymous", "{s("src login positional")}")
wandb.login(key="{s("src login key=")}")
class openai: pass
openai.api_key = "{s("src attribute api_key")}"
openai.organization_secret = b"{s("src bytes secret")}"
pw = "{s("src short name pw")}"
token = "{s("src concatenated")}" "tail"
TOKENS = ["{s("src list of tokens")}", "b"]
password = os.environ.get("PW") or "{s("src or default")}"
if (passphrase := "{s("src walrus")}"): pass
p = argparse.ArgumentParser(); p.add_argument("--password", default="{s("src argparse default")}"); p.add_argument("--lr", default=0.1)
PEM = """-----BEGIN OPENSSH PRIVATE KEY-----
{s("src private key", "{}AAAAB3NzaC1yc2EAAAADAQABAAABgQ")}
-----END OPENSSH PRIVATE KEY-----"""
logging.info("logging in with token %s", "{s("src logging arg")}")
encryption_key = "{s("src encryption_key")}"
client_id, client_secret = "id", "{s("src tuple assignment client_secret")}"
creds = dict(user="me", password="{s("src dict(password=)")}")
match_ = {{"pass": "{s("src dict pass 2")}"}}
jwt = "{s("src jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{}")}"
passwords = {{"alice": "{s("src passwords dict of users")}"}}
user_pass = ("me", "{s("src user_pass tuple")}")
licence = "{s("src licence")}"
class Net(L.LightningModule):
    def __init__(self, lr=0.1, api_key=None, db=None, conn=None, token=None, pairs=None, opts=None, wandb_key=None, smtp_pass=None, encryption_key=None):
        super().__init__(); self.save_hyperparameters(); self.l = torch.nn.Linear(2, 1)
    def training_step(self, b, i):
        self.log("loss", 1.0)
        return self.l(b).pow(2).mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
if __name__ == "__main__":
    cb = DtoolProvenanceCallback("models")
    g = os.environ
    tr = L.Trainer(max_epochs=1, accelerator="cpu", logger=CSVLogger("logs"), enable_progress_bar=False, enable_model_summary=False, callbacks=[cb], log_every_n_steps=1)
    net = Net(api_key=g["H1"], db={{"passwd": g["H2"], "user": "x"}}, conn="mysql://u:" + g["H3"] + "@h/d", token=g["H4"], pairs=[["password", g["H5"]], ("token", g["H6"])], opts={{"env": "API_TOKEN=" + g["H7"], "args": ["--password", g["H8"]]}}, wandb_key=g["H9"], smtp_pass=g["H10"], encryption_key=g["H11"])
    tr.fit(net, torch.utils.data.DataLoader(torch.ones(4, 2)))
    print(cb.last_uri)
'''
    (F / "train.py").write_text(SRC)
    hp = {
        f"H{i}": s(f"hparam {p}")
        for i, p in enumerate(
            (
                "api_key",
                "db.passwd",
                "conn url",
                "token",
                "pairs password",
                "pairs token tuple",
                "text API_TOKEN=",
                "args --password X",
                "wandb_key",
                "smtp_pass",
                "encryption_key",
            ),
            1,
        )
    }
    (F / ".env").write_text("A=1\n")
    (F / "conf.yaml").write_text("a: 1\n")
    (F / "nb.ipynb").write_text(
        json.dumps(
            {
                "cells": [{"cell_type": "code", "source": ["1"], "outputs": [], "metadata": {}, "execution_count": 1}],
                "metadata": {},
                "nbformat": 4,
                "nbformat_minor": 5,
            },
            indent=1,
        )
    )
    (F / ".gitignore").write_text("models\nlogs\nsecret.local\n")
    (F / "run.sh").write_text("#\n")
    (F / "Dockerfile").write_text("#\n")
    (F / "creds.json").write_text("{}\n")

    def git(*a):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(F), *a], check=True, capture_output=True
        )

    git("init", "-q", "-b", "main")
    git("remote", "add", "origin", f"https://me:{s('git remote')}@github.com/x/y.git")
    git("config", "http.extraheader", f"AUTHORIZATION: basic {s('git extraheader')}")
    git("add", ".")
    git("commit", "-q", "-m", f"x {s('git message')}")
    (F / ".env").write_text(
        f"DB_PASSWORD={s('patch .env DB_PASSWORD')}\nSMTP_PASS={s('patch .env SMTP_PASS')}\nMYSQL_PWD={s('patch .env MYSQL_PWD')}\nAPI_TOKEN={s('patch .env API_TOKEN')}\nSENTRY_DSN=https://{s('patch .env SENTRY_DSN url user')}@o1.ingest.sentry.io/1\nWANDB_KEY={s('patch .env WANDB_KEY')}\nENCRYPTION_KEY={s('patch .env ENCRYPTION_KEY')}\nCREDENTIALS={s('patch .env CREDENTIALS')}\nPIN={s('patch .env PIN')}\n"
    )
    (F / "conf.yaml").write_text(
        f"password: {s('patch yaml password')}\npass: {s('patch yaml pass')}\nauth: {s('patch yaml auth')}\ndb:\n  pwd: {s('patch yaml pwd')}\n  secret: {s('patch yaml secret')}\n  token:\n    {s('patch yaml token on next line')}\n"
    )
    (F / "creds.json").write_text(
        json.dumps(
            {
                "private_key_id": s("patch json private_key_id"),
                "client_secret": s("patch json client_secret"),
                "refresh_token": s("patch json refresh_token"),
                "passphrase": s("patch json passphrase"),
                "key": s("patch json key"),
            },
            indent=1,
        )
    )
    (F / "run.sh").write_text(
        f"export AWS_SECRET_ACCESS_KEY={s('patch sh AWS_SECRET_ACCESS_KEY')}\nmysql -p{s('patch sh mysql -p')}\ncurl -H 'Authorization: Bearer {s('patch sh bearer')}' -u me:{s('patch sh curl -u')}\npython train.py --password {s('patch sh --password X')} --api-key={s('patch sh --api-key=X')}\n"
    )
    (F / "Dockerfile").write_text(
        f"ENV DB_PASS={s('patch Dockerfile ENV DB_PASS=')}\nENV DB_PASSWORD {s('patch Dockerfile ENV DB_PASSWORD X')}\nRUN pip install git+https://{s('patch Dockerfile url token')}@github.com/x\n"
    )
    nb = json.loads((F / "nb.ipynb").read_text())
    nb["cells"][0]["outputs"] = [
        {
            "output_type": "stream",
            "name": "stdout",
            "text": [
                f"my login is {s('patch notebook output prose')}\n",
                f"token={s('patch notebook output token=')}\n",
            ],
        },
        {
            "output_type": "display_data",
            "data": {"text/plain": [f"'patient {s('patch notebook output patient data')}'"]},
            "metadata": {},
        },
    ]
    nb["cells"][0]["source"] = [f"api_key = '{s('patch notebook source')}'"]
    (F / "nb.ipynb").write_text(json.dumps(nb, indent=1))
    (F / "secret.local").write_text(s("ignored file"))
    (F / "untracked.txt").write_text(f"password={s('untracked file')}\n")
    (F / "staged.txt").write_text(f"passwort: {s('patch staged prose file')}\n")
    (F / "more.sh").write_text(filled(SHELL, "patch shell"))
    (F / "more.yaml").write_text(filled(CONFIG, "patch config"))
    git("add", "-N", "staged.txt", "more.sh", "more.yaml")
    fake = folder / "site" / "leakpkg-1.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: leakpkg\nVersion: 1.0\n")
    (fake / "direct_url.json").write_text(
        json.dumps(
            {
                "url": f"https://me:{s('requirements direct_url')}@github.com/x/leak.git",
                "vcs_info": {"vcs": "git", "commit_id": "0" * 40},
            }
        )
    )
    env = {
        **os.environ,
        **hp,
        "PYTHONPATH": str(folder / "site"),
        "HOME": str(folder),
        "USER": s("env USER"),
        "LOGNAME": "x",
        "AWS_ACCESS_KEY_ID": s("env AWS id"),
        "AWS_SECRET_ACCESS_KEY": s("env AWS secret"),
        "WANDB_API_KEY": s("env WANDB"),
        "DTOOL_S3_SECRET_ACCESS_KEY_b": s("env dtool s3"),
        "NCCL_TOKEN": s("env NCCL_TOKEN"),
        "TORCH_HOME": f"https://me:{s('env TORCH_HOME url')}@h/x",
        "PYTHONSTARTUP_SECRET": s("env PYTHON*SECRET"),
        "PL_API_KEY": s("env PL_API_KEY"),
        "LIGHTNING_USER_KEY": s("env LIGHTNING_USER_KEY"),
        "LIGHTNING_CLOUD_PASS": s("env LIGHTNING_CLOUD_PASS"),
        "TORCHELASTIC_X": "password=" + s("env TORCHELASTIC password="),
        "LIGHTNING_API_KEY": s("env LIGHTNING_API_KEY"),
        "XLA_TOKEN": s("env XLA_TOKEN"),
        "PYTHON_DB": "me:" + s("env PYTHON_DB user:pw"),
        "HTTP_PROXY": f"http://me:{s('env HTTP_PROXY')}@p:1",
        "LD_PRELOAD": "",
    }
    argv = [
        "--password",
        s("argv --password X"),
        f"--api-key={s('argv --api-key=X')}",
        f"db.password={s('argv hydra db.password=')}",
        f"+secrets.db={s('argv hydra +secrets.db=')}",
        "-p",
        s("argv -p X"),
        "--auth",
        "me:" + s("argv --auth me:X"),
        "--header",
        f"Authorization: Bearer {s('argv header bearer')}",
        "--url",
        f"https://me:{s('argv url')}@h",
        "--smtp-pass",
        s("argv --smtp-pass X"),
        "--wandb-key",
        s("argv --wandb-key X"),
        f"--db-pass={s('argv --db-pass=X')}",
        "--pin",
        s("argv --pin X"),
        "--db_pw",
        s("argv --db_pw X"),
        "--token",
        "-" + s("argv --token -X"),
    ]
    return where, env, argv


def unpacked(name: str, content: bytes) -> dict[str, bytes]:
    """Return a file's content, and that of everything inside: files of archives, and what is encoded in base64."""
    found = {name: content}
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for inner in archive.namelist():
                found |= unpacked(f"{name}!{inner}", archive.read(inner))
    elif content[:1] in (b"{", b"["):
        for text in _texts(json.loads(content)):
            try:
                decoded = base64.b64decode(text, validate=True)
            except ValueError:
                continue
            if len(decoded) > 8:
                found[f"{name}!base64"] = found.get(f"{name}!base64", b"") + decoded
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for each in (value.values() if isinstance(value, dict) else value) for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def leaks(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Plant credentials, train, and search.

    Returns:
        The place by the credential, and the files of the dataset in which a credential was found, by its place.
    """
    where, env, argv = plant(folder)
    project = folder / "project"
    done = subprocess.run([sys.executable, "train.py", *argv], cwd=project, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    blobs: dict[str, bytes] = {}
    (dataset,) = (project / "models").iterdir()
    for path in dataset.rglob("*"):
        if path.is_file():
            blobs |= unpacked(path.relative_to(dataset).as_posix(), path.read_bytes())
    assert any("source.zip!git.patch" in name for name in blobs), sorted(blobs)
    found: dict[str, list[str]] = {}
    for core, place in where.items():
        # Of a key of AWS, only the beginning is planted, in upper case.
        mark = core.upper().encode() if "AKIA" in place else core.encode()
        names = [name for name, content in blobs.items() if mark in content]
        if names:
            found[place] = names
    return where, found


def reason(place: str, names: list[str]) -> str | None:
    """Return why a credential may be where it was found. None: it may not."""
    if place.startswith("hparam ") and all(name.startswith("data/checkpoint.ckpt") for name in names):
        return REASONS["checkpoint"]
    return REASONS.get(place)


def table(where: dict[str, str], found: dict[str, list[str]]) -> dict[str, Any]:
    """Return the rows for the documentation."""
    planted = Counter(place.split()[0] for place in where.values())
    left = Counter(place.split()[0] for place in found)
    return {
        "planted": len(where),
        "kinds": [{"kind": kind, "planted": count, "found": left[kind]} for kind, count in planted.items()],
        "found": [{"place": place, "files": names, "reason": reason(place, names)} for place, names in found.items()],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        Path(sys.argv[1]).write_text(
            json.dumps(table(*leaks(Path(scratch) / "home")), indent=1) + "\n", encoding="utf-8"
        )
