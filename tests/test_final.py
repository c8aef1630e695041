"""`final=True`: a checkpoint at the end of training, also without a ModelCheckpoint."""

import os
import textwrap
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging

import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.errors import ProvenanceWarning, PublishError
from lightning_dtool.store import iter_datasets

OFF: dict[str, Any] = {"enable_checkpointing": False}


def final(models: Path, **options: Any) -> DtoolProvenanceCallback:
    return DtoolProvenanceCallback(str(models), final=True, **options)


@pytest.mark.parametrize("background", [True, False])
def test_the_end_of_training_is_published_without_any_file(tmp_path: Path, models: Path, background: bool) -> None:
    provenance = final(models, background=background)
    model = TinyNet()
    trainer(tmp_path, provenance, **OFF).fit(model, loader())

    (uri,) = provenance.uris
    assert provenance.best_uri == provenance.last_uri == uri
    checkpoint = DtoolCheckpoint.from_uri(uri)
    checkpoint.verify()
    assert same(weights(checkpoint.load_module()), weights(model))
    assert checkpoint.annotations["run_status"] == "finished"
    assert {"best", "last"} <= set(checkpoint.tags)
    assert checkpoint.record.checkpoint.filename == "final"
    assert not checkpoint.record.checkpoint.weights_only
    assert len(checkpoint.record.metrics.history) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"models"}


@pytest.mark.parametrize(
    "options",
    [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 12}, {"max_epochs": 2, "accumulate_grad_batches": 4}],
    ids=["epochs", "steps", "accumulation"],
)
def test_a_run_resumes_from_there_exactly(tmp_path: Path, models: Path, options: dict[str, Any]) -> None:
    longer = {**options, "max_epochs": 4, "max_steps": -1}
    L.seed_everything(3, verbose=False)
    straight = TinyNet()
    trainer(tmp_path, **longer, **OFF).fit(straight, loader(shuffle=True), loader())

    L.seed_everything(3, verbose=False)
    provenance = final(models)
    trainer(tmp_path, provenance, **options, **OFF).fit(TinyNet(), loader(shuffle=True), loader())
    uri = provenance.last_uri
    assert not [gap for gap in DtoolCheckpoint.from_uri(uri).record.gaps if gap.fact == "checkpoint.resume"]
    resumed = TinyNet()
    trainer(tmp_path, final(models), **longer, **OFF).fit(resumed, loader(shuffle=True), loader(), ckpt_path=uri)
    assert same(weights(resumed), weights(straight))


@pytest.mark.parametrize("callbacks", [[], [ModelCheckpoint(save_last=True)]], ids=["final", "ModelCheckpoint"])
def test_a_stop_inside_an_epoch_is_said_to_be_inexact(tmp_path: Path, models: Path, callbacks: list[Any]) -> None:
    provenance = final(models)
    options = {"enable_checkpointing": bool(callbacks)}
    trainer(tmp_path, provenance, *callbacks, max_steps=9, max_epochs=-1, **options).fit(TinyNet(), loader())
    (uri,) = provenance.uris
    (gap,) = [gap for gap in DtoolCheckpoint.from_uri(uri).record.gaps if gap.fact == "checkpoint.resume"]
    assert "the DataLoader train[0] starts that epoch from its beginning" in gap.reason


def test_it_changes_no_training(tmp_path: Path, models: Path) -> None:
    found = []
    for callbacks in ([], [final(models)]):
        L.seed_everything(5, verbose=False)
        model = TinyNet()
        trainer(tmp_path, *callbacks, **OFF).fit(model, loader(shuffle=True))
        found.append((weights(model), torch.rand(4)))
    assert same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("background", [True, False])
def test_a_state_that_is_published_already_is_not_published_again(
    tmp_path: Path, models: Path, background: bool
) -> None:
    class Scheduled(TinyNet):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    provenance = final(models, background=background)
    trainer(tmp_path, provenance).fit(Scheduled(), loader())
    (uri,) = provenance.uris
    assert provenance.best_uri == provenance.last_uri == uri


def test_it_comes_after_the_checkpoint_that_the_trainer_keeps(tmp_path: Path, models: Path) -> None:
    provenance = final(models)
    keep = ModelCheckpoint(every_n_epochs=2)
    trainer(tmp_path, provenance, keep, max_epochs=3).fit(TinyNet(), loader())
    epochs = [DtoolCheckpoint.from_uri(uri).record.checkpoint.global_step for uri in provenance.uris]
    assert epochs == [12, 18]
    assert provenance.best_uri == provenance.uris[0]
    assert provenance.last_uri == provenance.uris[1]


def test_each_fit_of_a_trainer_keeps_its_own(tmp_path: Path, models: Path) -> None:
    provenance = final(models)
    t = trainer(tmp_path, provenance, max_epochs=1, **OFF)
    model = TinyNet()
    for epochs in (1, 2):
        t.fit_loop.max_epochs = epochs
        t.fit(model, loader())
    assert len(provenance.uris) == len(list(iter_datasets(str(models)))) == 2


