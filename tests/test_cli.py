"""The command line: output, exit codes, locales, and untrusted content."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from lightning.pytorch.callbacks import ModelCheckpoint

from conftest import MakeDataset, Run
from kit import TinyNet, checkpoint_dataset, loader, trainer
from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback
from lightning_dtool.cli import model
from lightning_dtool.cli.console import INTERNAL_ERROR
from lightning_dtool.export.text.listing import MAX_CELL, listing
from lightning_dtool.items import CHECKPOINT_ITEM, CHECKPOINT_TAG, RECORD_ITEM, SOURCE_ITEM
from lightning_dtool.printing import printable
from lightning_dtool.record import Provenance
from lightning_dtool.store import DatasetWriter, FrozenDataset, local_path, normalize_uri

COMMAND = str(Path(sys.executable).parent / "lightning-dtool")
HOSTILE = "[red]x[bold]\x1b[2J\x9b31m\u202e:smile:"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoints of the best two of three epochs of a real run."""
    folder = tmp_path_factory.mktemp("run")
    base = folder / "models"
    base.mkdir()
    keep = ModelCheckpoint(dirpath=folder / "local", monitor="val_loss", save_top_k=2, save_last=True)
    trainer(folder, DtoolProvenanceCallback(str(base)), keep, max_epochs=3).fit(TinyNet(), loader(), loader())
    return base


@pytest.fixture(scope="module")
def checkpoint(models: Path) -> str:
    """Return the URI of the run's best checkpoint."""
    return next(dataset.uri for path in models.iterdir() if "best" in (dataset := FrozenDataset.from_uri(path)).tags())


@pytest.fixture
def damaged(checkpoint: str, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint's folder that a test can damage."""
    return Path(shutil.copytree(local_path(checkpoint), tmp_path / "copy"))  # type: ignore[arg-type]


def record_of(checkpoint: str) -> dict[str, Any]:
    dataset = FrozenDataset.from_uri(checkpoint)
    return json.loads(dataset.read_bytes(dataset.item(RECORD_ITEM).identifier))


def rename(folder: Path, name: str) -> None:
    """Write any name into the metadata of a dataset, also one that tools refuse."""
    metadata = folder / ".dtool" / "dtool"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "name": name}))


# -- ls -------------------------------------------------------------------------------------------


def test_ls_shows_each_checkpoint_on_one_line_with_its_whole_uri(run: Run, models: Path, checkpoint: str) -> None:
    header, *lines = run("ls", models).stdout.splitlines()
    assert header.split() == ["NAME", "DATE", "(UTC)", "EPOCH", "MONITOR", "STATUS", "TAGS", "URI"]
    assert sorted(line.split()[-1] for line in lines) == sorted(normalize_uri(path) for path in models.iterdir())
    best = next(line for line in lines if line.endswith(checkpoint))
    assert "val_loss" in best
    assert "finished" in best
    assert "best" in best
    assert CHECKPOINT_TAG not in best


def test_ls_json_is_newest_first_and_has_the_same_facts(run: Run, models: Path, checkpoint: str) -> None:
    found = json.loads(run("ls", models, "--json").stdout)
    assert [entry["frozen_at"] for entry in found] == sorted((entry["frozen_at"] for entry in found), reverse=True)
    assert len(found) == len(list(models.iterdir()))
    best = next(entry for entry in found if entry["uri"] == checkpoint)
    record = record_of(checkpoint)
    assert best["epoch"] == record["checkpoint"]["epoch"]
    assert best["monitor"] == record["checkpoint"]["monitors"][0]
    assert best["run_status"] == "finished"
    assert {"best", CHECKPOINT_TAG} <= set(best["tags"])


def test_ls_leaves_out_other_datasets(run: Run, base_uri: str, make_dataset: MakeDataset) -> None:
    make_dataset()
    result = run("ls", base_uri)
    assert result.stdout == ""
    assert result.stderr == f"No checkpoints in {base_uri}.\n"
    assert json.loads(run("ls", base_uri, "--json").stdout) == []


@pytest.mark.parametrize("file", [".dtool/dtool", ".dtool/annotations/epoch.json"])
def test_ls_warns_of_a_corrupt_dataset_and_lists_the_others(run: Run, models: Path, damaged: Path, file: str) -> None:
    shutil.copytree(next(models.iterdir()), damaged.parent / "whole")
    (damaged / file).write_text("{")
    result = run("ls", damaged.parent)
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == [normalize_uri(damaged.parent / "whole")]
    assert result.stderr.startswith(f"Warning: left out {normalize_uri(damaged)}: ")
    assert result.stderr.count("\n") == 1


