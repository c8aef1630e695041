"""Loaders that are created before Lightning restores its loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from kit import TinyNet, loader
from resuming.runs import assert_exact, dtool, resumed, vectors

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

INSIDE = {"every_n_train_steps": 4}


class Estimated(TinyNet):
    """The usual recipe for OneCycleLR."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}], ids=["no workers", "workers"])
def test_estimated_stepping_batches_does_not_start_the_epoch_again(tmp_path: Path, options: dict[str, Any]) -> None:
    uri = vectors(tmp_path)
    assert_exact(resumed(tmp_path, Estimated, dtool(uri, **options), step=8, when=INSIDE))


def test_estimated_stepping_batches_with_a_plain_loader_resumes_after_an_epoch(tmp_path: Path) -> None:
    assert_exact(resumed(tmp_path, Estimated, lambda: loader(shuffle=True), step=12))


def test_estimated_stepping_batches_with_loaders_that_are_created_each_epoch(tmp_path: Path) -> None:
    class Drawing(Estimated):
        def train_dataloader(self) -> DataLoader:
            chosen = torch.randperm(48)[:24]
            data = loader().dataset
            return DataLoader(torch.utils.data.Subset(data, chosen.tolist()), batch_size=4, shuffle=True)

    found = resumed(tmp_path, Drawing, tuple, step=12, reload_dataloaders_every_n_epochs=1, when={})
    assert_exact(found)


def test_a_loader_created_each_epoch_resumes_inside_the_epoch(tmp_path: Path) -> None:
    uri = vectors(tmp_path)
    found = resumed(tmp_path, Estimated, dtool(uri), step=8, when=INSIDE, reload_dataloaders_every_n_epochs=1)
    assert_exact(found)
