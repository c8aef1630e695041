"""Training on data from S3 and publishing to S3, with a real server."""

import _thread
import importlib.util
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image

import lightning_dtool
import programs
from faulty_link import Fault, FaultyLink, answers, hangs_up, stalls
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback, evaluate, pack, recover
from lightning_dtool.errors import MissingItemError, ProvenanceWarning, StoreError, VerificationError
from lightning_dtool.results.reproduction import Verdict
from lightning_dtool.store import FrozenDataset, iter_datasets, s3_connections
from reproduction.runs import project, train
from s3_server import S3Server

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "s3.py"


class LeafNet(TinyNet):
    """TinyNet on images of 2 x 4 pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory, s3_base_uri: str) -> str:
    """Return the URI of a dataset of images on S3."""
    folder = tmp_path_factory.mktemp("leaves")
    numbers = np.random.default_rng(0)
    for label in ("elm", "oak", "yew"):
        (folder / label).mkdir()
        for number in range(4):
            pixels = numbers.integers(0, 255, (2, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return pack(folder, s3_base_uri, "leaves", progress=False)


def fit(
    folder: Path, models: str, leaves: str, *callbacks: Callback, epochs: int = 2, seed: int = 1, **options: Any
) -> tuple[LeafNet, DtoolProvenanceCallback]:
    """Train on the images and publish the checkpoints."""
    L.seed_everything(seed, verbose=False)
    provenance = DtoolProvenanceCallback(models, retention=options.pop("retention", "mirror"))
    model = LeafNet()
    t = trainer(folder, provenance, *callbacks, max_epochs=epochs)
    t.fit(model, DtoolDataModule(leaves, val_split=0.25, batch_size=4), **options)
    return model, provenance


def objects(server: S3Server, base_uri: str) -> set[str]:
    """Return the first part of the object keys of each dataset."""
    listed = server.client().list_objects_v2(Bucket=base_uri.removeprefix("s3://"))
    return {entry["Key"].split("/")[0].removeprefix("dtool-") for entry in listed.get("Contents", [])}


def test_training_publishing_and_reloading_work_with_s3(tmp_path: Path, s3_base_uri: str, leaves: str) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    model, provenance = fit(tmp_path, s3_base_uri, leaves, policy)

    # One dataset is left on the server. The local paths hold plain files.
    assert provenance.errors == []
    assert len(provenance.uris) == 1
    checkpoint = DtoolCheckpoint.from_uri(provenance.best_uri)
    checkpoint.verify()
    assert same(weights(checkpoint.load_module(LeafNet)), weights(model))
    assert not Path(policy.best_model_path).is_symlink()
    assert same(weights(LeafNet.load_from_checkpoint(policy.last_model_path, weights_only=True)), weights(model))
    assert checkpoint.annotations["source_dataset_uuid"] == checkpoint.record.lineage.source_datasets[0].uuid
    assert checkpoint.record.lineage.source_datasets[0].uri == leaves

    again = DtoolDataModule.from_uri(checkpoint.uri)
    assert again.hparams["uri"] == leaves

    checkpoint.delete()
    assert checkpoint.uri not in {dataset.uri for dataset in iter_datasets(s3_base_uri)}


@pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")
def test_resuming_from_an_s3_uri_equals_an_uninterrupted_run(tmp_path: Path, s3_base_uri: str, leaves: str) -> None:
    whole, _ = fit(tmp_path / "whole", s3_base_uri, leaves, epochs=4)
    _, stopped = fit(tmp_path / "stopped", s3_base_uri, leaves, epochs=2)
    resumed, provenance = fit(tmp_path / "resumed", s3_base_uri, leaves, epochs=4, seed=99, ckpt_path=stopped.last_uri)
    assert same(weights(whole), weights(resumed))
    record = DtoolCheckpoint.from_uri(provenance.last_uri).record
    assert record.lineage.parent_checkpoint.uri == stopped.last_uri


def test_weights_from_s3_name_their_checkpoint_as_parent(tmp_path: Path, s3_base_uri: str, leaves: str) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt")
    model, first = fit(tmp_path, s3_base_uri, leaves, policy)
    # From the cache of a remote store, from Lightning's plain file, and in memory.
    for module in (
        DtoolCheckpoint.from_uri(first.best_uri).load_module(LeafNet),
        LeafNet.load_from_checkpoint(policy.best_model_path, weights_only=True),
        model,
    ):
        provenance = DtoolProvenanceCallback(s3_base_uri)
        trainer(tmp_path, provenance, max_epochs=1).fit(module, DtoolDataModule(leaves, batch_size=8))
        record = DtoolCheckpoint.from_uri(provenance.last_uri).record
        assert record.model.initial_weights.origin == ("continued" if module is model else "checkpoint")
        assert record.lineage.parent_checkpoint.uri == first.best_uri


def test_checkpoints_removed_by_the_trainer_are_deleted_on_s3(
    tmp_path: Path, s3_base_uri: str, s3_server: S3Server, s3_link: FaultyLink, leaves: str
) -> None:
    class Flush(Callback):
        """A checkpoint that is removed before its dataset was begun gets none."""

        def on_train_epoch_start(self, t: L.Trainer, pl_module: L.LightningModule) -> None:
            t.strategy.checkpoint_io.flush()

    before = objects(s3_server, s3_base_uri)
    s3_link.requests.clear()
    _, provenance = fit(tmp_path, s3_base_uri, leaves, Flush(), epochs=3)
    requests = list(s3_link.requests)
    assert len({request for request in requests if request.startswith("PUT") and "/dtool-" in request}) == 3
    kept = DtoolCheckpoint.from_uri(provenance.last_uri)
    assert objects(s3_server, s3_base_uri) - before == {kept.uuid}
    # As the documentation lists them: nine for the dataset, one per item, annotation and tag, two for the status.
    beside = len(kept.annotations) + len(kept.tags)
    assert sum(kept.uuid in request for request in requests) == 9 + 5 + beside + 2
    notes = [request.split()[0] for request in requests if "/.lightning-dtool-" in request]
    assert notes == ["PUT", "DELETE"]


KILLED = """
import json, os, signal, sys
os.environ |= json.loads(sys.argv[5])  # a shell would drop variables with a hyphen
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from kit import TinyNet, loader, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.store.s3 import S3Broker

