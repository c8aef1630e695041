"""The checklist: a record checked against published guidelines, with a remedy for each failure."""

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from lightning_dtool.record import (
    Code,
    Data,
    DatasetReference,
    DataSource,
    Environment,
    Epoch,
    Gap,
    Git,
    InitialWeights,
    Lineage,
    Loader,
    Loss,
    LossCall,
    MetricObject,
    Metrics,
    Model,
    Monitor,
    Optimizer,
    ParameterGroup,
    Provenance,
    Randomness,
    Trainer,
    WeightsSource,
    from_json,
    to_json,
)
from lightning_dtool.results.checklist import DataDescription, Finding, Status, by_group, check, failed
from record.samples import record

PASS, FAIL, NOT_APPLICABLE = Status.PASS, Status.FAIL, Status.NOT_APPLICABLE
NOT_CHECKED, NOT_IN_RECORD = Status.NOT_CHECKED, Status.NOT_IN_RECORD

LEAVES = DatasetReference(uri="s3://lab/leaves", uuid="uuid-leaves", name="leaves", content_digest="sha256:leaves")
OTHERS = DatasetReference(uri="file://host/data/x", uuid="uuid-x", name="others", content_digest="sha256:x")
DESCRIBED = DataDescription(
    uri=LEAVES.uri,
    uuid=LEAVES.uuid,
    content_digest=LEAVES.content_digest,
    readme={"description": "Leaves of 12 trees"},
    overlays=["category"],
)
ITEMS = {"checkpoint.ckpt", "provenance.json", "source.zip", "requirements.txt", "random_states.json"}


def complete(**parts: Any) -> Provenance:
    """Return a complete record. Each of `parts` replaces a section."""

    def source(digest: str) -> DataSource:
        return DataSource(
            dataset=LEAVES, count=80, selection_digest=digest, loader=Loader(class_path="a:B", num_workers=2),
            transforms={"transform": {"type": "a:Resize"}},
        )  # fmt: skip

    sections: dict[str, Any] = {
        "checkpoint": record().checkpoint.model_copy(update={"monitors": [Monitor(name="val_loss", mode="min")]}),
        "model": Model(
            class_path="leaves.net:LeafNet",
            hyperparameters={"lr": 0.1},
            initial_weights=InitialWeights(origin="script", seeded=True, digest="sha256:0123456789abcdef"),
        ),
        "loss": Loss(calls=[LossCall(name="torch.nn.functional:cross_entropy", kind="function")]),
        "optimizers": [Optimizer(class_path="a:SGD", defaults={}, param_groups=[GROUP])],
        "data": Data(
            stages={"train": [source("1")], "val": [source("2")], "test": [source("3")]}, order={"0": "sha256:1"}
        ),
        "randomness": Randomness(
            global_seed=1,
            seed_workers=True,
            states={"fit_start": {"torch": "1"}},
            flags={"deterministic_algorithms": True},
        ),
        "trainer": Trainer(settings={"max_epochs": 1}),
        "environment": Environment(
            python="3.11", platform="Linux", versions={"torch": "2.6"}, cpu="A CPU", cpu_count=2, memory_bytes=2**33
        ),
        "code": Code(
            argv=["train.py"],
            working_directory="/home/ada",
            entry_point="train.py",
            git=Git(commit="3f786850e387550fdab836ed7e6dc881de23001b", dirty=True),
            patch="changes.patch",
            untracked=["leaves/new.py"],
            files={"train.py": "1", "leaves/net.py": "2", "leaves/new.py": "3"},
            modules={"__main__": "train.py", "leaves.net": "leaves/net.py"},
        ),
        "metrics": Metrics(at_checkpoint={"val_loss": 0.5}, history=[Epoch(epoch=0, global_step=6, seconds=1.0)]),
        "lineage": Lineage(source_datasets=[LEAVES]),
    }
    return record(**{**sections, **parts})


GROUP = ParameterGroup(options={"lr": 0.1}, parameters=["weight"])


