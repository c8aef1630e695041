"""The class that a record names: whatever it names, nothing of a stranger's runs."""

import importlib
import os
import py_compile
import sys
import sysconfig
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule

from kit import TinyNet, checkpoint_dataset
from lightning_dtool import DtoolCheckpoint
from lightning_dtool.errors import (
    ConfigurationError,
    LightningDtoolError,
    MixedNamespaceError,
    ModuleLoadError,
    ProvenanceWarning,
)
from lightning_dtool.loading.caller import command_line
from lightning_dtool.loading.named_class import named_class
from lightning_dtool.loading.own_modules import _FINDER
from lightning_dtool.loading.recorded_class import RefusedError, recorded_class
from lightning_dtool.record import Model
from lightning_dtool.store import DatasetWriter
from record.samples import record

RAN = "import pathlib; (pathlib.Path(__file__).parent / 'RAN').touch()\n"
"""What leaves a mark beside the file that it stands in, if that runs."""

NET = "import lightning as L\nclass Net(L.LightningModule): ...\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder in `sys.path`, such as that of a script. Its modules are forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    _FINDER.folders.clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(
            getattr(sys.modules[name], "__file__", None) or vars(sys.modules[name]).get("__path__")
        ):
            del sys.modules[name]


def named(files: dict[str, str]) -> dict[str, str]:
    """Return the contents of modules by path; each leaves a mark if it runs. `a__b` is `a/b.py`, `a__` a package."""
    paths = {name: name.replace("__", "/") + ("__init__" if name.endswith("__") else "") for name in files}
    return {f"{paths[name]}.py": RAN + text for name, text in files.items()}


def put(folder: Path, **files: str) -> None:
    """Write modules."""
    for relpath, text in named(files).items():
        (folder / relpath).parent.mkdir(parents=True, exist_ok=True)
        (folder / relpath).write_text(text)


def marks(folder: Path) -> list[str]:
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("RAN"))


def refusal(class_path: str) -> str:
    with pytest.raises(RefusedError) as caught:
        recorded_class(Model(class_path=class_path))
    return str(caught.value)


def hostile_dataset(base: Path, name: str = "evil", **files: str) -> None:
    """Write a dataset whose items are modules."""
    base.mkdir(exist_ok=True)
    with DatasetWriter(name, str(base)) as writer:
        for relpath, text in named(files).items():
            writer.put_bytes(text.encode(), relpath)
        writer.commit()


def published(base: Path, class_path: str, **model: object) -> DtoolCheckpoint:
    """Return a checkpoint whose record names a class; its file is not read before the class is here."""
    base.mkdir(exist_ok=True)
    given = record(model=Model(class_path=class_path, **model))
    return DtoolCheckpoint.from_uri(checkpoint_dataset(str(base), given.model_dump(mode="json")))


# -- what may be imported ---------------------------------------------------------------------------


def test_a_loaded_class_is_taken_as_it_is() -> None:
    assert recorded_class(Model(class_path="kit:TinyNet")) is TinyNet


def test_an_installed_class_is_imported() -> None:
    name = "lightning.pytorch.demos.transformer"
    sys.modules.pop(name, None)
    assert recorded_class(Model(class_path=f"{name}:LightningTransformer")).__module__ == name


GENERIC = "from typing import Generic, TypeVar\nimport kit\nT = TypeVar('T')\nclass Net(kit.TinyNet, Generic[T]): ...\n"
TRIED = "try:\n    import lightning as L\n    class Net(L.LightningModule): ...\nexcept ImportError: ...\n"


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ({"own_net": NET}, "own_net:Net"),
        ({"own_net": "from lightning.pytorch import LightningModule as B\nclass Net(B): ...\n"}, "own_net:Net"),
        ({"own_net": "import lightning as L\nclass A(L.LightningModule): ...\nclass Net(A): ...\n"}, "own_net:Net"),
        ({"own_net": "import lightning.pytorch\nclass Net(lightning.pytorch.LightningModule): ...\n"}, "own_net:Net"),
        ({"own_net": "from own_base import *\nclass Net(B): ...\n", "own_base": "from kit import TinyNet as B\n"},
         "own_net:Net"),
        ({"own_net": GENERIC}, "own_net:Net"),
        ({"own_net": "import kit\nclass Outer:\n    class Net(kit.TinyNet): ...\n"}, "own_net:Outer.Net"),
        ({"own_net": TRIED}, "own_net:Net"),
        ({"own_pkg__": "", "own_pkg__nets__": "from .deep import Net\n", "own_pkg__nets__deep": NET},
         "own_pkg.nets:Net"),
        ({"own_pkg__": "", "own_pkg__deep": "from . import base\nclass Net(base.Net): ...\n", "own_pkg__base": NET},
         "own_pkg.deep:Net"),
        ({"own_space__net": NET}, "own_space.net:Net"),
        ({"nét": NET}, "nét:Net"),
    ],
)  # fmt: skip
def test_a_lightning_module_of_the_users_own_code_is_imported(project: Path, files: dict[str, str], path: str) -> None:
    put(project, **files)
    found = recorded_class(Model(class_path=path))
    assert issubclass(found, LightningModule)
    assert found.__name__ == "Net"