def dies(*arguments):
    if sys.argv[4] == "freeze" or arguments[2] == "source.zip":
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

if os.fork() == 0:
    original = getattr(S3Broker, sys.argv[4])
    setattr(S3Broker, sys.argv[4], dies)
    policy = ModelCheckpoint(dirpath=Path(sys.argv[3], "ckpt"), filename="only")
    trainer(Path(sys.argv[3]), policy, DtoolProvenanceCallback(sys.argv[2]), max_epochs=1).fit(TinyNet(), loader())
assert os.wait()[1] == signal.SIGKILL
"""


@pytest.mark.parametrize(
    ("when", "outcome"), [pytest.param("send", "removed", marks=pytest.mark.slow), ("freeze", "finished")]
)
def test_the_checkpoint_of_a_killed_training_is_whole_after_recover(
    tmp_path: Path, s3_base_uri: str, s3_server: S3Server, when: str, outcome: str
) -> None:
    before = {dataset.uri for dataset in iter_datasets(s3_base_uri)}
    settings = json.dumps(s3_server.settings(s3_base_uri.removeprefix("s3://")))
    programs.run("-c", KILLED, Path(__file__).parent, s3_base_uri, tmp_path, when, settings, cwd=tmp_path)
    found = recover(s3_base_uri, [tmp_path])
    assert [(each.outcome, each.what) for each in found] == [
        (outcome, "a dataset that was being written"),
        ("removed", "the note of a process that wrote datasets"),
    ]
    (path,) = (tmp_path / "ckpt").iterdir()
    assert torch.load(path, weights_only=True)["global_step"] == 6
    new = {dataset.uri for dataset in iter_datasets(s3_base_uri)} - before
    assert len(new) == (outcome == "finished")
    for uri in new:
        checkpoint = DtoolCheckpoint.from_uri(uri)
        checkpoint.verify()
        assert checkpoint.path.read_bytes() == path.read_bytes()
        checkpoint.delete()
    assert recover(s3_base_uri, [tmp_path]) == []


def test_an_evaluation_is_stored_on_s3(s3_base_uri: str, tmp_path: Path, leaves: str) -> None:
    _, provenance = fit(tmp_path, s3_base_uri, leaves)
    found = evaluate(provenance.last_uri, leaves, into=s3_base_uri, cls=LeafNet)
    FrozenDataset.from_uri(found.dataset_uri).verify()
    assert found.dataset_uri.startswith(s3_base_uri)


def test_a_replaced_object_is_noticed_before_use(
    tmp_path: Path, s3_base_uri: str, s3_server: S3Server, leaves: str
) -> None:
    _, provenance = fit(tmp_path, s3_base_uri, leaves)
    checkpoint = DtoolCheckpoint.from_uri(provenance.last_uri)
    bucket, key = s3_base_uri.removeprefix("s3://"), f"{checkpoint.uuid}/data/"
    identifier = checkpoint.dataset.item("checkpoint.ckpt").identifier
    there = s3_server.client().get_object(Bucket=bucket, Key=key + identifier)
    body = there["Body"].read()
    s3_server.client().put_object(
        Bucket=bucket, Key=key + identifier, Body=body[:-1] + b"!", Metadata=there["Metadata"]
    )
    for use in (checkpoint.verify, checkpoint.load_module):
        with pytest.raises(VerificationError, match=r"checkpoint\.ckpt"):
            use()
    with pytest.raises(VerificationError, match=r"checkpoint\.ckpt"):
        fit(tmp_path / "resumed", s3_base_uri, leaves, epochs=4, ckpt_path=checkpoint.uri)


# -- a store that fails ---------------------------------------------------------------------------


def test_a_missing_bucket_is_an_error_before_training(
    tmp_path: Path, s3_base_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.settings("missing").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="missing"):
        trainer(tmp_path, DtoolProvenanceCallback("s3://missing")).fit(TinyNet(), loader())


def test_a_lack_of_write_permission_is_an_error_before_training(
    tmp_path: Path, s3_base_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.settings(s3_base_uri.removeprefix("s3://"), may_write=False).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="access was denied"):
        trainer(tmp_path, DtoolProvenanceCallback(s3_base_uri)).fit(TinyNet(), loader())


@pytest.mark.filterwarnings("ignore:.* could not be written:lightning_dtool.errors.ProvenanceWarning")
@pytest.mark.parametrize(
    ("method", "part", "fault"),
    [
        ("PUT", "/data/", answers(403)),
        ("", "", answers(404, "NoSuchBucket")),
        ("", "", answers(503, "SlowDown")),
        ("", "", hangs_up),
        ("", "", stalls),
    ],
)
def test_a_store_that_fails_during_training_does_not_stop_it(
    tmp_path: Path,
    s3_base_uri: str,
    s3_server: S3Server,
    s3_link: FaultyLink,
    method: str,
    part: str,
    fault: Fault,
) -> None:
    """The first checkpoint is published. The second stays a plain file, and no object of it is on the server."""

    class Cut(Callback):
        def on_train_epoch_start(self, t: L.Trainer, pl_module: L.LightningModule) -> None:
            if t.current_epoch == 1:
                t.strategy.checkpoint_io.flush()
                s3_link.on(method, part, fault)

    before = objects(s3_server, s3_base_uri)
    provenance = DtoolProvenanceCallback(s3_base_uri)
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_top_k=-1)
    model = TinyNet()
    with pytest.warns(ProvenanceWarning, match="plain file at Lightning's path was kept, and training continues"):
        trainer(tmp_path, provenance, policy, Cut(), max_epochs=2).fit(model, loader())
    assert isinstance(provenance.errors[0], StoreError)
    assert same(weights(TinyNet.load_from_checkpoint(policy.best_model_path, weights_only=True)), weights(model))
    s3_link.mend()
    (uri,) = provenance.uris
    left = {dataset.uuid for dataset in iter_datasets(s3_base_uri)} - before
    assert left == {DtoolCheckpoint.from_uri(uri).uuid}


@pytest.mark.filterwarnings("ignore:.* could not be written:lightning_dtool.errors.ProvenanceWarning")
@pytest.mark.parametrize("when", ["while training", "while it waits at its end"])
def test_ctrl_c_ends_training_while_a_server_is_silent(
    tmp_path: Path, s3_base_uri: str, s3_link: FaultyLink, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The server would be waited for ten minutes. The checkpoint is kept as a plain file."""

    class Interrupted(Callback):
        begun = 0.0

        def on_train_epoch_start(self, t: L.Trainer, pl_module: L.LightningModule) -> None:
            if t.current_epoch == 1:
                t.strategy.checkpoint_io.flush()
                s3_link.on("", "", stalls)
            if t.current_epoch == 2 and when == "while training":
                self.begun = time.monotonic()
                raise KeyboardInterrupt

        def on_train_end(self, t: L.Trainer, pl_module: L.LightningModule) -> None:
            if not self.begun:
                self.begun = time.monotonic() + 1
                threading.Timer(1, _thread.interrupt_main).start()

    monkeypatch.setenv("LIGHTNING_DTOOL_STORE_TIMEOUT", "600")
    monkeypatch.setattr(s3_connections, "SILENT_SECONDS", 600)
    provenance, interrupted = DtoolProvenanceCallback(s3_base_uri), Interrupted()
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_top_k=-1)
    with (
        pytest.warns(ProvenanceWarning, match="plain file at Lightning's path was kept"),
        pytest.raises((SystemExit, KeyboardInterrupt)),
    ):
        trainer(tmp_path, provenance, policy, interrupted, max_epochs=3).fit(TinyNet(), loader())
    assert time.monotonic() - interrupted.begun < 30
    assert TinyNet.load_from_checkpoint(policy.best_model_path, weights_only=True)
    s3_link.mend()


