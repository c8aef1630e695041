"""The commands `check` and `diff`, and the shortened output of long records."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from click.testing import Result
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from conftest import Run
from kit import TinyNet, checkpoint_dataset, loader, trainer
from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback
from lightning_dtool.data.packing import pack
from lightning_dtool.export.text.differences import MAX_PATCH_LINES
from lightning_dtool.export.text.values import MAX_ENTRIES, MAX_TEXT
from lightning_dtool.items import RECORD_ITEM, REQUIREMENTS_ITEM, SOURCE_ITEM
from lightning_dtool.record import SCHEMA_VERSION
from lightning_dtool.results.checklist import Status
from lightning_dtool.store import DatasetWriter, FrozenDataset, local_path
from loading.test_unpacking import archive
from web_server import Server

HOSTILE = "[red]x[bold]\x1b[2J\x9b31m\u202e:smile:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def data(folder: Path) -> str:
    """Return the URI of a packed dataset: vectors in two classes."""
    import numpy as np

    for number in range(24):
        path = folder / "vectors" / ("even", "odd")[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full(8, number, dtype=np.float32))
    (folder / "data").mkdir()
    return pack(folder / "vectors", str(folder / "data"), "vectors", description="Numbers", progress=False)


@pytest.fixture(scope="module")
def runs(folder: Path, data: str) -> tuple[str, str]:
    """Return the URIs of two checkpoints whose trainings differ in learning rate and patience alone."""
    torch.seed()  # as if no test in this process had set a seed
    uris = []
    for lr, patience in ((0.05, 3), (0.01, 5)):
        base = folder / f"models-{patience}"
        base.mkdir()
        provenance = DtoolProvenanceCallback(str(base))
        keep = ModelCheckpoint(dirpath=folder / f"local-{patience}", monitor="val_loss")
        stop = EarlyStopping("val_loss", patience=patience)
        module = DtoolDataModule(data, batch_size=6, val_split=0.25, seed=3)
        trainer(folder, provenance, keep, stop, max_epochs=1).fit(TinyNet(lr=lr), module)
        (path,) = base.iterdir()
        uris.append(FrozenDataset.from_uri(path).uri)
    return uris[0], uris[1]


def record_of(uri: str) -> dict[str, Any]:
    dataset = FrozenDataset.from_uri(uri)
    return json.loads(dataset.read_bytes(dataset.item(RECORD_ITEM).identifier))


def points(result: Result) -> dict[str, dict[str, str]]:
    return {point["key"]: point for point in json.loads(result.stdout)["findings"]}


# -- check ----------------------------------------------------------------------------------------


def test_check_reads_the_record_and_the_data(run: Run, runs: tuple[str, str]) -> None:
    found = points(run("check", runs[0], "--json"))
    for key in ("guidelines.metadata", "guidelines.stored_together", "data.train"):
        assert found[key]["status"] == "pass", found[key]
    assert found["guidelines.persistent_uris"]["status"] == "partly"
    assert "vectors: a description, 2 overlays, 0 annotations" in found["guidelines.metadata"]["found"]
    assert found["data.test"]["status"] == "not applicable"
    assert found["method.problem"]["status"] == "not in a record"
    assert found["run.seed"]["status"] == "fail"
    assert "seed_everything" in found["run.seed"]["remedy"]


def test_check_prints_every_point(run: Run, runs: tuple[str, str]) -> None:
    found = points(run("check", runs[0], "--json"))
    text = run("check", runs[0]).stdout
    for point in found.values():
        assert re.search(rf"^  {point['status']} +{re.escape(point['title'])}$", text, re.MULTILINE)
        if len(point["found"]) <= MAX_TEXT:
            assert point["found"] in text
    assert text.count("Remedy: ") == sum(bool(point["remedy"]) for point in found.values())
    counts = json.loads(run("check", runs[0], "--json").stdout)["counts"]
    assert text.splitlines()[-1] == ", ".join(f"{counts[status.value]} {status.value}" for status in Status)
    assert sum(counts.values()) == len(found)


def test_check_fails_only_with_strict(run: Run, runs: tuple[str, str]) -> None:
    assert run("check", runs[0]).stdout == run("check", runs[0], "--strict", code=1).stdout


def test_check_strict_passes_for_a_complete_record(run: Run, base_uri: str, data: str) -> None:
    """The test checks a complete record, and the same record with unreachable data."""
    from results.test_checklist import ITEMS, complete

    dataset = FrozenDataset.from_uri(data)
    facts = {"uri": data, "uuid": dataset.uuid, "name": "vectors", "content_digest": dataset.content_digest}
    record = complete().model_dump(mode="json")
    for source in (source for stage in record["data"]["stages"].values() for source in stage):
        source["dataset"] = facts
    record["lineage"]["source_datasets"] = [facts]

    def write(record: Any, name: str) -> str:
        with DatasetWriter(name, base_uri, creator_username="tester") as writer:
            for item in ITEMS - {RECORD_ITEM}:
                writer.put_bytes(b"", item)
            writer.put_bytes(json.dumps(record).encode(), RECORD_ITEM)
            return writer.commit().uri

    run("check", write(record, "complete"), "--strict")
    record["lineage"]["source_datasets"] = [{**facts, "uri": f"{data}-gone"}]
    result = run("check", write(record, "far"), "--strict", "--json", code=1)
    assert points(result)["guidelines.metadata"]["status"] == "not checked"


def test_check_says_why_data_cannot_be_read(run: Run, base_uri: str, runs: tuple[str, str]) -> None:
    record = record_of(runs[0])
    for uri in ("/nowhere/at/all", "unheard-of://x/y", "not a uri"):
        facts = {**record["lineage"]["source_datasets"][0], "uri": uri}
        uri = checkpoint_dataset(base_uri, {**record, "lineage": {"source_datasets": [facts]}}, name=f"made{len(uri)}")
        found = points(run("check", uri, "--json"))["guidelines.metadata"]
        assert found["status"] == "not checked"
        assert facts["uri"] in found["found"]


def test_check_asks_no_server_that_only_the_record_names(
    run: Run, base_uri: str, data: str, runs: tuple[str, str], web: Server
) -> None:
    uri = web.put(FrozenDataset.from_uri(data))
    made = checkpoint_dataset(base_uri, json.loads(json.dumps(record_of(runs[0])).replace(json.dumps(data)[1:-1], uri)))
    found = points(run("check", made, "--json"))
    for key in ("guidelines.metadata", "guidelines.persistent_uris"):
        assert found[key]["status"] == "not checked"
        assert "not looked at (offline)" in found[key]["found"]
        assert "--online" in found[key]["remedy"]
    assert web.asked == []
    assert points(run("check", made, "--json", "--online"))["guidelines.persistent_uris"]["status"] == "pass"
    assert web.asked


@pytest.mark.parametrize("readme", ["", "a: [", "just text", "- a list", "description: 2020-13-45", "a: &a [*a]"])
def test_check_accepts_any_readme(run: Run, base_uri: str, data: str, runs: tuple[str, str], readme: str) -> None:
    with DatasetWriter("odd", base_uri, creator_username="tester") as writer:
        writer.put_bytes(b"x", "x.txt")
        writer.put_readme(readme)
        odd = writer.commit()
    facts = {"uri": odd.uri, "uuid": odd.uuid, "name": "odd", "content_digest": odd.content_digest}
    uri = checkpoint_dataset(base_uri, {**record_of(runs[0]), "lineage": {"source_datasets": [facts]}})
    found = points(run("check", uri, "--json"))["guidelines.metadata"]
    assert (found["status"], found["found"]) == ("fail", "no description in the README of odd")


def test_check_finds_data_that_was_changed_after_training(
    run: Run, tmp_path: Path, base_uri: str, data: str, runs: tuple[str, str]
) -> None:
    copy = Path(shutil.copytree(str(local_path(data)), tmp_path / "copy"))
    manifest = copy / ".dtool" / "manifest.json"
    content = json.loads(manifest.read_text())
    next(iter(content["items"].values()))["hash"] = "0" * 32
    manifest.write_text(json.dumps(content))
    text = json.dumps(record_of(runs[0])).replace(json.dumps(data)[1:-1], FrozenDataset.from_uri(copy).uri)
    found = points(run("check", checkpoint_dataset(base_uri, json.loads(text)), "--json"))["guidelines.persistent_uris"]
    assert found["status"] == "fail"
    assert "changed after training" in found["found"]


def test_check_refuses_a_dataset_that_is_not_a_checkpoint(run: Run, data: str) -> None:
    assert "Is this a data set?" in run("check", data, code=3).stderr


# -- diff -----------------------------------------------------------------------------------------


def test_diff_of_a_checkpoint_with_itself_is_empty(run: Run, runs: tuple[str, str]) -> None:
    text = run("diff", runs[0], runs[0]).stdout
    assert text.endswith("No relevant difference was found.\n")
    found = json.loads(run("diff", runs[0], runs[0], "--json").stdout)
    assert (found["same"], found["differences"]) == (True, [])
    assert set(found["metrics"]) == {"train_loss", "val_loss"}


def test_diff_prints_differences_by_meaning(run: Run, runs: tuple[str, str]) -> None:
    result = json.loads(run("diff", *runs, "--json", code=1).stdout)
    assert [result[key]["uri"] for key in "ab"] == list(runs)
    assert result["same"] is False
    found = {entry["path"]: (entry["before"], entry["after"]) for entry in result["differences"]}
    assert found["model.hyperparameters.lr"] == (0.05, 0.01)
    assert found["optimizers[0].param_groups[0].options.lr"] == (0.05, 0.01)
    assert not [path for path in found if path.startswith(("run.", "code.", "environment."))]
    everything = json.loads(run("diff", *runs, "--json", "--all", code=1).stdout)["differences"]
    assert "run.uuid" in [entry["path"] for entry in everything]
    text = run("diff", *runs, code=1).stdout
    assert "\n  optimizers[0].param_groups[0].options.lr  0.05 -> 0.01\n" in text
    assert "run.uuid" not in text
    assert "run.uuid" in run("diff", *runs, "--all", code=1).stdout
    assert re.search(r"METRICS AT THE CHECKPOINT\n(.*\n)*  val_loss +[\d.e-]+ +[\d.e-]+ +[+-]", text)


def test_diff_prints_differences_of_code_and_packages(run: Run, base_uri: str, runs: tuple[str, str]) -> None:
    record = record_of(runs[0])

    def checkpoint(name: str, source: str, requirements: str) -> str:
        zipped = archive({"train.py": source.encode()})
        return checkpoint_dataset(
            base_uri, record, name, items={SOURCE_ITEM: zipped, REQUIREMENTS_ITEM: requirements.encode()}
        )

    a = checkpoint("a", "lr = 1\n", "torch==2.6.0\ngone==1\n")
    b = checkpoint("b", "lr = 2\n", "torch==2.7.0\n")
    text = run("diff", a, b, code=1).stdout
    assert "  environment.packages.torch  2.6.0 -> 2.7.0\n" in text
    assert "  - environment.packages.gone  1\n" in text
    assert "  code.files[train.py]\n" in text
    assert "    -lr = 1\n    +lr = 2\n" in text
    long = checkpoint("c", "".join(f"x{number} = 1\n" for number in range(1000)), "torch==2.6.0\ngone==1\n")
    lines = run("diff", a, long, code=1).stdout.splitlines()
    assert len(lines) < MAX_PATCH_LINES + 20
    assert [line for line in lines if re.fullmatch(r"    and \d+ more lines \(--json shows all\)", line)]
    damaged = checkpoint_dataset(base_uri, record, "d", items={SOURCE_ITEM: b"no zip"})
    assert "source.zip cannot be read" in run("diff", a, damaged, code=3).stderr


def test_diff_of_a_copy_elsewhere_is_printed_and_exits_with_zero(
    run: Run, base_uri: str, data: str, runs: tuple[str, str]
) -> None:
    record = record_of(runs[0])
    moved = json.loads(json.dumps(record).replace(json.dumps(data)[1:-1], "s3://lab/vectors"))
    a, b = checkpoint_dataset(base_uri, record, "a"), checkpoint_dataset(base_uri, moved, "b")
    text = run("diff", a, b).stdout
    assert f"data.stages.train[vectors].dataset  {data} -> s3://lab/vectors  (the same dataset at another" in text
    assert text.endswith("No relevant difference was found.\n")
    assert {entry["weight"] for entry in json.loads(run("diff", a, b, "--json").stdout)["differences"]} == {
        "same content"
    }


class Files(Dataset):  # type: ignore[type-arg]
    """Samples that are read from a file while training."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        rows = torch.load(self.path)
        return rows[index], index % 3


