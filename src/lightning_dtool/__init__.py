"""Provenance for PyTorch Lightning on dtool datasets.

The public names are resolved on first use (PEP 562): importing this package imports neither torch
nor lightning, because every `dtool` command imports it to look for plug-ins.
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
    from lightning_dtool.data.packing import pack
    from lightning_dtool.data.sampler import ResumableSampler
    from lightning_dtool.evaluation.evaluate import evaluate
    from lightning_dtool.reproduction.comparison import compare
    from lightning_dtool.reproduction.reproduce import replicate, reproduce

_HOMES = {
    "DtoolCheckpoint": "checkpoint",
    "DtoolCheckpointIO": "checkpoint_io",
    "DtoolDataModule": "data.datamodule",
    "DtoolDataset": "data.dataset",
    "DtoolModelMixin": "checkpoint",
    "DtoolProvenanceCallback": "callback",
    "ResumableSampler": "data.sampler",
    "compare": "reproduction.comparison",
    "evaluate": "evaluation.evaluate",
    "pack": "data.packing",
    "replicate": "reproduction.reproduce",
    "reproduce": "reproduction.reproduce",
}

__all__ = [
    "DtoolCheckpoint",
    "DtoolCheckpointIO",
    "DtoolDataModule",
    "DtoolDataset",
    "DtoolModelMixin",
    "DtoolProvenanceCallback",
    "ResumableSampler",
    "__version__",
    "compare",
    "evaluate",
    "pack",
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
