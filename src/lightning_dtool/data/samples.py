"""The samples of a dataset: items, or the rows of a pair of arrays."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageFile
from torch.utils.data import get_worker_info

from lightning_dtool.data.decoded_cache import DecodedImages, decoder_versions
from lightning_dtool.data.decoding import (
    FROM_FILES,
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
    MissingItemError,
    SelectionError,
)
from lightning_dtool.store import FrozenDataset, generate_identifier
from lightning_dtool.store.private import cache_directory
from lightning_dtool.store.progress import progress_bar
from lightning_dtool.store.verified import Mark, mark

DATA_ITEM = "data.npy"
LABELS_ITEM = "labels.npy"
DTOOLAI_TYPE = "dtoolAI.inputtype"
DTOOLAI_IMAGE_SIZE = (256, 256)


class Samples(Protocol):
    """The samples of a dataset: its items, or the rows of an array.

    Attributes:
        names: A unique name per sample.
        targets: The target of each sample; None without targets.
        verify: Whether an item is verified when it is first read.
    """

    names: Sequence[str]
    targets: Targets | None
    verify: bool

    def load(self, position: int, *, as_tensor: bool, file: BinaryIO | None = None) -> Any:
        """Return a decoded sample, as a tensor or as a transform receives it. `file` is its item, opened before."""

    def open_together(self, positions: Sequence[int]) -> Sequence[BinaryIO | None]:
        """Open the small items of samples that are loaded next, one after the other, for `load`."""

    def kept_tensor(self, position: int) -> torch.Tensor | None:
        """Return the tensor of an image with 8 bits per channel from the decoded cache; None if it is not there."""

    def keep_decoded(self) -> None:
        """Use a decoded cache from now on."""

    def fill(self, *, progress: bool) -> None:
        """Fill the decoded cache, unless it is full."""

    def identifiers_of(self, positions: Sequence[int]) -> list[str]:
        """Return the identifiers of the items that hold samples."""


class Items:
    """Samples that are the items of a dataset."""

    def __init__(
        self,
        dataset: FrozenDataset,
        identifiers: list[str],
        names: Sequence[str],
        decoder: Callable[[Path], Any] | None,
        targets: Targets | None,
        *,
        verify: bool,
    ) -> None:
        self.dataset = dataset
        self.verify = verify
        self.identifiers = identifiers
        self.names = names
        self.decoder = decoder
        self.targets = targets
        self.decoded: DecodedImages | None = None

    def load(self, position: int, *, as_tensor: bool, file: BinaryIO | None = None) -> Any:
        kept = self.kept_tensor(position) if as_tensor else None
        if kept is not None:
            return kept
        self.fill(progress=get_worker_info() is None)
        value = None if self.decoded is None else self.decoded.image(position)
        if value is None:
            value = self._decode(position, verify=self.verify, file=file)
        return image_to_tensor(value) if as_tensor and isinstance(value, Image.Image) else value

    def kept_tensor(self, position: int) -> torch.Tensor | None:
        if self.decoded is None:
            return None
        self.fill(progress=get_worker_info() is None)
        pixels = None if self.decoded is None else self.decoded.pixels(position)
        return None if pixels is None else pixels_to_tensor(pixels, 255)

    def open_together(self, positions: Sequence[int]) -> list[BinaryIO | None]:
        """Open the small items of samples that are loaded next, one after the other.

        This takes half the time of opening each before it is decoded, because decoding displaces from the processor's
        caches what reading and hashing need.

        Args:
            positions: The positions of the samples.

        Returns:
            For each a file, for `load`; None if the item is opened when it is loaded. What is wrong with an item is
            said then.
        """
        if self.decoder is not None or self.decoded is not None:
            return [None] * len(positions)
        return [
            self.dataset.open_small(self.identifiers[position], verify=self.verify)
            if decoder_for(self.names[position]) in FROM_FILES
            else None
            for position in positions
        ]

    def _decode(self, position: int, *, verify: bool, file: BinaryIO | None = None) -> Any:
        identifier = self.identifiers[position]
        decode = decoder_for(self.names[position])
        if self.decoder is not None or decode not in FROM_FILES:
            path = self.dataset.verified_path(identifier) if verify else self.dataset.abspath(identifier)
            value = decode(path) if self.decoder is None else self.decoder(Path(path))
            if verify:  # again, because the file may have changed before it was decoded
                self.dataset.verified_path(identifier)
            return value
        with file or self.dataset.open_to_decode(identifier, verify=verify) as opened:
            value = decode(opened)
        if isinstance(value, ImageFile.ImageFile):
            value.filename = self.dataset.abspath(identifier)  # as Pillow sets it for an image that it opens by a path
        return value

    def keep_decoded(self) -> None:
        if self.decoder is not None:
            raise ConfigurationError(
                "decoded_cache=True works only with the decoders of this package, because the results of decoder=..."
                " may change. Leave out one of the two.",
                uri=self.dataset.uri,
            )
        content = self.dataset.content_digest_of(self.identifiers)
        key = hashlib.sha256(json.dumps([content, *decoder_versions()]).encode()).hexdigest()
        path = cache_directory() / "decoded" / self.dataset.uuid / f"{key}.images"
        self.decoded = DecodedImages(path, len(self.identifiers))

    def fill(self, *, progress: bool) -> None:
        if self.decoded is None or self.decoded.open():
            return
        self.dataset.fetch(self.identifiers, progress=progress)
        # Also with verify=False: later runs rely on the content that the file is named after.
        self.dataset.verify_once(self.identifiers, progress=progress)
        items = self.dataset.items
        sizes = [items[identifier].size_in_bytes for identifier in self.identifiers]
        try:
            with progress_bar("Decoding", sum(sizes), enabled=progress) as advance:
                self.decoded.fill(partial(self._decode, verify=True), lambda position: advance(sizes[position]))
        except OSError as error:
            warnings.warn(
                f"{self.dataset.uri}: the decoded cache cannot be written ({error}), so images are decoded in every"
                " epoch. Free disk space, or set DTOOL_CACHE_DIRECTORY to another folder.",
                stacklevel=2,
            )
            self.decoded = None

    def identifiers_of(self, positions: Sequence[int]) -> list[str]:
        return [self.identifiers[position] for position in positions]


class DtoolAIImages(Items):
    """The items of dtoolAI's `ImageDataSet`: RGB images, resized to one size unless there is a transform."""

    size = DTOOLAI_IMAGE_SIZE

    def load(self, position: int, *, as_tensor: bool, file: BinaryIO | None = None) -> Any:
        value = super().load(position, as_tensor=False, file=file)
        if not isinstance(value, Image.Image):
            return value
        # Resized before the conversion, as dtoolAI does: in the other order, grey images get different values.
        return image_to_tensor(value.resize(self.size).convert("RGB")) if as_tensor else value.convert("RGB")

    def kept_tensor(self, position: int) -> None:
        """Return None, because cached images are neither resized nor converted."""


