"""Reproduction from the URI of a checkpoint alone, after the files of its project are deleted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lightning_dtool
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.data.packing import pack
from lightning_dtool.errors import ConfigurationError
from lightning_dtool.results.reproduction import Reproduction, Verdict
from lightning_dtool.store import FrozenDataset, iter_datasets, local_path
from reproduction.runs import content, only_checkpoint, places, project, train


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of a checkpoint of a seeded training whose project is deleted."""
    folder = tmp_path_factory.mktemp("seeded")
    made, (models,) = project(folder, "seeded.py"), places(folder, "models")
    train(made, "seeded.py", str(models), "trace")
    shutil.rmtree(made)
    return only_checkpoint(models)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return the URI of a checkpoint that was trained on images, and the folder of the images' dataset."""
    folder = tmp_path_factory.mktemp("images")
    made, (models,) = project(folder, "on_images.py"), places(folder, "models")
    pack(image_folder(folder / "pictures"), str(made), name="leaves")
    train(made, "on_images.py", str(models), fresh=False, OMP_NUM_THREADS="1")
    return only_checkpoint(models), made / "leaves"


def folder_of(uri: str) -> Path:
    folder = local_path(uri)
    assert folder is not None
    return folder


def image_folder(folder: Path, changed: bool = False) -> Path:
    numbers = np.random.default_rng(0)
    for number in range(64):
        place = folder / ("oak" if number % 2 else "elm")
        place.mkdir(parents=True, exist_ok=True)
        pixels = numbers.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        if changed and number == 5:
            pixels[0, 0, 0] ^= 255
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@dataclass(frozen=True)
class Rerun:
    """A rerun, its progress messages, and the files of the original before the rerun."""

    found: Reproduction
    messages: list[str]
    before: dict[str, bytes]


@pytest.fixture(scope="module")
def traced(seeded: str, tmp_path_factory: pytest.TempPathFactory) -> Rerun:
    """Return a traced rerun of the seeded training."""
    before, messages = content(folder_of(seeded)), []
    found = lightning_dtool.reproduce(
        seeded, into=tmp_path_factory.mktemp("traced") / "into", trace=True, progress=messages.append
    )
    return Rerun(found, messages, before)


def test_a_seeded_training_is_reproduced_bitwise_in_another_process(seeded: str, traced: Rerun) -> None:
    found = traced.found
    assert found.verdict is Verdict.IDENTICAL, found
    assert found.successful
    assert found.comparison is not None
    assert found.comparison.identical
    assert found.factors == ()
    assert found.rerun is not None
    again = DtoolCheckpoint.from_uri(found.rerun.uri)
    again.verify()
    assert again.record.lineage.reproduces == found.original
    assert again.annotations["reproduces_uuid"] == found.original.uuid
    assert again.annotations["run_status"] == "finished"
    assert again.dataset.readme().count(again.uri)
    assert "lightning-dtool-rerun" not in again.dataset.readme()
    assert any("epoch 1" in text for text in traced.messages)
    assert traced.before
    assert content(folder_of(seeded)) == traced.before


def test_the_stored_verdict_refers_to_original_and_rerun(traced: Rerun) -> None:
    found = traced.found
    assert found.uri is not None
    assert found.rerun is not None
    kept = FrozenDataset.from_uri(found.uri)
    assert kept.tags() == ["lightning-reproduction"]
    assert kept.annotation("verdict") == "identical"
    assert kept.annotation("source_dataset_uuid") == [found.original.uuid, found.rerun.uuid]
    stored = json.loads(kept.path(kept.item("verdict.json").identifier).read_text())
    assert stored["verdict"] == "identical"
    assert stored["uri"] == kept.uri
    assert stored["metrics"][0]["recorded"] == stored["metrics"][0]["rerun"]
    assert "Seed set to 1" in kept.path(kept.item("log.txt").identifier).read_text()
    assert found.step == "no step differs"  # the recorded training was traced as well


