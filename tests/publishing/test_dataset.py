"""A staged checkpoint becomes a dataset that dtool itself calls valid."""

import io
import os
import signal
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import dtoolcore
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dtool.errors import StoreError
from lightning_dtool.export.annotations import annotations
from lightning_dtool.publishing import dataset as dataset_module
from lightning_dtool.publishing.dataset import Staged, dataset_name, write_dataset
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.record import Checkpoint, Metrics, Model, from_json
from lightning_dtool.store import DatasetWriter, FrozenDataset, WritingProcess, local_path
from record.samples import record


def source() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("train.py", "")
    return stream.getvalue()


def staged(**parts: Any) -> Staged:
    state = {"state_dict": {"w": torch.arange(3.0)}, "epoch": 0}
    sealed = (record(**parts), source())
    return Staged(state, lambda: sealed, "ada", "torch==2.6\n", "{}", "running")


@pytest.mark.parametrize("from_file", [False, True])
def test_a_checkpoint_becomes_a_dataset(base_uri: str, tmp_path: Any, from_file: bool) -> None:
    given_ = staged(
        model=Model(class_path="leaves.net:LeafNet", hyperparameters={"opt.lr": 0.1, "größe": "ä\n---\n"}),
        metrics=Metrics(at_checkpoint={"val.loss": 0.5}),
    )
    record_, source_zip = given_.sealed()
    if from_file:
        file = tmp_path / "a.ckpt"
        torch.save(given_.state, file)
        given_ = replace(given_, state=None, content=file.read_bytes(), standing=StandingFile.at(file))
    dataset = write_dataset(given_, base_uri, dataset_name(record_))
    assert isinstance(dataset, FrozenDataset)
    dataset.verify()
    relpaths = sorted(item.relpath for item in dataset.items.values())
    assert relpaths == ["checkpoint.ckpt", "provenance.json", "random_states.json", "requirements.txt", "source.zip"]
    content = {item.relpath: dataset.path(item.identifier) for item in dataset.items.values()}
    loaded = torch.load(content["checkpoint.ckpt"], weights_only=True)
    assert torch.equal(loaded["state_dict"]["w"], torch.arange(3.0))
    assert from_json(content["provenance.json"].read_bytes(), dataset.uri) == record_
    assert content["requirements.txt"].read_text() == "torch==2.6\n"
    assert content["source.zip"].read_bytes() == source_zip
    assert dataset.annotations() == annotations(record_, "running")
    assert all("." not in name for name in dataset.annotation_names())
    assert dataset.tags() == ["lightning-checkpoint"]
    assert dataset.uri in yaml.safe_load(dataset.readme())["how_to_load"]
    theirs = dtoolcore.DataSet.from_uri(dataset.uri)
    assert theirs.name == "LeafNet-epoch0-step6-6a1cf62e"
    assert len(theirs.identifiers) == 5
    assert theirs.get_annotation("model_name") == "LeafNet"


@pytest.mark.parametrize("gone", ["removed", "replaced"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_file_that_goes_while_it_is_stored_costs_no_checkpoint(
    base_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, streamed: bool
) -> None:
    path, given_ = tmp_path / "a.ckpt", staged()
    torch.save(given_.state, path)
    content, put_file = path.read_bytes(), DatasetWriter.put_file

    def too_late(*args: Any, **options: Any) -> None:
        path.unlink()
        if gone == "replaced":
            path.write_bytes(b"another")
        put_file(*args, **options)

    monkeypatch.setattr(DatasetWriter, "put_file", too_late)
    with path.open("rb") as stream:
        form: dict[str, Any] = {"stream": stream} if streamed else {"content": content}
        standing = replace(given_, state=None, standing=StandingFile.at(path), **form)
        dataset = write_dataset(standing, base_uri, "net")
    dataset.verify()
    assert dataset.path(dataset.item("checkpoint.ckpt").identifier).read_bytes() == content


@given(
    path=st.one_of(
        st.text(max_size=200), st.sampled_from(["a:B.<locals>.C", "__main__:", ":", "a:..", "a:\n", "m:" + "X" * 300])
    ),
    prefix=st.one_of(st.none(), st.text(max_size=100)),
    epoch=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**63 - 1),
)
@settings(max_examples=100, deadline=None)
def test_a_name_is_always_one_that_dtool_takes(path: str, prefix: str | None, epoch: int, step: int) -> None:
    checkpoint: Checkpoint = record().checkpoint.model_copy(update={"epoch": epoch, "global_step": step})
    named = record().model_copy(update={"model": Model.model_construct(class_path=path), "checkpoint": checkpoint})
    name = dataset_name(named, prefix)
    assert dtoolcore.utils.name_is_valid(name)
    assert 1 <= len(name) <= 80
    assert not name.endswith("\n")
    assert f"-epoch{epoch}-step{step}-" in name


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_process_that_is_killed_costs_no_checkpoint(base_uri: str, when: str) -> None:
    process = WritingProcess()

    class Deadly:
        """Something in a checkpoint whose pickling ends the process that writes."""

        def __reduce__(self) -> tuple[Any, ...]:
            if process.usable:
                os.kill(process.pid, signal.SIGKILL)
            return (dict, ())

    given_ = staged()
    state = {"state_dict": {"w": torch.ones(5_000_000)}, "epoch": 0, "deadly": Deadly()}
    if when == "before":
        os.kill(process.pid, signal.SIGKILL)
    dataset = write_dataset(Staged(state, given_.sealed, "ada", "", "{}", "running"), base_uri, "net", process)
    dataset.verify()
    assert not process.usable
    assert len(list(Path(local_path(base_uri) or "").iterdir())) == 1


def test_a_full_store_is_not_tried_twice(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = WritingProcess()
    tried: list[str] = []

    class Full(DatasetWriter):
        def put_readme(self, text: str) -> None:
            tried.append(self.uri)
            raise StoreError("no space")

    monkeypatch.setattr(dataset_module, "DatasetWriter", Full)
    with pytest.raises(StoreError, match="no space"):
        write_dataset(staged(), base_uri, "net", process)
    assert len(tried) == 1
    process.close()
