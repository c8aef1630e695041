"""The LightningDataModule for frozen dtool datasets."""

import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from lightning_dtool import rerun
from lightning_dtool._public import public
from lightning_dtool.data.arguments import check_arguments, plain
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.data.loaders import SeededDataLoader, StatefulDataLoader
from lightning_dtool.data.recorded_data import (
    permit_recorded,
    rebuilt,
    recorded_arguments,
    verify_data,
    verify_stages,
)
from lightning_dtool.data.sampler import ResumableSampler
from lightning_dtool.data.selection import STAGES
from lightning_dtool.data.stages import Stages
from lightning_dtool.errors import ProvenanceWarning
from lightning_dtool.items import RECORD_ITEM
from lightning_dtool.loading.opening import read_record
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.store import Addresses, FrozenDataset, generate_identifier, normalize_uri
from lightning_dtool.values.reading import decode
from lightning_dtool.values.writing import encode

_CALLABLES = ("target", "decoder", "train_transform", "eval_transform", "target_transform", "collate_fn")
_IDENTITY = ("content_digest", "selection_digest", "targets_digest")
_STAGES_OF = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


@public
class DtoolDataModule(pl.LightningDataModule):
    """A LightningDataModule for frozen dtool datasets.

    Pass one dataset as `uri` and divide it by fractions or by an overlay, or pass a dataset for each stage. The split,
    and the order of the training samples in each epoch, depend on `seed` alone: `seed_everything` does not change them,
    and no global random number is drawn. Training can be resumed exactly at any batch, also inside an epoch.

    `fit` skips validation if there is no data for it. `trainer.validate`, `trainer.test` and `trainer.predict` without
    data raise an error. Batches for `predict` hold items without targets. With one `uri`, these are the items that
    `split_overlay` marks for prediction, or all items if it marks none.

    Use `DtoolDataset` with a DataModule of your own if you need several datasets in one stage, a sampler with weights,
    or anything but one sample per item or array row. The record then holds the datasets, but it cannot rebuild your
    DataModule.

    Args:
        uri: The URI or the folder of a dataset that is divided into stages.
        train_uri: The dataset for training, instead of `uri`.
        val_uri: The dataset for validation.
        test_uri: The dataset for testing.
        predict_uri: The dataset for prediction.
        val_split: The fraction of the items of `uri` for validation, at least 0 and below 1. Default: 0, no validation.
        test_split: The fraction for testing. The remaining items are for training. Default: 0, no testing.
        split_overlay: The overlay of `uri` whose values name the stages: train, val, test, predict, or a usual synonym
            such as training, valid, validation, dev or testing, in upper or lower case. Default: dtoolAI's image
            datasets are divided by their overlay `usetype`, unless another argument divides them; other datasets are
            not divided.
        select: Overlay names, each with the wanted value or a list of values. Every dataset is reduced to the matching
            items before it is divided. Default: all items.
        stratify: Split each class by the fractions, so that the parts keep the proportions of the classes. Default:
            False.
        seed: The seed of the split and of the order. Default: 0.
        target: An overlay's name, "folder", "none", or a function from an `Item` to its target; see `DtoolDataset`.
            Classes are numbered by the training data, for every stage. Default: the overlay `category` if there is one.
        decoder: A function from the path of an item's local file to its value. Default: chosen by the file's suffix.
        train_transform: A function that is called with each item for training: a PIL image, or a tensor for arrays.
        eval_transform: The same for validation, testing and prediction.
        target_transform: A function that is called with each target.
        batch_size: The number of samples per batch and process. Default: 32.
        eval_batch_size: The batch size for validation, testing and prediction. Default: `batch_size`.
        num_workers: The number of worker processes per loader. Default: 0, which loads data in the main process.
        pin_memory: Put batches into page-locked memory, from which they are copied to a GPU faster. Default: False.
        persistent_workers: Keep the workers alive between epochs; needs `num_workers` above 0. Default: False.
        drop_last: Leave out the last training batch of an epoch if it is smaller. Default: False.
        collate_fn: A function that makes a batch from a list of samples. Default: torch's.
        decoded_cache: Keep decoded images in a memory-mapped file below `DTOOL_CACHE_DIRECTORY`; see `DtoolDataset`.
            `prepare_data` fills it. Default: False.
        verify: Compare each item with its recorded hash when it is first read; see `DtoolDataset`. Default: True.

    Raises:
        ConfigurationError: If arguments do not fit together. Errors that depend on the data are raised by
            `prepare_data` and `setup`, before training starts; see `DtoolDataset`.
        InvalidURIError: If a URI is malformed, or if no installed storage broker reads it.

    Example:
        >>> data = DtoolDataModule("data/leaves", batch_size=4, val_split=0.25)
        >>> data.setup("fit")
        >>> data.classes
        ['elm', 'oak']
        >>> images, labels = next(iter(data.val_dataloader()))
        >>> images.shape, labels.dtype
        (torch.Size([2, 3, 8, 8]), torch.int64)
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
        verify: bool = True,
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
        # Hyperparameters are stored in checkpoints, and only plain values load safely.
        # URIs are absolute, because a record may be read in another working directory.
        uri, train_uri, val_uri, test_uri, predict_uri = (
            None if value is None else normalize_uri(value)
            for value in (uri, train_uri, val_uri, test_uri, predict_uri)
        )
        select = None if select is None else {name: plain(value) for name, value in select.items()}
        # logger=False: Lightning raises an error if the DataModule and the model log different values of a name.
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
        self.verify = verify
        self._set_up: set[str] = set()
        check_arguments(self)
        self._stages = Stages(self)

    @classmethod
    def from_uri(
        cls,
        uri: str | os.PathLike[str],
        /,
        *,
        trust_source: bool = False,
        verify: bool = True,
        online: bool = False,
        **overrides: Any,
    ) -> "DtoolDataModule":
        """Build a DataModule for a dataset, or rebuild the one that a checkpoint was trained with.

        Args:
            uri: The URI of a dataset, or of a checkpoint that this package wrote.
            trust_source: Allow to import functions and classes that the checkpoint's record names. Importing runs
                their modules. Default: only torchvision's transforms are imported.
            verify: Compare the datasets with the record: their content digests, the selection and the targets of each
                stage, and the bytes of all selected items on this machine that were not verified before. False also
                becomes the argument `verify` of the DataModule, which then uses the data as it is. Default: True.
            online: Open the recorded datasets in whatever store they are. Default: only in the store of the checkpoint,
                on disk if the checkpoint is on disk or in a store of yours, and in stores that you have configured.
            **overrides: Arguments of this class that replace recorded ones, for example a dataset's new URI, or a
                transform to use in place of one that cannot be imported.

        Returns:
            The DataModule. Its `setup` has not been called.

        Raises:
            ConfigurationError: If an argument cannot be rebuilt from the record.
            RecordError: If the checkpoint's record cannot be read, or if it names another class.
            VerificationError: If the record differs from its hash, or the data from that which the checkpoint was
                trained on.
            DatasetNotFoundError: If a dataset is no longer at its recorded URI; pass the new URI.

        Example:
            ```python
            data = DtoolDataModule.from_uri("models/leafnet", batch_size=4)
            data.val_split  # 0.25, as in the training
            ```
        """
        source = FrozenDataset.from_uri(uri)
        if generate_identifier(RECORD_ITEM) not in source.items:
            return cls(source.uri, verify=verify, **overrides)
        record = read_record(source)
        arguments = {
            name: decode(value, argument=name, trust_source=trust_source)
            for name, value in recorded_arguments(record, source.uri, cls).items()
            if name not in overrides
        }
        addresses = Addresses(source.uri, given=overrides.values(), online=online)
        permit_recorded(arguments, addresses)
        module = rebuilt(cls, arguments, {**overrides, "verify": verify}, source.uri)
        if verify:
            verify_data(record, source.uri, module._stages.places(), addresses)
            verify_stages(record, source.uri, module._stages, overrides)
        return module

    # -- Lightning's hooks ------------------------------------------------------------------------

    @property
    def trainer(self) -> pl.Trainer | None:
        """The Trainer that this DataModule is attached to."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        refuse_other_namespace(trainer, "trainer")
        self._trainer = trainer

    def prepare_data(self) -> None:
        """Fetch the items that the Trainer is about to use to this machine.

        Without a Trainer, the items of every stage are fetched. Items that are on this machine are not fetched again.
        With `decoded_cache`, images are decoded too, unless the cache holds them.

        Raises:
            MissingItemError, VerificationError, StoreError: If items cannot be fetched, or differ from their hashes.
            ConfigurationError, SelectionError, MetadataKeyError, DecodeError: If the data does not fit the arguments.
        """
        wanted: dict[str, tuple[FrozenDataset, dict[str, None]]] = {}
        running = None if self._trainer is None else self._trainer.state.fn
        stages = STAGES if running is None else _STAGES_OF[running.value]
        for stage in stages:
            dataset = self._stages.dataset(stage)
            if dataset is not None:
                _, identifiers = wanted.setdefault(dataset.dataset.uri, (dataset.dataset, {}))
                identifiers.update(dict.fromkeys(dataset.identifiers))
        for frozen, chosen in wanted.values():
            frozen.fetch(chosen)
        for stage in stages:
            dataset = self._stages.dataset(stage)
            if dataset is not None:
                dataset.fill_decoded_cache()

    def setup(self, stage: str | None = None) -> None:
        """Open and divide the datasets that a stage needs. Reads only metadata, and each dataset only once.

        Args:
            stage: "fit", "validate", "test" or "predict"; None for every stage that has data.

        Raises:
            ConfigurationError: If the stage has no data.
            SelectionError, MetadataKeyError, DecodeError: If the data does not fit the arguments.
        """
        for name in STAGES if stage is None else _STAGES_OF[stage]:
            if stage is not None and (stage != "fit" or name == "train"):
                self._stages.needed(name)
            else:
                self._stages.dataset(name)
            self._set_up.add(name)
        if self.uri is not None:
            # Dividing `uri` defines the other parts as well. The record lists them, because they were held out.
            self._set_up.update(name for name in ("train", "val", "test") if getattr(self, f"{name}_uri") is None)
        if stage == "fit" and self._trainer is not None and self._stages.dataset("val") is None:
            # Lightning skips a loader method that is not overridden, but warns about a loader without batches.
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]

    def teardown(self, stage: str | None = None) -> None:
        """Restore the `val_dataloader` that `setup` hides from a fit without validation data."""
        self.__dict__.pop("val_dataloader", None)

    def train_dataloader(self) -> StatefulDataLoader:
        """Return the loader for training. Its order depends on seed and epoch, and it can resume inside an epoch."""
        dataset = self._stages.needed("train")
        # Filled here as well as in `prepare_data`, so that workers inherit the open cache.
        dataset.fill_decoded_cache()
        loader = StatefulDataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=ResumableSampler(dataset, seed=self.seed + rerun.order_seed_offset()),
            drop_last=self.drop_last,
            **self._loader_arguments(),
        )
        # With `reload_dataloaders_every_n_epochs`, the new loader continues the digests of the previous one.
        loader.order_digests = self.order_digests()
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader for validation, or an empty list if there is no data."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader for testing, or an empty list if there is no data."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader for prediction, whose batches hold items without targets."""
        return self._plain_loader(self._stages.needed("predict"))

    def state_dict(self) -> dict[str, Any]:
        """Return the identity of the training data as plain values. The loader's state holds the position in it."""
        facts = self._stages.facts("train") if self._stages.is_open("train") else {}
        return {key: facts[key] for key in ("uri", *_IDENTITY) if key in facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if training resumes with data other than the data it began with.

        Args:
            state_dict: The value that `state_dict` returned.
        """
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        if not fitting or not state_dict or self._stages.dataset("train") is None:
            return
        now = self.state_dict()
        if any(now[key] != state_dict.get(key) for key in _IDENTITY):
            warnings.warn(
                f"Training resumes with other data than it began with: the items of {now['uri']}, the selection from"
                f" them, or their targets differ from those of {state_dict.get('uri')}. The model may now be trained on"
                " samples that were held out before.",
                ProvenanceWarning,
                stacklevel=2,
            )

    # -- what is known about the data -------------------------------------------------------------

    @property
    def classes(self) -> list[Any] | None:
        """The classes in the order of their numbers; None if the targets are not classes. Opens the training data."""
        dataset = self._stages.dataset("train") or self._stages.dataset("val") or self._stages.dataset("test")
        return None if dataset is None else dataset.classes

    @property
    def num_classes(self) -> int | None:
        """The number of outputs that a classifier needs: the highest class number plus 1; None without classes."""
        dataset = self._stages.dataset("train") or self._stages.dataset("val") or self._stages.dataset("test")
        return 1 + max(dataset.class_to_idx.values()) if dataset is not None and dataset.class_to_idx else None

    def description(self) -> dict[str, Any]:
        """Describe this DataModule and its data as strict JSON. Reads no item.

        Returns:
            `arguments`: the arguments of this DataModule, as they are written into a record.
            `stages`: for each stage that is set up, and for each part of `uri`: `uri`, `uuid`, `name`,
            `content_digest`, `count` (the number of samples), `selection_digest` (a digest of the sorted identifiers of
            the samples), `targets_digest` (a digest of the samples with their targets; None without targets),
            `classes` in the order of their numbers, `class_to_idx` and `class_counts`. The last three are None if the
            targets are not classes.
        """
        names = [name for name in inspect.signature(DtoolDataModule.__init__).parameters if name != "self"]
        return {
            "arguments": {name: encode(getattr(self, name)) for name in names},
            "stages": {
                stage: self._stages.facts(stage)
                for stage in STAGES
                if stage in self._set_up and self._stages.dataset(stage)
            },
        }

    def order_digests(self) -> dict[str, str]:
        """Return a digest for each epoch of the order in which this process has trained on its samples so far.

        Two runs trained in the same order up to the first epoch whose digests differ. A run that was interrupted inside
        an epoch and resumed has the same digests as an uninterrupted run. In a distributed run, each process has its
        own order and digests. `StatefulDataLoader.order_digests` defines a digest. The indices are those of the stage
        `train`, whose `selection_digest` identifies the samples.

        Returns:
            `sha256:…` for each epoch, with the epoch's number as text. Empty before training, and if the Trainer
            replaces the sampler (`overfit_batches`).
        """
        running = None if self._trainer is None else self._trainer.train_dataloader
        for loader in [] if running is None else CombinedLoader(running).flattened:
            if isinstance(loader, StatefulDataLoader):
                return dict(loader.order_digests)
        return {}

    def holds(self, stage: str, dataset: object) -> bool:
        """Tell whether a dataset is the one that this DataModule opened for a stage."""
        return self._stages.holds(stage, dataset)

    def selection(self, stage: str) -> dict[str, Any]:
        """Describe how a stage's samples were selected, as strict JSON.

        Args:
            stage: "train", "val", "test" or "predict".

        Returns:
            `part`: the stage.
            `by`: "fractions", with `val_split`, `test_split`, `seed` and `stratify`; "overlay", with `overlay` and the
            `values` that stand for this stage; or "whole".
            `select`: the argument, if it was given.
        """
        return self._stages.selection(stage)

    def _eval_dataloader(self, stage: str) -> DataLoader[Any] | list[Any]:
        dataset = self._stages.dataset(stage)
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
