"""The arguments that a record provides for loading a module."""

from typing import Any

import lightning as L
import torch
from torch import nn

from lightning_dtool import watch
from lightning_dtool.capture.arguments import capture_arguments
from lightning_dtool.loading.arguments import Recorded, recorded_arguments
from lightning_dtool.record import Gaps, Model, Provenance
from record.samples import record

watch.install()


class Net(L.LightningModule):
    """A module that saves no hyperparameters."""

    def __init__(self, width: int = 4, encoder: Any = None, act: Any = nn.Tanh, sizes: tuple[int, ...] = ()) -> None:
        super().__init__()


class Open(L.LightningModule):
    def __init__(self, **options: Any) -> None:
        super().__init__()


def recorded(module: L.LightningModule) -> Provenance:
    gaps = Gaps()
    arguments = capture_arguments(module, gaps.at("model.arguments"), "load_module")
    return record(model=Model(class_path="leaves:Net", arguments=arguments), gaps=list(gaps))


def test_plain_arguments_are_built_from_the_record() -> None:
    values, missing = recorded_arguments(recorded(Net(7, sizes=(1, 2))), Net)
    assert (values, missing) == ({"width": 7, "encoder": None, "sizes": (1, 2)}, [])  # `act` has its default
    (values, missing) = recorded_arguments(recorded(Open(mean=torch.ones(2), name="x")), Open)
    assert torch.equal(values["mean"], torch.ones(2))
    assert (values["name"], missing) == ("x", [])


def test_known_arguments_and_those_of_another_class_are_left_out() -> None:
    assert recorded_arguments(recorded(Net(7, encoder=nn.ReLU())), Net, known=["encoder", "width"]).missing == []
    assert recorded_arguments(recorded(Open(lr=0.1)), Net) == Recorded({}, [])


def test_what_the_record_names_is_imported_only_with_trust() -> None:
    found = recorded(Net(act=nn.ReLU))
    assert recorded_arguments(found, Net).missing == ["act"]
    assert "act" not in recorded_arguments(found, Net).values
    trusted = recorded_arguments(found, Net, trust_source=True)
    assert (trusted.values["act"], trusted.missing) == (nn.ReLU, [])


def test_objects_and_credentials_are_missing_also_with_trust() -> None:
    found = recorded(
        Open(encoder=nn.Linear(2, 2), api_key="a1b2c3d4", config={"user": {"password": "hunter22"}, "w": 1})
    )
    for trust in (False, True):
        assert recorded_arguments(found, Open, trust_source=trust) == ({}, ["encoder", "api_key", "config"])


def test_an_object_that_is_the_default_is_not_missing() -> None:
    assert recorded_arguments(recorded(Net(act=nn.Tanh)), Net).missing == []


class Base(L.LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()


class Passing(Base):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def test_values_without_names_are_passed_by_the_hyperparameters_that_a_base_class_saved() -> None:
    assert recorded(Passing(3)).model.arguments == {"*args": [3]}
    assert recorded_arguments(recorded(Passing(3)), Passing, known=["width"]) == ({}, [])


def test_a_record_without_arguments_provides_none() -> None:
    assert recorded_arguments(record(), Net) == ({}, [])
