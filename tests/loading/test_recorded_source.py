"""Loading of the class that a record names: by import, or from the recorded source without training."""

import inspect
import os
import pickle
import sys
import textwrap
import typing
import zipfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_dtool.errors import CorruptDatasetError, ModuleLoadError, UnsafeDatasetError
from lightning_dtool.loading.recorded_source import import_class, objects_from_source
from lightning_dtool.record import Code
from lightning_dtool.values.definitions import source_digest

URI = "s3://lab-models/6a1c"
NET = "import lightning as L\nclass Net(L.LightningModule):\n    pass\n"
TRAIN = "raise SystemExit('training began')"


def code(*argv: str, **modules: str) -> Code:
    named = {name.replace("__dot__", "."): path for name, path in modules.items()}
    return Code(argv=["train.py", *argv], working_directory="/", modules=named)


def packed(folder: Path, files: dict[str, str | bytes]) -> Path:
    path = folder / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, textwrap.dedent(content) if isinstance(content, str) else content)
    return path


def class_from_source(class_path: str, recorded: Code, zipped: Path, uri: str) -> type[LightningModule]:
    return objects_from_source(class_path, [], recorded, zipped, uri)[class_path]


def loaded(folder: Path, script: str | bytes, name: str = "Net", *argv: str, **others: str) -> type[LightningModule]:
    zipped = packed(folder, {"train.py": script, **others})
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in others}
    recorded = Code(argv=["train.py", *argv], working_directory="/", modules={"__main__": "train.py", **modules})
    return class_from_source(f"__main__:{name}", recorded, zipped, URI)


# -- from the recorded source -------------------------------------------------------------------


def test_a_class_is_loaded_from_a_script(tmp_path: Path) -> None:
    script = f"{NET}    size = 3\n{TRAIN}\n"
    net = loaded(tmp_path, script)
    assert issubclass(net, LightningModule)
    assert net.size == 3  # type: ignore[attr-defined]
    assert isinstance(net(), torch.nn.Module)
    assert source_digest(net) is not None


def test_local_modules_are_imported_from_the_archive_and_unloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = tmp_path / "today"
    today.mkdir()
    (today / "blocks.py").write_text("SIZE = 'today'")
    monkeypatch.syspath_prepend(today)
    import blocks

    before = dict(sys.modules)
    files = {"blocks.py": "SIZE = 'recorded'", "space/deep/low.py": "from . import lower\nLOW = lower.X",
             "space/deep/lower.py": "X = 1"}  # fmt: skip
    script = "from blocks import SIZE\nfrom space.deep.low import LOW\n" + NET + "    size = SIZE, LOW\n"
    net = loaded(tmp_path, script, "Net", **files)
    assert net.size == ("recorded", 1)  # type: ignore[attr-defined]
    assert sys.modules["blocks"] is blocks
    import importlib

    assert importlib.import_module("blocks").SIZE == "today"
    new = set(sys.modules) - set(before)
    assert not {name.partition(".")[0] for name in new} & {"space", "train", "__main__"}
    assert any(name.startswith("lightning_dtool_source_") for name in new)
    assert importlib.util.find_spec("space") is None


LATE = """
    def late(self):
        import blocks
        import importlib
        import pkg.inner as inner
        import pkg.inner
        from blocks import SIZE
        from pkg import other
        return [blocks.SIZE, SIZE, inner.X, pkg.inner.X, other.Y, importlib.import_module("pkg.third").Z,
                inner.later(), __import__("blocks").SIZE]
"""


def test_imports_inside_methods_find_the_recorded_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    today = tmp_path / "today"
    before = sys.modules.get("blocks")
    today.mkdir()
    (today / "blocks.py").write_text("SIZE = 'today'")
    monkeypatch.syspath_prepend(today)
    files = {
        "blocks.py": "SIZE = 'recorded'", "pkg/__init__.py": "", "pkg/inner.py": "X = 1\ndef later():\n    from .third import Z\n    import blocks\n    return Z, blocks.SIZE",  # noqa: E501
        "pkg/other.py": "Y = 2", "pkg/third.py": "Z = 3",
    }  # fmt: skip
    first = loaded(tmp_path, NET + LATE, "Net", **files)
    second = loaded(tmp_path, NET + LATE, "Net", **{**files, "blocks.py": "SIZE = 'another'"})
    for net, size in ((first, "recorded"), (second, "another"), (first, "recorded")):
        expected = [size, size, 1, 1, 2, 3, (3, size), size]
        assert net().late() == expected  # type: ignore[operator]
    assert sys.modules.get("blocks") is before


def test_a_recorded_class_can_be_inspected_and_pickled_later(tmp_path: Path) -> None:
    script = "from parts import Part\n" + NET + "    part = Part\n"
    part = "import dataclasses\n@dataclasses.dataclass\nclass Part:\n    size: 'int' = 3\n"
    net = loaded(tmp_path, script, "Net", **{"parts.py": part})
    cls = net.part  # type: ignore[attr-defined]
    assert inspect.getsource(cls).endswith("size: 'int' = 3\n")
    assert typing.get_type_hints(cls) == {"size": int}
    assert pickle.loads(pickle.dumps(cls(4))) == cls(4)