def finding(key: str, of: Provenance, data: list[DataDescription] | None = None, items: Any = ITEMS) -> Finding:
    found = next(found for found in check(of, [DESCRIBED] if data is None else data, items) if found.key == key)
    assert found.found
    assert bool(found.remedy) == (found.status in (FAIL, NOT_CHECKED, Status.PARTLY))
    return found


def changed(section: str, **fields: Any) -> Provenance:
    return complete(**{section: getattr(complete(), section).model_copy(update=fields)})


def test_a_complete_record_fails_nothing() -> None:
    findings = check(complete(), [DESCRIBED], ITEMS)
    assert failed(findings) == []
    assert {found.status for found in findings} == {PASS, NOT_IN_RECORD}
    assert all(found.found for found in findings)
    assert not any(found.remedy for found in findings)


def test_an_empty_record_fails_with_a_remedy_for_each() -> None:
    findings = check(record())
    lost = failed(findings)
    assert len(lost) > 15
    assert [found.key for found in lost if not found.remedy] == []


def test_every_record_has_the_same_points_in_order() -> None:
    keys = [found.key for found in check(complete(), [DESCRIBED], ITEMS)]
    assert keys == [found.key for found in check(record())]
    assert len(set(keys)) == len(keys)
    groups = dict(by_group(check(record())))
    assert [len(found) for found in groups.values()][:4] == [4, 5, 4, 8]
    assert [found.title for found in groups["Data (Gundersen & Kjensmo 2018)"]] == [
        "Training data", "Validation data", "Test data", "Results",
    ]  # fmt: skip


def test_points_that_only_a_paper_can_meet_are_not_in_a_record() -> None:
    for of in (complete(), record()):
        keys = {found.key for found in check(of) if found.status is NOT_IN_RECORD}
        assert keys == {
            "method.problem", "method.goal", "method.research_method", "method.research_question", "method.pseudocode",
            "experiment.hypothesis", "experiment.prediction",
        }  # fmt: skip


def test_a_migrated_record_fails_points_that_its_schema_lacked() -> None:
    content = json.loads(to_json(complete()))
    content["gaps"] = [{"fact": "loss", "reason": "an older schema did not have it", "remedy": "train again"}]
    content["loss"] = {}
    found = finding("run.loss", from_json(json.dumps(content), "s3://lab/x"))
    assert (found.status, found.remedy) == (FAIL, "train again")
    assert "an older schema did not have it" in found.found


# -- guidelines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        ([DESCRIBED], PASS, "leaves: a description, 1 overlay, 0 annotations"),
        ([], NOT_CHECKED, "its URI was not opened"),
        ([DataDescription(LEAVES.uri, problem="no network")], NOT_CHECKED, "no network"),
        (
            [DataDescription(LEAVES.uri, uuid="another", readme={"description": "x"})],
            NOT_CHECKED,
            "holds another dataset",
        ),
        ([DataDescription(LEAVES.uri, uuid=LEAVES.uuid, readme=None)], FAIL, "no description in the README of leaves"),
        ([DataDescription(LEAVES.uri, uuid=LEAVES.uuid, readme={"description": " "})], FAIL, "no description"),
        ([DataDescription(LEAVES.uri, uuid=LEAVES.uuid, readme={"owners": []})], FAIL, "no description"),
    ],
)
def test_annotation_of_the_training_data_is_checked(data: list[DataDescription], status: Status, words: str) -> None:
    found = finding("guidelines.metadata", complete(), data)
    assert found.status is status
    assert words in found.found


def test_data_without_a_dataset_fails_for_lack_of_metadata() -> None:
    assert finding("guidelines.metadata", complete(lineage=Lineage())).status is FAIL


def test_the_points_about_git_say_what_git_said() -> None:
    code = complete().code.model_copy(update={"git": None})
    gap = Gap(fact="code.git", reason="the git repository has no commit yet", remedy="commit the code")
    of = complete(code=code, gaps=[gap])
    found = finding("run.git", of)
    assert (found.status, found.found, found.remedy) == (FAIL, gap.reason, gap.remedy)
    assert (finding("run.changes", of).status, finding("run.changes", of).found) == (NOT_APPLICABLE, gap.reason)


