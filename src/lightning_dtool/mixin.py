"""DtoolModelMixin: `LeafNet.from_uri(uri)`."""

import os
from typing import Any, TypeVar

from lightning_dtool.checkpoint import DtoolCheckpoint

T = TypeVar("T", bound="DtoolModelMixin")


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