@pytest.mark.parametrize(
    ("fault", "error"), [(answers(403), StoreError), (answers(404, "NoSuchKey"), MissingItemError)]
)
def test_data_that_cannot_be_fetched_is_an_error_before_the_first_step(
    tmp_path: Path, s3_base_uri: str, s3_link: FaultyLink, leaves: str, fault: Fault, error: type[Exception]
) -> None:
    s3_link.on("GET", f"{leaves.rpartition('/')[2]}/data/", fault)
    with pytest.raises(error, match=leaves):
        fit(tmp_path, s3_base_uri, leaves)


# -- programs -------------------------------------------------------------------------------------


def test_the_s3_example_runs(
    tmp_path: Path, s3_base_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("s3_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "s3_example", example)
    spec.loader.exec_module(example)
    example.main(s3_base_uri)
    said = {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}
    assert said["weights"] == "bitwise the same as without an interruption"
    assert FrozenDataset.from_uri(said["checkpoint"]).uri == said["checkpoint"]
    assert said["verified"] == "5 items"
    assert said["left"] == "2 checkpoints"


@pytest.mark.slow
def test_a_model_on_s3_is_reproduced_to_s3(tmp_path: Path, s3_base_uri: str) -> None:
    made = project(tmp_path, "on_images.py")
    for number in range(64):
        place = tmp_path / "pictures" / ("oak" if number % 2 else "elm")
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    images = pack(tmp_path / "pictures", s3_base_uri, "pictures", progress=False)
    before = {dataset.uri for dataset in iter_datasets(s3_base_uri)}
    train(made, "on_images.py", s3_base_uri, images, OMP_NUM_THREADS="1")
    (uri,) = {dataset.uri for dataset in iter_datasets(s3_base_uri)} - before
    os.rename(made, tmp_path / "elsewhere")

    found = lightning_dtool.reproduce(uri, into=s3_base_uri)

    assert found.verdict is Verdict.IDENTICAL, found
    assert found.rerun.uri.startswith(s3_base_uri)
    DtoolCheckpoint.from_uri(found.rerun.uri).verify()
