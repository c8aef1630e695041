"""The command `scan`: what it lists, and its exit codes."""

import io
import json
import pickle
import zipfile

from click.testing import CliRunner

from lightning_dtool.cli import model
from lightning_dtool.store import DatasetWriter
from lightning_dtool.store.digest import generate_identifier

SECRET = "Zq7Kx8fT3mW2"


def test_what_may_not_be_meant_to_be_published_is_listed(base_uri: str) -> None:
    checkpoint = io.BytesIO()
    with zipfile.ZipFile(checkpoint, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"hyper_parameters": {"api_key": SECRET}}))
    with DatasetWriter("leaky", base_uri, creator_username="tester") as writer:
        writer.put_bytes(checkpoint.getvalue(), "checkpoint.ckpt")
        writer.put_bytes(b"\x89PNG", "leaf.png")
        writer.put_readme("owner: /home/ann\n")
        writer.put_annotation("contact", {"email": "ann@uni-x.org"})
        writer.put_overlay("photographer", {"leaf.png": "bob@uni-x.org", "checkpoint.ckpt": None})
        uri = writer.commit().uri
    found = CliRunner().invoke(model, ["scan", uri])
    assert found.exit_code == 1
    assert found.stdout.splitlines() == [
        "home folder: README.yml, line 1: /home/ann",
        "e-mail address: annotations.json, contact.email: ann@uni-x.org",
        f"e-mail address: overlays/photographer.json, {generate_identifier('leaf.png')}: bob@uni-x.org",
        "credential: checkpoint.ckpt!x/data.pkl, api_key: api_key: [redacted]",
    ]
    as_json = CliRunner().invoke(model, ["scan", "--json", uri])
    assert as_json.exit_code == 1
    assert [each["kind"] for each in json.loads(as_json.stdout)["found"]] == [
        "home folder",
        "e-mail address",
        "e-mail address",
        "credential",
    ]


def test_what_cannot_be_searched_is_not_harmless(base_uri: str) -> None:
    with DatasetWriter("damaged", base_uri, creator_username="tester") as writer:
        writer.put_bytes(b"PK\x03\x04nothing", "source.zip")
        uri = writer.commit().uri
    found = CliRunner().invoke(model, ["scan", uri])
    assert found.exit_code == 1
    assert found.stdout.startswith("not searched: source.zip")


def test_nothing_is_found_in_a_harmless_dataset(base_uri: str) -> None:
    with DatasetWriter("harmless", base_uri, creator_username="tester") as writer:
        writer.put_bytes(b"lr: 0.1\n", "settings.yaml")
        uri = writer.commit().uri
    found = CliRunner().invoke(model, ["scan", uri])
    assert (found.exit_code, found.stdout) == (0, "")
    assert CliRunner().invoke(model, ["scan", f"{uri}x"]).exit_code == 3
