"""The samples that a checkpoint is evaluated on, read and numbered as its record says.

An evaluation must never hide that the model was trained on some of its samples.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.data.selection import selection_digest
from lightning_dtool.data.targets import Targets
from lightning_dtool.errors import ConfigurationError, DecodeError, LightningDtoolError, StoreError, VerificationError
from lightning_dtool.record import DataSource, Provenance
from lightning_dtool.store import Addresses, FrozenDataset
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.reading import decode
from lightning_dtool.values.writing import encode

WHOLE = "whole"
PARTS = ("train", "val", "test", WHOLE)

_READERS = ("decoder", "target", "eval_transform", "target_transform", "collate_fn")
_DIVIDERS = ("val_split", "test_split", "split_overlay", "stratify", "seed", "val_uri", "test_uri")


@dataclass(frozen=True)
class HeldOut:
    """Samples to evaluate on.

    Attributes:
        dataset: The samples, with their transforms.
        part: `test`, `val` or `train` as the record divided the data, or `whole`.
        class_to_idx: The class numbers of the training, or those of the data if the record has none; None if the
            targets are numbers.
        batch_size: The recorded batch size for evaluation, or 32 if there is none.
        collate_fn: The function that makes a batch; None for torch's default.
        reading: How the samples were selected and read, as strict JSON: `select`, and whichever of `decoder`, `target`,
            `eval_transform`, `target_transform` and `collate_fn` was recorded or given.
        training_items: How many of the samples the model was trained on; None if that is unknown.
        notes: Warnings about what the result does not show.
    """

    dataset: DtoolDataset
    part: str
    class_to_idx: dict[Any, int] | None
    batch_size: int
    collate_fn: Callable[[Any], Any] | None
    reading: dict[str, Any]
    training_items: int | None
    notes: list[str] = field(default_factory=list)


def held_out(
    record: Provenance,
    checkpoint: str,
    data: str | os.PathLike[str],
    *,
    part: str | None = None,
    select: Mapping[str, Any] | None = None,
    readers: Mapping[str, Any] | None = None,
    trust_source: bool = False,
    online: bool = False,
) -> HeldOut:
    """Choose the samples of a dataset that a model is evaluated on.

    Args:
        record: The checkpoint's record.
        checkpoint: The checkpoint's URI, for messages.
        data: The dataset's URI, or its folder.
        part: `test`, `val` or `train` for a part of the dataset that the model was trained with, or `whole`. Default:
            for that dataset, the part for testing, else for validation, else for training; for any other, `whole`.
        select: Overlay names, each with the wanted value or a list of values. Selects from the whole dataset.
        readers: Arguments of `DtoolDataModule` that replace recorded ones: `decoder`, `target`, `eval_transform`,
            `target_transform` and `collate_fn`.
        trust_source: Import functions that the record names. Default: only torchvision's transforms are imported.
        online: Open the recorded training data in whatever store it is, to compare samples. Default: only in the store
            of the checkpoint or of `data`, and in those that the user has configured.

    Raises:
        ConfigurationError: If the data has no such part or no targets, or a recorded function cannot be imported.
        DecodeError: If a sample has a class that the training data did not have.
        VerificationError: If the recorded part cannot be selected again.
        SelectionError, MetadataKeyError, DatasetNotFoundError, StoreError: As `DtoolDataset`.
    """
    addresses = Addresses(checkpoint, given=[data], online=online)
    frozen = FrozenDataset.from_uri(data)
    return _Chooser(record, checkpoint, frozen, readers or {}, trust_source, addresses).choose(part, select)


class _Chooser:
    def __init__(
        self,
        record: Provenance,
        checkpoint: str,
        frozen: FrozenDataset,
        readers: Mapping[str, Any],
        trust_source: bool,
        addresses: Addresses,
    ) -> None:
        self.checkpoint = checkpoint
        self.addresses = addresses
        self.frozen = frozen
        self.sources = record.data.stages
        self.trained_on_more = any(
            re.match(r"data\.(stages\.train\[\d+\]\.(dataset|selection\w*|count)|datamodule)\b", change.fact)
            or (change.before is not None and re.fullmatch(r"data\.stages\.train(\[\d+\])?", change.fact))
            for change in record.changes
        )
        module = record.data.datamodule
        self.is_ours = module is not None and module.class_path == class_path(DtoolDataModule)
        self.arguments = module.arguments if module is not None and self.is_ours else {}
        self.notes: list[str] = []
        given = {name: value for name, value in readers.items() if value is not None}
        self.readers = dict.fromkeys(_READERS) | {
            name: decode(value, argument=name, trust_source=trust_source)
            for name, value in self.arguments.items()
            if name in _READERS and name not in given
        }
        self.readers |= given
        self.is_target_given = "target" in given
        if not self.is_ours:
            self._note_foreign(module.class_path if module is not None else None, given)
        trained_on = self._source("train")
        self.numbers: dict[str, int] | None = trained_on.class_to_idx if trained_on is not None else None

    def choose(self, part: str | None, select: Mapping[str, Any] | None) -> HeldOut:
        chosen = self._part_name(part, select)
        dataset = self._whole(self.frozen, select) if chosen == WHOLE else self._cut(self.frozen, chosen)
        self._note_other_targets(dataset, chosen)
        dataset = self._numbered(dataset)
        dataset.transform = self.readers["eval_transform"]
        dataset.target_transform = self.readers["target_transform"]
        trained = self._training_items(dataset, chosen)
        if trained:
            self.notes.append(
                f"The model was trained on {trained} of these {len(dataset)} samples of {self.frozen.uri}:"
                " the result says nothing about new data."
            )
        how = {"select": select or (None if chosen == WHOLE else self._recorded("select")), **self.readers}
        return HeldOut(
            dataset=dataset,
            part=chosen,
            class_to_idx=dataset.class_to_idx,
            batch_size=self._recorded("eval_batch_size") or self._recorded("batch_size") or 32,
            collate_fn=self.readers["collate_fn"],
            reading={name: encode(value) for name, value in how.items() if value is not None},
            training_items=trained,
            notes=self.notes,
        )

    # -- what the record says ---------------------------------------------------------------------

    def _source(self, stage: str) -> DataSource | None:
        return next(iter(self.sources.get(stage, [])), None)

    def _recorded(self, name: str) -> Any:
        """Return the value of a recorded argument that is a plain value."""
        return decode(self.arguments.get(name), argument=name)

    def _reads(self, stage: str, frozen: FrozenDataset) -> bool:
        """Tell whether a recorded stage read this content, at any URI and under any UUID."""
        return any(
            source.dataset is not None and source.dataset.content_digest == frozen.content_digest
            for source in self.sources.get(stage, [])
        )

    def _note_foreign(self, datamodule: str | None, given: Mapping[str, Any]) -> None:
        used = "without a DataModule" if datamodule is None else f"with {datamodule}, not with DtoolDataModule"
        recorded = [*(self._source("val") or self._source("train") or DataSource()).transforms]
        lost = f" Recorded but not applied: {', '.join(sorted(recorded))}." if recorded else ""
        if "eval_transform" not in given and "decoder" not in given:
            self.notes.append(
                f"{self.checkpoint} was trained {used}. Samples of {self.frozen.uri} are decoded by the defaults"
                f" of DtoolDataset and not transformed.{lost}"
            )

    def _note_other_targets(self, dataset: DtoolDataset, part: str) -> None:
        source = self._source(part)
        recorded = None if source is None or self.is_target_given else source.targets_digest
        if recorded is not None and recorded != dataset.targets_digest:
            self.notes.append(
                f"The samples of {self.frozen.uri} have other targets than in the record of {self.checkpoint}: labels"
                " have changed since."
            )

    # -- choosing ---------------------------------------------------------------------------------

    def _part_name(self, part: str | None, select: Mapping[str, Any] | None) -> str:
        if part is not None and part not in PARTS:
            raise ConfigurationError(f"There is no part {part!r} of the data; choose from {', '.join(PARTS)}.")
        if part == WHOLE or (part is None and select):
            return WHOLE
        if select:
            raise ConfigurationError(
                f"part={part!r} is the recorded part of the data and cannot be combined with select=...:"
                " leave out select, or the part."
            )
        read_by = [stage for stage in ("test", "val", "train") if self.is_ours and self._reads(stage, self.frozen)]
        if part is None:
            return read_by[0] if read_by else WHOLE
        if part not in read_by:
            used = f"used this dataset for {' and '.join(read_by)}" if read_by else "did not use this dataset"
            raise ConfigurationError(
                f"no part {part!r} in the record of {self.checkpoint}: that training {used}."
                f" Leave out the part, or evaluate on the whole dataset with part={WHOLE!r}.",
                uri=self.frozen.uri,
            )
        return part

    def _whole(self, frozen: FrozenDataset, select: Mapping[str, Any] | None) -> DtoolDataset:
        return DtoolDataset(
            frozen,
            select=select,
            decoder=self.readers["decoder"],
            target=self.readers["target"],
            class_to_idx=self.numbers,
        )

    def _cut(self, frozen: FrozenDataset, stage: str) -> DtoolDataset:
        """Return the samples that a recorded stage read, verified against their recorded digest."""
        select = self._recorded("select")
        if self.arguments.get(f"{stage}_uri") is not None:
            dataset = self._whole(frozen, select)
        else:
            dividers = {name: self._recorded(name) for name in _DIVIDERS if name in self.arguments}
            module = DtoolDataModule(
                frozen.uri, select=select, decoder=self.readers["decoder"], target=self.readers["target"], **dividers
            )
            dataset = getattr(module, f"{stage}_dataloader")().dataset
        source = self._source(stage)
        expected = None if source is None else source.selection_digest
        found = selection_digest(dataset.identifiers if dataset.is_itemwise else dataset.names)
        if expected is not None and found != expected:
            raise VerificationError(
                f"the samples of its part {stage!r} are not those in the record of {self.checkpoint}: expected the"
                f" digest {expected}, found {found}. Select samples yourself with part={WHOLE!r} and select=...",
                uri=frozen.uri,
            )
        return dataset

    # -- targets ----------------------------------------------------------------------------------

    def _numbered(self, dataset: DtoolDataset) -> DtoolDataset:
        """Return the samples with the class numbers that the model was trained with."""
        uri, numbers = dataset.dataset.uri, dataset.class_to_idx
        if dataset.targets is None:
            raise ConfigurationError(
                f"has no targets: there is no overlay 'category', and the record of {self.checkpoint} names no other"
                " overlay. Name one with target=...",
                uri=uri,
            )
        if self.numbers is None and numbers is not None and self._source("train") is not None and self._knows_targets():
            return _as_numbers(dataset, self.checkpoint)
        if self.numbers is None and numbers is not None:
            shown = ", ".join(f"{name}={number}" for name, number in list(numbers.items())[:20])
            self.notes.append(
                f"The record of {self.checkpoint} does not say how its classes were numbered. The numbers of {uri} are"
                f" used ({shown}). If the training had other numbers, the result is meaningless."
            )
        if self.numbers is not None and numbers is None:
            raise ConfigurationError(
                f"its targets are numbers, but the model was trained on the classes {', '.join(self.numbers)}."
                " Name an overlay of classes with target=...",
                uri=uri,
            )
        if self.numbers is not None and numbers is not None:
            # Rows of an array are compared by number, because they have no names; items by name and number.
            known = {(name, number) for name, number in self.numbers.items()}
            by_number = set(self.numbers.values())
            for name, number in numbers.items():
                if number not in by_number if not dataset.is_itemwise else (str(name), number) not in known:
                    raise DecodeError(
                        f"has the class {name!r} with the number {number}, but the model of {self.checkpoint} was"
                        f" trained on {', '.join(f'{name}={number}' for name, number in self.numbers.items())}."
                        " Leave such samples out with select=..., or name another target with target=...",
                        uri=uri,
                    )
            # Use the class names of the training, because rows have only numbers.
            dataset._samples.targets = Targets(dataset._samples.targets.values, dict(self.numbers))  # type: ignore[union-attr]
        return dataset

    def _knows_targets(self) -> bool:
        """Tell whether the record would hold class numbers if the training had had classes."""
        source = self._source("train")
        return source is not None and source.dataset is not None

    # -- what the model has seen ------------------------------------------------------------------

    def _training_items(self, dataset: DtoolDataset, part: str) -> int | None:
        """Count the samples that the model was trained on; None if that is unknown."""
        if part == "train":
            return len(dataset)
        source = self._source("train")
        if source is None or source.dataset is None:
            return None
        if self.trained_on_more:
            self.notes.append(
                "The training data changed while the model was trained (see `changes` in the record), so it is unknown"
                f" whether the model was trained on samples of {self.frozen.uri}: the result may say nothing about new"
                " data."
            )
            return None
        if not self.is_ours:
            if self._reads("train", self.frozen):
                self.notes.append(
                    f"The model was trained on {self.frozen.uri}. Without DtoolDataModule, the part that was held out"
                    " is unknown: the result may say nothing about new data."
                )
            return None
        try:
            here = self._reads("train", self.frozen)
            there = self.frozen if here else self.addresses.open(source.dataset.uri)
            if not self._reads("train", there) or there.hash_function != self.frozen.hash_function:
                return None
            trained = self._cut(there, "train")
        except LightningDtoolError as error:  # the training data cannot be read, or has changed
            if isinstance(error, StoreError) and error.kind in ("offline", "denied") and error.uri is not None:
                self.notes.append(
                    f"It is unknown whether the model was trained on samples of {self.frozen.uri}: the training data at"
                    f" {error.uri} was {error.reason}"
                )
            return None
        if not (trained.is_itemwise and dataset.is_itemwise):
            return len(set(dataset.names).intersection(trained.names)) if here else None
        # By content: an image that was packed again, under another name, is still one that the model was trained on.
        seen = {there.items[identifier].hash for identifier in trained.identifiers}
        return sum(self.frozen.items[identifier].hash in seen for identifier in dataset.identifiers)


def _as_numbers(dataset: DtoolDataset, checkpoint: str) -> DtoolDataset:
    """Return the samples with numbers as targets, where whole numbers were read as classes."""
    names = dataset.class_to_idx or {}
    if any(isinstance(name, bool) or not isinstance(name, int) for name in names):
        raise ConfigurationError(
            f"its targets are the classes {', '.join(map(repr, list(names)[:10]))}, but the model of {checkpoint} was"
            " trained on numbers, or without targets. Name an overlay of numbers with target=...",
            uri=dataset.dataset.uri,
        )
    value_of = {number: float(name) for name, number in names.items()}
    targets = dataset._samples.targets
    if targets is not None:
        values = torch.tensor([value_of[number] for number in targets.values], dtype=torch.float32)
        dataset._samples.targets = Targets(values, None)  # type: ignore[arg-type]
    return dataset
