"""The map-style torch Dataset for a frozen dtool dataset."""

import copy
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from lightning_dtool._public import public
from lightning_dtool.data.decoding import after_to_tensor
from lightning_dtool.data.samples import DtoolAIImages, Items, Rows, open_samples
from lightning_dtool.data.targets import Targets, targets_digest
from lightning_dtool.errors import DecodeError, LightningDtoolError, MissingItemError, SelectionError
from lightning_dtool.store import FrozenDataset

USETYPE_OVERLAY = "usetype"

_OPENED_TOGETHER = 64
"""How many items are opened before the first of them is decoded."""


@public
class DtoolDataset(Dataset[Any]):
    """A frozen dtool dataset as a map-style torch `Dataset`. Samples are in the order of the items' relpaths.

    An item is decoded by its suffix: images with Pillow, `.npy` (memory-mapped) and `.npz` with NumPy, `.pt` with a
    safe `torch.load`, and text files as str; any other item is its bytes. Without a transform, an image becomes a
    float32 tensor of shape (channels, height, width) with values from 0 to 1 and the image's own channels. An array
    becomes a tensor of the same dtype. A transform receives the PIL image in its own mode (palette and CMYK images are
    converted to RGB), or the tensor.

    A dataset that consists of `data.npy` and `labels.npy` has one sample per row of these arrays. The same applies to
    dtoolAI's `TensorDataSet`, whose rows become float32 images with values from 0 to 1 and the annotated
    `image_dimensions`. Images of dtoolAI's `ImageDataSet` become RGB and, without a transform, 256 x 256 pixels, as in
    dtoolAI.

    `DtoolDataModule` makes and divides these datasets; use this class for loaders of your own. It is not for data in
    one large file of another format (HDF5, Zarr, Parquet, tar): each item is one sample.

    Args:
        uri: The dataset's URI, its folder, or an open `FrozenDataset`.
        select: Overlay names, each with the wanted value or a list of values. Default: all items.
        decoder: A function from the path of an item's local file to its value. A PIL image that it returns is handled
            like any other image. Default: chosen by the file's suffix.
        target: The target of each item: an overlay's name; "folder" for the name of the folder that holds the item;
            "none"; or a function from an `Item` to its target, called once per item when the dataset is opened.
            Strings, bools and ints are classes, which become class numbers (int64 in a batch). Classes are numbered in
            sorted order, or, for the overlay `category`, as the annotation `category_encoding` says. Floats and lists
            of numbers become float32 tensors. Default: the overlay `category` if there is one, else no targets.
        transform: A function that is called with each decoded item.
        target_transform: A function that is called with each target.
        class_to_idx: The number of each class, to use the numbers of other data.
        decoded_cache: Keep decoded images, uncompressed, in a memory-mapped file below `DTOOL_CACHE_DIRECTORY`. Later
            epochs and runs read them from this file; for small images this is several times as fast as decoding. The
            samples stay the same; transforms receive a plain PIL image with the same pixels and `info`. See
            `fill_decoded_cache`. Default: False.
        verify: Compare each item with its recorded hash when it is first read, before it is decoded. A later read, also
            in a later epoch, run or process, only looks whether the file has changed since. Items of a remote dataset
            are always compared when they are fetched. With False, the record of a training has a gap. Default: True.

    Raises:
        SelectionError: If no item is left.
        MetadataKeyError: If an overlay is missing, or does not cover every item.
        DecodeError: If a target is neither a class nor a number. Reading a sample that cannot be decoded also raises
            this error, which names the item.
        VerificationError: If an array of rows differs from its recorded hash. Reading a sample whose item differs also
            raises this error, which names the item.
        ConfigurationError: If arguments do not fit this dataset.
        DatasetNotFoundError, NotFrozenError, InvalidURIError, CorruptDatasetError, StoreError: If the dataset cannot be
            opened; see `FrozenDataset.from_uri`.

    Example:
        >>> oaks = DtoolDataset("data/leaves", select={"category": "oak"})
        >>> image, label = oaks[0]
        >>> image.shape, oaks.classes[label]
        (torch.Size([3, 8, 8]), 'oak')
    """

    def __init__(
        self,
        uri: str | os.PathLike[str] | FrozenDataset,
        *,
        select: Mapping[str, Any] | None = None,
        decoder: Callable[[Path], Any] | None = None,
        target: str | Callable[[Any], Any] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        class_to_idx: Mapping[Any, int] | None = None,
        decoded_cache: bool = False,
        verify: bool = True,
    ) -> None:
        self.dataset = uri if isinstance(uri, FrozenDataset) else FrozenDataset.from_uri(uri)
        self.transform = transform
        self.target_transform = target_transform
        if not self.dataset.relpaths:
            raise SelectionError("the dataset has no items.", uri=self.dataset.uri)
        self._samples = open_samples(self.dataset, select, decoder, target, class_to_idx, verify=verify)
        self._positions: Sequence[int] = range(len(self._samples.names))
        if decoded_cache:
            self._samples.keep_decoded()

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dataset.uri!r}, {len(self)} samples)"

    def __getitem__(self, index: int) -> Any:
        """Return a sample: the item alone, or the pair of item and target where there are targets.

        Raises:
            DecodeError: If the item cannot be decoded, or a transform fails on it.
            VerificationError: If the item differs from its recorded hash.
            MissingItemError: If the store no longer holds the item.
            IndexError: If there is no such sample.
        """
        return self._loaded(self._positions[index])

    def _loaded(self, position: int, file: BinaryIO | None = None) -> Any:
        """Return a sample, whose item may have been opened before."""
        try:
            rest = after_to_tensor(self.transform)
            value = None if rest is None else self._samples.kept_tensor(position)
            if value is not None:  # the tensor is what `ToTensor` would return
                return self._sample(position, value, rest)
            value = self._samples.load(position, as_tensor=self.transform is None, file=file)
        except LightningDtoolError:
            raise
        except Exception as error:
            raise self._failure("decode", position, error) from error
        return self._sample(position, value)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of a batch. In a worker process, first seed its random number generators for this batch.

        Args:
            indices: The indices of the samples. If they have an attribute `seed`, as those of `SeededDataLoader`, a
                worker seeds the generators of Python, NumPy and torch with it.
        """
        seed = getattr(indices, "seed", None)
        if seed is not None and get_worker_info() is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            # Not `torch.manual_seed`, which takes a hundred times as long, because it looks for every kind of
            # accelerator.
            torch.default_generator.manual_seed(seed)
        if type(self).__getitem__ is not DtoolDataset.__getitem__:  # a subclass has samples of its own
            return [self[index] for index in indices]
        positions, samples = [self._positions[index] for index in indices], self._samples
        if isinstance(samples, Rows):
            try:
                values = samples.load_together(positions)
            except LightningDtoolError:
                raise
            except Exception as error:
                raise self._failure("decode", positions[0], error) from error
            return list(map(self._sample, positions, values))
        loaded: list[Any] = []
        for start in range(0, len(positions), _OPENED_TOGETHER):
            together = positions[start : start + _OPENED_TOGETHER]
            loaded += map(self._loaded, together, samples.open_together(together))
        return loaded

    def _sample(self, position: int, value: Any, transforms: Sequence[Callable[[Any], Any]] | None = None) -> Any:
        """Return the sample of a decoded item; `transforms` replace the transform."""
        doing = "transform"
        try:
            if transforms is not None:
                for transform in transforms:
                    value = transform(value)
            elif self.transform is not None:
                value = self.transform(value)
            if self._samples.targets is None:
                return value
            target = self._samples.targets.values[position]
            if self.target_transform is not None:
                doing = "transform the target of"
                target = self.target_transform(target)
        except LightningDtoolError:
            raise
        except Exception as error:
            raise self._failure(doing, position, error) from error
        return value, target

    def _failure(self, doing: str, position: int, error: Exception) -> LightningDtoolError:
        """Return the error to raise for an item."""
        name = self._samples.names[position]
        identifier = self._samples.identifiers_of([position])[0]
        if isinstance(error, FileNotFoundError) and not self.dataset.path(identifier).exists():
            return MissingItemError(
                f"item {name} ({identifier}) was removed after the dataset was opened. Restore the dataset from a"
                " copy.",
                uri=self.dataset.uri,
                item=self.dataset.relpaths[identifier],
            )
        return DecodeError(
            f"cannot {doing} item {name} ({identifier}): {type(error).__name__}: {error}."
            " Check the item, pass decoder=... for its format, or leave it out with select=...",
            uri=self.dataset.uri,
            item=self.dataset.relpaths[identifier],
        )

    def fill_decoded_cache(self, *, progress: bool = True) -> None:
        """Fill the decoded cache now, unless it is full. Without this call, reading the first sample fills it.

        Items are first verified against their recorded hashes. The cache is the file
        `lightning-dtool/decoded/<UUID>/<key>.images` in `DTOOL_CACHE_DIRECTORY`. The key depends on the items' content
        and on the versions of the decoders, so other data or another version of Pillow has its own file. The file holds
        all selected items of the dataset, including those that are not in this subset. It takes one byte per pixel and
        8-bit channel. You can delete such files at any time. If the file cannot be written, you get a warning, and
        images are decoded when they are read.

        Args:
            progress: Show a progress bar if the output is a terminal. Default: True.

        Raises:
            VerificationError: If an item differs from its recorded hash.
            MissingItemError, StoreError: If items cannot be fetched.
        """
        self._samples.fill(progress=progress)

    @property
    def identifiers(self) -> list[str]:
        """The identifiers of the items that hold the samples: one per sample, or those of the two arrays."""
        return self._samples.identifiers_of(self._positions)

    @property
    def relpaths(self) -> list[str]:
        """The relpaths of the items that hold the samples: one per sample, or those of the two arrays."""
        relpaths = self.dataset.relpaths
        return [relpaths[identifier] for identifier in self.identifiers]

    @property
    def names(self) -> list[str]:
        """A unique name per sample: its relpath, or `data.npy[17]` for a row of an array."""
        return [self._samples.names[position] for position in self._positions]

    @property
    def targets(self) -> list[Any] | None:
        """The target of each sample, before `target_transform`; None without targets."""
        targets = self._samples.targets
        return None if targets is None else [targets.values[position] for position in self._positions]

    @property
    def targets_digest(self) -> str | None:
        """A digest of the samples together with their targets, before `target_transform`; None without targets."""
        targets, positions = self._samples.targets, sorted(self._positions)
        if targets is None:
            return None
        samples = self._samples
        keys = samples.identifiers_of(positions) if self.is_itemwise else [samples.names[each] for each in positions]
        return targets_digest(keys, targets.at(positions))

    @property
    def is_verified(self) -> bool:
        """Whether each item is compared with its recorded hash before it is used."""
        return self._samples.verify if self.dataset.is_in_place else self.dataset.is_hash_known

    @property
    def classes(self) -> list[Any] | None:
        """The classes of the whole dataset in the order of their numbers; None if the targets are not classes."""
        return None if self.class_to_idx is None else list(self.class_to_idx)

    @property
    def class_to_idx(self) -> dict[Any, int] | None:
        """The number of each class; None if the targets are not classes."""
        return None if self._samples.targets is None else self._samples.targets.class_to_idx

    @property
    def class_counts(self) -> dict[Any, int] | None:
        """The number of samples of each class; None if the targets are not classes."""
        targets = self.targets
        return None if targets is None else Targets(targets, self.class_to_idx).class_counts

    @property
    def is_itemwise(self) -> bool:
        """Whether each sample is an item; if not, samples are rows of an array."""
        return isinstance(self._samples, Items)

    @property
    def usetype_overlay(self) -> str | None:
        """The overlay that divides this dataset by dtoolAI's convention; None for other datasets."""
        follows = isinstance(self._samples, DtoolAIImages) and USETYPE_OVERLAY in self.dataset.overlay_names()
        return USETYPE_OVERLAY if follows else None

    def subset(self, positions: Sequence[int], *, targets: bool = True) -> "DtoolDataset":
        """Return some of the samples as a new dataset. Reads nothing.

        Args:
            positions: The indices of the samples in this dataset.
            targets: Keep the targets. Without them, a sample is the item alone. Default: True.

        Returns:
            A dataset with the same classes and transforms. Its transforms can be replaced without changing this
            dataset.
        """
        subset = copy.copy(self)
        subset._positions = [self._positions[position] for position in positions]
        if not targets:
            subset._samples = copy.copy(self._samples)
            subset._samples.targets = None
        return subset
