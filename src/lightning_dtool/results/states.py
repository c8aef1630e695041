"""A difference between the states that two checkpoints hold."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StateDifference:
    """A value that two checkpoints do not have in common.

    Attributes:
        part: The part of the checkpoint: `weights`, `optimizer states`, `schedulers`, `gradients`, `callbacks`,
            `metrics`, `random states`, `loops`, `loaders`, or another key of the checkpoint.
        path: The place of the value in this part, such as `0.state.3.exp_avg`.
        a: The value in the first checkpoint, as a short text; `absent` if it has none.
        b: The same for the second.
    """

    part: str
    path: str
    a: str
    b: str

    def __str__(self) -> str:
        """Return the place and both values, on one line."""
        values = f"{self.a} -> {self.b}" if self.a != self.b else self.a
        return f"{self.part}: {self.path} ({values})"
