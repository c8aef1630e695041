"""The data that the model was trained, validated and tested on."""

import functools
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer

from lightning_dtool.capture.data_sources import Place, sources_of_loader
from lightning_dtool.capture.datamodule import OwnStage, capture_datamodule, held_out_source
from lightning_dtool.capture.loaders import flat_loaders
from lightning_dtool.capture.own_randomness import own_randomness
from lightning_dtool.capture.preprocessing import capture_hooks
from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.record import Data, DataSource, Gap, Gaps

REPEATABLE = "randomness.repeatable_by"
"""The fact that is a gap if training draws random numbers that do not follow from the seed."""

MAX_SOURCES = 100
"""Maximum number of loaders of one stage that are recorded."""


def capture_data(trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Data:
    """Describe the data of each stage for which the Trainer has loaders or a DtoolDataModule holds out data.

    This reads no sample, iterates over no loader and draws no random number. A dtool dataset is described by its
    metadata, which is loaded already. Other data gets a fingerprint of its content in memory or of its file sizes, if
    that is quick.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        gaps: Receives a gap for everything that could not be observed.
    """
    datamodule, own = capture_datamodule(trainer, gaps)
    stages: dict[str, list[DataSource]] = {}
    for stage, loaders in (("train", "train_dataloader"), ("val", "val_dataloaders")):
        sources = _sources(trainer, loaders, own.get(stage), gaps.at(f"data.stages.{stage}"))
        if sources:
            stages[stage] = sources
    for stage, held_out in own.items():
        if stage not in stages:
            at_data = gaps.at(f"data.stages.{stage}[0]")
            found = at_data.observe(functools.partial(held_out_source, held_out, at_data), None)
            stages[stage] = [found] if found is not None else []
    gaps.at(REPEATABLE).observe(functools.partial(_add_own_randomness, trainer, gaps), None)
    _add_gap_of_order(trainer, gaps)
    return Data(datamodule=datamodule, stages=stages, hooks=capture_hooks(trainer, module, gaps))


def order_is_known(gaps: Iterable[Gap]) -> bool:
    """Return whether the samples and their order follow from the random numbers of the run, as far as could be seen.

    Args:
        gaps: The gaps that `capture_data` added.
    """
    return all(gap.fact != REPEATABLE for gap in gaps)


def _sources(trainer: LightningTrainer, name: str, own: OwnStage | None, gaps: Gaps) -> list[DataSource]:
    """Describe what the loaders of a stage read, which the Trainer has under a name."""
    found: list[Any] = gaps.observe(lambda: flat_loaders(getattr(trainer, name)), [])
    if len(found) > MAX_SOURCES:
        reason = f"only the first {MAX_SOURCES} of its {len(found)} loaders are recorded"
        gaps.add(reason, "concatenate datasets")
    sources: list[DataSource] = []
    for loader in found[:MAX_SOURCES]:
        place = Place(gaps, len(sources))
        sources += place.gaps.observe(functools.partial(sources_of_loader, loader, own, place), [])
    mode = _combination(trainer) if name == "train_dataloader" and len(found) > 1 else None
    return sources if mode is None else [_combined(source, mode) for source in sources]


def _combination(trainer: LightningTrainer) -> str | None:
    """Return how Lightning combines the training loaders, such as `min_size`."""
    combined = getattr(getattr(trainer, "fit_loop", None), "_combined_loader", None)
    mode = getattr(combined, "_mode", None)
    return mode if isinstance(mode, str) else None


def _combined(source: DataSource, mode: str) -> DataSource:
    if source.loader is None:
        return source
    settings = {**source.loader.settings, "combined_by": mode}
    return source.model_copy(update={"loader": source.loader.model_copy(update={"settings": settings})})


def _add_gap_of_order(trainer: LightningTrainer, gaps: Gaps) -> None:
    if not isinstance(getattr(trainer, "datamodule", None), DtoolDataModule):
        gaps.at("data.order").add(
            "the order of the samples is known only with a DtoolDataModule", "train with DtoolDataModule"
        )
    elif trainer.world_size > 1:
        gaps.at("data.order").add(
            f"each of the {trainer.world_size} processes has its own order, and only that of the first is recorded",
            "the others follow from the sampler's seed and the number of processes",
        )


def _add_own_randomness(trainer: LightningTrainer, gaps: Gaps) -> None:
    for loader in flat_loaders(trainer.train_dataloader)[:MAX_SOURCES]:
        reason = own_randomness(loader)
        if reason is not None:
            for fact in ("data.order", REPEATABLE):
                gaps.at(fact).add(
                    f"{reason}, so samples or their order may differ each time",
                    "seed each generator with a number, or draw from those that seed_everything seeds",
                )
