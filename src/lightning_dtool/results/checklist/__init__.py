"""A checklist of what a record must contain so that the model can be reproduced.

- The four guidelines of M. Hartley and T. S. G. Olsson, "dtoolAI: Reproducibility for Deep Learning", *Patterns*
  1(5), 100073 (2020), doi:10.1016/j.patter.2020.100073.
- The variables of the factors Method, Data and Experiment of O. E. Gundersen and S. Kjensmo, "State of the Art:
  Reproducibility in Artificial Intelligence", AAAI 2018, doi:10.1609/aaai.v32i1.11503. They are listed as in the data
  that the authors published with the paper. A variable that belongs to a paper and not to a record never passes.
- Further facts that determine the result of a training run: its code, environment, data, settings and random numbers.

Nothing here reads a store. The caller opens the training data and describes it.
"""

from collections.abc import Collection, Iterable

from lightning_dtool.record import Provenance
from lightning_dtool.results.checklist import determinants, factors, guidelines
from lightning_dtool.results.checklist.evidence import DataDescription, Evidence
from lightning_dtool.results.checklist.findings import Finding, Status, by_group, failed

__all__ = ["DataDescription", "Finding", "Status", "by_group", "check", "failed"]


def check(
    record: Provenance, data: Iterable[DataDescription] = (), items: Collection[str] | None = None
) -> list[Finding]:
    """Check a record against the guidelines and the factors of reproducibility.

    Args:
        record: The record.
        data: The metadata of its training datasets. Datasets that are left out count as not checked.
        items: The paths of the items in the dataset of the record. Default: unknown.

    Returns:
        A finding for each point, always in the same order.

    Example:
        ```python
        failed = [finding.title for finding in check(checkpoint.record) if finding.status is Status.FAIL]
        ```
    """
    evidence = Evidence(record, {found.uri: found for found in data}, items)
    points = (*guidelines.POINTS, *factors.POINTS, *determinants.POINTS)
    return [Finding(point.key, point.group, point.title, *point.judge(evidence)) for point in points]
