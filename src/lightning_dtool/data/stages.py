"""The datasets of the stages, opened, divided and numbered as the arguments of a DtoolDataModule say."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lightning_dtool.data.arguments import Arguments
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.data.selection import (
    STAGES,
    describe_values,
    selection_digest,
    split_by_fraction,
    split_by_overlay,
)
from lightning_dtool.errors import ConfigurationError, SelectionError
from lightning_dtool.values.writing import encode


class Stages:
    """The dataset of each stage, opened when it is first asked for.

    Args:
        given: The DtoolDataModule. Its attributes are read when a dataset is opened.
    """

    def __init__(self, given: Arguments) -> None:
        self._given = given
        self._opened: dict[str, DtoolDataset] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def dataset(self, stage: str) -> DtoolDataset | None:
        """Return a stage's samples; None if the stage has no data."""
        if stage not in self._opened:
            dataset = self._divided_or_own(stage)
            if dataset is None:
                return None
            dataset.transform = self._given.train_transform if stage == "train" else self._given.eval_transform
            dataset.target_transform = self._given.target_transform
            self._opened[stage] = dataset
        return self._opened[stage]

    def needed(self, stage: str) -> DtoolDataset:
        """Return a stage's samples.

        Raises:
            ConfigurationError, SelectionError: If the stage has no data.
        """
        dataset = self.dataset(stage)
        if dataset is None:
            raise self._no_data_for(stage)
        return dataset

    def is_open(self, stage: str) -> bool:
        """Tell whether a stage's dataset has been opened."""
        return stage in self._opened

    def holds(self, stage: str, dataset: object) -> bool:
        """Tell whether a dataset is the one that was opened for a stage."""
        return self._opened.get(stage) is dataset

    def places(self) -> dict[str, tuple[str, str]]:
        """Return for each stage with data the URI of its dataset, and the name of the argument that holds it."""
        places = {}
        for stage in STAGES:
            own = f"{stage}_uri"
            argument = own if getattr(self._given, own) is not None else "uri"
            uri = getattr(self._given, argument)
            if uri is not None:
                places[stage] = (uri, argument)
        return places

    def selection(self, stage: str) -> dict[str, Any]:
        """Describe how a stage's samples were selected; see `DtoolDataModule.selection`."""
        given = self._given
        selected: dict[str, Any] = {"part": stage, "by": "whole"}
        if given.select:
            selected["select"] = encode(given.select)
        dataset = self.dataset(stage)
        if dataset is None or given.uri is None or getattr(given, f"{stage}_uri") is not None:
            return selected
        if self._dividing_overlay is not None:
            values = dataset.dataset.overlay(self._dividing_overlay)
            found = {json.dumps(values[identifier]): values[identifier] for identifier in dataset.identifiers}
            names = encode([found[text] for text in sorted(found)])
            return {**selected, "by": "overlay", "overlay": self._dividing_overlay, "values": names}
        if stage == "predict" or not (given.val_split or given.test_split):
            return selected
        settings = {name: encode(getattr(given, name)) for name in ("val_split", "test_split", "seed", "stratify")}
        return {**selected, "by": "fractions", **settings}

    def facts(self, stage: str) -> dict[str, Any]:
        """Describe an open stage's data as strict JSON; see `DtoolDataModule.description`."""
        if stage not in self._facts:
            dataset = self._opened[stage]
            frozen = dataset.dataset
            numbers, counts = dataset.class_to_idx, dataset.class_counts
            self._facts[stage] = {
                "uri": frozen.uri,
                "uuid": frozen.uuid,
                "name": frozen.name,
                "content_digest": frozen.content_digest,
                "count": len(dataset),
                "selection_digest": selection_digest(dataset.identifiers if dataset.is_itemwise else dataset.names),
                "targets_digest": dataset.targets_digest,
                "classes": None if numbers is None else [str(name) for name in numbers],
                "class_to_idx": None if numbers is None else {str(name): number for name, number in numbers.items()},
                "class_counts": None if counts is None else {str(name): count for name, count in counts.items()},
            }
        return self._facts[stage]

    def _divided_or_own(self, stage: str) -> DtoolDataset | None:
        own = getattr(self._given, f"{stage}_uri")
        if own is not None:
            # Items to predict on often have no label.
            return self._open(own, labelled=stage != "predict", numbered_by=None if stage == "train" else "train")
        if self._given.uri is None:
            return None
        if stage == "predict":
            return self._whole.subset(self._parts["predict"] or range(len(self._whole)), targets=False)
        return self._whole.subset(self._parts[stage]) if self._parts[stage] else None

    def _open(self, uri: str, *, labelled: bool, numbered_by: str | None) -> DtoolDataset:
        given = self._given
        trained_on = self.dataset(numbered_by) if numbered_by and labelled else None
        dataset = DtoolDataset(
            uri,
            select=given.select,
            decoder=given.decoder,
            target=given.target if labelled or not isinstance(given.target, str) else "none",
            class_to_idx=None if trained_on is None else trained_on.class_to_idx,
            decoded_cache=given.decoded_cache,
            verify=given.verify,
        )
        if trained_on is not None and (trained_on.class_to_idx is None) != (dataset.class_to_idx is None):
            raise ConfigurationError(
                f"The targets of {trained_on.dataset.uri} and of {dataset.dataset.uri} do not fit together: one has"
                " classes, the other numbers or no targets. Name the same kind of overlay for both with target=..."
            )
        return dataset if labelled else dataset.subset(range(len(dataset)), targets=False)

    @cached_property
    def _whole(self) -> DtoolDataset:
        return self._open(str(self._given.uri), labelled=True, numbered_by=None)

    @cached_property
    def _dividing_overlay(self) -> str | None:
        given = self._given
        divided = given.split_overlay or given.val_split or given.test_split or given.val_uri or given.test_uri
        return given.split_overlay if divided else self._whole.usetype_overlay

    @cached_property
    def _parts(self) -> dict[str, Sequence[int]]:
        whole, uri, given = self._whole, self._whole.dataset.uri, self._given
        if self._dividing_overlay is not None:
            if not whole.is_itemwise:
                raise SelectionError(
                    "split_overlay cannot divide a pair of arrays, whose rows have no overlays."
                    " Use val_split and test_split, or one dataset per stage.",
                    uri=uri,
                )
            values = whole.dataset.overlay(self._dividing_overlay)
            selected = [values[identifier] for identifier in whole.identifiers]
            return dict(split_by_overlay(selected, overlay=self._dividing_overlay, uri=uri))
        if given.stratify and whole.class_to_idx is None:
            raise SelectionError(
                "stratify=True needs classes, but the targets are not classes. Leave it out, or name an overlay of"
                " classes with target=...",
                uri=uri,
            )
        split = split_by_fraction(
            whole.names,
            val_split=given.val_split,
            test_split=given.test_split,
            seed=given.seed,
            labels=whole.targets if given.stratify else None,
            uri=uri,
        )
        return {"train": split.train, "val": split.val, "test": split.test, "predict": ()}

    def _no_data_for(self, stage: str) -> ConfigurationError | SelectionError:
        if self._given.uri is None:
            return ConfigurationError(f"There is no data for {stage!r}: pass {stage}_uri=...")
        if self._dividing_overlay is not None:
            values = describe_values(self._whole.dataset.overlay(self._dividing_overlay).values())
            return SelectionError(
                f"no selected item is for {stage!r} by the overlay {self._dividing_overlay!r}, whose values are"
                f" {values}. Correct the overlay, or select other items with select=...",
                uri=self._given.uri,
            )
        return ConfigurationError(
            f"there is no data for {stage!r}, because no item is left. Pass {stage}_split=..., a"
            f" split_overlay, or {stage}_uri=...",
            uri=self._given.uri,
        )
