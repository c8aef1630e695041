"""The clocks of this process, by which an attribute that holds a time is told from state of a training."""

import re
import time

_NAME_OF_A_CLOCK = re.compile(r"time|clock|start|begin|tic\b|t0|since|elapsed|last|now|stamp")


class Clocks:
    """What the clocks of this process showed when a fit began."""

    def __init__(self) -> None:
        self._began = (time.time(), time.perf_counter(), time.monotonic())

    def may_have_given(self, value: float, name: str) -> bool:
        """Return whether a number was read from a clock during this fit.

        Args:
            value: The number.
            name: The attribute that holds it.
        """
        began, counted, passed = self._began
        if began - 1 <= value <= time.time() + 1:
            return True
        if not _NAME_OF_A_CLOCK.search(name.lower()):
            return False
        return counted - 1 <= value <= time.perf_counter() + 1 or passed - 1 <= value <= time.monotonic() + 1
