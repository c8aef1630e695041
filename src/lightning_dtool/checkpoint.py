"""Checkpoints by URI, verified before anything in them is used."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule

from lightning_dtool import watch
from lightning_dtool._public import public
from lightning_dtool.errors import UnsafeCheckpointError, VerificationError
from lightning_dtool.items import CHECKPOINT_ITEM, RECORD_ITEM, SOURCE_ITEM
from lightning_dtool.loading import modules
from lightning_dtool.loading.building import Built, warn_of_differences
from lightning_dtool.loading.messages import listed
from lightning_dtool.loading.opening import require_checkpoint
from lightning_dtool.loading.unread import unread
from lightning_dtool.loading.weights import load_safely, state_dict_of
from lightning_dtool.record import Provenance, from_json
from lightning_dtool.store import FrozenDataset, delete_dataset, local_path
from lightning_dtool.store.verified import Mark, mark

watch.install()

T = TypeVar("T", bound="DtoolModelMixin")

_verified: set[tuple[str, Mark]] = set()
"""Files that this process has verified, so that a large file is hashed only once."""


@public
class DtoolCheckpoint:
    """A Lightning checkpoint in a dtool dataset. Open one with `from_uri`.

    You do not need this class to resume training: pass the URI as `ckpt_path` to a Trainer with a
    `DtoolProvenanceCallback`. To read annotations and tags of many checkpoints, use `iter_datasets`, which reads no
    record.

    Attributes:
        dataset: The dataset.
        uri: The dataset's URI.
        uuid: The dataset's UUID.
        name: The dataset's name.

    Example:
        ```python
        checkpoint = DtoolCheckpoint.from_uri("models/leafnet")
        checkpoint.record.optimizers[0].param_groups[0].options["lr"]
        model = checkpoint.load_module().eval()
        ```
    """

    def __init__(self, dataset: FrozenDataset) -> None:
        require_checkpoint(dataset)
        self.dataset = dataset
        self.uri = dataset.uri
        self.uuid = dataset.uuid
        self.name = dataset.name

    @classmethod
    def from_uri(cls, uri: str | os.PathLike[str]) -> "DtoolCheckpoint":
        """Open a checkpoint. Reads only metadata.

        Args:
            uri: The dataset's URI, or its folder.

        Raises:
            DatasetNotFoundError: If there is no dataset.
            NotACheckpointError: If the dataset holds no checkpoint.
            NotFrozenError: If the dataset was never frozen.
            CorruptDatasetError: If the metadata of the dataset is damaged.
            StoreError: If the store cannot be read.
        """
        return cls(FrozenDataset.from_uri(uri))

    def __repr__(self) -> str:
        """Return the expression that opens this checkpoint."""
        return f"DtoolCheckpoint.from_uri({self.uri!r})"

    @cached_property
    def record(self) -> Provenance:
        """The provenance record of the checkpoint, verified against its hashes. It is read once."""
        return from_json(self.item_path(RECORD_ITEM).read_bytes(), self.uri)

    @property
    def path(self) -> Path:
        """A local file with the checkpoint, verified against its hashes. From a remote store, it is fetched first."""
        return self.item_path(CHECKPOINT_ITEM)

    @property
    def annotations(self) -> dict[str, Any]:
        """The annotations of the dataset, such as `run_status`."""
        return self.dataset.annotations()

    @property
    def tags(self) -> list[str]:
        """The tags of the dataset, such as `best` and `last`."""
        return self.dataset.tags()

    def item_path(self, relpath: str) -> Path:
        """Return a local file with an item of the dataset, verified against its hashes.

        Args:
            relpath: The item's path in the dataset, such as `source.zip`.

        Raises:
            MissingItemError: If there is no such item.
            VerificationError: If its content differs from its hashes.
        """
        item = self.dataset.item(relpath)
        path = self.dataset.path(item.identifier)
        if relpath == CHECKPOINT_ITEM:
            watch.files.note(path, self.uri)
        # The cache of a remote store verifies what it fetches.
        if local_path(self.uri) is not None:
            try:
                seen = (str(path), mark(path))
            except OSError:  # it is not there
                self.dataset.verify([item.identifier])
                raise
            if seen not in _verified:
                self.dataset.verify([item.identifier])
                _verified.add(seen)
        return path

    def load(self, map_location: Any = "cpu", weights_only: bool = True, mmap: bool = False) -> dict[str, Any]:
        """Return the whole checkpoint, as Lightning saved it.

        Args:
            map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.
            weights_only: Load safely, without running code from the file. With False, unpickling the file can run any
                code, so use it only for checkpoints whose origin you trust. Default: True.
            mmap: Memory-map the file, so that tensors are read when they are used. Default: False.

        Raises:
            UnsafeCheckpointError: If a safe load refuses the file. The message lists the types, and how to allow them.
            ModuleLoadError: With `weights_only=False`, if unpickling fails, for example because a class is not here.
            VerificationError: If the file differs from its hashes.
        """
        if not weights_only:
            return modules.load_unsafely(self._source(), {}, map_location, trust_source=False, mmap=mmap)  # type: ignore[no-any-return]
        with self._unchanged() as path:
            loaded = load_safely(path, map_location=map_location, mmap=mmap, uri=self.uri)
        refused = unread(loaded)
        if refused:
            raise UnsafeCheckpointError(
                "a safe load refuses this checkpoint, because it holds objects other than tensors and plain values:"
                f" {_listed(refused)}. The weights alone load safely: load_state_dict(). If you know that these types"
                " are harmless, allow them with torch.serialization.add_safe_globals([...]). If you trust the origin of"
                " the checkpoint, load it with weights_only=False.",
                uri=self.uri,
            )
        return loaded  # type: ignore[no-any-return]

    def load_state_dict(self, map_location: Any = "cpu") -> dict[str, torch.Tensor]:
        """Return the weights, whatever else the checkpoint holds. No code of the checkpoint runs.

        The state of the optimizers is not read into memory. Objects elsewhere in the checkpoint, such as a
        configuration among the hyperparameters, are not made.

        Args:
            map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.

        Raises:
            UnsafeCheckpointError: If the weights themselves are objects other than tensors and plain values. The
                message names them.
            NotACheckpointError: If the file holds no weights.
            VerificationError: If the file differs from its hashes.
        """
        with self._unchanged() as path:
            loaded = load_safely(path, map_location=map_location, uri=self.uri)
            mapped = state_dict_of(loaded, self.uri)
            weights = {name: each.clone() if isinstance(each, torch.Tensor) else each for name, each in mapped.items()}
        refused = unread(mapped)
        if refused:
            raise UnsafeCheckpointError(
                f"weights are objects that a safe load does not make: {_listed(refused)}. If you know that these types"
                " are harmless, allow them with torch.serialization.add_safe_globals([...]). If you trust the origin of"
                ' the checkpoint, use load(weights_only=False)["state_dict"].',
                uri=self.uri,
            )
        return weights

    def load_module(
        self,
        cls: type[LightningModule] | None = None,
        *,
        map_location: Any = "cpu",
        strict: bool | None = None,
        weights_only: bool = True,
        trust_source: bool = False,
        **overrides: Any,
    ) -> LightningModule:
        """Build the LightningModule and load its weights.

        Args:
            cls: The class of the module. Default: the class that the record names, from a module that is loaded, or
                whose file defines it as a LightningModule, in an installed distribution or in your own code outside of
                datasets. Nothing else is imported.
            map_location: Where the weights are loaded, as in `torch.load`. Default: the CPU.
            strict: Require that the names of the weights match, as in `load_from_checkpoint`. Default: the module's
                `strict_loading`.
            weights_only: Load safely; see `load`. Default: True.
            trust_source: Allow building classes that cannot be imported, such as those of a script or a notebook, from
                the recorded source: the module's, and those of objects among the hyperparameters. This runs code from
                the dataset. Default: False, which raises an error instead.
            **overrides: Hyperparameters that replace the saved ones, and arguments that are neither saved nor recorded
                as plain values.

        Returns:
            The module in training mode, as from `load_from_checkpoint`. Call `eval()` before you use it for inference.
            If its class overrides `load_from_checkpoint`, that method makes it. A `ProvenanceWarning` names weights
            that the checkpoint does not hold.

        Raises:
            ModuleLoadError: If the class cannot be loaded, or the module cannot be made. The message says what to pass.
            UnsafeCheckpointError: If a safe load refuses objects that the module needs.
            VerificationError: If the file differs from its hashes.
        """
        built = self._built(
            cls,
            map_location=map_location,
            strict=strict,
            weights_only=weights_only,
            trust_source=trust_source,
            overrides=overrides,
            stacklevel=2,
        )
        return built.module

    def verify(self, progress: bool = False) -> None:
        """Read every item and compare it with its recorded size and hash.

        Args:
            progress: Show a progress bar if the output is a terminal. Default: False.

        Raises:
            VerificationError: If items differ. The message names each of them.
        """
        self.dataset.verify(progress=progress)

    def delete(self) -> None:
        """Delete the dataset. This cannot be undone."""
        delete_dataset(self.uri)

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[Path]:
        """Return the verified file to the block, and raise an error if it is another one, or changed, at the end."""
        before = mark(self.path)
        path = self.path  # verified again if it was exchanged before `mark`
        yield path
        # Not the time of the last change of its status: it changes when Lightning removes its own link to the file.
        if mark(path)._replace(changed_ns=before.changed_ns) != before:
            raise VerificationError(
                f"{CHECKPOINT_ITEM} was changed or exchanged while it was loaded. Nothing of it is used. Load it again,"
                " from a place where nobody else can write.",
                uri=self.uri,
                item=CHECKPOINT_ITEM,
            )

    def _source(self) -> modules.Source:
        return modules.Source(self.uri, self.path, self.record, lambda: self.item_path(SOURCE_ITEM))

    def _built(self, cls: type[LightningModule] | None, *, stacklevel: int, **options: Any) -> Built:
        with self._unchanged():
            built = modules.load_module(self._source(), cls, stacklevel=stacklevel + 1, **options)
        warn_of_differences(built, self.uri, stacklevel=stacklevel + 1)
        return built


def build_to_run(
    checkpoint: DtoolCheckpoint, cls: type[LightningModule] | None, arguments: Mapping[str, Any], trust_source: bool
) -> Built:
    """Build the LightningModule of a checkpoint in order to run it, and say which weights it did not get.

    Args:
        checkpoint: The checkpoint.
        cls: The class, or None for the one that the record names.
        arguments: Hyperparameters and arguments, as for `DtoolCheckpoint.load_module`.
        trust_source: Allow running all code that the checkpoint contains or names, also by unpickling it.
    """
    return checkpoint._built(
        cls,
        map_location="cpu",
        strict=None,
        weights_only=not trust_source,
        trust_source=trust_source,
        overrides=arguments,
        stacklevel=2,
    )


def _listed(refused: Mapping[str, str]) -> str:
    """Return objects that were not made as text: `lr (numpy.float64), config (train.Config)`."""
    return listed([f"{place} ({name})" for place, name in sorted(refused.items())])


@public
class DtoolModelMixin:
    """A mixin that adds the classmethod `from_uri` to a LightningModule.

    Without the mixin, `DtoolCheckpoint.from_uri(uri).load_module(LeafNet)` does the same.

    Example:
        ```python
        class LeafNet(DtoolModelMixin, LightningModule): ...


        model = LeafNet.from_uri("s3://lab-models/6a1c…")
        ```
    """

    @classmethod
    def from_uri(cls: type[T], uri: str | os.PathLike[str], **kwargs: Any) -> T:
        """Build this class from a checkpoint's hyperparameters and load its weights.

        Args:
            uri: The checkpoint's URI, or its folder.
            **kwargs: The keyword arguments of `DtoolCheckpoint.load_module`: hyperparameters that replace the saved
                ones, `map_location`, `strict` and `weights_only`.

        Returns:
            The module in training mode.

        Raises:
            LightningDtoolError: If the checkpoint cannot be opened or loaded; see `DtoolCheckpoint`.
        """
        return DtoolCheckpoint.from_uri(uri).load_module(cls, **kwargs)  # type: ignore[arg-type, return-value]
