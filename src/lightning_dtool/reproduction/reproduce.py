"""The public functions `reproduce` and `replicate`."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from lightning_dtool._public import public
from lightning_dtool.reproduction.protecting import allowed_paths
from lightning_dtool.reproduction.request import FIRST, Environments, Request, Say, silent
from lightning_dtool.reproduction.session import carry_out
from lightning_dtool.rerun import REPLICATE, REPRODUCE
from lightning_dtool.results.reproduction import Replication, Reproduction
from lightning_dtool.store import FrozenDataset


@public
def reproduce(
    uri: str | os.PathLike[str],
    *,
    into: str | os.PathLike[str] | None = None,
    env: Environments = "current",
    device: str | None = None,
    runs: int = 0,
    level: float = 0.95,
    source: str | os.PathLike[str] | None = None,
    data: Mapping[str, str] | None = None,
    search: Sequence[str] = (),
    threads: int | None = None,
    from_: str | os.PathLike[str] = FIRST,
    trace: bool = False,
    timeout: float | None = None,
    allow_write: Sequence[str | os.PathLike[str]] = (),
    allow_network: bool = False,
    online: bool = False,
    progress: Say | None = None,
) -> Reproduction:
    """Repeat the recorded training of a checkpoint, and compare the two models bit by bit.

    The recorded code runs in a process of its own, with the permissions of the caller: reproduce only code that you
    would run yourself. It runs from the recorded source in a temporary folder, on the recorded data, up to the moment
    at which the checkpoint was saved. On most Linux systems it can neither write files outside that folder nor use the
    network. The notes of the result say what was prevented.

    Args:
        uri: The checkpoint's URI, or its folder.
        into: The base URI for the checkpoint of the rerun and for the result. Default: the folder `reproductions` in
            the working directory.
        env: `"current"` runs in this environment and lists how it differs from the recorded one; `"create"` creates an
            environment with the recorded packages.
        device: `"cpu"` trains on the CPU, whatever the script selects. Default: the script's own choice.
        runs: The number of further reruns with other seeds, by which the metrics are judged; 0 or at least 3. With 0
            the verdict is never `within tolerance`.
        level: The probability that all metrics lie in their intervals if nothing differs, between 0 and 1.
        source: A folder with code that replaces the recorded code, to test whether it still gives this model.
        data: Datasets to use in place of recorded ones, by the recorded URI, UUID or name. If their content differs,
            that is one of the differences in the result.
        search: Base URIs to search for datasets that are not at their recorded URI.
        threads: The number of threads of torch. Default: as recorded.
        from_: The start of a resumed training: `"first"` reproduces its parents first, `"parent"` uses the recorded
            parent. Or the URI or folder of an earlier checkpoint of the same run: training goes on from there, and
            all states that the two checkpoints hold are compared. The verdict is then `resume exact` or `different`.
        trace: Whether to find the first optimizer step at which the two trainings differ.
        timeout: The time limit for each training in seconds. Default: no limit.
        allow_write: Existing files and folders that the code may write. Default: only the temporary folder of the
            rerun.
        allow_network: Whether the code may use the network. By default it may only if the recorded data, or a
            checkpoint that it resumes from, is not on this machine.
        online: Whether to open datasets that only the record names, in stores other than that of the checkpoint, those
            that you give here, and those that you have configured. Default: they are not opened.
        progress: Called with messages on the progress.

    Returns:
        The result. If the training could not run, that is its verdict and not an error.

    Raises:
        DatasetNotFoundError: If the checkpoint does not exist.
        NotACheckpointError: If the dataset is not a checkpoint.
        VerificationError: If its content differs from its hashes.
        ConfigurationError: If arguments are invalid or do not fit together.
        StoreError: If `into` cannot be written.

    Example:
        ```python
        outcome = lightning_dtool.reproduce("s3://lab-models/6a1c…", search=["s3://lab-data"])
        outcome.verdict             # <Verdict.IDENTICAL: 'identical'>
        outcome.rerun.uri           # the checkpoint that came out

        outcome = lightning_dtool.reproduce(last_uri, from_=earlier_uri)
        outcome.verdict             # <Verdict.RESUME_EXACT: 'resume exact'>
        outcome.resume.differences  # ()
        ```
    """
    request = Request(
        kind=REPRODUCE, env=env, device=device, runs=runs, level=level, source=source, data=dict(data or {}),
        search=tuple(search), threads=threads, from_=from_, trace=trace, timeout=timeout,
        allow_write=allowed_paths(allow_write), allow_network=allow_network, online=online, say=progress or silent,
    )  # fmt: skip
    return carry_out(request, uri, into)


@public
def replicate(
    uri: str | os.PathLike[str],
    train: str | os.PathLike[str],
    val: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    *,
    into: str | os.PathLike[str] | None = None,
    env: Environments = "current",
    device: str | None = None,
    runs: int = 0,
    level: float = 0.95,
    source: str | os.PathLike[str] | None = None,
    data: Mapping[str, str] | None = None,
    search: Sequence[str] = (),
    threads: int | None = None,
    from_: Literal["first", "parent"] = "first",
    trace: bool = False,
    timeout: float | None = None,
    allow_write: Sequence[str | os.PathLike[str]] = (),
    allow_network: bool = False,
    online: bool = False,
    progress: Say | None = None,
) -> Replication:
    """Repeat the recorded training of a checkpoint on new data, and compare the results.

    The new dataset replaces the recorded one. Unless other datasets are given for validation and testing, it is split
    like the recorded one, by fractions or by its overlay. Classes are numbered by the new training data. The weights
    will differ; with `runs` the recorded metrics are judged by trainings on the new data. Everything else is as in
    `reproduce`.

    Args:
        uri: The checkpoint's URI, or its folder.
        train: The new dataset to train on.
        val: The new dataset to validate on. Default: a part of `train`, split as recorded.
        test: The new dataset to test on. Default: a part of `train`, split as recorded.
        into: As in `reproduce`.
        env: As in `reproduce`.
        device: As in `reproduce`.
        runs: As in `reproduce`.
        level: As in `reproduce`.
        source: As in `reproduce`.
        data: As in `reproduce`, for datasets that the script opens without a DtoolDataModule.
        search: As in `reproduce`.
        threads: As in `reproduce`.
        from_: As in `reproduce`, without a URI.
        trace: As in `reproduce`.
        timeout: As in `reproduce`.
        allow_write: As in `reproduce`.
        allow_network: As in `reproduce`.
        online: As in `reproduce`.
        progress: As in `reproduce`.

    Returns:
        The result. The record of the new checkpoint names the one that it replicates.

    Example:
        ```python
        outcome = lightning_dtool.replicate("s3://lab-models/6a1c…", "s3://lab-data/leaves-2025", runs=5)
        outcome.verdict             # <Verdict.WITHIN_TOLERANCE: 'within tolerance'>
        ```
    """
    stages = {"train": train, "val": val, "test": test}
    request = Request(
        kind=REPLICATE, env=env, device=device, runs=runs, level=level, source=source, data=dict(data or {}),
        search=tuple(search), threads=threads, from_=from_, trace=trace, timeout=timeout,
        allow_write=allowed_paths(allow_write), allow_network=allow_network, online=online, say=progress or silent,
        stages={stage: FrozenDataset.from_uri(given).uri for stage, given in stages.items() if given is not None},
    )  # fmt: skip
    found = carry_out(request, uri, into)
    assert isinstance(found, Replication)  # noqa: S101  # by the kind of the request
    return found
