"""Checkpoints that hold less, or other things, than the state of their modules."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.record import Provenance
from zoo import ZOO


class Partial(TinyNet):
    """A module that leaves its first layer out of its checkpoints."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith("layers.0")}


class Overriding(TinyNet):
    """A module that does the same in `state_dict`."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("layers.0")}


class Hooked(TinyNet):
    """A module that does the same in a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(self.leave_out)

    @staticmethod
    def leave_out(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in list(state):
            if name.startswith("layers.0"):
                del state[name]


class Renaming(TinyNet):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"net.{name}": value for name, value in checkpoint["state_dict"].items()}


class Cutting(TinyNet):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["layers.0.bias"] = checkpoint["state_dict"]["layers.0.bias"][:2]


class Clearing(TinyNet):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = None


class Whole(TinyNet):
    """A module with all kinds of state that torch writes in special ways."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.MeanMetric()
        self.accuracy.persistent(True)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("temporary", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.again = self.layers[0]
        self.layers[3].bias = self.tied = nn.Parameter(torch.zeros(3))
        self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        self.wrapped = checkpoint_wrapper(nn.Linear(2, 2))
        self.extra = Extra()


class Extra(nn.Module):
    def get_extra_state(self) -> Any:
        return 1

    def set_extra_state(self, state: Any) -> None:
        pass


def fit(module: Any, folder: Path) -> Provenance:
    callback = DtoolProvenanceCallback(str(folder))
    trainer(folder, callback, max_epochs=1).fit(module, loader())
    assert callback.last_uri is not None
    return DtoolCheckpoint.from_uri(callback.last_uri).record


def gap_of(record: Provenance) -> str | None:
    found = [gap for gap in record.gaps if gap.fact.startswith("checkpoint.state_dict")]
    assert all(gap.remedy for gap in found)
    return found[0].reason if found else None


@pytest.mark.parametrize("kind", [Partial, Overriding, Hooked])
def test_parts_that_are_left_out_are_recorded_as_missing(tmp_path: Path, kind: Any) -> None:
    record = fit(kind(), tmp_path)
    assert record.checkpoint.missing_keys == ["layers.0.weight", "layers.0.bias"]
    assert record.checkpoint.missing_keys_total == 2
    assert "lacks 2 of the module's 4 parameters and buffers: layers.0.weight, layers.0.bias" in (gap_of(record) or "")


def test_renamed_parts_are_missing_and_unknown(tmp_path: Path) -> None:
    record = fit(Renaming(), tmp_path)
    assert record.checkpoint.missing_keys_total == 4
    assert "it has 4 entries that the module does not have: net.layers.0.weight" in (gap_of(record) or "")


def test_other_shapes_and_a_state_that_is_no_mapping_are_gaps(tmp_path: Path) -> None:
    assert "1 entries have another shape than in the module: layers.0.bias" in (gap_of(fit(Cutting(), tmp_path)) or "")
    record = fit(Clearing(), tmp_path)
    assert record.checkpoint.missing_keys_total == 4


def test_a_whole_state_has_no_gap(tmp_path: Path) -> None:
    record = fit(Whole(), tmp_path)
    assert gap_of(record) is None
    assert (record.checkpoint.missing_keys, record.checkpoint.missing_keys_total) == ([], 0)


@pytest.mark.parametrize("name", ZOO)
def test_the_states_of_all_trainings_are_whole(tmp_path: Path, name: str) -> None:
    module, options = ZOO[name]()
    callback = DtoolProvenanceCallback(str(tmp_path))
    own = options.pop("callbacks", [])
    trainer(tmp_path, callback, *own, **{**options, "max_epochs": 1}).fit(module)
    assert callback.last_uri is not None
    record = DtoolCheckpoint.from_uri(callback.last_uri).record
    assert record.checkpoint.missing_keys_total == 0
    assert not [gap for gap in record.gaps if gap.fact.startswith(("model.arguments", "checkpoint.state_dict"))]
