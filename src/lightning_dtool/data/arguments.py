"""The arguments of a DtoolDataModule, and their checks."""

from collections.abc import Callable
from typing import Any, Protocol

from lightning_dtool.data.selection import STAGES, check_fractions
from lightning_dtool.errors import ConfigurationError


class Arguments(Protocol):
    """The arguments that a DtoolDataModule keeps as attributes."""

    uri: str | None
    train_uri: str | None
    val_uri: str | None
    test_uri: str | None
    predict_uri: str | None
    val_split: float
    test_split: float
    split_overlay: str | None
    select: dict[str, Any] | None
    stratify: bool
    seed: int
    target: str | Callable[[Any], Any] | None
    decoder: Callable[[Any], Any] | None
    train_transform: Callable[[Any], Any] | None
    eval_transform: Callable[[Any], Any] | None
    target_transform: Callable[[Any], Any] | None
    batch_size: int
    eval_batch_size: int | None
    num_workers: int
    persistent_workers: bool
    decoded_cache: bool
    verify: bool


def check_arguments(given: Arguments) -> None:
    """Check the counts and fractions, and that the arguments fit together, without reading any data.

    Raises:
        ConfigurationError: If a count or fraction is not valid, or if arguments do not fit together.
    """
    if given.uri is not None and given.train_uri is not None:
        raise ConfigurationError(
            f"Both uri={given.uri!r} and train_uri={given.train_uri!r} are given. Give `uri` for one dataset that is"
            " divided into stages, or `train_uri` for a dataset that is used as a whole for training."
        )
    if all(getattr(given, f"{stage}_uri") is None for stage in STAGES) and given.uri is None:
        raise ConfigurationError("There is no data: give `uri`, or `train_uri` (and `val_uri`, `test_uri`, …).")
    check_fractions(given.val_split, given.test_split)
    if given.uri is None and (given.val_split or given.test_split or given.split_overlay):
        raise ConfigurationError(
            "val_split, test_split and split_overlay divide the dataset `uri`, which is not given."
            " Pass the dataset as `uri` instead of `train_uri`."
        )
    if given.split_overlay and (given.val_split or given.test_split):
        raise ConfigurationError(
            f"split_overlay={given.split_overlay!r} already assigns each item to a stage;"
            " leave out val_split and test_split."
        )
    for stage, fraction in (("val", given.val_split), ("test", given.test_split)):
        if getattr(given, f"{stage}_uri") is not None and (fraction or given.split_overlay):
            other = f"{stage}_split" if fraction else "split_overlay"
            raise ConfigurationError(f"{stage}_uri and {other} are both given; the data for {stage} needs only one.")
    for name in ("batch_size", "eval_batch_size"):
        size = getattr(given, name)
        if name == "batch_size" or size is not None:
            _check_count(name, size, 1)
    _check_count("num_workers", given.num_workers, 0)
    if given.decoded_cache and given.decoder is not None:
        raise ConfigurationError(
            "decoded_cache=True works only with the decoders of this package, because the results of decoder=... may"
            " change. Leave out one of the two."
        )
    if given.persistent_workers and not given.num_workers:
        raise ConfigurationError("persistent_workers=True needs workers: set num_workers above 0.")


def plain(value: Any) -> Any:
    """Return a value that a safe load of a checkpoint accepts: lists, tuples and sets become lists."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} is {value!r}; expected a whole number, at least {least}.")
