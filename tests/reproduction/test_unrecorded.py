"""The causes of a difference that no record holds: named whenever no recorded input explains it."""

from lightning_dtool.record import Gap, Randomness, Trainer
from lightning_dtool.reproduction.unrecorded import unrecorded_causes
from record.samples import record as sample


def named(**parts: object) -> list[str]:
    return [line.partition(":")[0] for line in unrecorded_causes(sample(**parts), sample())]


def test_there_is_always_a_cause() -> None:
    known = Randomness(repeatable_by="seed", flags={"PYTHONHASHSEED": "0", "deterministic_algorithms": True})
    assert named(randomness=known) == [
        "files that the script reads itself, apart from the recorded data and modules",
        "the clock, process ids, the network, and programs that the script runs",
    ]


def test_settings_that_let_two_runs_differ_come_first() -> None:
    found = named(
        randomness=Randomness(repeatable_by=None, flags={"PYTHONHASHSEED": None, "deterministic_algorithms": False}),
        trainer=Trainer(settings={"world_size": 2}),
    )
    assert found[:4] == [
        "randomness.repeatable_by",
        "randomness.flags.PYTHONHASHSEED",
        "randomness.flags.deterministic_algorithms",
        "trainer.settings.world_size",
    ]


def test_an_input_that_only_one_record_holds_is_named() -> None:
    gap = Gap(fact="model.arguments.width", reason="it was not seen")
    assert unrecorded_causes(sample(gaps=[gap]), sample())[0] == (
        "model.arguments.width: not known in the recorded training (it was not seen)"
    )
    assert unrecorded_causes(sample(), sample(gaps=[gap]))[0].startswith(
        "model.arguments.width: not known in the rerun"
    )
    both = unrecorded_causes(sample(gaps=[gap]), sample(gaps=[gap]))
    assert not both[0].startswith("model")
