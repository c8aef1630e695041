"""What did the code run on?"""

import platform
import re
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
        accelerators=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> str:
    """Return every installed package, pinned, as a requirements file."""
    pins: dict[str, str] = {}
    for distribution in metadata.distributions():
        try:
            name, version = distribution.metadata["Name"], distribution.version
        except Exception:  # noqa: S112  # a half-removed package, whose metadata is gone
            continue
        if name and version:
            # Of two on the path Python imports the first.
            pins.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{name}=={version}\n")
    return "".join(pins[name] for name in sorted(pins))
