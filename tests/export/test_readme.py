"""README.yml: its content, and escaping of any text in it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import TinyNet, trainer
from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback
from lightning_dtool.export.readme import readme
from lightning_dtool.record import DatasetReference, Gap, Lineage, Metrics, Model
from lightning_dtool.reproduction.storing import store_result
from lightning_dtool.results.reproduction import Reproduction, Verdict
from lightning_dtool.store import FrozenDataset
from record.samples import record

URI = "s3://lab-models/6a1c"
ITEMS = ["checkpoint.ckpt", "trace.jsonl"]
AWKWARD = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=30),
    st.lists(st.sampled_from(["---", ": ", "\t", "\n", "\r", "\r\n", "#", "- ", "'", '"', "|", ">", "&a", "*a", "!x", "%", "\x00", "\x85",  # noqa: E501
                              "\u2028", "\ufeff", "é", "😀", " ", "yes", "null", "1", "2024-01-01", "{", "]", "..."]), max_size=8).map("".join),  # noqa: E501
)  # fmt: skip


@given(
    st.dictionaries(
        AWKWARD,
        st.one_of(AWKWARD, st.lists(AWKWARD, max_size=2), st.floats(allow_nan=False, allow_infinity=False)),
        max_size=4,
    ),
    AWKWARD,
)
@settings(max_examples=250, deadline=None)
def test_awkward_text_survives_yaml(values: dict[str, Any], text: str) -> None:
    written = readme(
        record(
            model=Model(class_path=f"a:{text}", hyperparameters=values),
            metrics=Metrics(at_checkpoint=values),
            gaps=[Gap(fact="a", reason=text)],
        ),
        URI,
        ITEMS,
    )
    written.encode()
    read = yaml.safe_load(written)
    assert read["model"]["hyperparameters"] == values
    assert read["metrics"] == values
    assert read["model"]["class"] == f"a:{text}"
    assert read["not_recorded"] == [f"a: {text}"]


def test_the_readme_describes_the_checkpoint() -> None:
    data = DatasetReference(uri="s3://lab/d", uuid="u", name="leaves", content_digest="sha256:0")
    written = readme(record(lineage=Lineage(source_datasets=[data])), URI, ITEMS)
    read = yaml.safe_load(written)
    assert read["description"].startswith("Checkpoint of LeafNet after 6 optimizer steps (epoch 0)")
    assert read["creation_date"] == "2024-05-01"
    assert read["creator"] == {"username": "ada"}
    assert read["training_data"] == [{"name": "leaves", "uri": "s3://lab/d", "uuid": "u"}]
    assert "derived_from" not in read  # dserver would draw this edge of its graph twice
    assert f"DtoolCheckpoint.from_uri('{URI}')" in read["how_to_load"]
    assert "how_to_load: |" in written
    assert list(read["items"]) == ITEMS


@pytest.mark.parametrize("value", ["yes", "1e3", "0x1", "~", "2024-01-01", "1:30", "="])
def test_text_that_looks_like_something_else_stays_text(value: str) -> None:
    written = readme(record(model=Model(class_path="a:B", hyperparameters={value: value})), URI, ITEMS)
    assert yaml.safe_load(written)["model"]["hyperparameters"] == {value: value}


def items_of(uri: str) -> tuple[set[str], set[str]]:
    """Return the items that the README describes, and those that the dataset holds."""
    dataset = FrozenDataset.from_uri(uri)
    described: dict[str, str] = yaml.safe_load(dataset.readme())["items"]
    assert all(described.values())
    return set(described), {item.relpath for item in dataset.items.values()}


def test_every_item_of_every_dataset_is_described(tmp_path: Path, arrays: str) -> None:
    provenance = DtoolProvenanceCallback(str(tmp_path), trace=True, save_initial_weights=True)
    trainer(tmp_path / "local", provenance, max_epochs=1).fit(TinyNet(), DtoolDataModule(arrays, batch_size=8))
    assert provenance.last_uri is not None
    described, held = items_of(provenance.last_uri)
    assert described == held > {"initial_weights.ckpt", "trace.jsonl"}
    original = DatasetReference(uri=provenance.last_uri, uuid="u", name="leaves", content_digest="sha256:0")
    result = store_result(Reproduction(Verdict.COULD_NOT_RUN, "reason", original), str(tmp_path), None)
    described, held = items_of(result.uri)
    assert described == held == {"verdict.json", "log.txt"}


def test_an_item_without_a_description_is_an_error() -> None:
    with pytest.raises(KeyError, match="surprise"):
        readme(record(), URI, [*ITEMS, "surprise.bin"])
