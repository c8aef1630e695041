"""The points for the factors of reproducibility of Gundersen and Kjensmo: method, data and experiment."""

from lightning_dtool.items import REQUIREMENTS_ITEM, SOURCE_ITEM
from lightning_dtool.results.checklist.evidence import Evidence, Judge, Point, with_item
from lightning_dtool.results.checklist.findings import (
    PACK,
    RECORD_AGAIN,
    Result,
    Status,
    counted,
    fails,
    named,
    not_applicable,
    not_checked,
    passes,
    unknown,
)

METHOD = "Method (Gundersen & Kjensmo 2018)"
DATA = "Data (Gundersen & Kjensmo 2018)"
EXPERIMENT = "Experiment (Gundersen & Kjensmo 2018)"


def _in_a_paper(found: str) -> Judge:
    return lambda _: (Status.NOT_IN_RECORD, found, "")


def _stage(stage: str) -> Judge:
    def judge(evidence: Evidence) -> Result:
        sources = evidence.sources(stage)
        if not sources and stage == "train":
            return fails("no training data is recorded", PACK)
        if not sources:
            return not_applicable("the run had no such data")
        without = [source.class_path or "unknown" for source in sources if source.dataset is None]
        if without:
            return fails(f"not a dtool dataset: {named(dict.fromkeys(without))}", PACK)
        return passes(
            named(f"{source.dataset.name} ({_samples(source.count)})" for source in sources if source.dataset)
        )

    return judge


def _samples(count: int | None) -> str:
    return "unknown number of samples" if count is None else counted(count, "sample")


def _results(evidence: Evidence) -> Result:
    metrics = evidence.record.metrics
    if not metrics.at_checkpoint:
        return fails("no metric was logged", "log metrics with `self.log` in the LightningModule")
    return passes(f"{named(metrics.at_checkpoint)}; {counted(len(metrics.history), 'epoch')} of history")


def _method_code(evidence: Evidence) -> Result:
    record = evidence.record
    module = record.model.class_path.partition(":")[0]
    if module in record.code.modules:
        return with_item(evidence, SOURCE_ITEM, f"{record.code.modules[module]} in {SOURCE_ITEM}")
    if record.model.source:
        return passes("the source of the class is in the record")
    return fails(f"the source of {record.model.class_path} is not stored", "define the model in a file of your project")


def _experiment_code(evidence: Evidence) -> Result:
    code = evidence.record.code
    if not code.entry_point or code.entry_point not in code.files:
        return fails(
            "the script that ran is not stored",
            "train from a script, a notebook or a module, not from a prompt",
        )
    return with_item(evidence, SOURCE_ITEM, f"{code.entry_point} in {SOURCE_ITEM}")


def _hardware(evidence: Evidence) -> Result:
    environment = evidence.record.environment
    if environment.cpu is None or environment.memory_bytes is None:
        return fails("the processor or the memory is not recorded", RECORD_AGAIN)
    accelerators = named(environment.accelerators) or "no accelerator"
    memory = f"{environment.memory_bytes / 2**30:.1f} GiB"
    return passes(f"{environment.cpu}, {counted(environment.cpu_count or 0, 'processor')}, {memory}, {accelerators}")


def _software(evidence: Evidence) -> Result:
    environment = evidence.record.environment
    versions = ", ".join(f"{name} {environment.versions[name]}" for name in ("torch", "lightning")
                         if name in environment.versions)  # fmt: skip
    if evidence.items is None:
        return not_checked(f"it is unknown whether the dataset has {REQUIREMENTS_ITEM}", "check the dataset by its URI")
    return with_item(evidence, REQUIREMENTS_ITEM, f"Python {environment.python}, {versions}; {REQUIREMENTS_ITEM}")


def _setup(evidence: Evidence) -> Result:
    record = evidence.record
    facts = (
        "model.hyperparameters",
        "model.arguments",
        "loss",
        "optimizers",
        "schedulers",
        "trainer",
        "data.datamodule",
    )
    gaps = evidence.gaps(*facts)
    if gaps:
        return unknown(gaps, RECORD_AGAIN)
    if not record.trainer.settings or not (record.loss.calls or record.loss.operations):
        return fails("the loss or the Trainer settings are not recorded", RECORD_AGAIN)
    return passes("hyperparameters, loss, optimizers, schedulers and Trainer settings, without gaps")


def _evaluation(evidence: Evidence) -> Result:
    record = evidence.record
    monitors = [f"{monitor.name} ({monitor.mode})" for monitor in record.checkpoint.monitors]
    objects = [found.class_path.rpartition(":")[2] for found in record.metrics.objects]
    if not monitors and not objects:
        return fails(
            "no monitored metric and no torchmetrics object",
            "use ModelCheckpoint(monitor=...) or a torchmetrics object in the LightningModule",
        )
    parts = [f"checkpoints are chosen by {named(monitors)}"] if monitors else []
    return passes("; ".join([*parts, *([f"computed by {named(objects)}"] if objects else [])]))


POINTS = (
    Point("method.problem", METHOD, "Problem description", _in_a_paper("it is part of a paper")),
    Point("method.goal", METHOD, "Goal or objective", _in_a_paper("it is part of a paper")),
    Point("method.research_method", METHOD, "Research method", _in_a_paper("it is part of a paper")),
    Point("method.research_question", METHOD, "Research question", _in_a_paper("it is part of a paper")),
    Point("method.pseudocode", METHOD, "Pseudocode", _in_a_paper("it is part of a paper; the code itself is stored")),
    Point("data.train", DATA, "Training data", _stage("train")),
    Point("data.validation", DATA, "Validation data", _stage("val")),
    Point("data.test", DATA, "Test data", _stage("test")),
    Point("data.results", DATA, "Results", _results),
    Point("experiment.hypothesis", EXPERIMENT, "Hypothesis", _in_a_paper("it is part of a paper")),
    Point("experiment.prediction", EXPERIMENT, "Prediction", _in_a_paper("it is part of a paper")),
    Point("experiment.method_code", EXPERIMENT, "Source code of the method", _method_code),
    Point("experiment.experiment_code", EXPERIMENT, "Source code of the experiment", _experiment_code),
    Point("experiment.hardware", EXPERIMENT, "Hardware specification", _hardware),
    Point("experiment.software", EXPERIMENT, "Software dependencies", _software),
    Point("experiment.setup", EXPERIMENT, "Experiment setup", _setup),
    Point("experiment.evaluation", EXPERIMENT, "Evaluation criteria", _evaluation),
)
