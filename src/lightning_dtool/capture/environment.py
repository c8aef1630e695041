"""What did the code run on?"""

import platform
from importlib import metadata

import torch

from lightning_dtool.record import Environment

_LIBRARIES = (
    "lightning-dtool", "lightning", "torch", "torchvision", "torchmetrics", "dtoolcore", "numpy", "pillow", "pydantic",
)  # fmt: skip


def capture_environment() -> Environment:
    """Return Python, the platform and the versions of the libraries that matter most."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        versions={name: version for name in _LIBRARIES if (version := _version(name))},
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> str:
    """Return every installed package, pinned, as a requirements file."""
    pins = {
        f"{name}=={distribution.version}"
        for distribution in metadata.distributions()
        if (name := distribution.metadata["Name"])
    }
    return "".join(f"{pin}\n" for pin in sorted(pins, key=str.lower))
