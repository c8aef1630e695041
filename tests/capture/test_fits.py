"""The number of a fit in its process."""

import pytest

from lightning_dtool.capture import fits
from lightning_dtool.capture.fits import next_fit_index


def test_fits_that_a_script_records_are_not_counted_with_those_that_record_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fits, "_begun", {"explicit": 0, "all": 0})
    assert [next_fit_index(explicit=explicit) for explicit in (True, False, True, False)] == [0, 1, 1, 3]