def test_diff_says_what_is_not_known_to_be_the_same(run: Run, tmp_path: Path) -> None:
    uris = []
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        generator = torch.Generator().manual_seed(seed)
        torch.save(torch.randn(6, 8, generator=generator), tmp_path / "rows.pt")
        L.seed_everything(1)
        provenance = DtoolProvenanceCallback(str(tmp_path / name))
        trainer(tmp_path, provenance, max_epochs=1, limit_val_batches=0).fit(
            TinyNet(), DataLoader(Files(tmp_path / "rows.pt"))
        )
        uris += provenance.uris
    text = run("diff", *uris, code=1).stdout
    place = re.escape("  data.stages.train[0]  (it leaves out path: the content of the file that it names")
    assert re.search(rf"\nNOT KNOWN TO BE THE SAME \(\d+\)\n(  .*\n)*{place}", text)
    assert "No relevant difference was found." not in text
    found = json.loads(run("diff", *uris, "--json", code=1).stdout)
    assert found["same"] in (None, False)
    (data,) = (entry for entry in found["differences"] if entry["path"] == "data.stages.train[0]")
    assert (data["kind"], data["weight"]) == ("unknown", "unknown")


def test_diff_of_two_runs_on_the_same_data_in_memory_finds_no_difference(run: Run, tmp_path: Path) -> None:
    uris = []
    for name in "ab":
        (tmp_path / name).mkdir()
        L.seed_everything(1)
        provenance = DtoolProvenanceCallback(str(tmp_path / name))
        trainer(tmp_path, provenance, max_epochs=1, limit_val_batches=0).fit(TinyNet(), loader(shuffle=True))
        uris += provenance.uris
    assert run("diff", *uris).stdout.endswith("No relevant difference was found.\n")
    assert json.loads(run("diff", *uris, "--json").stdout)["same"] is True