def test_ls_in_a_narrow_terminal_prints_the_uri_on_a_separate_line(run: Run, models: Path) -> None:
    found = json.loads(run("ls", models, "--json").stdout)
    for entry in found:
        entry["frozen_at"] = FrozenDataset.from_uri(entry["uri"]).frozen_at
    lines = listing(found, 80).plain.splitlines()
    assert len(lines) == 1 + 2 * len(found)
    assert [line.strip() for line in lines[2::2]] == [entry["uri"] for entry in found]
    assert all(len(line) <= 80 for line in [lines[0], *lines[1::2]])
    assert len(listing(found, 400).plain.splitlines()) == 1 + len(found)


def test_ls_clips_absurdly_long_annotations(run: Run, base_uri: str, checkpoint: str) -> None:
    uri = checkpoint_dataset(base_uri, record_of(checkpoint), run_status="x" * 10_000, epoch=[1] * 1000, monitor={})
    line = run("ls", base_uri).stdout.splitlines()[1]
    assert len(line) < 200 + 2 * MAX_CELL + len(uri)
    assert line.endswith(uri)


# -- show -----------------------------------------------------------------------------------------


def test_show_prints_the_record_in_order_with_its_gaps(run: Run, checkpoint: str) -> None:
    text = run("show", checkpoint).stdout
    assert text.startswith(f"{FrozenDataset.from_uri(checkpoint).name}\n{checkpoint}\n")
    headings = [line for line in text.splitlines() if line.isupper() and not line.startswith(" ")]
    fields = [name.upper() for name in Provenance.model_fields if name not in ("schema_version", "gaps")]
    assert [heading for heading in headings if not heading.startswith("GAPS")] == fields
    record = record_of(checkpoint)
    assert "kit:TinyNet" in text
    assert "lr=0.05" in text
    assert record["run"]["uuid"] in text
    gaps = record["gaps"]
    assert f"Gaps in this record: {len(gaps)}, listed at the end." in text
    last = text.partition(f"GAPS ({len(gaps)})")[2]
    assert all(gap["fact"] in last and gap["reason"] in last for gap in gaps)


def test_show_prints_no_section_of_gaps_without_gaps(run: Run, base_uri: str, checkpoint: str) -> None:
    uri = checkpoint_dataset(base_uri, {**record_of(checkpoint), "gaps": []})
    assert "gaps" not in run("show", uri).stdout.replace(uri, "").lower()


def test_show_json_prints_the_record(run: Run, checkpoint: str) -> None:
    assert json.loads(run("show", checkpoint, "--json").stdout) == record_of(checkpoint)


def test_show_accepts_a_folder(run: Run, checkpoint: str) -> None:
    assert run("show", local_path(checkpoint)).stdout == run("show", checkpoint).stdout


def test_show_truncates_long_values_and_counts_the_rest(run: Run, base_uri: str, checkpoint: str) -> None:
    record = record_of(checkpoint)
    record["model"]["hyperparameters"] = {"widths": list(range(1000)), "act": {"type": "a:b", "repr": "<act>"}}
    text = run("show", checkpoint_dataset(base_uri, record)).stdout
    assert "and 976 more (--json shows all)" in text
    assert "act=<act>" in text


def test_show_refuses_a_changed_record(run: Run, damaged: Path) -> None:
    path = damaged / "data" / RECORD_ITEM
    path.write_text(path.read_text().replace("kit:TinyNet", "kit:OtherNt"))
    result = run("show", damaged, code=1)
    assert result.stdout == ""
    assert RECORD_ITEM in result.stderr


@pytest.mark.parametrize("command", ["diff", "compare"])
def test_damaged_content_has_not_the_exit_code_of_a_difference(
    run: Run, damaged: Path, checkpoint: str, command: str
) -> None:
    path = damaged / "data" / RECORD_ITEM
    path.write_text(path.read_text().replace("kit:TinyNet", "kit:OtherNt"))
    assert RECORD_ITEM in run(command, damaged, checkpoint, code=3).stderr


# -- verify ---------------------------------------------------------------------------------------


def test_verify_prints_ok_for_each_dataset(run: Run, models: Path) -> None:
    uris = [normalize_uri(path) for path in models.iterdir()]
    assert run("verify", *uris).stdout.splitlines() == [f"ok       {uri}" for uri in uris]


