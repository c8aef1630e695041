"""Ten kinds of training with the callback: each leaves a record, and its weights equal those without it."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback

from kit import same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from zoo import ZOO


def train(name: str, folder: Path, *callbacks: Callback) -> tuple[L.LightningModule, L.Trainer]:
    L.seed_everything(17)
    module, options = ZOO[name]()
    found: dict[str, Any] = {"max_epochs": 2, **options}
    t = trainer(folder, *callbacks, *found.pop("callbacks", []), **found)
    t.fit(module)
    return module, t


@pytest.mark.parametrize("name", ZOO)
def test_each_training_leaves_a_record_and_unchanged_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / "models").mkdir()
    plain, _ = train(name, tmp_path / "plain")
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
    recorded, t = train(name, tmp_path / "recorded", provenance)

    assert same(weights(plain), weights(recorded))
    assert provenance.errors == []
    checkpoint = DtoolCheckpoint.from_uri(provenance.best_uri)
    record = checkpoint.record
    # The gaps of this record: data in memory has no URI and no observable order, and the
    # entry point is the one of the tests.
    unknown = {gap.fact for gap in record.gaps if not gap.fact.startswith(("data.stages.train[0].", "code."))}
    assert unknown <= {"data.order"}, record.gaps
    assert record.loss.calls or record.loss.operations
    assert record.loss.training_step
    assert len(record.optimizers) == len(t.optimizers)
    assert all(group.parameters for optimizer in record.optimizers for group in optimizer.param_groups)
    epochs = [entry.epoch for entry in record.metrics.history]
    # Stochastic weight averaging adds an epoch for the batch norms.
    assert epochs == list(range(len(epochs)))
    assert len(epochs) == t.max_epochs + (name == "swa")
    assert all(entry.learning_rates for entry in record.metrics.history)
    assert record.model.initial_weights is not None
    assert record.model.initial_weights.origin == "script"
    assert set(record.randomness.states) == {"import", "fit_start"}
    checkpoint.verify()
