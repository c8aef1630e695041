"""The data that a checkpoint was trained with: what its record says of it, and whether it is still the same."""

from collections.abc import Mapping
from typing import Any

from lightning_dtool.errors import DatasetNotFoundError, RecordError, VerificationError
from lightning_dtool.record import Provenance
from lightning_dtool.store import FrozenDataset


def recorded_arguments(record: Provenance, checkpoint: str, cls: type) -> dict[str, Any]:
    """Return what a DataModule was made with, as descriptions.

    Args:
        record: The checkpoint's record.
        checkpoint: Its URI, for messages.
        cls: The class that shall be made again.

    Raises:
        RecordError: If the model was trained with something else.
    """
    module = record.data.datamodule
    if module is None or not module.arguments or module.class_path != f"{cls.__module__}:{cls.__qualname__}":
        raise RecordError(
            f"{checkpoint} was trained with {module.class_path if module else 'no DataModule'}, which"
            f" {cls.__qualname__}.from_uri cannot build again. Call from_uri on that class, or make the module from"
            " the dataset's URI."
        )
    return dict(module.arguments)


def verify_data(record: Provenance, checkpoint: str, places: Mapping[str, tuple[str, str]]) -> None:
    """Compare the data of each stage with what a checkpoint was trained with, by content digest.

    Args:
        record: The checkpoint's record.
        checkpoint: Its URI, for messages.
        places: By stage, the URI of its data now, and the argument that names it. Other stages are left out.

    Raises:
        DatasetNotFoundError: If there is nothing at a URI.
        VerificationError: If there is something else.
    """
    for stage, (uri, argument) in places.items():
        sources = record.data.stages.get(stage)
        recorded = sources[0].dataset if sources else None
        if recorded is None:
            continue
        try:
            found = FrozenDataset.from_uri(uri)
        except DatasetNotFoundError as error:
            raise DatasetNotFoundError(
                f"{error} The checkpoint {checkpoint} was trained with it; if it has moved, pass {argument}=..."
            ) from error
        if found.content_digest != recorded.content_digest:
            raise VerificationError(
                f"{found.uri} has the content digest {found.content_digest}; the checkpoint {checkpoint} was made"
                f" with {recorded.content_digest} for {stage!r}: the data has changed. Pass the address of an unchanged"
                " copy, or verify=False to use the data as it is."
            )