def test_verify_prints_what_differs(run: Run, damaged: Path, checkpoint: str) -> None:
    with (damaged / "data" / CHECKPOINT_ITEM).open("r+b") as file:
        file.write(b"changed")
    first, *details = run("verify", damaged, checkpoint, code=1).stdout.splitlines()
    assert first == f"differs  {damaged}"
    assert details.pop() == f"ok       {checkpoint}"
    assert all(line.startswith("  ") for line in details)
    assert CHECKPOINT_ITEM in "".join(details)


def test_verify_continues_after_an_error_and_exits_with_the_lowest_code(
    run: Run, damaged: Path, checkpoint: str
) -> None:
    missing = damaged.parent / "missing"
    result = run("verify", missing, checkpoint, code=3)
    assert result.stdout == f"ok       {checkpoint}\n"
    assert result.stderr.startswith("Error: ")
    (damaged / "data" / RECORD_ITEM).unlink()
    result = run("verify", missing, damaged, checkpoint, "--json", code=1)
    found = json.loads(result.stdout)
    assert [entry["status"] for entry in found] == ["error", "differs", "ok"]
    assert [entry["uri"] for entry in found] == [str(missing), str(damaged), checkpoint]
    assert found[0]["error"]["type"] == "DatasetNotFoundError"
    assert RECORD_ITEM in found[1]["error"]["message"]
    assert found[2]["error"] is None


def test_verify_accepts_any_frozen_dataset(run: Run, make_dataset: MakeDataset) -> None:
    run("verify", make_dataset().uri)


# -- resolve --------------------------------------------------------------------------------------


def test_resolve_prints_a_path_that_torch_loads(run: Run, checkpoint: str) -> None:
    path = run("resolve", checkpoint).stdout
    assert (
        torch.load(path.removesuffix("\n"), weights_only=True)["epoch"] == record_of(checkpoint)["checkpoint"]["epoch"]
    )
    found = json.loads(run("resolve", checkpoint, "--json").stdout)
    assert found == {"uri": checkpoint, "uuid": FrozenDataset.from_uri(checkpoint).uuid, "path": path[:-1]}


