"""A frozen dtool dataset as a map-style torch Dataset."""

import copy
import hashlib
import json
import os
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from lightning_dtool._public import public
from lightning_dtool.data.decoded_cache import DecodedImages, decoder_versions
from lightning_dtool.data.decoding import (
    after_to_tensor,
    array_to_tensor,
    decoder_for,
    image_to_tensor,
    open_array,
    pixels_to_tensor,
)
from lightning_dtool.data.selection import select_by_overlays
from lightning_dtool.data.targets import Targets, targets_of
from lightning_dtool.errors import (
    ConfigurationError,
    DecodeError,
    LightningDtoolError,
    MissingItemError,
    SelectionError,
)
from lightning_dtool.store import FrozenDataset, generate_identifier
from lightning_dtool.store.cache import cache_directory
from lightning_dtool.store.progress import progress_bar

DATA_ITEM = "data.npy"
LABELS_ITEM = "labels.npy"
DTOOLAI_TYPE = "dtoolAI.inputtype"
USETYPE_OVERLAY = "usetype"
DTOOLAI_IMAGE_SIZE = (256, 256)


@public
class DtoolDataset(Dataset[Any]):
    """The items of a frozen dataset, in order of their relpaths.

    An item is decoded by its suffix: images with Pillow, `.npy` (memory-mapped) and `.npz` with
    NumPy, `.pt` with a safe `torch.load`, text as str, anything else as bytes. Without a transform an
    image becomes a float tensor (channels, height, width) in [0, 1] with the image's own channels, and
    an array a tensor of its own dtype. A transform receives the PIL image, in its own mode (palettes and
    CMYK as RGB), or the tensor.

    Two arrays are samples row by row: a data set that consists of `data.npy` and `labels.npy` has as
    many samples as these have rows, and so has dtoolAI's `TensorDataSet`, whose rows become float
    images in [0, 1] of the annotated `image_dimensions`. The images of dtoolAI's `ImageDataSet` become RGB
    and, where there is no transform, 256 x 256 pixels, as in dtoolAI.

    Args:
        uri: The dataset's URI, or its path on disk.
        select: Overlay names, each with the wanted value or a list of them. All items by default.
        decoder: A function from an item's local path to a value, in place of the choice by suffix. If it returns
            a PIL image, that is treated like any other.
        target: What to predict: an overlay's name; `"folder"` for the name of the folder that an item
            is in; `"none"`; or a function from an `Item` to its value, called once per item when
            the dataset is opened. By default the overlay `category` if there is one. Strings, bools and
            ints are classes and become ints (int64 in a batch): numbered in sorted order, or
            by the annotation `category_encoding` for the overlay `category`. Floats and lists of
            numbers become float32 tensors.
        transform: Called with each decoded item.
        target_transform: Called with each target.
        class_to_idx: The number of each class, if other data has fixed it already.
        decoded_cache: Whether decoded images are kept, uncompressed, in a memory-mapped file below
            `DTOOL_CACHE_DIRECTORY`, from which every later epoch and run takes them: several times as fast for small
            images. False by default. A sample stays what it is; transforms see a plain PIL image with the same
            pixels and `info`. See `fill_decoded_cache`.

    Raises:
        SelectionError: If no item is left.
        MetadataKeyError: If an overlay is missing or does not cover every item.
        DecodeError: If a target is neither a class nor a number; when an item is read, if it cannot
            be decoded. The message names the item.
        ConfigurationError: If arguments do not fit this data set.
        DatasetNotFoundError, NotFrozenError, InvalidURIError, CorruptDatasetError, StoreError: As
            `FrozenDataset.from_uri`.

    Example:
        ```python
        digits = DtoolDataset("file:///data/digits", select={"usetype": "train"})
        image, label = digits[0]
        print(digits.classes, image.shape, label)
        ```
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
    ) -> None:
        self.dataset = uri if isinstance(uri, FrozenDataset) else FrozenDataset.from_uri(uri)
        self.transform = transform
        self.target_transform = target_transform
        if not self.dataset.relpaths:
            raise SelectionError(f"{self.dataset.uri} has no items: there is nothing to train on.")
        self._samples = _open_samples(self.dataset, select, decoder, target, class_to_idx)
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
            MissingItemError: If the store has lost the item.
            IndexError: If there is no such sample.
        """
        position = self._positions[index]
        try:
            rest = after_to_tensor(self.transform)
            value = None if rest is None else self._samples.kept_tensor(position)
            if value is not None:  # what the transform begins with is done
                return self._sample(position, value, rest)
            value = self._samples.load(position, as_tensor=self.transform is None)
        except LightningDtoolError:
            raise
        except Exception as error:
            raise self._failure("decode", position, error) from error
        return self._sample(position, value)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of a batch; in a worker, with random numbers that belong to this batch.

        Args:
            indices: Which samples. With a `seed`, as `StatefulDataLoader` hands them out, it is where a worker's
                generators (Python's, NumPy's and torch's) begin.
        """
        seed = getattr(indices, "seed", None)
        if seed is not None and get_worker_info() is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            # Not `torch.manual_seed`, which takes a hundred times as long: it asks for every kind of accelerator.
            torch.default_generator.manual_seed(seed)
        # A subclass may have made something else of a sample.
        if isinstance(self._samples, _Rows) and type(self).__getitem__ is DtoolDataset.__getitem__:
            positions = [self._positions[index] for index in indices]
            try:
                values = self._samples.load_together(positions)
            except LightningDtoolError:
                raise
            except Exception as error:
                raise self._failure("decode", positions[0], error) from error
            return list(map(self._sample, positions, values))
        return [self[index] for index in indices]

    def _sample(self, position: int, value: Any, transforms: Sequence[Callable[[Any], Any]] | None = None) -> Any:
        """Return a sample whose item is decoded; `transforms` stand for the transform."""
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
        """Return what to raise when something goes wrong with an item."""
        name = self._samples.names[position]
        identifier = self._samples.identifiers_of([position])[0]
        if isinstance(error, FileNotFoundError) and not self.dataset.path(identifier).exists():
            return MissingItemError(
                f"item {name} ({identifier}) has gone since the dataset was opened. Restore the dataset from a copy.",
                uri=self.dataset.uri,
                item=self.dataset.items[identifier].relpath,
            )
        return DecodeError(
            f"cannot {doing} item {name} ({identifier}): {type(error).__name__}: {error}."
            " Look at the item, pass decoder=... for its format, or leave it out with select=...",
            uri=self.dataset.uri,
            item=self.dataset.items[identifier].relpath,
        )

    def fill_decoded_cache(self, *, progress: bool = True) -> None:
        """Decode every image of `decoded_cache` now, unless that was done before; else the first sample does.

        Items are first compared with their recorded hashes. The file holds the selected items of the dataset, whichever
        of them are in this subset, and takes as many bytes as they have pixels and channels. It is
        `lightning-dtool/decoded/<UUID>/<key>.images` in `DTOOL_CACHE_DIRECTORY`, where the key stands for the items'
        content and for the versions that decode it: other data or another Pillow has a file of its own.
        Files may be removed at any time. If one cannot be written, images are decoded as ever, with a warning.

        Args:
            progress: Whether to show a progress bar, on a terminal only. True by default.

        Raises:
            VerificationError: If an item is not what the manifest says.
            MissingItemError, StoreError: If items cannot be fetched.
        """
        self._samples.fill(progress=progress)

    @property
    def identifiers(self) -> list[str]:
        """The identifiers of the items that are read: one per sample, or those of the two arrays."""
        return self._samples.identifiers_of(self._positions)

    @property
    def relpaths(self) -> list[str]:
        """The relpaths of the items that are read: one per sample, or those of the two arrays."""
        relpaths = self.dataset.relpaths
        return [relpaths[identifier] for identifier in self.identifiers]

    @property
    def names(self) -> list[str]:
        """A unique name per sample: its relpath, or `data.npy[17]` for a row of an array."""
        return [self._samples.names[position] for position in self._positions]

    @property
    def targets(self) -> list[Any] | None:
        """The target of each sample, before `target_transform`; None if there are none."""
        targets = self._samples.targets
        return None if targets is None else [targets.values[position] for position in self._positions]

    @property
    def classes(self) -> list[Any] | None:
        """The classes in order of their numbers, over the whole dataset; None if targets are no classes."""
        return None if self.class_to_idx is None else list(self.class_to_idx)

    @property
    def class_to_idx(self) -> dict[Any, int] | None:
        """The number of each class; None if targets are no classes."""
        return None if self._samples.targets is None else self._samples.targets.class_to_idx

    @property
    def class_counts(self) -> dict[Any, int] | None:
        """How many samples each class has here; None if targets are no classes."""
        targets = self.targets
        return None if targets is None else Targets(targets, self.class_to_idx).class_counts

    @property
    def is_itemwise(self) -> bool:
        """Whether each sample is an item, rather than a row of an array."""
        return isinstance(self._samples, _Items)

    @property
    def usetype_overlay(self) -> str | None:
        """The overlay that divides this dataset by dtoolAI's convention; None if there is no such convention."""
        follows = isinstance(self._samples, _DtoolAIImages) and USETYPE_OVERLAY in self.dataset.overlay_names()
        return USETYPE_OVERLAY if follows else None

    def subset(self, positions: Sequence[int], *, targets: bool = True) -> "DtoolDataset":
        """Return some of the samples as a dataset of their own; nothing is read again.

        Args:
            positions: Which samples, by their index here.
            targets: Whether samples keep their targets; if not, they are items alone.

        Returns:
            A dataset with the same classes and transforms, which may then be set on it.
        """
        subset = copy.copy(self)
        subset._positions = [self._positions[position] for position in positions]
        if not targets:
            subset._samples = copy.copy(self._samples)
            subset._samples.targets = None
        return subset


class _Samples(Protocol):
    """What a sample is: an item, or a row of an array."""

    names: Sequence[str]
    targets: Targets | None

    def load(self, position: int, *, as_tensor: bool) -> Any: ...
    def kept_tensor(self, position: int) -> torch.Tensor | None: ...
    def keep_decoded(self) -> None: ...
    def fill(self, *, progress: bool) -> None: ...
    def identifiers_of(self, positions: Sequence[int]) -> list[str]: ...


class _Items:
    """Each item is a sample."""

    def __init__(
        self,
        dataset: FrozenDataset,
        identifiers: list[str],
        names: Sequence[str],
        decoder: Callable[[Path], Any] | None,
        targets: Targets | None,
    ) -> None:
        self.dataset = dataset
        self.identifiers = identifiers
        self.names = names
        self.decoder = decoder
        self.targets = targets
        self.decoded: DecodedImages | None = None

    def load(self, position: int, *, as_tensor: bool) -> Any:
        kept = self.kept_tensor(position) if as_tensor else None
        if kept is not None:
            return kept
        self.fill(progress=get_worker_info() is None)
        value = None if self.decoded is None else self.decoded.image(position)
        if value is None:
            value = self._decode(position)
        return image_to_tensor(value) if as_tensor and isinstance(value, Image.Image) else value

    def kept_tensor(self, position: int) -> torch.Tensor | None:
        """Return what the decoded cache has of an image of 8 bits per channel."""
        if self.decoded is None:
            return None
        self.fill(progress=get_worker_info() is None)
        pixels = None if self.decoded is None else self.decoded.pixels(position)
        return None if pixels is None else pixels_to_tensor(pixels, 255)

    def _decode(self, position: int) -> Any:
        identifier = self.identifiers[position]
        if self.decoder is not None:
            return self.decoder(self.dataset.path(identifier))
        # Workers are new in each epoch: what is done once for an item is then done for each sample.
        return decoder_for(self.names[position])(self.dataset.abspath(identifier))

    def keep_decoded(self) -> None:
        if self.decoder is not None:
            raise ConfigurationError(
                "decoded_cache=True keeps what this package's own decoders give, and decoder=..."
                " is given: whether it would still give the same cannot be told. Leave out one of the two.",
                uri=self.dataset.uri,
            )
        content = self.dataset.content_digest_of(self.identifiers)
        key = hashlib.sha256(json.dumps([content, *decoder_versions()]).encode()).hexdigest()
        path = cache_directory() / "decoded" / self.dataset.uuid / f"{key}.images"
        self.decoded = DecodedImages(path, len(self.identifiers))

    def fill(self, *, progress: bool) -> None:
        if self.decoded is None or self.decoded.open():
            return
        self.dataset.fetch(self.identifiers, progress=progress, verify=True)
        items = self.dataset.items
        sizes = [items[identifier].size_in_bytes for identifier in self.identifiers]
        try:
            with progress_bar("Decoding", sum(sizes), enabled=progress) as advance:
                self.decoded.fill(self._decode, lambda position: advance(sizes[position]))
        except OSError as error:
            warnings.warn(
                f"{self.dataset.uri}: decoded images cannot be kept ({error}), so they are decoded in every epoch."
                " Make room, or point DTOOL_CACHE_DIRECTORY to where there is some.",
                stacklevel=2,
            )
            self.decoded = None

    def identifiers_of(self, positions: Sequence[int]) -> list[str]:
        return [self.identifiers[position] for position in positions]


class _DtoolAIImages(_Items):
    """The items of dtoolAI's `ImageDataSet`: always RGB, and of one size unless a transform sees to that."""

    size = DTOOLAI_IMAGE_SIZE

    def load(self, position: int, *, as_tensor: bool) -> Any:
        value = super().load(position, as_tensor=False)
        if not isinstance(value, Image.Image):
            return value
        # Resized before it is converted, as dtoolAI does: the other way round grey images differ in bits.
        return image_to_tensor(value.resize(self.size).convert("RGB")) if as_tensor else value.convert("RGB")

    def kept_tensor(self, position: int) -> None:
        """Return nothing: what is kept is neither resized nor converted."""


class _Rows:
    """Each row of an array is a sample, and the same row of another array its target."""

    def __init__(self, dataset: FrozenDataset, data: str, labels: str, image_dimensions: Sequence[int] | None) -> None:
        self.dataset = dataset
        self.identifiers = [data, labels]
        self.image_dimensions = image_dimensions
        rows, targets = self._array(data).shape[:1], self._array(labels)
        if not rows or targets.shape[:1] != rows:
            raise ConfigurationError(
                f"{dataset.items[data].relpath} has the shape {self._array(data).shape} and"
                f" {dataset.items[labels].relpath} the shape {targets.shape}; expected as many labels as rows of data.",
                uri=dataset.uri,
            )
        if not rows[0]:
            raise SelectionError(f"{dataset.items[data].relpath} has no rows.", uri=dataset.uri)
        self.names: Sequence[str] = [f"{dataset.items[data].relpath}[{row}]" for row in range(rows[0])]
        self.targets: Targets | None = self._encoded(np.array(targets))

    def load(self, position: int, *, as_tensor: bool) -> Any:
        return self.load_together([position])[0]

    def load_together(self, positions: Sequence[int]) -> Sequence[torch.Tensor]:
        # A copy, so that a transform that works in place does not change what the next epoch reads.
        rows = self._array(self.identifiers[0])[positions]
        if self.image_dimensions is not None:
            scaled = torch.from_numpy(rows.astype(np.float32) / 255)
            return scaled.reshape(len(positions), *self.image_dimensions).unbind()
        return array_to_tensor(rows).unbind()

    def kept_tensor(self, position: int) -> None:
        """Return nothing: rows are no images."""

    def keep_decoded(self) -> None:
        """Do nothing: there is nothing to decode."""

    def fill(self, *, progress: bool) -> None:
        """Do nothing."""

    def identifiers_of(self, positions: Sequence[int]) -> list[str]:
        return self.identifiers if len(positions) != 1 else self.identifiers[:1]

    def _array(self, identifier: str) -> "np.ndarray[Any, Any]":
        if identifier not in self._arrays:
            try:
                # A plain array: NumPy takes a row out of its memmap several times more slowly.
                self._arrays[identifier] = np.asarray(open_array(self.dataset.path(identifier)))
            except (OSError, ValueError, EOFError) as error:
                raise DecodeError(
                    f"cannot decode item {self.dataset.items[identifier].relpath} ({identifier}):"
                    f" {type(error).__name__}: {error}. It should be a .npy file without Python objects.",
                    uri=self.dataset.uri,
                    item=self.dataset.items[identifier].relpath,
                ) from error
        return self._arrays[identifier]

    @cached_property
    def _arrays(self) -> "dict[str, np.ndarray[Any, Any]]":
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # Pickled, a memory map becomes the whole array: a worker opens it again instead.
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

    def _encoded(self, labels: "np.ndarray[Any, Any]") -> Targets:
        """Take labels as they are: whoever writes an array of ints has numbered the classes already."""
        if labels.dtype.kind == "f":
            return Targets(torch.from_numpy(labels.astype(np.float32)), None)  # type: ignore[arg-type]
        if labels.dtype.kind not in "iub":
            raise DecodeError(f"labels should be numbers, found the dtype {labels.dtype}.", uri=self.dataset.uri)
        if labels.ndim > 1:
            return Targets(torch.from_numpy(labels.astype(np.int64)), None)  # type: ignore[arg-type]
        return Targets(labels.tolist(), {int(label): int(label) for label in np.unique(labels)})


def _open_samples(
    dataset: FrozenDataset,
    select: Mapping[str, Any] | None,
    decoder: Callable[[Path], Any] | None,
    target: str | Callable[[Any], Any] | None,
    class_to_idx: Mapping[Any, int] | None,
) -> _Samples:
    """Decide what a sample of this dataset is; an explicit decoder or target always means items."""
    annotations = dataset.annotation_names()
    dtoolai_type = dataset.annotation(DTOOLAI_TYPE) if DTOOLAI_TYPE in annotations else None
    dimensions = dataset.annotation("image_dimensions") if dtoolai_type and "image_dimensions" in annotations else None
    if decoder is None and target is None:
        data, labels = generate_identifier(DATA_ITEM), generate_identifier(LABELS_ITEM)
        if dtoolai_type == "TensorDataSet":
            data = dataset.annotation("tensor_file_idn") if "tensor_file_idn" in annotations else data
        if dtoolai_type == "TensorDataSet" or {*islice(dataset.relpaths, 3)} == {data, labels}:
            for identifier, relpath in ((data, "the annotated tensor_file_idn"), (labels, LABELS_ITEM)):
                if identifier not in dataset.relpaths:
                    raise MissingItemError(f"a TensorDataSet should hold {relpath} ({identifier}).", uri=dataset.uri)
            if select:
                raise SelectionError(
                    f"{dataset.uri} is a pair of arrays, whose samples are rows: select={dict(select)!r} chooses items"
                    " by overlays, and rows have none. Use val_split and test_split, or one dataset per stage."
                )
            return _Rows(dataset, data, labels, dimensions if dtoolai_type else None)
    chosen = select_by_overlays(list(dataset.relpaths), select or {}, dataset.overlay, uri=dataset.uri)
    names = list(map(dataset.relpaths.__getitem__, chosen))
    targets = targets_of(dataset, chosen, names, target, class_to_idx)
    if dtoolai_type == "ImageDataSet" and decoder is None:
        images = _DtoolAIImages(dataset, chosen, names, None, targets)
        if dimensions is not None:
            images.size = (dimensions[-1], dimensions[-2])
        return images
    return _Items(dataset, chosen, names, decoder, targets)
