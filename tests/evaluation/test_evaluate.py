"""Evaluation of a trained model: its metrics, its warnings about training data, and the stored result."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn import metrics as sk

import programs
from conftest import MakeDataset
from kit import TinyNet, trainer
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback, evaluate, pack
from lightning_dtool.errors import (
    ConfigurationError,
    DecodeError,
    EvaluationError,
    LightningDtoolError,
    ModuleLoadError,
    NotACheckpointError,
    ProvenanceWarning,
    SelectionError,
    StoreError,
    VerificationError,
)
from lightning_dtool.evaluation.scoring import metric_names
from lightning_dtool.store import DatasetWriter, FrozenDataset, local_path

CLASSES = ("elm", "fir", "oak")
Files = dict[str, bytes]


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def leaves(count: int, seed: int, classes: tuple[str, ...] = CLASSES) -> Files:
    """Return vectors of 8 numbers, one folder per class. Noise in the classes lets a model make mistakes."""
    random = np.random.default_rng(seed)
    files: Files = {}
    for number in range(count):
        x = random.normal(size=8).astype(np.float32)
        name = CLASSES[(x[:3] + random.normal(size=3) * 0.8).argmax()]
        if name in classes:
            files[f"{name}/{number:03}.npy"] = npy(x)
    return files


def packed(files: Files, folder: Path, name: str) -> FrozenDataset:
    """Write files to a folder and pack it, as a user does."""
    for relpath, content in files.items():
        path = folder / name / relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "data").mkdir(exist_ok=True)
    return FrozenDataset.from_uri(pack(folder / name, str(folder / "data"), name, progress=False))


def trained(model: L.LightningModule, data: L.LightningDataModule, folder: Path, epochs: int = 3) -> str:
    (folder / "models").mkdir(exist_ok=True)
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    torch.manual_seed(0)
    trainer(folder, provenance, max_epochs=epochs).fit(model, data)
    assert provenance.last_uri is not None
    return provenance.last_uri


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def data(folder: Path) -> FrozenDataset:
    return packed(leaves(150, 0), folder, "leaves")


@pytest.fixture(scope="module")
def new_data(folder: Path) -> FrozenDataset:
    return packed(leaves(90, 1), folder, "leaves-2026")


@pytest.fixture(scope="module")
def checkpoint(folder: Path, data: FrozenDataset) -> str:
    module = DtoolDataModule(data.uri, val_split=0.2, test_split=0.2, batch_size=16)
    return trained(TinyNet(), module, folder)


def rows(uri: str, relpath: str = "predictions.csv") -> list[list[str]]:
    dataset = FrozenDataset.from_uri(uri)
    text = dataset.read_bytes(dataset.item(relpath).identifier).decode()
    return list(csv.reader(io.StringIO(text)))


def quietly(*arguments: Any, **options: Any) -> Any:
    """Evaluate and ignore warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProvenanceWarning)
        return evaluate(*arguments, **options)


# -- metrics --------------------------------------------------------------------------------------


def test_metrics_equal_those_of_trainer_test(checkpoint: str, data: FrozenDataset, folder: Path) -> None:
    found = evaluate(checkpoint, data.uri)
    module = DtoolCheckpoint.from_uri(checkpoint).load_module()
    (by_trainer,) = trainer(folder).test(module, DtoolDataModule.from_uri(checkpoint), verbose=False)
    assert found.part == "test"
    assert found.training_items == 0
    assert found.count == 30
    assert found.metrics["accuracy"] == pytest.approx(by_trainer["test_acc"])
    assert found.warnings == []
    assert found.dataset_uri is None
    assert found.output == "logits"


def test_all_new_data_is_evaluated_and_metrics_equal_sklearns(
    checkpoint: str, new_data: FrozenDataset, folder: Path
) -> None:
    names = metric_names("multiclass")
    found = evaluate(checkpoint, new_data.uri, metrics=names, into=folder / "data")
    assert found.part == "whole"
    assert found.training_items == 0
    assert found.dataset_uri is not None
    header, *lines = rows(found.dataset_uri)
    assert header == ["item", "target", "prediction", *(f"probability_{name}" for name in CLASSES)]
    assert [line[0] for line in lines] == [item.relpath for item in new_data.items.values()]
    truth, predicted = [line[1] for line in lines], [line[2] for line in lines]
    assert truth == [line[0].partition("/")[0] for line in lines]
    probabilities = np.array([line[3:] for line in lines], dtype=np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "precision": sk.precision_score(truth, predicted, average="macro"),
        "recall": sk.recall_score(truth, predicted, average="macro"),
        "f1": sk.f1_score(truth, predicted, average="macro"),
        "auroc": sk.roc_auc_score(truth, probabilities, multi_class="ovr"),
        "cohen_kappa": sk.cohen_kappa_score(truth, predicted),
        "matthews": sk.matthews_corrcoef(truth, predicted),
    }
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert 0 < found.metrics["calibration_error"] < 1
    assert found.confusion == sk.confusion_matrix(truth, predicted, labels=CLASSES).tolist()
    recalls = sk.recall_score(truth, predicted, average=None, labels=CLASSES)
    assert [found.per_class[name]["accuracy"] for name in CLASSES] == pytest.approx(recalls)
    assert [found.per_class[name]["count"] for name in CLASSES] == [truth.count(name) for name in CLASSES]
    assert [found.per_class[name]["predicted"] for name in CLASSES] == [predicted.count(name) for name in CLASSES]
    assert set(found.settings) == set(names)
    assert found.settings["f1"] == {"function": "torchmetrics.functional.multiclass_f1_score", "average": "macro"}


