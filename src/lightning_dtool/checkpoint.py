"""DtoolCheckpoint: what a reader holds. A checkpoint by its URI, verified before anything in it is used."""

import os
import pickle
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.saving import _load_state
from lightning.pytorch.utilities.migration import migrate_checkpoint  # type: ignore[attr-defined]

from lightning_dtool._public import public
from lightning_dtool.errors import ModuleLoadError, ProvenanceWarning, UnsafeCheckpointError
from lightning_dtool.items import CHECKPOINT_ITEM, RECORD_ITEM, SOURCE_ITEM
from lightning_dtool.loading.opening import require_checkpoint
from lightning_dtool.loading.recorded_source import class_from_source, import_class
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.record import Provenance, from_json
from lightning_dtool.store import FrozenDataset, delete_dataset, local_path
from lightning_dtool.store.verified import Mark, mark
from lightning_dtool.values.definitions import source_digest

T = TypeVar("T", bound="DtoolModelMixin")

_verified: set[tuple[str, Mark]] = set()
"""Files found right in this process: large ones are hashed once."""


@public
class DtoolCheckpoint:
    """A Lightning checkpoint that is a dtool dataset.

    Use `from_uri`.

    Attributes:
        dataset: The dataset behind it.
        uri: Its URI.
        uuid: Its UUID.
        name: Its name.

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
        """Open a checkpoint. Reads metadata only.

        Args:
            uri: The dataset's URI, or its folder.

        Raises:
            DatasetNotFoundError: If there is no dataset.
            NotACheckpointError: If the dataset holds no checkpoint.
            NotFrozenError: If it was never finished.
            CorruptDatasetError: If its metadata cannot be read.
            StoreError: If the store does not answer.
        """
        return cls(FrozenDataset.from_uri(uri))

    def __repr__(self) -> str:
        """Return the expression that opens this checkpoint."""
        return f"DtoolCheckpoint.from_uri({self.uri!r})"

    @cached_property
    def record(self) -> Provenance:
        """How this model came to be."""
        return from_json(self.item_path(RECORD_ITEM).read_bytes(), self.uri)

    @property
    def path(self) -> Path:
        """A local file with the checkpoint, verified against its hashes; fetched if the store is remote."""
        return self.item_path(CHECKPOINT_ITEM)

    @property
    def annotations(self) -> dict[str, Any]:
        """The dataset's annotations, among them `run_status`."""
        return self.dataset.annotations()

    @property
    def tags(self) -> list[str]:
        """The dataset's tags, such as `best` and `last`."""
        return self.dataset.tags()

    def item_path(self, relpath: str) -> Path:
        """Return a local file with an item of the dataset, verified against its hashes.

        Args:
            relpath: The item's path, such as `source.zip`.

        Raises:
            MissingItemError: If there is no such item.
            VerificationError: If it differs from its hashes.
        """
        item = self.dataset.item(relpath)
        path = self.dataset.path(item.identifier)
        # What the cache of a remote store hands out was verified there.
        if local_path(self.uri) is not None:
            seen = (str(path), mark(path))
            if seen not in _verified:
                self.dataset.verify([item.identifier])
                _verified.add(seen)
        return path

    def load(self, map_location: Any = "cpu", weights_only: bool = True, mmap: bool = False) -> dict[str, Any]:
        """Return the whole checkpoint, as Lightning saved it.

        Args:
            map_location: As in `torch.load`. Default: the CPU.
            weights_only: A safe load, which runs no code (default). `False` unpickles whatever is there, and so
                can run anything: only for a checkpoint whose origin you trust.
            mmap: Map the file instead of reading it: tensors are read when they are used.

        Raises:
            UnsafeCheckpointError: If a safe load refuses; the message lists the types and how to allow them.
            VerificationError: If the file differs from its hashes.
        """
        path = self.path
        try:
            return torch.load(path, map_location=map_location, weights_only=weights_only, mmap=mmap)  # type: ignore[no-any-return]
        except pickle.UnpicklingError as error:
            raise self._unsafe(path, error) from error

    def load_state_dict(self, map_location: Any = "cpu") -> dict[str, torch.Tensor]:
        """Return the weights alone; the optimizers' state is not read into memory.

        Args:
            map_location: As in `torch.load`. Default: the CPU.
        """
        mapped = self.load(map_location=map_location, mmap=True)["state_dict"]
        return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in mapped.items()}

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
            cls: Its class. Default: the class that the record names, imported.
            map_location: Where the weights go, as in `torch.load`. Default: the CPU.
            strict: Whether the keys must match, as in `load_from_checkpoint`. Default: the module's own choice.
            weights_only: A safe load (default); see `load`.
            trust_source: Allow that a class which cannot be imported, because it lived in a script or a notebook,
                is taken from the recorded source. That runs code from the dataset. Default: an error.
            **overrides: Hyperparameters that replace the saved ones.

        Returns:
            The module in training mode, as `load_from_checkpoint` returns it; call `eval()` to use it.

        Raises:
            ModuleLoadError: If the class is not found.
            UnsafeCheckpointError: If a safe load refuses.
        """
        found = cls if cls is not None else self._find_class(trust_source)
        # A class of `pytorch_lightning` looks the same, and would fail much later.
        refuse_other_namespace(found, "cls")
        checkpoint = self.load(map_location=map_location, weights_only=weights_only, mmap=True)
        checkpoint, _ = migrate_checkpoint(checkpoint)
        hyperparameters = checkpoint.setdefault(found.CHECKPOINT_HYPER_PARAMS_KEY, {})
        hyperparameters.update(overrides)
        # `load_from_checkpoint` does just this, but reads the optimizers' state too, and before Lightning 2.6
        # it has no safe load.
        module = _load_state(found, checkpoint, strict=strict, **overrides)
        if not isinstance(module, LightningModule):
            raise ModuleLoadError(f"{found.__qualname__} is no LightningModule.", uri=self.uri)
        return module

    def verify(self, progress: bool = False) -> None:
        """Read every item and compare it with its recorded size and hash.

        Args:
            progress: Show progress on a terminal.

        Raises:
            VerificationError: Naming each item that differs.
        """
        self.dataset.verify(progress=progress)

    def delete(self) -> None:
        """Delete the dataset. There is no way back."""
        delete_dataset(self.uri)

    def _find_class(self, trust_source: bool) -> type[LightningModule]:
        class_path = self.record.model.class_path
        found = import_class(class_path)
        if found is not None:
            recorded = self.record.model.source_sha256
            if recorded is not None and source_digest(found) != recorded:
                warnings.warn(
                    f"{self.uri}: the source of {class_path} is not what it was when the checkpoint was written. The "
                    "weights are loaded into today's class; the recorded one is in source.zip.",
                    ProvenanceWarning,
                    stacklevel=3,
                )
            return found
        if trust_source:
            return class_from_source(class_path, self.record.code, self.item_path(SOURCE_ITEM), self.uri)
        raise ModuleLoadError(
            f"its class {class_path} cannot be imported here. Pass the class, load_module(cls=...); or, if "
            "you trust whoever made this checkpoint, run the source that it carries: load_module(trust_source=True).",
            uri=self.uri,
        )

    def _unsafe(self, path: Path, error: Exception) -> UnsafeCheckpointError:
        types = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        if not types:
            return UnsafeCheckpointError(f"{path.name} cannot be read: {error}", uri=self.uri)
        names = ", ".join(sorted(types))
        return UnsafeCheckpointError(
            f"a safe load refuses this checkpoint, because it holds more than tensors and plain values: "
            f"{names}. If you know these types to be harmless, allow them with "
            "torch.serialization.add_safe_globals([...]); if you trust the checkpoint's origin, load it with "
            "weights_only=False.",
            uri=self.uri,
        )


@public
class DtoolModelMixin:
    """Give a LightningModule a `from_uri` classmethod.

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
            uri: The checkpoint's URI.
            **kwargs: As in `DtoolCheckpoint.load_module`: hyperparameters that replace the saved ones, and
                `map_location`, `strict`, `weights_only`.

        Raises:
            LightningDtoolError: As `DtoolCheckpoint.from_uri` and `load_module` do.
        """
        return DtoolCheckpoint.from_uri(uri).load_module(cls, **kwargs)  # type: ignore[arg-type, return-value]
