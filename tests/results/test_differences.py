"""Differences between two records: matched by meaning, and either relevant or incidental."""

from typing import Any

import pytest

from counting import counted
from lightning_dtool.record import (
    Checkpoint,
    Child,
    Component,
    Data,
    DataModule,
    DatasetReference,
    DataSource,
    Environment,
    Epoch,
    Gap,
    Lineage,
    Loss,
    LossCall,
    Metrics,
    Model,
    Optimizer,
    ParameterGroup,
    Provenance,
    Randomness,
    Run,
    Scheduler,
    Trainer,
)
from lightning_dtool.results.differences import (
    Content,
    Difference,
    checkpoint_differences,
    record_differences,
)
from lightning_dtool.results.differences.walk import MAX_DEPTH
from record.samples import record

URI = "s3://lab-models/6a1c"


def listed(a: Provenance, b: Provenance, weight: str = "matters") -> list[tuple[str, str, Any, Any]]:
    return [
        (found.path, found.kind, found.before, found.after)
        for found in record_differences(a, b)
        if found.weight == weight
    ]


def optimizer(lr: Any, **others: Any) -> Optimizer:
    group = ParameterGroup(options={"lr": lr, **others}, parameters=["weight"])
    return Optimizer(class_path="torch.optim.sgd:SGD", defaults={"lr": lr, **others}, param_groups=[group])


def reference(
    uri: str = "s3://lab/leaves", uuid: str = "u1", name: str = "leaves", digest: str = "d1"
) -> DatasetReference:
    return DatasetReference(uri=uri, uuid=uuid, name=name, content_digest=f"sha256:{digest}")


def trained_on(*datasets: DatasetReference | None, stage: str = "train", **facts: Any) -> Data:
    sources = [DataSource(dataset=dataset, class_path="lightning_dtool:DtoolDataset", **facts) for dataset in datasets]
    return Data(stages={stage: sources})


def test_a_record_does_not_differ_from_itself() -> None:
    one = record(optimizers=[optimizer(0.1)], data=trained_on(reference()))
    assert record_differences(one, one) == []


def test_a_changed_learning_rate_is_listed_once_with_its_path() -> None:
    assert listed(record(optimizers=[optimizer(0.001)]), record(optimizers=[optimizer(0.0003)])) == [
        ("optimizers[0].param_groups[0].options.lr", "changed", 0.001, 0.0003)
    ]


def test_a_default_missing_from_all_groups_is_listed() -> None:
    one, two = optimizer(0.1), optimizer(0.1).model_copy(update={"defaults": {"lr": 0.2}})
    assert listed(record(optimizers=[one]), record(optimizers=[two])) == [
        ("optimizers[0].defaults.lr", "changed", 0.1, 0.2)
    ]


@pytest.mark.parametrize(
    ("a", "b"), [(1, 1.0), (1, True), (0, False), (0.0, False), (None, ""), ("1", 1), ([1], [1.0])]
)
def test_values_of_another_type_differ(a: Any, b: Any) -> None:
    one, two = (record(trainer=Trainer(settings={"limit": value})) for value in (a, b))
    ((path, kind, before, after),) = listed(one, two)
    assert (path, kind) == ("trainer.settings.limit", "changed")
    assert (type(before), type(after)) == (type(a), type(b))


def test_a_setting_of_the_model_that_the_loss_reads_is_listed_once() -> None:
    one, two = (
        record(
            loss=Loss(constants={"ALPHA": value}),
            model=Model(class_path="a:Net", settings={"ALPHA": value, "Net.beta": value}),
        )
        for value in (1, 2)
    )
    assert [path for path, *_ in listed(one, two)] == ["model.settings[Net.beta]", "loss.constants.ALPHA"]


def test_added_and_removed_values_are_listed() -> None:
    one = record(model=Model(class_path="a:B", hyperparameters={"x": 1, "old": None}))
    two = record(model=Model(class_path="a:B", hyperparameters={"x": 1, "new.y": [2]}))
    assert listed(one, two) == [
        ("model.hyperparameters.old", "removed", None, None),
        ("model.hyperparameters[new.y]", "added", None, [2]),
    ]


