"""The number of recorded fits in this process, or in a job of a Hydra sweep."""

import sys
from dataclasses import dataclass


@dataclass
class _Begun:
    """Number of fits so far: those with callbacks that scripts created, and all of them."""

    explicit: int = 0
    all: int = 0


_begun: dict[str | None, _Begun] = {}
"""By the folder of the Hydra job. None outside of a job."""


def next_fit_index(*, explicit: bool) -> int:
    """Count a fit, and return its number, from 0.

    The jobs of a Hydra sweep run in one process, and a rerun runs one of them. Each job has its own numbers.

    Args:
        explicit: Whether the script created the callback. Then only such fits are counted: the number is the same in a
            process where other Trainers are recorded by themselves.
    """
    begun = _begun.setdefault(_hydra_job(), _Begun())
    number = begun.explicit if explicit else begun.all
    begun.all += 1
    begun.explicit += explicit
    return number


def _hydra_job() -> str | None:
    """Return the output folder of the Hydra job that is running."""
    try:
        config = sys.modules["hydra.core.hydra_config"].HydraConfig
        return str(config.get().runtime.output_dir) if config.initialized() else None
    except Exception:  # no Hydra, or another release of it
        return None
