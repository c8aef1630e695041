"""One row of the resume matrix."""

from dataclasses import dataclass

ANNOUNCED = "different, announced"
"""The verdict on a resume that is not exact and gives a warning with the reason."""

SILENT = "DIFFERENT, NOT ANNOUNCED"
"""The verdict on a resume that is not exact and gives no warning: a fault of this package."""

ITS_OWN = "its own"
"""The data of a training that brings loaders, datasets or samplers of its own."""


@dataclass(frozen=True)
class Case:
    """One row of the matrix.

    Attributes:
        where: Where training stops, a key of `STOPS`.
        data: The kind of data, one of `DATA`, or `ITS_OWN`.
        model: The training, a key of `MODELS` or of `KINDS`.
        workers: `0`, `2`, or `persistent` (2).
        processes: 1, or 2 for DDP with gloo.
    """

    where: str
    data: str = "DtoolDataModule"
    model: str = "dropout and batch norm"
    workers: str = "0"
    processes: int = 1

    @property
    def name(self) -> str:
        parts = [self.where, self.data, self.model, f"workers {self.workers}"]
        return ", ".join([*parts, "DDP of 2"] if self.processes > 1 else parts)
