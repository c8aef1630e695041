"""The recorded data of a checkpoint: the arguments of its DataModule, and checks that the data is the same."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from lightning_dtool.data.stages import Stages
from lightning_dtool.errors import (
    DatasetNotFoundError,
    LightningDtoolError,
    RecordError,
    StoreError,
    VerificationError,
)
from lightning_dtool.items import RECORD_ITEM
from lightning_dtool.record import Provenance
from lightning_dtool.store import Addresses

Module = TypeVar("Module")

_SELECTS = {"select", "val_split", "test_split", "split_overlay", "stratify", "seed"}
_LABELS = {"target", "decoder"}  # with a decoder, the items are the samples, also those of a pair of arrays


def recorded_arguments(record: Provenance, checkpoint: str, cls: type) -> dict[str, Any]:
    """Return the arguments of the recorded DataModule, as they are written in the record.

    Args:
        record: The checkpoint's record.
        checkpoint: The checkpoint's URI, for errors.
        cls: The class of the DataModule.

    Raises:
        RecordError: If the model was trained with another class, or with arguments that the class does not take.
    """
    module = record.data.datamodule
    if module is None or not module.arguments or module.class_path != f"{cls.__module__}:{cls.__qualname__}":
        raise RecordError(
            f"was trained with {module.class_path if module else 'no DataModule'}, which {cls.__qualname__}.from_uri"
            " cannot rebuild. Call from_uri of that class, or make a DataModule from the dataset's URI.",
            uri=checkpoint,
        )
    unknown = _unknown(cls, module.arguments)
    if unknown:
        raise RecordError(
            f"was trained with arguments that {cls.__qualname__} does not take: {', '.join(unknown)}. Use the version"
            " of this package that wrote the record, or make a DataModule from the dataset's URI.",
            uri=checkpoint,
            item=RECORD_ITEM,
        )
    return dict(module.arguments)


def rebuilt(cls: type[Module], arguments: Mapping[str, Any], overrides: Mapping[str, Any], checkpoint: str) -> Module:
    """Return a DataModule with recorded arguments, some of which are replaced.

    Args:
        cls: Its class.
        arguments: The recorded arguments.
        overrides: The arguments that replace recorded ones.
        checkpoint: The checkpoint's URI, for errors.

    Raises:
        RecordError: If it cannot be made with the recorded arguments.
        TypeError: If it has no such argument as one that replaces a recorded one.
    """
    try:
        return cls(**{**arguments, **overrides})
    except LightningDtoolError:
        raise
    except Exception as error:  # a record that was not written by this package may hold any values
        if _unknown(cls, overrides):
            raise
        raise RecordError(
            f"cannot make a {cls.__qualname__} with the recorded arguments ({type(error).__name__}: {error}). Pass the"
            " arguments that are wrong, or make a DataModule from the dataset's URI.",
            uri=checkpoint,
            item=RECORD_ITEM,
        ) from error


def _unknown(cls: type, arguments: Collection[str]) -> list[str]:
    parameters = inspect.signature(cls).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return [] if takes_any else sorted(set(arguments) - parameters.keys())


def permit_recorded(arguments: Mapping[str, Any], addresses: Addresses) -> None:
    """Check that the recorded datasets may be opened.

    Args:
        arguments: The recorded arguments.
        addresses: Decides which addresses of the record are opened.

    Raises:
        StoreError: If one may not.
    """
    for name, value in arguments.items():
        if (name == "uri" or name.endswith("_uri")) and isinstance(value, str):
            try:
                addresses.permit(value)
            except StoreError as error:
                reason = f"{error.reason} Or pass the URI of a copy as {name}=..."
                raise StoreError(reason, uri=error.uri, kind=error.kind) from error  # type: ignore[arg-type]


def verify_data(
    record: Provenance, checkpoint: str, places: Mapping[str, tuple[str, str]], addresses: Addresses
) -> None:
    """Compare the data of each stage with the data that a checkpoint was trained with, by content digest.

    Args:
        record: The checkpoint's record.
        checkpoint: The checkpoint's URI, for messages.
        places: For each stage to compare, the URI of its data, and the name of the argument that holds it.
        addresses: Decides which of them are opened, and limits the time for all of them.

    Raises:
        DatasetNotFoundError: If there is no dataset at a URI.
        VerificationError: If the content differs.
    """
    for stage, (uri, argument) in places.items():
        sources = record.data.stages.get(stage)
        recorded = sources[0].dataset if sources else None
        if recorded is None:
            continue
        try:
            found = addresses.open(uri)
        except DatasetNotFoundError as error:
            raise DatasetNotFoundError(
                f"{error.reason} The checkpoint {checkpoint} was trained with this dataset; if it has moved, pass its"
                f" new URI as {argument}=...",
                uri=error.uri,
            ) from error
        if found.content_digest != recorded.content_digest:
            raise VerificationError(
                f"has the content digest {found.content_digest}, but the checkpoint {checkpoint} was trained with"
                f" {recorded.content_digest} for {stage!r}: the data has changed. Pass the URI of an unchanged copy as"
                f" {argument}=..., or verify=False to use the data as it is.",
                uri=found.uri,
            )


def verify_stages(record: Provenance, checkpoint: str, stages: Stages, replaced: Collection[str]) -> None:
    """Compare the selection, the targets and the bytes of each stage with what a checkpoint was trained with.

    Args:
        record: The checkpoint's record.
        checkpoint: The checkpoint's URI, for messages.
        stages: The stages of the rebuilt DataModule, whose datasets have the recorded content.
        replaced: The recorded arguments that were replaced. What depends on them is not compared.

    Raises:
        VerificationError: If something differs.
    """
    for stage in stages.places():
        sources = record.data.stages.get(stage)
        dataset = stages.dataset(stage) if sources and sources[0].dataset is not None else None
        if dataset is None or not sources:
            continue
        compared = []
        if _SELECTS.isdisjoint(replaced):
            compared = [("selection_digest", "the selected items")]
            if _LABELS.isdisjoint(replaced):
                compared += [("class_to_idx", "the numbers of the classes"), ("targets_digest", "the targets")]
        facts = stages.facts(stage)
        for name, what in compared:
            recorded = getattr(sources[0], name)
            if recorded is not None and recorded != facts[name]:
                raise VerificationError(
                    f"{what} of {stage!r} are not those that the checkpoint {checkpoint} was trained with, although the"
                    " items are: overlays, annotations or the target function have changed. Restore them from a copy,"
                    " or pass verify=False to use the data as it is.",
                    uri=dataset.dataset.uri,
                )
        dataset.dataset.verify_once(dataset.identifiers)