class Rows:
    """Samples that are the rows of an array; the same rows of another array are the targets."""

    def __init__(
        self,
        dataset: FrozenDataset,
        data: str,
        labels: str,
        image_dimensions: Sequence[int] | None,
        *,
        verify: bool,
    ) -> None:
        self.dataset = dataset
        self.verify = verify
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

    def load(self, position: int, *, as_tensor: bool, file: BinaryIO | None = None) -> Any:
        return self.load_together([position])[0]

    def load_together(self, positions: Sequence[int]) -> Sequence[torch.Tensor]:
        # A copy, so that a transform that works in place does not change the array.
        rows = self._array(self.identifiers[0])[positions]
        if self.image_dimensions is not None:
            scaled = torch.from_numpy(rows.astype(np.float32) / 255)
            return scaled.reshape(len(positions), *self.image_dimensions).unbind()
        return array_to_tensor(rows).unbind()

    def open_together(self, positions: Sequence[int]) -> Sequence[None]:
        """Return None for each row, because arrays stay open."""
        return [None] * len(positions)

    def kept_tensor(self, position: int) -> None:
        """Return None, because rows are not images."""

    def keep_decoded(self) -> None:
        """Do nothing, because rows need no decoding."""

    def fill(self, *, progress: bool) -> None:
        """Do nothing, because there is no cache."""

    def identifiers_of(self, positions: Sequence[int]) -> list[str]:
        return self.identifiers if len(positions) != 1 else self.identifiers[:1]

    def _array(self, identifier: str) -> "np.ndarray[Any, Any]":
        path = self.dataset.abspath(identifier)
        opened = self._arrays.get(identifier)
        while opened is None or (self.verify and mark(path) != opened[0]):
            found = mark(path)  # before it is verified, because the file may change before it is opened
            if self.verify:
                self.dataset.verified_path(identifier)
            try:
                # Not a `np.memmap`, which takes several times as long to return a row.
                opened = self._arrays[identifier] = found, np.asarray(open_array(path))
            except Exception as error:  # NumPy parses the header as Python source, and maps what it says
                relpath = self.dataset.items[identifier].relpath
                raise DecodeError(
                    f"cannot decode item {relpath} ({identifier}): {type(error).__name__}: {error}."
                    " Expected a .npy file without Python objects.",
                    uri=self.dataset.uri,
                    item=relpath,
                ) from error
        return opened[1]

    @cached_property
    def _arrays(self) -> "dict[str, tuple[Mark, np.ndarray[Any, Any]]]":
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would hold the whole array, so a worker opens the file again.
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

    def _encoded(self, labels: "np.ndarray[Any, Any]") -> Targets:
        """Return labels as targets. One whole number per row is used as the class number itself."""
        if labels.dtype.kind == "f":
            return Targets(torch.from_numpy(labels.astype(np.float32)), None)  # type: ignore[arg-type]
        if labels.dtype.kind not in "iub":
            raise DecodeError(f"expected numbers as labels, found the dtype {labels.dtype}.", uri=self.dataset.uri)
        if labels.ndim > 1:
            return Targets(torch.from_numpy(labels.astype(np.int64)), None)  # type: ignore[arg-type]
        return Targets(labels.tolist(), {int(label): int(label) for label in np.unique(labels)})


