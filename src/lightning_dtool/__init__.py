"""Provenance for PyTorch Lightning on dtool datasets.

Import public names from here, and errors from `lightning_dtool.errors`. All other modules are private and may change in
any release.

The public names are resolved on first use (PEP 562). Importing this package imports neither torch nor lightning,
because every `dtool` command imports it to look for plug-ins.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_dtool._version import __version__

if TYPE_CHECKING:
    from lightning_dtool.callback import DtoolProvenanceCallback
    from lightning_dtool.checkpoint import DtoolCheckpoint, DtoolModelMixin
    from lightning_dtool.checkpoint_io import DtoolCheckpointIO
    from lightning_dtool.data.datamodule import DtoolDataModule
    from lightning_dtool.data.dataset import DtoolDataset
    from lightning_dtool.data.loaders import SeededDataLoader, StatefulDataLoader
    from lightning_dtool.data.packing import pack
    from lightning_dtool.data.sampler import ResumableSampler
    from lightning_dtool.errors import LightningDtoolError, ProvenanceWarning
    from lightning_dtool.evaluation.evaluate import evaluate
    from lightning_dtool.record import Provenance
    from lightning_dtool.recovery.recover import Recovered, recover
    from lightning_dtool.reproduction.comparison import compare
    from lightning_dtool.reproduction.reproduce import replicate, reproduce
    from lightning_dtool.results.comparison import Comparison
    from lightning_dtool.results.differences import Difference, record_differences
    from lightning_dtool.results.evaluation import Evaluation
    from lightning_dtool.results.reproduction import MetricRow, Replication, Reproduction, Verdict
    from lightning_dtool.store import DatasetWriter, FrozenDataset, Item, delete_dataset, iter_datasets, locate

_HOMES = {
    "Comparison": "results.comparison",
    "DatasetWriter": "store",
    "Difference": "results.differences",
    "DtoolCheckpoint": "checkpoint",
    "DtoolCheckpointIO": "checkpoint_io",
    "DtoolDataModule": "data.datamodule",
    "DtoolDataset": "data.dataset",
    "DtoolModelMixin": "checkpoint",
    "DtoolProvenanceCallback": "callback",
    "Evaluation": "results.evaluation",
    "FrozenDataset": "store",
    "Item": "store",
    "LightningDtoolError": "errors",
    "MetricRow": "results.reproduction",
    "Provenance": "record",
    "ProvenanceWarning": "errors",
    "Recovered": "recovery.recover",
    "Replication": "results.reproduction",
    "Reproduction": "results.reproduction",
    "ResumableSampler": "data.sampler",
    "SeededDataLoader": "data.loaders",
    "StatefulDataLoader": "data.loaders",
    "Verdict": "results.reproduction",
    "compare": "reproduction.comparison",
    "delete_dataset": "store",
    "evaluate": "evaluation.evaluate",
    "iter_datasets": "store",
    "locate": "store",
    "pack": "data.packing",
    "record_differences": "results.differences",
    "recover": "recovery.recover",
    "replicate": "reproduction.reproduce",
    "reproduce": "reproduction.reproduce",
}

__all__ = [
    "Comparison",
    "DatasetWriter",
    "Difference",
    "DtoolCheckpoint",
    "DtoolCheckpointIO",
    "DtoolDataModule",
    "DtoolDataset",
    "DtoolModelMixin",
    "DtoolProvenanceCallback",
    "Evaluation",
    "FrozenDataset",
    "Item",
    "LightningDtoolError",
    "MetricRow",
    "Provenance",
    "ProvenanceWarning",
    "Recovered",
    "Replication",
    "Reproduction",
    "ResumableSampler",
    "SeededDataLoader",
    "StatefulDataLoader",
    "Verdict",
    "__version__",
    "compare",
    "delete_dataset",
    "evaluate",
    "iter_datasets",
    "locate",
    "pack",
    "record_differences",
    "recover",
    "replicate",
    "reproduce",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
