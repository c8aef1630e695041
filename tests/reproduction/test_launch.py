"""The choice between the callback of a recorded script and one that attaches itself."""

import pytest

from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.automatic_callback import AutomaticProvenanceCallback
from lightning_dtool.record import Component, Trainer
from lightning_dtool.reproduction.launch import _attached_itself
from lightning_dtool.values.definitions import class_path
from record.samples import record


@pytest.mark.parametrize(("cls", "attached"), [(DtoolProvenanceCallback, False), (AutomaticProvenanceCallback, True)])
def test_a_script_with_its_own_callback_gets_no_second_one(cls: type, attached: bool) -> None:
    callbacks = [Component(class_path=class_path(cls))]
    assert _attached_itself(record(trainer=Trainer(callbacks=callbacks))) is attached
