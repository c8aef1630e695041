"""The gaps of a record, and their collector."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pydantic import Field

from lightning_dtool.record.section import Section
from lightning_dtool.record.text import as_text

MAX_FACT = 1000
"""Maximum length of a gap's path, in characters."""

MAX_ERROR = 500
"""Maximum length of a gap's reason that quotes an error, in characters."""

T = TypeVar("T")


class Gap(Section):
    """A fact that is not recorded, or not completely."""

    fact: str = Field(
        description="What is not recorded, as a path into the record, for example `model.hyperparameters.act`."
    )
    reason: str = Field(description="Why the fact could not be recorded.")
    remedy: str = Field(default="", description="What the user can do to close the gap.")


class Gaps:
    """The gaps of a record, collected while its facts are observed.

    A collector belongs to a place in the record. `at` returns a collector for a place below it, which adds to the same
    gaps. A gap that is added several times is kept once.

    Example:
        >>> gaps = Gaps()
        >>> loader = gaps.at("data.stages.train[0]").at("loader")
        >>> loader.at("timeout").add("it is not a number", "pass a number")
        >>> [(gap.fact, gap.reason) for gap in gaps]
        [('data.stages.train[0].loader.timeout', 'it is not a number')]
    """

    __slots__ = ("_found", "_place")

    def __init__(self) -> None:
        self._found: dict[Gap, None] = {}
        self._place = ""

    def at(self, place: str) -> "Gaps":
        """Return a collector for a place below this one.

        Args:
            place: A path, such as `loader.timeout`, or an index, such as `[0]`.
        """
        below = object.__new__(Gaps)
        below._found = self._found
        below._place = _joined(self._place, place)
        return below

    def add(self, reason: str, remedy: str = "") -> None:
        """Add a gap: the fact at this place is not recorded, or not completely.

        Args:
            reason: Why the fact could not be recorded.
            remedy: What the user can do to close the gap.
        """
        self._add(self._place, reason, remedy)

    def observe(self, function: Callable[[], T], otherwise: T) -> T:
        """Return what a function returns. If it raises, add a gap.

        An error while a fact is observed affects neither the rest of the record nor the training.

        Args:
            function: A function that observes a fact.
            otherwise: The value to return if it raises.

        Example:
            >>> gaps = Gaps()
            >>> gaps.at("model.parameters_total").observe(lambda: 1 // 0, None)
            >>> gaps[0].reason
            'it could not be observed: ZeroDivisionError: integer division or modulo by zero'
        """
        try:
            return function()
        except Exception as error:  # a user's object may raise anything
            self.add_error(error)
            return otherwise

    def add_error(self, error: BaseException) -> None:
        """Add a gap for an error that was raised while a fact was observed.

        Args:
            error: The error.
        """
        self.add(f"it could not be observed: {type(error).__name__}: {error}"[:MAX_ERROR])

    def include(self, gaps: Iterable[Gap]) -> None:
        """Add gaps whose paths are relative to this place.

        Args:
            gaps: Gaps of another collector, or of another part of the record.
        """
        for gap in gaps:
            self._add(_joined(self._place, gap.fact), gap.reason, gap.remedy)

    def _add(self, place: str, reason: str, remedy: str) -> None:
        fact = as_text(place)
        short = fact if len(fact) <= MAX_FACT else f"{fact[:MAX_FACT]}… ({len(fact)} characters)"
        self._found[Gap(fact=short, reason=as_text(reason), remedy=as_text(remedy))] = None

    def __iter__(self) -> Iterator[Gap]:
        return iter(list(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: int) -> Gap:
        return list(self._found)[index]


def _joined(place: str, more: str) -> str:
    return f"{place}.{more}" if place and more and not more.startswith("[") else f"{place}{more}"