def test_nested_differences_have_the_innermost_path() -> None:
    def pipeline(size: int) -> Data:
        return trained_on(reference(), transforms={"transform": {"type": "Compose", "transforms": [{"size": size}]}})

    assert listed(record(data=pipeline(32)), record(data=pipeline(64))) == [
        ("data.stages.train[leaves].transforms.transform.transforms[0].size", "changed", 32, 64)
    ]


# -- lists with an identity -----------------------------------------------------------------------


def callbacks(*names: str, **settings: Any) -> Provenance:
    return record(trainer=Trainer(callbacks=[Component(class_path=name, settings=settings) for name in names]))


def test_callbacks_are_matched_by_class_at_any_position() -> None:
    assert listed(callbacks("a:Stop"), callbacks("b:New", "a:Stop")) == [
        (
            "trainer.callbacks[b:New]",
            "added",
            None,
            {"class_path": "b:New", "state_key": None, "settings": {}, "constants": {}},
        )
    ]
    assert listed(callbacks("a:Stop", patience=3), callbacks("a:Stop", patience=5)) == [
        ("trainer.callbacks[a:Stop].settings.patience", "changed", 3, 5)
    ]


def test_another_order_is_listed_once() -> None:
    (found,) = record_differences(callbacks("a:A", "b:B", "c:C"), callbacks("c:C", "a:A", "b:B"))
    assert (found.path, found.kind) == ("trainer.callbacks", "changed")
    assert found.note == "the same elements in another order"
    assert (found.before, found.after) == (["a:A", "b:B", "c:C"], ["c:C", "a:A", "b:B"])


def test_two_callbacks_of_one_class_are_numbered_and_matched_by_state_key() -> None:
    def keep(*monitors: str) -> Provenance:
        found = [Component(class_path="l:Keep", state_key=name, settings={"monitor": name}) for name in monitors]
        return record(trainer=Trainer(callbacks=found))

    assert [found.path for found in record_differences(keep("x", "y"), keep("y", "x"))] == ["trainer.callbacks"]
    assert [found[0] for found in listed(keep("x", "y"), keep("x", "z"))] == [
        "trainer.callbacks[l:Keep #2].state_key", "trainer.callbacks[l:Keep #2].settings.monitor",
    ]  # fmt: skip


def test_the_provenance_callback_itself_does_not_matter() -> None:
    one, two = callbacks("a:A"), callbacks("a:A", "lightning_dtool:DtoolProvenanceCallback")
    assert listed(one, two) == []
    assert len(listed(one, two, "incidental")) == 1


def test_children_and_losses_are_matched_by_name() -> None:
    def child(name: str, total: int) -> Child:
        return Child(name=name, class_path="torch:Linear", parameters_total=total, parameters_trainable=0)

    def net(*children: Child) -> Provenance:
        return record(model=Model(class_path="a:B", children=list(children)))

    assert listed(net(child("head", 5), child("body", 1)), net(child("body", 2))) == [
        ("model.children[head]", "removed", child("head", 5).model_dump(), None),
        ("model.children[body].parameters_total", "changed", 1, 2),
    ]

    def loss(*smoothing: float) -> Provenance:
        calls = [LossCall(name="t:ce", kind="function", arguments={"label_smoothing": value}) for value in smoothing]
        return record(loss=Loss(calls=calls))

    assert listed(loss(0.0, 0.1), loss(0.0, 0.2)) == [
        ("loss.calls[t:ce #2].arguments.label_smoothing", "changed", 0.1, 0.2)
    ]


def test_history_is_matched_by_epoch() -> None:
    def history(*losses: float) -> Provenance:
        epochs = [
            Epoch(epoch=epoch, global_step=epoch, seconds=epoch * losses[0], metrics={"loss": loss})
            for epoch, loss in enumerate(losses)
        ]
        return record(metrics=Metrics(history=epochs))

    assert listed(history(3.0, 2.0, 1.0), history(3.0, 2.0, 1.5)) == [
        ("metrics.history[2].metrics.loss", "changed", 1.0, 1.5)
    ]
    assert [found[0] for found in listed(history(3.0), history(3.0, 2.0))] == ["metrics.history[1]"]