def test_persistent_uris_are_checked() -> None:
    key = "guidelines.persistent_uris"
    found = finding(key, complete())
    assert (found.status, found.found) == (PASS, "1 dataset by URI, UUID and content digest")
    for stage in ("train", "val", "test"):
        foreign = Data(stages={"train": [DataSource(dataset=LEAVES)], stage: [DataSource(class_path="torch:Tensors")]})
        found = finding(key, complete(data=foreign))
        assert (found.status, "torch:Tensors" in found.found) == (FAIL, True)
    on_disk = finding(key, complete(data=Data(stages={"train": [DataSource(dataset=OTHERS)]})), [])
    assert on_disk.status is Status.PARTLY
    assert "1 on a disk of one machine" in on_disk.found
    assert "dtool cp" in on_disk.remedy
    assert not failed([on_disk])
    gone = DataDescription(LEAVES.uri, problem="no such dataset")
    assert finding(key, complete(), [gone]).status is NOT_CHECKED
    assert "no such dataset" in finding(key, complete(), [gone]).found
    tampered = DataDescription(LEAVES.uri, uuid=LEAVES.uuid, content_digest="sha256:other")
    assert "changed after training" in finding(key, complete(), [tampered]).found
    assert finding(key, complete(), [tampered]).status is FAIL
    replaced = DataDescription(LEAVES.uri, uuid="another", content_digest=LEAVES.content_digest)
    both = complete(data=OWN_SETS)
    assert finding(key, both, [DataDescription(OTHERS.uri, problem="no network"), replaced]).status is FAIL
    assert finding(key, both, [DataDescription(OTHERS.uri, uuid="another")]).status is FAIL  # LEAVES was not opened
    assert "now holds another dataset" in finding(key, complete(), [replaced]).found
    assert finding(key, complete(data=Data())).status is FAIL


@pytest.mark.parametrize(
    "gap", ["model.hyperparameters.act", "optimizers[0].defaults.fn", "schedulers", "trainer.settings.precision"]
)
def test_a_parameter_with_a_gap_is_not_captured(gap: str) -> None:
    of = complete(gaps=[Gap(fact=gap, reason="a lambda", remedy="name it")])
    found = finding("guidelines.captured", of)
    assert (found.status, found.found, found.remedy) == (FAIL, f"not recorded: {gap}: a lambda", "name it")
    assert finding("guidelines.captured", complete(gaps=[Gap(fact="data.x", reason="y")])).status is PASS
    # A fact whose name merely has the same prefix is a different fact.
    assert finding("guidelines.captured", complete(gaps=[Gap(fact="schedulers_x", reason="y")])).status is PASS


def test_a_checkpoint_without_the_callback_has_captured_nothing() -> None:
    found = finding("guidelines.captured", complete())
    assert (found.status, found.found.partition(", observed")[0]) == (PASS, "1 hyperparameter, 1 optimizer, 1 setting")
    assert finding("guidelines.captured", complete(optimizers=[])).status is FAIL
    assert finding("guidelines.captured", complete(trainer=Trainer())).status is FAIL


def test_storage_of_record_and_checkpoint_together_is_checked() -> None:
    key = "guidelines.stored_together"
    found = finding(key, complete())
    assert found.status is PASS
    assert "(leaves)" in found.found
    assert finding(key, complete(), items=None).status is NOT_CHECKED
    assert "provenance.json" in finding(key, complete(), items={"checkpoint.ckpt"}).found
    assert finding(key, complete(lineage=Lineage())).status is FAIL


# -- factors --------------------------------------------------------------------------------------