@pytest.mark.usefixtures("forked")
def test_a_second_fit_of_the_same_module_is_reproduced_with_the_first(tmp_path: Path) -> None:
    made, models = project(tmp_path, "two_phases.py", "unseeded.py"), places(tmp_path, "first", "second")
    train(made, "two_phases.py", *map(str, models), fresh=False)
    first, second = map(only_checkpoint, models)
    record = DtoolCheckpoint.from_uri(second).record
    assert record.model.initial_weights is not None
    assert record.model.initial_weights.origin == "continued"
    assert record.lineage.parent_checkpoint is not None
    assert record.lineage.parent_checkpoint.uri == first
    found = lightning_dtool.reproduce(second, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    assert found.factors == ()


@pytest.mark.usefixtures("forked")
def test_an_unseeded_training_is_reproduced(tmp_path: Path) -> None:
    made, models = project(tmp_path, "unseeded.py"), places(tmp_path, "first", "second")
    train(made, "unseeded.py", *map(str, models), fresh=False)
    shutil.rmtree(made)
    uri = only_checkpoint(models[1])
    record = DtoolCheckpoint.from_uri(uri).record
    assert record.run.fit_index == 1
    assert record.randomness.repeatable_by == "states"
    assert record.randomness.global_seed is None

    found = lightning_dtool.reproduce(uri, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    assert len(list(models[0].iterdir())) == 1  # the checkpoints of the rerun's first fit are elsewhere


@pytest.mark.usefixtures("forked")
def test_a_missing_file_is_named_even_if_the_script_hides_the_error(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path, "reads_a_file.py"), places(tmp_path, "models")
    (made / "settings.txt").write_text("0.1")
    train(made, "reads_a_file.py", str(models), fresh=False)

    found = lightning_dtool.reproduce(only_checkpoint(models), into=tmp_path / "into")
    assert found.verdict is Verdict.COULD_NOT_RUN
    assert not found.successful
    assert "settings.txt" in found.reason.split("\n")[0]
    assert "this project is not set up" in found.reason
    (kept,) = iter_datasets(str(tmp_path / "into"))
    assert kept.uri == found.uri
    assert kept.annotation("verdict") == "could not run"


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("before", "after", "factor"),
    [
        ("lr: float = 0.01", "lr: float = 0.02", "optimizers[0].param_groups[0].options.lr: 0.01 -> 0.02"),
        pytest.param("nn.ReLU()", "nn.Tanh()", "code.files[seeded.py]", marks=pytest.mark.slow),
    ],
    ids=["learning rate", "a line of code"],
)
def test_changed_code_gives_a_different_model(
    seeded: str, tmp_path: Path, before: str, after: str, factor: str
) -> None:
    made = project(tmp_path, "seeded.py")
    text = (made / "seeded.py").read_text()
    assert before in text
    (made / "seeded.py").write_text(text.replace(before, after))

    found = lightning_dtool.reproduce(seeded, into=tmp_path / "into", source=made)
    assert found.verdict is Verdict.DIFFERENT
    for expected in (factor, "code.files[seeded.py]"):
        assert any(line.startswith(expected) for line in found.factors), found.factors
    assert found.first_difference is not None
    assert found.first_difference.startswith("epoch 0")
    assert any("1 recorded files differ" in note for note in found.notes)


@pytest.mark.slow
def test_the_first_different_step_of_changed_code_is_named(seeded: str, tmp_path: Path) -> None:
    made = project(tmp_path, "seeded.py")
    text = (made / "seeded.py").read_text()
    # The change takes effect at the third step, so all that is recorded before training is equal.
    changed = text.replace("        return loss\n", "        return loss * (2 if self.global_step == 2 else 1)\n")
    (made / "seeded.py").write_text(changed)

    found = lightning_dtool.reproduce(seeded, into=tmp_path / "into", source=made, trace=True)
    assert found.verdict is Verdict.DIFFERENT
    assert (
        found.step
        == "first difference from the recorded training at epoch 0, step 3: parameter layers.0.weight and 3 more"
    )


@pytest.mark.usefixtures("forked")
def test_data_at_a_relative_path_is_found(images: tuple[str, Path], tmp_path: Path) -> None:
    found = lightning_dtool.reproduce(images[0], into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    recalls = {row.name: row for row in found.metrics if row.name.startswith("recall")}
    assert set(recalls) == {"recall[elm]", "recall[oak]"}
    assert all(row.recorded == row.rerun for row in recalls.values())


@pytest.mark.slow
def test_moved_data_is_found_by_its_uuid(images: tuple[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "archive" / "leaves"
    shutil.copytree(images[1], moved)
    hidden = images[1].rename(images[1].with_name("gone"))
    try:
        lost = lightning_dtool.reproduce(images[0], into=tmp_path / "into")
        assert lost.verdict is Verdict.COULD_NOT_RUN
        assert str(images[1]) in lost.reason
        found = lightning_dtool.reproduce(images[0], into=tmp_path / "into", search=[str(moved.parent)])
    finally:
        hidden.rename(images[1])
    assert found.verdict is Verdict.IDENTICAL, found
    assert any(str(moved) in note for note in found.notes)


@pytest.mark.usefixtures("forked")
def test_a_changed_image_is_named(images: tuple[str, Path], tmp_path: Path) -> None:
    places(tmp_path, "data")
    other = pack(image_folder(tmp_path / "pictures", changed=True), str(tmp_path / "data"), name="leaves")
    uuid = FrozenDataset.from_uri(str(images[1])).uuid

    found = lightning_dtool.reproduce(images[0], into=tmp_path / "into", data={uuid: other})
    assert found.verdict is Verdict.DIFFERENT
    assert found.factors[0].startswith("data.stages"), found.factors
    assert any(other in note for note in found.notes)


def test_an_image_that_was_changed_in_place_is_found_before_anything_runs(
    images: tuple[str, Path], tmp_path: Path
) -> None:
    file = images[1] / "data" / "oak" / "1.png"
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        found = lightning_dtool.reproduce(images[0], into=tmp_path / "into")
    finally:
        file.write_bytes(before)
    assert found.verdict is Verdict.COULD_NOT_RUN
    assert "oak/1.png" in found.reason
    assert found.rerun is None


def test_a_replacing_dataset_is_verified_before_anything_runs(images: tuple[str, Path], tmp_path: Path) -> None:
    places(tmp_path, "data")
    other = pack(image_folder(tmp_path / "pictures"), str(tmp_path / "data"), name="leaves")
    file = folder_of(other) / "data" / "oak" / "1.png"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")

    found = lightning_dtool.reproduce(images[0], into=tmp_path / "into", data={"leaves": other})
    assert found.verdict is Verdict.COULD_NOT_RUN
    assert "oak/1.png" in found.reason
    assert found.rerun is None


@pytest.mark.usefixtures("forked")
def test_exchanged_labels_are_named(images: tuple[str, Path], tmp_path: Path) -> None:
    file = images[1] / ".dtool" / "overlays" / "category.json"
    before = file.read_text()
    file.write_text(json.dumps({key: {"oak": "elm", "elm": "oak"}[value] for key, value in json.loads(before).items()}))
    try:
        found = lightning_dtool.reproduce(images[0], into=tmp_path / "into")
    finally:
        file.write_text(before)
    assert found.verdict is Verdict.DIFFERENT
    assert any(factor.startswith("data.stages.train[leaves].targets_digest") for factor in found.factors), found.factors


@pytest.mark.slow
def test_another_number_of_threads_is_named_as_a_factor(images: tuple[str, Path], tmp_path: Path) -> None:
    found = lightning_dtool.reproduce(images[0], into=tmp_path / "into", threads=2)
    assert found.verdict is Verdict.DIFFERENT
    assert any("num_threads: 1 -> 2" in line for line in found.factors), found.factors


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of a checkpoint of a resumed training whose files are deleted."""
    folder = tmp_path_factory.mktemp("resumed")
    made, (models, checkpoints) = project(folder, "resumable.py"), places(folder, "models", "checkpoints")
    for epochs in ("1", "3"):
        train(made, "resumable.py", str(models), str(checkpoints), epochs, fresh=False)
    shutil.rmtree(made)
    shutil.rmtree(checkpoints)
    last = max((dataset for dataset in iter_datasets(str(models))), key=lambda dataset: dataset.annotation("epoch"))
    assert DtoolCheckpoint.from_uri(last.uri).record.lineage.parent_checkpoint is not None
    return last.uri


@pytest.mark.usefixtures("forked")
def test_a_resumed_training_is_reproduced_with_its_parent(resumed: str, tmp_path: Path) -> None:
    found = lightning_dtool.reproduce(resumed, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    assert any("reproduced parent, which is identical" in note for note in found.notes)
    assert not (folder_of(resumed).parents[1] / "checkpoints").exists()


@pytest.mark.slow
def test_a_resumed_training_is_reproduced_from_the_recorded_parent(resumed: str, tmp_path: Path) -> None:
    found = lightning_dtool.reproduce(resumed, into=tmp_path / "into", from_="parent")
    assert found.verdict is Verdict.IDENTICAL, found
    assert any("resumed from the recorded parent" in note for note in found.notes)


@pytest.mark.slow
def test_a_checkpoint_inside_an_epoch_is_reproduced_in_new_folders(tmp_path: Path) -> None:
    made, (models, outputs) = project(tmp_path, "in_the_middle.py", "seeded.py"), places(tmp_path, "models", "outputs")
    train(made, "in_the_middle.py", str(models), str(outputs))
    before = content(outputs)
    datasets = {(data.annotation("global_step"), data.name): data for data in iter_datasets(str(models))}
    (eighth,) = [data for (step, _), data in datasets.items() if step == 8]
    found = lightning_dtool.reproduce(eighth.uri, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    assert found.comparison is not None
    assert found.comparison.identical

    # The present code saves no checkpoint at this step, but the rerun still reaches the moment.
    text = (made / "in_the_middle.py").read_text()
    (made / "in_the_middle.py").write_text(text.replace("[by_step, by_metric, ", "[by_metric, "))
    found = lightning_dtool.reproduce(eighth.uri, into=tmp_path / "into", source=made)
    assert found.verdict is Verdict.IDENTICAL, found
    assert content(outputs) == before


@pytest.mark.slow
def test_a_checkpoint_saved_after_the_last_fit_is_reproduced(tmp_path: Path) -> None:
    made, (models,) = project(tmp_path, "saves_at_the_end.py", "seeded.py"), places(tmp_path, "models")
    train(made, "saves_at_the_end.py", str(models))
    shutil.rmtree(made)
    (last,) = [
        data.uri
        for data in iter_datasets(str(models))
        if DtoolCheckpoint.from_uri(data.uri).record.checkpoint.filename == "final.ckpt"
    ]
    record = DtoolCheckpoint.from_uri(last).record
    assert record.run.fit_index == 1
    assert record.lineage.parent_checkpoint is not None
    found = lightning_dtool.reproduce(last, into=tmp_path / "into")
    assert found.verdict is Verdict.IDENTICAL, found
    # ModelCheckpoint had deleted the parent.
    assert any("an earlier fit of the script may make it" in note for note in found.notes)


@pytest.mark.parametrize("killed", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_killed_reproduction_leaves_nothing_behind(seeded: str, tmp_path: Path, killed: signal.Signals) -> None:
    (temporary,) = places(tmp_path, "temporary")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    code = "import sys, lightning_dtool; lightning_dtool.reproduce(sys.argv[1], into=sys.argv[2])"
    reports = lambda: list(temporary.glob("lightning-dtool-rerun-*/rerun/report.jsonl"))  # noqa: E731
    command = [sys.executable, "-c", code, seeded, str(tmp_path / "into")]
    with subprocess.Popen(command, env=environment) as process:
        try:
            _wait(lambda: bool(reports()) and "started" in reports()[0].read_text())
            plan = json.loads(reports()[0].with_name("plan.json").read_text())
            assert plan["parent_process"] == process.pid
            process.send_signal(killed)
            process.wait(180)
        finally:
            process.kill()

    assert list(iter_datasets(str(tmp_path / "into"))) == []
    assert not [path for path in (tmp_path / "into").iterdir() if not path.name.startswith(".")]
    _wait(lambda: not _mentions(str(temporary)))
    if killed is signal.SIGTERM:
        assert not reports()


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _mentions(text: str) -> list[int]:
    """Return the processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in entry.read_bytes().decode(errors="replace"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def test_invalid_options_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigurationError, match="runs=2: expected"):
        lightning_dtool.reproduce("/nowhere", runs=2)


def test_a_result_says_whether_it_succeeded(seeded: str) -> None:
    reference = DtoolCheckpoint.from_uri(seeded).record.lineage.reproduces
    assert reference is None
    original = lightning_dtool.record.DatasetReference(uri="u", uuid="i", name="n", content_digest="sha256:0")
    assert Reproduction(Verdict.WITHIN_TOLERANCE, "", original).successful
    assert not Reproduction(Verdict.DIFFERENT, "", original).successful
