"""The clocks of this process, by which an attribute that holds a time is told from state of a training."""

import datetime
import re
import time
from typing import Any

_NAME_OF_A_CLOCK = re.compile(r"time|clock|start|begin|tic\b|t0|since|elapsed|last|now|stamp")


class Clocks:
    """What the clocks of this process showed when a fit began."""

    def __init__(self) -> None:
        self._began = (time.time(), time.perf_counter(), time.monotonic())

    def may_have_given(self, value: Any, name: str) -> bool:
        """Return whether a number, a date or a duration was read from a clock during this fit.

        Args:
            value: Any value.
            name: The attribute that holds it.
        """
        began, counted, passed = self._began
        if isinstance(value, datetime.timedelta):
            return 0 <= value.total_seconds() <= time.time() - began + 1
        if isinstance(value, datetime.date):
            return _is_between(value, began - 1, time.time() + 1)
        if isinstance(value, datetime.time):
            return _NAME_OF_A_CLOCK.search(name.lower()) is not None
        if type(value) is not float:
            return False
        if began - 1 <= value <= time.time() + 1:
            return True
        if not _NAME_OF_A_CLOCK.search(name.lower()):
            return False
        return counted - 1 <= value <= time.perf_counter() + 1 or passed - 1 <= value <= time.monotonic() + 1


def _is_between(value: datetime.date, first: float, last: float) -> bool:
    """Return whether a date is between two moments, in the local time or in UTC if it does not say in which."""
    for zone in (None, datetime.timezone.utc):
        moments = [datetime.datetime.fromtimestamp(each, zone) for each in (first, last)]
        if not isinstance(value, datetime.datetime):
            if moments[0].date() <= value <= moments[1].date():
                return True
        elif value.tzinfo is not None:
            return first <= value.timestamp() <= last
        elif moments[0].replace(tzinfo=None) <= value <= moments[1].replace(tzinfo=None):
            return True
    return False