def test_resolve_prints_only_an_error_for_a_changed_file(run: Run, damaged: Path) -> None:
    with (damaged / "data" / CHECKPOINT_ITEM).open("ab") as file:
        file.write(b"more")
    result = run("resolve", damaged, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_commands_work_on_a_remote_store(run: Run, s3_base_uri: str, checkpoint: str) -> None:
    uri = checkpoint_dataset(s3_base_uri, record_of(checkpoint), epoch=2)
    assert Path(run("resolve", uri).stdout.strip()).read_bytes() == b"weights"
    assert "kit:TinyNet" in run("show", uri).stdout
    assert run("verify", uri).stdout == f"ok       {uri}\n"
    assert uri in [entry["uri"] for entry in json.loads(run("ls", s3_base_uri, "--json").stdout)]


# -- pack -----------------------------------------------------------------------------------------


@pytest.fixture
def leaves(tmp_path: Path) -> Path:
    """Return a folder of class folders."""
    for name in ("oak/1.txt", "oak/2.txt", "elm/1.txt"):
        path = tmp_path / "leaves" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "leaves"


def test_pack_prints_only_the_uri(run: Run, leaves: Path, base_uri: str) -> None:
    result = run("pack", leaves, base_uri, "--name", "leaves")
    assert result.stderr == ""
    dataset = FrozenDataset.from_uri(result.stdout.removesuffix("\n"))
    assert sorted(dataset.overlay("category").values()) == ["elm", "oak", "oak"]
    readme = yaml.safe_load(dataset.readme())
    assert readme["confidential"] is False
    assert readme["description"] == ""


def test_pack_fills_in_the_readme(run: Run, leaves: Path, base_uri: str) -> None:
    options = "--description Leaves --project Trees --owner-name Ann --owner-email ann@example.org --owner-username ann"
    more = "--owner-orcid 0000-0001 --funder A --funder B --confidential --personal --tag raw --tag may"
    uri = run("pack", leaves, base_uri, "--name", "leaves", *options.split(), *more.split()).stdout.strip()
    dataset = FrozenDataset.from_uri(uri)
    readme = yaml.safe_load(dataset.readme())
    owner = {"name": "Ann", "email": "ann@example.org", "username": "ann", "orcid": "0000-0001"}
    assert {**readme, "creation_date": ""} == {
        "description": "Leaves",
        "project": "Trees",
        "confidential": True,
        "personally_identifiable_information": True,
        "owners": [owner],
        "funders": ["A", "B"],
        "creation_date": "",
    }
    assert dataset.tags() == ["may", "raw"]


def test_pack_adds_the_columns_of_a_table(run: Run, leaves: Path, base_uri: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,height\noak/1.txt,1.5\noak/2.txt,2\nelm/1.txt,3\n")
    uri = json.loads(run("pack", leaves, base_uri, "--name", "leaves", "--csv", table, "--json").stdout)["uri"]
    assert sorted(FrozenDataset.from_uri(uri).overlay("height").values()) == [1.5, 2.0, 3.0]
    table.write_text("path,height\noak/1.txt,1.5\n")
    assert "elm/1.txt" in run("pack", leaves, base_uri, "--name", "other", "--csv", table, code=2).stderr


def test_pack_asks_nothing_without_a_terminal(run: Run, leaves: Path, base_uri: str) -> None:
    assert "--name" in run("pack", leaves, base_uri, code=2).stderr


def on_terminal(*arguments: str, answers: str = "", stdout: int | None = None) -> tuple[str, int]:
    """Run the script on a terminal of 80 columns. Return the output and the exit code."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [COMMAND, *arguments], stdin=theirs, stdout=stdout or theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    os.write(ours, answers.encode())
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux raises this when the other side has closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return shown.decode(), process.wait(180)


def test_pack_asks_on_a_terminal_for_missing_options(leaves: Path, base_uri: str, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as out:
        answers = "\nTrees\nAnn\nann@example.org\ny\n\n"
        options = ("--description", "Given")
        shown, code = on_terminal("pack", str(leaves), base_uri, *options, answers=answers, stdout=out.fileno())
        assert code == 0, shown
        out.seek(0)
        printed = out.read()
    assert "Name of the dataset [leaves]" in shown
    assert "Description" not in shown
    assert printed == f"{base_uri}/leaves\n"
    readme = yaml.safe_load(FrozenDataset.from_uri(printed.strip()).readme())
    assert readme["description"] == "Given"
    assert readme["project"] == "Trees"
    assert readme["owners"][0]["email"] == "ann@example.org"
    assert readme["confidential"] is True
    assert readme["personally_identifiable_information"] is False


def test_pack_asks_nothing_with_the_option_for_it(leaves: Path, base_uri: str) -> None:
    shown, code = on_terminal("pack", str(leaves), base_uri, "--name", "leaves", "--yes")
    assert code == 0
    assert "Description" not in shown


def test_ls_fits_a_terminal_of_80_columns(models: Path, checkpoint: str) -> None:
    shown, code = on_terminal("ls", str(models))
    assert code == 0
    assert checkpoint in shown
    assert "best" in shown


# -- exit codes -----------------------------------------------------------------------------------


def test_json_output_of_an_error_has_its_attributes(
    run: Run, make_dataset: MakeDataset, leaves: Path, base_uri: str
) -> None:
    dataset = make_dataset({"a.txt": b"1"})
    dataset.path(dataset.item("a.txt").identifier).unlink()
    (found,) = json.loads(run("verify", dataset.uri, "--json", code=1).stdout)
    assert {**found["error"], "message": ""} == {
        "type": "VerificationError",
        "message": "",
        "uri": dataset.uri,
        "item": "a.txt",
        "path": None,
        "kind": None,
    }
    result = run("pack", leaves, f"{base_uri}/nothing", "--name", "x", "--json", code=4)
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["uri"], error["kind"]) == ("StoreError", f"{base_uri}/nothing", "absent")


def test_each_kind_of_error_has_its_exit_code(
    run: Run, make_dataset: MakeDataset, damaged: Path, leaves: Path, base_uri: str
) -> None:
    (damaged / ".dtool" / "manifest.json").write_text('{"items": ')
    unfinished = DatasetWriter("unfinished", base_uri, creator_username="tester")
    for command in ("show", "resolve"):
        for uri, kind, code in [
            (make_dataset(name=command).uri, "NotACheckpointError", 3),
            (damaged, "CorruptDatasetError", 3),
            (damaged.parent, "DatasetNotFoundError", 3),
            (unfinished.uri, "NotFrozenError", 3),
            ("nothing://here", "InvalidURIError", 2),
            ("", "InvalidURIError", 2),
        ]:
            result = run(command, uri, "--json", code=code)
            error = json.loads(result.stdout)["error"]
            assert error["type"] == kind
            assert str(uri) in error["message"]
            assert result.stderr.startswith("Error: ")
            assert result.stderr.count("\n") == 1
            assert run(command, uri, code=code).stdout == ""
    unfinished.abort()
    run("ls", damaged.parent / "missing", code=4)
    run("pack", leaves, damaged.parent / "missing", "--name", "leaves", code=4)
    run("pack", leaves, base_uri, "--name", "not a name", code=2)
    run("pack", damaged.parent / "missing", base_uri, "--name", "leaves", code=2)
    run("pack", leaves, base_uri, "--name", "leaves")
    run("pack", leaves, base_uri, "--name", "leaves", code=4)
    run("show", code=2)
    run("verify", code=2)


def test_the_help_lists_the_exit_codes(run: Run) -> None:
    text = run("--help").stdout
    assert "Exit codes:\n    0    success\n    1    content differs" in text
    for command in ("ls", "show", "verify", "resolve", "pack"):
        assert "--json" in run(command, "-h").stdout


def test_a_newer_record_is_an_error_that_says_so(run: Run, base_uri: str, checkpoint: str) -> None:
    uri = checkpoint_dataset(base_uri, {**record_of(checkpoint), "schema_version": 99})
    assert "Upgrade" in run("show", uri, code=3).stderr


@pytest.mark.parametrize("name", model.commands)
def test_a_fault_of_this_package_has_an_exit_code_that_means_nothing_else(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(**_: object) -> None:
        raise KeyError("\x1b[2J")

    monkeypatch.setattr(model.commands[name], "callback", fail)
    arguments = ["x"] * sum(parameter.required for parameter in model.commands[name].params)
    given = {"pack": [tmp_path, "x"], "replicate": ["x", "--train", "x"], "evaluate": ["x", "--data", "x"]}
    result = run(name, *given.get(name, arguments), "--json", code=INTERNAL_ERROR)
    assert json.loads(result.stdout)["error"]["type"] == "KeyError"
    traceback, _, request = result.stderr.rpartition("Error: ")
    assert "in fail\n" in traceback
    assert traceback.endswith("KeyError: '\\x1b[2J'\n")
    assert "Please report it" in request


def test_an_interrupted_command_exits_with_130(run: Run, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrozenDataset, "from_uri", interrupt)
    result = run("show", checkpoint, code=130)
    assert result.output == ""


def test_a_closed_pipe_exits_quietly_with_141(checkpoint: str) -> None:
    process = subprocess.Popen([COMMAND, "show", checkpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(180) == 141


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version").stdout.startswith("lightning-dtool, version ")


# -- untrusted content ----------------------------------------------------------------------------


def unharmed(text: str) -> Iterator[str]:
    """Yield the lines of an output, asserting that a terminal would only print them."""
    for line in text.splitlines():
        assert line.isprintable(), repr(line)
        yield line


def test_markup_and_escape_sequences_are_printed_as_text(run: Run, base_uri: str, checkpoint: str) -> None:
    record = record_of(checkpoint)
    record["model"]["hyperparameters"] = {HOSTILE: HOSTILE, "nested": [{HOSTILE: [HOSTILE]}]}
    record["data"]["stages"][HOSTILE] = record["data"]["stages"]["train"]
    record["gaps"].append({"fact": HOSTILE, "reason": HOSTILE, "remedy": HOSTILE})
    monitor = {"name": HOSTILE, "mode": "min", "value": HOSTILE}
    uri = checkpoint_dataset(base_uri, record, run_status=HOSTILE, epoch=HOSTILE, monitor=monitor)
    rename(local_path(uri), HOSTILE)  # type: ignore[arg-type]
    shown = "\n".join(unharmed(run("show", uri).stdout))
    assert shown.count(printable(HOSTILE)) >= 9
    (line,) = list(unharmed(run("ls", base_uri).stdout))[1:]
    assert line.startswith(printable(HOSTILE))
    assert json.loads(run("ls", base_uri, "--json").stdout)[0]["name"] == HOSTILE
    assert run("show", uri, "--json").stdout.isascii()


FAKE = "ok       elsewhere"


def test_no_name_or_text_of_a_stranger_makes_a_line_of_its_own(
    make_dataset: MakeDataset, base_uri: str, checkpoint: str, tmp_path: Path
) -> None:
    record = record_of(checkpoint)
    hostile = f"x\n{FAKE}\r{FAKE}\u2028{FAKE}\x85{FAKE}\x1b[2J{FAKE}"
    record["model"]["hyperparameters"] = {hostile: hostile}
    record["metrics"]["at_checkpoint"] = {hostile: hostile}
    record["gaps"].append({"fact": hostile, "reason": hostile, "remedy": hostile})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr(hostile, "password = 'q7Wx93kZp0Lm'\n")
    dataset = FrozenDataset.from_uri(checkpoint)
    weights = {CHECKPOINT_ITEM: dataset.read_bytes(dataset.item(CHECKPOINT_ITEM).identifier)}
    items = {**weights, hostile: b"password: q7Wx93kZp0Lm", SOURCE_ITEM: archive.getvalue()}
    uri = checkpoint_dataset(base_uri, record, items=items, run_status=hostile)
    other = checkpoint_dataset(base_uri, record_of(checkpoint), "other", items=weights)
    data = make_dataset({hostile: b"one"}).uri
    rename(local_path(uri), hostile)  # type: ignore[arg-type]
    damaged = local_path(make_dataset({hostile: b"one"}, name="damaged").uri)
    assert damaged is not None
    next((damaged / "data").iterdir()).write_bytes(b"two")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / hostile).touch()
    printed = []
    for command in (
        ["ls", base_uri], ["show", uri], ["check", uri], ["verify", uri, damaged, data], ["resolve", uri],
        ["diff", uri, other, "--all"], ["compare", uri, other, "--all"], ["scan", uri], ["scan", data],
        ["recover", base_uri, "--dry-run"], ["reproduce", uri, "--into", base_uri],
        ["replicate", uri, "--train", data, "--into", base_uri], ["evaluate", uri, "--data", data],
        ["pack", folder, base_uri, "--name", "packed"],
    ):  # fmt: skip
        result = CliRunner().invoke(model, list(map(str, command)))
        assert result.exit_code != INTERNAL_ERROR, result.output
        lines = [*unharmed(result.stdout), *unharmed(result.stderr)]
        assert [line for line in lines if line.lstrip().startswith(FAKE)] == [], command
        printed += [command[0]] * any("\\n" in line for line in lines)
    assert {"ls", "show", "verify", "diff", "compare", "scan"} <= set(printed)  # those that print such a name


def test_numbers_outside_json_are_printed_as_json(run: Run, base_uri: str, checkpoint: str) -> None:
    uri = checkpoint_dataset(base_uri, record_of(checkpoint), monitor={"name": "loss", "value": 0.5})
    path = Path(str(local_path(uri)), ".dtool", "annotations", "monitor.json")
    path.write_text('{"name": "loss", "value": NaN}')
    (entry,) = json.loads(run("ls", base_uri, "--json").stdout, parse_constant=pytest.fail)
    assert entry["monitor"]["value"] == "NaN"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_commands_work_in_any_locale(base_uri: str, checkpoint: str, encoding: str) -> None:
    record = record_of(checkpoint)
    record["model"]["hyperparameters"] = {"größe": "β"}
    uri = checkpoint_dataset(base_uri, record)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    for arguments in (["show", uri], ["show", uri, "--json"], ["ls", base_uri]):
        done = subprocess.run([COMMAND, *arguments], capture_output=True, env=environment, timeout=180, check=True)
        text = done.stdout.decode(encoding)
        assert done.stderr == b""
        if arguments[0] == "show" and "--json" not in arguments:
            assert ("größe=β" in text) == (encoding == "utf-8")
            assert ("\\u03b2" in text) == (encoding != "utf-8")


# -- evaluate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Return a checkpoint, its training data of array rows, and a folder for results."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "models").mkdir()
    x = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    with DatasetWriter("rows", folder) as writer:
        for relpath, array in (("data.npy", x), ("labels.npy", x[:, :3].argmax(1))):
            with writer.open(relpath) as file:
                np.save(file, array)
        data = writer.commit().uri
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    trainer(folder, provenance, max_epochs=1).fit(TinyNet(), DtoolDataModule(data, test_split=0.25))
    assert provenance.last_uri is not None
    return provenance.last_uri, data, folder


def test_evaluate_prints_a_table_and_says_that_nothing_was_stored(run: Run, trained: tuple[str, str, Path]) -> None:
    uri, data, folder = trained
    before = sorted(folder.iterdir())
    result = run("evaluate", uri, "--data", data, "--metrics", "accuracy,f1")
    assert "6, its part for test" in result.stdout
    assert "0 of them" in result.stdout
    assert [name for name in ("accuracy", "f1", "auroc") if f"  {name} " in result.stdout] == ["accuracy", "f1"]
    assert "Nothing was stored" in result.stderr
    assert sorted(folder.iterdir()) == before


def test_evaluate_prints_json_and_stores_the_result(run: Run, trained: tuple[str, str, Path]) -> None:
    uri, data, folder = trained
    result = run("evaluate", uri, "--data", data, "--into", folder, "--batch-size", 5, "--json")
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert found["count"] == 6
    assert "Nothing was stored" not in result.stderr
    stored = FrozenDataset.from_uri(found["dataset_uri"])
    stored.verify()
    assert json.loads(stored.read_bytes(stored.item("metrics.json").identifier)) == found
    assert "stored as" in run("evaluate", uri, "--data", data, "--into", folder).stdout


def test_evaluate_warns_about_training_data(run: Run, trained: tuple[str, str, Path]) -> None:
    uri, data, _ = trained
    result = run("evaluate", uri, "--data", data, "--part", "whole", "--workers", 1)
    assert "Warning: The model was trained on 18 of these 24 samples" in result.stderr
    assert "18 of them" in result.stdout


class Partial(TinyNet):
    """A model whose checkpoints hold nothing of a part that was not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False
        self.part = torch.nn.Linear(2, 2).requires_grad_(False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if "part" not in k}


def test_evaluate_refuses_a_partial_checkpoint_unless_told(run: Run, trained: tuple[str, str, Path]) -> None:
    _, data, folder = trained
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    trainer(folder, provenance, max_epochs=1).fit(Partial(), DtoolDataModule(data, test_split=0.25))
    uri = str(provenance.last_uri)
    refused = run("evaluate", uri, "--data", data, "--into", folder, code=3)
    assert "part.weight, part.bias" in refused.stderr
    assert "--allow-missing" in refused.stderr
    found = run("evaluate", uri, "--data", data, "--allow-missing")
    assert "missing weights   part.weight, part.bias" in found.stdout
    assert "part.weight" in found.stderr


def test_evaluate_has_the_documented_exit_codes(
    run: Run, trained: tuple[str, str, Path], base_uri: str, make_dataset: MakeDataset
) -> None:
    uri, data, folder = trained
    assert "balanced_accuracy" in run("evaluate", uri, "--data", data, "--metrics", "nonsense", code=2).stderr
    assert "--data" in run("evaluate", uri, code=2).stderr
    run("evaluate", uri, "--data", data, "--device", "warp", code=2)
    run("evaluate", data, "--data", data, code=3)
    run("evaluate", uri, "--data", f"{base_uri}/nothing", code=3)
    run("evaluate", uri, "--data", data, "--into", folder / "nowhere", code=4)
    error = json.loads(run("evaluate", uri, "--data", make_dataset().uri, "--json", code=2).stdout)["error"]
    assert error["type"] == "ConfigurationError"
    assert "no targets" in error["message"]


# -- imports --------------------------------------------------------------------------------------


def test_no_command_but_evaluate_loads_torch_or_lightning(
    models: Path, checkpoint: str, leaves: Path, base_uri: str
) -> None:
    program = """
import sys
from click.testing import CliRunner
import lightning_dtool
from lightning_dtool.cli import model
from lightning_dtool.cli.console import INTERNAL_ERROR
models, checkpoint, leaves, base_uri = sys.argv[1:]
for arguments in (
    ["--help"], ["ls", models], ["show", checkpoint], ["verify", checkpoint], ["resolve", checkpoint],
    ["show", checkpoint, "--json"], ["pack", leaves, base_uri, "--name", "packed"],
):
    result = CliRunner().invoke(model, arguments)
    assert result.exit_code == 0, result.output
    loaded = {"torch", "lightning", "pytorch_lightning", "numpy", "PIL"} & set(sys.modules)
    assert not loaded, (arguments, loaded)
"""
    arguments = [str(models), checkpoint, str(leaves), base_uri]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", COMMAND, "--help"], capture_output=True, text=True, timeout=180, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not {"torch", "lightning", "dtoolcore", "pydantic", "rich"} & loaded
