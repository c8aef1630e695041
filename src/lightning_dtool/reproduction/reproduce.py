"""Train again what a record tells of, compare, and decide."""

import os
from collections.abc import Mapping, Sequence

from lightning_dtool._public import public
from lightning_dtool.reproduction.request import Ancestors, Environments, Request, Say, silent
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
    from_: Ancestors = "first",
    trace: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> Reproduction:
    """Train again what a checkpoint's record tells of, and compare the two models bit by bit.

    The recorded code runs in a process of its own, with the rights of whoever calls this: reproduce what you would
    run. It runs from the recorded source, in a temporary folder, on the recorded data, up to the moment at which the
    checkpoint was saved. The original, and whatever folders the training wrote to, are not touched.

    Args:
        uri: The checkpoint's URI, or its folder.
        into: Where the rerun's checkpoint and the verdict go. Default: the folder `reproductions` here.
        env: `"current"` runs in this environment and says how it differs from the recorded one; `"create"` makes one
            of the recorded packages.
        device: `"cpu"` trains on the CPU, whatever the script asks for.
        runs: Further reruns with other seeds, to say where another training may end up. At least 3, or none: then
            only `identical` or `different` is claimed.
        level: The probability that all metrics lie inside their intervals if nothing differs.
        source: A folder whose code replaces the recorded one: does my present code still give this model?
        data: Other datasets for recorded ones, by their URI, UUID or name. They may have other content, which is then
            named among the differences.
        search: Base URIs to look for data in that is not where it was.
        threads: Another number of torch's threads than was recorded.
        from_: What a resumed training begins with: `"first"` reproduces its parents first, `"parent"` takes the
            recorded parent as it is.
        trace: Find the first step at which the two trainings part.
        timeout: Seconds that each training has. Default: no end.
        progress: Called with what is going on.

    Returns:
        The verdict, why, and the checkpoint of the rerun.

    Raises:
        DatasetNotFoundError: If there is no such checkpoint.
        NotACheckpointError: If it is none.
        VerificationError: If it differs from its hashes.
        ConfigurationError: If arguments do not fit together.
        StoreError: If `into` cannot be written.

    Example:
        ```python
        outcome = lightning_dtool.reproduce("s3://lab-models/6a1c…", search=["s3://lab-data"])
        outcome.verdict             # <Verdict.IDENTICAL: 'identical'>
        outcome.rerun.uri           # the checkpoint that came out
        ```
    """
    request = Request(
        kind=REPRODUCE, env=env, device=device, runs=runs, level=level, source=source, data=dict(data or {}),
        search=tuple(search), threads=threads, from_=from_, trace=trace, timeout=timeout, say=progress or silent,
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
    from_: Ancestors = "first",
    trace: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> Replication:
    """Train as a checkpoint was trained, on new data: does it come to the same result?

    As `reproduce`, but for the data. The new dataset takes the place of the recorded one and is divided as that was,
    by fractions or by its overlay, unless there is a dataset for validation or testing. Classes are numbered by the new
    training data. The weights will differ; with `runs` the recorded metrics are judged by trainings on the new data.

    Args:
        uri: The checkpoint's URI, or its folder.
        train: The new dataset to train on.
        val: The new dataset to validate on. Default: a part of `train`, as recorded.
        test: The new dataset to test on. Default: a part of `train`, as recorded.
        into: As in `reproduce`, and so for all that follow.
        env: Where it runs.
        device: The device to train on.
        runs: Further trainings with other seeds.
        level: The probability of the intervals.
        source: Code that replaces the recorded one.
        data: Other datasets that the script opens besides.
        search: Base URIs to look for data in.
        threads: Another number of threads.
        from_: What a resumed training begins with.
        trace: Find the first step at which the two trainings part.
        timeout: Seconds that each training has.
        progress: Called with what is going on.

    Returns:
        The verdict, why, and the new checkpoint, whose record says that it replicates the other.

    Example:
        ```python
        outcome = lightning_dtool.replicate("s3://lab-models/6a1c…", "s3://lab-data/leaves-2025", runs=5)
        outcome.verdict             # <Verdict.WITHIN_TOLERANCE: 'within tolerance'>
        ```
    """
    stages = {"train": train, "val": val, "test": test}
    request = Request(
        kind=REPLICATE, env=env, device=device, runs=runs, level=level, source=source, data=dict(data or {}),
        search=tuple(search), threads=threads, from_=from_, trace=trace, timeout=timeout, say=progress or silent,
        stages={stage: FrozenDataset.from_uri(given).uri for stage, given in stages.items() if given is not None},
    )  # fmt: skip
    found = carry_out(request, uri, into)
    assert isinstance(found, Replication)  # noqa: S101  # by the kind of the request
    return found
