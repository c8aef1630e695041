"""The command of a rerun, also from untrusted records, and the plan that its process follows."""

import pickle
from pathlib import Path

import pytest

from lightning_dtool import rerun
from lightning_dtool.errors import ReproductionError
from lightning_dtool.record import Code, Config, Environment, Gap, Provenance, Randomness, Trainer
from lightning_dtool.reproduction.command import command, project_root, recorded_threads, variables, variables_read
from lightning_dtool.reproduction.failure import failure
from lightning_dtool.reproduction.original import normal, relocated
from lightning_dtool.reproduction.process import Outcome
from lightning_dtool.reproduction.tracing import first_differing_step
from record.samples import record as sample


def record(argv: list[str], entry: str | None, folder: str = "/home/ada/leaves", **parts: object) -> Provenance:
    code = Code(argv=argv, working_directory=folder, entry_point=entry, **parts.pop("code", {}))  # type: ignore[arg-type]
    return sample(code=code, **parts)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "source" / "scripts").mkdir(parents=True)
    for name in ("train.py", "scripts/train.py", "notebook.py"):
        (tmp_path / "source" / name).write_text("")
    return tmp_path / "source"


def test_a_script_runs_in_its_project(root: Path, tmp_path: Path) -> None:
    found = command(record(["train.py", "--lr", "0.1"], "train.py"), root, tmp_path)
    assert found.arguments == ["script", str(root / "train.py"), "train.py", "--lr", "0.1"]
    assert found.folder == root
    assert str(found.recorded_root) == "/home/ada/leaves"


def test_a_script_started_from_elsewhere_runs_in_its_project(root: Path, tmp_path: Path) -> None:
    found = command(record(["/home/ada/leaves/scripts/train.py"], "scripts/train.py", "/home/ada"), root, tmp_path)
    assert found.arguments == ["script", str(root / "scripts/train.py"), str(root / "scripts/train.py")]
    assert found.folder == root  # the recorded folder lies outside the project


def test_the_subfolder_and_paths_into_the_project_are_relocated(root: Path, tmp_path: Path) -> None:
    arguments = ["../train.py", "--config=/home/ada/leaves/a.yaml", "/home/ada/leaves/b", "/data"]
    found = command(record(arguments, "train.py", "/home/ada/leaves/scripts"), root, tmp_path)
    assert found.folder == root / "scripts"
    assert found.arguments[2:] == ["../train.py", f"--config={root}/a.yaml", f"{root}/b", "/data"]


def test_a_module_runs_with_the_import_paths_of_its_modules(root: Path, tmp_path: Path) -> None:
    modules = {"leaves.net": "src/leaves/net.py", "leaves": "src/leaves/__init__.py", "__main__": "train.py",
               "evil": "../../evil.py", "odd": "elsewhere/other.py"}  # fmt: skip
    parts = {"run_as_module": "leaves.train", "modules": modules}
    found = command(record(["/home/ada/leaves/train.py"], "train.py", code=parts), root, tmp_path)
    assert found.arguments[:2] == ["module", "leaves.train"]
    assert found.paths == [root, root / "src"]


def test_the_recorded_configuration_replaces_the_options_that_it_holds(root: Path, tmp_path: Path) -> None:
    (root / "config.yaml").write_text("a: 1")
    cli = record(
        ["train.py", "--config", "mine.yaml", "fit", "--lr=1"],
        "train.py",
        trainer=Trainer(config=Config(kind="LightningCLI", file="config.yaml")),
    )
    moved = tmp_path / "lightning-cli" / "config.yaml"
    assert command(cli, root, tmp_path).arguments[3:] == ["fit", "--config", str(moved)]
    assert moved.read_text() == "a: 1"
    assert not (root / "config.yaml").exists()
    (root / "config.yaml").write_text("a: 1")
    hydra = record(["train.py", "lr=1"], "train.py", trainer=Trainer(config=Config(kind="Hydra", file="config.yaml")))
    arguments = command(hydra, root, tmp_path).arguments[3:]
    assert arguments[:4] == ["--config-path", str(tmp_path / "hydra"), "--config-name", "config"]
    assert (tmp_path / "hydra" / "config.yaml").read_text() == "a: 1"
    assert arguments[4].startswith(f"hydra.run.dir={tmp_path}")


