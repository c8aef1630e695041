"""Tests that pruned weights stay pruned in a resumed run."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import nn

from interrupted import Resumed, Small
from kit import trainer
from lightning_dtool.resuming.pruning import restore_pruning, save_pruning

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")


class Deep(Small):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([torch.relu(self.hidden(batch[0])), batch[1]], batch_idx)


@pytest.mark.parametrize("policy", [{"save_on_train_epoch_end": True}, {"every_n_train_steps": 4}])
@pytest.mark.parametrize("lottery", [True, False])
@pytest.mark.parametrize("fn", ["l1_unstructured", "random_unstructured"])
def test_a_pruned_model_resumes_exactly(tmp_path: Path, policy: Any, lottery: bool, fn: str) -> None:
    def callbacks() -> list[L.Callback]:
        return [ModelPruning(fn, amount=0.25, use_lottery_ticket_hypothesis=lottery)]

    assert Resumed(tmp_path, Deep, policy, at=2, callbacks=callbacks).equal


def test_a_mask_without_its_layer_is_a_reason(tmp_path: Path) -> None:
    t = trainer(tmp_path, ModelPruning("l1_unstructured"))
    module = Deep()
    nn.utils.prune.l1_unstructured(module.hidden, "weight", 0.5)
    saved = save_pruning(t, module)
    assert "was pruned, and its mask cannot be restored" in restore_pruning(t, Small(), saved)[0]
    assert restore_pruning(trainer(tmp_path), Deep(), saved) != []
    assert save_pruning(trainer(tmp_path), module) is None
