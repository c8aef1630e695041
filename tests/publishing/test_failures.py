"""Errors of the publishing thread are reported once, in the thread that trains."""

import errno
import warnings

import pytest

from lightning_dtool.errors import ProvenanceWarning, PublishError
from lightning_dtool.publishing.failures import Failures


def test_an_error_is_reported_once() -> None:
    failures = Failures("file:///models")
    failures.add(OSError("no space"))
    with pytest.warns(ProvenanceWarning, match=r"^file:///models: .*OSError: no space\. The plain file .* was kept"):
        failures.report(raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        failures.report(raising=False)
        failures.report(raising=True)
    assert [str(error) for error in failures.errors] == ["no space"]


def test_a_strict_report_raises_with_the_cause() -> None:
    failures = Failures("file:///models")
    cause = OSError(errno.ENOSPC, "no space")
    failures.add(cause, file_kept=False)
    with pytest.raises(PublishError, match=r"Lightning's path does not hold it either\. Make room") as raised:
        failures.report(raising=True)
    assert raised.value.__cause__ is cause
    assert raised.value.uri == "file:///models"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "no space"), " Make room, or save elsewhere."),
        (PermissionError(errno.EACCES, "denied"), " Make the folder writable, or save elsewhere."),
        (MemoryError(), " Free memory, or save a smaller checkpoint."),
        (ValueError("anything else"), ""),
    ],
)
def test_the_remedy_fits_the_cause(error: Exception, remedy: str) -> None:
    failures = Failures("file:///models")
    failures.add(error, file_kept=False)
    with pytest.warns(ProvenanceWarning) as caught:
        failures.report(raising=False)
    assert str(caught[0].message).endswith(f"and training continues.{remedy}")