def test_a_subset_of_the_classes_keeps_the_class_numbers_of_training(checkpoint: str, folder: Path) -> None:
    """With class numbers of its own, this data would call oak 1, and every prediction would be wrong."""
    some = packed(leaves(60, 2, ("elm", "oak")), folder, "some")
    found = evaluate(checkpoint, some.uri, metrics="accuracy,balanced_accuracy,auroc", into=folder / "data")
    header, *lines = rows(found.dataset_uri)
    truth, predicted = [line[1] for line in lines], [line[2] for line in lines]
    assert found.classes == list(CLASSES)
    assert found.per_class["fir"]["count"] == 0
    assert found.per_class["fir"]["accuracy"] is None
    assert found.per_class["fir"]["predicted"] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a predicted class without samples, which is intended here
        assert found.metrics["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert found.metrics["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    areas = [
        sk.roc_auc_score([name == one for name in truth], [float(line[3 + CLASSES.index(one)]) for line in lines])
        for one in ("elm", "oak")
    ]
    assert found.metrics["auroc"] == pytest.approx(np.mean(areas), abs=1e-5)
    assert header[3:] == [f"probability_{name}" for name in CLASSES]


def test_one_class_has_no_roc_curve(checkpoint: str, folder: Path) -> None:
    oaks = packed(leaves(60, 3, ("oak",)), folder, "oaks")
    with pytest.warns(ProvenanceWarning, match="metric auroc is undefined: .*one class only"):
        found = evaluate(checkpoint, oaks.uri)
    assert found.metrics["auroc"] is None
    assert found.metrics["accuracy"] == pytest.approx(found.per_class["oak"]["accuracy"])
    json.loads(found.to_json(), parse_constant=pytest.fail)


def test_batch_size_workers_and_the_random_state_do_not_change_the_result(
    checkpoint: str, new_data: FrozenDataset
) -> None:
    before = torch.get_rng_state()
    a = evaluate(checkpoint, new_data.uri)
    assert torch.equal(torch.get_rng_state(), before)
    b = evaluate(checkpoint, new_data.uri, batch_size=7, num_workers=1)
    assert a.confusion == b.confusion
    assert a.metrics == pytest.approx(b.metrics)


# -- which samples --------------------------------------------------------------------------------


def test_each_part_of_the_training_data_can_be_evaluated(checkpoint: str, data: FrozenDataset) -> None:
    validation = evaluate(checkpoint, data.uri, part="val")
    assert (validation.part, validation.count, validation.training_items) == ("val", 30, 0)
    with pytest.warns(ProvenanceWarning, match=r"trained on 90 of these 90 samples .*says nothing about new data"):
        seen = evaluate(checkpoint, data.uri, part="train")
    assert seen.training_items == seen.count == 90
    with pytest.warns(ProvenanceWarning, match="trained on 90 of these 150"):
        whole = evaluate(checkpoint, data.uri, part="whole")
    assert whole.training_items == 90
    assert whole.warnings
    selected = quietly(checkpoint, data.uri, select={"category": ["elm", "oak"]})
    assert selected.part == "whole"
    assert selected.reading == {"select": {"category": ["elm", "oak"]}}
    assert selected.per_class["fir"]["count"] == 0


def test_evaluating_on_training_data_gives_a_warning(data: FrozenDataset, folder: Path) -> None:
    uri = trained(TinyNet(), DtoolDataModule(data.uri), folder, epochs=1)
    with pytest.warns(ProvenanceWarning, match="trained on 150 of these 150"):
        assert evaluate(uri, data.uri).part == "train"


def test_training_items_are_found_in_another_dataset(checkpoint: str, data: FrozenDataset, folder: Path) -> None:
    module = DtoolDataModule(data.uri, val_split=0.2, test_split=0.2)
    module.setup("fit")
    relpath = module.train_dataloader().dataset.relpaths[0]
    content = data.read_bytes(data.item(relpath).identifier)
    mixed = packed({**leaves(30, 4), "oak/copied.npy": content}, folder, "mixed")
    with pytest.warns(ProvenanceWarning, match="trained on 1 of these 31"):
        assert evaluate(checkpoint, mixed.uri).training_items == 1


def test_the_number_of_training_items_may_be_unknown(new_data: FrozenDataset, tmp_path: Path) -> None:
    gone = packed(leaves(40, 7), tmp_path, "gone")
    uri = trained(TinyNet(), DtoolDataModule(gone.uri, test_split=0.2), tmp_path, epochs=1)
    shutil.rmtree(str(local_path(gone.uri)))
    assert evaluate(uri, new_data.uri).training_items is None


def test_a_copy_at_another_uri_is_the_same_data(checkpoint: str, data: FrozenDataset, folder: Path) -> None:
    again = packed(leaves(150, 0), folder, "leaves-again")
    assert again.uuid != data.uuid
    a, b = evaluate(checkpoint, data.uri), evaluate(checkpoint, again.uri)
    assert (b.part, b.training_items) == ("test", 0)
    assert a.confusion == b.confusion


def test_labels_that_have_changed_are_said_and_damaged_items_refused(
    checkpoint: str, data: FrozenDataset, tmp_path: Path
) -> None:
    copy = tmp_path / "leaves"
    shutil.copytree(local_path(data.uri), copy)  # type: ignore[arg-type]
    warning = "have other targets than in the record"
    assert not any(warning in note for note in quietly(checkpoint, copy, part="test").warnings)
    overlay = copy / ".dtool" / "overlays" / "category.json"
    exchanged = {"oak": "elm", "elm": "oak", "fir": "fir"}
    overlay.write_text(json.dumps({key: exchanged[name] for key, name in json.loads(overlay.read_text()).items()}))
    assert any(warning in note for note in quietly(checkpoint, copy, part="test").warnings)
    assert not any(warning in note for note in quietly(checkpoint, copy, part="whole").warnings)
    for item in (copy / "data").rglob("*.npy"):
        item.write_bytes(item.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError, match=r"\.npy"):
        quietly(checkpoint, copy, part="test")


def test_all_of_a_separate_test_dataset_is_evaluated(
    data: FrozenDataset, new_data: FrozenDataset, folder: Path
) -> None:
    uri = trained(TinyNet(), DtoolDataModule(train_uri=data.uri, test_uri=new_data.uri), folder, epochs=1)
    found = evaluate(uri, new_data.uri)
    assert found.count == len(new_data.items)
    assert found.training_items == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "tset"}, "no part 'tset'"),
        ({"part": "test"}, "no part 'test' in the record"),
        ({"part": "val", "select": {"category": "oak"}}, "leave out select"),
        ({"metrics": "acuracy"}, "no metric 'acuracy'.*balanced_accuracy.*spearman"),
        ({"metrics": []}, "names no metric"),
        ({"metrics": ["mse"]}, "'mse' is for regression.*multiclass"),
        ({"device": "warp"}, "device='warp'"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"target": "none"}, "has no targets"),
    ],
)
def test_invalid_arguments_are_refused(
    checkpoint: str, new_data: FrozenDataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate(checkpoint, new_data.uri, **options)


def test_the_error_names_an_unknown_class(checkpoint: str, folder: Path) -> None:
    other = packed({**leaves(9, 5), "yew/1.npy": npy(np.zeros(8, np.float32))}, folder, "with-yew")
    with pytest.raises(DecodeError, match=r"gives 'yew' for item yew/1.npy.*'elm', 'fir', 'oak'"):
        evaluate(checkpoint, other.uri)


def test_missing_data_and_missing_checkpoints_are_errors(
    checkpoint: str, new_data: FrozenDataset, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    with pytest.raises(SelectionError, match="no items"):
        evaluate(checkpoint, make_dataset({}, "empty").uri)
    with pytest.raises(SelectionError):
        evaluate(checkpoint, new_data.uri, select={"category": "yew"})
    with pytest.raises(NotACheckpointError):
        evaluate(new_data.uri, new_data.uri)
    with pytest.raises(StoreError):
        evaluate(checkpoint, new_data.uri, into=tmp_path / "nowhere")


# -- how samples are read -------------------------------------------------------------------------


class Halve:
    """A transform that can be imported by its recorded name."""

    def __init__(self, by: float = 0.5) -> None:
        self.by = by

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


def test_the_recorded_transform_is_applied_on_trust(data: FrozenDataset, new_data: FrozenDataset, folder: Path) -> None:
    uri = trained(TinyNet(), DtoolDataModule(data.uri, test_split=0.2, eval_transform=Halve()), folder, epochs=1)
    with pytest.raises(ConfigurationError, match=r"eval_transform is .*Halve.*trust_source=True"):
        evaluate(uri, new_data.uri)
    by_hand = evaluate(uri, new_data.uri, eval_transform=Halve(), metrics="calibration_error")
    assert by_hand.reading["eval_transform"]["init"] == {"by": 0.5}
    otherwise = evaluate(uri, new_data.uri, eval_transform=Halve(3.0), metrics="calibration_error")
    assert by_hand.metrics != otherwise.metrics
    assert evaluate(uri, new_data.uri, trust_source=True, metrics="calibration_error").metrics == by_hand.metrics


def test_recorded_transforms_of_torchvision_need_no_trust(tmp_path: Path) -> None:
    from torchvision.transforms import v2

    def image(level: int, number: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (5 + number, 5), (level, level, number)).save(buffer, "PNG")
        return buffer.getvalue()

    files = {
        f"{name}/{number}.png": image(level, number)
        for name, level in (("dark", 20), ("light", 230))
        for number in range(6)
    }
    data = packed(files, tmp_path, "images")
    resize = v2.Compose([v2.ToImage(), v2.Resize((4, 4)), v2.ToDtype(torch.float32, scale=True)])
    module = DtoolDataModule(data.uri, test_split=0.5, stratify=True, train_transform=resize, eval_transform=resize)
    uri = trained(Pixels(), module, tmp_path, epochs=1)
    found = evaluate(uri, data.uri, cls=Pixels)
    assert (found.part, found.count, found.classes) == ("test", 6, ["dark", "light"])


class Pixels(TinyNet):
    """A classifier of images of 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))


def test_batches_pass_through_the_hooks_of_the_module(checkpoint: str, new_data: FrozenDataset) -> None:
    class Negated(TinyNet):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [-batch[0], batch[1]]

    class WantsTrainer(TinyNet):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch if self.trainer.training else None

    assert quietly(checkpoint, new_data.uri, cls=Negated).confusion != evaluate(checkpoint, new_data.uri).confusion
    with pytest.raises(EvaluationError, match="No Trainer is attached"):
        evaluate(checkpoint, new_data.uri, cls=WantsTrainer)


def test_without_a_dtool_datamodule_warnings_say_what_is_unknown(
    data: FrozenDataset, new_data: FrozenDataset, folder: Path
) -> None:
    from torch.utils.data import DataLoader

    from lightning_dtool import DtoolDataset

    (folder / "models").mkdir(exist_ok=True)
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    dataset = DtoolDataset(data.uri, transform=Halve())
    trainer(folder, provenance, max_epochs=1).fit(TinyNet(), DataLoader(dataset, batch_size=16))
    with pytest.warns(ProvenanceWarning, match="without a DataModule.*not transformed.*not applied: transform"):
        found = evaluate(provenance.last_uri, new_data.uri)
    assert found.classes == list(CLASSES)
    assert found.training_items is None
    with pytest.warns(ProvenanceWarning, match="the part that was held out is unknown"):
        quiet = evaluate(provenance.last_uri, data.uri, eval_transform=Halve())
    assert quiet.part == "whole"


def test_without_recorded_classes_those_of_the_data_are_used(new_data: FrozenDataset, folder: Path) -> None:
    from kit import loader

    (folder / "models").mkdir(exist_ok=True)
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    trainer(folder, provenance, max_epochs=1).fit(TinyNet(), loader())
    found = quietly(provenance.last_uri, new_data.uri)
    assert found.count == len(new_data.items)
    how_read, how_numbered = found.warnings
    assert "trained without a DataModule" in how_read
    assert "does not say how its classes were numbered" in how_numbered
    assert "elm=0, fir=1, oak=2" in how_numbered


# -- one output: two classes, or a number ---------------------------------------------------------


class OneOutput(TinyNet):
    """A classifier of two classes, or a regression, with one output."""

    def __init__(self, loss: str = "mse_loss", flat: bool = False) -> None:
        super().__init__()
        self.loss, self.flat = loss, flat
        self.layers = torch.nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return y[:, 0] if self.flat else y

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return getattr(torch.nn.functional, self.loss)(self.layers(x)[:, 0], y.float())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_model_with_one_output_classifies_two_classes(folder: Path, tmp_path: Path, probabilities: bool) -> None:
    two = packed(leaves(120, 6, ("elm", "oak")), tmp_path, "two")
    uri = trained(OneOutput("binary_cross_entropy_with_logits"), DtoolDataModule(two.uri, test_split=0.5), tmp_path)

    class WithSigmoid(OneOutput):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(super().forward(x))

    cls = WithSigmoid if probabilities else OneOutput
    found = quietly(uri, two.uri, cls=cls, metrics=metric_names("binary"), into=tmp_path)
    assert found.task == "binary"
    assert found.output == ("probabilities" if probabilities else "logits")
    header, *lines = rows(found.dataset_uri)
    assert header == ["item", "target", "prediction", "probability_oak"]
    truth, predicted = [line[1] for line in lines], [line[2] for line in lines]
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "precision": sk.precision_score(truth, predicted, pos_label="oak"),
        "recall": sk.recall_score(truth, predicted, pos_label="oak"),
        "f1": sk.f1_score(truth, predicted, pos_label="oak"),
        "auroc": sk.roc_auc_score([name == "oak" for name in truth], [float(line[3]) for line in lines]),
        "cohen_kappa": sk.cohen_kappa_score(truth, predicted),
        "matthews": sk.matthews_corrcoef(truth, predicted),
    }
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found.confusion == sk.confusion_matrix(truth, predicted, labels=["elm", "oak"]).tolist()
    assert found.per_class["oak"]["accuracy"] == pytest.approx(expected["recall"])


def test_the_loss_distinguishes_two_classes_from_numbers(tmp_path: Path) -> None:
    """Labels of 0.0 and 1.0 are classes if the model was trained with binary cross-entropy."""
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    with DatasetWriter("arrays", tmp_path) as writer:
        writer.put_bytes(npy(x), "data.npy")
        writer.put_bytes(npy((x[:, 0] > 0).astype(np.float32)), "labels.npy")
        arrays = writer.commit()
    for loss, task in (("binary_cross_entropy_with_logits", "binary"), ("mse_loss", "regression")):
        uri = trained(OneOutput(loss), DtoolDataModule(arrays.uri, test_split=0.5), tmp_path, epochs=1)
        found = quietly(uri, arrays.uri, cls=OneOutput)
        assert found.task == task
        assert found.classes == (["0", "1"] if task == "binary" else None)


def table(folder: Path, name: str, seed: int, whole: bool = False) -> FrozenDataset:
    """Pack vectors, each with a height in a table. `whole` rounds the heights, which then look like classes."""
    random = np.random.default_rng(seed)
    source = folder / name
    source.mkdir()
    lines = ["path,height"]
    for number in range(40):
        x = random.normal(size=8).astype(np.float32)
        (source / f"{number:02}.npy").write_bytes(npy(x))
        height = 10 + 3 * float(x[0])
        lines.append(f"{number:02}.npy,{round(height) if whole else height}")
    (folder / f"{name}.csv").write_text("\n".join(lines))
    (folder / "data").mkdir(exist_ok=True)
    uri = pack(source, str(folder / "data"), name, csv=folder / f"{name}.csv", progress=False)
    return FrozenDataset.from_uri(uri)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_metrics_of_a_regression(tmp_path: Path, flat: bool, whole: bool) -> None:
    heights, new = table(tmp_path, "heights", 0), table(tmp_path, "new", 1, whole)
    uri = trained(OneOutput(flat=flat), DtoolDataModule(heights.uri, target="height", test_split=0.5), tmp_path)
    found = quietly(uri, new.uri, cls=OneOutput, metrics=metric_names("regression"), into=tmp_path)
    assert (found.task, found.classes, found.confusion, found.per_class) == ("regression", None, None, {})
    header, *lines = rows(found.dataset_uri)
    assert header == ["item", "target", "prediction"]
    truth, predicted = (np.array([line[column] for line in lines], dtype=np.float64) for column in (1, 2))
    overlay = new.overlay("height")
    assert truth == pytest.approx([float(overlay[new.item(line[0]).identifier]) for line in lines], rel=1e-6)
    ranks = [
        np.array([(values < value).sum() + (values <= value).sum() for value in values])
        for values in (truth, predicted)
    ]
    assert found.metrics == pytest.approx(
        {
            "mse": sk.mean_squared_error(truth, predicted),
            "rmse": sk.mean_squared_error(truth, predicted) ** 0.5,
            "mae": sk.mean_absolute_error(truth, predicted),
            "r2": sk.r2_score(truth, predicted),
            "pearson": np.corrcoef(truth, predicted)[0, 1],
            "spearman": np.corrcoef(*ranks)[0, 1],
        }
    )
    items = {item.relpath for item in FrozenDataset.from_uri(found.dataset_uri).items.values()}
    assert items == {"metrics.json", "predictions.csv"}


def test_numbers_for_a_classifier_and_classes_for_a_regression_are_refused(
    checkpoint: str, new_data: FrozenDataset, tmp_path: Path
) -> None:
    heights = table(tmp_path, "heights", 0)
    with pytest.raises(LightningDtoolError, match=r"none of the classes|its targets are numbers"):
        evaluate(checkpoint, heights.uri, target="height")
    uri = trained(OneOutput(), DtoolDataModule(heights.uri, target="height"), tmp_path, epochs=1)
    with pytest.raises(ConfigurationError, match=r"the classes 'elm', 'fir', 'oak', but .* trained on numbers"):
        quietly(uri, new_data.uri, cls=OneOutput, target="category")


def test_metrics_of_a_regression_with_several_outputs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 8)).astype(np.float32)
    with DatasetWriter("arrays", tmp_path) as writer:
        writer.put_bytes(npy(x), "data.npy")
        writer.put_bytes(npy(x[:, :3] * 2), "labels.npy")
        arrays = writer.commit()
    uri = trained(Several(), DtoolDataModule(arrays.uri), tmp_path, epochs=1)
    found = quietly(uri, arrays.uri, cls=Several, metrics="mse,r2,spearman", into=tmp_path)
    header, *lines = rows(found.dataset_uri)
    assert header == ["item", *(f"{column}_{n}" for column in ("target", "prediction") for n in range(3))]
    assert lines[7][0] == "data.npy[7]"
    values = np.array([line[1:] for line in lines], dtype=np.float64)
    assert found.metrics["mse"] == pytest.approx(sk.mean_squared_error(values[:, :3], values[:, 3:]))
    assert found.metrics["r2"] == pytest.approx(sk.r2_score(values[:, :3], values[:, 3:]))


class Several(TinyNet):
    """A regression of three numbers."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self(batch[0]), batch[1])


def test_rows_of_arrays_are_evaluated(arrays: str, tmp_path: Path) -> None:
    uri = trained(TinyNet(), DtoolDataModule(arrays, test_split=0.25), tmp_path, epochs=1)
    found = evaluate(uri, arrays)
    assert (found.part, found.count, found.training_items, found.classes) == ("test", 6, 0, ["0", "1", "2"])

    def other(labels: list[int], name: str) -> str:
        with DatasetWriter(name, tmp_path) as writer:
            writer.put_bytes(npy(np.ones((len(labels), 8), np.float32)), "data.npy")
            writer.put_bytes(npy(labels), "labels.npy")
            return writer.commit().uri

    assert evaluate(uri, other([2, 2, 0], "some")).per_class["2"]["count"] == 2
    with pytest.raises(DecodeError, match="class 7 with the number 7"):
        evaluate(uri, other([2, 7], "more"))


# -- unsupported outputs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda y: {"logits": y}, r"forward returned a dict with the keys 'logits'.*cls="),
        (lambda y: (y, y), r"forward returned a tuple of 2 \(a tensor"),
        (lambda y: y.numpy(), "a ndarray"),
        (lambda y: None, "a NoneType"),
        (lambda y: y.argmax(1), "int64.*floating-point scores"),
        (lambda y: y[:, :, None, None], r"\(16, 3, 1, 1\)"),
        (lambda y: y.mean(), r"shape \(\)"),
        (lambda y: y[:, :0], r"\(16, 0\)"),
        (lambda y: y[1:], "expected one output per target"),
        (lambda y: y[:, 0], "1 scores for each sample.*3 classes"),
        (lambda y: y[:, :2], "class number 2, but the model has outputs for 0 to 1"),
        (lambda y: y * float("nan"), "NaN for 90 of 90 samples, the first of them elm/"),
        (lambda y: y if len(y) == 16 else y[:, :2], "expected the same number for every sample"),
        (lambda y: y @ torch.ones(7, 7), "forward failed.*RuntimeError.*eval_transform"),
    ],
)
def test_an_unsupported_output_is_an_error(
    checkpoint: str, new_data: FrozenDataset, output: Callable[[torch.Tensor], Any], message: str
) -> None:
    class Odd(TinyNet):
        def forward(self, x: torch.Tensor) -> Any:
            return output(super().forward(x))

    with pytest.raises(EvaluationError, match=message):
        evaluate(checkpoint, new_data.uri, cls=Odd)


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        (lambda samples: {"x": torch.stack([x for x, _ in samples])}, "found a dict with the keys 'x'"),
        (lambda samples: torch.utils.data.default_collate(samples[:1]), "an output for each of 90 samples, found"),
        (lambda samples: torch.utils.data.default_collate(samples * 2), "expected the same number for every sample"),
        (lambda samples: [torch.stack([x for x, _ in samples]), torch.tensor(1)], "expected one output per target"),
    ],
)
def test_an_unsupported_batch_is_an_error(
    checkpoint: str, new_data: FrozenDataset, collate: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(checkpoint, new_data.uri, collate_fn=collate)


def test_outputs_without_a_class_are_named_by_their_number(checkpoint: str, new_data: FrozenDataset) -> None:
    class Wide(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(super().forward(x), (0, 1), value=-9.0)

    assert quietly(checkpoint, new_data.uri, cls=Wide).classes == [*CLASSES, "output 3"]


def test_probabilities_are_recognised(checkpoint: str, new_data: FrozenDataset) -> None:
    class WithSoftmax(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).softmax(1)

    class WithSigmoid(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).sigmoid()

    logits = evaluate(checkpoint, new_data.uri)
    found = quietly(checkpoint, new_data.uri, cls=WithSoftmax)
    assert (logits.output, found.output) == ("logits", "probabilities")
    assert found.metrics == pytest.approx(logits.metrics)
    with pytest.warns(ProvenanceWarning, match="do not add up to 1"):
        assert evaluate(checkpoint, new_data.uri, cls=WithSigmoid).output == "logits"


def test_a_target_transform_that_renumbers_replaces_class_names(checkpoint: str, new_data: FrozenDataset) -> None:
    with pytest.warns(ProvenanceWarning, match="the new numbers stand for the names"):
        found = evaluate(checkpoint, new_data.uri, target_transform=lambda number: 2 - number)
    assert found.classes == ["0", "1", "2"]
    assert evaluate(checkpoint, new_data.uri, target_transform=int).classes == list(CLASSES)


def test_a_model_in_half_precision_is_evaluated(checkpoint: str, new_data: FrozenDataset) -> None:
    class Half(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).bfloat16()

    assert quietly(checkpoint, new_data.uri, cls=Half).count == len(new_data.items)


# -- what is stored -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(checkpoint: str, new_data: FrozenDataset, folder: Path) -> Any:
    return evaluate(checkpoint, new_data.uri, into=folder / "data")


def test_the_stored_result_refers_to_checkpoint_and_data(stored: Any, checkpoint: str, new_data: FrozenDataset) -> None:
    dataset, model = FrozenDataset.from_uri(stored.dataset_uri), DtoolCheckpoint.from_uri(checkpoint)
    dataset.verify()
    assert dataset.annotation("source_dataset_uuid") == [model.uuid, new_data.uuid]
    assert dataset.annotation("source_dataset_uri") == [checkpoint, new_data.uri]
    assert dataset.annotation("source_dataset_name") == [model.name, new_data.name]
    assert dataset.annotation("evaluated_checkpoint_uri") == checkpoint
    assert dataset.annotation("metrics") == stored.metrics
    assert dataset.annotation("model_name") == "TinyNet"
    assert "lightning-evaluation" in dataset.tags()
    assert dataset.name.startswith(f"evaluation-{model.name[:10]}")
    assert new_data.name in dataset.name
    relpaths = [item.relpath for item in dataset.items.values()]
    assert relpaths == ["confusion_matrix.csv", "confusion_matrix.png", "metrics.json", "predictions.csv"]


def test_the_stored_items_equal_the_result(stored: Any) -> None:
    dataset = FrozenDataset.from_uri(stored.dataset_uri)
    content = dataset.read_bytes(dataset.item("metrics.json").identifier)
    assert json.loads(content, parse_constant=pytest.fail) == stored.to_dict()
    assert json.loads(stored.to_json()) == stored.to_dict()
    header, *lines = rows(stored.dataset_uri, "confusion_matrix.csv")
    assert header == ["true / predicted", *CLASSES]
    assert [[int(cell) for cell in line[1:]] for line in lines] == stored.confusion
    readme = yaml.safe_load(dataset.readme())
    assert readme["metrics"] == stored.metrics
    assert readme["data"]["of_these_trained_on"] == 0
    assert set(readme["items"]) == {item.relpath for item in dataset.items.values()}


def test_stored_predictions_are_exact(stored: Any, checkpoint: str, new_data: FrozenDataset) -> None:
    from lightning_dtool import DtoolDataset

    module = DtoolCheckpoint.from_uri(checkpoint).load_module().eval()
    inputs = torch.stack([x for x, _ in (DtoolDataset(new_data.uri)[n] for n in range(len(new_data.items)))])
    with torch.no_grad():
        expected = module(inputs).softmax(1)
    found = np.array([line[3:] for line in rows(stored.dataset_uri)[1:]], dtype=np.float32)
    # Results may differ in the last bit if the batch size differs.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    assert found.dtype == np.float32


def test_the_confusion_matrix_is_stored_as_a_picture(stored: Any) -> None:
    dataset = FrozenDataset.from_uri(stored.dataset_uri)
    with Image.open(dataset.path(dataset.item("confusion_matrix.png").identifier)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_dtool_reads_the_stored_result(stored: Any) -> None:
    def dtool(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "dtool"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "predictions.csv" in dtool("ls", stored.dataset_uri)
    assert "All good" in dtool("verify", "-f", stored.dataset_uri)
    assert "TinyNet" in dtool("readme", "show", stored.dataset_uri)
    assert "accuracy" in dtool("annotation", "get", stored.dataset_uri, "metrics")


def test_without_matplotlib_all_but_the_picture_is_stored(
    checkpoint: str, new_data: FrozenDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(ProvenanceWarning, match=r"lightning-dtool\[report\]"):
        found = evaluate(checkpoint, new_data.uri, into=tmp_path)
    dataset = FrozenDataset.from_uri(found.dataset_uri)
    relpaths = {item.relpath for item in dataset.items.values()}
    assert relpaths == {"confusion_matrix.csv", "metrics.json", "predictions.csv"}
    assert "confusion_matrix.png" not in yaml.safe_load(dataset.readme())["items"]


def test_a_result_that_cannot_be_stored_leaves_nothing_behind(
    checkpoint: str, new_data: FrozenDataset, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(StoreError):
            evaluate(checkpoint, new_data.uri, into=tmp_path)
        tmp_path.chmod(0o700)
    with pytest.raises(DecodeError):
        evaluate(checkpoint, new_data.uri, into=tmp_path, eval_transform=lambda x: x.nonsense)
    assert list(tmp_path.iterdir()) == []


def test_code_from_a_checkpoint_runs_only_on_trust(
    new_data: FrozenDataset, data: FrozenDataset, tmp_path: Path
) -> None:
    """The class was defined in a script and is only in source.zip, as is that of an object that needs unpickling."""
    (tmp_path / "models").mkdir()
    script = tmp_path / "train.py"
    script.write_text(
        "import collections, sys; sys.path.insert(0, sys.argv[1])\n"
        "import lightning as L\n"
        "from kit import TinyNet, trainer\n"
        "from pathlib import Path\n"
        "from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback\n"
        "class Table(dict):\n    pass\n"
        "class Config:\n    table = Table()\n    def __init__(self): self.chain = collections.ChainMap()\n"
        "class Net(TinyNet):\n    def __init__(self, config):\n        super().__init__()\n"
        "        self.save_hyperparameters()\n"
        "provenance = DtoolProvenanceCallback('models')\n"
        "if __name__ == '__main__':\n"
        "    trainer(Path('.'), provenance, max_epochs=1).fit(\n"
        "        Net(Config()), DtoolDataModule(sys.argv[2], test_split=0.2))\n"
        "    print(provenance.last_uri)\n"
    )
    done = programs.run(script, Path(__file__).parents[1], data.uri, cwd=tmp_path)
    uri = done.stdout.strip().splitlines()[-1]
    with pytest.raises(ModuleLoadError, match="trust_source"):
        evaluate(uri, new_data.uri)
    assert quietly(uri, new_data.uri, trust_source=True).count == len(new_data.items)


def test_the_command_line_imports_the_users_model_from_its_folder_and_no_library(
    new_data: FrozenDataset, data: FrozenDataset, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "own_layers.py").write_text("WIDTH = 3\n")
    (tmp_path / "own_net.py").write_text(
        "import own_layers\nfrom kit import TinyNet\n"
        "class Net(TinyNet):\n    def forward(self, x):\n        return super().forward(x)[:, :own_layers.WIDTH]\n"
    )
    (tmp_path / "train.py").write_text(
        "import sys; sys.path.append(sys.argv[1])\n"
        "from kit import trainer\nfrom own_net import Net\nfrom pathlib import Path\n"
        "from lightning_dtool import DtoolDataModule, DtoolProvenanceCallback\n"
        "provenance = DtoolProvenanceCallback('models')\n"
        "trainer(Path('.'), provenance, max_epochs=1).fit(Net(), DtoolDataModule(sys.argv[2], test_split=0.2))\n"
        "print(provenance.last_uri)\n"
    )
    tests = Path(__file__).parents[1]
    uri = programs.run(tmp_path / "train.py", tests, data.uri, cwd=tmp_path).stdout.strip().splitlines()[-1]
    for name in ("json", "torch", "scipy", "cupy", "lightning", "sitecustomize", "torchmetrics", "yaml", "stranger"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")

    def command(*options: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        arguments = [programs.commands() / "lightning-dtool", "evaluate", uri, "--data", new_data.uri, *options]
        environment = {**os.environ, "PYTHONPATH": str(tests)}
        return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)

    done = command()
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert command("--class", "own_net:Net").returncode == 0
    (tmp_path / "empty").mkdir()
    refused = command(folder=tmp_path / "empty")
    assert refused.returncode == 3
    for remedy in ("there is no module 'own_net'", "--class MODULE:CLASS", "PYTHONPATH", "--trust-source"):
        assert remedy in refused.stderr
    assert "load_module" not in refused.stderr
    assert command("--class", "nonsense").returncode == 2
    assert not (tmp_path / "RAN").exists()


class HeadOnly(TinyNet):
    """A model whose checkpoints hold only what was trained. Its backbone is random, as it was in training by chance."""

    def __init__(self, encoder: Any = None) -> None:
        super().__init__()
        self.strict_loading = False
        self.backbone = torch.nn.Linear(8, 8).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.backbone(x))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if "backbone" not in k}


class Complete(HeadOnly):
    """The same, whose backbone does not depend on chance."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"].update({"backbone.weight": torch.eye(8), "backbone.bias": torch.zeros(8)})


class OwnWay(HeadOnly):
    """The same, which loads checkpoints its own way."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str, **kwargs: Any) -> Any:
        return super().load_from_checkpoint(checkpoint_path, **kwargs)


@pytest.mark.filterwarnings("ignore:Found keys that are in the model state dict")
def test_a_checkpoint_without_all_weights_is_refused(
    data: FrozenDataset, new_data: FrozenDataset, folder: Path
) -> None:
    uri = trained(HeadOnly(), DtoolDataModule(data.uri), folder, epochs=1)
    for cls in (None, OwnWay):
        with pytest.raises(EvaluationError, match=r"HeadOnly|OwnWay.*: backbone.*allow_missing=True") as caught:
            quietly(uri, new_data.uri, cls=cls)
        assert caught.value.uri == uri
        with pytest.warns(ProvenanceWarning, match=r"does not hold .*backbone\.weight, backbone\.bias"):
            found = evaluate(uri, new_data.uri, cls=cls, allow_missing=True, into=folder)
        assert found.missing_keys == ["backbone.weight", "backbone.bias"]
        assert any("backbone.weight" in note for note in found.warnings)
        stored = FrozenDataset.from_uri(found.dataset_uri)
        assert stored.annotations()["evaluated_missing_weights"] == 2
    # A class that adds them when it is loaded has all of its weights.
    assert quietly(uri, new_data.uri, cls=Complete).missing_keys == []


class Larger(TinyNet):
    """A class that has more weights than the one that was trained."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strict_loading = False
        self.added = torch.nn.Linear(1, 1)


def test_weights_that_the_record_did_not_foresee_are_refused_when_missing(
    checkpoint: str, new_data: FrozenDataset
) -> None:
    assert DtoolCheckpoint.from_uri(checkpoint).record.checkpoint.missing_keys == []
    with pytest.raises(EvaluationError, match=r"all weights of Larger: added\.weight, added\.bias"):
        quietly(checkpoint, new_data.uri, cls=Larger)


def test_arguments_that_were_not_saved_can_be_given(checkpoint: str, new_data: FrozenDataset) -> None:
    class Scaled(TinyNet):
        def __init__(self, factor: float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * super().forward(x)

    with pytest.raises(ModuleLoadError, match=r"argument factor .*arguments=\{\.\.\.\}"):
        evaluate(checkpoint, new_data.uri, cls=Scaled)
    found = evaluate(checkpoint, new_data.uri, cls=Scaled, arguments={"factor": 1.0})
    assert found.metrics == evaluate(checkpoint, new_data.uri).metrics


def test_a_damaged_checkpoint_is_refused(checkpoint: str, new_data: FrozenDataset, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(str(local_path(checkpoint)), tmp_path / "copy"))
    weights = copy / "data" / "checkpoint.ckpt"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(VerificationError):
        evaluate(copy, new_data.uri)