@pytest.mark.parametrize("entry", [None, "gone.py", "../outside.py"])
def test_a_record_without_a_runnable_program_is_an_error(root: Path, tmp_path: Path, entry: str | None) -> None:
    (tmp_path / "outside.py").write_text("")
    with pytest.raises(ReproductionError, match="interactive prompt"):
        command(record([""], entry), root, tmp_path)


def test_paths_outside_the_project_are_not_used(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("a: 1")
    config = Trainer(config=Config(kind="Hydra", file="../secret.yaml"))
    found = command(record(["train.py"], "train.py", "/home/ada/leaves/../../../etc", trainer=config), root, tmp_path)
    assert found.folder == root
    assert found.arguments[3:] == []


def test_a_project_with_an_unknown_root_has_none() -> None:
    assert project_root(record(["/elsewhere/other.py"], "train.py")) is None
    assert project_root(record([], "train.py")) is None


def test_only_variables_that_affect_bits_are_taken_from_a_record() -> None:
    recorded = {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "$(touch /x)",
        "LD_PRELOAD": "/evil.so",
        "PYTHONPATH": "/evil",
        "PATH": "/evil",
        "PYTHONSTARTUP": "/evil.py",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    environment = Environment(python="3.11", platform="", versions={}, variables=recorded)
    flags = Randomness(flags={"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONHASHSEED": None, "num_threads": 3})
    found = sample(environment=environment, randomness=flags)
    present = {"PATH": "/bin", "PYTHONHASHSEED": "5", "PL_GLOBAL_SEED": "9", "HOME": "/home/ada"}
    assert variables(found, present) == {
        "PATH": "/bin",
        "HOME": "/home/ada",
        "OMP_NUM_THREADS": "3",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    assert variables(found, present, threads=2)["OMP_NUM_THREADS"] == "2"
    assert recorded_threads(found) == 3
    assert recorded_threads(sample(randomness=Randomness(flags={"num_threads": -1}))) is None


def test_data_is_also_known_by_the_path_that_a_moved_script_uses(tmp_path: Path) -> None:
    uri = normal("/home/ada/leaves/data/oak")
    found = relocated({uri: "s3://x/y", "s3://a/b": "s3://c/d"}, [(Path("/home/ada/leaves/scripts"), tmp_path / "s")])
    assert found == {uri: "s3://x/y", "s3://a/b": "s3://c/d", normal(str(tmp_path / "data" / "oak")): "s3://x/y"}


def plan(**limits: object) -> rerun.Plan:
    return rerun.Plan({}, rerun.REPRODUCE, "", "", "", rerun.Target(0, 2, 9, "a.ckpt"), **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("events", "code", "kind", "expected"),
    [
        ([], 1, "not_started", "could not start"),
        ([{"event": "started"}], -9, "killed", "signal 9"),
        ([{"event": "started"}], 0, "not_reached", "made 0 recorded fits"),
        ([{"event": "started"}, {"event": "fit", "is_target": True}], 0, "not_reached", "ended at its first epoch"),
        (
            [{"event": "started"}, {"event": "fit", "is_target": True}, {"event": "end", "epoch": 1, "global_step": 7}],
            0,
            "not_reached",
            "ended at epoch 1, step 7, before the moment of the checkpoint (epoch 2, step 9, a.ckpt)",
        ),
        (
            [{"event": "error", "chain": [{"type": "X"}, {"type": "FileNotFoundError", "filename": "/s/a.txt"}]}],
            1,
            "missing_file",
            "missing: a.txt",
        ),
        (
            [{"event": "error", "chain": [{"type": "ModuleNotFoundError", "module": "leaf"}]}],
            1,
            "missing_module",
            "'leaf' is not installed",
        ),
        (
            [{"event": "error", "chain": [{"type": "DatasetNotFoundError", "message": "s3://x"}]}],
            1,
            "missing_dataset",
            "missing: s3://x",
        ),
        ([{"event": "error", "chain": [{"type": "E", "message": "boom"}]}], 1, "failed", "ended with E: boom"),
    ],
)
def test_the_error_says_why_a_rerun_failed(
    tmp_path: Path, events: list[dict[str, object]], code: int, kind: str, expected: str
) -> None:
    log = tmp_path / "log"
    log.write_text("one\n\ntwo\n")
    error = failure(Outcome(code, events), plan(), log, None, Path("/s"))
    assert expected in error.reason
    assert error.kind == kind
    assert error.output == ("one", "two")
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.kind, copied.output) == (str(error), error.kind, error.output)


REFUSED = {"event": "refused", "path": "/out/a"}
STARTED = {"event": "started"}


def error(name: str, message: str = "", **facts: object) -> dict[str, object]:
    return {"event": "error", "chain": [{"type": name, "message": message, **facts}]}


@pytest.mark.parametrize(
    ("events", "log", "kind", "expected"),
    [
        ([STARTED, error("OSError", refused="/out/a")], "", "refused_write", "wants to write to /out/a. To allow it: "),
        ([STARTED, REFUSED], "", "refused_write", "wants to write to /out/a"),
        ([STARTED, REFUSED, error("FileExistsError", filename="/out")], "", "refused_write", "write to /out/a"),
        (
            [STARTED, REFUSED, error("ModuleNotFoundError", module="leaf")],
            "",
            "missing_module",
            "'leaf' is not installed",
        ),
        ([STARTED, REFUSED, error("FileNotFoundError", filename="/in/b")], "", "missing_file", "missing: /in/b"),
        ([STARTED, REFUSED, error("ValueError", "odd")], "", "failed", "It was also kept from writing: it wants to"),
        (
            [STARTED, error("CalledProcessError")],
            "rm: cannot remove '/out/b': Permission denied",
            "refused_write",
            "wants to write to /out/b",
        ),
        ([STARTED, error("CalledProcessError")], "touch: /own/b: Permission denied", "failed", "CalledProcessError"),
        (
            [STARTED, error("RuntimeError", "strerror: Permission denied")],
            "",
            "refused_write",
            "the error does not name",
        ),
        (
            [STARTED, {"event": "disconnected", "host": "hub.example"}, error("gaierror", disconnected=True)],
            "",
            "refused_network",
            "wants to connect to hub.example. To allow it: --allow-network",
        ),
        (
            [STARTED, {"event": "disconnected", "host": "hub.example"}, error("ValueError")],
            "",
            "failed",
            "kept from the network: it wants to connect to hub.example",
        ),
        ([{"event": "unprotected", "reason": "odd"}], "", "unprotected", "could not be protected: odd"),
    ],
)
def test_the_error_says_what_a_rerun_was_kept_from(
    tmp_path: Path, events: list[dict[str, object]], log: str, kind: str, expected: str
) -> None:
    (tmp_path / "log").write_text(log)
    found = failure(Outcome(0, events), plan(writable=["/own"], network=False), tmp_path / "log", None, Path("/s"))
    assert found.kind == kind
    assert expected in found.reason


def test_a_rerun_that_takes_too_long_is_an_error(tmp_path: Path) -> None:
    error = failure(Outcome(-15, [], timed_out=True), plan(), tmp_path / "none", 5, tmp_path)
    assert error.reason == "it did not reach the checkpoint within 5 seconds. Allow more time: --timeout"
    assert (error.kind, error.output) == ("timed_out", ())


def test_the_first_different_step_of_two_traces_is_found(tmp_path: Path) -> None:
    def trace(name: str, *lines: str) -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    first = '{"epoch": 0, "step": 1, "loss": "0x1p0", "parameters": {"w": "a", "b": "c"}}'
    a = trace("a", first, '{"epoch": 0, "step": 2, "loss": "0x1p1", "parameters": {"w": "a", "b": "c"}}')
    b = trace("b", first, '{"epoch": 0, "step": 2, "loss": "0x1p1", "parameters": {"w": "a", "b": "d"}}')
    c = trace("c", first, '{"epoch": 0, "step": 2, "loss": "0x1p2", "parameters": {"w": "a", "b": "c"}}')
    d = trace("d", first, '{"epoch": 1, "step": 2, "loss": "0x1p1", "parameters": {"w": "a", "b": "c"}}')
    assert first_differing_step(a, a) is None
    assert first_differing_step(a, trace("short", first)) is None
    assert first_differing_step(a, b) == "epoch 0, step 2: parameter b"
    assert first_differing_step(a, c) == "epoch 0, step 2: the loss (2.0 and 4.0), but no parameter"
    assert first_differing_step(a, d) == "epoch 0, step 2, while the other is at epoch 1, step 2"


NOTHING = dict.fromkeys(("uri", "train_uri", "val_uri", "test_uri", "split_overlay")) | {
    "val_split": 0,
    "test_split": 0,
}


@pytest.mark.parametrize(
    ("data", "asked", "expected"),
    [
        ({"train": "T"}, {"uri": "U", "val_split": 0.2}, {"uri": "T", "val_split": 0.2}),
        ({"train": "T", "val": "V"}, {"uri": "U", "val_split": 0.2}, {"train_uri": "T", "val_uri": "V"}),
        (
            {"train": "T", "val": "V"},
            {"uri": "U", "val_split": 0.2, "test_split": 0.1},
            {"uri": "T", "val_uri": "V", "test_split": 0.1},
        ),
        ({"train": "T", "val": "V"}, {"uri": "U", "split_overlay": "use"}, {"train_uri": "T", "val_uri": "V"}),
        ({"train": "T"}, {"uri": "U", "split_overlay": "use"}, {"uri": "T", "split_overlay": "use"}),
        (
            {"train": "T", "test": "E"},
            {"train_uri": "U", "val_uri": "W"},
            {"train_uri": "T", "val_uri": "W", "test_uri": "E"},
        ),
    ],
)
def test_new_data_replaces_the_recorded_data(
    monkeypatch: pytest.MonkeyPatch, data: dict[str, str], asked: dict[str, object], expected: dict[str, object]
) -> None:
    plan = rerun.Plan({}, rerun.REPLICATE, "", "", "", rerun.Target(0, 0, 0, ""), data=data)
    assert rerun.redirect_data({**NOTHING, **asked}) == {**NOTHING, **asked}  # without a plan
    monkeypatch.setattr("lightning_dtool.rerun.plan.current_plan", lambda: plan)
    found = rerun.redirect_data({**NOTHING, **asked})
    assert {name: value for name, value in found.items() if value} == expected
    assert list(found) == list({**NOTHING, **asked})


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    target = rerun.Target(1, 2, 3, "a.ckpt")
    plan = rerun.Plan({"uri": "u"}, rerun.REPRODUCE, "i", "s", "r", target, uris={"a": "b"}, threads=2)
    plan.write(tmp_path / "plan.json")
    assert rerun.Plan.read(tmp_path / "plan.json") == plan


def test_variables_that_the_script_read_are_set_or_unset_except_those_of_the_machine(tmp_path: Path) -> None:
    read = {
        "CIFAR_DIR": str(tmp_path / "gone"), "ROOT": str(tmp_path), "LR": "0.1", "SIZE": None, "MODEL_PATH": "x",
        "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "7", "API_KEY": "[redacted]", "not a name": "1", "HTTPS_PROXY": "p",
        "PATH": "/evil", "LD_PRELOAD": "/evil.so", "PYTHONSTARTUP": "/evil.py", "HOME": "/evil", "WITH_NUL": "a\0b",
    }  # fmt: skip
    environment = Environment(python="3.11", platform="", versions={}, variables_read=read)
    gap = Gap(fact="environment.variables_read.API_KEY", reason="redacted")
    found, notes = variables_read(sample(environment=environment, gaps=[gap]), {"CIFAR_DIR": "/now", "SIZE": "2"})
    assert found == {
        "ROOT": str(tmp_path), "LR": "0.1", "SIZE": None, "MODEL_PATH": "x", "SLURM_ARRAY_TASK_ID": "3",
    }  # fmt: skip
    assert [note.partition(",")[0] for note in notes] == [
        "the variable CIFAR_DIR has its present value",
        "the variable SIZE is unset",
        "the script reads the variable API_KEY",
        "the script reads the variable WITH_NUL",
    ]


def test_language_and_time_zone_are_as_recorded() -> None:
    environment = Environment(python="3.11", platform="", versions={}, variables={"TZ": "Europe/Berlin"})
    assert variables(sample(environment=environment), {"LANG": "de_DE", "TZ": "UTC"}) == {"TZ": "Europe/Berlin"}