SEEN = Loader(class_path="a:B", num_workers=0)
NO_WORKERS = Data(stages={"train": [DataSource(dataset=LEAVES, loader=SEEN)]})
OWN_SETS = Data(stages={"train": [DataSource(dataset=LEAVES)], "val": [DataSource(dataset=OTHERS)]})
REPEATED = complete().data.model_copy(
    update={"stages": {**complete().data.stages, "test": [DataSource(dataset=LEAVES)]}}
)
ACCURACY = Metrics(objects=[MetricObject(attribute="accuracy", class_path="torchmetrics.classification:Accuracy")])
FILE = WeightsSource(kind="file", keys=["net.*"], keys_total=2, path="/net.pt", repository="lab/net", revision="3f49")
RUN = WeightsSource(kind="continued", keys=["*"], keys_total=3, run_uuid="e3a1")


def begun(origin: str, *sources: WeightsSource) -> InitialWeights:
    return InitialWeights(origin=origin, sources=list(sources), keys_total=3, digest="sha256:0123456789abcdef")


COMMIT = Git(commit="3f786850e387550fdab836ed7e6dc881de23001b", dirty=False, remote="https://git.example.org/net")
SOURCE = Model(class_path="a:B", source="class B: ...")
WHOLE_TWICE = Data(stages={"train": [DataSource(dataset=LEAVES)], "val": [DataSource(dataset=LEAVES)]})


