"""When a checkpoint was taken, and what is counted as done."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_dtool.resuming.moment import Moment, moment_of, settle


def counts(ready: int, started: int, processed: int, completed: int) -> SimpleNamespace:
    return SimpleNamespace(ready=ready, started=started, processed=processed, completed=completed)


def state(epoch: SimpleNamespace, batch: SimpleNamespace, validating: bool = False) -> Any:
    batches = SimpleNamespace(batch_progress=SimpleNamespace(current=batch))
    loop = SimpleNamespace(epoch_progress=SimpleNamespace(current=epoch), epoch_loop=batches)
    return SimpleNamespace(fit_loop=loop, validating=validating)


INSIDE = counts(2, 2, 1, 1)


@pytest.mark.parametrize(
    ("trainer", "validated", "moment"),
    [
        (state(counts(0, 0, 0, 0), counts(0, 0, 0, 0)), True, Moment.BETWEEN_EPOCHS),
        (state(counts(2, 2, 2, 2), counts(6, 6, 6, 6)), True, Moment.BETWEEN_EPOCHS),
        (state(counts(2, 2, 2, 1), counts(6, 6, 6, 6)), True, Moment.EPOCH_END),
        (state(counts(2, 1, 1, 1), counts(6, 6, 6, 6)), True, Moment.ELSEWHERE),
        (state(INSIDE, counts(3, 3, 3, 2)), True, Moment.BATCH_END),
        (state(INSIDE, counts(3, 3, 3, 3)), True, Moment.BETWEEN_BATCHES),
        (state(INSIDE, counts(3, 3, 2, 2)), True, Moment.INSIDE_BATCH),
        (state(INSIDE, counts(3, 2, 2, 2)), True, Moment.INSIDE_BATCH),
        (state(INSIDE, counts(3, 3, 3, 3), validating=True), True, Moment.VALIDATION_END),
        (state(INSIDE, counts(3, 3, 3, 3), validating=True), False, Moment.INSIDE_VALIDATION),
    ],
)
def test_the_counts_tell_the_moment(trainer: Any, validated: bool, moment: Moment) -> None:
    assert moment_of(trainer, validated) is moment


def loops(epoch: SimpleNamespace, batch: SimpleNamespace, last: bool = True) -> dict[str, Any]:
    def both(current: SimpleNamespace, earlier: int) -> dict[str, dict[str, int]]:
        total = {name: value + earlier for name, value in vars(current).items()}
        return {"current": dict(vars(current)), "total": total}

    return {
        "epoch_progress": both(epoch, 0),
        "epoch_loop.batch_progress": {**both(batch, 10), "is_last_batch": last},
    }


def test_an_epoch_that_was_about_to_end_has_ended() -> None:
    fit_loop = loops(counts(2, 2, 2, 1), counts(6, 6, 6, 6))
    settle(fit_loop, Moment.EPOCH_END)
    assert fit_loop["epoch_progress"]["current"]["completed"] == fit_loop["epoch_progress"]["total"]["completed"] == 2


def test_a_batch_that_was_about_to_end_has_ended() -> None:
    fit_loop = loops(INSIDE, counts(3, 3, 3, 2))
    settle(fit_loop, Moment.BATCH_END)
    progress = fit_loop["epoch_loop.batch_progress"]
    assert (progress["current"]["completed"], progress["total"]["completed"]) == (3, 13)


def test_a_batch_that_was_not_finished_has_not_begun() -> None:
    fit_loop = loops(INSIDE, counts(3, 3, 2, 2))
    settle(fit_loop, Moment.INSIDE_BATCH)
    progress = fit_loop["epoch_loop.batch_progress"]
    assert set(progress["current"].values()) == {2}
    assert set(progress["total"].values()) == {12}
    assert progress["is_last_batch"] is False


@pytest.mark.parametrize("moment", [Moment.BETWEEN_EPOCHS, Moment.BETWEEN_BATCHES, Moment.VALIDATION_END])
def test_where_everything_is_counted_nothing_changes(moment: Moment) -> None:
    fit_loop = loops(INSIDE, counts(3, 3, 3, 3))
    before = copy.deepcopy(fit_loop)
    settle(fit_loop, moment)
    assert fit_loop == before


@pytest.mark.parametrize("completed", [1, 2], ids=["at the end of the epoch", "after training"])
def test_an_epoch_that_was_stopped_goes_on(completed: int) -> None:
    fit_loop = loops(counts(2, 2, 2, completed), counts(3, 3, 3, 3))
    settle(fit_loop, Moment.STOPPED)
    for progress in fit_loop["epoch_progress"].values():
        assert progress == {"ready": 2, "started": 2, "processed": 1, "completed": 1}
    assert set(fit_loop["epoch_loop.batch_progress"]["current"].values()) == {3}
