"""The differences between two records, their code and their packages.

Elements of lists are matched by identity and not by position: callbacks by class, children and losses by name, data by
UUID and by content digest. Source text is compared line by line, packages by version. Differences that any two runs
have (times, UUIDs, durations) are marked as incidental.
"""

from lightning_dtool.results.differences.difference import Difference
from lightning_dtool.results.differences.records import (
    Content,
    checkpoint_differences,
    environment_differences,
    flag_differences,
    record_differences,
)
from lightning_dtool.results.differences.unknown import INPUTS

__all__ = [
    "INPUTS",
    "Content",
    "Difference",
    "checkpoint_differences",
    "environment_differences",
    "flag_differences",
    "record_differences",
]
