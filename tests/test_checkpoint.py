"""DtoolCheckpoint: loading, verification, safety, and the class of a recorded model."""

import datetime
import os
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolModelMixin, DtoolProvenanceCallback
from lightning_dtool.errors import (
    DatasetNotFoundError,
    LightningDtoolError,
    MixedNamespaceError,
    ModuleLoadError,
    NotACheckpointError,
    ProvenanceWarning,
    UnsafeCheckpointError,
    VerificationError,
)
from lightning_dtool.store import DatasetWriter, iter_datasets


def train(tmp_path: Path, models: Path, model: L.LightningModule, **options: Any) -> str:
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, max_epochs=1, **options).fit(model, loader())
    assert provenance.best_uri is not None
    return provenance.best_uri


def test_the_state_dict_is_loaded(tmp_path: Path, models: Path) -> None:
    model = TinyNet()
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, model))
    assert same(checkpoint.load_state_dict(), weights(model))


def test_loaded_weights_survive_deletion_of_the_dataset(tmp_path: Path, models: Path) -> None:
    model = TinyNet()
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, model))
    loaded, module = checkpoint.load_state_dict(), checkpoint.load_module()
    checkpoint.delete()
    assert same(loaded, weights(model))
    assert same(weights(module), weights(model))
    assert list(iter_datasets(str(models))) == []
    with pytest.raises(DatasetNotFoundError):
        DtoolCheckpoint.from_uri(checkpoint.uri)


def test_hyperparameters_can_be_overridden(tmp_path: Path, models: Path) -> None:
    module = DtoolCheckpoint.from_uri(train(tmp_path, models, TinyNet(lr=0.1))).load_module(dropout=0.0)
    assert module.hparams["dropout"] == 0.0
    assert module.hparams["lr"] == 0.1


def test_opening_reads_only_metadata(tmp_path: Path, models: Path, monkeypatch) -> None:
    uri = train(tmp_path, models, TinyNet())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the checkpoint was read"))
    checkpoint = DtoolCheckpoint.from_uri(uri)
    assert checkpoint.record.checkpoint.epoch == 0
    assert "best" in checkpoint.tags


# -- verification before use --------------------------------------------------------------------


def test_a_changed_byte_is_found_before_anything_is_unpickled(tmp_path: Path, models: Path, monkeypatch) -> None:
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, TinyNet()))
    item = Path(checkpoint.path)
    content = bytearray(item.read_bytes())
    content[len(content) // 2] ^= 1
    item.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled before verification"))

    with pytest.raises(VerificationError, match=r"checkpoint\.ckpt"):
        DtoolCheckpoint.from_uri(checkpoint.uri).load_module()
    with pytest.raises(VerificationError, match=r"checkpoint\.ckpt"):
        checkpoint.verify()


@pytest.mark.parametrize("way", ["load", "load_state_dict", "load_module"])
def test_a_file_that_is_exchanged_while_it_is_loaded_is_not_used(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, max_epochs=1).fit(TinyNet(), loader())
    checkpoint = DtoolCheckpoint.from_uri(provenance.uris[0])
    loading = torch.load

    def exchanging(file: Any, **options: Any) -> Any:
        other = Path(file).with_name("other")
        other.write_bytes(Path(file).read_bytes())
        other.replace(file)
        return loading(file, **options)

    monkeypatch.setattr(torch, "load", exchanging)
    with pytest.raises(VerificationError, match="was changed or exchanged while it was loaded"):
        getattr(checkpoint, way)()


def test_a_large_file_is_verified_once_per_process(tmp_path: Path, models: Path, monkeypatch) -> None:
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, TinyNet()))
    read = []
    verify = type(checkpoint.dataset).verify
    monkeypatch.setattr(
        type(checkpoint.dataset), "verify", lambda self, *a, **k: (read.append(a), verify(self, *a, **k))[1]
    )
    for _ in range(3):
        DtoolCheckpoint.from_uri(checkpoint.uri).load()
    assert len(read) == 1


def test_a_dataset_of_data_is_not_a_checkpoint(models: Path) -> None:
    with DatasetWriter("leaves", str(models)) as writer:
        writer.put_bytes(b"x", "oak.png")
        dataset = writer.commit()
    with pytest.raises(NotACheckpointError, match="DtoolDataModule"):
        DtoolCheckpoint.from_uri(dataset.uri)