def open_samples(
    dataset: FrozenDataset,
    select: Mapping[str, Any] | None,
    decoder: Callable[[Path], Any] | None,
    target: str | Callable[[Any], Any] | None,
    class_to_idx: Mapping[Any, int] | None,
    *,
    verify: bool,
) -> Samples:
    """Return the samples of a dataset: rows for a pair of arrays, else items.

    With a `decoder` or a `target`, samples are always items.
    """
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
                    raise MissingItemError(f"expected {relpath} ({identifier}) in a TensorDataSet.", uri=dataset.uri)
            if select:
                raise SelectionError(
                    f"select={dict(select)!r} selects items by overlays, but the samples are rows of arrays, which have"
                    " no overlays. Use val_split and test_split, or one dataset per stage.",
                    uri=dataset.uri,
                )
            return Rows(dataset, data, labels, dimensions if dtoolai_type else None, verify=verify)
    chosen = select_by_overlays(list(dataset.relpaths), select or {}, dataset.overlay, uri=dataset.uri)
    names = list(map(dataset.relpaths.__getitem__, chosen))
    targets = targets_of(dataset, chosen, names, target, class_to_idx)
    if dtoolai_type == "ImageDataSet" and decoder is None:
        images = DtoolAIImages(dataset, chosen, names, None, targets, verify=verify)
        if dimensions is not None:
            images.size = (dimensions[-1], dimensions[-2])
        return images
    return Items(dataset, chosen, names, decoder, targets, verify=verify)
