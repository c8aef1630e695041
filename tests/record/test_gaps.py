"""The collector of gaps and their places in the record."""

import pytest

from lightning_dtool.record import Gap, Gaps
from lightning_dtool.record.gaps import MAX_ERROR, MAX_FACT


@pytest.mark.parametrize(
    ("places", "fact"),
    [
        ([], ""),
        (["loss"], "loss"),
        (["loss", "calls[0]", "arguments"], "loss.calls[0].arguments"),
        (["data.stages.train", "[1]", "loader"], "data.stages.train[1].loader"),
        (["", "[0]", ""], "[0]"),
        (["code.files", "caf\udce9.py"], "code.files.caf\\udce9.py"),
    ],
)
def test_a_nested_place_has_a_dotted_path(places: list[str], fact: str) -> None:
    gaps = root = Gaps()
    for place in places:
        gaps = gaps.at(place)
    gaps.add("a reason", "a remedy")
    assert list(root) == [Gap(fact=fact, reason="a reason", remedy="a remedy")]


def test_all_places_share_one_ordered_list_of_gaps() -> None:
    gaps = Gaps()
    model = gaps.at("model")
    model.at("source").add("first")
    gaps.at("loss").add("second")
    model.add("third")
    assert [gap.reason for gap in gaps] == ["first", "second", "third"]
    assert list(model) == list(gaps)
    assert (len(model), gaps[1].fact, gaps[-1].fact) == (3, "loss", "model")
    assert gaps
    assert not Gaps()


def test_equal_gaps_are_kept_once() -> None:
    gaps = Gaps()
    for _ in range(3):
        gaps.at("trace").add("no parameters")
    gaps.at("trace").add("no loss")
    assert [gap.reason for gap in gaps] == ["no parameters", "no loss"]


def test_an_observation_that_raises_is_a_gap() -> None:
    gaps = Gaps()

    def fail() -> int:
        raise ValueError("x" * 1000)

    assert gaps.at("a").observe(lambda: 1, 0) == 1
    assert gaps.at("b").observe(fail, 0) == 0
    (gap,) = gaps
    assert gap.fact == "b"
    assert gap.reason.startswith("it could not be observed: ValueError: xxx")
    assert len(gap.reason) == MAX_ERROR


def test_an_interruption_is_not_a_gap() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    gaps = Gaps()
    with pytest.raises(KeyboardInterrupt):
        gaps.observe(interrupt, None)
    assert not gaps


def test_gaps_of_a_part_are_included_at_its_place() -> None:
    part = Gaps()
    part.at("[2].rate").add("a reason", "a remedy")
    part.add("another")
    whole = Gaps()
    whole.at("loss.calls[0].arguments").include(part)
    assert [gap.fact for gap in whole] == ["loss.calls[0].arguments[2].rate", "loss.calls[0].arguments"]
    assert whole[0].remedy == "a remedy"


def test_a_gap_needs_no_remedy() -> None:
    gaps = Gaps()
    gaps.at("loss").add("a reason")
    assert list(gaps) == [Gap(fact="loss", reason="a reason")]
    assert gaps[0].remedy == ""


def test_a_path_is_bounded() -> None:
    gaps = Gaps()
    gaps.at("x" * 10 * MAX_FACT).add("a reason")
    gaps.at("y" * MAX_FACT).add("a reason")
    assert [gap.fact for gap in gaps] == ["x" * MAX_FACT + f"… ({10 * MAX_FACT} characters)", "y" * MAX_FACT]