# -- safe by default ----------------------------------------------------------------------------


class Exotic:
    """A class that `weights_only` loading does not allow."""


class WithExotic(TinyNet):
    """A model that adds an object of a user-defined class to the checkpoint."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["exotic"] = Exotic()


def test_the_error_of_a_safe_load_names_the_refused_types(tmp_path: Path, models: Path) -> None:
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, WithExotic()))
    with pytest.raises(UnsafeCheckpointError, match=r"Exotic.*add_safe_globals.*weights_only=False"):
        checkpoint.load_module()
    assert isinstance(checkpoint.load(weights_only=False)["exotic"], Exotic)
    with torch.serialization.safe_globals([Exotic]):
        assert isinstance(checkpoint.load_module(), WithExotic)


class Since(TinyNet):
    """A model with a date and an object of this file among its hyperparameters."""

    def __init__(self, since: datetime.date, config: Exotic) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_weights_are_loaded_whatever_the_hyperparameters_are(tmp_path: Path, models: Path) -> None:
    model = Since(datetime.date(2026, 1, 1), Exotic())
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, model))
    assert same(checkpoint.load_state_dict(), weights(model))


class WithExtraState(TinyNet):
    """A model whose state dict holds an object."""

    def get_extra_state(self) -> Any:
        return Exotic()

    def set_extra_state(self, state: Any) -> None:
        pass


def test_a_weight_that_is_an_object_is_named(tmp_path: Path, models: Path) -> None:
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, WithExtraState()))
    with pytest.raises(UnsafeCheckpointError, match=r"_extra_state \(.*Exotic\).*weights_only=False") as caught:
        checkpoint.load_state_dict()
    assert caught.value.uri == checkpoint.uri
    with torch.serialization.safe_globals([Exotic]):
        assert isinstance(checkpoint.load_state_dict()["_extra_state"], Exotic)


def test_a_malicious_pickle_is_not_executed(tmp_path: Path, models: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"state_dict": {}, "x": Bomb()}, tmp_path / "bomb.ckpt")
    uri = train(tmp_path, models, TinyNet())
    record = DtoolCheckpoint.from_uri(uri).dataset.read_bytes(
        DtoolCheckpoint.from_uri(uri).dataset.item("provenance.json").identifier
    )
    with DatasetWriter("bomb", str(models)) as writer:
        writer.put_file(tmp_path / "bomb.ckpt", "checkpoint.ckpt")
        writer.put_bytes(record, "provenance.json")
        bomb = writer.commit()
    with pytest.raises(UnsafeCheckpointError, match="mkdir"):
        DtoolCheckpoint.from_uri(bomb.uri).load_module()
    assert not (tmp_path / "exploded").exists()


# -- the class ----------------------------------------------------------------------------------


class FromURI(DtoolModelMixin, TinyNet):
    """A model with DtoolModelMixin."""


def test_the_mixin_loads_a_module_by_uri(tmp_path: Path, models: Path) -> None:
    model = FromURI()
    uri = train(tmp_path, models, model)
    loaded = FromURI.from_uri(uri, lr=0.5)
    assert isinstance(loaded, FromURI)
    assert same(weights(loaded), weights(model))
    assert loaded.hparams["lr"] == 0.5


def test_a_class_whose_source_has_changed_gives_a_warning(tmp_path: Path, models: Path, monkeypatch) -> None:
    checkpoint = DtoolCheckpoint.from_uri(train(tmp_path, models, TinyNet()))
    monkeypatch.setattr("lightning_dtool.loading.modules.source_digest", lambda cls: "0" * 64)
    with pytest.warns(ProvenanceWarning, match="source of kit:TinyNet has changed since"):
        checkpoint.load_module()


def test_a_class_from_pytorch_lightning_is_refused(tmp_path: Path, models: Path) -> None:
    pl = pytest.importorskip("pytorch_lightning")

    class PlNet(pl.LightningModule):
        pass

    with pytest.raises(MixedNamespaceError):
        DtoolCheckpoint.from_uri(train(tmp_path, models, TinyNet())).load_module(PlNet)


SCRIPT = """
    import sys
    import lightning as L
    from pathlib import Path
    from kit import TinyNet, loader, trainer
    from layers import Scale
    from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback

    FACTOR = 2.0

    class ScriptNet(TinyNet):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.scale = Scale(FACTOR)

        def forward(self, x):
            return self.scale(super().forward(x))

    folder = Path(sys.argv[1])
    (folder / "ran").touch(exist_ok=False)
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    t = trainer(folder, provenance)
    t.fit(ScriptNet(), loader())
    accuracy = t.test(ScriptNet(), loader(), ckpt_path=provenance.best_uri, verbose=False)[0]["test_loss"]
    (folder / "result").write_text(f"{provenance.best_uri} {accuracy!r}")