def test_added_and_removed_names_of_a_list_are_listed_separately() -> None:
    def frozen(*names: str) -> Provenance:
        return record(model=Model(class_path="a:B", frozen=list(names)))

    assert listed(frozen("a", "b", "c"), frozen("a", "c", "d")) == [
        ("model.frozen[b]", "removed", "b", None), ("model.frozen[d]", "added", None, "d"),
    ]  # fmt: skip
    (found,) = record_differences(frozen("a", "b"), frozen("b", "a"))
    assert found.note == "the same elements in another order"
    assert listed(frozen("a"), frozen("b")) == [("model.frozen", "changed", ["a"], ["b"])]


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "note", "weight"),
    [
        (reference(uri="file://host/copy"), "the same dataset at another URI", "same content"),
        (reference(uri="s3://lab/new", uuid="u2", name="new"), "the same content under another UUID", "same content"),
        (reference(digest="d2"), "the same UUID, but different content: one of them was changed", "matters"),
        (reference(uri="s3://lab/new", uuid="u2", digest="d2"), "another dataset", "matters"),
    ],
)
def test_data_is_compared_by_uuid_and_content(other: DatasetReference, note: str, weight: str) -> None:
    (found,) = record_differences(record(data=trained_on(reference())), record(data=trained_on(other)))
    assert (found.path, found.kind, found.weight) == ("data.stages.train[leaves].dataset", "changed", weight)
    assert (found.before, found.after) == (reference().model_dump(), other.model_dump())
    assert found.note.startswith(note)


def test_moved_data_differs_only_in_its_uri() -> None:
    def moved(uri: str, batch_size: int) -> Provenance:
        module = DataModule(class_path="a:B", arguments={"train": uri, "batch_size": batch_size})
        dataset = reference(uri=uri)
        data = trained_on(dataset).model_copy(update={"datamodule": module})
        return record(data=data, lineage=Lineage(source_datasets=[dataset]))

    found = record_differences(moved("s3://lab/a", 32), moved("file://host/b", 64))
    assert {difference.path: difference.weight for difference in found} == {
        "data.datamodule.arguments.train": "same content",
        "data.datamodule.arguments.batch_size": "matters",
        "data.stages.train[leaves].dataset": "same content",
        "lineage.source_datasets[leaves]": "same content",
    }


def test_data_is_matched_at_any_position() -> None:
    leaves, flowers = reference(), reference("s3://lab/flowers", "u9", "flowers", "d9")
    one, two = record(data=trained_on(leaves, flowers)), record(data=trained_on(flowers, leaves))
    assert [found.note for found in record_differences(one, two)] == ["the same elements in another order"]
    assert listed(record(data=trained_on(flowers)), record(data=trained_on(leaves, flowers)))[0][:2] == (
        "data.stages.train[leaves]", "added",
    )  # fmt: skip


def test_data_that_is_no_longer_a_dataset_is_a_change() -> None:
    found = listed(record(data=trained_on(reference())), record(data=trained_on(None)))
    assert [(path, kind) for path, kind, *_ in found] == [("data.stages.train[leaves].dataset", "changed")]


# -- incidental differences -----------------------------------------------------------------------