def test_diff_of_unreadable_checkpoints_is_an_error(run: Run, data: str, runs: tuple[str, str], tmp_path: Path) -> None:
    run("diff", runs[0], data, code=3)
    run("diff", runs[0], tmp_path / "missing", code=3)
    run("diff", runs[0], code=2)
    copy = Path(shutil.copytree(str(local_path(runs[0])), tmp_path / "copy"))
    (copy / "data" / REQUIREMENTS_ITEM).write_text("torch==0\n")
    result = run("diff", runs[0], copy, "--json", code=3)
    assert json.loads(result.stdout)["error"]["type"] == "VerificationError"  # instead of a difference


def test_diff_truncates_long_output(run: Run, base_uri: str, runs: tuple[str, str]) -> None:
    def checkpoint(name: str, value: int) -> str:
        hyperparameters = {f"x{number}": value for number in range(500)} | {"text": f"{value}" * 5000}
        record = record_of(runs[0])
        record["model"]["hyperparameters"] = hyperparameters
        record["metrics"]["at_checkpoint"] = {f"m{number}": value for number in range(500)}
        return checkpoint_dataset(base_uri, record, name)

    a, b = checkpoint("a", 1), checkpoint("b", 2)
    text = run("diff", a, b, code=1).stdout
    assert text.count("more (--json shows all)") == 2
    assert len(text.splitlines()) < 3 * MAX_ENTRIES
    assert len(json.loads(run("diff", a, b, "--json", code=1).stdout)["differences"]) == 1001


