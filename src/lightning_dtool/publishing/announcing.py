"""What a run says about its datasets when it has ended: annotations, tags, a message, and an entry of each logger."""

import warnings
from collections.abc import Sequence
from functools import partial

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lightning_dtool.errors import LightningDtoolError, ProvenanceWarning
from lightning_dtool.publishing.account import Publication
from lightning_dtool.store import FrozenDataset, local_path
from lightning_dtool.store.parallel import THREADS, run_all


def annotate(kept: Sequence[Publication], run_status: str, tags: dict[str, str | None]) -> None:
    """Write what is known only at the end of a run to its datasets. An error of the store is a warning.

    Args:
        kept: The publications of the run that are still kept.
        run_status: How the run ended.
        tags: The URI of the dataset that gets each tag.
    """
    uris = [publication.uri for publication in kept if publication.uri is not None]
    tasks = [
        partial(_annotate, uri, run_status, [tag for tag, tagged in tags.items() if tagged == uri]) for uri in uris
    ]
    # Each waits for the disk, and a file system's journal commits several writes in one group.
    threads = THREADS if all(local_path(uri) is not None for uri in uris) else 1
    for uri, error in zip(uris, run_all(tasks, threads), strict=True):
        if error is not None:
            warnings.warn(
                f"{uri}: its tags and `run_status` could not be written. {error.reason}",
                ProvenanceWarning,
                stacklevel=2,
            )


def _annotate(uri: str, run_status: str, tags: list[str]) -> LightningDtoolError | None:
    try:
        dataset = FrozenDataset.from_uri(uri)
        dataset.put_annotation("run_status", run_status)
        for tag in tags:
            dataset.put_tag(tag)
    except LightningDtoolError as error:
        return error
    return None


def announce(loggers: Sequence[Logger], base_uri: str, number: int, uri: str) -> None:
    """Print how many checkpoints were published, and give the URI to the loggers. Their errors are warnings.

    Args:
        loggers: The Trainer's loggers.
        base_uri: Where the datasets are.
        number: Number of datasets.
        uri: The URI of the best or last one.
    """
    rank_zero_info(f"Published with provenance: {number} checkpoint(s) in {base_uri}\n`dtool_uri`: {uri}")
    for logger in loggers:
        try:
            _log_uri(logger, uri)
        except Exception as error:  # a logger may raise anything, and training has ended
            warnings.warn(
                f"{type(logger).__name__} could not log the URI {uri}: {error}", ProvenanceWarning, stacklevel=2
            )


def _log_uri(logger: Logger, uri: str) -> None:
    if isinstance(logger, TensorBoardLogger):
        # `log_hyperparams` would overwrite the run's `hp_metric` with -1.
        logger.experiment.add_text("dtool_uri", uri)
    else:
        logger.log_hyperparams({"dtool_uri": uri})
    logger.save()
