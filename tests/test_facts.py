"""The table `docs/facts.yml` of every fact of the record, its gaps and its tests; and tests of plain facts."""

import ast
import functools
import getpass
import inspect
import platform
import re
import typing
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import lightning_dtool
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback
from lightning_dtool.capture.history import peak_accelerator_memory
from lightning_dtool.data.packing import pack
from lightning_dtool.record import Provenance, Section

TESTS = Path(__file__).parent
FACTS: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
    (TESTS.parent / "docs" / "facts.yml").read_text(encoding="utf-8")
)

PAGE = (TESTS.parent / "docs" / "reference" / "facts.md").read_text(encoding="utf-8")
WHEN = re.findall(r"^\| (\w[\w ]+) \| .* \|$", PAGE.partition("|---|")[2], re.MULTILINE)
"""The words that the page explains."""

AGAIN = "again when it changes"

OF_CHANGES = ("capture/test_changes.py", "test_truth.py")
"""Files whose tests change facts while training goes on."""


def holds_sections(annotation: Any) -> bool:
    """Return True for a field that holds other parts of the record, whose own fields are the facts."""
    # Until Python 3.11 `list[int]` is an instance of `type`, and issubclass refuses it.
    if inspect.isclass(annotation) and not typing.get_args(annotation) and issubclass(annotation, Section):
        return True
    return any(map(holds_sections, typing.get_args(annotation)))


def facts_of_the_schema() -> dict[str, list[str]]:
    parts = {
        part.__name__: [field for field, facts in part.model_fields.items() if not holds_sections(facts.annotation)]
        for part in Section.__subclasses__()
    }
    return {name: fields for name, fields in parts.items() if fields}


