"""Frozen dtool datasets as a LightningDataModule."""

import inspect
import json
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from lightning_dtool import rerun
from lightning_dtool._public import public
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.data.recorded_data import recorded_arguments, verify_data
from lightning_dtool.data.sampler import ResumableSampler, SeededDataLoader, StatefulDataLoader
from lightning_dtool.data.selection import (
    STAGES,
    check_fractions,
    describe_values,
    selection_digest,
    split_by_fraction,
    split_by_overlay,
)
from lightning_dtool.errors import (
    ConfigurationError,
    ProvenanceWarning,
    SelectionError,
)
from lightning_dtool.items import RECORD_ITEM
from lightning_dtool.loading.opening import read_record
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.store import FrozenDataset, generate_identifier, normalize_uri
from lightning_dtool.values.describing import describe
from lightning_dtool.values.rebuilding import rebuild

_CALLABLES = ("target", "decoder", "train_transform", "eval_transform", "target_transform", "collate_fn")
_STAGES_OF = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


@public
class DtoolDataModule(pl.LightningDataModule):
    """Trains, validates, tests and predicts on frozen dtool datasets.

    Give one `uri`, divided by fractions or by an overlay, or a dataset per stage. Which item is where, and the
    order in which training sees them, are functions of `seed` alone: neither depends on
    `seed_everything` or draws a global random number, and another order needs another `seed`. Training can
    stop and go on anywhere, also inside an epoch.

    A stage that has no data is skipped in `fit`; asking for it (`trainer.test`) is an error. Items for `predict`
    come without targets; with one `uri` they are those that `split_overlay` marks for prediction,
    else all of them.

    Args:
        uri: URI or path of the one dataset that is divided into stages.
        train_uri: The dataset to train on, in place of `uri`.
        val_uri: The dataset to validate on.
        test_uri: The dataset to test on.
        predict_uri: The dataset to predict on.
        val_split: Fraction of `uri` to validate on, at least 0 and below 1. None by default.
        test_split: Fraction of `uri` to test on; the rest is for training. None by default.
        split_overlay: An overlay of `uri` whose values name the stages: train, val, test and predict
            and their usual synonyms (training, valid, validation, dev, testing, …), in any case. dtoolAI's image
            datasets are divided by their overlay `usetype` unless something else is asked for.
        select: Overlay names, each with the wanted value or a list of them; applied to every dataset, before
            it is divided.
        stratify: Whether fractions are taken of each class, so that proportions stay.
        seed: Governs the split and the order. 0 by default.
        target: An overlay's name, "folder", "none", or a function from an item to its value; by default the
            overlay `category` if there is one. See `DtoolDataset`. Classes are numbered by the
            training data, for every stage.
        decoder: A function from an item's local path to its value. By default chosen by suffix.
        train_transform: Called with each item for training: a PIL image, or a tensor for arrays.
        eval_transform: The same for all other stages.
        target_transform: Called with each target.
        batch_size: Samples per batch and process.
        eval_batch_size: The same for all stages but training. By default as `batch_size`.
        num_workers: Processes that load data; 0 loads in the training process.
        pin_memory: Whether batches are put in page-locked memory, for a faster copy to a GPU.
        persistent_workers: Whether workers live on between epochs; needs `num_workers` above 0.
        drop_last: Whether a last, smaller batch is left out of training.
        collate_fn: Makes a batch out of a list of samples. By default torch's.
        decoded_cache: Whether decoded images are kept, uncompressed, in a memory-mapped file below
            `DTOOL_CACHE_DIRECTORY`; see `DtoolDataset`. It is filled in `prepare_data`. False by default.

    Raises:
        ConfigurationError: If arguments do not fit together. Errors that need a look at the data come in
            `prepare_data` and `setup`, before training starts; see `DtoolDataset` for them.
        InvalidURIError: If a URI is malformed, or no installed storage broker reads it.

    Example:
        ```python
        data = DtoolDataModule("file:///data/leaves", batch_size=64, val_split=0.2, test_split=0.1)
        L.Trainer(max_epochs=10).fit(LeafNet(), data)
        ```
    """

    def __init__(
        self,
        uri: str | os.PathLike[str] | None = None,
        train_uri: str | os.PathLike[str] | None = None,
        val_uri: str | os.PathLike[str] | None = None,
        test_uri: str | os.PathLike[str] | None = None,
        predict_uri: str | os.PathLike[str] | None = None,
        val_split: float = 0.0,
        test_split: float = 0.0,
        split_overlay: str | None = None,
        select: dict[str, Any] | None = None,
        stratify: bool = False,
        seed: int = 0,
        target: str | Callable[[Any], Any] | None = None,
        decoder: Callable[[Any], Any] | None = None,
        train_transform: Callable[[Any], Any] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        drop_last: bool = False,
        collate_fn: Callable[[Any], Any] | None = None,
        decoded_cache: bool = False,
    ) -> None:
        super().__init__()
        uri, train_uri, val_uri, test_uri, val_split, test_split, split_overlay = rerun.redirect_data(
            {
                "uri": uri,
                "train_uri": train_uri,
                "val_uri": val_uri,
                "test_uri": test_uri,
                "val_split": val_split,
                "test_split": test_split,
                "split_overlay": split_overlay,
            }
        ).values()
        # Plain values, because they become hyperparameters in checkpoints, which load safely only if they are.
        # Whole URIs, because a record is read in other working directories.
        uri, train_uri, val_uri, test_uri, predict_uri = (
            None if value is None else normalize_uri(value)
            for value in (uri, train_uri, val_uri, test_uri, predict_uri)
        )
        select = None if select is None else {name: _plain(value) for name, value in select.items()}
        # logger=False: a DataModule that logs its batch_size next to a model that does so, too, is an error.
        hidden = list(_CALLABLES) if callable(target) else [name for name in _CALLABLES if name != "target"]
        self.save_hyperparameters(logger=False, ignore=hidden)
        self.uri = uri
        self.train_uri = train_uri
        self.val_uri = val_uri
        self.test_uri = test_uri
        self.predict_uri = predict_uri
        self.val_split = val_split
        self.test_split = test_split
        self.split_overlay = split_overlay
        self.select = select
        self.stratify = stratify
        self.seed = seed
        self.target = target
        self.decoder = decoder
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.target_transform = target_transform
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.drop_last = drop_last
        self.collate_fn = collate_fn
        self.decoded_cache = decoded_cache
        self._opened: dict[str, DtoolDataset] = {}
        self._set_up: set[str] = set()
        self._facts: dict[str, dict[str, Any]] = {}
        self._check_arguments()

    @classmethod
    def from_uri(
        cls,
        uri: str | os.PathLike[str],
        /,
        *,
        trust_source: bool = False,
        verify: bool = True,
        **overrides: Any,
    ) -> "DtoolDataModule":
        """Make a module for a dataset, or the one that a checkpoint was trained with.

        Args:
            uri: The URI of a dataset, or of a checkpoint that this package wrote.
            trust_source: Whether functions and classes that the checkpoint's record names may be
                imported. Without it only torchvision's transforms are.
            verify: Whether to compare the content digests of the datasets with the record's.
            **overrides: Arguments of this class, in place of recorded ones; for instance a dataset's
                new address, or a transform that cannot be imported.

        Returns:
            The module, not yet set up.

        Raises:
            ConfigurationError: If an argument cannot be built again from the record.
            RecordError: If the checkpoint's record cannot be read, or names no module of this class.
            VerificationError: If the record differs from its hash, or a dataset's content from what the checkpoint
                was trained on.
            DatasetNotFoundError: If a dataset is not where it was; pass its new address.

        Example:
            ```python
            data = DtoolDataModule.from_uri("file:///models/leafnet-0003", num_workers=2)
            ```
        """
        source = FrozenDataset.from_uri(uri)
        if generate_identifier(RECORD_ITEM) not in source.items:
            return cls(source.uri, **overrides)
        record = read_record(source)
        arguments = {
            name: rebuild(value, argument=name, trust_source=trust_source)
            for name, value in recorded_arguments(record, source.uri, cls).items()
            if name not in overrides
        }
        module = cls(**{**arguments, **overrides})
        if verify:
            verify_data(record, source.uri, module._places())
        return module

    # -- Lightning's hooks ------------------------------------------------------------------------

    @property
    def trainer(self) -> pl.Trainer | None:
        """The Trainer that this module is attached to."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        refuse_other_namespace(trainer, "trainer")
        self._trainer = trainer

    def prepare_data(self) -> None:
        """Fetch the items that the Trainer is about to use, unless they are on this machine; once per machine.

        With `decoded_cache`, also decode images that nobody has decoded yet.

        Without a Trainer the items of every stage are fetched.

        Raises:
            MissingItemError, VerificationError, StoreError: If items cannot be fetched; and what opening the
                datasets raises.
        """
        wanted: dict[str, tuple[FrozenDataset, dict[str, None]]] = {}
        running = None if self._trainer is None else self._trainer.state.fn
        stages = STAGES if running is None else _STAGES_OF[running.value]
        for stage in stages:
            dataset = self._dataset(stage)
            if dataset is not None:
                _, identifiers = wanted.setdefault(dataset.dataset.uri, (dataset.dataset, {}))
                identifiers.update(dict.fromkeys(dataset.identifiers))
        for frozen, chosen in wanted.values():
            frozen.fetch(chosen)
        for stage in stages:
            dataset = self._dataset(stage)
            if dataset is not None:
                dataset.fill_decoded_cache()

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets that a stage needs, and divide them; metadata only is read, and only once.

        Args:
            stage: "fit", "validate", "test" or "predict"; None for whatever is configured.

        Raises:
            ConfigurationError: If nothing says which data the stage has.
            SelectionError, MetadataKeyError, DecodeError: If the data does not have what was asked for.
        """
        for name in STAGES if stage is None else _STAGES_OF[stage]:
            dataset = self._dataset(name)
            needed = stage is not None and (stage != "fit" or name == "train")
            if dataset is None and needed:
                raise self._nothing_for(name)
            self._set_up.add(name)
        if self.uri is not None:
            # The other parts of the one dataset cost nothing, and a record wants to know what was held out.
            self._set_up.update(name for name in ("train", "val", "test") if getattr(self, f"{name}_uri") is None)
        if stage == "fit" and self._trainer is not None and self._dataset("val") is None:
            # Lightning skips a loader that nobody has overridden, and warns about one that is empty.
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]

    def teardown(self, stage: str | None = None) -> None:
        """Undo what `setup` hid from a fit without validation data."""
        self.__dict__.pop("val_dataloader", None)

    def train_dataloader(self) -> StatefulDataLoader:
        """Return the loader for training, shuffled by (seed, epoch), which can resume inside an epoch."""
        dataset = self._needed("train")
        # Here too, so that workers inherit what is open.
        dataset.fill_decoded_cache()
        loader = StatefulDataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=ResumableSampler(dataset, seed=self.seed + rerun.order_seed_offset()),
            drop_last=self.drop_last,
            **self._loader_arguments(),
        )
        # With `reload_dataloaders_every_n_epochs` this one goes on where another left off.
        loader.order_digests = self.order_digests()
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader for validation, or an empty list if there is nothing to validate on."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader for testing, or an empty list if there is nothing to test on."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader for prediction, whose batches hold items without targets."""
        return self._plain_loader(self._needed("predict"))

    def state_dict(self) -> dict[str, Any]:
        """Return which data training runs on, as plain values; the loader keeps the position in it."""
        facts = self._stage_facts("train") if "train" in self._opened else {}
        return {key: facts[key] for key in ("uri", "content_digest", "selection_digest") if key in facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if training goes on with other data than it began with.

        Args:
            state_dict: What `state_dict` returned.
        """
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        if not fitting or not state_dict or self._dataset("train") is None:
            return
        now = self.state_dict()
        if any(now[key] != state_dict.get(key) for key in ("content_digest", "selection_digest")):
            warnings.warn(
                f"Training resumes on other data than it began with: {now['uri']} has other items, or others of"
                f" them are chosen, than {state_dict.get('uri')} had. What was held out may now be trained on.",
                ProvenanceWarning,
                stacklevel=2,
            )

    # -- what is known about the data -------------------------------------------------------------

    @property
    def classes(self) -> list[Any] | None:
        """The classes in order of their numbers; None if targets are no classes. Opens the training data."""
        dataset = self._dataset("train") or self._dataset("val") or self._dataset("test")
        return None if dataset is None else dataset.classes

    @property
    def num_classes(self) -> int | None:
        """How many outputs a classifier needs: the highest class number and one; None without classes."""
        dataset = self._dataset("train") or self._dataset("val") or self._dataset("test")
        return 1 + max(dataset.class_to_idx.values()) if dataset is not None and dataset.class_to_idx else None

    def description(self) -> dict[str, Any]:
        """Describe the module and its data, as strict JSON; no item is read.

        Returns:
            `arguments`: what the module was made with, callables as structure (see `describing`).
            `stages`: for each stage that is set up, and every part of the one `uri`: `uri`, `uuid`, `name`,
            `content_digest`, `count` (samples), `selection_digest` (over the sorted identifiers of the
            samples), `classes` in order of their numbers, `class_to_idx` and `class_counts`; the last three
            are None if targets are no classes.
        """
        names = [name for name in inspect.signature(DtoolDataModule.__init__).parameters if name != "self"]
        return {
            "arguments": {name: describe(getattr(self, name)) for name in names},
            "stages": {
                stage: self._stage_facts(stage) for stage in STAGES if stage in self._set_up and self._dataset(stage)
            },
        }

    def order_digests(self) -> dict[str, str]:
        """Return, by epoch, a digest of the order in which this process has trained on its samples so far.

        Two runs can be told apart at the first epoch whose digest differs. A run that stopped inside an epoch and
        went on has the digests of one that never stopped. In a distributed run each process has an order,
        and so digests, of its own. How a digest is computed says `StatefulDataLoader.order_digests`; the samples are
        numbered as in the stage `train`, whose `selection_digest` names them.

        Returns:
            `sha256:…` by the epoch's number as text; empty before training, and where the Trainer has put another
            sampler in place of ours (`overfit_batches`).
        """
        running = None if self._trainer is None else self._trainer.train_dataloader
        for loader in [] if running is None else CombinedLoader(running).flattened:
            if isinstance(loader, StatefulDataLoader):
                return dict(loader.order_digests)
        return {}

    def holds(self, stage: str, dataset: object) -> bool:
        """Tell whether a dataset is the one that this module has made for a stage."""
        return self._opened.get(stage) is dataset

    def selection(self, stage: str) -> dict[str, Any]:
        """Say how a stage's samples were chosen, as strict JSON.

        Args:
            stage: "train", "val", "test" or "predict".

        Returns:
            `select` if items were chosen by overlays; `by`, which is `fractions` (then with `val_split`, `test_split`,
            `seed` and `stratify`), `overlay` (then with `overlay` and the `values` that stand for this stage) or
            `whole`; and `part`, the stage.
        """
        chosen: dict[str, Any] = {"part": stage, "by": "whole"}
        if self.select:
            chosen["select"] = describe(self.select)["dict"]
        dataset = self._dataset(stage)
        if dataset is None or self.uri is None or getattr(self, f"{stage}_uri") is not None:
            return chosen
        if self._dividing_overlay is not None:
            values = dataset.dataset.overlay(self._dividing_overlay)
            found = {json.dumps(values[identifier]): values[identifier] for identifier in dataset.identifiers}
            names = describe([found[text] for text in sorted(found)])
            return {**chosen, "by": "overlay", "overlay": self._dividing_overlay, "values": names}
        if stage == "predict" or not (self.val_split or self.test_split):
            return chosen
        settings = {name: describe(getattr(self, name)) for name in ("val_split", "test_split", "seed", "stratify")}
        return {**chosen, "by": "fractions", **settings}

    def _stage_facts(self, stage: str) -> dict[str, Any]:
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
                "classes": None if numbers is None else [str(name) for name in numbers],
                "class_to_idx": None if numbers is None else {str(name): number for name, number in numbers.items()},
                "class_counts": None if counts is None else {str(name): count for name, count in counts.items()},
            }
        return self._facts[stage]

    # -- opening and dividing ---------------------------------------------------------------------

    def _check_arguments(self) -> None:
        if self.uri is not None and self.train_uri is not None:
            raise ConfigurationError(
                f"Both uri={self.uri!r} and train_uri={self.train_uri!r} are given. Give `uri` for one dataset that is"
                " divided into stages, or `train_uri` for one that is trained on whole."
            )
        if all(getattr(self, f"{stage}_uri") is None for stage in STAGES) and self.uri is None:
            raise ConfigurationError("There is no data: give `uri`, or `train_uri` (and `val_uri`, `test_uri`, …).")
        check_fractions(self.val_split, self.test_split)
        if self.uri is None and (self.val_split or self.test_split or self.split_overlay):
            raise ConfigurationError(
                "val_split, test_split and split_overlay divide the one dataset `uri`, and there is none."
                " Pass the dataset as `uri` instead of `train_uri`."
            )
        if self.split_overlay and (self.val_split or self.test_split):
            raise ConfigurationError(
                f"split_overlay={self.split_overlay!r} already says which item is for which stage;"
                " leave out val_split and test_split."
            )
        for stage, fraction in (("val", self.val_split), ("test", self.test_split)):
            if getattr(self, f"{stage}_uri") is not None and (fraction or self.split_overlay):
                raise ConfigurationError(
                    f"{stage}_uri is given, and so is {f'{stage}_split' if fraction else 'split_overlay'}:"
                    f" the data for {stage} can come from one of them only."
                )
        for name in ("batch_size", "eval_batch_size"):
            size = getattr(self, name)
            if name == "batch_size" or size is not None:
                _check_count(name, size, 1)
        _check_count("num_workers", self.num_workers, 0)
        if self.decoded_cache and self.decoder is not None:
            raise ConfigurationError(
                "decoded_cache=True keeps what this package's own decoders give, and decoder=... is given: whether it"
                " would still give the same cannot be told. Leave out one of the two."
            )
        if self.persistent_workers and not self.num_workers:
            raise ConfigurationError("persistent_workers=True needs workers: set num_workers above 0.")

    def _dataset(self, stage: str) -> DtoolDataset | None:
        """Return a stage's samples, opened once; None if the stage has no data."""
        if stage not in self._opened:
            dataset = self._divided_or_own(stage)
            if dataset is None:
                return None
            dataset.transform = self.train_transform if stage == "train" else self.eval_transform
            dataset.target_transform = self.target_transform
            self._opened[stage] = dataset
        return self._opened[stage]

    def _divided_or_own(self, stage: str) -> DtoolDataset | None:
        own = getattr(self, f"{stage}_uri")
        if own is not None:
            # Items to predict on are often not labelled yet.
            return self._open(own, labelled=stage != "predict", numbered_by=None if stage == "train" else "train")
        if self.uri is None:
            return None
        if stage == "predict":
            return self._whole.subset(self._parts["predict"] or range(len(self._whole)), targets=False)
        return self._whole.subset(self._parts[stage]) if self._parts[stage] else None

    def _open(self, uri: str, *, labelled: bool, numbered_by: str | None) -> DtoolDataset:
        trained_on = self._dataset(numbered_by) if numbered_by and labelled else None
        dataset = DtoolDataset(
            uri,
            select=self.select,
            decoder=self.decoder,
            target=self.target if labelled or not isinstance(self.target, str) else "none",
            class_to_idx=None if trained_on is None else trained_on.class_to_idx,
            decoded_cache=self.decoded_cache,
        )
        if trained_on is not None and (trained_on.class_to_idx is None) != (dataset.class_to_idx is None):
            raise ConfigurationError(
                f"The targets of {trained_on.dataset.uri} and of {dataset.dataset.uri} do not go together: one has"
                " classes, the other numbers or no targets. Name the same kind of overlay for both with target=..."
            )
        return dataset if labelled else dataset.subset(range(len(dataset)), targets=False)

    @cached_property
    def _whole(self) -> DtoolDataset:
        return self._open(str(self.uri), labelled=True, numbered_by=None)

    @cached_property
    def _dividing_overlay(self) -> str | None:
        divides = self.split_overlay or self.val_split or self.test_split or self.val_uri or self.test_uri
        return self.split_overlay if divides else self._whole.usetype_overlay

    @cached_property
    def _parts(self) -> dict[str, Sequence[int]]:
        whole, uri = self._whole, self._whole.dataset.uri
        if self._dividing_overlay is not None:
            if not whole.is_itemwise:
                raise SelectionError(
                    f"{uri} is a pair of arrays, whose rows have no overlays: split_overlay cannot divide them."
                    " Use val_split and test_split, or one dataset per stage."
                )
            values = whole.dataset.overlay(self._dividing_overlay)
            chosen = [values[identifier] for identifier in whole.identifiers]
            return dict(split_by_overlay(chosen, overlay=self._dividing_overlay, uri=uri))
        if self.stratify and whole.class_to_idx is None:
            raise SelectionError("stratify=True keeps the proportions of classes, and its targets are none.", uri=uri)
        split = split_by_fraction(
            whole.names,
            val_split=self.val_split,
            test_split=self.test_split,
            seed=self.seed,
            labels=whole.targets if self.stratify else None,
            uri=uri,
        )
        return {"train": split.train, "val": split.val, "test": split.test, "predict": ()}

    # -- small things -----------------------------------------------------------------------------

    def _needed(self, stage: str) -> DtoolDataset:
        dataset = self._dataset(stage)
        if dataset is None:
            raise self._nothing_for(stage)
        return dataset

    def _places(self) -> dict[str, tuple[str, str]]:
        """Return where the data of each stage is, and the argument that says so."""
        own = {stage: (getattr(self, f"{stage}_uri"), f"{stage}_uri") for stage in STAGES}
        places = {stage: (uri, name) if uri is not None else (self.uri, "uri") for stage, (uri, name) in own.items()}
        return {stage: (uri, name) for stage, (uri, name) in places.items() if uri is not None}

    def _nothing_for(self, stage: str) -> ConfigurationError | SelectionError:
        if self.uri is None:
            return ConfigurationError(f"There is no data for {stage!r}: pass {stage}_uri=...")
        if self._dividing_overlay is not None:
            values = describe_values(self._whole.dataset.overlay(self._dividing_overlay).values())
            return SelectionError(
                f"No chosen item of {self.uri} is for {stage!r}, by overlay {self._dividing_overlay!r},"
                f" whose values are {values}. Correct the overlay, or choose other items with select=..."
            )
        return ConfigurationError(
            f"There is no data for {stage!r}: all of {self.uri} is used otherwise."
            f" Pass {stage}_split=..., a split_overlay, or {stage}_uri=..."
        )

    def _eval_dataloader(self, stage: str) -> DataLoader[Any] | list[Any]:
        dataset = self._dataset(stage)
        return [] if dataset is None else self._plain_loader(dataset)

    def _plain_loader(self, dataset: DtoolDataset) -> DataLoader[Any]:
        dataset.fill_decoded_cache()
        return SeededDataLoader(dataset, batch_size=self.eval_batch_size or self.batch_size, **self._loader_arguments())

    def _loader_arguments(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.persistent_workers,
            "collate_fn": self.collate_fn,
        }


def _plain(value: Any) -> Any:
    """Return a value that a safe load of a checkpoint accepts: lists for any collection."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} is {value!r}; expected a whole number, at least {least}.")