def test_a_script_beside_datasets_may_use_its_own_modules(project: Path) -> None:
    hostile_dataset(project, payload=NET)
    hostile_dataset(project / "models", payload=NET)
    put(project, own_net=NET)
    assert recorded_class(Model(class_path="own_net:Net")).__name__ == "Net"


# -- what is in a dataset ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["payload:Net", "payload:Net.Inner", "pkg:Net", "pkg.deep:Net"])
def test_an_item_of_a_dataset_beside_the_script_does_not_run(project: Path, path: str) -> None:
    hostile_dataset(project / "models", payload=NET, pkg__deep=NET, pkg__=NET)
    assert "lies in the dataset" in refusal(f"models.evil.data.{path}")
    (project / "models" / "__init__.py").write_text("")
    assert "which holds datasets" in refusal(f"models.evil.data.{path}")
    assert "without __init__.py" in refusal("models.evil.data:Net")
    assert marks(project) == []


def test_what_lies_among_datasets_does_not_run(project: Path) -> None:
    hostile_dataset(project / "models", payload=NET)
    put(project, models__loose=NET, models__pkg__="", models__pkg__deep=NET)
    for name in ("models.loose", "models.pkg.deep"):
        assert "which holds datasets" in refusal(f"{name}:Net")
    assert marks(project) == []


def test_a_working_directory_in_a_dataset_gives_no_modules(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hostile_dataset(tmp_path / "models", payload=NET)
    data = tmp_path / "models" / "evil" / "data"
    monkeypatch.syspath_prepend(str(data))
    assert "lies in the dataset" in refusal("payload:Net")
    monkeypatch.chdir(data)
    monkeypatch.syspath_prepend("")
    assert "lies in the dataset" in refusal("payload:Net")
    sys.path.remove("")
    sys.path.remove(str(data))
    with command_line(data):
        assert "lies in the dataset" in refusal("payload:Net")
    assert marks(tmp_path) == []


def test_links_and_pth_files_that_lead_into_a_dataset_do_not_help(project: Path, tmp_path: Path) -> None:
    hostile_dataset(tmp_path / "models", payload=NET, pkg__=NET)
    data = tmp_path / "models" / "evil" / "data"
    (project / "linked.py").symlink_to(data / "payload.py")
    (project / "linked_pkg").symlink_to(data / "pkg")
    for name in ("linked", "linked_pkg"):
        assert "lies in the dataset" in refusal(f"{name}:Net")
    put(data, own_net=NET)
    (data / "own_net.py").rename(project / "x.py")
    (project / "x.pth").write_text(f"{data}\nimport payload\n")
    assert "no module 'payload'" in refusal("payload:Net")
    assert marks(tmp_path) == []


def test_a_package_of_the_users_with_its_path_in_a_dataset_does_not_help(project: Path, tmp_path: Path) -> None:
    hostile_dataset(tmp_path / "models", payload=NET)
    put(project, own_pkg__=f"__path__.append({str(tmp_path / 'models' / 'evil' / 'data')!r})\n")
    importlib.import_module("own_pkg")
    assert "lies in the dataset" in refusal("own_pkg.payload:Net")
    assert marks(tmp_path) == ["project/own_pkg"]


# -- what is no source of a LightningModule ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("print('no class')\n", "does not define Net"),
        ("class Net: ...\n", "do not show that it is a LightningModule"),
        ("import torch\nclass Net(torch.nn.Module): ...\n", "do not show"),
        ("def base(): ...\nclass Net(base()): ...\n", "do not show"),
        ("from nowhere import Base\nclass Net(Base): ...\n", "do not show"),
        ("class Net(Net): ...\n", "do not show"),
        ("class A(B): ...\nclass B(A): ...\nclass Net(A): ...\n", "do not show"),
        ("Net = type('Net', (), {})\n", "does not define Net"),
        ("def __getattr__(name):\n    import lightning as L\n    return L.LightningModule\n", "does not define Net"),
        ("import kit\ndef make():\n    class Net(kit.TinyNet): ...\n    return Net\n", "does not define Net"),
        ("from own_net import Net\n", "does not define Net"),
        ("from .. import Net\n", "does not define Net"),
        ("from ....own_net import Net\n", "does not define Net"),
        ("class Net(\n", "is not valid Python"),
        ("(" * 5000, "is not valid Python"),
    ],
)  # fmt: skip
def test_a_module_of_the_users_that_defines_no_lightning_module_does_not_run(
    project: Path, text: str, words: str
) -> None:
    put(project, own_net=text)
    assert words in refusal("own_net:Net")
    assert marks(project) == []


