"""What is the model?"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_dtool.capture.values import class_path, encode_all, source_of
from lightning_dtool.record import Gap, Model

_CLI_KEYS = frozenset({"_class_path", "_instantiator"})
"""What LightningCLI adds to the hyperparameters for its own use."""


def capture_model(module: LightningModule, gaps: list[Gap]) -> Model:
    """Describe a LightningModule: its class, hyperparameters and size."""
    source = source_of(type(module))
    if source is None:
        gaps.append(
            Gap(
                fact="model.source_sha256",
                reason="the source of the class is not at hand",
                remedy="define the class in a file",
            )
        )
    total = trainable = 0
    for parameter in module.parameters():
        # A lazy layer has no size until it has seen data.
        count = 0 if isinstance(parameter, torch.nn.parameter.UninitializedParameter) else parameter.numel()
        total += count
        trainable += count if parameter.requires_grad else 0
    return Model(
        class_path=class_path(type(module)),
        source_sha256=hashlib.sha256(source.encode()).hexdigest() if source else None,
        # `hparams` silently drops what cannot be pickled; `hparams_initial` does not.
        hyperparameters=encode_hyperparameters(module.hparams_initial, gaps),
        parameters_total=total,
        parameters_trainable=trainable,
    )


def encode_hyperparameters(hparams: Mapping[str, Any], gaps: list[Gap]) -> dict[str, Any]:
    """Return hyperparameters as strict JSON, without LightningCLI's own keys."""
    return encode_all(
        {name: value for name, value in hparams.items() if name not in _CLI_KEYS}, "model.hyperparameters", gaps
    )