def test_two_runs_of_one_script_differ_only_incidentally() -> None:
    later = record().run.started_at.replace(year=2025)  # type: ignore[union-attr]
    two = record(
        run=Run(uuid="other", started_at=later, creator_username="bob", lightning_dtool_version="9"),
        checkpoint=Checkpoint(filename="x.ckpt", epoch=0, global_step=6, saved_at=later, weights_only=False),
        metrics=Metrics(seconds=3.0, steps_per_second=2.0, peak_memory_bytes=1, peak_accelerator_memory_bytes=1),
        environment=record().environment.model_copy(update={"scheduler": {"SLURM_JOB_ID": "7"}}),
        trainer=Trainer(settings={"default_root_dir": "/b"}),
    )
    one = record(trainer=Trainer(settings={"default_root_dir": "/a"}))
    assert listed(one, two) == []
    assert {path for path, *_ in listed(one, two, "incidental")} == {
        "run.uuid", "run.started_at", "run.creator_username", "run.lightning_dtool_version", "checkpoint.filename",
        "checkpoint.saved_at", "metrics.seconds", "metrics.steps_per_second", "metrics.peak_memory_bytes",
        "metrics.peak_accelerator_memory_bytes", "environment.scheduler.SLURM_JOB_ID",
        "trainer.settings.default_root_dir",
    }  # fmt: skip


def test_a_rerun_differs_from_its_original_only_incidentally() -> None:
    original = DatasetReference(uri="s3://a/b", uuid="b", name="net", content_digest="sha256:0")
    variables = {"LIGHTNING_DTOOL_BASE_URI": "s3://a", "OMP_NUM_THREADS": "1"}
    one = record()
    two = record(
        lineage=Lineage(reproduces=original),
        environment=record().environment.model_copy(update={"variables": variables}),
    )
    assert [path for path, *_ in listed(one, two)] == ["environment.variables.OMP_NUM_THREADS"]


def test_a_path_with_the_prefix_of_an_incidental_one_matters() -> None:
    def net(**hyperparameters: Any) -> Provenance:
        return record(model=Model(class_path="a:B", hyperparameters=hyperparameters))

    assert len(listed(net(version=1, dirpath="a", uuid=1), net(version=2, dirpath="b", uuid=2))) == 3


@pytest.mark.parametrize(("seed", "weight"), [(1, "incidental"), (None, "matters")])
def test_random_states_at_import_matter_without_a_seed(seed: int | None, weight: str) -> None:
    def run(state: str) -> Provenance:
        return record(randomness=Randomness(global_seed=seed, states={"import": {"python": state}}))

    (found,) = record_differences(run("sha256:1"), run("sha256:2"))
    assert (found.path, found.weight) == ("randomness.states.import.python", weight)


def test_different_metrics_matter() -> None:
    one, two = (record(metrics=Metrics(at_checkpoint={"acc": value})) for value in (0.5, 0.6))
    assert listed(one, two) == [("metrics.at_checkpoint.acc", "changed", 0.5, 0.6)]


# -- text -----------------------------------------------------------------------------------------


def test_changed_source_is_a_patch_without_its_digest() -> None:
    def model(source: str, digest: str) -> Provenance:
        return record(model=Model(class_path="a:B", source=source, source_sha256=digest))

    one, two = "class B:\n    x = 1\n    y = 2\n", "class B:\n    x = 1\n    y = 3\n"
    (found,) = record_differences(model(one, "1"), model(two, "2"))
    assert (found.path, found.kind, found.before, found.after) == ("model.source", "changed", one, two)
    assert found.patch.splitlines()[-2:] == ["-    y = 2", "+    y = 3"]
    only_digest = record_differences(
        record(model=Model(class_path="a:B", source_sha256="1")),
        record(model=Model(class_path="a:B", source_sha256="2")),
    )
    assert [found.path for found in only_digest] == ["model.source_sha256"]


def test_a_changed_lambda_is_not_a_patch() -> None:
    def scheduler(source: str) -> Provenance:
        return record(
            schedulers=[Scheduler(class_path="a:B", interval="epoch", frequency=1, settings={"source": source})]
        )

    (found,) = record_differences(scheduler("lambda e: 1"), scheduler("lambda e: 2"))
    assert (found.path, found.patch) == ("schedulers[0].settings.source", "")


def test_a_change_in_two_lines_of_text_is_a_patch() -> None:
    one, two = (record(loss=Loss(training_step=f"def step():\n    return {value}\n")) for value in (1, 2))
    (found,) = record_differences(one, two)
    assert found.patch.splitlines()[-2:] == ["-    return 1", "+    return 2"]