def test_a_class_of_pytorch_lightning_is_not_imported(project: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    put(project, own_net="import pytorch_lightning as pl\nclass Net(pl.LightningModule): ...\n")
    with pytest.raises(MixedNamespaceError, match=r"own_net\.Net"):
        recorded_class(Model(class_path="own_net:Net"))
    assert marks(project) == []


def test_a_class_that_is_imported_from_a_dataset_is_refused(project: Path) -> None:
    hostile_dataset(project / "models", payload=NET)
    put(project, own_net="from models.evil.data.payload import Net\n")
    assert "lies in the dataset" in refusal("own_net:Net")
    assert marks(project) == []


@pytest.mark.parametrize("name", ["packed", "compiled", "extension", "shadow"])
def test_a_module_without_a_source_file_does_not_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(project, compiled=NET)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        file.writestr("packed.py", f"open({str(tmp_path / 'RAN')!r}, 'w')\n{NET}")
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))
    py_compile.compile(str(project / "compiled.py"), str(project / "compiled.pyc"))
    (project / "compiled.py").unlink()
    (project / f"extension{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"\x7fELF")
    put(project, shadow=NET)  # an extension module of the same name comes first
    (project / f"shadow{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"\x7fELF")
    importlib.invalidate_caches()
    assert "has no source file" in refusal(f"{name}:Net")
    assert marks(tmp_path) == []


def test_a_fifo_and_a_device_are_no_source(project: Path) -> None:
    os.mkfifo(project / "own_fifo.py")
    (project / "own_zero.py").symlink_to("/dev/zero")
    for name in ("own_fifo", "own_zero"):
        assert "no module" in refusal(f"{name}:Net") or "no source file" in refusal(f"{name}:Net")


def test_files_of_the_environment_that_no_distribution_lists_do_not_run(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    (site / "dist-1.0.dist-info").mkdir(parents=True)
    (site / "dist-1.0.dist-info" / "METADATA").write_text("Name: dist\nVersion: 1.0\n")
    (site / "dist-1.0.dist-info" / "RECORD").write_text("listed_net.py,,\nlisted_pkg/deep.py,,\n")
    put(site, listed_net=NET, unlisted_net=NET, listed_pkg__="", listed_pkg__deep=NET)
    monkeypatch.syspath_prepend(str(site))
    assert "no installed distribution" in refusal("unlisted_net:Net")
    assert "no installed distribution" in refusal("listed_pkg.deep:Net")  # the file of its package is not listed
    assert marks(tmp_path) == []
    assert recorded_class(Model(class_path="listed_net:Net")).__name__ == "Net"


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["", ":", "own_net", "own_net:", ":Net", ".own_net:Net", "..own_net:Net", "own_net.:Net", "a/own_net:Net",
     "../own_net:Net", "own_net.py:Net", "own_net:Net()", "own_net:Net:Net", "own_net\0:Net", "own_net:__class__.Net",
     "\ud800:Net", "own net:Net", "own_net:Net.__init__.__globals__", "own_ne\u0301t:Net", "x" * 10_000 + ":Net",
     ".".join(["own_net"] * 500) + ":Net", "own_net:" + ".".join(["Net"] * 500), "own_net:f.<locals>.Net"],
)  # fmt: skip
def test_a_name_that_is_no_path_of_a_class_is_refused(project: Path, path: str) -> None:
    put(project, own_net=NET)
    assert len(refusal(path)) < 1000
    assert marks(project) == []


@pytest.mark.parametrize(
    "path",
    ["unittest.__main__:Net", "venv.__main__:Net", "test.__main__:Net", "lib2to3.__main__:Net", "own_pkg.__main__:Net",
     "own_pkg.__main__.deep:Net", "antigravity:Net", "this:Net", "test.regrtest:Net", "idlelib.idle:Net", "os:system",
     "builtins:eval", "torch.nn:Linear", "kit:loader", "lightning.pytorch:LightningModule.load_from_checkpoint"],
)  # fmt: skip
def test_programs_and_pythons_own_modules_are_not_imported(project: Path, path: str) -> None:
    put(project, own_pkg__="")
    (project / "own_pkg" / "__main__.py").write_text(RAN + NET)
    before = set(sys.modules)
    refusal(path)
    assert {name for name in set(sys.modules) - before if not name.startswith("encodings")} == set()
    assert marks(project) == []


def test_a_loaded_module_does_not_run_to_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trap(types.ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise SystemError("sprung")

    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            raise SystemError("sprung")

    trap = Trap("trap_module")
    monkeypatch.setitem(sys.modules, "trap_module", trap)
    assert "does not define Net" in refusal("trap_module:Net")
    types.ModuleType.__getattribute__(trap, "__dict__")["Outer"] = Meta("Outer", (), {})
    assert "does not define Outer.Net" in refusal("trap_module:Outer.Net")


def test_a_class_of_the_running_script_is_taken_only_if_its_source_is_the_recorded_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "Net", TinyNet, raising=False)  # imported there, and not the script's own
    assert "belongs to the script" in refusal("__main__:Net")

    class Net(TinyNet):
        pass

    monkeypatch.setattr(Net, "__module__", "__main__")
    monkeypatch.setattr(main, "Net", Net)
    monkeypatch.setattr("lightning_dtool.loading.recorded_class.source_digest", lambda _: "a" * 64)
    assert "differs" in refusal("__main__:Net")
    assert recorded_class(Model(class_path="__main__:Net", source_sha256="a" * 64)) is Net


def test_an_error_of_the_module_is_named(project: Path) -> None:
    put(project, own_net=NET + "raise SystemExit(3)\n")
    assert "cannot be imported here: SystemExit: 3" in refusal("own_net:Net")


# -- the working directory of the command line ------------------------------------------------------


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path) -> Path:
    """Return a folder that is not in `sys.path`."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def test_the_command_line_finds_the_users_modules_in_its_folder_and_what_they_import(elsewhere: Path) -> None:
    put(elsewhere, own_net="import own_layers\nfrom kit import TinyNet\nclass Net(TinyNet):\n    layers = own_layers\n"
        "    def late(self):\n        from own_pkg.deep import DEEP\n        return DEEP\n",
        own_layers="import json\n", own_pkg__="", own_pkg__deep="import own_more\nDEEP = 1\n", own_more="",
        own_stranger="", json="", numpy="")  # fmt: skip
    assert "there is no module 'own_net'" in refusal("own_net:Net")
    with command_line(elsewhere):
        found = recorded_class(Model(class_path="own_net:Net"))
    assert found.late(None) == 1
    assert "own_more" in sys.modules
    for name in ("own_stranger", "nowhere"):
        with pytest.raises(ImportError):
            importlib.import_module(name)
    assert str(elsewhere) not in sys.path
    for name in ("json", "numpy"):
        sys_module = importlib.import_module(name)
        assert str(elsewhere) not in str(sys_module.__file__)


def test_a_class_that_the_user_names_is_imported_from_the_working_directory(elsewhere: Path) -> None:
    put(
        elsewhere,
        own_net="from kit import TinyNet\nNet = type('Net', (TinyNet,), {})\nclass Other: ...\n",
        own_bad="1 / 0",
    )
    with command_line(elsewhere):
        assert issubclass(named_class("own_net:Net"), TinyNet)
        for path, words in (
            ("own_net", "expected MODULE:CLASS"),
            ("own_net:Missing", "does not define a class Missing"),
            ("own_net:Other", "is not a LightningModule"),
            ("own_bad:Net", "ZeroDivisionError"),
            ("nowhere:Net", "ModuleNotFoundError"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                named_class(path)


# -- what the caller is told ------------------------------------------------------------------------


def test_a_checkpoint_that_names_its_own_item_runs_nothing_and_says_what_to_do(project: Path) -> None:
    hostile_dataset(project / "models", payload=NET)
    checkpoint = published(project / "models", "models.evil.data.payload:Net")
    with pytest.raises(ModuleLoadError, match=r"lies in the dataset .*load_module\(cls=\.\.\.\)") as caught:
        checkpoint.load_module()
    assert caught.value.uri == checkpoint.uri
    assert "--class" not in str(caught.value)
    with command_line(project), pytest.raises(ModuleLoadError, match=r"--class MODULE:CLASS.*PYTHONPATH") as caught:
        checkpoint.load_module()
    assert "cls=" not in str(caught.value)
    assert marks(project) == []


@pytest.mark.parametrize(
    ("digest", "words"), [("0" * 64, "has changed since the checkpoint was written"), (None, "was not recorded")]
)
def test_a_class_whose_source_is_not_the_recorded_one_gives_a_warning(
    project: Path, digest: str | None, words: str
) -> None:
    put(project, own_net=NET)
    checkpoint = published(project / "models", "own_net:Net", source_sha256=digest)
    with (
        pytest.warns(ProvenanceWarning, match=rf"the source of own_net:Net {words}"),
        pytest.raises(LightningDtoolError),
    ):
        checkpoint.load_module()  # the file of this checkpoint holds nothing