# -- both -----------------------------------------------------------------------------------------


def test_an_untrusted_record_cannot_control_the_terminal(run: Run, base_uri: str, runs: tuple[str, str]) -> None:
    record = record_of(runs[0])
    record["model"]["hyperparameters"] = {HOSTILE: HOSTILE, "text": f"{HOSTILE}\n{HOSTILE}\n{HOSTILE}"}
    record["metrics"]["at_checkpoint"] = {HOSTILE: HOSTILE}
    record["gaps"] = [{"fact": HOSTILE, "reason": HOSTILE, "remedy": HOSTILE}]
    record["lineage"]["source_datasets"][0]["name"] = HOSTILE
    hostile = checkpoint_dataset(
        base_uri, record, items={SOURCE_ITEM: archive({HOSTILE.replace("/", ""): HOSTILE.encode()})}
    )
    other = checkpoint_dataset(base_uri, record_of(runs[0]), "other", items={SOURCE_ITEM: archive({})})
    for text in (run("check", hostile).stdout, run("diff", hostile, other, code=1).stdout, run("show", hostile).stdout):
        assert "[red]x[bold]\\x1b[2J\\x9b31m\\u202e:smile:" in text
        assert not set(text) & {"\x1b", "\x9b", "\u202e"}


def test_check_and_diff_load_neither_torch_nor_lightning(runs: tuple[str, str]) -> None:
    program = """
import sys
from click.testing import CliRunner
from lightning_dtool.cli import model
a, b = sys.argv[1:]
for arguments, code in ((["check", a], 0), (["check", a, "--strict", "--json"], 1), (["diff", a, b], 1)):
    result = CliRunner().invoke(model, arguments)
    assert result.exit_code == code, result.output
    loaded = {"torch", "lightning", "pytorch_lightning", "numpy", "PIL"} & set(sys.modules)
    assert not loaded, (arguments, loaded)
"""
    done = subprocess.run([sys.executable, "-c", program, *runs], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_the_help_lists_the_exit_codes(run: Run) -> None:
    text = " ".join(run("--help").stdout.split())
    assert "check --strict: a point failed or could not be checked; scan: something was found or not searched;" in text
    assert "diff, compare: the checkpoints differ, and nothing else" in text
    assert "The exit code is 0 if no relevant difference was found" in run("diff", "--help").stdout


# -- show -----------------------------------------------------------------------------------------


def test_show_shortens_long_lists_and_says_so(run: Run, base_uri: str, runs: tuple[str, str]) -> None:
    record = record_of(runs[0])
    text = "\n".join(f"passage {number}" for number in range(500))
    record["model"] |= {
        "source": text,
        "architecture": text,
        "children": [
            {"name": f"child{number}", "class_path": "a:B", "parameters_total": 2, "parameters_trainable": 1}
            for number in range(100)
        ],
    }
    record["loss"] = {"training_step": text, "operations": ["MeanBackward0"] * 200}
    record["environment"]["torch_build"] = text
    record["environment"]["variables"] = {"PATH": "x" * 10_000}
    record["data"]["hooks"] = {"on_after_batch_transfer": text}
    record["gaps"] = []  # the number of gaps depends on the machine
    record["metrics"]["history"] = [
        {"epoch": number, "global_step": number, "seconds": 1.5, "metrics": {"loss": 0.5}, "learning_rates": [[0.1]]}
        for number in range(300)
    ]
    uri = checkpoint_dataset(base_uri, record)
    shown = run("show", uri).stdout
    assert "passage 0 .. (500 lines; --json shows all)" in shown
    assert "passage 1" not in shown
    assert shown.count("(500 lines; --json shows all)") == 5
    assert "(10000 characters; --json shows all)" in shown
    assert re.search(r"child23 +a:B, 1 of 2 parameters trainable\n", shown)
    assert "child24" not in shown
    assert "and 76 more (--json shows all)" in shown
    assert "276 earlier epochs (--json shows all)" in shown
    assert re.search(r"epoch 299 +step 299, 1.5 s: loss=0.5; learning rates \[\[0.1\]\]\n", shown)
    assert "epoch 275 " not in shown
    assert len(shown.splitlines()) < 250
    assert json.loads(run("show", uri, "--json").stdout)["model"]["source"] == text


def test_show_prints_the_name_of_an_only_child(run: Run, base_uri: str, runs: tuple[str, str]) -> None:
    record = record_of(runs[0])
    child = {"name": "layers", "class_path": "a:B", "parameters_total": 2, "parameters_trainable": 2}
    record["model"]["children"] = [child]
    assert re.search(r"layers +a:B, 2 of 2", run("show", checkpoint_dataset(base_uri, record)).stdout)


def test_ls_and_show_read_records_of_this_schema(run: Run, runs: tuple[str, str]) -> None:
    assert runs[0] in run("ls", Path(str(local_path(runs[0]))).parent).stdout
    shown = run("show", runs[0]).stdout
    assert "EarlyStopping" in shown
    assert record_of(runs[0])["schema_version"] == SCHEMA_VERSION