@pytest.mark.parametrize("entry", ["pkg/train.py", "pkg/__init__.py"])
def test_relative_imports_find_the_recorded_modules(tmp_path: Path, entry: str) -> None:
    files = {
        "pkg/__init__.py": "",
        "pkg/blocks.py": "SIZE = 3",
        entry: "from .blocks import SIZE\n" + NET + "    size = SIZE\n",
    }
    zipped = packed(tmp_path, dict(files))
    modules = {"pkg": "pkg/__init__.py", "pkg.blocks": "pkg/blocks.py", "__main__": entry, "pkg.train": "pkg/train.py"}
    for name in ("__main__", "pkg" if "init" in entry else "pkg.train"):
        found = class_from_source(f"{name}:Net", Code(argv=[], working_directory="", modules=modules), zipped, URI)
        assert found.size == 3  # type: ignore[attr-defined]


def test_a_script_that_parses_arguments_sees_the_recorded_command_line(tmp_path: Path) -> None:
    script = (
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', type=int)\n"
        f"args = parser.parse_args()\n{NET}    size = args.size\n"
    )
    own = list(sys.argv)
    assert loaded(tmp_path, script, "Net", "--size", "3").size == 3  # type: ignore[attr-defined]
    assert sys.argv == own
    with pytest.raises(ModuleLoadError, match="SystemExit"):
        loaded(tmp_path, script, "Net", "--unknown")


def test_the_declared_encoding_of_a_file_is_used(tmp_path: Path) -> None:
    script = f"# -*- coding: latin-1 -*-\n{NET}    name = 'Blätter'\n".encode("latin-1")
    assert loaded(tmp_path, script).name == "Blätter"  # type: ignore[attr-defined]


def test_two_classes_of_one_file_get_separate_modules(tmp_path: Path) -> None:
    script = f"SIZE = 3\n{NET}    size = SIZE\nclass Other(L.LightningModule):\n    pass\n"
    net, other = loaded(tmp_path, script), loaded(tmp_path, script, "Other")
    assert sys.modules[net.__module__] is not sys.modules[other.__module__]


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("class Net: pass", "Net"),
        ("Net = 3", "Net"),
        ("import os\nNet = os.system", "Net"),
        ("", "Net"),
        ("class Net(", "Net"),
        ("import nowhere_at_all\nclass Net(nowhere_at_all.X): pass", "Net"),
        ("import sys\nclass Net:\n    sys.exit(3)", "Net"),
        ("def make():\n    class Net: pass\n    return Net", "make.<locals>.Net"),
        ("class Net:\n    1 / 0", "Net"),
    ],
)
def test_source_that_gives_no_class_is_a_module_load_error(tmp_path: Path, script: str, name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ModuleLoadError, match=URI):
        loaded(tmp_path, script, name)
    assert {name for name in set(sys.modules) - before if name.startswith("lightning_dtool_source")} == set()


def test_a_module_that_was_not_recorded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModuleLoadError, match=r"does not hold the module 'leaves'"):
        class_from_source("leaves:Net", code(), packed(tmp_path, {}), URI)


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/../../evil.py"])
def test_paths_outside_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeDatasetError, match="outside"):
        class_from_source("a:Net", code(a="a.py"), packed(tmp_path, {name: NET, "a.py": NET}), URI)
    with pytest.raises(UnsafeDatasetError, match="outside"):
        class_from_source("a:Net", code(a=name), packed(tmp_path, {"a.py": NET}), URI)
    assert not os.path.exists("/tmp/evil.py")


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_dtool.limits.MAX_SOURCE_BYTES", 1000)
    with pytest.raises(UnsafeDatasetError, match="1000"):
        class_from_source("a:Net", code(a="a.py"), packed(tmp_path, {"a.py": "#" * 2000}), URI)


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "source.zip"
    path.write_bytes(b"PK garbage")
    with pytest.raises(CorruptDatasetError, match=URI):
        class_from_source("a:Net", code(a="a.py"), path, URI)


# -- imported -----------------------------------------------------------------------------------


def test_an_installed_class_is_imported() -> None:
    assert import_class("lightning.pytorch.demos.boring_classes:BoringModel") is not None


@pytest.mark.parametrize(
    "path",
    ["", ":", "os:system", "torch.nn:Linear", "nowhere:Net", ".relative:Net", "..:x", "a/b:Net", "a\0b:Net", "os", "os:",  # noqa: E501
     "builtins:eval", "os:path.join", "lightning.pytorch:LightningModule.load_from_checkpoint", "x:<locals>.Net", "\ud800:x"],  # noqa: E501
)  # fmt: skip
def test_a_path_that_names_no_lightning_module_gives_none(path: str) -> None:
    assert import_class(path) is None


@pytest.mark.parametrize(
    "body", ["raise RuntimeError", "import sys; sys.exit(1)", "def (", "raise KeyError('x')", "1/0"]
)
def test_a_module_that_fails_to_import_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (tmp_path / "broken_module.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    assert import_class("broken_module:Net") is None


def test_finding_a_class_runs_no_code_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text(
        "class Meta(type):\n    def __getattr__(cls, name): raise SystemError('sprung')\n"
        "class Trap(metaclass=Meta): pass\ndef __getattr__(name): raise SystemError('sprung')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert import_class("trap_module:Trap.Net") is None
    assert import_class("trap_module:Net") is None
