"""Train from S3 and publish to S3, on a real server."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback, pack
from lightning_dtool.errors import StoreError
from lightning_dtool.store import iter_datasets


class LeafNet(TinyNet):
    """TinyNet on images of 2 x 4 pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))


def test_train_from_it_publish_to_it_and_reload(tmp_path: Path, s3_base_uri: str) -> None:
    for label in ("elm", "oak", "yew"):
        (tmp_path / "leaves" / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 255, (2, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "leaves" / label / f"{number}.png")
    leaves = pack(tmp_path / "leaves", s3_base_uri, "leaves", progress=False)

    provenance = DtoolProvenanceCallback(s3_base_uri)
    model = LeafNet()
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    t = trainer(tmp_path, provenance, policy, max_epochs=3)
    t.fit(model, DtoolDataModule(leaves, val_split=0.25, batch_size=4))

    # One dataset is left, on the server; the user's own paths hold plain files.
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


def test_a_bucket_that_is_missing_is_an_error_before_training(
    tmp_path: Path, s3_base_uri: str, s3_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.settings("missing").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="missing"):
        trainer(tmp_path, DtoolProvenanceCallback("s3://missing")).fit(TinyNet(), loader())