"""

LAYERS = """
    import torch

    class Scale(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(factor))

        def forward(self, x):
            return self.factor * x
"""

READER = """
    import sys
    from pathlib import Path
    from kit import loader, trainer
    from lightning_dtool import DtoolCheckpoint

    module = DtoolCheckpoint.from_uri(sys.argv[1]).load_module(trust_source=True)
    print(repr(trainer(Path(sys.argv[2])).test(module, loader(), verbose=False)[0]["test_loss"]))
"""


@pytest.fixture(scope="module")
def script_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Train in a separate script with a local module, and return the URI and the test loss."""
    tmp_path = tmp_path_factory.mktemp("script")
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "models").mkdir()
    (project / "layers.py").write_text(textwrap.dedent(LAYERS))
    (project / "train.py").write_text(textwrap.dedent(SCRIPT))
    run(project / "train.py", tmp_path, cwd=tmp_path)
    uri, loss = (tmp_path / "result").read_text().split()
    (project / "layers.py").unlink()  # the reader has only the URI
    (project / "train.py").unlink()
    return uri, loss


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return programs.run(*arguments, cwd=cwd, env=environment)


def test_a_new_process_gets_the_recorded_metric_exactly(tmp_path: Path, script_run: tuple[str, str]) -> None:
    uri, loss = script_run
    (tmp_path / "read.py").write_text(textwrap.dedent(READER))
    done = run(tmp_path / "read.py", uri, tmp_path, cwd=tmp_path)
    # The script trains at its top level, which would fail here if it ran again.
    assert done.stdout.split()[-1] == loss


def test_code_from_a_record_needs_trust(script_run: tuple[str, str]) -> None:
    with pytest.raises(ModuleLoadError, match="trust_source=True") as caught:
        DtoolCheckpoint.from_uri(script_run[0]).load_module()
    assert isinstance(caught.value, LightningDtoolError | ImportError)


class Unsaved(TinyNet):
    """A model that saves no hyperparameters."""

    def __init__(self, width: int, encoder: Any, act: Any = torch.nn.functional.relu) -> None:
        L.LightningModule.__init__(self)
        self.layers = torch.nn.Linear(8, width)
        self.encoder, self.act = encoder, act

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_without_hyperparameters_is_built_from_its_recorded_arguments(tmp_path: Path) -> None:
    callback = DtoolProvenanceCallback(str(tmp_path))
    trainer(tmp_path, callback, max_epochs=1).fit(Unsaved(5, None), loader())
    loaded = DtoolCheckpoint.from_uri(callback.last_uri).load_module()
    assert (loaded.layers.out_features, loaded.encoder, loaded.act) == (5, None, torch.nn.functional.relu)


def test_an_argument_that_the_record_cannot_build_is_not_replaced_by_its_default_in_silence(tmp_path: Path) -> None:
    callback = DtoolProvenanceCallback(str(tmp_path))
    trainer(tmp_path, callback, max_epochs=1).fit(Unsaved(5, None, act=torch.tanh), loader())
    checkpoint = DtoolCheckpoint.from_uri(callback.last_uri)
    with pytest.warns(ProvenanceWarning, match=r"defaults for act.*load_module\(act=\.\.\.\)"):
        checkpoint.load_module()
    assert checkpoint.load_module(act=torch.tanh).act is torch.tanh
    assert checkpoint.load_module(trust_source=True).act is torch.tanh


def test_a_file_of_lists_that_hold_one_another_is_observed_in_no_time(tmp_path: Path) -> None:
    everything: list[Any] = [torch.ones(3)]
    for _ in range(12):
        everything = [everything] * 1000
    torch.save(everything, tmp_path / "x.pt")
    before = time.monotonic()
    torch.load(tmp_path / "x.pt")
    assert time.monotonic() - before < 10
