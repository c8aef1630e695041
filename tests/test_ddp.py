"""Distributed training: one dataset for each checkpoint, whose URI every rank knows."""

import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint

import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.errors import StoreError
from lightning_dtool.store import iter_datasets

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*use of fork.*may lead to deadlocks:DeprecationWarning",
    "ignore:.*sync_dist=True.*:UserWarning",
    "ignore:.*process group has NOT been destroyed.*:UserWarning",
)


def test_each_checkpoint_is_one_dataset(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    t = trainer(tmp_path, provenance, devices=2, strategy="ddp_fork")
    model = TinyNet()
    t.fit(model, loader())

    # The child processes trained; this process knows what they published.
    assert len(provenance.uris) == 2
    assert {dataset.uri for dataset in iter_datasets(str(tmp_path / "models"))} == set(provenance.uris)
    assert provenance.uri_for(t.checkpoint_callback.best_model_path) == provenance.best_uri
    checkpoint = DtoolCheckpoint.from_uri(provenance.best_uri)
    assert same(weights(checkpoint.load_module()), weights(model))
    assert checkpoint.record.trainer.settings["world_size"] == 2


def test_a_second_fit_has_its_own_uris(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    found = []
    for name in ("one", "two"):
        trainer(tmp_path / name, provenance, devices=2, strategy="ddp_fork", max_epochs=1).fit(TinyNet(), loader())
        found.append(provenance.last_uri)
    assert None not in found
    assert found[0] != found[1]
    trainer(tmp_path / "three", provenance, max_epochs=1).fit(TinyNet(), loader())
    for name in ("four", "five"):  # nobody asks for the URIs in between
        trainer(tmp_path / name, provenance, devices=2, strategy="ddp_fork", max_epochs=1).fit(TinyNet(), loader())
    assert len(provenance.uris) == 5
    assert provenance.uris[:2] == found
    assert provenance.last_uri == provenance.uris[-1]


def test_a_bad_base_uri_fails_on_every_rank(tmp_path: Path) -> None:
    provenance = DtoolProvenanceCallback(str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match="nowhere") as caught:
        trainer(tmp_path, provenance, devices=2, strategy="ddp_fork").fit(TinyNet(), loader())
    assert "StoreError" in str(caught.value) or isinstance(caught.value, StoreError)


def test_every_rank_can_load_by_the_best_uri(tmp_path: Path) -> None:
    """A `ddp` script runs the same lines on every rank, so every rank needs the URI."""
    (tmp_path / "models").mkdir()
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        from kit import TinyNet, loader, trainer
        from lightning_dtool import DtoolProvenanceCallback

        if __name__ == "__main__":
            folder = Path(sys.argv[1])
            provenance = DtoolProvenanceCallback(str(folder / "models"))
            t = trainer(folder, provenance, devices=2, strategy="ddp")
            t.fit(TinyNet(), loader())
            t.test(TinyNet(), loader(), ckpt_path=provenance.best_uri, verbose=False)
            (folder / f"rank{t.global_rank}").write_text(provenance.best_uri)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONWARNINGS": "ignore"}
    programs.run(script, tmp_path, cwd=tmp_path, env=environment)

    (dataset,) = iter_datasets(str(tmp_path / "models"))
    assert (tmp_path / "rank0").read_text() == (tmp_path / "rank1").read_text() == dataset.uri


class Changing(TinyNet):
    """A model that changes in the middle of training, on every rank."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.optimizers().param_groups[0]["lr"] = 0.001
            self.hparams["late"] = "yes"

    def train_dataloader(self) -> Any:
        return loader(samples=48 + 16 * self.current_epoch)


class Thaw(BaseFinetuning):
    """A callback that trains the first layer from the second epoch on."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.layers[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.make_trainable(pl_module.layers[0])


def test_changes_during_training_are_listed_once_for_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    every = ModelCheckpoint(dirpath=tmp_path / "checkpoints", save_top_k=-1)
    options = {"devices": 2, "strategy": "ddp_fork", "reload_dataloaders_every_n_epochs": 1}
    trainer(tmp_path, provenance, Thaw(), every, **options).fit(Changing())
    first, second = sorted(
        (DtoolCheckpoint.from_uri(uri).record for uri in provenance.uris), key=lambda record: record.checkpoint.epoch
    )
    assert first.changes == []
    assert first.model.frozen == ["layers.0.weight", "layers.0.bias"]
    assert first.data.stages["train"][0].count == 48
    facts = [change.fact for change in second.changes]
    assert len(facts) == len(set(facts))
    assert {
        "optimizers[0].param_groups[0].options.lr",
        "model.hyperparameters.late",
        "model.frozen",
        "data.stages.train[0].count",
    } <= set(facts)
    assert second.optimizers[0].param_groups[0].options["lr"] == 0.001
    assert second.model.hyperparameters["late"] == "yes"
    assert second.model.frozen == []
    assert second.data.stages["train"][0].count == 64
