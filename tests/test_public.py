"""The public names of `lightning_dtool` and `lightning_dtool.errors`: documentation, examples and imports."""

import ast
import doctest
import inspect
import pickle
import re
import textwrap
import typing
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

import kit
import lightning_dtool
from lightning_dtool import errors
from lightning_dtool.store import local_path

ROOT = Path(__file__).resolve().parent.parent
NAMES = [name for name in lightning_dtool.__all__ if name != "__version__"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
PUBLIC = {"lightning_dtool": {*lightning_dtool.__all__, "errors"}, "lightning_dtool.errors": set(vars(errors))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data and the checkpoint that the examples use."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "data").mkdir()
    (folder / "models").mkdir()
    (folder / "results").mkdir()
    random = np.random.default_rng(0)
    for name in ("photographs", "leaves", "leaves-2026"):
        for number in range(8):
            path = folder / name / ("oak" if number % 2 else "elm") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    for name in ("leaves", "leaves-2026"):
        lightning_dtool.pack(folder / name, folder / "data", name, progress=False)
    for name, epochs in (("leafnet", 1), ("leafnet-two-epochs", 2)):
        provenance = lightning_dtool.DtoolProvenanceCallback(folder / "models")
        data = lightning_dtool.DtoolDataModule(folder / "data" / "leaves", batch_size=2, val_split=0.25)
        kit.trainer(folder, provenance, max_epochs=epochs).fit(kit.ImageNet(), data)
        Path(str(local_path(str(provenance.last_uri)))).rename(folder / "models" / name)
    return folder


def _of_a_user() -> dict[str, Any]:
    """Return the names that an example expects a user to have imported or created."""
    data = lightning_dtool.DtoolDataModule("data/leaves", batch_size=2, val_split=0.25)
    return {
        "LightningModule": L.LightningModule,
        "Trainer": L.Trainer,
        "data": data,
        "model": kit.ImageNet(),
        "torch": torch,
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_has_its_import_path_as_module(name: str) -> None:
    found = getattr(lightning_dtool, name)
    assert found.__qualname__ == name
    assert found.__module__ == ("lightning_dtool.errors" if hasattr(errors, name) else "lightning_dtool")
    assert pickle.loads(pickle.dumps(found)) is found
    assert inspect.getdoc(found)


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_is_in_the_reference(name: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert f"\n::: lightning_dtool.{name}\n" in pages or hasattr(errors, name)


@pytest.mark.parametrize(
    "name", ["DtoolCheckpointIO", "DtoolDataModule", "DtoolDataset", "DtoolProvenanceCallback", "ResumableSampler"]
)
def test_the_types_of_all_configurable_arguments_resolve(name: str) -> None:
    arguments = getattr(lightning_dtool, name).__init__
    assert set(inspect.signature(arguments).parameters) - {"self"} == set(typing.get_type_hints(arguments)) - {"return"}


@pytest.mark.parametrize("name", NAMES)
def test_getsource_of_a_public_name_returns_its_own_source_or_fails(name: str) -> None:
    found = getattr(lightning_dtool, name)
    try:
        source = inspect.getsource(found)
    except OSError:
        return
    assert re.search(rf"^(class|def) {name}\b", source, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_public_names_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest itself skips classes whose `__module__` is not their file."""
    public = _public()
    monkeypatch.chdir(folder)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for test in finder.find(public[name], name, module=False, globs=public):  # type: ignore[arg-type]
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_code_in_docstrings_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that names a remote store is parsed but not run."""
    monkeypatch.chdir(folder)
    for found in [getattr(lightning_dtool, name), *vars(getattr(lightning_dtool, name)).values()]:
        for block in re.findall(r"```python\n(.*?)```", inspect.getdoc(found) or "", re.DOTALL):
            code = textwrap.dedent(block)
            tree = ast.parse(code)
            if "s3://" not in code:
                exec(code, {**_public(), "lightning_dtool": lightning_dtool, **_of_a_user()})
            assert _private_imports(tree) == []
            asked = {
                node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_package(node.value)
            }
            assert asked <= PUBLIC["lightning_dtool"]


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_and_examples_name_no_private_module(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\blightning_dtool[.:](\w+)", text)) <= PUBLIC["lightning_dtool"]
    if path.suffix == ".py":
        assert _private_imports(ast.parse(text)) == []
        return
    for code in re.findall(r"^(?:```python.*?|<!-- run-hidden)\n(.*?)^(?:```|-->)", text, re.DOTALL | re.MULTILINE):
        assert _private_imports(ast.parse(code)) == []


def _public() -> dict[str, Any]:
    return {**vars(errors), **{name: getattr(lightning_dtool, name) for name in NAMES}}


def _private_imports(tree: ast.Module) -> list[str]:
    """Return the imports from this package that are not public."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lightning_dtool":
            public = PUBLIC.get(str(node.module), set())
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public]
        elif isinstance(node, ast.Import):
            own = [alias.name for alias in node.names if alias.name.partition(".")[0] == "lightning_dtool"]
            found += [name for name in own if name not in PUBLIC]
    return found


def _is_package(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == "lightning_dtool"