def test_a_command_line_is_compared_as_a_whole() -> None:
    one, two = (record(code=record().code.model_copy(update={"argv": ["train.py", lr]})) for lr in ("0.1", "0.2"))
    assert listed(one, two) == [("code.argv", "changed", ["train.py", "0.1"], ["train.py", "0.2"])]


# -- packages and files ---------------------------------------------------------------------------


def test_code_and_packages_are_listed_once_in_their_sections() -> None:
    def content(lr: float, digest: str, version: str, source: bytes) -> Content:
        code = record().code.model_copy(update={"files": {"train.py": digest}})
        environment = Environment(python="3", platform="x", versions={"torch": version, "Pillow": version})
        made = record(model=Model(class_path="a:B", hyperparameters={"lr": lr}), code=code, environment=environment,
                      metrics=Metrics(at_checkpoint={"acc": lr}))  # fmt: skip
        return Content(made, {"train.py": source}, f"torch=={version}\npillow=={version}\n")

    one, two = content(0.1, "1", "2.6", b"a\n"), content(0.2, "2", "2.7", b"b\n")
    found = checkpoint_differences(one, two)
    assert [difference.path for difference in found] == [
        "model.hyperparameters.lr", "environment.packages.torch", "environment.packages.pillow",
        "code.files[train.py]", "metrics.at_checkpoint.acc",
    ]  # fmt: skip
    assert found[3].patch
    without = [difference.path for difference in checkpoint_differences(Content(one.record), two)]
    assert without == [
        "model.hyperparameters.lr", "environment.versions.torch", "environment.versions.Pillow",
        "code.files[train.py]", "metrics.at_checkpoint.acc",
    ]  # fmt: skip


def test_packages_and_files_follow_what_else_differs_in_their_section() -> None:
    def content(python: str, argument: str, version: str) -> Content:
        code = record().code.model_copy(update={"argv": ["train.py", argument]})
        environment = Environment(python=python, platform="x", versions={})
        made = record(code=code, environment=environment)
        return Content(made, {"train.py": version.encode()}, f"torch=={version}\n")

    found = checkpoint_differences(content("3.11", "--fast", "1"), content("3.12", "--slow", "2"))
    assert [difference.path for difference in found] == [
        "environment.python", "environment.packages.torch", "code.argv", "code.files[train.py]",
    ]  # fmt: skip


# -- untrusted records ----------------------------------------------------------------------------


def test_deep_values_are_compared_as_a_whole() -> None:
    def deep(bottom: int) -> Provenance:
        value: Any = bottom
        for _ in range(150):
            value = {"a": value}
        return record(model=Model(class_path="a:B", hyperparameters={"x": value}))

    ((path, *_),) = listed(deep(1), deep(2))
    assert path.count(".a") < MAX_DEPTH
    assert listed(deep(1), deep(1)) == []


def test_deep_lists_are_compared_as_a_whole() -> None:
    def deep(bottom: int) -> Provenance:
        value: Any = bottom
        for _ in range(75):
            value = [{"a": value}]
        return record(model=Model(class_path="a:B", hyperparameters={"x": value}))

    ((path, *_),) = listed(deep(1), deep(2))
    assert path.count("[0]") + path.count(".a") < MAX_DEPTH


