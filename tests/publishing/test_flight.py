"""An older file goes only when the newer checkpoint is whole at its path."""

from pathlib import Path

import pytest

from lightning_dtool.publishing.flight import Flight

ONE, OTHER = object(), object()


@pytest.fixture
def removed() -> list[str]:
    return []


def remove(flight: Flight, path: str, removed: list[str]) -> None:
    flight.remove(path, lambda: removed.append(path))


def test_without_a_flight_a_file_is_removed_at_once(removed: list[str]) -> None:
    flight = Flight()
    remove(flight, "/old", removed)
    assert removed == ["/old"]
    with pytest.raises(FileNotFoundError):
        flight.remove("/gone", lambda: Path("/gone/gone").unlink())


def test_a_removal_waits_for_every_checkpoint_in_flight(removed: list[str]) -> None:
    flight = Flight()
    for path in ("/best", "/last"):
        flight.expect(path, ONE)
    remove(flight, "/old", removed)
    flight.filled("/best")
    assert removed == []
    flight.filled("/last")
    assert removed == ["/old"]


def test_a_path_that_is_not_filled_keeps_the_older_file_until_the_next_one_is(removed: list[str]) -> None:
    flight = Flight()
    flight.expect("/new", ONE)
    remove(flight, "/old", removed)
    flight.not_filled("/new", ONE)
    remove(flight, "/older", removed)
    assert removed == []
    flight.filled("/newer")
    assert removed == ["/old", "/older"]


def test_what_is_saved_again_is_not_removed_afterwards(removed: list[str]) -> None:
    flight = Flight()
    flight.expect("/new", ONE)
    remove(flight, "/a", removed)
    remove(flight, "/b", removed)
    flight.filled("/a")  # a small checkpoint is whole at once
    flight.expect("/b", ONE)
    flight.filled("/new")
    flight.filled("/b")
    assert removed == []


def test_a_checkpoint_that_nobody_wants_any_more_holds_nothing_back(removed: list[str]) -> None:
    flight = Flight()
    flight.expect("/new", ONE)
    remove(flight, "/new", removed)
    assert removed == ["/new"]
    flight.expect("/new", ONE)
    remove(flight, "/old", removed)
    flight.dropped("/new", ONE)
    assert removed == ["/new", "/old"]


def test_a_checkpoint_that_is_overtaken_does_not_end_the_flight_of_the_next_one(removed: list[str]) -> None:
    flight = Flight()
    flight.expect("/last", ONE)
    flight.expect("/last", OTHER)
    flight.dropped("/last", ONE)
    flight.filled("/last", ONE)
    assert flight.awaits("/last")
    remove(flight, "/old", removed)
    assert removed == []
    flight.filled("/last")
    assert removed == ["/old"]


def test_names_count_as_if_everything_were_done(removed: list[str]) -> None:
    flight = Flight()
    flight.expect("/new", ONE)
    remove(flight, "/old", removed)
    assert (flight.exists("/new"), flight.exists("/old"), flight.exists("/other")) == (True, False, None)
    assert flight.awaits("/new")
    flight.filled("/new")
    assert (flight.exists("/new"), flight.exists("/old")) == (None, None)


def test_a_removal_that_fails_later_does_not_keep_others_from_being_done(removed: list[str]) -> None:
    flight = Flight()
    flight.expect("/new", ONE)
    flight.remove("/protected", lambda: Path("/protected/file").unlink())
    remove(flight, "/old", removed)
    flight.filled("/new")
    assert removed == ["/old"]
