"""The arguments of modules, as they were when the modules were made, and modules that are unaffected by it."""

import copy
import gc
import inspect
import pickle
import random
import textwrap
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

import programs
from kit import TinyNet
from lightning_dtool import DtoolModelMixin
from lightning_dtool.watch.construction import Arguments, arguments_of


class Plain(L.LightningModule):
    """As users write them: without `save_hyperparameters`."""

    def __init__(self, width: int, /, beta: float = 0.3, *layers: int, act: Any = nn.ReLU, **more: Any) -> None:
        width = width * 2
        self.popped = more.pop("popped", None)
        super().__init__()
        self.net = nn.Linear(4, width)


class Popping(Plain):
    """A class that passes on what it does not use."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lr = kwargs.pop("lr")
        super().__init__(*args, **kwargs)


class Data(L.LightningDataModule):
    def __init__(self, folder: str, sizes: tuple[int, int] = (1, 2)) -> None:
        super().__init__()


def known(module: Any) -> Arguments:
    found = arguments_of(module)
    assert found is not None
    return found


def test_arguments_are_known_as_they_were_passed() -> None:
    found = known(Plain(3, 0.5, 7, 8, popped=[1], other="x"))
    relu = {"type": "builtins:type", "name": "torch.nn.modules.activation:ReLU"}
    assert found.encoded == {"width": 3, "beta": 0.5, "*args": [7, 8], "act": relu, "popped": [1], "other": "x"}
    assert found.given == {"width", "beta", "*args", "popped", "other"}


def test_what_a_class_takes_out_of_its_arguments_is_known() -> None:
    assert known(Popping(3, lr=0.1)).encoded == {"*args": [3], "lr": 0.1}


def test_an_argument_may_have_any_name() -> None:
    class Names(L.LightningModule):
        def __init__(this, self: int, *, cls: int = 1, args: int = 2, made: int = 3, module: int = 4) -> None:
            super().__init__()

    found = known(Names(self=0, cls=5, args=6))
    assert found.encoded == {"self": 0, "cls": 5, "args": 6, "made": 3, "module": 4}


def test_a_datamodule_and_a_class_with_the_mixin_are_observed() -> None:
    class Mixed(DtoolModelMixin, Plain):
        pass

    assert known(Data("x")).encoded == {"folder": "x", "sizes": {"type": "builtins:tuple", "value": [1, 2]}}
    assert known(Data("x")).given == {"folder"}
    assert known(Mixed(3)).given == {"width"}


def test_nested_modules_have_arguments_of_their_own() -> None:
    class Outer(L.LightningModule):
        def __init__(self, inner: nn.Module, width: int) -> None:
            super().__init__()
            self.inner, self.own = inner, Plain(width)

    outer = Outer(Plain(5), width=2)
    assert known(outer).encoded == {
        "inner": {"type": f"{__name__}:Plain", "repr": "Plain"},
        "width": 2,
    }
    assert [known(outer.inner).encoded["width"], known(outer.own).encoded["width"]] == [5, 2]


def test_a_dataclass_and_a_class_without_init_are_observed() -> None:
    @dataclass(eq=False)
    class Config(L.LightningModule):
        width: int
        beta: float = 0.3

        def __post_init__(self) -> None:
            super().__init__()

    class Bare(L.LightningModule):
        pass

    assert known(Config(4)).encoded == {"width": 4, "beta": 0.3}
    assert known(Bare()).encoded == {}


def test_a_copy_has_the_arguments_and_an_unpickled_module_has_none() -> None:
    module = TinyNet(hidden=4)
    assert known(copy.deepcopy(module)).encoded == known(copy.copy(module)).encoded == known(module).encoded
    # Its defaults are not what it was made with.
    assert arguments_of(pickle.loads(pickle.dumps(module))) is None
    assert arguments_of(TinyNet.__new__(TinyNet)) is None


def test_a_class_that_makes_its_objects_itself_has_unknown_arguments() -> None:
    class Own(L.LightningModule):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__new__(cls)

        def __init__(self, width: int = 1) -> None:
            super().__init__()
            self.width = width

    made = Own(5)
    assert made.width == 5
    assert arguments_of(made) is None


def test_no_argument_is_kept_alive() -> None:
    encoder = nn.Linear(2, 2)
    seen = weakref.ref(encoder)

    class Forgetful(L.LightningModule):
        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()

    module = Forgetful(encoder)
    assert known(module).given == {"encoder"}
    del encoder
    gc.collect()
    assert seen() is None
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def test_large_arguments_are_neither_copied_nor_read_as_a_whole() -> None:
    class Holder(L.LightningModule):
        def __init__(self, table: Any) -> None:
            super().__init__()

    tensor = known(Holder(torch.empty(2**28, dtype=torch.uint8))).encoded["table"]  # 256 MB
    assert tensor["shape"] == [2**28]
    assert "sha256" not in tensor
    numbers = known(Holder([0] * 11_000_000)).encoded["table"]
    assert numbers == {"type": "builtins:list", "value": [0, 0, 0], "length": 11_000_000}


def test_errors_of_init_are_the_users() -> None:
    class Failing(L.LightningModule):
        def __init__(self, width: int) -> None:
            raise KeyError("mine")

    class Abstract(L.LightningModule):
        def __init__(self) -> None:
            self.layer = nn.Linear(1, 1)

    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'width'"):
        Failing()  # type: ignore[call-arg]
    with pytest.raises(KeyError, match="mine"):
        Failing(3)
    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        Abstract()


def test_observing_draws_no_random_number() -> None:
    class Drawing:
        def __init__(self, seed: int = 0) -> None:
            self.seed = seed

        def __eq__(self, other: object) -> bool:
            return True

        def __repr__(self) -> str:
            return str(random.random() + float(torch.rand(1)))

    class Repeated(list):  # type: ignore[type-arg]
        __slots__ = ()

        def __repr__(self) -> str:
            return str(torch.rand(1))

    class Holder(L.LightningModule):
        def __init__(self, *values: Any) -> None:
            super().__init__()

    L.seed_everything(1, verbose=False)
    expected = [random.random(), float(torch.rand(1))]
    L.seed_everything(1, verbose=False)
    Holder(Drawing(), Repeated([1]), object())
    assert [random.random(), float(torch.rand(1))] == expected


def test_signatures_hyperparameters_and_attributes_are_as_before() -> None:
    assert list(inspect.signature(TinyNet).parameters) == ["lr", "hidden", "dropout"]
    assert list(inspect.signature(L.LightningDataModule).parameters) == ["args", "kwargs"]
    assert TinyNet(hidden=4).hparams == {"lr": 0.05, "hidden": 4, "dropout": 0.2}
    module = Plain(1)
    assert set(vars(module)) == set(vars(pickle.loads(pickle.dumps(module))))
    assert not [name for name in vars(module) if "dtool" in name]


def test_hyperparameters_saved_by_a_mixin_below_are_found() -> None:
    class Saving:
        def __init__(self) -> None:
            self.save_hyperparameters()  # type: ignore[attr-defined]

    class Net(L.LightningModule, Saving):
        call_super_init = True

        def __init__(self, width: int) -> None:
            super().__init__()

    # Lightning looks for the arguments in the frames of all calls of `__init__`.
    assert Net(3).hparams == {"width": 3}


SCRIPT = """
import torch
assert "lightning" not in __import__("sys").modules
class Early(torch.nn.Module):
    def __init_subclass__(cls, size=0, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.size = size
class Later(Early, size=3): pass
assert Later.size == 3
try:
    class Wrong(torch.nn.Module, size=3): pass
except TypeError as error:
    assert "takes no keyword arguments" in str(error), error
else:
    raise AssertionError
import lightning as L
class Net(L.LightningModule):
    def __init__(self, width, beta=0.3):
        super().__init__()
from lightning_dtool.watch.construction import arguments_of
import sys
found = arguments_of(Net(7))
print(found and found.encoded)
"""


def test_zero_line_mode_observes_before_lightning_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    assert programs.run(script, cwd=tmp_path, fresh=True).stdout.strip() == "None"
    monkeypatch.setenv("LIGHTNING_DTOOL_BASE_URI", str(tmp_path))
    assert programs.run(script, cwd=tmp_path, fresh=True).stdout.strip() == "{'width': 7, 'beta': 0.3}"