def test_the_cost_of_comparing_histories_is_linear() -> None:
    def history(count: int, offset: int) -> Provenance:
        epochs = [Epoch(epoch=number + offset, global_step=0, seconds=0.0) for number in range(count)]
        return record(metrics=Metrics(history=epochs))

    def calls(epochs: int) -> int:
        found, calls = counted(listed, history(epochs, 0), history(epochs, epochs // 2))
        assert len(found) == epochs
        return calls

    assert calls(4000) < 5 * calls(1000)


def test_a_difference_names_its_section() -> None:
    assert [Difference(path, "added").section for path in ("optimizers[0].x", "model.y", "loss")] == [
        "optimizers", "model", "loss",
    ]  # fmt: skip


# -- what is not known to be the same -------------------------------------------------------------


def another_run(**parts: Any) -> Provenance:
    """Return a record of another run."""
    made = record(**parts)
    return made.model_copy(update={"run": made.run.model_copy(update={"uuid": "another"})})


def foreign(fingerprint: str | None, complete: bool | None, class_path: str = "a:Images") -> Data:
    source = DataSource(class_path=class_path, fingerprint=fingerprint, fingerprint_complete=complete)
    return Data(stages={"train": [source]})


def unknown(a: Provenance, b: Provenance) -> list[tuple[str, str]]:
    found = [difference for difference in record_differences(a, b) if difference.weight == "unknown"]
    assert all(difference.kind == "unknown" for difference in found)
    return [(difference.path, difference.note) for difference in found]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (foreign("sha256:1", True), foreign("sha256:1", True), False),
        (foreign("sha256:1", False), foreign("sha256:1", False), True),
        (foreign("sha256:1", False), foreign("sha256:2", False), False),  # they are known to differ
        (foreign("sha256:1", True), foreign("sha256:1", False), True),
        (foreign(None, False), foreign(None, False), True),
        (foreign(None, None), foreign(None, None), True),
        (trained_on(reference()), trained_on(reference()), False),
        (
            trained_on(reference(), fingerprint="sha256:1", fingerprint_complete=False),
            trained_on(reference(), fingerprint="sha256:1", fingerprint_complete=False),
            True,
        ),
    ],
)
def test_data_whose_content_is_not_identified_is_not_known_to_be_the_same(one: Data, two: Data, expected: bool) -> None:
    gap = Gap(fact="data.stages.train[0].fingerprint", reason="it leaves out x")
    found = unknown(record(data=one, gaps=[gap]), another_run(data=two, gaps=[gap]))
    assert found == ([("data.stages.train[0]", "it leaves out x")] if expected else [])


def test_whatever_both_records_have_a_gap_for_is_not_known_to_be_the_same() -> None:
    gaps = [
        Gap(fact="model.hyperparameters.act", reason="a lambda"),
        Gap(fact="loss", reason="by hand"),
        Gap(fact="optimizers[0].defaults", reason="too long"),
        Gap(fact="randomness.global_seed", reason="not called"),  # the absence is the fact
        Gap(fact="code.git", reason="no repository"),
        Gap(fact="checkpoint.resume", reason="persistent workers"),
    ]
    one, two = record(gaps=gaps), another_run(gaps=[*gaps, Gap(fact="trainer.config", reason="only here")])
    assert unknown(one, two) == [
        ("model.hyperparameters.act", "a lambda"), ("loss", "by hand"), ("optimizers[0].defaults", "too long"),
    ]  # fmt: skip
    assert unknown(one, one) == []  # the same run


def test_what_is_known_to_differ_is_not_unknown() -> None:
    gaps = [Gap(fact="model.hyperparameters", reason="only in part"), Gap(fact="optimizers", reason="strange")]
    one = record(gaps=gaps)
    two = another_run(gaps=gaps, model=Model(class_path="leaves.net:LeafNet", hyperparameters={"lr": 0.2}))
    assert unknown(one, two) == [("optimizers", "strange")]


def test_an_order_that_follows_from_the_same_random_numbers_is_known() -> None:
    def run(make: Any, source: str | None) -> Provenance:
        gap = Gap(fact="data.order", reason="only with a DtoolDataModule")
        made: Provenance = make(randomness=Randomness(repeatable_by=source), gaps=[gap])
        return made

    assert unknown(run(record, "seed"), run(another_run, "seed")) == []
    assert unknown(run(record, None), run(another_run, None)) == [("data.order", "only with a DtoolDataModule")]


def test_a_record_without_any_data_is_not_known_to_have_the_same() -> None:
    gap = Gap(fact="data", reason="the checkpoint was saved without DtoolProvenanceCallback")
    assert unknown(record(gaps=[gap]), another_run(gaps=[gap])) == [("data", gap.reason)]
