"""A difference between two records."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from lightning_dtool._public import public

Kind = Literal["changed", "added", "removed", "unknown"]

Weight = Literal["matters", "unknown", "same content", "incidental"]


@public
@dataclass(frozen=True)
class Difference:
    """A difference between two records.

    Attributes:
        path: The place in the record: `optimizers[0].param_groups[0].options.lr`. Brackets contain a number, or the
            identity of an element: `trainer.callbacks[lightning.pytorch.callbacks.early_stopping:EarlyStopping]`.
        kind: `changed`, `added` (only in the second record), `removed` (only in the first), or `unknown` (both records
            have a gap, so the fact is not known to be the same).
        before: The value in the first record; None if it has none.
        after: The value in the second record; None if it has none.
        note: A remark; the reason for the gap if the kind is `unknown`.
        weight: `matters`; `unknown` for a fact that is not known to be the same; `same content` for data with the same
            digest under another URI or UUID; `incidental` for a difference that any two runs have.
        patch: For text of several lines, the change as a unified diff.
    """

    path: str
    kind: Kind
    before: Any = None
    after: Any = None
    note: str = ""
    weight: Weight = "matters"
    patch: str = ""

    @property
    def section(self) -> str:
        """The part of the record that it belongs to: `optimizers`."""
        return re.split(r"[.\[]", self.path, maxsplit=1)[0]