def test_weights_that_a_callback_sets_at_the_end_are_in_it(tmp_path: Path, models: Path) -> None:
    provenance = final(models)
    average = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    model = TinyNet()
    trainer(tmp_path, provenance, average, max_epochs=3, **OFF).fit(model, loader())
    assert same(weights(DtoolCheckpoint.from_uri(provenance.last_uri).load_module()), weights(model))


def test_early_stopping_is_an_end_of_training(tmp_path: Path, models: Path) -> None:
    provenance = final(models)
    stop = EarlyStopping("val_loss", patience=0, min_delta=100)
    trainer(tmp_path, provenance, stop, max_epochs=9, **OFF).fit(TinyNet(), loader(), loader())
    assert DtoolCheckpoint.from_uri(provenance.last_uri).annotations["run_status"] == "finished"


class Fails(TinyNet):
    def on_train_epoch_end(self) -> None:
        raise ArithmeticError("mine")


def test_after_an_exception_there_is_none(tmp_path: Path, models: Path) -> None:
    provenance = final(models)
    with pytest.raises(ArithmeticError, match="mine"):
        trainer(tmp_path, provenance, **OFF).fit(Fails(), loader())
    assert provenance.uris == []


@pytest.mark.filterwarnings("ignore:.*use of fork.*may lead to deadlocks:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*sync_dist=True.*:UserWarning")
def test_several_processes_publish_one(tmp_path: Path, models: Path) -> None:
    provenance = final(models)
    model = TinyNet()
    trainer(tmp_path, provenance, devices=2, strategy="ddp_fork", **OFF).fit(model, loader())
    (uri,) = provenance.uris
    assert provenance.best_uri == provenance.last_uri == uri
    assert same(weights(DtoolCheckpoint.from_uri(uri).load_module()), weights(model))


def test_a_failing_store_gives_a_warning_that_promises_no_file(tmp_path: Path, models: Path, monkeypatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no store")

    monkeypatch.setattr("lightning_dtool.publishing.publisher.write_dataset", fail)
    provenance = final(models)
    with pytest.warns(ProvenanceWarning, match=r"OSError: no store\. This checkpoint has no file"):
        trainer(tmp_path, provenance, **OFF).fit(TinyNet(), loader())
    assert [str(error) for error in provenance.errors] == ["no store"]
    with pytest.raises(PublishError, match="no store"):
        trainer(tmp_path, final(models, strict=True), **OFF).fit(TinyNet(), loader())


# -- what is said when nothing is published -----------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (None, OFF),
        (ModelCheckpoint(save_top_k=0), {}),
        (ModelCheckpoint(every_n_epochs=5), {}),
    ],
    ids=["no checkpointing", "save_top_k=0", "too rare"],
)
def test_a_fit_that_will_publish_nothing_says_so_at_its_start(
    tmp_path: Path, models: Path, policy: Any, options: dict[str, Any]
) -> None:
    class Seen(TinyNet):
        def on_train_start(self) -> None:
            found.extend(str(warning.message) for warning in caught)

    found: list[str] = []
    callbacks = [DtoolProvenanceCallback(str(models)), *([policy] if policy else [])]
    with pytest.warns(ProvenanceWarning) as caught:
        trainer(tmp_path, *callbacks, **options).fit(Seen(), loader())
    (message,) = [text for text in found if text.startswith("Nothing will be published, and this run leaves no record")]
    assert "final=True" in message
    texts = [str(warning.message) for warning in caught]
    assert sum(text.startswith("Nothing") for text in texts) == 1
    assert not any("everything else is recorded" in text for text in texts)
    assert list(models.iterdir()) == []


def test_a_fit_that_saved_nothing_says_so_at_its_end(tmp_path: Path, models: Path) -> None:
    keep = ModelCheckpoint(every_n_train_steps=1000)
    with pytest.warns(ProvenanceWarning, match="Nothing was published: no checkpoint was saved before the end"):
        trainer(tmp_path, DtoolProvenanceCallback(str(models)), keep).fit(TinyNet(), loader())


def test_a_test_run_says_that_nothing_is_recorded(
    tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        trainer(tmp_path, final(models), fast_dev_run=True).fit(TinyNet(), loader())
    assert "Nothing is recorded or published: fast_dev_run saves no checkpoints." in caplog.text


def test_without_a_change_to_the_script(tmp_path: Path, models: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import warnings
        from kit import TinyNet, loader, trainer

        warnings.simplefilter("default")
        trainer(".", enable_checkpointing=False).fit(TinyNet(), loader())
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "LIGHTNING_DTOOL_BASE_URI": str(models)}
    told = programs.run(script, cwd=tmp_path, env=environment)
    assert "LIGHTNING_DTOOL_FINAL=1" in told.stderr
    assert list(models.iterdir()) == []

    environment["LIGHTNING_DTOOL_FINAL"] = "1"
    programs.run(script, cwd=tmp_path, env=environment)
    (dataset,) = iter_datasets(str(models))
    assert DtoolCheckpoint.from_uri(dataset.uri).record.checkpoint.global_step == 12
