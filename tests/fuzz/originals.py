"""The datasets that are mutated: one of each kind that this package writes, and two of data."""

import io
from pathlib import Path

import lightning as L
import numpy as np
from PIL import Image

from kit import TinyNet, trainer
from lightning_dtool import (
    DtoolCheckpoint,
    DtoolDataModule,
    DtoolProvenanceCallback,
    Reproduction,
    Verdict,
    evaluate,
    pack,
)
from lightning_dtool.record import DatasetReference
from lightning_dtool.reproduction.storing import store_result
from lightning_dtool.store import DatasetWriter

CHECKPOINT = "checkpoint"
IMAGES = "images"
ARRAYS = "arrays"
EVALUATION = "evaluation"
REPRODUCTION = "reproduction"
KINDS = (CHECKPOINT, IMAGES, ARRAYS, EVALUATION, REPRODUCTION)


def make(folder: Path) -> None:
    """Make the datasets: `folder/KIND/NAME`.

    Args:
        folder: An empty folder.
    """
    for kind in KINDS:
        (folder / kind).mkdir()
    arrays = _arrays(folder / ARRAYS)
    _images(folder)
    L.seed_everything(1, verbose=False)
    provenance = DtoolProvenanceCallback(str(folder / CHECKPOINT))
    data = DtoolDataModule(arrays, batch_size=8, val_split=0.25)
    trainer(folder / "local", provenance, max_epochs=1).fit(TinyNet(), data)
    uri = provenance.last_uri
    assert uri is not None
    evaluate(uri, arrays, into=folder / EVALUATION)
    dataset = DtoolCheckpoint.from_uri(uri).dataset
    original = DatasetReference(uri=uri, uuid=dataset.uuid, name=dataset.name, content_digest=dataset.content_digest)
    found = Reproduction(Verdict.COULD_NOT_RUN, "it was not tried", original, factors=("x",), environment=("y",))
    store_result(found, str(folder / REPRODUCTION), None)


def original(folder: Path, kind: str) -> Path:
    """Return the dataset of a kind.

    Args:
        folder: As for `make`.
        kind: One of `KINDS`.
    """
    (found,) = (folder / kind).glob("*/.dtool")
    return found.parent


def npy(array: np.ndarray) -> bytes:
    """Return an array as the content of a file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _arrays(base: Path) -> str:
    x = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    with DatasetWriter("arrays", str(base)) as writer:
        writer.put_bytes(npy(x), "data.npy")
        writer.put_bytes(npy(x[:, :3].argmax(1)), "labels.npy")
        writer.put_annotation("description", {"made": ["by", "a", "test"]})
        writer.put_readme("---\ndescription: arrays\nowners:\n- name: N\n  email: n@example.org\n")
        return writer.commit().uri


def _images(folder: Path) -> None:
    for number, category in enumerate(("elm", "oak", "elm", "oak")):
        place = folder / "pictures" / category / f"{number}.{'jpg' if number == 3 else 'png'}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 20, 90, 0)).save(place)
    pack(folder / "pictures", folder / IMAGES, "leaves", tags=["leaves"], annotations={"place": "here"})