@functools.cache
def names_in(file: str) -> set[str]:
    """Return the names of the tests in a file, without running it."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_the_table_names_exactly_the_facts_of_the_schema() -> None:
    assert {part: list(facts) for part, facts in FACTS.items()} == {part: facts_of_the_schema()[part] for part in FACTS}
    assert set(FACTS) == set(facts_of_the_schema())


ROWS = [(f"{part}.{field}", fact) for part, facts in FACTS.items() for field, fact in facts.items()]


@pytest.mark.parametrize(("name", "fact"), ROWS, ids=[name for name, _ in ROWS])
def test_each_fact_has_a_source_and_existing_tests(name: str, fact: dict[str, Any]) -> None:
    assert set(fact) - {"gaps"} == {"from", "when", "otherwise", "tests"}
    assert fact["from"].strip()
    assert fact["otherwise"].strip()
    assert fact["tests"], f"{name}: add a test of this fact to docs/facts.yml"
    for test in fact["tests"]:
        file, _, function = test.partition("::")
        assert function in names_in(file), test


@pytest.mark.parametrize(("name", "fact"), ROWS, ids=[name for name, _ in ROWS])
def test_each_fact_says_when_it_is_observed(name: str, fact: dict[str, Any]) -> None:
    assert fact["when"]
    assert set(fact["when"]) <= set(WHEN)
    if AGAIN in fact["when"]:
        assert any(test.startswith(OF_CHANGES) for test in fact["tests"]), f"{name}: add a test that changes it"


def test_every_word_for_a_moment_is_used() -> None:
    assert {word for _, fact in ROWS for word in fact["when"]} == set(WHEN)
    assert len(WHEN) == len(set(WHEN))


# -- gaps ---------------------------------------------------------------------------------------


@functools.cache
def places() -> frozenset[str]:
    """Return patterns of the places for which the code makes collectors of gaps, from the arguments of `at`.

    A part of a text that the code inserts matches a word in capitals. A computed place matches a single one.
    """
    found = set()
    for file in (TESTS.parent / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "at":
                found |= set(map(pattern_of, node.args[:1]))
    return frozenset(found)


def can_be_added(path: str) -> bool:
    """Return whether a path consists of places that the code names."""
    place = f"(?:{'|'.join(sorted(places(), key=len, reverse=True))})"
    return re.fullmatch(rf"{place}(?:(?:\.|(?=\[)){place})*", path) is not None


def pattern_of(place: ast.expr) -> str:
    if isinstance(place, ast.Constant):
        return re.escape(str(place.value)).replace("[0", "[[A-Z]+")
    if isinstance(place, ast.JoinedStr):
        return "".join("[A-Z]+" if isinstance(part, ast.FormattedValue) else pattern_of(part) for part in place.values)
    if isinstance(place, ast.IfExp):
        return f"(?:{pattern_of(place.body)}|{pattern_of(place.orelse)})"
    return "[A-Z]+"


@pytest.mark.parametrize("path", sorted({path for _, fact in ROWS for path in fact.get("gaps", [])}))
def test_the_code_can_add_each_gap(path: str) -> None:
    part = path.partition(".")[0].partition("[")[0]
    assert part in Provenance.model_fields
    assert can_be_added(path), f"no code adds the gap {path}"


def test_a_gap_that_no_code_adds_is_found() -> None:
    assert [path for path in ("model.absent", "loss.calls[N].absent", "code.git") if can_be_added(path)] == ["code.git"]


def test_the_page_names_each_place_of_a_gap() -> None:
    named = [*(path for _, fact in ROWS for path in fact.get("gaps", [])), *re.findall(r"`([\w.]+)` \(", PAGE)]
    whole = [place for place in places() if re.split(r"\W", place)[0] in Provenance.model_fields]
    assert len(whole) > 50
    assert [place for place in whole if not any(re.match(rf"{place}(\W|$)", path) for path in named)] == []


RAISING = {
    "model": "provenance.capture_model",
    "optimizers": "provenance.capture_optimizers",
    "schedulers": "provenance.capture_schedulers",
    "data": "provenance.capture_data",
    "trainer": "provenance.capture_trainer",
    "trainer.config": "provenance.capture_config",
    "environment": "provenance.capture_environment",
    "environment.versions": "provenance.model_libraries",
    "code": "provenance.collect_code",
    "randomness": "provenance.capture_randomness",
    "randomness.states": "recorder.random_states",
    "model.initial_weights": "recorder.capture_initial_weights",
    "model.initial_weights.stored": "recorder.snapshot",
    "checkpoint.state_dict": "provenance.missing_from_state",
    "loss": "loss.LossObserver.loss",
    "metrics": "history.History.metrics",
    "metrics.history": "history.History.after_epoch",
}
"""The gap of a part of the record, and what in `capture` observes it."""


def test_an_error_while_a_part_is_observed_is_a_gap_and_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("observing is broken")

    for name in RAISING.values():
        monkeypatch.setattr(f"lightning_dtool.capture.{name}", broken)
    provenance = DtoolProvenanceCallback(str(tmp_path), save_initial_weights=True)
    run = trainer(tmp_path, provenance, ModelCheckpoint(tmp_path / "local"), max_epochs=1)
    run.fit(TinyNet(), loader())
    assert run.global_step
    assert provenance.best_uri is not None
    gaps = {gap.fact: gap.reason for gap in DtoolCheckpoint.from_uri(provenance.best_uri).record.gaps}
    assert [fact for fact in RAISING if "observing is broken" not in gaps.get(fact, "")] == []


# -- plain facts of one run -----------------------------------------------------------------------


class Net(TinyNet):
    """A model whose learning rate is reduced on a plateau of the validation loss, checked every second epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "interval": "epoch", "frequency": 2},
        }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> DtoolCheckpoint:
    """Return a checkpoint of one run on one dataset."""
    import numpy as np

    folder = tmp_path_factory.mktemp("facts")
    for number in range(24):
        path = folder / "vectors" / ("even", "odd")[number % 3 == 0] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full(8, number, dtype=np.float32))
    for name in ("data", "models"):
        (folder / name).mkdir()
    uri = pack(folder / "vectors", str(folder / "data"), "vectors", progress=False)
    net = Net()
    net.layers[3].requires_grad_(False)
    callbacks = [
        DtoolProvenanceCallback(str(folder / "models")),
        ModelCheckpoint(folder / "local", monitor="val_loss", filename="{epoch}"),
        EarlyStopping("val_loss"),
    ]
    data = DtoolDataModule(uri, batch_size=6, val_split=0.25, seed=3)
    trainer(folder, *callbacks, max_epochs=1).fit(net, data)
    (path,) = (folder / "models").iterdir()
    return DtoolCheckpoint.from_uri(str(path))