@pytest.mark.parametrize(
    ("key", "of", "status", "words"),
    [
        ("data.train", complete(data=Data()), FAIL, "no training data"),
        ("data.train", complete(data=Data(stages={"train": [DataSource(class_path="a:B")]})), FAIL, "a:B"),
        ("data.validation", complete(data=Data(stages={})), NOT_APPLICABLE, "no such data"),
        ("data.test", complete(), PASS, "leaves (80 samples)"),
        ("data.test", complete(data=NO_WORKERS), NOT_APPLICABLE, "no such data"),
        ("data.train", complete(data=NO_WORKERS), PASS, "unknown number"),
        ("data.results", complete(metrics=Metrics()), FAIL, "no metric"),
        ("data.results", complete(), PASS, "val_loss; 1 epoch of history"),
        ("experiment.method_code", changed("code", modules={}), FAIL, "leaves.net:LeafNet"),
        ("experiment.method_code", complete(), PASS, "leaves/net.py in source.zip"),
        ("experiment.method_code", complete(code=record().code, model=SOURCE), PASS, "in the record"),
        ("experiment.experiment_code", changed("code", entry_point=None), FAIL, "not stored"),
        ("experiment.experiment_code", changed("code", files={}), FAIL, "not stored"),
        ("experiment.hardware", changed("environment", cpu=None), FAIL, "not recorded"),
        ("experiment.hardware", changed("environment", memory_bytes=None), FAIL, "not recorded"),
        ("experiment.hardware", complete(), PASS, "A CPU, 2 processors, 8.0 GiB, no accelerator"),
        ("experiment.software", complete(), PASS, "Python 3.11, torch 2.6; requirements.txt"),
        ("experiment.software", changed("environment", versions={"lightning": "2.6.1", "torch": "2.7", "x": "1"}), PASS,
         "Python 3.11, torch 2.7, lightning 2.6.1; requirements.txt"),
        ("experiment.setup", complete(loss=Loss()), FAIL, "loss"),
        ("experiment.setup", complete(gaps=[Gap(fact="loss.calls[0]", reason="r")]), FAIL, "loss.calls[0]"),
        ("experiment.evaluation", complete(), PASS, "val_loss (min)"),
        ("experiment.evaluation", complete(metrics=ACCURACY), PASS,
         "checkpoints are chosen by val_loss (min); computed by Accuracy"),
        ("experiment.evaluation", changed("checkpoint", monitors=[]), FAIL, "no monitored metric"),
        ("run.git", changed("code", git=None), FAIL, "not in a git"),
        ("run.git", changed("code", git=COMMIT), PASS, "commit 3f786850e387 of https://git.example.org/net"),
        ("run.changes", changed("code", git=None), NOT_APPLICABLE, "not in a git"),
        ("run.changes", complete(), PASS, "the patch is changes.patch in source.zip; 1 untracked file stored"),
        ("run.changes", changed("code", patch=None), FAIL, "patch is not stored"),
        ("run.changes", changed("code", untracked=["lost.py"]), FAIL, "lost.py"),
        ("run.changes", changed("code", git=Git(commit="1", dirty=None)), FAIL, "could not tell"),
        ("run.changes", changed("code", git=COMMIT, untracked=[]), PASS, "; no untracked file"),
        ("run.sources", changed("code", files={}), FAIL, "no source file"),
        ("run.sources", complete(), PASS, "3 files in source.zip"),
        ("run.sources", complete(gaps=[Gap(fact="code.files", reason="r")]), FAIL, "code.files: r"),
        ("run.sources", complete(gaps=[Gap(fact="code.modules", reason="r")]), FAIL, "code.modules: r"),
        ("run.split", complete(data=WHOLE_TWICE), FAIL, "2 of 2 data sources"),
        ("run.split", complete(data=REPEATED), FAIL, "1 of 3 data sources"),
        ("run.split", complete(), PASS, "3 data sources"),
        ("run.split", complete(data=OWN_SETS), NOT_APPLICABLE, "its own dataset"),
        ("run.split", complete(data=Data()), FAIL, "no data"),
        ("run.preprocessing", complete(), PASS, "transform"),
        ("run.preprocessing", complete(data=Data()), FAIL, "no training data"),
        ("run.preprocessing", complete(gaps=[Gap(fact="data.loader.collate_fn", reason="r")]), FAIL, "r"),
        ("run.preprocessing", complete(gaps=[Gap(fact="data.order", reason="r")]), PASS, "transform"),
        ("run.preprocessing", complete(gaps=[Gap(fact="data.stages.train[0].transforms", reason="r")]), FAIL, "r"),
        ("run.order", complete(data=NO_WORKERS), FAIL, "order"),
        ("run.order", complete(), PASS, "1 epoch"),
        ("run.initial_weights", changed("model", initial_weights=None), FAIL, "no digest"),
        ("run.initial_weights", complete(), PASS, "made by the script (seeded); sha256:0123456789ab"),
        ("run.initial_weights", changed("model", initial_weights=begun("file", FILE)), PASS,
         "from the file lab/net at 3f49 /net.pt (2 of 3 tensors); sha256:0123456789ab"),
        ("run.initial_weights", changed("model", initial_weights=begun("continued", RUN)), FAIL,
         "continued from run e3a1, which published no checkpoint"),
        ("run.initial_weights", changed("model", initial_weights=begun("continued", RUN.model_copy(
            update={"dataset": LEAVES}))), PASS, "continued from run e3a1, checkpoint leaves"),
        ("run.initial_weights", changed("model", initial_weights=begun("unknown")), FAIL, "not known"),
        ("run.initial_weights", complete(gaps=[Gap(fact="model.initial_weights.origin", reason="x is gone")]), FAIL,
         "x is gone"),
        ("run.loss", complete(), PASS, "cross_entropy"),
        ("run.loss", complete(loss=Loss(operations=["MeanBackward0"], training_step="def")), PASS, "by hand: 1 op"),
        ("run.loss", complete(loss=Loss(operations=["MeanBackward0"])), FAIL, "not recorded"),
        ("run.loss", complete(loss=Loss(), gaps=[Gap(fact="loss", reason="r")]), FAIL, "loss: r"),
        ("run.seed", changed("randomness", global_seed=None), FAIL, "no global seed"),
        ("run.seed", changed("randomness", global_seed=0), PASS, "seed_everything(0)"),
        ("run.seed", changed("randomness", global_seed=None, seeds={"torch": 1, "numpy": 2, "python": 3}), PASS,
         "torch 1, numpy 2, python 3"),
        ("run.seed", changed("randomness", seeds={"torch": 5, "numpy": 1, "python": 1}), PASS, "torch 5, numpy 1"),
        ("run.seed", complete(gaps=[Gap(fact="randomness.global_seed", reason="no seed of Python was seen")],
                              randomness=Randomness(seeds={"torch": 5})), FAIL, "no seed of Python was seen"),
        ("run.seed", changed("randomness", seeded_before_model=False), FAIL, "after the model was made"),
        ("run.worker_seeds", changed("randomness", seed_workers=False), FAIL, "not seeded"),
        ("run.worker_seeds", complete(data=NO_WORKERS, randomness=Randomness()), NOT_APPLICABLE, "no data loader"),
        ("run.states", changed("randomness", states={}), FAIL, "not recorded"),
        ("run.deterministic", changed("randomness", flags={}), FAIL, "not recorded"),
        ("run.deterministic", changed("randomness", flags={"deterministic_algorithms": False}), NOT_APPLICABLE, "not"),
        ("run.gaps", complete(gaps=[Gap(fact="x.y", reason="z")]), FAIL, "1 gap: x.y"),
    ],
)  # fmt: skip
def test_each_factor_is_checked(key: str, of: Provenance, status: Status, words: str) -> None:
    found = finding(key, of)
    assert found.status is status, found
    assert words in found.found
    assert bool(found.remedy) == (status is FAIL)


