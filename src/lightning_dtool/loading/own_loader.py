"""The `load_from_checkpoint` of a class that has one of its own."""

import contextlib
import inspect
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_dtool.errors import LightningDtoolError, ModuleLoadError
from lightning_dtool.loading.messages import listed, shown


def has_own_loader(cls: type[LightningModule]) -> bool:
    """Return True if a class overrides `load_from_checkpoint`.

    Args:
        cls: The class.
    """
    owner = next(base for base in cls.__mro__ if "load_from_checkpoint" in vars(base))
    return owner is not LightningModule


def load_by_class(
    cls: type[LightningModule],
    path: Path,
    *,
    map_location: Any,
    strict: bool | None,
    weights_only: bool,
    overrides: Mapping[str, Any],
    uri: str,
) -> LightningModule:
    """Call the class's own `load_from_checkpoint`, with those of the arguments that it takes.

    Args:
        cls: The class.
        path: The file. The class may load it in any way, also an unsafe one.
        map_location: As in `torch.load`.
        strict: Passed if it is not None.
        weights_only: Passed if the method names it, or if it is False and the method seems to pass all keywords on.
        overrides: Hyperparameters that replace the saved ones.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If the method fails, does not take the arguments, or returns something else.
    """
    method = cls.load_from_checkpoint
    name = f"{cls.__qualname__}.load_from_checkpoint"
    parameters = inspect.signature(method).parameters
    any_keyword = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    options: dict[str, Any] = dict(overrides)
    if any_keyword or "map_location" in parameters:
        options["map_location"] = map_location
    if strict is not None:
        options["strict"] = strict
    # If a method names some of Lightning's parameters, the other keywords are hyperparameters. Else it passes all on.
    passes_on = any_keyword and not parameters.keys() & {"map_location", "strict"}
    if "weights_only" in parameters or (passes_on and not weights_only and "weights_only" in _LIGHTNINGS_OWN):
        options["weights_only"] = weights_only
    refused = [] if any_keyword else [option for option in options if option not in parameters]
    if refused:
        raise ModuleLoadError(f"{name} does not take {listed(refused)}. Leave it out.", uri=uri)
    try:
        module: Any = method(str(path), **options)
    except LightningDtoolError:
        raise
    except (Exception, SystemExit) as error:  # it may raise anything
        raise ModuleLoadError(
            f"{name}, which the class defines itself, failed: {shown(error)}. It was called with the file"
            f" {path} and {listed(list(options)) or 'nothing else'}. Pass what it expects in addition by name:"
            " load_module(name=...).",
            uri=uri,
        ) from error
    if not isinstance(module, LightningModule):
        raise ModuleLoadError(f"{name} returned {type(module).__qualname__}, expected a LightningModule.", uri=uri)
    if "map_location" not in options and isinstance(map_location, str | torch.device):
        return module.to(map_location)
    return module


_LIGHTNINGS_OWN = inspect.signature(LightningModule.load_from_checkpoint).parameters
"""The parameters of Lightning's own method. Before Lightning 2.6, `weights_only` is not among them."""


@contextlib.contextmanager
def written_again(checkpoint: Any) -> Iterator[Path]:
    """Write the content of a checkpoint to a temporary file, which names nothing that the content does not hold.

    Args:
        checkpoint: What `read_checkpoint` returned.
    """
    with tempfile.TemporaryDirectory(prefix="lightning-dtool-") as folder:
        path = Path(folder) / "checkpoint.ckpt"
        torch.save(checkpoint, path)
        yield path