def test_the_user_the_run_and_its_times_are_recorded(checkpoint: DtoolCheckpoint) -> None:
    run, saved = checkpoint.record.run, checkpoint.record.checkpoint
    assert uuid.UUID(run.uuid).version == 4
    assert run.lightning_dtool_version == lightning_dtool.__version__
    assert run.creator_username == getpass.getuser()
    assert run.started_at is not None
    assert run.started_at <= saved.saved_at <= datetime.now(timezone.utc)
    assert run.started_at.utcoffset() == saved.saved_at.utcoffset() == timezone.utc.utcoffset(None)


def test_the_checkpoint_is_recorded(checkpoint: DtoolCheckpoint) -> None:
    saved = checkpoint.record.checkpoint
    state = torch.load(checkpoint.path, weights_only=True)
    assert (saved.epoch, saved.global_step, saved.weights_only) == (state["epoch"], state["global_step"], False)
    assert saved.filename == "epoch=0.ckpt"
    (monitor,) = saved.monitors
    assert (monitor.name, monitor.mode) == ("val_loss", "min")
    assert monitor.value == checkpoint.record.metrics.at_checkpoint["val_loss"]


def test_the_size_of_the_model_is_recorded(checkpoint: DtoolCheckpoint) -> None:
    model, net = checkpoint.record.model, TinyNet()
    head = sum(parameter.numel() for parameter in net.layers[3].parameters())
    assert model.parameters_total == sum(parameter.numel() for parameter in net.parameters())
    assert model.parameters_trainable == model.parameters_total - head


def test_the_optimizer_is_recorded(checkpoint: DtoolCheckpoint) -> None:
    (optimizer,) = checkpoint.record.optimizers
    assert optimizer.class_path == "torch.optim.adam:Adam"
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"]) == (0.05, 1e-8)


def test_the_scheduler_is_recorded(checkpoint: DtoolCheckpoint) -> None:
    (scheduler,) = checkpoint.record.schedulers
    assert scheduler.class_path == "torch.optim.lr_scheduler:ReduceLROnPlateau"
    assert (scheduler.interval, scheduler.frequency, scheduler.monitor) == ("epoch", 2, "val_loss")


def test_the_classes_and_their_counts_are_recorded(checkpoint: DtoolCheckpoint) -> None:
    (train,), (val,) = (checkpoint.record.data.stages[stage] for stage in ("train", "val"))
    assert train.classes == ["even", "odd"]
    assert train.class_to_idx == {"even": 0, "odd": 1}
    assert train.class_counts is not None
    assert val.class_counts is not None
    assert (train.count, val.count) == (18, 6)
    assert {name: train.class_counts[name] + val.class_counts[name] for name in ("even", "odd")} == {
        "even": 16, "odd": 8,
    }  # fmt: skip
    assert train.selection_digest != val.selection_digest


def test_the_callbacks_are_recorded_in_order(checkpoint: DtoolCheckpoint) -> None:
    names = [callback.class_path.rpartition(":")[2] for callback in checkpoint.record.trainer.callbacks]
    assert [name for name in names if name in ("DtoolProvenanceCallback", "EarlyStopping", "ModelCheckpoint")] == [
        "DtoolProvenanceCallback", "EarlyStopping", "ModelCheckpoint",
    ]  # fmt: skip  # Lightning puts ModelCheckpoints last


def test_python_and_platform_are_recorded(checkpoint: DtoolCheckpoint) -> None:
    environment = checkpoint.record.environment
    assert (environment.python, environment.platform) == (platform.python_version(), platform.platform())


def test_the_peak_memory_of_an_accelerator_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert peak_accelerator_memory() is None  # recording does not start an accelerator
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert peak_accelerator_memory() == 2**20