@pytest.mark.parametrize(
    "gap", ["model.hyperparameters.act", "loss", "optimizers[0].defaults", "schedulers", "trainer", "data.datamodule"]
)
def test_a_gap_in_the_setup_fails(gap: str) -> None:
    assert finding("experiment.setup", complete()).status is PASS
    found = finding("experiment.setup", complete(gaps=[Gap(fact=gap, reason="a lambda")]))
    assert (found.status, found.found) == (FAIL, f"not recorded: {gap}: a lambda")


@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_workers_and_transforms_of_every_stage_count(stage: str) -> None:
    quiet, busy = (Loader(class_path="a:B", num_workers=number) for number in (0, 2))
    plain = DataSource(dataset=LEAVES, loader=quiet)
    special = DataSource(dataset=LEAVES, loader=busy, transforms={"target_transform": {"type": "a:ToIndex"}})
    of = complete(data=Data(stages={"train": [plain], "val": [plain], "test": [plain], stage: [special]}))
    assert finding("run.preprocessing", of).found == "target_transform"
    without_seeds = of.model_copy(update={"randomness": Randomness()})
    assert finding("run.worker_seeds", without_seeds).status is FAIL


@pytest.mark.parametrize("warn_only", [{}, {"deterministic_algorithms_warn_only": True}])
def test_an_accelerator_needs_deterministic_algorithms(warn_only: dict[str, bool]) -> None:
    flags = Randomness(flags={"deterministic_algorithms": bool(warn_only), **warn_only})
    environment = complete().environment.model_copy(update={"accelerators": ["A GPU"]})
    found = finding("run.deterministic", complete(randomness=flags, environment=environment))
    assert (found.status, found.remedy) == (FAIL, "use Trainer(deterministic=True)")


@pytest.mark.parametrize(
    ("key", "item"),
    [
        ("experiment.method_code", "source.zip"),
        ("experiment.experiment_code", "source.zip"),
        ("experiment.software", "requirements.txt"),
        ("run.changes", "source.zip"),
        ("run.sources", "source.zip"),
        ("run.states", "random_states.json"),
    ],
)
def test_an_item_that_the_record_mentions_must_exist(key: str, item: str) -> None:
    assert finding(key, complete()).status is PASS
    found = finding(key, complete(), items=ITEMS - {item})
    assert (found.status, found.found) == (FAIL, f"the dataset has no {item}")


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 gap: 0"), (5, "5 gaps: 0, 1, 2, 3, 4"), (6, "6 gaps: 0, 1, 2, 3, 4 and 1 more")]
)
def test_the_first_gaps_are_named_and_the_rest_is_counted(count: int, words: str) -> None:
    gaps = [Gap(fact=str(number), reason="r") for number in range(count)]
    assert finding("run.gaps", complete(gaps=gaps)).found == words


def test_a_run_without_a_start_time_passes() -> None:
    run = complete().run.model_copy(update={"started_at": None})
    saved = complete().checkpoint.model_copy(update={"saved_at": datetime.now(timezone.utc)})
    assert failed(check(complete(run=run, checkpoint=saved), [DESCRIBED], ITEMS)) == []
