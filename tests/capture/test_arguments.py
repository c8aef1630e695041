"""The recorded arguments of modules, and the gaps about those from which a module cannot be built again."""

import enum
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.capture.arguments import capture_arguments
from lightning_dtool.record import Gaps, Provenance
from lightning_dtool.results.checklist import check
from lightning_dtool.watch import construction


class Net(L.LightningModule):
    """A module that saves no hyperparameters."""

    def __init__(self, width: int = 4, encoder: nn.Module | None = None, act: Any = None, **more: Any) -> None:
        super().__init__()
        self.net = nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saving(Net):
    """A module that leaves an argument out of its hyperparameters."""

    def __init__(self, encoder: nn.Module, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["encoder"])


class Base(Net):
    def __init__(self, width: int, beta: float = 0.3) -> None:
        super().__init__()
        self.save_hyperparameters()


class Passing(Base):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class Whole(Net):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters(config)


class Color(enum.Enum):
    RED = 1


def captured(module: Any) -> tuple[dict[str, Any] | None, dict[str, tuple[str, str]]]:
    gaps = Gaps()
    found = capture_arguments(module, gaps.at("model.arguments"), "load_module")
    return found, {gap.fact: (gap.reason, gap.remedy) for gap in gaps}


def fit(module: L.LightningModule, folder: Path, data: Any = None) -> Provenance:
    callback = DtoolProvenanceCallback(str(folder))
    trainer(folder, callback, max_epochs=1).fit(module, data or loader())
    assert callback.last_uri is not None
    return DtoolCheckpoint.from_uri(callback.last_uri).record


def failed_points(record: Provenance) -> set[str]:
    return {finding.key for finding in check(record) if finding.status == "fail"}


def test_a_module_without_hyperparameters_is_recorded_with_its_arguments(tmp_path: Path) -> None:
    record = fit(Net(7, act=(1, 2)), tmp_path)
    assert record.model.hyperparameters == {}
    value = {"type": "builtins:tuple", "value": [1, 2]}
    assert record.model.arguments == {"width": 7, "encoder": None, "act": value}
    assert not [gap for gap in record.gaps if gap.fact.startswith("model.")]
    assert not {"guidelines.captured", "experiment.setup"} & failed_points(record)


def test_an_argument_that_is_no_hyperparameter_is_a_gap(tmp_path: Path) -> None:
    record = fit(Saving(nn.Linear(4, 8)), tmp_path)
    (gap,) = [gap for gap in record.gaps if gap.fact.startswith("model.")]
    assert gap.fact == "model.arguments.encoder"
    assert "load_module needs encoder=…" in gap.reason
    assert "torch.nn.modules.linear:Linear" in gap.reason
    assert {"guidelines.captured", "experiment.setup"} <= failed_points(record)


@pytest.mark.parametrize(
    ("arguments", "gaps"),
    [
        ({"width": 3, "act": ["a", {"b": (1.5, float("inf"))}], "more": torch.ones(2)}, []),
        ({"act": nn.ReLU}, ["model.arguments.act"]),
        ({"act": torch.nn.functional.relu}, ["model.arguments.act"]),
        ({"act": lambda x: x}, ["model.arguments.act"]),
        ({"act": object()}, ["model.arguments.act"]),
        ({"act": Color.RED}, ["model.arguments.act"]),
        ({"act": [nn.ReLU()]}, ["model.arguments.act"]),
        ({"encoder": nn.Linear(1, 1), "more": Net()}, ["model.arguments.encoder", "model.arguments.more"]),
        ({"api_key": "a1b2c3d4e5"}, ["model.arguments.api_key"]),
        ({"act": {"user": {"password": "hunter22"}}}, ["model.arguments.act.user.password"]),
    ],
    ids=["plain", "class", "function", "lambda", "object", "enum", "list", "modules", "secret", "nested secret"],
)
def test_gaps_name_the_arguments_that_are_not_plain(arguments: dict[str, Any], gaps: list[str]) -> None:
    found, facts = captured(Net(**arguments))
    assert found is not None
    assert set(arguments) <= set(found)
    assert list(facts) == gaps
    assert all(remedy for _, remedy in facts.values())
    assert "hunter22" not in str(found)
    assert "a1b2c3d4e5" not in str(found)


def test_saved_hyperparameters_need_no_gap() -> None:
    for module in (
        TinyNet(),
        Whole({"act": nn.ReLU, "password": "x"}),
        Base(3),
        Passing(3, beta=1.0),
        Passing(3, 0.5),
        L.LightningModule(),
    ):
        assert captured(module)[1] == {}, type(module)


def test_values_without_names_are_a_gap() -> None:
    class Several(Net):
        def __init__(self, *sizes: int) -> None:
            super().__init__()

    found, gaps = captured(Several(1, 2))
    assert found == {"*args": [1, 2]}
    assert "takes 2 values as *args" in gaps["model.arguments.*args"][0]
    assert captured(Several()) == ({}, {})


def test_a_module_that_was_made_before_the_import_is_a_gap_unless_all_is_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(construction, "_note", lambda *_: None)
    ((fact, (reason, remedy)),) = captured(Net(7))[1].items()
    assert fact == "model.arguments"
    assert "width, encoder, act, **more" in reason
    assert "import DtoolProvenanceCallback before" in remedy
    assert "the values of encoder are not known" in captured(Saving(nn.Linear(1, 1)))[1]["model.arguments"][0]
    for module in (TinyNet(), Base(3), Passing(3), Whole({"a": 1}), L.LightningModule()):
        assert captured(module) == (None, {}), type(module)


def test_a_users_datamodule_is_recorded_with_its_arguments(tmp_path: Path) -> None:
    class Data(L.LightningDataModule):
        def __init__(self, size: int, tokenizer: Any = None, token: str = "") -> None:
            super().__init__()
            self.size = size

        def train_dataloader(self) -> Any:
            return loader(batch_size=self.size)

    record = fit(TinyNet(), tmp_path, Data(16, tokenizer=str.split))
    assert record.data.datamodule is not None
    assert record.data.datamodule.arguments["size"] == 16
    facts = {gap.fact for gap in record.gaps if gap.fact.startswith("data.datamodule")}
    assert facts == {"data.datamodule.arguments.tokenizer"}
    assert "experiment.setup" in failed_points(record)
