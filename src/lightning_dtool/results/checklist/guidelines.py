"""The points for the four guidelines of Hartley and Olsson."""

from lightning_dtool.items import CHECKPOINT_ITEM, RECORD_ITEM
from lightning_dtool.results.checklist.evidence import Evidence, Point
from lightning_dtool.results.checklist.findings import (
    ALLOW,
    PACK,
    RECORD_AGAIN,
    Result,
    counted,
    fails,
    named,
    not_checked,
    partly,
    passes,
    unknown,
)

GUIDELINES = "Guidelines (Hartley & Olsson 2020)"

_LOCAL = ("file:", "symlink:")
"""Beginnings of the URIs of dtool's brokers for disks."""


def _annotated(evidence: Evidence) -> Result:
    datasets = evidence.record.lineage.source_datasets
    if not datasets:
        return fails("no training data is a dtool dataset, so none has metadata", PACK)
    bare, unread, offline, described = [], [], [], []
    for dataset in datasets:
        found = evidence.data.get(dataset.uri)
        if found is not None and found.is_offline:
            offline.append(f"{dataset.name} at {dataset.uri}")
        elif found is None or found.problem:
            unread.append(f"{dataset.name} ({found.problem if found else 'its URI was not opened'})")
        elif found.uuid != dataset.uuid:
            unread.append(f"{dataset.name} (its URI now holds another dataset)")
        elif not str((found.readme or {}).get("description") or "").strip():
            bare.append(dataset.name)
        else:
            counts = [counted(len(found.overlays), "overlay"), counted(len(found.annotations), "annotation")]
            described.append(f"{dataset.name}: a description, {', '.join(counts)}")
    if bare:
        return fails(
            f"no description in the README of {named(bare)}",
            "write one with `dtool readme interactive` or `dtool readme edit`",
        )
    if unread:
        return not_checked(f"could not be read: {named(unread)}", "run `check` where the data can be reached")
    if offline:
        return not_checked(f"not looked at (offline): {named(offline)}", ALLOW)
    return passes(named(described))


def _persistent(evidence: Evidence) -> Result:
    sources = evidence.sources("train", "val", "test")
    if not sources:
        return fails("no data is recorded", PACK)
    without = [source.class_path or "unknown" for source in sources if source.dataset is None]
    if without:
        return fails(f"no URI for {named(dict.fromkeys(without))}", PACK)
    if evidence.gaps("lineage.source_datasets"):
        return fails("no URI for data that the model was trained on earlier in the run", PACK)
    unread, offline = [], []
    references = {source.dataset.uri: source.dataset for source in sources if source.dataset}
    references |= {dataset.uri: dataset for dataset in evidence.record.lineage.source_datasets}
    for reference in references.values():
        found = evidence.data.get(reference.uri)
        if found is not None and found.is_offline:
            offline.append(reference.uri)
            continue
        if found is None or found.problem:
            unread += [f"{reference.uri} ({found.problem})"] if found else []
            continue
        if found.uuid != reference.uuid:
            return fails(
                f"{reference.uri} now holds another dataset, with UUID {found.uuid} instead of {reference.uuid}",
                "restore the recorded dataset from a copy, which you can find by its UUID",
            )
        if found.content_digest != reference.content_digest:
            return fails(
                f"{reference.uri} has the recorded UUID, but different content: it was changed after training",
                "restore it from a copy; `lightning-dtool verify` shows which items differ",
            )
    if unread:
        return not_checked(f"could not be opened: {named(unread)}", "run `check` where the data can be reached")
    if offline:
        return not_checked(f"not looked at (offline): {named(offline)}", ALLOW)
    known = f"{counted(len(references), 'dataset')} by URI, UUID and content digest"
    on_disk = sum(uri.startswith(_LOCAL) for uri in references)
    if on_disk:
        return partly(
            f"{known}, but {on_disk} on a disk of one machine, where a URI does not last",
            "copy the data to a shared store with `dtool cp`, and train with its URI there",
        )
    return passes(known)


def _captured(evidence: Evidence) -> Result:
    record = evidence.record
    gaps = evidence.gaps("model.hyperparameters", "model.arguments", "optimizers", "schedulers", "trainer.settings")
    if gaps:
        return unknown(gaps, RECORD_AGAIN)
    if not record.optimizers or not record.trainer.settings:
        return fails("the optimizers or the Trainer settings are not recorded", RECORD_AGAIN)
    counts = (
        counted(len(record.model.hyperparameters), "hyperparameter"),
        *([counted(len(record.model.arguments), "argument")] if record.model.arguments else []),
        counted(len(record.optimizers), "optimizer"),
        counted(len(record.trainer.settings), "setting"),
    )
    return passes(f"{', '.join(counts)}, observed during training")


def _together(evidence: Evidence) -> Result:
    if evidence.items is None:
        return not_checked("the items of the dataset are unknown", "check the dataset by its URI")
    missing = {CHECKPOINT_ITEM, RECORD_ITEM} - set(evidence.items)
    if missing:
        return fails(f"the dataset lacks {named(sorted(missing))}", RECORD_AGAIN)
    if not evidence.record.lineage.source_datasets:
        return fails("weights and parameters are in one dataset, but the data inputs have no URI", PACK)
    inputs = named(dataset.name for dataset in evidence.record.lineage.source_datasets)
    return passes(f"weights, parameters and the data inputs ({inputs}) are in one frozen dataset")


POINTS = (
    Point("guidelines.metadata", GUIDELINES, "Training data is annotated with metadata", _annotated),
    Point("guidelines.persistent_uris", GUIDELINES, "Data has persistent URIs", _persistent),
    Point("guidelines.captured", GUIDELINES, "Training parameters are captured at training time", _captured),
    Point("guidelines.stored_together", GUIDELINES, "Parameters and data inputs are stored with the model", _together),
)
