"""The number of recorded fits in this process."""

_begun = {"explicit": 0, "all": 0}
"""Number of fits so far: those with callbacks that scripts created, and all of them."""


def next_fit_index(*, explicit: bool) -> int:
    """Count a fit, and return its number, from 0.

    Args:
        explicit: Whether the script created the callback. Then only such fits are counted: the number is the same in a
            process where other Trainers are recorded by themselves.
    """
    number = _begun["explicit" if explicit else "all"]
    _begun["all"] += 1
    if explicit:
        _begun["explicit"] += 1
    return number
