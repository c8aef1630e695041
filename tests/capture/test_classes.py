"""Gaps about classes that cannot be imported again."""

import enum
from pathlib import Path
from typing import Any

import pytest

import programs
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.capture.classes import add_class_gaps
from lightning_dtool.record import Code, Gaps, Model
from lightning_dtool.store import iter_datasets
from lightning_dtool.values.writing import encode

SCRIPT = """
import dataclasses
import torch, lightning as L
from torch.utils.data import DataLoader, TensorDataset

@dataclasses.dataclass
class Config:
    width: int = 8

class Model(L.LightningModule):
    def __init__(self, config: Config, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, i):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

x = torch.randn(16, 4)
data = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), 8)
options = dict(max_epochs=1, logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
L.Trainer(**options).fit(Model(Config()), data)
"""


class Importable(enum.Enum):
    ONE = 1


def gaps_of(hyperparameters: dict[str, Any], class_path: str = "leaves:Net", **modules: str) -> dict[str, str]:
    gaps = Gaps()
    model = Model(class_path=class_path, hyperparameters=hyperparameters)
    code = Code(argv=[], working_directory="", modules={f"__{name}__": file for name, file in modules.items()})
    add_class_gaps(model, code, gaps)
    assert all(gap.remedy for gap in gaps)
    return {gap.fact: gap.reason for gap in gaps}


def test_a_class_of_the_script_among_the_hyperparameters_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    (tmp_path / "train.py").write_text(SCRIPT)
    programs.run(tmp_path / "train.py", cwd=tmp_path)
    (dataset,) = iter_datasets(str(tmp_path / "models"))
    gaps = {gap.fact: gap.reason for gap in DtoolCheckpoint.from_uri(dataset.uri).record.gaps}
    assert gaps["checkpoint.hyper_parameters.config"] == (
        "__main__:Config is defined in the program that was started: load_module needs trust_source=True"
    )
    assert not [fact for fact in gaps if fact.startswith("model.")]


@pytest.mark.parametrize(
    "value",
    [
        {"type": "__main__:Config", "fields": {"width": 3}},
        {"type": "__main__:Color", "name": "RED", "value": 1},
        [{"a": {"type": "__main__:Net", "init": {}}}],
        {"type": "builtins:type", "name": "__main__:Net"},
        {"type": "builtins:dict", "items": [[{"type": "__main__:Key", "init": {}}, 1]]},
    ],
    ids=["dataclass", "enum", "module in a list", "class", "key"],
)
def test_all_kinds_of_objects_of_the_script_are_found(value: Any) -> None:
    (reason,) = gaps_of({"config": value}, main="train.py").values()
    assert "trust_source=True" in reason
    (reason,) = gaps_of({"config": value}).values()
    assert "config=…, because its source is not recorded" in reason


def test_classes_inside_functions_are_gaps() -> None:
    class Local:
        def __init__(self, width: int = 1) -> None:
            self.width = width

    gaps = gaps_of({"config": encode(Local())}, "leaves:make.<locals>.Net", main="train.py")
    assert set(gaps) == {"model.class_path", "checkpoint.hyper_parameters.config"}
    assert gaps["model.class_path"].endswith("load_module needs cls=…")
    reason = gaps_of({}, "__main__:make.<locals>.Net", main="train.py")["model.class_path"]
    assert reason.endswith("load_module needs cls=…, or trust_source=True")
    assert "load_module needs config=…" in gaps["checkpoint.hyper_parameters.config"]


def test_plain_values_and_importable_classes_are_no_gaps() -> None:
    values = {"a": 1, "b": "__main__:Config", "c": {"type": "__main__", "name": "x"}, "d": [None, (1, 2)]}
    encoded = {name: encode(value) for name, value in {**values, "e": Importable.ONE, "f": Path}.items()}
    assert gaps_of(encoded, "__main__:Net", main="train.py") == {}
